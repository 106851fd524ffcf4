"""Loudness and simple arithmetic on PCM16: levels, gain ramps, mixing, voiced stretches, stereo.

Levels are in dBFS, where a full-scale *square* wave is 0 dBFS (RMS over 32768), so a full-scale sine is -3.01 dBFS.
"""

from __future__ import annotations

import audioop
import math
from typing import TYPE_CHECKING, NamedTuple

from duologue.audio.format import check_pcm16, check_rate
from duologue.errors import AudioFormatError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: the level given for digital silence, below what 16 bits can hold (-90.3 dBFS)
SILENCE_DBFS = -120.0


class Span(NamedTuple):
    """A stretch of samples, [`start`, `end`)."""

    start: int
    end: int

    @property
    def samples(self) -> int:
        return self.end - self.start


def rms_dbfs(pcm: bytes) -> float:
    """Root mean square level of PCM16 in dBFS; SILENCE_DBFS when empty or all zero."""
    return _dbfs(audioop.rms(check_pcm16(pcm), 2))


def peak_dbfs(pcm: bytes) -> float:
    """Level of the largest sample of PCM16 in dBFS; SILENCE_DBFS when empty or all zero."""
    return _dbfs(audioop.max(check_pcm16(pcm), 2))


def gain_from_db(db: float) -> float:
    """The factor on amplitudes for a change of `db` decibels."""
    return float(10.0 ** (db / 20.0))


def apply_gain(pcm: bytes, start_gain: float, end_gain: float | None = None) -> bytes:
    """PCM16 mono scaled by a factor that goes linearly from `start_gain` at the first sample towards `end_gain`.

    `end_gain` (default: `start_gain`) is what the sample after the last would get, so chunk after chunk a ramp has no
    step. Values beyond full scale are clipped.
    """
    check_pcm16(pcm)
    end = start_gain if end_gain is None else end_gain
    if start_gain == end:
        return pcm if end == 1.0 else audioop.mul(pcm, 2, end)
    import numpy as np

    samples = np.frombuffer(pcm, "<i2").astype(np.float32)
    ramp = start_gain + (end - start_gain) * np.arange(len(samples), dtype=np.float32) / max(1, len(samples))
    return _to_pcm16(samples * ramp)


def fade_out(pcm: bytes, samples: int | None = None) -> bytes:
    """PCM16 mono whose last `samples` (default: all) fall linearly to silence."""
    check_pcm16(pcm)
    total = len(pcm) // 2
    length = total if samples is None else max(0, min(samples, total))
    keep = 2 * (total - length)
    return pcm[:keep] + apply_gain(pcm[keep:], 1.0, 0.0)


def mix(*tracks: bytes) -> bytes:
    """The sum of PCM16 mono tracks that begin together, as long as the longest; clipped at full scale."""
    length = max((len(check_pcm16(track)) for track in tracks), default=0)
    out = bytes(length)
    for track in tracks:
        out = audioop.add(out, bytes(track).ljust(length, b"\0"), 2)
    return out


def to_stereo(left: bytes, right: bytes) -> bytes:
    """Two PCM16 mono tracks interleaved, the shorter padded with silence."""
    check_pcm16(left)
    check_pcm16(right)
    length = max(len(left), len(right))
    return audioop.add(
        audioop.tostereo(bytes(left).ljust(length, b"\0"), 2, 1, 0),
        audioop.tostereo(bytes(right).ljust(length, b"\0"), 2, 0, 1),
        2,
    )


def split_stereo(pcm: bytes) -> tuple[bytes, bytes]:
    """The left and the right PCM16 mono track of interleaved stereo."""
    check_pcm16(pcm, channels=2)
    return audioop.tomono(pcm, 2, 1, 0), audioop.tomono(pcm, 2, 0, 1)


def to_mono(pcm: bytes) -> bytes:
    """Interleaved PCM16 stereo mixed down to mono, half of each side."""
    check_pcm16(pcm, channels=2)
    return audioop.tomono(pcm, 2, 0.5, 0.5)


def voiced_spans(
    pcm: bytes, rate: int, threshold_dbfs: float = -45.0, min_gap_s: float = 0.2, *, window_s: float = 0.01
) -> list[Span]:
    """The stretches of PCM16 mono that are louder than silence, as sample spans in order.

    The level is taken over windows of `window_s`; stretches less than `min_gap_s` apart count as one. This is an energy
    measure for recordings and tests, not a detector of speech.

    Args:
        pcm: PCM16 mono at `rate` Hz.
        threshold_dbfs: windows at or above this RMS level are voiced.
    """
    check_pcm16(pcm)
    check_rate(rate)
    if window_s <= 0:
        raise AudioFormatError(f"A window of {window_s} s cannot be.", hint="Use for example 0.01.")
    total = len(pcm) // 2
    window = max(1, round(window_s * rate))
    gap = min_gap_s * rate
    spans: list[Span] = []
    for index in _loud_windows(pcm, window, threshold_dbfs):
        start, end = index * window, min(total, (index + 1) * window)
        if spans and (start == spans[-1].end or start - spans[-1].end < gap):
            spans[-1] = Span(spans[-1].start, end)
        else:
            spans.append(Span(start, end))
    return spans


def _loud_windows(pcm: bytes, window: int, threshold_dbfs: float) -> list[int]:
    import numpy as np

    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    starts = np.arange(0, len(samples), window)
    if not len(starts):
        return []
    lengths = np.minimum(window, len(samples) - starts)
    power = np.add.reduceat(samples * samples, starts) / lengths
    floor = (32768.0 * gain_from_db(threshold_dbfs)) ** 2
    return [int(index) for index in np.nonzero(power >= floor)[0]]


def _dbfs(amplitude: int) -> float:
    return 20.0 * math.log10(amplitude / 32768.0) if amplitude else SILENCE_DBFS


def _to_pcm16(samples: NDArray[np.floating]) -> bytes:
    import numpy as np

    return np.clip(np.rint(samples), -32768, 32767).astype("<i2").tobytes()
