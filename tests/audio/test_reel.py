"""Against a plain buffer of everything that was ever written."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.audio import Reel
from duologue.errors import AudioFormatError

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 30_000)),
        st.tuples(st.just("read"), st.integers(-100, 120_000), st.integers(-1, 30_000)),
        st.tuples(st.just("discard"), st.integers(-100, 120_000)),
        st.tuples(st.just("clear")),
    ),
    max_size=12,
)


@given(STEPS, st.integers())
def test_reads_what_was_written(steps: list[tuple], seed: int) -> None:
    reel, everything, chance = Reel(), b"", random.Random(seed)
    for step in steps:
        match step:
            case ("write", samples):
                pcm = chance.randbytes(2 * samples)
                reel.write(pcm)
                everything += pcm
            case ("read", position, samples):
                got = reel.read(position, samples)
                if position < reel.start or samples <= 0:
                    assert got == b""
                else:
                    assert got == everything[2 * position : 2 * (position + samples)]
            case ("discard", position):
                before = reel.start
                reel.discard_until(position)
                assert before <= reel.start <= max(before, min(position, reel.end))
            case ("clear",):
                reel.clear()
                assert reel.start == reel.end
        assert reel.end == len(everything) // 2


def test_lets_go_of_all_but_a_block() -> None:
    reel = Reel()
    for _ in range(100):
        reel.write(bytes(1000))
    reel.discard_until(40_000)
    assert 40_000 - 8192 < reel.start <= 40_000
    reel.discard_until(0)
    assert reel.start > 0


def test_refuses_half_a_sample() -> None:
    with pytest.raises(AudioFormatError):
        Reel().write(b"\0")
