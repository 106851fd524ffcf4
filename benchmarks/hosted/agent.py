"""The agent that the host runs under load: it hears marks in the caller's samples, and speaks samples that can be checked.

Deployed as a single file, so it imports nothing of the benchmarks. No network infers anything, except voice activity
detection if asked for; all else is Duologue's own work.

The lowest two bits of the caller's samples say what is being said: 0 nothing, else the number of an utterance. Without VAD the
bits alone are the evidence. With it (``VAD=1``) Silero hears each window, as it does in `Cascade.local()`, and its probability
is what is reported. While the caller speaks, what was said so far is reported each 0.32 s, as a recogniser would.

Utterance 1 is answered for ``LONG_S`` seconds, others for ``SHORT_S``, made ahead as fast as the session takes it. All samples of
frame n of an answer (20 ms) have the value ``1 + n % 30000``. The typed turn "account" is answered with how many samples of the
caller arrived, and how many were missing or came twice by their positions.
"""

from __future__ import annotations

import asyncio
import os
import struct
from typing import Any

from duologue.agent import Agent
from duologue.engine.limits import LimitOptions
from duologue.errors import ModelError
from duologue.events import ResponseOrigin
from duologue.models.base import (
    Began,
    Capabilities,
    Connection,
    Context,
    Ended,
    Lost,
    Model,
    Recognised,
    Said,
    SpeechWindow,
    Spoke,
    TurnProbability,
)
from duologue.speech.listening import Listening
from duologue.speech.vad import SileroVAD

LONG_S, SHORT_S = float(os.environ.get("LONG_S", "60")), float(os.environ.get("SHORT_S", "5"))
VAD = os.environ.get("VAD") == "1"

_WINDOW, _FRAME = 512, 480
_SAID = ("what comes next", "no stop and tell me the one after", "and what then")
_CLAUSE, _CLAUSE_S = "There is more to say of this, ", 2.0
#: windows of speech after which what was said so far is reported
_PARTIAL = 10


