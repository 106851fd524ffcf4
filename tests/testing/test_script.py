"""Scripts, faults, and a script served to the vendor's SDK and to our own adapter."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any, get_args

import openai
import pytest

from duologue import Agent, tool
from duologue.channels.link import SocketClosedError
from duologue.errors import ConfigurationError
from duologue.events import ConnectionLost, ConnectionRotated, ResponseFinished, SessionEnded
from duologue.models import OpenAIRealtime
from duologue.serve import RunningServer
from duologue.testing.clock import run_virtual
from duologue.testing.failures import Failure, exception_of, wording_of
from duologue.testing.faults import Fault, FaultySocket
from duologue.testing.script import Playing, Script, script_server
from duologue.testing.script_model import tone
from duologue.wire.nova_sonic.faults import EXCEPTION_TYPES

SCRIPT = """
turns: [what is the weather, thank you]
replies:
  - when: "*weather*"
    call: {get_weather: {city: Oslo}}
  - when: "result:get_*"
    say: "It is {result}."
  - when: asked
    say: Hello.
  - when: "thank*"
    say: Welcome.
    times: 1
  - say: Pardon?
"""


@tool
async def get_weather(city: str) -> str:
    """The weather."""
    return f"rain in {city}"


def test_the_first_rule_that_matches_answers() -> None:
    playing = Playing(Script.parse(SCRIPT))
    assert [playing.heard() for _ in range(3)] == ["what is the weather", "thank you", "thank you"]
    assert playing.turn("What is the WEATHER").calls == (("get_weather", {"city": "Oslo"}),)
    assert playing.results(["get_weather"], "rain").say == "It is rain."
    assert playing.asked().say == "Hello."
    assert [playing.turn("thanks").say for _ in range(2)] == ["Welcome.", "Pardon?"]
    assert Playing(Script(replies=())).turn("x").say == ""


@pytest.mark.parametrize("text", ["", "[]", "replies: [{sya: x}]", "replies: 3", "replies: [{say: [}]"])
def test_what_is_no_script_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no script"):
        Script.parse(text)


def test_faults_have_one_form() -> None:
    assert Fault.parse("drop@2.5") == Fault(kind="drop", at_s=2.5)
    assert Fault.parse("reset*1@#40") == Fault(kind="reset", at_message=40, links=1)
    assert Fault.parse("latency=200ms") == Fault(kind="latency", seconds=0.2)
    assert Fault.parse("limit=30s") == Fault(kind="limit", seconds=30)
    assert Fault.parse("go-away*2=5@1.5") == Fault(kind="go-away", seconds=5, at_s=1.5, links=2)
    assert Fault.parse("exception=throttled@#3") == Fault(kind="exception", failure="throttled", at_message=3)
    for bad in ("explode", "drop=3", "latency", "drop@", "drop@x", "", "exception", "exception=boom", "go-away=soon"):
        with pytest.raises(ConfigurationError):
            Fault.parse(bad)


async def _exchange(server: RunningServer, count: int) -> list[Any]:
    """Two spoken turns with the vendor's SDK, the function called by hand; the events."""
    client = openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1")
    got = []
    async with client.realtime.connect(model="any") as connection, asyncio.timeout(20):
        pcm = tone(1.0) + bytes(48_000 * 2)
        for at in range(0, len(pcm), 9600):
            await connection.input_audio_buffer.append(audio=base64.b64encode(pcm[at : at + 9600]).decode())
        async for event in connection:
            got.append(event)
            count -= event.type == "response.done"
            if not count:
                break
    await client.close()
    return got


@pytest.mark.anyio
async def test_a_script_is_served_to_the_sdk() -> None:
    async with script_server(Script.parse(SCRIPT.replace("what is the weather", "thank you", 1))) as server:
        events = await _exchange(server, 1)
    said = "".join(event.delta for event in events if event.type == "response.output_audio_transcript.delta")
    audio = b"".join(base64.b64decode(event.delta) for event in events if event.type == "response.output_audio.delta")
    assert said == "Welcome."
    assert audio == tone(len("Welcome.") / 15)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (["drop*1@#6"], "1011"),
        (["reset*1@#6"], "1006"),
        (["drop*1@0.8"], "1011"),
        (["exception*1=internal@0.8"], "1011"),
        (["go-away*1=0.2@0.6"], "session_expired"),
        (["throttle*1"], "rate_limit_exceeded"),
    ],
)
async def test_our_adapter_recovers_from_what_is_ordered(faults: list[str], reason: str) -> None:
    async with script_server(Script.parse(SCRIPT), faults=faults) as server:
        model = OpenAIRealtime(api_key="x", base_url=f"{server.url}/v1")
        events: list[Any] = []
        async with Agent(model=model, tools=[get_weather], idle_prompt="").session(text_only=True) as session:
            if "@0." in faults[0]:
                await asyncio.sleep(1.0)
            await session.send("what is the weather")
            async with asyncio.timeout(20):
                async for event in session.receive():
                    events.append(event)
                    if isinstance(event, ResponseFinished) and event.text.startswith("It is"):
                        break
        assert events[-1].text == "It is rain in Oslo."
        lost = [event for event in events if isinstance(event, ConnectionLost)]
        assert reason in lost[0].reason
        if "throttle" not in faults[0]:
            assert any(isinstance(event, ConnectionRotated) for event in events)


