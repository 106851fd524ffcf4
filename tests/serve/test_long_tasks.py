"""A long task outlives the socket: busy meanwhile, and told to the next socket, or invocation, of the session."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
import websockets

from duologue import Agent, tool
from duologue.client import Call, CallRefusedError, connect
from duologue.engine.limits import LimitOptions
from duologue.events import (
    Event,
    ListenerJoined,
    ResponseFinished,
    ResponseStarted,
    SessionStarted,
    TextInput,
    ToolFinished,
    ToolProgress,
    ToolStarted,
)
from duologue.models.base import Context
from duologue.serve import RunningServer, ServeOptions, serving
from duologue.serve.sessions import SESSION_HEADER
from duologue.testing.scripted import Reply, ScriptedModel, Utterance
from duologue.tools import progress

pytestmark = pytest.mark.anyio

HEADERS = {SESSION_HEADER: "a-session-of-mine"}

goes_on, done = threading.Event(), threading.Event()


@pytest.fixture(autouse=True)
def held() -> Iterator[None]:
    """The tool is let go at the end, whatever happens."""
    goes_on.clear()
    done.clear()
    yield
    goes_on.set()
    done.set()


@tool(long_running=True)
def writes_a_report() -> str:
    """Writes a report."""
    goes_on.wait(30)
    progress("Half of it is written.")
    return "ten pages" if done.wait(30) else "nothing"


def _answer(text: str | None, context: Context) -> Reply:
    if text is None:
        result = next(item for item in reversed(context.history()) if item.kind == "result")
        return Reply(text=f"The report has {result.text}.", characters_per_s=200)
    if "report" in text:
        return Reply(tools=(("writes_a_report", {}),))
    return Reply(text=f"You said {text}.", characters_per_s=200)


@asynccontextmanager
async def _served(**limits: float) -> AsyncIterator[tuple[RunningServer, httpx.AsyncClient]]:
    agent = Agent(
        model=ScriptedModel([Utterance(text="hello")], _answer),
        tools=[writes_a_report],
        greeting="Hello.",
        limits=LimitOptions(**limits),  # type: ignore[arg-type]
    )
    async with (
        serving(agent, ServeOptions(port=0)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=20) as http,
    ):
        yield server, http


def _call(server: RunningServer, name: str = "one") -> Call:
    return connect(server.ws_url, headers=HEADERS, name=name)


async def _until[E: Event](call: Call, kind: type[E]) -> E:
    async for event in call:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"The call is over without a {kind.__name__}.")


async def _begin(server: RunningServer) -> None:
    """Have the tool started, and hang up."""
    async with _call(server) as call:
        await call.send(TextInput(text="write the report"))
        await _until(call, ToolStarted)


async def _ping(http: httpx.AsyncClient, status: str) -> None:
    async with asyncio.timeout(15):
        while (await http.get("/ping")).json()["status"] != status:
            pass


async def test_the_next_socket_of_the_session_gets_progress_and_result() -> None:
    async with _served() as (server, http):
        await _begin(server)
        assert (await http.get("/ping")).json()["status"] == "HealthyBusy"
        async with _call(server, "two") as call:
            assert isinstance(await anext(call), SessionStarted)
            started = await anext(call)
            assert isinstance(started, ToolStarted)
            assert (await _until(call, ListenerJoined)).participant == "two"
            with pytest.raises(CallRefusedError, match="open already"):
                async with _call(server, "three") as other:
                    await anext(other)
            goes_on.set()
            assert (await _until(call, ToolProgress)).message == "Half of it is written."
            done.set()
            assert (await _until(call, ToolFinished)).call == started.call
            while (told := await _until(call, ResponseStarted)).origin != "tool":
                pass
            while (finished := await _until(call, ResponseFinished)).response != told.response:
                pass
            assert finished.heard == "The report has ten pages."
        await _ping(http, "Healthy")
        assert server.app.state.server.sessions.count == 0, "everything was told: the session ended with the call"


async def test_a_result_waits_for_the_next_socket_and_is_no_work() -> None:
    async with _served() as (server, http):
        await _begin(server)
        goes_on.set()
        done.set()
        await _ping(http, "Healthy")
        async with _call(server) as call:
            assert (await _until(call, ResponseStarted)).origin == "tool"
            assert (await _until(call, ResponseFinished)).heard == "The report has ten pages."


async def test_an_invocation_of_the_session_is_answered_and_told() -> None:
    async with _served() as (server, http):
        await _begin(server)
        goes_on.set()
        done.set()
        await _ping(http, "Healthy")
        answer = (await http.post("/invocations", json={"prompt": "hello"}, headers=HEADERS)).json()
        assert answer["response"] == "You said hello. The report has ten pages."
        again = (await http.post("/invocations", json={"prompt": "hello"}, headers=HEADERS)).json()
        assert again["response"] == "You said hello.", "told once"


async def test_nobody_comes_and_the_session_ends() -> None:
    async with _served(untold_s=0.05) as (server, http):
        await _begin(server)
        session = server.app.state.server.sessions.find(HEADERS[SESSION_HEADER]).session
        goes_on.set()
        done.set()
        await _ping(http, "Healthy")
        ended = await session.wait()
        assert (ended.reason, ended.detail) == ("idle", "nobody came back")


async def test_of_two_that_come_at_once_one_is_refused() -> None:
    async with _served() as (server, _):
        await _begin(server)

        async def come(name: str) -> bool:
            try:
                async with _call(server, name) as call:
                    await anext(call)
                    await both.wait()
                    return True
            except CallRefusedError:
                return False

        both = asyncio.Event()
        tasks = {asyncio.ensure_future(come(name)) for name in ("two", "three")}
        finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in finished] == [False]
        both.set()
        assert sorted(await asyncio.gather(*tasks)) == [False, True]


async def test_a_strands_client_may_be_the_next() -> None:
    async with _served() as (server, http):
        await _begin(server)
        async with websockets.connect(server.ws_url, additional_headers=HEADERS) as socket:
            await socket.send('{"type": "bidi_text_input", "text": "hello", "role": "user"}')
            goes_on.set()
            done.set()
            said = ""
            while "The report has ten pages." not in said:
                said += str(await socket.recv())
        await _ping(http, "Healthy")
