"""G.711 against the tables of the recommendation."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.audio import ALAW_SILENCE, ULAW_SILENCE, alaw_decode, alaw_encode, ulaw_decode, ulaw_encode
from duologue.errors import AudioFormatError

EVERY_CODE = bytes(range(256))


def samples(pcm: bytes) -> list[int]:
    return [value for (value,) in struct.iter_unpack("<h", pcm)]


def test_ulaw_codes_mean_what_the_recommendation_says() -> None:
    # ITU-T G.711 table 2, scaled from 14 to 16 bits: code word -> decoder output
    assert samples(ulaw_decode(bytes([0x80, 0x8F, 0x9F, 0xF0, 0xFF, 0x00, 0x7F]))) == [
        32124, 16764, 8316, 120, 0, -32124, 0
    ]  # fmt: skip


def test_alaw_codes_mean_what_the_recommendation_says() -> None:
    # ITU-T G.711 table 1, scaled from 13 to 16 bits, even bits inverted: code word -> decoder output
    assert samples(alaw_decode(bytes([0xAA, 0xD5, 0x2A, 0x55]))) == [32256, 8, -32256, -8]


def test_every_code_survives_the_way_there_and_back() -> None:
    assert ulaw_decode(ulaw_encode(ulaw_decode(EVERY_CODE))) == ulaw_decode(EVERY_CODE)
    assert alaw_encode(alaw_decode(EVERY_CODE)) == EVERY_CODE


@given(st.lists(st.integers(-32_768, 32_767)))
def test_the_error_is_small_against_the_sample(values: list[int]) -> None:
    pcm = struct.pack(f"<{len(values)}h", *values)
    for back in (ulaw_decode(ulaw_encode(pcm)), alaw_decode(alaw_encode(pcm))):
        for was, now in zip(values, samples(back), strict=True):
            assert abs(was - now) <= max(16, abs(was) / 16) or abs(was) > 32_100


def test_silence_is_silent() -> None:
    assert ulaw_encode(b"\0\0") == ULAW_SILENCE
    assert alaw_encode(b"\0\0") == ALAW_SILENCE
    assert samples(ulaw_decode(ULAW_SILENCE)) == [0]


@pytest.mark.parametrize("encode", [ulaw_encode, alaw_encode])
def test_odd_bytes_are_refused(encode: object) -> None:
    with pytest.raises(AudioFormatError, match="two bytes a sample"):
        encode(b"\0")  # type: ignore[operator]
