"""Against a real MCP server: as a child process over stdio, and over HTTP on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from duologue.errors import ConfigurationError, ToolError
from duologue.tools import MCPServer, Tool, ToolCall, ToolEvent, ToolExecutor, ToolResult, as_tools

pytest.importorskip("mcp")

SCRIPT = str(Path(__file__).parent / "mcp_server.py")


def stdio(**options: Any) -> MCPServer:
    return MCPServer.stdio(sys.executable, [SCRIPT], connect_timeout=60, **options)


@contextlib.asynccontextmanager
async def loaded(server: MCPServer) -> AsyncIterator[dict[str, Tool]]:
    try:
        yield {each.name: each for each in await as_tools([server]).load()}
    finally:
        await server.aclose()


async def run(definition: Tool, **arguments: Any) -> ToolResult:
    executor = ToolExecutor([definition])
    result = await executor.start(ToolCall(id="1", name=definition.name, arguments=arguments))
    await executor.aclose()
    return result


@pytest.mark.anyio
async def test_stdio(capfd: pytest.CaptureFixture[str]) -> None:
    server = stdio(env={"TEST_SECRET": "sekrit"}, prefix="my_", approval=["add"])
    async with loaded(server) as tools:
        assert set(tools) == {"my_add", "my_describe", "my_fail", "my_hang", "my_die", "my_steps"}
        assert tools["my_add"].spec.parameters["required"] == ["a"]
        assert tools["my_add"].description == "Add two numbers."
        assert tools["my_add"].approval
        assert not tools["my_describe"].approval
        assert not tools["my_describe"].side_effects
        assert tools["my_fail"].side_effects
        assert (await run(tools["my_describe"], what="x")).output == {"what": "x", "secret": "sekrit"}
        result = await run(tools["my_fail"])
        assert result.status == "error"
        assert "no such thing" in (result.error or "")
        assert "parameter 'what' is missing" in ((await run(tools["my_describe"])).error or "")
        assert (await run(tools["my_describe"], what=3)).status == "error"
        assert server.connections == 1


@pytest.mark.anyio
async def test_calls_go_side_by_side_and_are_cancelled_alone() -> None:
    async with loaded(stdio()) as tools:
        executor = ToolExecutor(tools.values())
        hanging = executor.start(ToolCall(id="h", name="hang"))
        result = await executor.start(ToolCall(id="a", name="add", arguments={"a": 2, "b": 3}))
        assert (result.status, result.output) == ("ok", 5)
        executor.cancel("h", "enough")
        assert (await hanging).status == "cancelled"
        result = await executor.start(ToolCall(id="b", name="add", arguments={"a": 4}))
        assert result.output == 5
        await executor.aclose()


@pytest.mark.anyio
async def test_progress_is_passed_on() -> None:
    async with loaded(stdio()) as tools:
        events: list[ToolEvent] = []
        executor = ToolExecutor(tools.values(), on_event=events.append)
        assert (await executor.start(ToolCall(id="1", name="steps"))).output == "done"
        await executor.aclose()
        assert [event.text for event in events if event.kind == "progress"] == ["half way"]


@pytest.mark.anyio
async def test_a_call_has_a_deadline() -> None:
    async with loaded(stdio(timeout=1.5)) as tools:
        result = await run(tools["hang"])
        assert result.status in ("timeout", "error")
        assert "in time" in (result.error or "") or "did not answer" in (result.error or "")
        assert (await run(tools["add"], a=1)).output == 2


@pytest.mark.anyio
async def test_a_client_that_gives_up_before_the_tools_deadline_says_so_as_well() -> None:
    async with loaded(stdio(timeout=1.0)) as tools:
        result = await run(dataclasses.replace(tools["hang"], timeout=60.0))
        assert result.status == "error"
        assert "did not answer in time" in (result.error or "")


@pytest.mark.anyio
async def test_a_server_that_dies_is_started_again_by_the_next_call() -> None:
    server = stdio()
    async with loaded(server) as tools:
        result = await run(tools["die"])
        assert result.status == "error"
        assert "whether it ran is not known" in (result.error or "")
        assert (await run(tools["add"], a=1)).output == 2
        assert server.connections == 2


@pytest.mark.anyio
async def test_a_closed_server_is_opened_by_the_next_call() -> None:
    server = stdio(include=["add"])
    async with loaded(server) as tools:
        assert list(tools) == ["add"]
        await server.aclose()
        await server.aclose()
        assert (await run(tools["add"], a=1)).output == 2


@pytest.mark.anyio
async def test_what_cannot_be_reached_is_a_typed_error() -> None:
    for server in (
        MCPServer.stdio("no-such-program-anywhere"),
        MCPServer.stdio(sys.executable, ["-c", "pass"], connect_timeout=30),
        MCPServer.http("http://127.0.0.1:9/mcp", connect_timeout=30),
    ):
        with pytest.raises(ToolError, match="cannot be reached"):
            await server.load()
        await server.aclose()
    async with loaded(stdio()):
        server = stdio(include=["missing"])
        with pytest.raises(ToolError, match="has no tool 'missing'"):
            await server.load()
        await server.aclose()


@contextlib.asynccontextmanager
async def http_server() -> AsyncIterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, SCRIPT, "--http", str(port), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            if b"Uvicorn running" in line:
                break
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.anyio
async def test_http() -> None:
    async with http_server() as url:
        for server in (MCPServer.http(url), MCPServer.http(url, headers={"Authorization": "Bearer sekrit"})):
            async with loaded(server) as tools:
                assert (await run(tools["add"], a=2, b=3)).output == 5
                assert "no such thing" in ((await run(tools["fail"])).error or "")


@pytest.mark.anyio
async def test_an_http_server_that_goes_away_and_comes_back() -> None:
    async with http_server() as url:
        server = MCPServer.http(url)
        tools = {each.name: each for each in await server.load()}
        assert (await run(tools["die"])).status == "error"
        result = await run(tools["add"], a=1)
        assert result.status == "error"
        assert "MCP server" in (result.error or "")
        await server.aclose()


@pytest.mark.parametrize(
    "make",
    [
        lambda: MCPServer.http("host/mcp"),
        lambda: MCPServer.stdio("x", "one string"),
        lambda: MCPServer.stdio("x", timeout=0),
        lambda: MCPServer.stdio("x", include="add"),
        lambda: MCPServer.stdio("x", approval="add"),
    ],
)
def test_options_that_cannot_work(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()