class Ear(Connection):
    """Reads the marks, answers by the clock."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._listening = Listening(SileroVAD(), self._judged, self._deaf) if VAD else None
        self._rest, self._position = b"", 0
        self._heard: list[int] = []
        self._committed: list[int] = []
        self._windows = 0
        self._typed = ""
        self._answers: dict[str, str] = {}  # by turn
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._waiting: set[str] = set()  # answers that have not begun to speak
        self._received = self._missing = self._doubled = 0

    # ------------------------------------------------------------------ hearing

    def audio(self, pcm: bytes, position: int) -> None:
        """See Connection."""
        expected = self._position + len(self._rest) // 2
        if position != expected:
            self._missing += max(0, position - expected)
            self._doubled += max(0, expected - position)
            if self._listening is not None:
                self._listening.flush()
                self._listening.reset(position)
            self._rest, self._position = b"", position
        self._received += len(pcm) // 2
        self._rest += pcm
        if self._listening is not None:
            self._listening.feed(pcm)
            return
        while len(self._rest) >= 2 * _WINDOW:
            self._judged(self._position + _WINDOW, 0.02 if not self._rest[2 * _WINDOW - 2] & 3 else 0.95)

    def _judged(self, end: int, probability: float) -> None:
        mark = self._rest[2 * _WINDOW - 2] & 3
        self._rest = self._rest[2 * _WINDOW :]
        start, self._position = self._position, end
        if mark and probability >= 0.5:
            self._window(mark)
        self._context.report(SpeechWindow(start=start, end=end, probability=probability))

    def _deaf(self, error: ModelError) -> None:
        self._context.report(Lost(error=error))

    def hear_out(self) -> None:
        """See Connection."""
        if self._listening is not None:
            self._listening.flush()

    def _window(self, mark: int) -> None:
        if mark not in self._heard:
            self._heard.append(mark)
        self._windows += 1
        if not self._windows % _PARTIAL:
            words = self._text().split()
            self._context.report(Recognised(text=" ".join(words[: self._windows // _PARTIAL])))

    def _text(self) -> str:
        return " ".join([*([self._typed] if self._typed else []), *(_SAID[mark - 1] for mark in self._heard)])

    # ------------------------------------------------------------------ turns

    def text(self, turn: str, text: str) -> None:
        """See Connection."""
        self._typed = text

    def prepare(self, turn: str, *, reply: bool) -> None:
        """See Connection."""
        self._context.report(TurnProbability(probability=0.97))
        self._context.report(Recognised(text=self._text(), final=True, turn=turn))

    def commit(self, turn: str) -> None:
        """See Connection."""
        response = self._context.next_response()
        self._answers = {turn: response}
        if self._typed == "account":
            self._answer(response, turn, "turn", self._account(), 0.2)
        else:
            self._answer(response, turn, "turn", "", LONG_S if 1 in self._heard else SHORT_S)
        self._committed = self._heard
        self._forget()

    def _account(self) -> str:
        return f"account: {self._received} {self._missing} {self._doubled}"

    def _forget(self) -> None:
        self._heard, self._windows, self._typed = [], 0, ""

    def reopen(self, turn: str) -> None:
        """See Connection."""
        if (response := self._answers.pop(turn, None)) is not None:
            self.cancel(response)
        self._heard = self._committed + [mark for mark in self._heard if mark not in self._committed]

    def discard(self, turn: str) -> None:
        """See Connection."""
        self._forget()

    # ------------------------------------------------------------------ speaking

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        self._answer(response, "", origin, "", SHORT_S)

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        self._answer(response, "", origin, text, len(text) / 15)

    def _answer(self, response: str, turn: str, origin: ResponseOrigin, text: str, seconds: float) -> None:
        self._waiting.add(response)
        self._context.report(Began(response=response, turn=turn, origin=origin))

        async def speak() -> None:
            if response not in self._waiting:
                return  # cancelled before it began
            self._waiting.discard(response)
            task = asyncio.current_task()
            assert task is not None
            self._tasks[response] = task
            frames, first, said = round(seconds * 50), 0, text
            while first < frames:
                last = min(frames, first + round(_CLAUSE_S * 50))
                self._context.report(Said(response=response, text=said or _CLAUSE))
                if self._context.speaks:
                    self._context.report(Spoke(response=response, pcm=_samples(first, last)))
                    await self._context.room(response)
                first, said = last, ""
            self._tasks.pop(response, None)
            self._context.report(Ended(response=response))

        self._context.spawn(speak, f"answer {response}")

    def cancel(self, response: str) -> None:
        """See Connection."""
        task = self._tasks.pop(response, None)
        if task is not None:
            task.cancel()
        self._waiting.discard(response)
        self._context.report(Ended(response=response, status="cancelled"))

    async def close(self) -> None:
        """See Connection."""
        for task in self._tasks.values():
            task.cancel()
        if self._listening is not None:
            self._listening.close()


class Marked(Model):
    """See the module."""

    name = "scripted"

    @property
    def capabilities(self) -> Capabilities:
        """See Model."""
        return Capabilities(authority="engine", input_rate=16_000, output_rate=24_000, can_truncate=True)

    async def open(self, context: Context) -> Connection:
        """See Model."""
        return Ear(context)


def _frames(count: int) -> bytes:
    return b"".join(struct.pack("<h", 1 + number % 30_000) * _FRAME for number in range(count))


#: the answer, of which each call gets its part: making sound is no part of what is measured
_ANSWER = _frames(round(max(LONG_S, SHORT_S, 60.0) * 50))


def _samples(first: int, last: int) -> bytes:
    return _ANSWER[2 * _FRAME * first : 2 * _FRAME * last]


if VAD:
    SileroVAD()  # loaded before children are forked, as the cascade's is
agent = Agent(
    model=Marked(), idle_prompt="", apology="", farewell="", limits=LimitOptions(idle_s=0, max_response_s=7200.0)
)
