"""Other frameworks' tools, the real ones, unmodified."""

from __future__ import annotations

import asyncio
import datetime
import types
from collections.abc import AsyncIterator
from typing import Any

import pytest

from duologue.errors import ConfigurationError, ToolError
from duologue.tools import Tool, ToolCall, ToolEvent, ToolExecutor, ToolResult, as_tools, calculator, tool


async def run(definition: Tool, **arguments: Any) -> ToolResult:
    executor = ToolExecutor([definition])
    result = await executor.start(ToolCall(id="1", name=definition.name, arguments=arguments))
    await executor.aclose()
    return result


def test_functions_and_tools() -> None:
    def plain(word: str) -> str:
        """Say a word."""
        return word

    tools = as_tools([plain, calculator])
    assert [each.name for each in tools] == ["plain", "calculator"]
    assert len(tools) == 2
    assert asyncio.run(tools.load()) == tools.tools


@pytest.mark.parametrize(
    ("objects", "error", "message"),
    [
        ([3], ToolError, "a int is no tool"),
        (["calculator"], ToolError, "a str is no tool"),
        ([dict], ToolError, "a type is no tool"),
        ([asyncio], ToolError, "the module holds no tool"),
        ([calculator, calculator], ConfigurationError, "Two tools are named 'calculator'"),
        ("calculator", ConfigurationError, "Pass a list"),
        (calculator, ConfigurationError, "Pass a list"),
    ],
)
def test_what_is_no_tool(objects: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_tools(objects)


class Source:
    """Something that has to be asked for its tools."""

    def __init__(self, found: list[Tool] | Exception) -> None:
        self.found = found

    @property
    def name(self) -> str:
        return "source"

    async def load(self) -> list[Tool]:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    async def aclose(self) -> None: ...


@pytest.mark.anyio
async def test_sources_are_asked_when_the_tools_are_loaded() -> None:
    @tool
    def other() -> None: ...

    tools = as_tools([calculator, Source([other])])
    assert len(tools) == 1
    assert [each.name for each in await tools.load()] == ["calculator", "other"]
    with pytest.raises(ConfigurationError, match="Two tools"):
        await as_tools([calculator, Source([calculator])]).load()
    with pytest.raises(ToolError, match="not there"):
        await as_tools([Source([]), Source(ToolError("source", "not there"))]).load()


@pytest.mark.anyio
async def test_strands_calculator_and_current_time_unmodified() -> None:
    pytest.importorskip("strands_tools")
    from strands_tools import calculator as strands_calculator
    from strands_tools import current_time

    tools = as_tools([strands_calculator, current_time])
    assert [each.name for each in tools] == ["calculator", "current_time"]
    calculate, now = tools
    assert calculate.spec.parameters["required"] == ["expression"]
    result = await run(calculate, expression="2 + 3 * 4")
    assert (result.status, result.output) == ("ok", "Result: 14")
    result = await run(calculate, expression="2 +")
    assert result.status == "error"
    assert "Error" in (result.error or "")
    result = await run(now, timezone="Europe/Oslo")
    assert datetime.datetime.fromisoformat(result.output).utcoffset() in (
        datetime.timedelta(hours=1),
        datetime.timedelta(hours=2),
    )
    result = await run(now, timezone="Nowhere/Here")
    assert result.status == "error"
    assert "Nowhere/Here" in (result.error or "")
    assert "parameter 'expression' is missing" in ((await run(calculate)).error or "")


@pytest.mark.anyio
async def test_decorated_strands_tools() -> None:
    strands = pytest.importorskip("strands")

    @strands.tool  # type: ignore[untyped-decorator]
    async def shout(word: str) -> dict[str, Any]:
        """Shout a word."""
        return {"status": "success", "content": [{"json": {"word": word.upper()}}]}

    @strands.tool  # type: ignore[untyped-decorator]
    async def steps() -> AsyncIterator[str]:
        """Go step by step."""
        yield "one"
        yield "two"

    assert (await run(*as_tools([shout]), word="x")).output == {"word": "X"}
    events: list[ToolEvent] = []
    executor = ToolExecutor(as_tools([steps]), on_event=events.append)
    assert (await executor.start(ToolCall(id="1", name="steps"))).output == "two"
    await executor.aclose()
    assert [event.text for event in events if event.kind == "progress"] == ["one", "two"]


@pytest.mark.anyio
async def test_strands_modules_with_a_spec() -> None:
    module = types.ModuleType("weather")
    module.TOOL_SPEC = {  # type: ignore[attr-defined]
        "name": "weather",
        "description": "The weather.",
        "inputSchema": {"json": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}},
    }

    def weather(use: dict[str, Any], **_: Any) -> dict[str, Any]:
        city = use["input"]["city"]
        blocks = [{"text": f"sunny in {city}"}, {"image": {"format": "png"}}]
        return {"toolUseId": use["toolUseId"], "status": "error" if city == "x" else "success", "content": blocks}

    module.weather = weather  # type: ignore[attr-defined]
    (definition,) = as_tools([module])
    assert definition.description == "The weather."
    result = await run(definition, city="Oslo")
    assert result.output == "sunny in Oslo\n[image left out: it cannot be spoken]"
    assert (await run(definition, city="x")).status == "error"


@pytest.mark.anyio
async def test_langchain_tools_unmodified() -> None:
    langchain = pytest.importorskip("langchain_core.tools")

    @langchain.tool  # type: ignore[untyped-decorator]
    def multiply(a: int, b: int = 2) -> int:
        """Multiply two numbers."""
        return a * b

    @langchain.tool  # type: ignore[untyped-decorator]
    async def shout(word: str) -> str:
        """Shout a word."""
        return word.upper()

    tools = as_tools([multiply, shout])
    assert [each.is_async for each in tools] == [False, True]
    product, loud = tools
    assert product.spec.parameters["properties"]["b"]["default"] == 2
    assert (await run(product, a=3)).output == 6
    assert (await run(loud, word="x")).output == "X"
    assert (await run(product, a="three")).status == "error"
