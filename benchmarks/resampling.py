"""Resampling: what it keeps back, what it lets fold into the speech band, what it takes from it.

For each pair of rates of voice calls, and for each resampler that is here:

delay     audio fed less audio given out, worst over a second in frames of 20 ms, of 10 ms and of uneven lengths, plus
          how far the output is shifted against the input
aliasing  tones from 1.2 times the lower Nyquist frequency up: how much of one is left in the output (going down); tones
          up to 0.85 times it: what appears above 1.2 times it (going up)
loss      tones from 0.1 to 0.85 times the lower Nyquist frequency: how much weaker one comes out, worst
"""

from __future__ import annotations

import importlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Options, Result, main, show
from duologue.audio import Resampler

REACH_DELAY_MS, REACH_ALIAS_DB, REACH_LOSS_DB = 2.0, -80.0, 1.0
EDGE = 0.05  # seconds at both ends that are no steady state
AMPLITUDE = 0.9 * 32767

PAIRS = [
    (8_000, 16_000), (8_000, 24_000), (8_000, 48_000), (16_000, 8_000), (16_000, 24_000), (16_000, 48_000),
    (22_050, 8_000), (22_050, 16_000), (22_050, 24_000), (22_050, 48_000), (24_000, 8_000), (24_000, 16_000),
    (24_000, 48_000), (44_100, 8_000), (44_100, 16_000), (44_100, 24_000), (44_100, 48_000), (48_000, 8_000),
    (48_000, 16_000), (48_000, 24_000),
]  # fmt: skip
QUICK_PAIRS = [(8_000, 16_000), (16_000, 8_000), (16_000, 24_000), (24_000, 16_000), (22_050, 16_000), (48_000, 16_000)]


