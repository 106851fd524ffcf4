"""The binary audio frame, field by field as `docs/protocol.md` draws it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ProtocolError
from duologue.wire.duologue.frames import (
    AGENT_HEADER,
    LAST,
    MAX_PAYLOAD,
    USER_HEADER,
    decode_agent_audio,
    decode_user_audio,
    encode_agent_audio,
    encode_user_audio,
)
from duologue.wire.duologue.options import FRAME_BYTES

u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


def test_user_audio_is_laid_out_as_documented() -> None:
    frame = encode_user_audio(2, 258, 65_536, b"\x01\x00\xff\xff")
    assert frame == bytes.fromhex("11 00 1800 02000000 0201000000000000 0000010000000000 0100 ffff")


def test_agent_audio_is_laid_out_as_documented() -> None:
    frame = encode_agent_audio(1, 3, 480, 7, 9, b"\x05\x00", LAST)
    assert frame == bytes.fromhex("12 01 2000 01000000 0300000000000000 e001000000000000 07000000 09000000 0500")


def test_headers_keep_samples_aligned_and_the_largest_frame_is_64_kilobytes() -> None:
    assert USER_HEADER % 8 == AGENT_HEADER % 8 == 0
    assert len(encode_agent_audio(1, 1, 0, 1, 0, bytes(MAX_PAYLOAD))) == FRAME_BYTES


@given(u32, u64, u64, st.binary(max_size=100))
def test_user_audio_round_trips(epoch: int, n: int, position: int, pcm: bytes) -> None:
    assert decode_user_audio(encode_user_audio(epoch, n, position, pcm)) == (epoch, n, position, pcm)


@given(u32, u64, u64, u32, u32, st.integers(0, 255), st.binary(max_size=100))
def test_agent_audio_round_trips(
    epoch: int, n: int, position: int, number: int, offset: int, flags: int, pcm: bytes
) -> None:
    frame = encode_agent_audio(epoch, n, position, number, offset, pcm, flags)
    assert decode_agent_audio(frame) == (epoch, n, position, number, offset, flags, pcm)


def test_a_longer_header_of_a_later_version_is_skipped() -> None:
    frame = encode_user_audio(1, 1, 0, b"")
    longer = frame[:2] + (32).to_bytes(2, "little") + frame[4:] + b"NEWFIELD" + b"\x07\x00"
    assert decode_user_audio(longer).pcm == b"\x07\x00"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", "malformed"),
        (b"\x11", "malformed"),
        (b"\x11" + bytes(22), "malformed"),
        (b"\x12" + bytes(40), "unknown_frame"),
        (b"\x21" + bytes(40), "unknown_frame"),
        (b"\x11\x00\x10\x00" + bytes(40), "malformed"),  # header shorter than ours
        (b"\x11\x00\x1c\x00" + bytes(40), "malformed"),  # no multiple of 8
        (b"\x11\x00\x40\x00" + bytes(40), "malformed"),  # beyond the frame
        (b"\x11\x00\x18\x00" + bytes(FRAME_BYTES), "too_big"),
    ],
)
def test_broken_frames_are_typed_errors(frame: bytes, code: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_user_audio(frame)
    assert caught.value.code == code


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_typed_error(data: bytes) -> None:
    for decode in (decode_user_audio, decode_agent_audio):
        code = ""
        try:
            decode(data)
        except ProtocolError as error:
            code = error.code
        assert code in {"", "malformed", "unknown_frame"}
