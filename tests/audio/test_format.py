"""Formats, and the checks of what comes in."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.audio import Format, check_declared, check_pcm16, check_rate
from duologue.errors import AudioFormatError


@given(st.integers(8_000, 48_000), st.sampled_from([1, 2]), st.integers(0, 10_000))
def test_samples_and_bytes_are_each_others_inverse(rate: int, channels: int, samples: int) -> None:
    audio = Format(rate, channels)
    assert audio.samples(bytes(audio.size(samples))) == samples
    assert audio.at(audio.seconds(samples)) == samples


@given(st.one_of(st.integers(max_value=7_999), st.integers(min_value=48_001)))
def test_rates_outside_the_range_are_refused(rate: int) -> None:
    with pytest.raises(AudioFormatError, match="8000 to 48000"):
        Format(rate)


@pytest.mark.parametrize("rate", [16_000.0, "16000", None, True])
def test_a_rate_is_a_whole_number(rate: object) -> None:
    with pytest.raises(AudioFormatError, match="whole number"):
        check_rate(rate)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": 16_000, "channels": 3}, "3 channels"),
        ({"rate": 16_000, "channels": 0}, "0 channels"),
        ({"rate": 16_000, "encoding": "opus"}, "encoding 'opus' is unknown"),
        ({"rate": 16_000, "encoding": "ulaw"}, "mono at 8000 Hz"),
        ({"rate": 8_000, "channels": 2, "encoding": "alaw"}, "mono at 8000 Hz"),
    ],
)
def test_a_format_that_cannot_be_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(AudioFormatError, match=said):
        Format(**options)  # type: ignore[arg-type]


def test_a_telephone_sample_is_one_byte() -> None:
    phone = Format(8_000, encoding="ulaw")
    assert phone.samples(bytes(160)) == 160
    assert phone.seconds(160) == 0.02


@given(st.binary())
def test_only_whole_samples_pass(data: bytes) -> None:
    if len(data) % 2:
        with pytest.raises(AudioFormatError, match=f"{len(data)} bytes were given"):
            check_pcm16(data)
    else:
        assert check_pcm16(data) is data


def test_half_a_stereo_frame_is_refused() -> None:
    check_pcm16(bytes(8), channels=2)
    with pytest.raises(AudioFormatError, match="2-channel"):
        check_pcm16(bytes(6), channels=2)


def test_text_is_not_audio() -> None:
    with pytest.raises(AudioFormatError, match="must be bytes, not str"):
        Format(16_000).check("hello")  # type: ignore[arg-type]
    with pytest.raises(AudioFormatError, match="must be bytes, not str"):
        Format(8_000, encoding="ulaw").check("hello")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"rate": 16_000, "channels": 2}, "stereo audio came where mono was agreed.*Mix down"),
        ({"rate": 16_000, "channels": 6}, "6-channel audio came"),
        ({"rate": 8_000}, "8000 Hz came where 16000 Hz was agreed.*Resample"),
        ({"rate": 16_000, "encoding": "ulaw"}, "ulaw audio came where pcm16 was agreed"),
    ],
)
def test_what_was_not_agreed_is_refused_with_what_to_do(declared: dict[str, object], said: str) -> None:
    with pytest.raises(AudioFormatError, match=said):
        check_declared(Format(16_000), **declared)  # type: ignore[arg-type]


def test_what_was_agreed_passes() -> None:
    check_declared(Format(24_000, 2), rate=24_000, channels=2)


def test_importing_the_room_loads_neither_pyav_nor_numpy() -> None:
    code = "import duologue.audio, sys; print(sorted({'av', 'numpy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
