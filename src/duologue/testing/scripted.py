"""A scripted model and a scripted caller: exact evidence, exact audio, no speech engine.

The caller's *audio* carries the script: a sample value of ``n`` means that utterance ``n`` (from 1) is being spoken, 0 is
silence. The model reads it back as voice activity and text, and answers from a table. Under the virtual clock an hour of
this takes seconds, and every decision is repeatable.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..channels.base import Channel, Port, Traits
from ..events import ErrorEvent, Event, ResponseOrigin
from ..models.base import (
    Audio,
    Began,
    Capabilities,
    Connection,
    Context,
    Ended,
    Model,
    Recognised,
    Said,
    SpeechWindow,
    Spoke,
    ToolRequested,
    TurnProbability,
)
from ..tools.base import ToolCall

INPUT_RATE = 16_000
OUTPUT_RATE = 24_000
_WINDOW = 512


class Utterance(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller can say. `text` may hold ``|`` where they pause; `complete` is how sure the model is at each pause."""

    text: str
    pause_probability: float = 0.05
    end_probability: float = 0.97


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What the scripted model answers: text spoken at `characters_per_s`, and tool calls (name to arguments)."""

    text: str = ""
    tools: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    delay_s: float = 0.05
    characters_per_s: float = 15.0


class ScriptedModel(Model):
    """A model that answers from a script.

    Args:
        utterances: what sample values 1, 2, ... of the user's audio mean.
        answer: makes the reply to a user's text, or (text None) to tool results and instructions.
    """

    name = "scripted"

    def __init__(
        self,
        utterances: Sequence[Utterance],
        answer: Callable[[str | None, Context], Reply],
        *,
        audio: Audio | None = None,
    ) -> None:
        self.utterances = tuple(utterances)
        self.answer = answer
        self.audio = audio or Audio()
        self.connections: list[ScriptedConnection] = []

    @property
    def capabilities(self) -> Capabilities:
        """See Model."""
        return Capabilities(
            authority="engine",
            input_rate=INPUT_RATE,
            output_rate=OUTPUT_RATE,
            can_truncate=True,
            inputs=frozenset({"audio", "text", "sensor"}),
        )

    async def open(self, context: Context) -> Connection:
        """See Model."""
        connection = ScriptedConnection(self, context)
        self.connections.append(connection)
        return connection


class ScriptedConnection(Connection):
    """See :class:`ScriptedModel`. Keeps what it was told in `truncated` and `results`."""

    def __init__(self, model: ScriptedModel, context: Context) -> None:
        self._model = model
        self._context = context
        self._buffer = bytearray()
        self._buffer_at = 0
        self._parts: dict[int, int] = {}  # utterance -> how many of its parts were begun
        self._heard: list[int] = []  # utterances of the open turn, in order
        self._last_value = 0
        self._typed = ""
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._speculating: tuple[str, str, str] | None = None  # turn, text, response
        self._answers: dict[str, str] = {}  # of the last committed turn: its response
        self._committed: tuple[list[int], dict[int, int], str] = ([], {}, "")  # what the last turn was made of
        self._waiting: set[str] = set()  # responses that have not begun to speak
        #: a connection that takes over goes on counting
        self._calls = sum(item.kind == "call" for item in context.history())
        self.received = 0
        self.truncated: list[tuple[str, int]] = []
        self.results: list[tuple[str, str]] = []

    def audio(self, pcm: bytes, position: int) -> None:
        """See Connection."""
        self.received += len(pcm) // 2
        if position != self._buffer_at + len(self._buffer) // 2:
            self._buffer = bytearray()
            self._buffer_at = position
        self._buffer += pcm
        while len(self._buffer) >= _WINDOW * 2:
            # The last sample speaks for the window; a tie within one does not matter at 32 ms.
            value = struct.unpack_from("<h", self._buffer, _WINDOW * 2 - 2)[0]
            del self._buffer[: _WINDOW * 2]
            start = self._buffer_at
            self._buffer_at = start + _WINDOW
            if value and value != self._last_value:
                if value not in self._heard:
                    self._heard.append(value)
                self._parts[value] = self._parts.get(value, 0) + 1
            self._last_value = value
            self._context.report(SpeechWindow(start=start, end=start + _WINDOW, probability=0.95 if value else 0.02))

    def _text(self) -> tuple[str, float]:
        """What was said in this turn so far, and how sure it is that this is all."""
        texts = [self._typed] if self._typed else []
        sure = 0.97
        for value in self._heard:
            utterance = self._model.utterances[value - 1]
            parts = utterance.text.split("|")
            begun = min(self._parts.get(value, 0), len(parts))
            texts.append(" ".join(part.strip() for part in parts[:begun]))
            sure = utterance.end_probability if begun == len(parts) else utterance.pause_probability
        return " ".join(text for text in texts if text), sure

    def text(self, turn: str, text: str) -> None:
        """See Connection."""
        self._typed = text

    def prepare(self, turn: str, *, reply: bool) -> None:
        """See Connection."""
        text, sure = self._text()
        self._context.report(TurnProbability(probability=sure))
        self._context.report(Recognised(text=text, final=True, turn=turn))
        if reply and text:
            self._speculate(turn, text)

    def _speculate(self, turn: str, text: str) -> None:
        if self._speculating is not None:
            if self._speculating[:2] == (turn, text):
                return
            self.cancel(self._speculating[2])
        response = self._context.next_response()
        self._speculating = (turn, text, response)
        self._make(response, turn, "turn", text)

    def commit(self, turn: str) -> None:
        """See Connection."""
        text, _ = self._text()
        self._speculate(turn, text)
        assert self._speculating is not None
        self._answers = {turn: self._speculating[2]}
        self._speculating = None
        self._committed = (self._heard, self._parts, self._typed)
        self._forget()

    def _forget(self) -> None:
        self._heard, self._parts, self._typed = [], {}, ""

    def reopen(self, turn: str) -> None:
        """See Connection."""
        if (response := self._answers.pop(turn, None)) is not None:
            self.cancel(response)
        heard, parts, typed = self._committed
        for value, begun in self._parts.items():
            parts[value] = parts.get(value, 0) + begun
        self._heard = heard + [value for value in self._heard if value not in heard]
        self._parts, self._typed = parts, typed

    def discard(self, turn: str) -> None:
        """See Connection."""
        if self._speculating is not None:
            self.cancel(self._speculating[2])
            self._speculating = None
        self._forget()

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        self._make(response, "", origin, None)

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        self._waiting.add(response)
        self._context.report(Began(response=response, origin=origin))
        self._speak(response, Reply(text=text, delay_s=0.0))

    def cancel(self, response: str) -> None:
        """See Connection."""
        task = self._tasks.pop(response, None)
        if task is not None:
            task.cancel()
        self._waiting.discard(response)
        self._context.report(Ended(response=response, status="cancelled"))

    def truncate(self, response: str, samples: int) -> None:
        """See Connection."""
        self.truncated.append((response, samples))

    def tool_result(self, call: str, name: str, text: str, *, error: bool) -> None:
        """See Connection."""
        self.results.append((name, text))

    def _make(self, response: str, turn: str, origin: ResponseOrigin, text: str | None) -> None:
        self._waiting.add(response)
        self._context.report(Began(response=response, turn=turn, origin=origin))
        self._speak(response, self._model.answer(text, self._context))

    def _speak(self, response: str, reply: Reply) -> None:
        async def speak() -> None:
            if response not in self._waiting:
                return  # cancelled before it began
            self._waiting.discard(response)
            task = asyncio.current_task()
            assert task is not None
            self._tasks[response] = task
            if reply.delay_s:
                await asyncio.sleep(reply.delay_s)
            for name, arguments in reply.tools:
                self._calls += 1
                call = ToolCall(id=f"c{self._calls}", name=name, arguments=dict(arguments))
                self._context.report(ToolRequested(response=response, call=call))
            for clause in _clauses(reply.text):
                self._context.report(Said(response=response, text=clause))
                if self._context.speaks:
                    samples = int(len(clause) / reply.characters_per_s * OUTPUT_RATE)
                    # A ramp, so that every sample tells where in its clause it is.
                    self._context.report(Spoke(response=response, pcm=b"\x00\x10" * samples))
                    await self._context.room(response)
            self._tasks.pop(response, None)
            self._context.report(Ended(response=response))

        self._context.spawn(speak, f"scripted {response}")

    async def close(self) -> None:
        """See Connection."""
        for task in self._tasks.values():
            task.cancel()


def _clauses(text: str) -> list[str]:
    out, at = [], 0
    for index, character in enumerate(text):
        if character in ".,!?" and index + 1 < len(text) and text[index + 1] == " ":
            out.append(text[at : index + 2])
            at = index + 2
    if text[at:]:
        out.append(text[at:])
    return out


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The caller speaks: utterance number `utterance` from `at_s` of the call on, for `seconds` (one part of it)."""

    at_s: float
    utterance: int
    seconds: float


