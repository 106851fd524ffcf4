"""`@tool`: makes a :class:`Tool` of an annotated function."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Never, overload

from duologue.errors import ToolError, check_options
from duologue.tools.base import Binder, OnTakeover, Tool, ToolContext
from duologue.tools.schema import Signature, read_signature


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    examples: Sequence[str] = (),
    timeout: float | None = None,
    cancel_on_barge_in: bool = False,
    on_takeover: OnTakeover = "unknown",
    side_effects: bool = True,
    approval: bool = False,
    long_running: bool = False,
    speak_progress: bool = True,
    ends_call: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    examples: Sequence[str] = (),
    timeout: float | None = None,
    cancel_on_barge_in: bool = False,
    on_takeover: OnTakeover = "unknown",
    side_effects: bool = True,
    approval: bool = False,
    long_running: bool = False,
    speak_progress: bool = True,
    ends_call: bool = False,
    **unknown: Never,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a function, sync or async. Bare (`@tool`) or with options (`@tool(examples=[...])`).

    The schema comes from annotations and defaults, the texts from the docstring (Google, numpy or Sphinx layout) or
    from `Annotated[T, "text"]`. A parameter annotated with the session's class is given the session and is hidden from
    models. The options are the attributes of :class:`Tool`. The result is still callable as the function it was.

    Raises:
        ToolError: the function or an option cannot work as a tool.
        UnknownOptionError: an option that does not exist.
    """
    check_options("@tool", unknown, _OPTIONS)
    if function is not None and (not callable(function) or isinstance(function, type)):
        raise ToolError(repr(function), "@tool decorates a function.", hint="Write @tool or @tool(name=..., ...).")

    def decorate(target: Callable[..., Any]) -> Tool:
        label = name or getattr(target, "__name__", None) or type(target).__name__
        if isinstance(target, Tool):
            raise ToolError(target.name, "it is a tool already.", hint="Use dataclasses.replace to change it.")
        method = _is_method(target)
        signature = read_signature(target, label, skip_first=method)

        def for_instance(definition: Tool, instance: object) -> Tool:
            bound = target.__get__(instance)
            return dataclasses.replace(definition, function=bound, binder=_binder(bound, signature), for_instance=None)

        return Tool(
            name=label,
            description=description if description is not None else signature.docstring.description,
            parameters=signature.json_schema(),
            examples=examples,
            timeout=timeout,
            cancel_on_barge_in=cancel_on_barge_in,
            on_takeover=on_takeover,
            side_effects=side_effects,
            approval=approval,
            long_running=long_running,
            speak_progress=speak_progress,
            ends_call=ends_call,
            is_async=is_async(target),
            binder=_refuse_unbound(label) if method else _binder(target, signature),
            function=target,
            for_instance=for_instance if method else None,
        )

    return decorate if function is None else decorate(function)


_OPTIONS = [
    name for name, parameter in inspect.signature(tool).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY
]


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling `function` gives an awaitable; looks through partials and into `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _binder(function: Callable[..., Any], signature: Signature) -> Binder:
    def bind(arguments: dict[str, Any], context: ToolContext | None) -> Callable[[], Any]:
        return functools.partial(function, **signature.bind(arguments, context))

    return bind


def _refuse_unbound(label: str) -> Binder:
    def bind(arguments: dict[str, Any], context: ToolContext | None) -> Callable[[], Any]:
        raise ToolError(label, "it is a method without its object.", hint="Pass the tool of an instance: obj.method.")

    return bind


def _is_method(function: Callable[..., Any]) -> bool:
    """Whether `function` is being declared inside a class body: its first parameter is then the instance."""
    owner = getattr(function, "__qualname__", "").rpartition(".")[0]
    if not inspect.isfunction(function) or not owner or owner.endswith("<locals>"):
        return False
    first = next(iter(inspect.signature(function).parameters), None)
    return first in ("self", "cls")
