"""The runtime contract, the guard, and the sockets of a served agent, over a real port."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import websockets
from starlette.applications import Starlette
from starlette.routing import Mount

from duologue import Agent, CallInfo, tool
from duologue.client import CallRefusedError, connect
from duologue.errors import ConfigurationError
from duologue.events import ResponseFinished, SessionStarted, TextInput, ToolFinished
from duologue.models.base import Context
from duologue.serve import RunningServer, ServeOptions, create_app, serving
from duologue.serve.sessions import SESSION_HEADER
from duologue.store import MemoryStore
from duologue.testing.scripted import Reply, ScriptedModel, Utterance

pytestmark = pytest.mark.anyio

released = threading.Event()


@tool
def blocks() -> str:
    """Blocks its thread until the test lets it go."""
    return "released" if released.wait(20) else "never released"


@tool
def adds(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def _answer(text: str | None, context: Context) -> Reply:
    if text is None:
        result = next(item for item in reversed(context.history()) if item.kind == "result")
        return Reply(text=f"It is {result.text}.")
    if "block" in text:
        return Reply(tools=(("blocks", {}),))
    if "add" in text:
        return Reply(tools=(("adds", {"a": 2, "b": 3}),))
    said = [item.text for item in context.history() if item.kind == "user"]
    return Reply(text=f"You said {' then '.join(said)}.")


def _agent() -> Agent:
    return Agent(
        model=ScriptedModel([Utterance(text="hello")], _answer),
        tools=[blocks, adds],
        greeting="Hello.",
        name="contract",
    )


@asynccontextmanager
async def _served(**options: object) -> AsyncIterator[tuple[RunningServer, httpx.AsyncClient]]:
    async with (
        serving(_agent(), ServeOptions(port=0, **options)) as server,  # type: ignore[arg-type]
        httpx.AsyncClient(base_url=server.url, timeout=20) as http,
    ):
        yield server, http


async def test_an_invocation_is_a_turn_in_the_conversation_of_its_session() -> None:
    async with _served() as (_, http):
        first = await http.post("/invocations", json={"prompt": "one"})
        assert first.status_code == 200
        session = first.headers[SESSION_HEADER]
        assert first.json() == {"response": "You said one.", "session": session, "tools": []}
        second = await http.post("/invocations", json={"prompt": "two"}, headers={SESSION_HEADER: session})
        assert second.json()["response"] == "You said one then two."
        other = await http.post("/invocations", json={"prompt": "three"})
        assert other.json()["response"] == "You said three."


async def test_journals_in_memory_go_with_their_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[MemoryStore] = []

    class Kept(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr("duologue.serve.app.MemoryStore", Kept)
    async with _served() as (server, _):
        sessions = server.app.state.server.sessions
        over = asyncio.Event()
        forget, sessions.ended = sessions.ended, lambda session: (forget(session), over.set())
        async with connect(f"ws://127.0.0.1:{server.port}/ws", input_rate=None, output_rate=None) as call:
            await call.send(TextInput(text="one"))
            async for event in call:
                if isinstance(event, ResponseFinished):
                    break
            assert [entry.key for entry in made[0].journals("local")] == [call.session]
        await asyncio.wait_for(over.wait(), 20)
        assert made[0].journals("local") == []


async def test_an_invocation_waits_for_its_tools() -> None:
    async with _served() as (_, http):
        answer = (await http.post("/invocations", json={"prompt": "add two and three"})).json()
        assert answer["response"] == "It is 5."
        assert answer["tools"] == [{"name": "adds", "status": "ok", "output": 5, "error": ""}]


async def test_an_invocation_streams_events_when_asked_to() -> None:
    async with _served() as (_, http):
        answer = await http.post("/invocations", json={"prompt": "one"}, headers={"accept": "text/event-stream"})
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line]
        kinds = [event["type"] for event in events]
        assert kinds[0] == "turn.committed"
        assert kinds[-1] == "response.finished"
        assert "".join(event["text"] for event in events if event["type"] == "response.text") == "You said one."


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "Invalid JSON"),
        (b"[]", 400, "no prompt"),
        (b'{"prompt": 3}', 400, "no prompt"),
        (b'{"prompt": "  "}', 400, "no prompt"),
        (b"x" * (1 << 20) + b"x", 400, "longer than"),
    ],
)
async def test_a_bad_body_is_refused_in_words(body: bytes, status: int, message: str) -> None:
    async with _served() as (_, http):
        answer = await http.post("/invocations", content=body)
        assert answer.status_code == status
        assert message in answer.json()["error"]


async def test_an_open_call_is_busy_and_the_status_time_moves_only_with_the_status() -> None:
    async with _served() as (server, http):
        before = (await http.get("/ping")).json()
        assert before["status"] == "Healthy"
        async with connect(server.ws_url, input_rate=16000, output_rate=24000) as call:
            assert isinstance(await anext(call), SessionStarted)
            assert (await http.get("/ping")).json()["status"] == "HealthyBusy"
            await call.hang_up()
        for _ in range(200):
            after = (await http.get("/ping")).json()
            if after["status"] == "Healthy":
                break
        assert after["status"] == "Healthy"
        assert isinstance(after["time_of_last_update"], int)
        assert (await http.get("/ping")).json() == after


async def test_a_tool_that_blocks_does_not_starve_the_ping() -> None:
    released.clear()
    async with (
        _served() as (server, http),
        connect(server.ws_url, input_rate=16000, output_rate=24000) as call,
    ):
        await call.send(TextInput(text="block"))
        async for event in call:
            if event.__class__.__name__ == "ToolStarted":
                break
        assert (await http.get("/ping")).json()["status"] == "HealthyBusy"
        released.set()
        async for event in call:
            if isinstance(event, ToolFinished):
                assert event.output == "released"
                break
        await call.hang_up()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
async def test_pages_of_other_sites_are_refused(headers: dict[str, str], status: int) -> None:
    async with _served() as (server, http):
        answer = await http.post("/invocations", json={"prompt": "one"}, headers=headers)
        assert answer.status_code == status
        assert answer.json()["message"]
        if "origin" in headers:
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(server.ws_url, origin=headers["origin"])  # type: ignore[arg-type]
            assert refused.value.response.status_code == status


async def test_a_listed_origin_and_the_servers_own_are_allowed() -> None:
    async with _served(origins=("https://shop.example",)) as (server, http):
        for origin in ("https://shop.example", server.url):
            answer = await http.post("/invocations", json={"prompt": "one"}, headers={"origin": origin})
            assert answer.status_code == 200


async def test_a_key_is_wanted_where_one_was_set() -> None:
    async with _served(key="open sesame") as (server, http):
        assert (await http.post("/invocations", json={"prompt": "one"})).status_code == 401
        wrong = await http.post("/invocations", json={"prompt": "one"}, headers={"authorization": "Bearer sesame"})
        assert wrong.status_code == 401
        right = {"authorization": "Bearer open sesame"}
        assert (await http.post("/invocations", json={"prompt": "one"}, headers=right)).status_code == 200
        assert (await http.get("/ping")).status_code == 200
        with pytest.raises(CallRefusedError):
            async with connect(server.ws_url, input_rate=16000, output_rate=24000) as call:
                await anext(call)
        async with connect(server.ws_url, input_rate=16000, output_rate=24000, token="open sesame") as call:
            assert isinstance(await anext(call), SessionStarted)


def test_an_open_address_wants_a_key_or_the_word() -> None:
    with pytest.raises(ConfigurationError, match="--no-auth"):
        ServeOptions(host="0.0.0.0")
    ServeOptions(host="0.0.0.0", key="k")
    ServeOptions(host="0.0.0.0", no_auth=True)


async def test_the_server_refuses_more_sessions_than_it_was_given_room_for() -> None:
    async with (
        _served(max_sessions=1) as (server, http),
        connect(server.ws_url, input_rate=16000, output_rate=24000) as call,
    ):
        await anext(call)
        assert (await http.post("/invocations", json={"prompt": "one"})).status_code == 503


async def test_a_factory_makes_the_agent_for_the_call() -> None:
    seen: list[CallInfo] = []

    async def agent(call: CallInfo) -> Agent:
        seen.append(call)
        return _agent()

    async with (
        serving(agent, ServeOptions(port=0)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=20) as http,
    ):
        answer = await http.post("/invocations", json={"prompt": "one"}, headers={"x-caller": "Ada"})
        assert answer.status_code == 200
        assert seen[0].headers["x-caller"] == "Ada"
        assert seen[0].channel == "invocation"


async def test_the_app_mounts_in_another() -> None:
    inner = create_app(_agent())
    outer = Starlette(routes=[Mount("/voice", inner)], lifespan=inner.router.lifespan_context)
    transport = httpx.ASGITransport(outer)
    async with (
        outer.router.lifespan_context(outer),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        assert (await http.get("/voice/ping")).json()["status"] == "Healthy"
        answer = await http.post("/voice/invocations", json={"prompt": "one"})
        assert answer.json()["response"] == "You said one."


async def test_what_opens_no_dialect_is_told_so() -> None:
    async with _served() as (server, _), websockets.connect(server.ws_url) as socket:
        await socket.send("hello?")
        error = json.loads(await socket.recv())
        assert error["type"] == "error"
        assert error["code"] == "dialect"
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4000


async def test_a_strands_client_holds_a_conversation() -> None:
    async with _served() as (server, _), websockets.connect(server.ws_url) as socket:
        await socket.send(json.dumps({"type": "bidi_text_input", "text": "one", "role": "user"}))
        kinds: list[str] = []
        said = ""
        while "bidi_response_complete" not in kinds or "You said" not in said:
            message = json.loads(await socket.recv())
            kinds.append(message["type"])
            if message["type"] == "bidi_transcript_stream" and message["role"] == "assistant":
                said = message["current_transcript"]
        assert kinds[0] == "bidi_connection_start"
        assert "bidi_audio_stream" in kinds


async def test_a_call_gets_the_answer_to_a_typed_turn() -> None:
    async with _served() as (server, _), connect(server.ws_url, input_rate=16000, output_rate=24000) as call:
        await call.send(TextInput(text="one"))
        async for event in call:
            if isinstance(event, ResponseFinished) and event.text.startswith("You said"):
                assert event.heard == "You said one."
                break
