"""Sessions whose server is killed in the midst of them: another one has them back out of the journal."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import websockets

from duologue.cli.replay import replay
from duologue.client import Call, connect
from duologue.events import (
    AnyEvent,
    ErrorEvent,
    ResponseFinished,
    ResponseHeard,
    ResponseStarted,
    SessionEnded,
    SessionTakenOver,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    UserSpeechStarted,
    encode,
)
from duologue.session.journal import Emitted, decode_record
from duologue.store import SQLiteStore

pytestmark = pytest.mark.anyio
_SERVER = Path(__file__).with_name("takeover_server.py")


class Killable:
    """A server that is killed, and started again on the same port with the same journal."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}/ws"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, str(_SERVER), str(self.port), str(self.journal), stdout=asyncio.subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert await self.process.stdout.readline() == b"listens\n"

    async def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        Path(f"{self.journal}.killed").touch()  # noqa: ASYNC240

    async def again(self) -> None:
        await self.kill()
        await self.start()

    def journaled(self, session: str) -> list[AnyEvent]:
        """All events of a session."""
        store = SQLiteStore(self.journal)
        try:
            records = [decode_record(record.data) for record in store.read("local", session)]
        finally:
            store.close()
        return [record.event for record in records if isinstance(record, Emitted)]


@asynccontextmanager
async def killable(tmp_path: Path) -> AsyncIterator[Killable]:
    server = Killable(tmp_path / "calls.db")
    await server.start()
    try:
        yield server
    finally:
        assert server.process is not None
        if server.process.returncode is None:
            await server.kill()


class Listening:
    """Everything that a call is told."""

    def __init__(self, call: Call) -> None:
        self.events: list[AnyEvent] = []
        self._call = call
        self._more = asyncio.Event()
        self._task = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        async for event in self._call:
            self.events.append(event)
            self._more.set()

    async def until[E: AnyEvent](self, kind: type[E], holds: Callable[[E], bool] = lambda event: True) -> E:
        """The first event of a kind for which `holds`, past ones included."""
        async with asyncio.timeout(30):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and holds(event):
                        return event
                self._more.clear()
                await self._more.wait()


def said(text: str) -> Callable[[ResponseFinished], bool]:
    return lambda event: text in event.text


async def test_a_call_goes_on_with_what_was_said_and_nothing_is_told_twice_or_never(tmp_path: Path) -> None:
    async with killable(tmp_path) as server, connect(server.url, input_rate=16_000, output_rate=24_000) as call:
        heard = Listening(call)
        await call.send_text("the red house")
        await heard.until(ResponseFinished, said("Known"))
        await server.again()
        taken = await heard.until(SessionTakenOver)
        assert taken.epoch == 2
        await call.send_text("what")
        finished = await heard.until(ResponseFinished, said("what"))
        assert finished.text == "Known: the red house; what."
        await server.again()  # and once more
        await heard.until(SessionTakenOver, lambda event: event.epoch == 3)
        await call.send_text("and now")
        finished = await heard.until(ResponseFinished, said("and now"))
        assert finished.text == "Known: the red house; what; and now."
        assert finished.heard == finished.text
        session = call.session
        told = [event for event in heard.events if not (isinstance(event, ErrorEvent) and event.code == "gap")]
    # What each owner has decided is decided again in the same way.
    assert await asyncio.to_thread(replay, server.journal, session=session) == 0
    journaled = server.journaled(session)
    assert [encode(event) for event in told] == [encode(event) for event in journaled[: len(told)]]


async def test_an_answer_that_was_cut_off_is_kept_as_far_as_it_was_heard_and_gone_on_with(tmp_path: Path) -> None:
    async with killable(tmp_path) as server, connect(server.url, input_rate=16_000, output_rate=24_000) as call:
        heard = Listening(call)
        await call.send_text("count")
        known = await heard.until(ResponseHeard, lambda event: "word3" in event.text)
        await server.again()
        cut = await heard.until(ResponseFinished, lambda event: event.response == known.response)
        assert (cut.status, cut.reason, cut.estimated) == ("interrupted", "takeover", True)
        assert cut.heard.startswith(known.text)
        assert len(cut.heard) < len(cut.text)
        # The model is told to go on, and knows what was asked.
        on = await heard.until(ResponseFinished, said("On:"))
        assert on.text == "On: count."
        assert on.heard == on.text
        played = [event.response for event in heard.events if isinstance(event, ResponseStarted)]
        assert len(played) == len(set(played))
        await call.send_text("what")
        assert (await heard.until(ResponseFinished, said("what"))).text == "Known: count; what."


