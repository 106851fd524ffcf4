"""The audio of one caller as a recogniser needs it: the open utterance, trimmed, and cut when it is long.

Pure computation on PCM16 at 16 kHz. Recognisers that read whole segments (Moonshine, Whisper) do best on speech with
little silence around it: silence makes them repeat or invent words.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from duologue.audio import check_pcm16
from duologue.speech.base import STT_RATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FRAME = STT_RATE // 100
_KEEP_IDLE = 2 * STT_RATE
_SILENCE_DBFS = -58.0
_RANGE_DB = 34.0
_ABOVE_FLOOR_DB = 7.0
_BELOW_PEAK_DB = 10.0
_MIN_RUN = 3

type Span = tuple[int, int]
"""Two sample positions on the track, [start, end)."""


class UtteranceBuffer:
    """Bounded audio of one track.

    While no utterance is open the last two seconds are kept, so that a voice activity detector may report the onset
    late.

    Args:
        pre_roll: samples before the reported onset that belong to the utterance.
        segment: samples after which an open utterance is cut at its quietest place; recognisers read the pieces apart.
        limit: samples kept at most; beyond it the oldest are lost and counted.
    """

    def __init__(
        self, *, position: int = 0, pre_roll: int = 4_800, segment: int = 12 * STT_RATE, limit: int = 60 * STT_RATE
    ) -> None:
        self._audio = bytearray()
        self._base = position
        self._pre_roll = pre_roll
        self._segment = segment
        self._limit = limit
        self._start: int | None = None
        self._floor = position
        self.lost = 0
        """samples of utterances that were dropped because nobody recognised them in time"""

    @property
    def position(self) -> int:
        """Position after the last sample."""
        return self._base + len(self._audio) // 2

    @property
    def start(self) -> int | None:
        """Where the audio of the open utterance that is not cut off yet starts; None if no utterance is open."""
        return self._start

    def push(self, pcm: bytes) -> None:
        check_pcm16(pcm)
        self._audio += pcm
        if self._start is None:
            self._drop_before(self.position - _KEEP_IDLE)
        elif (excess := self.position - self._limit - self._base) > 0:
            self.lost += max(0, self._base + excess - self._start)
            self._drop_before(self._base + excess)
            self._start = max(self._start, self._base)

    def begin(self, position: int) -> None:
        """Open an utterance at `position`, less the pre-roll; nothing before the end of the last one comes in."""
        if self._start is None:
            self._start = min(self.position, max(position - self._pre_roll, self._floor, self._base))

    def end(self, up_to: int) -> None:
        """Close the utterance; what follows `up_to` may belong to the next one."""
        self._start = None
        self._floor = max(self._floor, min(up_to, self.position))
        self._drop_before(max(self._floor, self.position - _KEEP_IDLE))

    def reset(self, position: int) -> None:
        """Forget everything; the track goes on at `position`."""
        self._audio.clear()
        self._base = self._floor = position
        self._start = None

    def read(self, span: Span) -> bytes:
        """Samples of a span, as far as they are still there."""
        start, end = (min(max(p, self._base), self.position) - self._base for p in span)
        return bytes(self._audio[2 * start : 2 * end])

    def cut(self) -> Span | None:
        """Split off the first part of an utterance longer than a segment, at the quietest place; return its span."""
        if self._start is None or self.position - self._start < self._segment:
            return None
        start, window = self._start, 20
        levels = frame_levels(self.read((start + self._segment // 2, start + self._segment)))
        quietest = min(
            range(len(levels) - window), key=lambda i: float(levels[i : i + window].sum()), default=len(levels) - 1
        )
        end = start + self._segment // 2 + (quietest + window // 2) * _FRAME
        self._start = end
        return start, end

    def speech(self, up_to: int | None = None) -> Span | None:
        """The span of the open utterance in which something is to be heard, with small margins; None if nothing is."""
        if self._start is None:
            return None
        start, end = self._start, self.position if up_to is None else min(up_to, self.position)
        return trim(self.read((start, end)), start)

    def _drop_before(self, position: int) -> None:
        count = min(max(0, position - self._base), len(self._audio) // 2)
        if count:
            del self._audio[: 2 * count]
            self._base += count


def frame_levels(pcm: bytes) -> NDArray[np.float64]:
    """RMS level in dBFS of each whole 10 ms of PCM16 at 16 kHz."""
    import numpy as np

    count = len(pcm) // (2 * _FRAME)
    samples = np.frombuffer(pcm, dtype="<i2", count=count * _FRAME).astype(np.float32).reshape(count, _FRAME)
    power = np.square(samples / 32768.0).mean(axis=1, dtype=np.float64)
    levels: NDArray[np.float64] = 10.0 * np.log10(np.maximum(power, 1e-12))
    return levels


def trim(pcm: bytes, start: int = 0, *, before: float = 0.10, after: float = 0.12) -> Span | None:
    """The span of `pcm` (whose first sample is at `start`) between the first and last speech-like sound.

    A frame counts if it is within 34 dB of the loudest and 7 dB above the noise floor (the 5th percentile), in a run of
    at least 30 ms. `before` and `after` are margins in seconds. None if nothing is louder than -58 dBFS.
    """
    import numpy as np

    levels = frame_levels(pcm)
    if not len(levels):
        return None
    peak = float(np.percentile(levels, 98))
    if peak < _SILENCE_DBFS:
        return None
    floor = float(np.percentile(levels, 5))
    threshold = max(peak - _RANGE_DB, _SILENCE_DBFS, min(floor + _ABOVE_FLOOR_DB, peak - _BELOW_PEAK_DB))
    loud = levels >= threshold
    runs = np.convolve(loud, np.ones(_MIN_RUN), mode="valid") >= _MIN_RUN
    where = np.flatnonzero(runs)
    if not len(where):
        return None
    first = int(where[0]) * _FRAME - math.ceil(before * STT_RATE)
    last = (int(where[-1]) + _MIN_RUN) * _FRAME + math.ceil(after * STT_RATE)
    return start + max(0, first), start + min(len(pcm) // 2, last)
