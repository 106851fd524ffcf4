"""Frames out of chunks of any length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.audio import Framer
from duologue.errors import AudioFormatError

chunks = st.lists(st.integers(0, 50).flatmap(lambda n: st.binary(min_size=2 * n, max_size=2 * n)), max_size=20)


@given(st.integers(1, 40), chunks)
def test_every_byte_comes_out_once_in_order_in_whole_frames(frame_samples: int, pushed: list[bytes]) -> None:
    framer = Framer(frame_samples)
    frames: list[bytes] = []
    for chunk in pushed:
        frames += framer.push(chunk)
        assert framer.pending < frame_samples
    assert all(len(frame) == 2 * frame_samples for frame in frames)
    assert b"".join(frames) + framer.flush() == b"".join(pushed)
    assert framer.pending == 0


def test_the_last_frame_is_filled_up_only_when_asked_and_only_if_there_is_one() -> None:
    framer = Framer(3)
    assert framer.flush(pad=True) == b""
    framer.push(b"\1\1")
    assert framer.flush(pad=True) == b"\1\1\0\0\0\0"


def test_odd_bytes_are_refused_and_nothing_held_is_lost() -> None:
    framer = Framer(2)
    framer.push(b"\1\2")
    with pytest.raises(AudioFormatError, match="two bytes a sample"):
        framer.push(b"\3")
    assert framer.push(b"\3\4") == [b"\1\2\3\4"]


def test_an_empty_frame_cannot_be() -> None:
    with pytest.raises(AudioFormatError, match="0 samples"):
        Framer(0)
