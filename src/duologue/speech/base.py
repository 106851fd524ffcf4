"""What speech components are: structs and protocols. Components know nothing about sessions.

Audio is PCM16 little-endian mono. Positions are sample indices on the caller's track at the rate of the component
(:data:`STT_RATE` for VAD and STT).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec

from duologue.compute import Priority

STT_RATE = 16_000
"""Rate in Hz of the audio that VAD and STT take."""


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A recognised word; `start` and `end` are sample positions on the caller's track at :data:`STT_RATE`."""

    text: str
    start: int
    end: int
    confidence: float | None = None


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """Recognised speech between two sample positions of the caller's track. `text` is "" if nothing was recognised."""

    text: str
    start: int
    end: int
    final: bool
    words: tuple[Word, ...] = ()
    """empty if the recogniser gives no word times"""
    language: str | None = None
    confidence: float | None = None


class SpokenWord(msgspec.Struct, frozen=True, kw_only=True):
    """A synthesised word: characters ``[offset, offset + length)`` of the clause, samples ``[start, end)`` of the
    clause's audio, both counted from the clause's beginning."""

    offset: int
    length: int
    start: int
    end: int


class SpeechChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of synthesised speech. `words` is None if the synthesiser gives no times (estimate from characters)."""

    pcm: bytes
    rate: int
    words: tuple[SpokenWord, ...] | None = None
    estimated_total: int | None = None
    """samples that the whole clause will have, if known (exact on a chunk that is the whole clause)"""


class VAD(Protocol):
    """Voice activity detection, inline on the event loop; one object a track."""

    rate: int
    """Hz of the audio it takes"""
    window: int
    """samples a decision"""

    def feed(self, pcm: bytes) -> list[tuple[int, float]]:
        """Take any whole number of samples; return ``(end position, speech probability)`` for each window completed.

        Positions count from the first sample fed (or from `position` of the last :meth:`reset`).
        Raises AudioFormatError for an odd byte count.
        """

    def reset(self, position: int = 0) -> None:
        """Forget all state: a gap in the track, or a new track starting at `position`."""


class STTStream(Protocol):
    """Recognition of one caller's track. Feed all audio; mark where speech begins; ask for text when it is useful."""

    @property
    def position(self) -> int:
        """Position after the last sample pushed."""

    def push(self, pcm: bytes) -> None:
        """Append audio at 16 kHz. Cheap; never blocks. Raises AudioFormatError for an odd byte count."""

    def begin(self, position: int) -> None:
        """The user started to speak at about `position` (VAD onset); the utterance starts up to 300 ms before it.

        While an utterance is open a second call does nothing. Without one, `partial` gives None and `final` "".
        """

    async def partial(self) -> Transcript | None:
        """Text of the open utterance up to now, ``final=False``. None if nothing new is worth recognising, if a newer
        request took its place, or under load: the caller just asks again later. Never raises for load."""

    async def final(self, up_to: int | None = None) -> Transcript:
        """Close the utterance at position `up_to` (default: all audio so far) and return its whole text.

        Audio after `up_to` belongs to the next utterance. Raises OverloadedError if the recogniser's queue is full.
        """

    async def peek(self, up_to: int | None = None) -> Transcript:
        """As :meth:`final`, but the utterance stays open: for a reply prepared in a pause that may be in mid-sentence.

        A :meth:`final` with nothing but silence since then costs no second recognition.
        """

    def discard(self, up_to: int | None = None) -> None:
        """Drop the open utterance (noise, echo) without recognising it."""

    def reset(self, position: int) -> None:
        """Forget all audio; the track goes on at `position` (a gap)."""

    async def close(self) -> None: ...


class STT(Protocol):
    """A recogniser: opens one stream a track."""

    async def open(self, *, position: int = 0, language: str | None = None) -> STTStream: ...

    async def close(self) -> None:
        """Release the shared model."""


class TTS(Protocol):
    """A synthesiser."""

    rate: int
    """Hz of the audio it makes"""

    def synthesize(
        self, text: str, *, voice: str | None = None, speed: float = 1.0, priority: Priority = Priority.NORMAL
    ) -> AsyncGenerator[SpeechChunk, None]:
        """Speak one clause. Close the iterator (``aclose``) to stop. An empty or unspeakable `text` yields nothing.
        `speed` 1.0 is the voice's own, 2.0 twice as fast (0.5 to 2.0)."""

    async def warm(self) -> None:
        """Load the model and run it once, so that the first answer is not late."""

    async def close(self) -> None:
        """Release the shared model."""


class EndOfTurn(Protocol):
    """Judges, in a pause, whether the user's turn is over."""

    async def probability(
        self, text: str, *, silence: float, question: str | None = None, audio: bytes | None = None
    ) -> float:
        """Probability (0 to 1) that the turn is over.

        Args:
            text: what was recognised of the turn so far.
            silence: seconds of silence since the last speech.
            question: what the agent said last, if that was a question.
            audio: last seconds of the turn, PCM16 at 16 kHz, for detectors that listen.
        """
