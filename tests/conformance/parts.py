"""Scripted parts: a served model that hears exact marks and talks by rules, and a cascade of such components."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from duologue.compute import Priority
from duologue.engine.conversation import Item
from duologue.events import ResponseOrigin
from duologue.models import Cascade
from duologue.models.base import Capabilities, Connection, Context
from duologue.speech.base import STT_RATE, SpeechChunk, Transcript
from duologue.speech.llm.base import DEFAULT_OPTIONS, Finished, GenerateOptions, LLMEvent, Message, TextDelta
from duologue.speech.llm.base import ToolCallRequest as Request
from duologue.testing.scripted import ScriptedConnection, ScriptedModel
from duologue.tools.base import ToolSpec
from tests.conformance.talk import SENTENCES, UTTERANCES, talk

_TEXTS = list(SENTENCES.values())
_PACE = 15.0  # characters a second


# ---------------------------------------------------------------------- behind a provider's protocol


class Talker(ScriptedModel):
    """What stands behind a served protocol. `pictures` and `setups` are what reached it."""

    def __init__(self, rate: int) -> None:
        super().__init__(UTTERANCES, lambda text, context: talk(text, context.history(), context.setup().instructions))
        self._rate = rate
        self.pictures: list[tuple[bytes, str]] = []

    @property
    def capabilities(self) -> Capabilities:
        """See Model."""
        return Capabilities(
            authority="engine",
            input_rate=self._rate,
            output_rate=24_000,
            can_truncate=True,
            can_update=True,
            inputs=frozenset({"audio", "text", "image", "sensor"}),
        )

    async def open(self, context: Context) -> Connection:
        """See Model."""
        connection = TalkerConnection(self, context)
        self.connections.append(connection)
        return connection


class TalkerConnection(ScriptedConnection):
    """Does what it is told to say. It answers at once, within the very call that ends the turn."""

    def __init__(self, model: Talker, context: Context) -> None:
        super().__init__(model, context)
        self._talker = model

    def image(self, data: bytes, mime: str) -> None:
        """See Connection."""
        self._talker.pictures.append((data, mime))

    def prepare(self, turn: str, *, reply: bool) -> None:
        """See Connection."""
        super().prepare(turn, reply=False)

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        if not instructions:
            super().respond(response, instructions, origin)
            return
        reply = talk(None, self._context.history(), self._context.setup().instructions, instructions)
        self.say(response, reply.text, origin)


# ---------------------------------------------------------------------- a cascade


class Marks:
    """Hears the marks that the scripted caller's samples are."""

    window = 512

    def __init__(self, rate: int = STT_RATE) -> None:
        self.rate = rate
        self.reset()

    def reset(self, position: int = 0) -> None:
        """See VAD."""
        self._at, self._rest = position, b""

    def feed(self, pcm: bytes) -> list[tuple[int, float]]:
        """See VAD."""
        self._rest += pcm
        out = []
        while len(self._rest) >= 2 * self.window:
            self._at += self.window
            out.append((self._at, 0.95 if any(self._rest[: 2 * self.window]) else 0.02))
            self._rest = self._rest[2 * self.window :]
        return out


class MarkStream:
    """Recognises marks."""

    def __init__(self) -> None:
        self.position = 0
        self._runs: list[tuple[int, int]] = []  # sentence, and where it was last heard
        self._value = 0
        self._open = False

    def push(self, pcm: bytes) -> None:
        """See STTStream."""
        for (value,) in struct.iter_unpack("<h", pcm):
            self.position += 1
            if value:
                if value == self._value:
                    self._runs[-1] = (value, self.position)
                else:
                    self._runs.append((value, self.position))
            self._value = value

    def begin(self, position: int) -> None:
        """See STTStream."""
        self._open = True

    def _transcript(self, final: bool) -> Transcript:
        text = " ".join(_TEXTS[value - 1] for value, _ in self._runs) if self._open else ""
        return Transcript(text=text, start=0, end=self.position, final=final)

    async def partial(self) -> Transcript | None:
        """See STTStream."""
        return self._transcript(False)

    async def peek(self, up_to: int | None = None) -> Transcript:
        """See STTStream."""
        return self._transcript(True)

    async def final(self, up_to: int | None = None) -> Transcript:
        """See STTStream."""
        transcript = self._transcript(True)
        self.discard()
        return transcript

    def discard(self, up_to: int | None = None) -> None:
        """See STTStream."""
        self._open = False
        self._runs = []
        self._value = 0

    def reset(self, position: int) -> None:
        """See STTStream."""
        self.discard()
        self.position = position

    async def close(self) -> None:
        """See STTStream."""


class MarkSTT:
    """See STT."""

    async def open(self, *, position: int = 0, language: str | None = None) -> MarkStream:
        """See STT."""
        return MarkStream()

    async def close(self) -> None:
        """See STT."""


class LevelTTS:
    """Speaks as a constant level, 15 characters a second. `voices` are those that were asked for."""

    rate = 24_000

    def __init__(self) -> None:
        self.voices: list[str | None] = []

    async def synthesize(
        self, text: str, *, voice: str | None = None, speed: float = 1.0, priority: Priority = Priority.NORMAL
    ) -> AsyncGenerator[SpeechChunk, None]:
        """See TTS."""
        self.voices.append(voice)
        yield SpeechChunk(pcm=b"\x00\x10" * int(len(text) / _PACE * self.rate), rate=self.rate)

    async def warm(self) -> None:
        """See TTS."""

    async def close(self) -> None:
        """See TTS."""


class TalkLLM:
    """Answers by the rules. `prompts` are what it was given."""

    name = "talk"
    is_language_model = True

    def __init__(self) -> None:
        self.prompts: list[tuple[Message, ...]] = []

    def describe(self) -> str:
        """See LLM."""
        return "rules"

    async def generate(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, options: GenerateOptions = DEFAULT_OPTIONS
    ) -> AsyncGenerator[LLMEvent, None]:
        """See LLM."""
        self.prompts.append(tuple(messages))
        system = messages[0].content if messages and messages[0].role == "system" else ""
        last = messages[-1]
        told = last.content if last.role == "system" and len(messages) > 1 else ""
        text = last.content if last.role == "user" else None
        reply = talk(text, _items(messages), system, told)
        await asyncio.sleep(reply.delay_s)
        for index, (name, arguments) in enumerate(reply.tools):
            import json

            yield Request(id=f"c{len(self.prompts)}-{index}", name=name, arguments=json.dumps(dict(arguments)))
        for sentence in reply.text.split(". "):
            if sentence:
                yield TextDelta(text=sentence if sentence.endswith(".") else f"{sentence}. ")
        yield Finished()

    async def warm_up(self) -> None:
        """See LLM."""

    async def aclose(self) -> None:
        """See LLM."""


def _items(messages: Sequence[Message]) -> list[Item]:
    kinds: dict[str, Any] = {"tool": "result", "system": "note", "user": "user", "assistant": "assistant"}
    return [Item(kind=kinds[entry.role], text=entry.content) for entry in messages]


class Sure:
    """Takes every pause for the end of the turn."""

    async def probability(
        self, text: str, *, silence: float, question: str | None = None, audio: bytes | None = None
    ) -> float:
        """See EndOfTurn."""
        return 0.97 if text else 0.0


def cascade() -> Cascade:
    """A cascade of these parts."""
    return Cascade(stt=MarkSTT(), llm=TalkLLM(), tts=LevelTTS(), vad=Marks, end_of_turn=Sure())
