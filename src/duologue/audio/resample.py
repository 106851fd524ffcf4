"""Streaming sample-rate conversion of PCM16 mono that holds back next to nothing.

A voice call adds up every millisecond that a stage keeps. libswresample, through PyAV, is a polyphase filter whose only
delay is half its own length; its options below are set for a call rather than for music:

==============  ====  ==========================================================================================
filter_size     30    taps at the lower of both rates: 15 samples of delay, 1.9 ms at 8 kHz, 0.9 ms at 16 kHz
kaiser_beta     8     stop band below -80 dB from 1.2 times the lower Nyquist frequency
cutoff          1.0   pass band to beyond 0.85 times it; what folds back lies above 0.8 times it, out of speech's way
==============  ====  ==========================================================================================

The length follows from Kaiser's estimate, taps = (A - 7.95) / (2.285 * width in radians), with A = 80 dB and a
transition of 0.35 times the lower Nyquist frequency. `benchmarks/resampling.py` measures all three claims.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duologue.audio.format import check_pcm16, check_rate

if TYPE_CHECKING:
    from av import AudioResampler

_OPTIONS = {"filter_type": "kaiser", "filter_size": "30", "kaiser_beta": "8", "cutoff": "1.0"}


class Resampler:
    """Converts a PCM16 mono track from `src_rate` to `dst_rate` Hz, chunk by chunk; chunks may be of any length.

    Sample-exact: input position p sounds at output position `map_position(p)`, and after :meth:`flush` exactly
    `map_position(n)` samples have come out for the n that went in, however they were cut into chunks. Equal rates pass
    through untouched. Raises AudioFormatError for rates outside 8,000 to 48,000 Hz and for odd byte counts. Not
    thread-safe; one a direction and track.
    """

    __slots__ = ("_fed", "_filter", "_made", "dst_rate", "src_rate")

    def __init__(self, src_rate: int, dst_rate: int) -> None:
        self.src_rate = check_rate(src_rate)
        self.dst_rate = check_rate(dst_rate)
        self._fed = 0
        self._made = 0
        self._filter: AudioResampler | None = None

    def map_position(self, position: int) -> int:
        """The output sample at which input sample `position` sounds (the nearest; halves go up)."""
        return (2 * position * self.dst_rate + self.src_rate) // (2 * self.src_rate)

    @property
    def delay_samples(self) -> int:
        """Output samples that the input fed so far is worth and that have not come out yet."""
        return max(0, self.map_position(self._fed) - self._made)

    def feed(self, pcm: bytes) -> bytes:
        """Take PCM16 mono at `src_rate` in, return what is ready of it at `dst_rate`; empty while the filter fills."""
        check_pcm16(pcm)
        samples = len(pcm) // 2
        self._fed += samples
        if self.src_rate == self.dst_rate:
            self._made += samples
            return bytes(pcm)
        if not samples:
            return b""
        return self._convert(pcm)

    def flush(self) -> bytes:
        """Return what the filter holds, to the exact length; what is fed next starts afresh, its positions going on."""
        out = self._convert(None) if self._filter is not None else b""
        self._filter = None
        # The filter ends on its own count, which can differ from ours by the rounding of a sample.
        owed = self.map_position(self._fed) - (self._made - len(out) // 2)
        self._made += owed - len(out) // 2
        return out[: 2 * owed].ljust(2 * owed, b"\0")

    def reset(self) -> None:
        """Forget what the filter holds and start again at position 0, as after a cut in the audio."""
        self._filter = None
        self._fed = self._made = 0

    def _convert(self, pcm: bytes | None) -> bytes:
        import av

        if self._filter is None:
            # One thread: PyAV's default is a pool of threads for each filter graph, which a call would pay for.
            self._filter = av.AudioResampler(
                format="s16", layout="mono", rate=self.dst_rate, options=_OPTIONS, threads=1
            )
        frame: av.AudioFrame | None = None
        if pcm is not None:
            frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // 2)
            frame.sample_rate = self.src_rate
            frame.planes[0].update(pcm)
        out = b"".join(bytes(made.planes[0])[: 2 * made.samples] for made in self._filter.resample(frame))
        self._made += len(out) // 2
        return out


def resample(pcm: bytes, src_rate: int, dst_rate: int) -> bytes:
    """A whole PCM16 mono recording at another rate; its length is `Resampler.map_position` of the original."""
    resampler = Resampler(src_rate, dst_rate)
    return resampler.feed(pcm) + resampler.flush()
