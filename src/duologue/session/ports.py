"""What comes from participants: user audio brought to the model's rate and place, inputs checked before they count."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..audio import Resampler, check_pcm16
from ..channels.base import Channel
from ..errors import AudioFormatError, DuologueError, SessionClosedError
from ..events import Input
from .playout import Listener

if TYPE_CHECKING:
    from .intake import Intake

#: a jump of the capture position shorter than this is rounding, not a gap (seconds)
_JITTER_S = 0.002


class Attendance(Protocol):
    """Whom a port tells what becomes of its participant."""

    def input(self, message: Input) -> None: ...

    def refused(self, error: DuologueError) -> None: ...

    def away(self, channel: Channel) -> None: ...

    def back(self, channel: Channel, gap_events: int, gap_ms: int) -> None: ...

    def ended(self, channel: Channel, reason: str) -> None: ...

    def took(self, channel: Channel, epoch: int, n: int) -> None: ...

    async def keep(self, channel: Channel, state: bytes, told: int) -> None: ...


class SessionPort:
    """The session as one channel sees it (see :class:`duologue.channels.base.Port`). `clock` is the monotonic one."""

    def __init__(
        self,
        channel: Channel,
        intake: Intake,
        attendance: Attendance,
        clock: Callable[[], float],
        *,
        joins: bool = False,
    ) -> None:
        self.channel = channel
        self._joins = joins  # its track follows what the model has heard before, wherever it begins itself
        self.listener: Listener | None = None
        self._intake = intake
        self._attendance = attendance
        self._clock = clock
        self._upstream_s = intake.upstream_s
        self.rate: int | None = None  # Hz of the channel's user audio; None if it brings none
        self._rate = intake.rate
        self._resampler: Resampler | None = None
        self._next = 0  # capture position expected next, at the channel's rate
        self._out = 0  # position of the next sample handed on, at the model's rate
        self._started_at: float | None = None
        self._begin = 0  # where on the model's track this one begins
        self._gone = False

    def open(self) -> None:
        """The channel has started: its rates are known."""
        self.rate = self.channel.traits.input_rate
        theirs = self._intake.rate
        self._rate = self.rate or theirs
        self._resampler = Resampler(self._rate, theirs) if self._rate != theirs else None

    def close(self) -> None:
        """The participant has left: what still comes of it is nobody's."""
        self._gone = True

    def audio(self, pcm: bytes, position: int | None = None) -> None:
        """See :class:`duologue.channels.base.Port`."""
        size = len(pcm)
        if size & 1:
            check_pcm16(pcm)
        if not size or self._gone:
            return
        if self.rate is None:
            raise AudioFormatError(
                "This channel agreed on no user audio.", hint="Announce an input rate when it opens."
            )
        now = self._clock()
        rate = self._rate
        if self._started_at is None:
            self._next = position or 0
            self._started_at = now - self.channel.behind_s - self._next / rate
            if self._joins:
                self._begin = self._intake.begin_again() - self._next * self._intake.rate // rate
            self._out = self._scaled(self._next)
        samples = size >> 1
        begin = self._next if position is None else position
        if (begin + samples) / rate - (now - self._started_at) > self._upstream_s:
            # Faster than anybody can speak: bounded, and so that a flood does not leave the call deaf afterwards.
            self._intake.dropped("user_audio_samples", samples)
            return
        if begin != self._next:
            behind = self._next - begin
            if behind > 0:
                # Late, or sent again after a resume: what we have had (or have gone on without) is not heard twice.
                self._intake.dropped("user_late_samples", min(behind, samples))
                if behind >= samples:
                    return
                pcm = pcm[behind * 2 :]
                samples -= behind
            elif -behind > rate * _JITTER_S:
                self._intake.dropped("user_gap_ms", -behind * 1000 // rate)
                if self._resampler is not None:
                    self._resampler.reset()
                self._next = begin
                self._out = self._scaled(begin)
        self._next += samples
        if self._resampler is not None:
            pcm = self._resampler.feed(pcm)
            samples = len(pcm) >> 1
            if not samples:
                return
        self._intake.audio(pcm, self._out, now)
        self._out += samples

    def _scaled(self, position: int) -> int:
        return self._begin + position * self._intake.rate // self._rate

    def input(self, message: Input) -> None:
        """See Port. Raises SessionClosedError once the participant has left."""
        if self._gone:
            raise SessionClosedError("This participant has left.", hint="Join again.")
        self._attendance.input(message)

    def played(self, position: int, at: float | None = None) -> None:
        """See Port."""
        if self.listener is not None:
            self.listener.played(position, self._clock(), at)

    def cleared(self, position: int) -> None:
        """See Port."""
        if self.listener is not None:
            self.listener.cleared(position)

    def away(self) -> None:
        """See Port."""
        self._attendance.away(self.channel)

    def back(self, *, gap_events: int = 0, gap_ms: int = 0) -> None:
        """See Port."""
        self._attendance.back(self.channel, gap_events, gap_ms)

    def ended(self, reason: str = "client_left") -> None:
        """See Port."""
        self._attendance.ended(self.channel, reason)

    def took(self, epoch: int, n: int) -> None:
        """See Port."""
        self._attendance.took(self.channel, epoch, n)

    async def keep(self, state: bytes, told: int) -> None:
        """See Port."""
        await self._attendance.keep(self.channel, state, told)

    def refused(self, error: DuologueError) -> None:
        """Something the participant sent could not be taken; tell everybody who can act."""
        self._attendance.refused(error)
