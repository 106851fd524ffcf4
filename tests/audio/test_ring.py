"""The bounded ring against a plain list of numbered samples."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from duologue.audio import Ring
from duologue.errors import AudioFormatError


def pcm(positions: range) -> bytes:
    """Audio whose every sample is its own position."""
    return b"".join(struct.pack("<H", position & 0xFFFF) for position in positions)


class RingMachine(RuleBasedStateMachine):
    """`held` is the model: the range of positions that must be in the ring."""

    @initialize(capacity=st.integers(1, 30), position=st.integers(0, 100))
    def build(self, capacity: int, position: int) -> None:
        self.ring = Ring(2 * capacity, position=position)
        self.capacity = capacity
        self.held = range(position, position)
        self.lost = 0

    @rule(samples=st.integers(0, 70))
    def write(self, samples: int) -> None:
        end = self.held.stop + samples
        lost = max(0, end - self.held.start - self.capacity)
        assert self.ring.write(pcm(range(self.held.stop, end))) == lost
        self.held = range(self.held.start + lost, end)
        self.lost += lost

    @rule(samples=st.integers(-1, 40))
    def read(self, samples: int) -> None:
        taken = self.held[: max(0, samples)]
        assert self.ring.read(samples) == pcm(taken)
        self.held = self.held[len(taken) :]

    @rule(samples=st.integers(-1, 40))
    def peek(self, samples: int) -> None:
        assert self.ring.peek(samples) == pcm(self.held[: max(0, samples)])

    @rule(offset=st.integers(-5, 40), samples=st.none() | st.integers(0, 40))
    def read_from(self, offset: int, samples: int | None) -> None:
        position = self.held.start + offset
        if self.held.start <= position <= self.held.stop:
            assert self.ring.read_from(position, samples) == pcm(self.held[offset:][:samples])
        else:
            with pytest.raises(AudioFormatError, match="not in the ring"):
                self.ring.read_from(position, samples)

    @rule(offset=st.integers(-5, 40))
    def discard_until(self, offset: int) -> None:
        gone = min(max(0, offset), len(self.held))
        assert self.ring.discard_until(self.held.start + offset) == gone
        self.held = self.held[gone:]

    @rule()
    def clear(self) -> None:
        assert self.ring.clear() == len(self.held)
        self.held = range(self.held.stop, self.held.stop)

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "ring"):
            return
        assert (self.ring.start, self.ring.end, len(self.ring)) == (self.held.start, self.held.stop, len(self.held))
        assert self.ring.peek(self.capacity) == pcm(self.held)
        assert self.ring.dropped == self.lost
        assert self.ring.capacity == self.capacity


TestRing = RingMachine.TestCase


def test_memory_stays_within_a_small_multiple_of_the_bound() -> None:
    ring = Ring(2 * 1000)
    chunks = [bytes(2 * samples) for samples in (1, 160, 999, 40_000)]
    tracemalloc.start()
    try:
        for _ in range(500):
            for chunk in chunks:
                ring.write(chunk)
                ring.read(20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * 2000


@pytest.mark.parametrize("capacity", [0, 1, 3, -2])
def test_a_size_that_holds_no_whole_samples_is_refused(capacity: int) -> None:
    with pytest.raises(AudioFormatError, match="even size"):
        Ring(capacity)


def test_odd_bytes_are_refused_and_change_nothing() -> None:
    ring = Ring(8)
    ring.write(b"\1\2")
    with pytest.raises(AudioFormatError, match="two bytes a sample"):
        ring.write(b"\1")
    assert (ring.start, ring.end) == (0, 1)
