"""What a recording really holds: where somebody speaks, where it is silent, where a known clip is, what is said.

For tests that judge a call by its audio alone. Recordings are PCM16 little-endian mono at `rate` Hz; places are sample
counts from the beginning of the recording, intervals [start, end). Levels are RMS in dBFS.
"""

from __future__ import annotations

import asyncio
import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from duologue.audio import Span, check_pcm16, check_rate, resample, rms_dbfs, voiced_spans
from duologue.errors import AudioFormatError

#: windows at or above this level are sound; speech in these tests lies at -30 to -15 dBFS
SOUND_DBFS = -45.0
#: a stretch counts as silent if no 10 ms of it is at or above this level
SILENT_DBFS = -50.0

# Samples up to this amplitude (-72 dBFS) are the quiet that surrounds synthetic speech; an edge is looked for within
# 150 ms
# of where the level says that sound begins or ends, and is real once 5 ms of quiet lie beyond it.
_QUIET = 8
_QUIET_S = 0.005
_REACH_S = 0.15


class Match(NamedTuple):
    """A place where a clip occurs: `position` of its first sample, `score` up to 1.0 (same shape), `gain` on it."""

    position: int
    score: float
    gain: float


def speech_spans(
    pcm: bytes,
    rate: int,
    *,
    threshold_dbfs: float = SOUND_DBFS,
    min_gap_s: float = 0.2,
    min_speech_s: float = 0.05,
) -> list[Span]:
    """Where somebody speaks (or anything sounds), in order.

    Stretches less than `min_gap_s` apart are one; those shorter than `min_speech_s` are none. The edges are exact to
    the sample where quiet surrounds the sound, as with synthetic speech on digital silence; over noise they are those
    of the level, to 10 ms.
    """
    spans = voiced_spans(pcm, rate, threshold_dbfs, min_gap_s)
    loud = np.abs(_samples(pcm))
    found: list[Span] = []
    for index, span in enumerate(spans):
        before = spans[index - 1].end if index else 0
        after = spans[index + 1].start if index + 1 < len(spans) else len(loud)
        start = _edge(loud[before : span.end][::-1], span.end - span.start, rate)
        end = _edge(loud[span.start : after], span.end - span.start, rate)
        exact = Span(span.end - start, span.start + end)
        if exact.samples >= min_speech_s * rate:
            found.append(exact)
    return found


def onset(pcm: bytes, rate: int, after_s: float = 0.0) -> int | None:
    """The first sample of the first speech that begins at or after `after_s`; None if there is none."""
    return next((span.start for span in speech_spans(pcm, rate) if span.start >= after_s * rate), None)


def offset(pcm: bytes, rate: int, after_s: float = 0.0) -> int | None:
    """The sample after the last of the first speech that ends at or after `after_s`; None if there is none."""
    return next((span.end for span in speech_spans(pcm, rate) if span.end >= after_s * rate), None)


def assert_silent(pcm: bytes, rate: int, from_s: float, to_s: float, *, below_dbfs: float = SILENT_DBFS) -> None:
    """Nothing sounds between two times; says where something does.

    Raises:
        AssertionError: some 10 ms are at or above `below_dbfs`, or the recording ends before `to_s`.
    """
    part = _cut(pcm, rate, from_s, to_s)
    loud = voiced_spans(part, rate, below_dbfs, 0.05)
    if loud:
        places = ", ".join(f"{from_s + span.start / rate:.3f}–{from_s + span.end / rate:.3f} s" for span in loud[:5])
        level = f"{rms_dbfs(part[2 * loud[0].start : 2 * loud[0].end]):.0f} dBFS"
        raise AssertionError(
            f"Expected silence from {from_s:.3f} to {to_s:.3f} s, but there is sound at {places} (first: {level})."
        )


def assert_speech(pcm: bytes, rate: int, from_s: float, to_s: float, *, min_fraction: float = 0.5) -> None:
    """Somebody speaks for at least `min_fraction` of the time between two times.

    Raises:
        AssertionError: they do not, or the recording ends before `to_s`.
    """
    spans = speech_spans(_cut(pcm, rate, from_s, to_s), rate)
    spoken = sum(span.samples for span in spans) / rate
    if spoken < min_fraction * (to_s - from_s):
        raise AssertionError(
            f"Expected speech from {from_s:.3f} to {to_s:.3f} s, but only {spoken:.3f} s of it hold any "
            f"(at {rms_dbfs(_cut(pcm, rate, from_s, to_s)):.0f} dBFS)."
        )


def align(clip: bytes, recording: bytes) -> Match:
    """Where `clip` fits best in `recording`, both at the same rate.

    By normalised cross-correlation, so that a change of volume does not matter; other sound on top lowers the score.
    The clip must lie whole within the recording.

    Raises:
        AudioFormatError: the clip is silent, or longer than the recording.
    """
    score, gain = _correlate(clip, recording)
    best = int(np.argmax(score))
    return Match(best, float(score[best]), float(gain[best]))


