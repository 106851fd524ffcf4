"""A caller who speaks when told to, and a call that a test leads step by step, in virtual or in real time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from duologue.channels.base import Traits
from duologue.events import ResponseFinished, ResponseStarted
from duologue.models.base import Model
from duologue.session.session import Session
from duologue.testing.scripted import OUTPUT_RATE, ScriptedCaller

_FRAME_S = 0.02


class Caller(ScriptedCaller):
    """Sends a frame each 20 ms, of speech if there is some to say, and plays what it is sent on a device that acknowledges."""

    def __init__(self, rate: int) -> None:
        super().__init__((), until_s=0.0)
        self._rate = rate
        self._speech: deque[bytes] = deque()
        self._tick: asyncio.Future[None] | None = None
        self._over = asyncio.Event()

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(
            input_rate=self._rate,
            output_rate=OUTPUT_RATE,
            pacing="paced",
            acknowledges=True,
            clears=True,
            ducks=True,
            addressee=True,
        )

    def say(self, pcm: bytes) -> None:
        """Speak from the next frame on."""
        size = int(self._rate * _FRAME_S) * 2
        self._speech.extend(pcm[at : at + size].ljust(size, b"\0") for at in range(0, len(pcm), size))

    @property
    def speaking(self) -> bool:
        """Whether there is more to say."""
        return bool(self._speech)

    async def tick(self) -> None:
        """Wait for the next frame."""
        if self._tick is None or self._tick.done():
            self._tick = asyncio.get_running_loop().create_future()
        await self._tick

    def hang_up(self) -> None:
        """End the call."""
        self._over.set()

    async def run(self) -> None:
        """See Channel."""
        loop = asyncio.get_running_loop()
        begin = self.begin = loop.time()
        silence = bytes(int(self._rate * _FRAME_S) * 2)
        index = 0
        while not self._over.is_set():
            self._render(loop.time())
            self.port.audio(self._speech.popleft() if self._speech else silence)
            if self._tick is not None and not self._tick.done():
                self._tick.set_result(None)
            index += 1
            await asyncio.sleep(max(0.0, begin + index * _FRAME_S - loop.time()))
        self.port.ended("hangup")


class Call:
    """A call under way, for the case that leads it. `patience_s`: how long it waits for anything."""

    def __init__(self, session: Session, caller: Caller, speech: Callable[[str], bytes], patience_s: float) -> None:
        self.session = session
        self.caller = caller
        self._speech = speech
        self._patience_s = patience_s

    @property
    def model(self) -> Model:
        return self.session.definition.model

    def begin(self, sentence: str) -> None:
        """The caller begins to say a sentence."""
        self.caller.say(self._speech(sentence))

    async def speak(self, sentence: str) -> None:
        """The caller says a sentence, to its end."""
        self.begin(sentence)
        await self.until(lambda: not self.caller.speaking, f"{sentence!r} was not said")

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until something is so. Fails with `what` and what has happened instead."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while not condition():
            assert self.session.ended is None, f"{what}: the call has ended: {self.session.ended}"
            assert loop.time() < deadline, f"{what}; so far: {self.caller.events[-12:]}"
            await self.caller.tick()

    async def wait(self, seconds: float) -> None:
        """Let the call go on for so long."""
        loop = asyncio.get_running_loop()
        over = loop.time() + seconds
        while loop.time() < over:
            await self.caller.tick()

    async def event(self, kind: type[Any], count: int = 1) -> Any:
        """Wait for the `count`-th event of a kind."""
        await self.until(lambda: len(self.caller.of(kind)) >= count, f"no {kind.__name__} number {count}")
        return self.caller.of(kind)[count - 1]

    async def answer(self, count: int = 1) -> str:
        """Wait until the `count`-th answer was heard to its end or to an interruption; what was heard of it."""
        await self.until(lambda: len(self.heard) >= count, f"no answer number {count}")
        return self.heard[count - 1]

    async def hear(self, *words: str) -> str:
        """Wait for an answer with one of these words in it."""

        def found() -> list[str]:
            return [text for text in self.heard if any(word in text.lower() for word in words)]

        await self.until(found, f"no answer with {' or '.join(words)}")
        return found()[0]

    @property
    def heard(self) -> list[str]:
        """What was heard of each answer, in order."""
        return [event.heard.strip() for event in self.caller.of(ResponseFinished) if event.heard.strip()]

    def finished(self, response: str) -> ResponseFinished | None:
        """How a response ended, once it has."""
        return next((event for event in self.caller.of(ResponseFinished) if event.response == response), None)

    def origins(self) -> list[str]:
        """Origins of the responses, in order."""
        return [event.origin for event in self.caller.of(ResponseStarted)]

    def played(self, response: str = "") -> float:
        """Seconds of a response (or of all) that came out of the caller's device."""
        samples = sum(n for _, id, _, n in self.caller.rendered if not response or id == response)
        return samples / OUTPUT_RATE

    def last_played_at(self, response: str) -> float:
        """When the device last played something of a response, on the loop's clock."""
        return max(at for at, id, _, _ in self.caller.rendered if id == response)
