"""Takes what people have as tools: functions, our own, MCP servers, and other frameworks' tool objects.

The others are recognised by shape; their packages are never imported here. Strands' `AgentTool` (`tool_spec`, `stream`)
and its tool modules (`strands_tools.calculator`, unmodified), and LangChain's tools (`name`, `args_schema`, `invoke`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import re
import types
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from duologue.errors import ConfigurationError, ToolError
from duologue.tools.base import Binder, Tool, ToolArgumentsError, ToolContext, ToolSource, current_call, progress
from duologue.tools.decorator import tool as make_tool


@dataclasses.dataclass(frozen=True, slots=True)
class ToolSet:
    """Tools that are there, and sources that have to be asked. Iterating gives the tools that are there."""

    tools: tuple[Tool, ...]
    sources: tuple[ToolSource, ...] = ()

    def __iter__(self) -> Iterator[Tool]:
        return iter(self.tools)

    def __len__(self) -> int:
        return len(self.tools)

    async def load(self) -> tuple[Tool, ...]:
        """All tools, the sources asked side by side.

        Raises:
            ToolError: a source cannot be reached.
            ConfigurationError: two tools of one name.
        """
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(_named_failure(source)) for source in self.sources]
        found = [task.result() for task in asked]
        for outcome in found:
            if isinstance(outcome, Exception):
                raise outcome
        loaded = [each for outcome in found if not isinstance(outcome, Exception) for each in outcome]
        return _unique([*self.tools, *loaded])


async def _named_failure(source: ToolSource) -> tuple[Tool, ...] | ToolError:
    """A failure as a value, so that the caller gets one plain error and not a group of them."""
    try:
        return tuple(await source.load())
    except ToolError as error:
        return error


def as_tools(objects: Iterable[object]) -> ToolSet:
    """Make tools of `objects`: functions, :class:`Tool`, MCP servers, tool objects or modules of other frameworks.

    Raises:
        ToolError: an object is none of these, or cannot work as a tool.
        ConfigurationError: two tools of one name.
    """
    if isinstance(objects, (str, Mapping)) or not isinstance(objects, Iterable):
        raise ConfigurationError(f"tools is a {type(objects).__name__}.", hint="Pass a list: tools=[...].")
    tools: list[Tool] = []
    sources: list[ToolSource] = []
    for candidate in objects:
        if isinstance(candidate, ToolSource):
            sources.append(candidate)
        else:
            tools.extend(_convert(candidate))
    return ToolSet(_unique(tools), tuple(sources))


def tool_from_schema(
    name: str,
    description: str,
    parameters: Mapping[str, Any],
    run: Callable[[dict[str, Any]], Any],
    *,
    is_async: bool,
    side_effects: bool = True,
    approval: bool = False,
    timeout: float | None = None,
) -> Tool:
    """A tool that brings its own JSON Schema and is run with the arguments as a dict.

    Checks that required arguments are there and that none is unknown; deeper validation is left to what runs it.
    """
    schema = {"type": "object", "properties": {}, **parameters}
    return Tool(
        name=re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64],
        description=description,
        parameters=schema,
        is_async=is_async,
        side_effects=side_effects,
        approval=approval,
        timeout=timeout,
        binder=_schema_binder(name, schema, run),
    )


def _schema_binder(name: str, schema: Mapping[str, Any], run: Callable[[dict[str, Any]], Any]) -> Binder:
    properties = schema.get("properties") or {}

    def bind(arguments: dict[str, Any], context: ToolContext | None) -> Callable[[], Any]:
        for required in schema.get("required", ()):
            if required not in arguments:
                raise ToolArgumentsError(name, f"parameter {required!r} is missing.", field=required)
        if schema.get("additionalProperties") is False:
            for given in arguments:
                if given not in properties:
                    hint = f"Parameters: {', '.join(properties) or 'none'}."
                    raise ToolArgumentsError(name, f"there is no parameter {given!r}.", field=given, hint=hint)
        return functools.partial(run, dict(arguments))

    return bind


def _unique(tools: list[Tool]) -> tuple[Tool, ...]:
    seen: set[str] = set()
    for each in tools:
        if each.name in seen:
            raise ConfigurationError(f"Two tools are named {each.name!r}.", hint="Rename one: @tool(name=...).")
        seen.add(each.name)
    return tuple(tools)


def _convert(candidate: object) -> list[Tool]:
    if isinstance(candidate, Tool):
        return [candidate]
    if isinstance(candidate, types.ModuleType):
        return _from_module(candidate)
    if _is_strands(candidate):
        return [_from_strands(candidate)]
    if _is_langchain(candidate):
        return [_from_langchain(candidate)]
    if callable(candidate) and not isinstance(candidate, type):
        return [make_tool(candidate)]
    raise ToolError(
        getattr(candidate, "__name__", type(candidate).__name__),
        f"a {type(candidate).__name__} is no tool.",
        hint="Pass functions, @tool functions, MCPServer objects, or tool objects of Strands or LangChain.",
    )


# -- Strands


def _is_strands(candidate: object) -> bool:
    return isinstance(getattr(candidate, "tool_spec", None), Mapping) and callable(getattr(candidate, "stream", None))


def _from_module(module: types.ModuleType) -> list[Tool]:
    """A module in Strands' manner: decorated tools, or a `TOOL_SPEC` beside a function of its name."""
    short = module.__name__.rpartition(".")[2]
    spec = getattr(module, "TOOL_SPEC", None)
    if isinstance(spec, Mapping) and callable(function := getattr(module, str(spec.get("name")), None)):

        def run(arguments: dict[str, Any]) -> Any:
            return _strands_value(str(spec["name"]), function({"toolUseId": _call_id(), **_use(spec, arguments)}))

        return [_from_spec(spec, run, inspect.iscoroutinefunction(function))]
    named = getattr(module, short, None)
    found = [named] if _is_strands(named) else [each for each in vars(module).values() if _is_strands(each)]
    if not found:
        raise ToolError(short, "the module holds no tool.", hint="Pass the tool itself, or a Strands tool module.")
    return [_from_strands(each) for each in found]


