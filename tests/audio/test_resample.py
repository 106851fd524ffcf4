"""Streaming resampling: exact lengths, no seams, no drift, and what the benchmark's claims rest on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.audio import Resampler, resample
from duologue.errors import AudioFormatError

rates = st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]) | st.integers(8_000, 48_000)


def noise(samples: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(-20_000, 20_000, samples, dtype="<i2").tobytes()


def tone(hertz: float, rate: int, seconds: float = 1.0, amplitude: float = 0.5) -> bytes:
    phase = 2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate
    return np.rint(amplitude * 32767 * np.sin(phase)).astype("<i2").tobytes()


def stream(resampler: Resampler, pcm: bytes, sizes: list[int]) -> bytes:
    """Feed `pcm` in chunks of `sizes` samples, over and over."""
    out, at, turn = b"", 0, 0
    while at < len(pcm):
        size = 2 * sizes[turn % len(sizes)]
        out += resampler.feed(pcm[at : at + size])
        at, turn = at + size, turn + 1
    return out


@settings(max_examples=60)
@given(rates, rates, st.integers(0, 3_000), st.lists(st.integers(1, 700), min_size=1, max_size=5))
def test_length_is_exact_and_chunks_leave_no_seam(src: int, dst: int, samples: int, sizes: list[int]) -> None:
    pcm = noise(samples)
    resampler = Resampler(src, dst)
    out = stream(resampler, pcm, sizes)
    assert len(out) // 2 + resampler.delay_samples >= resampler.map_position(samples)
    out += resampler.flush()
    assert len(out) == 2 * resampler.map_position(samples)
    assert resampler.delay_samples == 0
    assert out == resample(pcm, src, dst)


@given(rates, rates, st.lists(st.integers(0, 10**9), min_size=2))
def test_positions_map_by_the_ratio_in_order(src: int, dst: int, positions: list[int]) -> None:
    resampler = Resampler(src, dst)
    mapped = [resampler.map_position(position) for position in sorted(positions)]
    assert mapped == sorted(mapped)
    for position, there in zip(sorted(positions), mapped, strict=True):
        assert abs(there * src - position * dst) * 2 <= src


@given(st.integers(8_000, 48_000), st.binary(max_size=100).map(lambda data: data[: len(data) // 2 * 2]))
def test_equal_rates_pass_through_untouched(rate: int, pcm: bytes) -> None:
    resampler = Resampler(rate, rate)
    assert resampler.feed(pcm) == pcm
    assert (resampler.delay_samples, resampler.flush()) == (0, b"")


PAIRS = [
    (8_000, 16_000), (8_000, 24_000), (16_000, 8_000), (16_000, 24_000), (16_000, 48_000), (22_050, 16_000),
    (24_000, 8_000), (24_000, 16_000), (44_100, 16_000), (48_000, 8_000), (48_000, 16_000), (48_000, 24_000),
]  # fmt: skip


@pytest.mark.parametrize(("src", "dst"), PAIRS)
def test_no_more_than_two_milliseconds_are_held(src: int, dst: int) -> None:
    resampler = Resampler(src, dst)
    pcm, frame = noise(src), 2 * (src // 50)
    for at in range(0, len(pcm), frame):
        resampler.feed(pcm[at : at + frame])
        assert resampler.delay_samples <= 0.002 * dst


@pytest.mark.parametrize(("src", "dst"), PAIRS)
def test_a_click_comes_out_where_the_position_map_says(src: int, dst: int) -> None:
    samples = np.zeros(src, "<i2")
    samples[src // 3] = 20_000
    out = np.frombuffer(resample(samples.tobytes(), src, dst), "<i2")
    assert abs(int(np.argmax(np.abs(out))) - Resampler(src, dst).map_position(src // 3)) <= 1


@pytest.mark.parametrize(("src", "dst"), PAIRS)
def test_speech_band_passes_and_what_would_fold_into_it_does_not(src: int, dst: int) -> None:
    nyquist = min(src, dst) / 2
    inside = rms(resample(tone(0.85 * nyquist, src), src, dst), dst)
    assert 20 * np.log10(inside / (0.5 * 32767 / 2**0.5)) > -1
    if 1.2 * nyquist < src / 2:
        outside = rms(resample(tone(1.2 * nyquist, src), src, dst), dst)
        assert outside / (0.5 * 32767 / 2**0.5) < 1e-4  # -80 dB


def rms(pcm: bytes, rate: int) -> float:
    edge = rate // 20  # the ends, where the filter sees the tone begin and stop, are no steady state
    return float(np.sqrt(np.mean(np.frombuffer(pcm, "<i2")[edge:-edge].astype(float) ** 2)))


def test_an_hour_in_frames_does_not_drift() -> None:
    resampler = Resampler(44_100, 16_000)
    second, made = bytes(2 * 44_100), 0
    for _ in range(3_600):
        made += len(resampler.feed(second))
        assert resampler.delay_samples <= 32
    made += len(resampler.flush())
    assert made == 2 * 3_600 * 16_000


@given(st.lists(st.integers(0, 400), min_size=1, max_size=8))
def test_positions_go_on_after_a_flush(utterances: list[int]) -> None:
    resampler, made, fed = Resampler(24_000, 16_000), 0, 0
    for samples in utterances:
        fed += samples
        made += len(resampler.feed(noise(samples))) + len(resampler.flush())
        assert made == 2 * resampler.map_position(fed)


def test_reset_forgets() -> None:
    resampler = Resampler(8_000, 16_000)
    resampler.feed(noise(400))
    resampler.reset()
    assert resampler.flush() == b""
    pcm = noise(800, seed=2)
    assert resampler.feed(pcm) + resampler.flush() == resample(pcm, 8_000, 16_000)


def test_bad_input_is_refused_and_the_stream_goes_on() -> None:
    with pytest.raises(AudioFormatError, match="8000 to 48000"):
        Resampler(16_000, 96_000)
    resampler, pcm = Resampler(8_000, 16_000), noise(800)
    out = resampler.feed(pcm[:800])
    with pytest.raises(AudioFormatError, match="two bytes a sample"):
        resampler.feed(b"\0\0\0")
    assert out + resampler.feed(pcm[800:]) + resampler.flush() == resample(pcm, 8_000, 16_000)
