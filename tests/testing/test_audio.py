"""Audio assertions, on synthetic sound with known edges and on real synthesised speech."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from duologue.audio import Span
from duologue.errors import AudioFormatError
from duologue.testing.audio import align, assert_silent, assert_speech, find_all, offset, onset, recognise, speech_spans
from duologue.testing.words import wer

RATE = 16_000


def noise(samples: int, amplitude: float = 3000, seed: int = 1) -> NDArray[np.int16]:
    """Like a voice in that it has no quiet in it; the first and last sample are loud."""
    made = np.random.default_rng(seed).normal(0, amplitude, samples).clip(-32000, 32000)
    made[[0, -1]] = amplitude
    return made.astype(np.int16)


def place(total: int, *parts: tuple[int, NDArray[np.int16]], floor: float = 0.0) -> bytes:
    out = np.random.default_rng(9).normal(0, floor, total) if floor else np.zeros(total)
    for at, part in parts:
        out[at : at + len(part)] += part
    return out.clip(-32768, 32767).astype("<i2").tobytes()


@given(
    st.lists(st.tuples(st.integers(4000, 9000), st.integers(1000, 6000)), max_size=5),
    st.sampled_from([8000, 16000, 24000]),
    st.integers(0, 3),
)
def test_edges_are_exact_on_digital_silence(parts: list[tuple[int, int]], rate: int, floor: int) -> None:
    at, placed, expected = 0, [], []
    for seed, (gap, length) in enumerate(parts):
        at += gap * rate // RATE
        placed.append((at, noise(length * rate // RATE, seed=seed)))
        expected.append(Span(at, at + length * rate // RATE))
        at = expected[-1].end
    pcm = place(at + 4000, *placed, floor=min(floor, 1.5))
    assert speech_spans(pcm, rate) == expected


def test_a_soft_beginning_belongs_to_the_speech() -> None:
    ramp = (noise(8000) * np.linspace(0.01, 1, 8000)).astype(np.int16)
    (span,) = speech_spans(place(30_000, (10_000, ramp)), RATE)
    assert abs(span.start - 10_000) < 16
    assert span.end == 18_000


def test_over_noise_the_edges_are_those_of_the_level() -> None:
    (span,) = speech_spans(place(48_000, (16_000, noise(16_000)), floor=60), RATE)
    assert abs(span.start - 16_000) <= 160
    assert abs(span.end - 32_000) <= 160


def test_sound_up_to_the_ends_of_the_recording() -> None:
    pcm = place(16_000, (0, noise(16_000)))
    assert speech_spans(pcm, RATE) == [Span(0, 16_000)]


def test_a_click_is_no_speech_and_a_short_gap_no_end() -> None:
    pcm = place(40_000, (1000, noise(80)), (10_000, noise(4000)), (16_000, noise(4000)))
    assert speech_spans(pcm, RATE) == [Span(10_000, 20_000)]
    assert speech_spans(pcm, RATE, min_gap_s=0.1) == [Span(10_000, 14_000), Span(16_000, 20_000)]
    assert len(speech_spans(pcm, RATE, min_speech_s=0)) == 2


def test_onset_and_offset() -> None:
    pcm = place(64_000, (8000, noise(8000)), (32_000, noise(8000)))
    assert onset(pcm, RATE) == 8000
    assert onset(pcm, RATE, 0.6) == 32_000
    assert offset(pcm, RATE) == 16_000
    assert offset(pcm, RATE, 1.5) == 40_000
    assert onset(pcm, RATE, 3) is None
    assert offset(bytes(32_000), RATE) is None


def test_silence_is_asserted() -> None:
    pcm = place(64_000, (16_000, noise(1600)))
    assert_silent(pcm, RATE, 0, 1)
    assert_silent(pcm, RATE, 1.1, 4)
    with pytest.raises(AssertionError, match=r"sound at 1\.000–1\.100 s \(first: -2\d dBFS\)"):
        assert_silent(pcm, RATE, 0.5, 1.5)
    with pytest.raises(AssertionError, match="ends at 4"):
        assert_silent(pcm, RATE, 3, 5)
    with pytest.raises(AudioFormatError):
        assert_silent(pcm, RATE, 2, 1)
    with pytest.raises(AudioFormatError):
        assert_silent(pcm + b"\0", RATE, 0, 1)


def test_speech_is_asserted() -> None:
    pcm = place(64_000, (16_000, noise(16_000)))
    assert_speech(pcm, RATE, 1, 2)
    assert_speech(pcm, RATE, 0.6, 2)
    with pytest.raises(AssertionError, match="only 1"):
        assert_speech(pcm, RATE, 0, 4)
    with pytest.raises(AssertionError, match="only 0"):
        assert_speech(pcm, RATE, 2.5, 4)


@given(st.integers(0, 30_000), st.floats(0.05, 4), st.integers(0, 400))
def test_a_clip_is_found_where_it_was_put(at: int, gain: float, floor: int) -> None:
    clip = noise(4000, 2000, seed=5)
    pcm = place(34_000, (at, (clip * gain).astype(np.int16)), floor=min(floor, 1000 * gain))
    match = align(clip.tobytes(), pcm)
    assert match.position == at
    assert match.score > 0.8
    assert match.gain == pytest.approx(gain, rel=0.1)


def test_every_occurrence_is_found() -> None:
    clip = noise(4000, seed=5)
    pcm = place(60_000, (1000, clip), (20_001, (clip * 0.5).astype(np.int16)), (40_000, noise(4000, seed=6)), floor=20)
    assert [match.position for match in find_all(clip.tobytes(), pcm)] == [1000, 20_001]
    assert find_all(noise(4000, seed=7).tobytes(), pcm) == []


def test_clips_that_cannot_be_found() -> None:
    with pytest.raises(AudioFormatError, match="silent"):
        align(bytes(100), bytes(1000))
    with pytest.raises(AudioFormatError, match="longer"):
        align(noise(100).tobytes(), bytes(100))


async def _speak(text: str) -> tuple[bytes, int]:
    from duologue.compute import ThreadCompute
    from duologue.speech.piper import PiperTTS

    compute = ThreadCompute()
    tts = PiperTTS(compute=compute)
    try:
        return b"".join([chunk.pcm async for chunk in tts.synthesize(text)]), tts.rate
    finally:
        await tts.close()
        await compute.close()


def test_real_speech_is_recognised_and_placed() -> None:
    said = "Please tell me what the weather will be like tomorrow morning."
    pcm, rate = asyncio.run(_speak(said))
    recording = bytes(2 * rate) + pcm + bytes(4 * rate) + pcm[: 2 * rate]
    assert align(pcm, recording)[:1] == (rate,)
    begins = onset(recording, rate)
    assert begins is not None
    assert rate <= begins < rate + rate // 2
    assert wer(said, recognise(recording[: 2 * rate + len(pcm)], rate)) <= 0.2
    assert recognise(bytes(2 * rate), rate) == ""

    async def in_a_loop() -> str:
        return recognise(pcm, rate)

    assert wer(said, asyncio.run(in_a_loop())) <= 0.2
