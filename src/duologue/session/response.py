"""One answer of the agent: its audio, its script, where it came from, and how far it has got."""

from __future__ import annotations

from ..engine.script import Script, Word
from ..events import ResponseOrigin, ResponseStatus
from ..models.base import SpokenWord
from ..tools.base import ToolCall

#: seconds of already heard audio kept, so that a false barge-in can go back to the beginning of a word
_KEEP_S = 6.0


class Response:
    """A response and its audio at the model's output rate, from sample `base` on (what is long heard is let go)."""

    __slots__ = (
        "_audio",
        "acknowledged",
        "base",
        "calls",
        "gated",
        "generated",
        "held_calls",
        "id",
        "origin",
        "rate",
        "reason",
        "script",
        "shown",
        "started",
        "status",
        "text_events",
        "turn",
    )

    def __init__(self, id: str, origin: ResponseOrigin, turn: str, rate: int, *, gated: bool) -> None:
        self.id = id
        self.origin: ResponseOrigin = origin
        self.turn = turn
        self.rate = rate
        #: behind the gate: nothing of it may leave before its turn is committed
        self.gated = gated
        self.generated = False
        self.started = False
        self.status: ResponseStatus | None = None
        self.reason = ""
        self.script = Script(rate)
        self.base = 0
        self.calls: list[ToolCall] = []
        self.held_calls: list[ToolCall] = []
        self.text_events: list[tuple[str, int]] = []
        self.shown = ""
        self.acknowledged = False  # the addressee has said that they hear it
        self._audio = bytearray()

    @property
    def samples(self) -> int:
        """Samples made so far."""
        return self.script.samples

    @property
    def seconds(self) -> float:
        """Seconds of audio made so far."""
        return self.script.samples / self.rate

    def add(self, pcm: bytes, words: tuple[SpokenWord, ...]) -> None:
        """More audio."""
        self._audio += pcm
        self.script.audio(len(pcm) // 2, tuple(Word(w.text, w.start, w.end) for w in words) if words else ())

    def read(self, offset: int, samples: int) -> bytes:
        """Up to `samples` from sample `offset` on; b"" where none are made (or kept)."""
        start = (offset - self.base) * 2
        if start < 0:
            return b""
        return bytes(self._audio[start : start + samples * 2])

    def release(self, heard: int) -> None:
        """Everything up to sample `heard` has been heard: let go of what cannot be needed again."""
        keep = heard - int(_KEEP_S * self.rate)
        # Moving the rest down costs time, so it is done a few seconds at a time.
        if keep - self.base > 4 * self.rate:
            del self._audio[: (keep - self.base) * 2]
            self.base = keep

    def drop_audio(self) -> None:
        """Nothing more of it will be played."""
        self.base += len(self._audio) // 2
        self._audio = bytearray()
