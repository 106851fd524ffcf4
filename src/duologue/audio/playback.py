"""A playback device: plays the agent's track in real time, stops at once, knows to the sample what sounded when.

It works like a sound card: time is cut into quanta of about 10 ms on a fixed grid; at the beginning of each one the
samples for it are taken, and what has been taken can no longer be stopped. There are two ways to drive it:

* **virtual**: :meth:`PlaybackDevice.run` renders every quantum that is due. It may be called late without changing
  the result, since :meth:`write` and :meth:`clear` first render what was due before them;
* **by a sound card**, whose callback calls :meth:`PlaybackDevice.pull` from its own thread.

The log of :class:`Rendered` runs is the reference for what was heard and how fast a barge-in silenced the agent.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from duologue.audio.level import apply_gain, gain_from_db

#: renders `pcm` (PCM16 mono), whose first sample sounds at the given time
type Sink = Callable[[bytes, float], None]


class Rendered(NamedTuple):
    """Samples that followed each other without a break: `samples` from track `position` on, the first audible at
    `at`.
    """

    position: int
    samples: int
    at: float
    response: str
    offset: int


class _Segment:
    """Audio that waits to be rendered."""

    __slots__ = ("offset", "pcm", "position", "response")

    def __init__(self, pcm: bytes, position: int, response: str, offset: int) -> None:
        self.pcm = pcm
        self.position = position
        self.response = response
        self.offset = offset


class PlaybackDevice:
    """Plays one track. Times are seconds on one monotonic clock; positions are samples at `rate`.

    Args:
        rate: Hz of the track.
        now: when the device was opened; its grid of quanta starts here.
        quantum_s: length of a quantum, rounded to whole samples.
        latency_s: from taking a quantum to hearing it (virtual device; a sound card states it with each pull).
        buffer_s: most that may wait; audio beyond it is dropped and counted.
        sink: gets every run of samples that is rendered.
        keep_log: runs that are remembered.
        virtual: paced by `run`; False: a sound card pulls.

    Attributes:
        log: what was rendered, oldest first.
        position: first position of the track that has not been taken.
        underruns: how often audio ran out in the middle of a response.
        dropped_samples: dropped because the buffer was full; they are not rendered, and count as lost.
        cleared_samples: dropped by :meth:`clear`.
    """

    def __init__(
        self,
        rate: int,
        *,
        now: float = 0.0,
        quantum_s: float = 0.01,
        latency_s: float = 0.0,
        buffer_s: float = 60.0,
        sink: Sink | None = None,
        keep_log: int = 65_536,
        virtual: bool = True,
    ) -> None:
        self.rate = rate
        self.latency_s = latency_s
        self._quantum = max(1, round(rate * quantum_s))
        self._start = now
        self._next = 0  # index of the next quantum to be taken
        self._limit = int(buffer_s * rate)
        self._sink = sink
        self._virtual = virtual
        self._segments: deque[_Segment] = deque()
        self._waiting = 0
        self._lock = threading.Lock()
        self._gain = self._target = 1.0
        self._step = 0.0  # change of gain a sample while ramping
        self._ended: tuple[str, int] | None = None  # response and offset after the last sample taken
        self._starved = False
        self.log: deque[Rendered] = deque(maxlen=keep_log)
        self.position = 0
        self.underruns = 0
        self.dropped_samples = 0
        self.cleared_samples = 0

    @property
    def waiting(self) -> int:
        """Samples that have not been taken yet."""
        return self._waiting

    def write(self, pcm: bytes, *, position: int, response: str, offset: int, now: float) -> None:
        """Take audio in; it is rendered after all that came before, whatever gap there is between positions."""
        with self._lock:
            self._run(now)
            samples = len(pcm) >> 1
            if not samples:
                return
            if self._waiting + samples > self._limit:
                self.dropped_samples += samples
                return
            if self._starved:
                # Silence between two responses is no fault; silence inside one is, and only its continuation tells.
                self.underruns += self._ended == (response, offset)
                self._starved = False
            self._segments.append(_Segment(pcm, position, response, offset))
            self._waiting += samples

    def clear(self, before: int, *, response: str = "", now: float) -> int:
        """Drop what has not been taken below track position `before`, of `response` or of all; returns the first
        position that was not rendered.
        """
        with self._lock:
            self._run(now)
            kept: deque[_Segment] = deque()
            for segment in self._segments:
                samples = len(segment.pcm) >> 1
                if segment.position < before and (not response or segment.response == response):
                    gone = min(samples, before - segment.position)
                    self.cleared_samples += gone
                    self._waiting -= gone
                    if gone == samples:
                        continue
                    segment.pcm = segment.pcm[2 * gone :]
                    segment.position += gone
                    segment.offset += gone
                kept.append(segment)
            self._segments = kept
            self._ended = None
            return self.position

    def duck(self, gain_db: float, *, ramp_ms: int = 0, now: float) -> None:
        """Render at `gain_db` relative to normal from the next quantum on, reached over `ramp_ms`."""
        with self._lock:
            self._run(now)
            self._target = gain_from_db(gain_db)
            ramp = ramp_ms * self.rate / 1000
            self._step = (self._target - self._gain) / ramp if ramp >= 1 else 0.0
            if not self._step:
                self._gain = self._target

    def run(self, now: float) -> None:
        """Render every quantum that begins at or before `now`."""
        with self._lock:
            self._run(now)

    def pull(self, samples: int, at: float) -> bytes:
        """The next `samples` samples for a sound card, padded with silence; the first will be audible at `at`."""
        with self._lock:
            return self._take(samples, at).ljust(2 * samples, b"\0")

    def audible(self, now: float) -> int:
        """The first track position that has not been audible by `now`."""
        with self._lock:
            self._run(now)
            for run in reversed(self.log):
                if run.at <= now:
                    return run.position + min(run.samples, int((now - run.at) * self.rate + 1e-6))
            return self.log[0].position if self.log else self.position

    def dry_at(self) -> float | None:
        """When all that was received will have been heard; None if nothing was, or a sound card decides it."""
        if self._waiting:
            if not self._virtual:
                return None
            quanta = math.ceil(self._waiting / self._quantum)
            return self._time(self._next + quanta) + self.latency_s
        return self.log[-1].at + self.log[-1].samples / self.rate if self.log else None

    def heard(self, response: str) -> list[tuple[int, int]]:
        """The ranges [from, to) of samples of `response` that were rendered, in order of rendering."""
        return [(run.offset, run.offset + run.samples) for run in self.log if run.response == response]

    def _time(self, index: int) -> float:
        return self._start + index * self._quantum / self.rate

    def _run(self, now: float) -> None:
        if not self._virtual:
            return
        if not self._segments:
            # Nothing sounds: the grid goes on, and a quantum that has begun cannot be filled any more.
            due = math.floor((now - self._start) * self.rate / self._quantum + 1e-6) + 1
            if due > self._next:
                self._next = due
                self._starved = True
            return
        while self._segments and (at := self._time(self._next)) <= now + 1e-9:
            self._take(self._quantum, at + self.latency_s)
            self._next += 1
        if not self._segments:
            self._run(now)

    def _take(self, samples: int, at: float) -> bytes:
        out: list[bytes] = []
        need = samples
        while self._segments and need:
            segment = self._segments[0]
            piece = segment.pcm if len(segment.pcm) <= 2 * need else segment.pcm[: 2 * need]
            taken = len(piece) >> 1
            sounds_at = at + (samples - need) / self.rate
            self._log(segment, taken, sounds_at)
            self.position = segment.position + taken
            piece = self._shape(piece)
            out.append(piece)
            if self._sink is not None:
                self._sink(piece, sounds_at)
            need -= taken
            self._waiting -= taken
            if 2 * taken == len(segment.pcm):
                self._ended = (segment.response, segment.offset + taken)
                self._segments.popleft()
            else:
                segment.pcm = segment.pcm[2 * taken :]
                segment.position += taken
                segment.offset += taken
        if need and out:
            self._starved = True
        return b"".join(out)

    def _log(self, segment: _Segment, taken: int, at: float) -> None:
        log = self.log
        if log:
            run = log[-1]
            if (
                run.response == segment.response
                and run.position + run.samples == segment.position
                and run.offset + run.samples == segment.offset
                and abs(run.at + run.samples / self.rate - at) < 0.5 / self.rate
            ):
                log[-1] = Rendered(run.position, run.samples + taken, run.at, run.response, run.offset)
                return
        log.append(Rendered(segment.position, taken, at, segment.response, segment.offset))

    def _shape(self, pcm: bytes) -> bytes:
        if not self._step:
            return pcm if self._gain == 1.0 else apply_gain(pcm, self._gain)
        samples = len(pcm) >> 1
        left = math.ceil((self._target - self._gain) / self._step)
        ramped = min(samples, left)
        end = self._target if ramped == left else self._gain + ramped * self._step
        head = apply_gain(pcm[: 2 * ramped], self._gain, end)
        self._gain = end
        if ramped == left:
            self._step = 0.0
        return head + apply_gain(pcm[2 * ramped :], self._gain) if ramped < samples else head