class Speaking:
    """A microphone: silence, or the utterance of that number."""

    def __init__(self, call: Call) -> None:
        self.value = 0
        self.task = asyncio.ensure_future(self._speak(call))

    async def _speak(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await call.send_audio(struct.pack("<h", self.value) * 320)
            due += 0.02
            await asyncio.sleep(max(0.0, due - loop.time()))


async def test_who_was_speaking_is_heard_from_the_beginning_of_the_turn(tmp_path: Path) -> None:
    async with killable(tmp_path) as server, connect(server.url, input_rate=16_000, output_rate=24_000) as call:
        heard, microphone = Listening(call), Speaking(call)
        await heard.until(ResponseFinished, said("Hello"))
        microphone.value = 1
        began = await heard.until(UserSpeechStarted)
        await server.again()
        again = await heard.until(UserSpeechStarted, lambda event: event is not began)
        assert again.position == began.position
        microphone.value = 0
        committed = await heard.until(TurnCommitted)
        assert committed.text == "where is my parcel"
        assert (await heard.until(ResponseFinished, said("Known"))).text == "Known: where is my parcel."
        # What is said later is heard once, and where it is said.
        microphone.value = 2
        later = await heard.until(UserSpeechStarted, lambda event: event.position > again.position)
        microphone.value = 0
        await heard.until(ResponseFinished, said("thank you"))
        await server.again()
        await heard.until(SessionTakenOver, lambda event: event.epoch == 3)
        microphone.value = 1
        last = await heard.until(UserSpeechStarted, lambda event: event.position > later.position)
        assert last.position > later.position + 16_000
        assert [event.text for event in heard.events if isinstance(event, TurnCommitted)] == [
            "where is my parcel",
            "thank you",
        ]
        microphone.task.cancel()


async def test_a_turn_that_nobody_had_begun_to_answer_is_answered(tmp_path: Path) -> None:
    async with killable(tmp_path) as server, connect(server.url, input_rate=16_000, output_rate=24_000) as call:
        heard = Listening(call)
        await heard.until(ResponseFinished, said("Hello"))
        await call.send_text("think")
        await heard.until(TurnCommitted)
        await server.again()
        await heard.until(ResponseFinished, said("On: think"))
        # It does not greet again.
        assert sum("Hello" in event.text for event in heard.events if isinstance(event, ResponseFinished)) == 1


async def test_a_greeting_that_was_cut_off_is_said_to_its_end(tmp_path: Path) -> None:
    async with killable(tmp_path) as server, connect(server.url, input_rate=16_000, output_rate=24_000) as call:
        heard = Listening(call)
        await heard.until(ResponseStarted)
        await server.again()
        finished = await heard.until(ResponseFinished, lambda event: event.status == "completed")
        assert finished.heard == "Hello."


async def test_a_tool_that_was_running_is_not_run_again_and_the_model_is_told_so(tmp_path: Path) -> None:
    async with killable(tmp_path) as server, connect(server.url, input_rate=16_000, output_rate=24_000) as call:
        heard = Listening(call)
        await call.send_text("slow")
        started = await heard.until(ToolStarted)
        await heard.until(ResponseFinished, said("I begin."))
        assert Path(f"{server.journal}.runs").exists()  # noqa: ASYNC240
        await server.again()
        finished = await heard.until(ToolFinished)
        assert (finished.call, finished.status) == (started.call, "outcome_unknown")
        assert "nobody knows how it ended" in (await heard.until(ResponseFinished, said("On:"))).text
        assert Path(f"{server.journal}.runs").read_text() == "runs\n"  # noqa: ASYNC240
        # What the application knew of the call is known, too.
        await call.send_text("state")
        looked = await heard.until(ToolFinished, lambda event: event.name == "look")
        assert looked.output == "begun 1 times"


async def test_a_tool_that_says_so_is_run_again(tmp_path: Path) -> None:
    async with killable(tmp_path) as server, connect(server.url, input_rate=16_000, output_rate=24_000) as call:
        heard = Listening(call)
        await call.send_text("again")
        await heard.until(ToolStarted)
        async with asyncio.timeout(10):
            while not Path(f"{server.journal}.again").exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
                await asyncio.sleep(0.01)
        await server.again()
        finished = await heard.until(ToolFinished)
        assert (finished.status, finished.output) == ("ok", "the second time")
        assert "the second time" in (await heard.until(ResponseFinished, said("On:"))).text


async def test_who_does_not_have_the_token_gets_nothing_and_what_has_ended_stays_so(tmp_path: Path) -> None:
    async with killable(tmp_path) as server:
        async with connect(server.url, input_rate=16_000, output_rate=24_000) as call:
            heard = Listening(call)
            await heard.until(ResponseFinished, said("Hello"))
            session, token = call.session, call._protocol._resume_token
            await server.again()
            resume = {"session": session, "token": "x" * 43, "last": [1, 1], "played": 0, "events": 1}
            assert await refused(server.url, resume) == "resume"
            await heard.until(SessionTakenOver)
        async with asyncio.timeout(10):
            while not isinstance(server.journaled(session)[-1], SessionEnded):  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.01)
        await server.again()
        assert await refused(server.url, {**resume, "token": token}) == "resume"


async def refused(url: str, resume: dict[str, object]) -> str:
    """The code of the error that answers a resume."""
    audio = {"rate": 16_000}
    async with websockets.connect(url) as socket:
        hello = {"type": "hello", "versions": [1], "input": audio, "output": {"rate": 24_000}, "resume": resume}
        await socket.send(json.dumps(hello))
        answer = json.loads(await socket.recv())
    assert answer["type"] == "error", answer
    return str(answer["code"])