@pytest.mark.anyio
async def test_a_provider_that_is_always_reset_ends_in_a_typed_close() -> None:
    async with script_server(Script.parse(SCRIPT), faults=["reset@#4"]) as server:
        model = OpenAIRealtime(api_key="x", base_url=f"{server.url}/v1")
        async with Agent(model=model, idle_prompt="").session(text_only=True) as session, asyncio.timeout(60):
            await session.send("what is the weather")
            async for event in session.receive():
                if isinstance(event, SessionEnded):
                    break
    assert session.ended is not None
    assert session.ended.reason == "error"
    assert "1006" in session.ended.detail


def test_failures_are_worded_as_each_protocol_words_them() -> None:
    for failure in get_args(Failure):
        message, code, _ = wording_of("openai-realtime").failure(failure)
        assert message is not None
        assert json.loads(message)["type"] == "error"
        assert 1000 < code < 1014
        assert wording_of("gemini-live").failure(failure)[0] is None
        assert exception_of(failure).type in EXCEPTION_TYPES
    going = wording_of("gemini-live").going_away(2.5)
    assert going is not None
    assert json.loads(going) == {"goAway": {"timeLeft": "2.5s"}}


def test_an_end_is_announced_and_comes() -> None:
    async def run() -> None:
        socket = _Socket()
        link = FaultySocket(socket, [Fault.parse("go-away=2@0.5")], lambda: None, wording_of("gemini-live"))
        assert await link.receive() == "x"
        assert socket.sent == [(pytest.approx(0.5, abs=0.01), b'{"goAway":{"timeLeft":"2s"}}')]
        assert await link.receive() == "x"
        with pytest.raises(SocketClosedError):
            await link.receive()
        assert asyncio.get_running_loop().time() == pytest.approx(2.5, abs=0.01)
        assert socket.closed == [1011]

    run_virtual(run())


class _Socket:
    """A socket that keeps what it is sent, with the time, and is sent a message each second."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, str | bytes]] = []
        self.closed: list[int] = []

    async def receive(self) -> str:
        await asyncio.sleep(1)
        return "x"

    async def send(self, message: str | bytes) -> None:
        self.sent.append((asyncio.get_running_loop().time(), message))

    async def close(self, code: int, reason: str = "") -> None:
        self.closed.append(code)


def _link(*faults: str) -> tuple[FaultySocket, _Socket, list[str]]:
    socket, aborted = _Socket(), []
    planned = [Fault.parse(text) for text in faults]
    wording = wording_of("openai-realtime")
    return FaultySocket(socket, planned, lambda: aborted.append("aborted"), wording), socket, aborted


def test_latency_stall_and_deafness() -> None:
    async def run() -> None:
        link, socket, _ = _link("latency=200ms", "stall@#3", "deaf@3")
        for message in "abc":
            await link.send(message)
        assert socket.sent == [(pytest.approx(0.2), "a"), (pytest.approx(0.4), "b")]
        assert await link.receive() == "x"
        waiting = asyncio.ensure_future(link.receive())
        await asyncio.sleep(0.9)
        assert not waiting.done()
        await asyncio.sleep(0.2)
        assert waiting.result() == "x"
        waiting = asyncio.ensure_future(link.receive())
        await asyncio.sleep(100)
        assert not waiting.done(), "from 3 s on it reads nothing"
        waiting.cancel()

    run_virtual(run())


@pytest.mark.parametrize(("fault", "closed", "aborted"), [("drop@1.5", [1011], []), ("reset@1.5", [], ["aborted"])])
def test_a_link_breaks_at_its_time_whether_it_sends_or_listens(
    fault: str, closed: list[int], aborted: list[str]
) -> None:
    async def run() -> None:
        link, socket, broken = _link(fault)
        await link.receive()
        with pytest.raises(SocketClosedError):
            await link.receive()
        assert asyncio.get_running_loop().time() == pytest.approx(1.5, abs=0.01)
        assert (socket.closed, broken) == (closed, aborted)
        with pytest.raises(SocketClosedError):
            await link.send("late")
        assert socket.sent == []

    run_virtual(run())