class ScriptedCaller(Channel):
    """A caller who speaks on schedule, one 20 ms frame each 20 ms, and plays what it is sent, exactly.

    Its playback device renders at the track's rate, acknowledges every `ack_every_s` (each acknowledgement on its way for
    `lag_s`), and honours a clear at once. `rendered` is the log of what was played: (time, response, offset, samples).
    """

    name = "caller"

    def __init__(
        self,
        lines: Sequence[Line],
        *,
        until_s: float,
        ack_every_s: float = 0.1,
        lag_s: float = 0.02,
        acknowledges: bool = True,
        lose: Callable[[int], bool] = lambda n: False,
    ) -> None:
        self.lines = sorted(lines, key=lambda line: line.at_s)
        self.until_s = until_s
        self.events: list[Event] = []
        self.errors: list[ErrorEvent] = []
        self.rendered: list[tuple[float, str, int, int]] = []
        self.clears: list[float] = []
        self.ducks: list[float] = []
        self._ack_every_s = ack_every_s
        self._lag_s = lag_s
        self._acknowledges = acknowledges
        self._lose = lose
        self._acks = 0
        self._queue: deque[tuple[str, int, int, int]] = deque()  # response, offset, position, samples
        self._played = 0
        self._next_ack = 0.0
        self._line = 0
        self._frames = {0: bytes(640)}

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(
            input_rate=INPUT_RATE,
            output_rate=OUTPUT_RATE,
            pacing="paced",
            acknowledges=self._acknowledges,
            clears=self._acknowledges,
            ducks=True,
        )

    async def start(self, port: Port) -> None:
        """See Channel."""
        await super().start(port)

    def frame(self, index: int) -> bytes:
        """The caller's audio frame number `index`; asked for in order."""
        middle = index * 0.02 + 0.01
        lines = self.lines
        while self._line < len(lines) and middle >= lines[self._line].at_s + lines[self._line].seconds:
            self._line += 1
        speaks = self._line < len(lines) and lines[self._line].at_s <= middle
        value = lines[self._line].utterance if speaks else 0
        if value not in self._frames:
            self._frames[value] = struct.pack("<h", value) * 320
        return self._frames[value]

    async def run(self) -> None:
        """See Channel."""
        loop = asyncio.get_running_loop()
        begin = self.begin = loop.time()
        last = int(self.until_s / 0.02)
        done: asyncio.Future[None] = loop.create_future()

        def frame(index: int) -> None:
            """A timer a frame: a task that sleeps would cost several times as much."""
            if done.done():
                return
            if index == last:
                done.set_result(None)
                return
            try:
                self._render(loop.time())
                self.port.audio(self.frame(index), index * 320)
            except Exception as error:
                done.set_exception(error)
            else:
                loop.call_at(begin + (index + 1) * 0.02, frame, index + 1)

        frame(0)
        await done
        self.port.ended("hangup")

    def _render(self, now: float) -> None:
        """Play 20 ms."""
        budget = OUTPUT_RATE // 50
        while budget and self._queue:
            response, offset, position, samples = self._queue[0]
            take = min(budget, samples)
            self.rendered.append((now, response, offset, take))
            budget -= take
            self._played = position + take
            if take == samples:
                self._queue.popleft()
            else:
                self._queue[0] = (response, offset + take, position + take, samples - take)
        if self._acknowledges and now >= self._next_ack and self._played:
            self._next_ack = now + self._ack_every_s
            self._acks += 1
            if not self._lose(self._acks):
                asyncio.get_running_loop().call_later(self._lag_s, self.port.played, self._played, now)

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""
        self.events.append(event)
        if isinstance(event, ErrorEvent):
            self.errors.append(event)

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See Channel."""
        self._queue.append((response, offset, position, len(pcm) // 2))

    def clear(self, response: str) -> None:
        """See Channel."""
        self.clears.append(asyncio.get_running_loop().time())
        self._queue.clear()
        asyncio.get_running_loop().call_later(self._lag_s, self.port.cleared, self._played)

    def duck(self, gain_db: float) -> None:
        """See Channel."""
        self.ducks.append(gain_db)

    def of(self, kind: type[Event]) -> list[Any]:
        """The events of one type so far."""
        return [event for event in self.events if isinstance(event, kind)]