class Stream(Protocol):
    """A streaming resampler: PCM16 in, what is ready out."""

    def feed(self, pcm: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Ratecv:
    """The standard library's linear interpolation."""

    def __init__(self, src: int, dst: int) -> None:
        self._ratecv = importlib.import_module("audioop").ratecv
        self._rates, self._state = (src, dst), None

    def feed(self, pcm: bytes) -> bytes:
        out, self._state = self._ratecv(pcm, 2, 1, *self._rates, self._state)
        return bytes(out)

    def flush(self) -> bytes:
        return b""


class Soxr:
    """libsoxr's stream at one of its qualities."""

    def __init__(self, src: int, dst: int, quality: str) -> None:
        self._stream = importlib.import_module("soxr").ResampleStream(src, dst, 1, dtype="int16", quality=quality)

    def feed(self, pcm: bytes, last: bool = False) -> bytes:
        return bytes(self._stream.resample_chunk(np.frombuffer(pcm, "<i2"), last=last).tobytes())

    def flush(self) -> bytes:
        return self.feed(b"", last=True)


@dataclass(frozen=True)
class Measured:
    """One resampler at one pair of rates."""

    delay_ms: float
    alias_db: float | None  # None where no frequency qualifies
    loss_db: float
    frame_us: float


def resamplers() -> dict[str, Callable[[int, int], Stream]]:
    """What can be compared here; ours first."""
    found: dict[str, Callable[[int, int], Stream]] = {"duologue": Resampler, "audioop.ratecv": Ratecv}
    try:
        importlib.import_module("soxr")
    except ImportError:
        return found
    for quality in ("QQ", "LQ", "MQ", "HQ", "VHQ"):
        found[f"soxr {quality}"] = partial(Soxr, quality=quality)
    return found


def measure(options: Options) -> Result:
    pairs = QUICK_PAIRS if options.quick else PAIRS
    tones = 4 if options.quick else 12
    found = {
        name: {pair: measure_pair(make, *pair, tones, options.seed) for pair in pairs}
        for name, make in resamplers().items()
    }
    figure = worst_of(list(found["duologue"].values()))
    rows: list[Sequence[object]] = [
        [f"{src} → {dst} Hz", pair.delay_ms, decibels(pair.alias_db), f"{pair.loss_db:.2f}", pair.frame_us]
        for (src, dst), pair in found["duologue"].items()
    ]
    for name, by_pair in found.items():
        every = list(by_pair.values())
        worst = worst_of(every)
        costs = [pair.frame_us for pair in every]
        rows.append(
            [
                f"{name}, worst of {len(every)}",
                worst["delay_ms"],
                decibels(worst["alias_db"]),
                f"{worst['loss_db']:.2f}",
                f"{show(min(costs))}–{show(max(costs))}",
            ]
        )
    notes = ["Cost: one 20 ms frame, bytes to bytes, mean of 200; worst rows: cheapest to dearest pair."]
    if not any(name.startswith("soxr") for name in found):
        notes.append("soxr is not installed here, so it was not compared: pip install soxr")
    return Result(
        figure=figure,
        unit="ms, dB, dB",
        reach="delay <= 2 ms; aliasing from 1.2 x the lower Nyquist <= -80 dB; loss to 0.85 x <= 1 dB",
        # Nothing here is drawn by chance but the uneven chunk lengths: fewer pairs and tones decide as well.
        holds=(
            figure["delay_ms"] <= REACH_DELAY_MS
            and figure["alias_db"] <= REACH_ALIAS_DB
            and figure["loss_db"] <= REACH_LOSS_DB
        ),
        n=len(pairs),
        columns=["", "delay ms", "aliasing dB", "loss dB", "µs a frame"],
        rows=rows,
        notes=notes,
        packages=["av", "numpy", "soxr", "audioop-lts"],
        details={
            "duologue": {f"{src}-{dst}": vars(pair) for (src, dst), pair in found["duologue"].items()},
            "others": {name: worst_of(list(by_pair.values())) for name, by_pair in found.items() if name != "duologue"},
        },
    )


def worst_of(pairs: Sequence[Measured]) -> dict[str, float]:
    return {
        "delay_ms": max(pair.delay_ms for pair in pairs),
        "alias_db": max(pair.alias_db for pair in pairs if pair.alias_db is not None),
        "loss_db": max(pair.loss_db for pair in pairs),
    }


def measure_pair(make: Callable[[int, int], Stream], src: int, dst: int, tones: int, seed: int) -> Measured:
    nyquist = min(src, dst) / 2
    inside = [nyquist * float(share) for share in np.linspace(0.1, 0.85, tones)]
    outputs = [(hertz, convert(make(src, dst), tone(hertz, src), src)) for hertz in inside]
    reference = AMPLITUDE / 2**0.5
    if src > dst:
        top = 0.98 * src / 2
        outside = [float(hertz) for hertz in np.linspace(1.2 * nyquist, top, tones)] if 1.2 * nyquist < top else []
        aliases = [rms(convert(make(src, dst), tone(hertz, src), src), dst) / reference for hertz in outside]
    else:
        aliases = [share_above(out, dst, 1.2 * nyquist) for _, out in outputs] if 1.2 * nyquist < dst / 2 else []
    return Measured(
        delay_ms=worst_delay_ms(make, src, dst, seed),
        alias_db=db(max(aliases)) if aliases else None,
        loss_db=max(-db(rms(out, dst) / reference) for _, out in outputs),
        frame_us=frame_cost_us(make(src, dst), src),
    )


def worst_delay_ms(make: Callable[[int, int], Stream], src: int, dst: int, seed: int) -> float:
    chance = random.Random(seed)
    cuts: list[Iterable[int]] = [
        [src // 50] * 50,
        [src // 100] * 100,
        [chance.randrange(1, src // 25) for _ in range(80)],
    ]
    worst = 0.0
    for cut in cuts:
        stream, fed, made = make(src, dst), 0, 0
        for samples in cut:
            made += len(stream.feed(bytes(2 * samples))) // 2
            fed += samples
            worst = max(worst, fed / src - made / dst)
    return 1e3 * (worst + shift(make(src, dst), src, dst))


def shift(stream: Stream, src: int, dst: int) -> float:
    """How many seconds later than in the input a click lies in the output; less than half a sample is none."""
    clicks = np.zeros(src, "<i2")
    clicks[src // 2] = 20_000
    out = convert(stream, clicks, src)
    late = int(np.argmax(np.abs(out))) / dst - (src // 2) / src
    return late if abs(late) > 0.5 / min(src, dst) else 0.0


def frame_cost_us(stream: Stream, src: int) -> float:
    frame = tone(440, src, 0.02).tobytes()
    frames = 200
    for _ in range(20):  # what is built at the first frame is not the cost of a frame
        stream.feed(frame)
    began = time.perf_counter()
    for _ in range(frames):
        stream.feed(frame)
    return 1e6 * (time.perf_counter() - began) / frames


def tone(hertz: float, rate: int, seconds: float = 0.6) -> NDArray[np.int16]:
    phase = 2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate
    return np.rint(AMPLITUDE * np.sin(phase)).astype("<i2")


def convert(stream: Stream, samples: NDArray[np.int16], src: int) -> NDArray[np.int16]:
    """A whole signal through the stream, in frames of 20 ms."""
    frame = src // 50
    parts = [stream.feed(samples[at : at + frame].tobytes()) for at in range(0, len(samples), frame)]
    return np.frombuffer(b"".join([*parts, stream.flush()]), "<i2")


def steady(out: NDArray[np.int16], rate: int) -> NDArray[np.float64]:
    edge = int(EDGE * rate)
    return out[edge:-edge].astype(np.float64)


def rms(out: NDArray[np.int16], rate: int) -> float:
    return float(np.sqrt(np.mean(steady(out, rate) ** 2)))


def share_above(out: NDArray[np.int16], rate: int, hertz: float) -> float:
    """Amplitude above `hertz` relative to the whole, by a windowed spectrum."""
    signal = steady(out, rate)
    spectrum = np.abs(np.fft.rfft(signal * np.blackman(len(signal)))) ** 2
    above = np.fft.rfftfreq(len(signal), 1 / rate) >= hertz
    return float(np.sqrt(spectrum[above].sum() / spectrum.sum()))


def db(ratio: float) -> float:
    return float(20 * np.log10(max(ratio, 1e-7)))


def decibels(value: float | None) -> str | None:
    """For the table: 16 bits hold no more than about 100 dB, so what is below is said to be just that."""
    if value is None:
        return None
    return f"{value:.1f}" if value > -120 else "< -120"


if __name__ == "__main__":
    main("resampling", __doc__, measure)
