"""What comes from participants: user audio brought to the model's rate and place, inputs checked before they count."""

from __future__ import annotations

from typing import Protocol

from ..audio import Resampler, check_pcm16
from ..channels.base import Channel
from ..errors import AudioFormatError, DuologueError
from ..events import ErrorEvent, Input
from .playout import Listener

#: a jump of the capture position shorter than this is rounding, not a gap (seconds)
_JITTER_S = 0.002


class Upstream(Protocol):
    """What a port needs of its session."""

    input_rate: int
    upstream_s: float

    def now(self) -> float: ...

    def user_audio(self, pcm: bytes, position: int) -> None: ...

    def user_input(self, message: Input) -> None: ...

    def dropped(self, kind: str, count: int) -> None: ...

    def emit_error(self, error: ErrorEvent) -> None: ...

    def channel_away(self, channel: Channel) -> None: ...

    def channel_back(self, channel: Channel, gap_events: int, gap_ms: int) -> None: ...

    def channel_ended(self, channel: Channel, reason: str) -> None: ...


class SessionPort:
    """The session as one channel sees it (see :class:`duologue.channels.base.Port`)."""

    def __init__(self, channel: Channel, upstream: Upstream) -> None:
        self.channel = channel
        self.listener: Listener | None = None
        self._up = upstream
        self._rate = upstream.input_rate
        self._resampler: Resampler | None = None
        self._next = 0  # capture position expected next, at the channel's rate
        self._out = 0  # position of the next sample handed on, at the model's rate
        self._started_at: float | None = None

    def open(self) -> None:
        """The channel has started: its rates are known."""
        rate = self.channel.traits.input_rate
        self._rate = rate or self._up.input_rate
        self._resampler = Resampler(self._rate, self._up.input_rate) if self._rate != self._up.input_rate else None

    def audio(self, pcm: bytes, position: int | None = None) -> None:
        """See :class:`duologue.channels.base.Port`."""
        if len(pcm) & 1:
            check_pcm16(pcm)
        if not pcm:
            return
        if self.channel.traits.input_rate is None:
            raise AudioFormatError(
                "This channel agreed on no user audio.", hint="Announce an input rate when it opens."
            )
        up = self._up
        now = up.now()
        if self._started_at is None:
            self._next = position or 0
            self._started_at = now - self._next / self._rate
            self._out = self._scaled(self._next)
        samples = len(pcm) // 2
        begin = self._next if position is None else position
        if (begin + samples) / self._rate - (now - self._started_at) > up.upstream_s:
            # Faster than anybody can speak: bounded, and so that a flood does not leave the call deaf afterwards.
            up.dropped("user_audio_samples", samples)
            return
        if position is not None and position != self._next:
            behind = self._next - position
            if behind > 0:
                # Late, or sent again after a resume: what we have had (or have gone on without) is not heard twice.
                up.dropped("user_late_samples", min(behind, samples))
                if behind >= samples:
                    return
                pcm = pcm[behind * 2 :]
                samples -= behind
            elif -behind > self._rate * _JITTER_S:
                up.dropped("user_gap_ms", -behind * 1000 // self._rate)
                if self._resampler is not None:
                    self._resampler.reset()
                self._next = position
                self._out = self._scaled(position)
        self._next += samples
        if self._resampler is not None:
            pcm = self._resampler.feed(pcm)
        if pcm:
            up.user_audio(pcm, self._out)
            self._out += len(pcm) // 2

    def _scaled(self, position: int) -> int:
        return position * self._up.input_rate // self._rate

    def input(self, message: Input) -> None:
        """See Port."""
        self._up.user_input(message)

    def played(self, position: int, at: float | None = None) -> None:
        """See Port."""
        if self.listener is not None:
            self.listener.played(position, self._up.now(), at)

    def cleared(self, position: int) -> None:
        """See Port."""
        if self.listener is not None:
            self.listener.cleared(position)

    def away(self) -> None:
        """See Port."""
        self._up.channel_away(self.channel)

    def back(self, *, gap_events: int = 0, gap_ms: int = 0) -> None:
        """See Port."""
        self._up.channel_back(self.channel, gap_events, gap_ms)

    def ended(self, reason: str = "client_left") -> None:
        """See Port."""
        self._up.channel_ended(self.channel, reason)

    def refused(self, error: DuologueError) -> None:
        """Something the participant sent could not be taken; tell everybody who can act."""
        self._up.emit_error(ErrorEvent(code=error.code, message=str(error)))
