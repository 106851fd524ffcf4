"""Levels, gains, mixing and stretches of sound."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.audio import (
    SILENCE_DBFS,
    Span,
    apply_gain,
    fade_out,
    gain_from_db,
    mix,
    peak_dbfs,
    rms_dbfs,
    split_stereo,
    to_mono,
    to_stereo,
    voiced_spans,
)
from duologue.errors import AudioFormatError

values = st.lists(st.integers(-32_768, 32_767), max_size=60)


def pcm(samples: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(samples)}h", *samples)


def samples(data: bytes) -> list[int]:
    return [value for (value,) in struct.iter_unpack("<h", data)]


def test_levels_of_known_signals() -> None:
    assert rms_dbfs(pcm([-32_768, -32_768])) == 0
    assert rms_dbfs(pcm([16_384, -16_384])) == pytest.approx(-6.02, abs=0.01)
    assert peak_dbfs(pcm([0, 0, -16_384])) == pytest.approx(-6.02, abs=0.01)
    assert rms_dbfs(b"") == rms_dbfs(bytes(20)) == peak_dbfs(b"") == SILENCE_DBFS
    sine = (32_767 * np.sin(2 * np.pi * np.arange(16_000) / 16)).astype("<i2").tobytes()
    assert rms_dbfs(sine) == pytest.approx(-3.01, abs=0.01)


@given(values, st.floats(0, 3))
def test_a_steady_gain_scales_and_clips(given_samples: list[int], gain: float) -> None:
    for was, now in zip(given_samples, samples(apply_gain(pcm(given_samples), gain)), strict=True):
        assert abs(now - max(-32_768, min(32_767, was * gain))) <= 1


@given(st.integers(1, 200), st.floats(0, 1), st.floats(0, 1))
def test_a_ramp_goes_from_start_towards_end(length: int, start: float, end: float) -> None:
    out = samples(apply_gain(pcm([10_000] * length), start, end))
    for index, value in enumerate(out):
        assert abs(value - 10_000 * (start + (end - start) * index / length)) <= 2


def test_ramps_join_without_a_step() -> None:
    half = pcm([20_000] * 100)
    assert apply_gain(half, 1.0, 0.6) + apply_gain(half, 0.6, 0.2) == apply_gain(half + half, 1.0, 0.2)


def test_gain_one_is_the_audio_itself() -> None:
    data = pcm([1, 2, 3])
    assert apply_gain(data, 1.0) is data
    assert gain_from_db(0) == 1
    assert gain_from_db(-20) == pytest.approx(0.1)


@given(values, st.none() | st.integers(-5, 80))
def test_a_fade_keeps_what_comes_before_it_and_the_length(given_samples: list[int], length: int | None) -> None:
    data = pcm(given_samples)
    kept = 0 if length is None else len(given_samples) - max(0, min(length, len(given_samples)))
    out = samples(fade_out(data, length))
    assert len(out) == len(given_samples)
    assert out[:kept] == given_samples[:kept]
    assert all(abs(now) <= abs(was) for was, now in zip(given_samples, out, strict=True))


def test_a_fade_falls_to_silence() -> None:
    assert samples(fade_out(pcm([1_000] * 4), 4)) == [1_000, 750, 500, 250]


@given(values, values)
def test_mixing_adds_and_clips(left: list[int], right: list[int]) -> None:
    length = max(len(left), len(right))
    padded = [track + [0] * (length - len(track)) for track in (left, right)]
    expected = [max(-32_768, min(32_767, a + b)) for a, b in zip(*padded, strict=True)]
    assert samples(mix(pcm(left), pcm(right))) == expected
    assert mix() == b""


@given(values, values)
def test_stereo_comes_apart_as_it_was_put_together(left: list[int], right: list[int]) -> None:
    length = max(len(left), len(right))
    back = [samples(side) for side in split_stereo(to_stereo(pcm(left), pcm(right)))]
    assert back == [track + [0] * (length - len(track)) for track in (left, right)]


def test_mono_is_half_of_each_side() -> None:
    assert samples(to_mono(pcm([100, 300, -40, 0]))) == [200, -20]
    with pytest.raises(AudioFormatError, match="2-channel"):
        to_mono(bytes(6))


@given(
    st.lists(st.tuples(st.integers(30, 100), st.integers(30, 100)), max_size=6),
    st.sampled_from([8_000, 16_000, 24_000, 48_000]),
)
def test_bursts_of_sound_are_found_where_they_are(bursts: list[tuple[int, int]], rate: int) -> None:
    # Lengths in windows of 10 ms: silence, then sound; gaps of at least 0.3 s keep them apart.
    window, data, expected = rate // 100, b"", []
    for quiet, loud in bursts:
        data += bytes(2 * quiet * window)
        expected.append(Span(len(data) // 2, len(data) // 2 + loud * window))
        data += pcm([8_000, -8_000] * (loud * window // 2))
    assert voiced_spans(data + bytes(2 * window), rate, min_gap_s=0.25) == expected


def test_short_gaps_do_not_part_and_quiet_sound_is_silence() -> None:
    loud, quiet, gap = pcm([8_000, -8_000] * 800), pcm([50, -50] * 800), bytes(2 * 1_600)
    assert voiced_spans(loud + gap + loud, 16_000, min_gap_s=0.2) == [Span(0, 4_800)]
    assert voiced_spans(loud + gap + loud, 16_000, min_gap_s=0.05) == [Span(0, 1_600), Span(3_200, 4_800)]
    assert voiced_spans(quiet, 16_000) == []
    assert [span.samples for span in voiced_spans(quiet, 16_000, threshold_dbfs=-70)] == [1_600]
    assert voiced_spans(b"", 16_000) == []


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(AudioFormatError, match="window"):
        voiced_spans(b"", 16_000, window_s=0)