def _from_strands(candidate: Any) -> Tool:
    spec = candidate.tool_spec

    async def run(arguments: dict[str, Any]) -> Any:
        use = {"toolUseId": _call_id(), **_use(spec, arguments)}
        return await _last_result(spec["name"], candidate.stream(use, {}))

    return _from_spec(spec, run, True)


def _from_spec(spec: Mapping[str, Any], run: Callable[[dict[str, Any]], Any], is_async: bool) -> Tool:
    schema = spec.get("inputSchema", {})
    return tool_from_schema(
        spec["name"], spec.get("description", ""), schema.get("json", schema), run, is_async=is_async
    )


def _use(spec: Mapping[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    return {"name": spec["name"], "input": arguments}


def _call_id() -> str:
    return current_call().id


async def _last_result(name: str, events: AsyncIterator[Any]) -> Any:
    """The result at the end of a Strands tool's stream; texts it streams on the way are progress."""
    last: Any = None
    async for event in events:
        last = event
        streamed = event.get("tool_stream_event", {}).get("data") if isinstance(event, Mapping) else None
        if isinstance(streamed, str):
            progress(streamed)
    if isinstance(last, Mapping) and "tool_interrupt_event" in last:
        raise ToolError(name, "it asks for a person's decision.", hint="Gate it with approval=True instead.")
    return _strands_value(name, last.get("tool_result", last) if isinstance(last, Mapping) else last)


def _strands_value(name: str, result: Any) -> Any:
    """What is inside Strands' `{"status", "content": [...]}`; an error there is raised here."""
    if inspect.isawaitable(result):

        async def later() -> Any:
            return _strands_value(name, await result)

        return later()
    if not isinstance(result, Mapping) or "content" not in result:
        return result
    return _from_blocks(name, result["content"], result.get("status") == "error")


def _from_blocks(name: str, blocks: Iterable[Mapping[str, Any]], is_error: bool) -> Any:
    values = [_block(block) for block in blocks]
    joined = values[0] if len(values) == 1 else values
    if all(isinstance(value, str) for value in values):
        joined = "\n".join(cast("list[str]", values))
    if is_error:
        raise ToolError(name, str(joined))
    return joined


def _block(block: Mapping[str, Any]) -> Any:
    for kind in ("text", "json"):
        if kind in block:
            return block[kind]
    return f"[{next(iter(block), 'content')} left out: it cannot be spoken]"


# -- LangChain


def _is_langchain(candidate: object) -> bool:
    return (
        isinstance(getattr(candidate, "name", None), str)
        and hasattr(candidate, "args_schema")
        and callable(getattr(candidate, "invoke", None))
    )


def _from_langchain(candidate: Any) -> Tool:
    schema: Any = candidate.args_schema
    if schema is not None and callable(getattr(schema, "model_json_schema", None)):
        schema = schema.model_json_schema()
    if not isinstance(schema, Mapping):
        schema = {"properties": dict(getattr(candidate, "args", None) or {})}
    # ainvoke of a tool without a coroutine only moves invoke to a thread, which ours does with a bound
    is_async = getattr(candidate, "coroutine", None) is not None
    run = candidate.ainvoke if is_async else candidate.invoke
    return tool_from_schema(candidate.name, candidate.description or "", schema, run, is_async=is_async)
