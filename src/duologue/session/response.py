"""One answer of the agent: its audio, its script, where it came from, and how far it has got."""

from __future__ import annotations

from ..audio import Reel
from ..engine.script import Script, Word
from ..events import ResponseOrigin, ResponseStatus
from ..models.base import SpokenWord
from ..tools.base import ToolCall

#: seconds of already heard audio kept, so that a false barge-in can go back to the beginning of a word
_KEEP_S = 6.0


class Response:
    """A response and its audio at the model's output rate (what is long heard is let go)."""

    __slots__ = (
        "_audio",
        "acknowledged",
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
        self.calls: list[ToolCall] = []
        self.held_calls: list[ToolCall] = []
        self.text_events: list[tuple[str, int]] = []
        self.shown = ""
        self.acknowledged = False  # the addressee has said that they hear it
        self._audio = Reel()

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
        self._audio.write(pcm)
        self.script.audio(len(pcm) // 2, tuple(Word(w.text, w.start, w.end) for w in words) if words else ())

    @property
    def base(self) -> int:
        """The first sample that is still there."""
        return self._audio.start

    def read(self, offset: int, samples: int) -> bytes:
        """Up to `samples` from sample `offset` on; b"" where none are made (or kept)."""
        return self._audio.read(offset, samples)

    def release(self, heard: int) -> None:
        """Everything up to sample `heard` has been heard: let go of what cannot be needed again."""
        self._audio.discard_until(heard - int(_KEEP_S * self.rate))

    def drop_audio(self) -> None:
        """Nothing more of it will be played."""
        self._audio.clear()