def find_all(clip: bytes, recording: bytes, *, min_score: float = 0.7) -> list[Match]:
    """Every place where `clip` occurs in `recording`, in order; occurrences do not overlap by more than half a clip.

    Raises:
        AudioFormatError: as :func:`align`.
    """
    score, gain = _correlate(clip, recording)
    apart = max(len(clip) // 4, 1)
    found: list[Match] = []
    score = score.copy()
    while (peak := float(score.max())) >= min_score:
        best = int(np.argmax(score))
        found.append(Match(best, peak, float(gain[best])))
        score[max(best - apart, 0) : best + apart] = -1.0
    return sorted(found)


def recognise(pcm: bytes, rate: int) -> str:
    """What is said, by the local recogniser; "" if nothing is. Blocks, with or without a running event loop.

    Raises:
        MissingDependencyError: the recogniser or its model is not installed.
    """
    audio = resample(pcm, rate, 16_000) if rate != 16_000 else bytes(check_pcm16(pcm))
    result: list[str] = []
    failure: list[Exception] = []

    def work() -> None:
        try:
            result.append(asyncio.run(_recognise(audio)))
        except Exception as error:
            failure.append(error)

    # a thread of its own, because the caller's may have a loop running
    thread = threading.Thread(target=work, name="recognise")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


async def _recognise(audio: bytes) -> str:
    from duologue.compute import ThreadCompute
    from duologue.speech.moonshine import MoonshineSTT

    compute = ThreadCompute()
    stt = MoonshineSTT(compute=compute)
    texts = []
    try:
        stream = await stt.open()
        # half a second of quiet ends a piece, so that none is longer than what a speaker says in one breath or two
        for span in speech_spans(audio, 16_000, min_gap_s=0.5):
            stream.reset(span.start)
            stream.begin(span.start)
            stream.push(audio[2 * span.start : 2 * span.end] + bytes(2 * 4_000))
            texts.append((await stream.final()).text)
        await stream.close()
    finally:
        await stt.close()
        await compute.close()
    return " ".join(text for text in texts if text)


def _edge(loud: NDArray[np.int32], level_end: int, rate: int) -> int:
    """Where the sound in `loud` ends: amplitudes, read outwards; by its level in the 10 ms before `level_end`."""
    quiet = max(int(_QUIET_S * rate), 1)
    last = max(level_end - rate // 100, 0)
    inside = last + int(np.argmax(loud[last:level_end]))
    near = loud[inside : level_end + int(_REACH_S * rate) + quiet]
    sounds = np.flatnonzero(near > _QUIET)
    if not len(sounds):
        return level_end
    gaps = np.flatnonzero(np.diff(sounds) > quiet)
    if len(gaps):
        return inside + int(sounds[gaps[0]]) + 1
    at_the_end = inside + len(near) == len(loud)
    return inside + int(sounds[-1]) + 1 if at_the_end or len(near) - int(sounds[-1]) > quiet else level_end


def _correlate(clip: bytes, recording: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score and gain for each place where the whole clip fits."""
    part, whole = _samples(clip).astype(np.float64), _samples(recording).astype(np.float64)
    power = float(part @ part)
    if power == 0.0:
        raise AudioFormatError("A silent clip is everywhere and nowhere.", hint="Search for a clip with sound.")
    places = len(whole) - len(part) + 1
    if places < 1:
        raise AudioFormatError("The clip is longer than the recording.", hint="Search in the longer of the two.")
    size = 1 << (len(whole) + len(part) - 1).bit_length()
    products = np.fft.irfft(np.fft.rfft(whole, size) * np.conj(np.fft.rfft(part, size)), size)[:places]
    sums = np.concatenate(([0.0], np.cumsum(whole * whole)))
    local = sums[len(part) :] - sums[:places]
    # where there is next to nothing, rounding would decide
    usable = local > 1e-6 * power
    score = np.where(usable, products / np.sqrt(np.where(usable, local, 1.0) * power), 0.0)
    return score, products / power


def _samples(pcm: bytes) -> NDArray[np.int32]:
    return np.frombuffer(check_pcm16(pcm), "<i2").astype(np.int32)


def _cut(pcm: bytes, rate: int, from_s: float, to_s: float) -> bytes:
    check_pcm16(pcm)
    check_rate(rate)
    if not 0 <= from_s < to_s:
        raise AudioFormatError(f"{from_s} to {to_s} s is no stretch of time.", hint="Give 0 <= from_s < to_s.")
    start, end = round(from_s * rate), round(to_s * rate)
    if end > len(pcm) // 2:
        raise AssertionError(f"The recording ends at {len(pcm) / 2 / rate:.3f} s, before {to_s:.3f} s.")
    return pcm[2 * start : 2 * end]
