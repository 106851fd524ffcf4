"""The model that a script is: it hears levels, answers by rules, and sounds as a tone or as local synthesis."""

from __future__ import annotations

import asyncio
import math
import struct
from typing import TYPE_CHECKING, Any

from ..audio import Resampler
from ..events import ResponseOrigin
from ..models.base import (
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
from ..models.ears import Ears
from ..speech.vad import EnergyVAD
from ..tools.base import ToolCall

if TYPE_CHECKING:
    from .script import Rule, Script

_INPUT, _OUTPUT = 16_000, 24_000
_PACE = 15.0
#: pieces that speech is made in where it is not made at once, seconds
_SLICE_S = 0.1
_TONE_HZ = 330.0


class ScriptModel(Model):
    """See :mod:`duologue.testing.script`."""

    name = "script"

    def __init__(self, script: Script) -> None:
        self.script = script
        self._tts: Any = None
        if script.voice == "tts":
            from ..speech.piper import PiperTTS

            self._tts = PiperTTS()

    @property
    def capabilities(self) -> Capabilities:
        """See Model."""
        return Capabilities(
            authority="engine",
            input_rate=_INPUT,
            output_rate=_OUTPUT,
            inputs=frozenset({"audio", "text", "image", "sensor"}),
            can_update=True,
        )

    async def open(self, context: Context) -> Connection:
        """See Model."""
        return ScriptConnection(self, context)

    async def sound(self, text: str) -> bytes:
        """PCM16 at the output rate that stands for `text`."""
        if self._tts is None:
            return tone(len(text) / _PACE)
        pcm, resampler = b"", Resampler(self._tts.rate, _OUTPUT)
        async for chunk in self._tts.synthesize(text):
            pcm += resampler.feed(chunk.pcm)
        return pcm + resampler.flush()

    async def aclose(self) -> None:
        """See Model."""
        if self._tts is not None:
            await self._tts.close()


def tone(seconds: float, rate: int = _OUTPUT) -> bytes:
    """A tone of half the full level, with ends that do not click."""
    samples, edge = int(seconds * rate), rate // 100
    step = 2 * math.pi * _TONE_HZ / rate
    return b"".join(
        struct.pack("<h", int(16_000 * min(1.0, n / edge, (samples - n) / edge) * math.sin(n * step)))
        for n in range(samples)
    )


class ScriptConnection(Connection):
    """One conversation with a script."""

    def __init__(self, model: ScriptModel, context: Context) -> None:
        from .script import Playing

        self._model = model
        self._context = context
        self._playing = Playing(model.script)
        self._ears = Ears(EnergyVAD(), _INPUT, self._window)
        self._spoken: str | None = None  # what the open turn was heard as
        self._typed: list[str] = []
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._results: list[tuple[str, str]] = []
        self._calls = 0

    def audio(self, pcm: bytes, position: int) -> None:
        """See Connection."""
        self._ears.feed(pcm, position)

    def _window(self, window: SpeechWindow) -> None:
        self._context.report(window)

    def text(self, turn: str, text: str) -> None:
        """See Connection."""
        self._typed.append(text)

    def _heard(self) -> str:
        if self._spoken is None and not self._typed:
            self._spoken = self._playing.heard()
        return " ".join(text for text in (self._spoken, *self._typed) if text)

    def prepare(self, turn: str, *, reply: bool) -> None:
        """See Connection."""
        self._context.report(TurnProbability(probability=0.97))
        self._context.report(Recognised(text=self._heard(), final=True, turn=turn))

    def commit(self, turn: str) -> None:
        """See Connection."""
        text = self._heard()
        self._spoken, self._typed = None, []
        self._context.report(Recognised(text=text, final=True, turn=turn))
        self._make(self._context.next_response(), turn, "turn", self._playing.turn(text))

    def discard(self, turn: str) -> None:
        """See Connection. A sound that was no turn does not use one up."""
        self._typed = []

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        results, self._results = self._results, []
        names = [name for name, _ in results]
        rule = self._playing.results(names, results[-1][1]) if results else self._playing.asked()
        self._make(response, "", origin, rule)

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        from .script import Rule

        self._make(response, "", origin, Rule(say=text, after_s=0.0))

    def cancel(self, response: str) -> None:
        """See Connection."""
        if (task := self._tasks.pop(response, None)) is not None:
            task.cancel()
        self._context.report(Ended(response=response, status="cancelled"))

    def tool_result(self, call: str, name: str, text: str, *, error: bool) -> None:
        """See Connection."""
        self._results.append((name, text))

    def _make(self, response: str, turn: str, origin: ResponseOrigin, rule: Rule) -> None:
        self._context.report(Began(response=response, turn=turn, origin=origin))

        async def make() -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks[response] = task
            await asyncio.sleep(rule.after_s)
            if rule.say:
                self._context.report(Said(response=response, text=rule.say))
                if self._context.speaks:
                    await self._speak(response, await self._model.sound(rule.say))
            for name, arguments in rule.calls:
                self._calls += 1
                call = ToolCall(id=f"call_{self._calls}", name=name, arguments=dict(arguments))
                self._context.report(ToolRequested(response=response, call=call))
            self._tasks.pop(response, None)
            self._context.report(Ended(response=response))

        self._context.spawn(make, f"script {response}")

    async def _speak(self, response: str, pcm: bytes) -> None:
        speed = self._model.script.speed
        step = len(pcm) if speed is None else int(_OUTPUT * _SLICE_S) * 2
        for at in range(0, len(pcm), step or 1):
            if speed is not None and at:
                await asyncio.sleep(_SLICE_S / speed)
            self._context.report(Spoke(response=response, pcm=pcm[at : at + step]))

    async def close(self) -> None:
        """See Connection."""
        for task in self._tasks.values():
            task.cancel()
