"""From a function's signature to a JSON Schema, and from JSON arguments to the values that the function takes.

`msgspec` does the types it knows (None, numbers, strings, `Literal`, enums, dates, lists, dicts, unions, TypedDict,
dataclasses, structs, NamedTuple); pydantic models, which it does not, are recognised by shape and asked for their own
schema and validation, so that pydantic is never imported here.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import difflib
import enum
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, cast

import msgspec

from duologue.errors import ToolError
from duologue.tools.base import ToolArgumentsError, ToolContext
from duologue.tools.docstring import Docstring, parse_docstring


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter that the model fills: its Python type, whether it must be given, its schema."""

    name: str
    type: Any
    required: bool
    schema: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """What a tool's function takes.

    `contexts` are the parameters that get the :class:`ToolContext`, with the class each asks for, and whether it may be
    None.
    """

    tool: str
    docstring: Docstring
    parameters: tuple[Parameter, ...]
    contexts: tuple[tuple[str, type, bool], ...]
    definitions: dict[str, Any]

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the arguments, an object that allows no other properties."""
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {parameter.name: parameter.schema for parameter in self.parameters},
            "required": [parameter.name for parameter in self.parameters if parameter.required],
            "additionalProperties": False,
        }
        if self.definitions:
            schema["$defs"] = self.definitions
        return schema

    def bind(self, arguments: dict[str, Any], context: ToolContext | None) -> dict[str, Any]:
        """Keyword arguments for the function, converted to its types and with the context injected.

        Raises:
            ToolArgumentsError: an argument is unknown, missing or of the wrong type; the message names it.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in arguments:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"Did you mean {near[0]!r}?" if near else f"Parameters: {', '.join(known) or 'none'}."
                raise ToolArgumentsError(self.tool, f"there is no parameter {name!r}.", field=name, hint=hint)
        bound: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.name in arguments:
                bound[parameter.name] = self._convert(parameter, arguments[parameter.name])
            elif parameter.required:
                raise ToolArgumentsError(self.tool, f"parameter {parameter.name!r} is missing.", field=parameter.name)
        for name, wanted, optional in self.contexts:
            if isinstance(context, wanted) or (context is None and optional):
                bound[name] = context
            else:
                raise ToolError(
                    self.tool,
                    f"parameter {name!r} wants a {wanted.__name__}, and this run has "
                    f"{'none' if context is None else 'a ' + type(context).__name__}.",
                    hint=f"Annotate it `{wanted.__name__} | None = None` to run without one.",
                )
        return bound

    def _convert(self, parameter: Parameter, value: Any) -> Any:
        try:
            return msgspec.convert(value, parameter.type, dec_hook=_decode_model)
        except msgspec.ValidationError as error:
            reason, _, path = str(error).partition(" - at `")
            where = parameter.name + path.removesuffix("`").removeprefix("$")
            raise ToolArgumentsError(self.tool, f"parameter {where!r}: {reason}.", field=where) from None


def read_signature(function: Callable[..., Any], tool: str, *, skip_first: bool = False) -> Signature:
    """Work out what `function` takes; `skip_first` leaves out the instance of a method that is not bound yet.

    Raises:
        ToolError: it takes `*args`, `**kwargs` or positional-only parameters, has an annotation that cannot be resolved
            or that JSON cannot express, or is a generator.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ToolError(
            tool, "it is a generator.", hint="Return the value, and report on the way with tools.progress()."
        )
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(_annotated_object(function), include_extras=True)
    except NameError as error:
        raise ToolError(
            tool, f"an annotation cannot be resolved: {error}.", hint="Annotate with names that the module can see."
        ) from None
    except (TypeError, ValueError) as error:
        raise ToolError(tool, f"its signature cannot be read: {error}.", hint="Wrap it in a function.") from None

    docstring = parse_docstring(inspect.getdoc(_annotated_object(function)))
    contexts: list[tuple[str, type, bool]] = []
    found: list[tuple[str, Any, inspect.Parameter]] = []
    for parameter in list(signature.parameters.values())[int(skip_first) :]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            stars = "**" if parameter.kind is parameter.VAR_KEYWORD else "*"
            raise ToolError(
                tool,
                f"{stars}{parameter.name} cannot be described to a model.",
                hint="Name each parameter, or take one dict[str, ...].",
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ToolError(tool, f"{parameter.name!r} is positional-only; tools are called by keyword.")
        annotation = hints.get(parameter.name, _guess(parameter.default))
        wanted = _context_class(annotation)
        if wanted is not None:
            contexts.append((parameter.name, wanted, parameter.default is None or annotation is not wanted))
        else:
            found.append((parameter.name, annotation, parameter))
    return _describe(tool, docstring, found, tuple(contexts))


def _describe(
    tool: str,
    docstring: Docstring,
    found: list[tuple[str, Any, inspect.Parameter]],
    contexts: tuple[tuple[str, type, bool], ...],
) -> Signature:
    annotations = [annotation for _, annotation, _ in found]
    for name, annotation, _ in found:
        _refuse_inexpressible(tool, name, annotation, set())
    try:
        schemas, definitions = msgspec.json.schema_components(
            annotations, schema_hook=_model_schema, ref_template="#/$defs/{name}"
        )
    except TypeError as error:
        raise ToolError(
            tool,
            f"an annotation cannot be expressed in JSON: {error}",
            hint="Use JSON types, or nested models of them.",
        ) from None
    choices: list[list[Any]] = []
    for annotation in annotations:
        _collect_choices(annotation, choices, set())
    parameters: list[Parameter] = []
    for (name, annotation, parameter), raw in zip(found, schemas, strict=True):
        schema = _hoist(dict(raw), definitions)
        text = _annotated_text(annotation) or docstring.parameters.get(name)
        if text:
            schema["description"] = text
        required = parameter.default is parameter.empty
        if not required:
            with contextlib.suppress(TypeError, ValueError):  # what JSON cannot show is still the function's default
                schema["default"] = msgspec.to_builtins(parameter.default)
        parameters.append(Parameter(name, annotation, required, schema))
    resolved, left = _inline([parameter.schema for parameter in parameters], definitions)
    _restore_order([*resolved, *left.values()], choices)
    parameters = [dataclasses.replace(old, schema=new) for old, new in zip(parameters, resolved, strict=True)]
    return Signature(tool, docstring, tuple(parameters), contexts, left)


def _annotated_object(function: Callable[..., Any]) -> Any:
    """What carries the annotations: for an instance with `__call__`, that method; for a partial, what it wraps."""
    while hasattr(function, "func") and not inspect.isroutine(function):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _guess(default: Any) -> Any:
    """The type of a parameter without annotation: that of a plain default, else anything."""
    return type(default) if type(default) in (bool, int, float, str) else Any


def _context_class(annotation: Any) -> type | None:
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    for member in members:
        if isinstance(member, type) and issubclass(member, ToolContext):
            return member
    return None


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _annotated_text(annotation: Any) -> str | None:
    """The description in `Annotated[T, "text"]` or `Annotated[T, Field(description="text")]`."""
    if typing.get_origin(annotation) is typing.Annotated:
        for extra in typing.get_args(annotation)[1:]:
            text = extra if isinstance(extra, str) else getattr(extra, "description", None)
            if isinstance(text, str):
                return text
    return None


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and all(
        callable(getattr(candidate, method, None)) for method in ("model_validate", "model_json_schema", "model_dump")
    )


def _refuse_inexpressible(tool: str, name: str, annotation: Any, seen: set[int]) -> None:
    """Refuse a class that neither msgspec nor a model of its own can describe, before a call finds out."""
    if id(annotation) in seen:
        return
    seen.add(id(annotation))
    if typing.get_origin(annotation) is typing.Literal:
        return
    if typing.get_origin(annotation) is collections.abc.Callable:
        raise ToolError(tool, f"parameter {name!r} is a callable, which JSON cannot carry.")
    annotated = typing.get_origin(annotation) is typing.Annotated
    for inner in typing.get_args(annotation)[: 1 if annotated else None]:
        _refuse_inexpressible(tool, name, inner, seen)
    try:
        info = msgspec.inspect.type_info(annotation)
    except (TypeError, NameError) as error:
        raise ToolError(
            tool, f"parameter {name!r}: {error}", hint="Use JSON types, or nested models of them."
        ) from None
    if isinstance(info, msgspec.inspect.CustomType) and not _is_model(info.cls):
        raise ToolError(
            tool,
            f"parameter {name!r} is a {info.cls.__name__}, which cannot be built from JSON.",
            hint="Use JSON types, a dataclass, a TypedDict, a msgspec struct or a pydantic model.",
        )


def _collect_choices(annotation: Any, into: list[list[Any]], seen: set[int]) -> None:
    """The values of every enum and `Literal` in an annotation, in the order they were written."""
    if id(annotation) in seen:
        return
    seen.add(id(annotation))
    if typing.get_origin(annotation) is typing.Literal:
        into.append(list(typing.get_args(annotation)))
        return
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        into.append([member.value for member in annotation])
        return
    inner = list(typing.get_args(annotation))
    if isinstance(annotation, type) and not _is_model(annotation):
        with contextlib.suppress(NameError, TypeError):
            inner.extend(typing.get_type_hints(annotation, include_extras=True).values())
    for each in inner:
        _collect_choices(each, into, seen)


def _restore_order(node: Any, choices: list[list[Any]]) -> None:
    """msgspec sorts the values of an enum; people mean something by their order ("small, medium or large")."""
    if isinstance(node, dict):
        for written in choices:
            if isinstance(node.get("enum"), list) and sorted(map(repr, written)) == sorted(map(repr, node["enum"])):
                node["enum"] = list(written)
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            _restore_order(each, choices)


def _model_schema(candidate: type) -> dict[str, Any]:
    if not _is_model(candidate):
        raise NotImplementedError
    return cast("dict[str, Any]", cast(Any, candidate).model_json_schema())


def _decode_model(wanted: type, value: Any) -> Any:
    if not _is_model(wanted):
        raise NotImplementedError
    try:
        return cast(Any, wanted).model_validate(value)
    except ValueError as error:  # pydantic's ValidationError is one
        raise ValueError(" ".join(str(error).split())) from None  # msgspec adds where it was


def _hoist(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Move the `$defs` of models' own schemas to the top level, where their references point."""

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        for name, definition in node.pop("$defs", {}).items():
            definitions.setdefault(name, walk(definition))
        return {key: walk(item) for key, item in node.items()}

    for name in list(definitions):
        definitions[name] = walk(definitions[name])
    return cast("dict[str, Any]", walk(schema))


def _inline(schemas: list[dict[str, Any]], definitions: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Put definitions in place of their references, since small models follow references badly.

    What refers to itself stays a reference; those definitions are returned.
    """
    left: dict[str, Any] = {}

    def walk(node: Any, within: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [walk(item, within) for item in node]
        if not isinstance(node, dict):
            return node
        reference = node.get("$ref")
        if isinstance(reference, str):
            name = reference.removeprefix("#/$defs/")
            if name in within:
                if name not in left:
                    left[name] = {}
                    left[name] = walk(definitions[name], (name,))
                return node
            if name in definitions:
                beside = {key: item for key, item in node.items() if key != "$ref"}
                return {**walk(definitions[name], (*within, name)), **walk(beside, within)}
        return {key: walk(item, within) for key, item in node.items()}

    return [walk(schema, ()) for schema in schemas], left
