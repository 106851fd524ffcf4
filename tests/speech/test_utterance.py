"""The audio of utterances: what belongs to them, what is trimmed, where long ones are cut; bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.errors import AudioFormatError
from duologue.speech.utterance import UtteranceBuffer, frame_levels, trim

RATE = 16_000


def tone(seconds: float, level: float = 0.2) -> bytes:
    n = np.arange(int(seconds * RATE))
    return (32_767 * level * np.sin(n * 0.2)).astype("<i2").tobytes()


def hush(seconds: float, noise: float = 0.0) -> bytes:
    count = int(seconds * RATE)
    return (np.random.default_rng(0).normal(0, 32_767 * noise + 1e-9, count)).astype("<i2").tobytes()


def test_trim_keeps_the_sound_and_small_margins() -> None:
    assert trim(hush(1) + tone(0.5) + hush(1)) == (RATE - 1_600, RATE + RATE // 2 + 1_920)
    assert trim(hush(1) + tone(0.5) + hush(1), 1_000) == (RATE - 600, RATE + RATE // 2 + 2_920)
    assert trim(tone(0.5)) == (0, RATE // 2)
    noisy = trim(hush(1, 0.005) + tone(0.5) + hush(1, 0.005))
    assert noisy is not None
    assert abs(noisy[0] - (RATE - 1_600)) <= 320
    assert abs(noisy[1] - (1.5 * RATE + 1_920)) <= 320
    for nothing in (b"", bytes(100), hush(1), hush(1, 0.0005), hush(0.5) + tone(0.01) + hush(0.5)):
        assert trim(nothing) is None


def test_an_utterance_starts_before_its_reported_onset_but_not_before_the_last_one_ended() -> None:
    buffer = UtteranceBuffer(position=1_000)
    buffer.push(hush(1))
    buffer.begin(1_000 + 12_000)
    assert buffer.start == 1_000 + 12_000 - 4_800
    buffer.begin(1_000)
    assert buffer.start == 8_200  # open already
    buffer.push(tone(1))
    buffer.end(25_000)
    assert buffer.speech() is None
    buffer.begin(26_000)
    assert buffer.start == 25_000
    buffer.end(90_000)
    buffer.begin(buffer.position + 500)
    assert buffer.start == buffer.position  # an onset beyond what has come starts with what comes next


def test_speech_is_what_sounds_up_to_a_position() -> None:
    buffer = UtteranceBuffer()
    buffer.begin(0)
    buffer.push(hush(0.5) + tone(1) + hush(1) + tone(1) + hush(1))
    assert buffer.speech() == (8_000 - 1_600, 56_000 + 1_920)
    assert buffer.speech(36_000) == buffer.speech(26_500) == (8_000 - 1_600, 24_000 + 1_920)
    span = buffer.speech()
    assert span is not None
    assert len(buffer.read(span)) == 2 * (span[1] - span[0])


def test_long_utterances_are_cut_at_their_quietest_place() -> None:
    buffer = UtteranceBuffer()
    buffer.begin(0)
    buffer.push(tone(9) + hush(0.4) + tone(5))
    span = buffer.cut()
    assert span is not None
    assert span[0] == 0
    assert 9.0 * RATE < span[1] < 9.4 * RATE
    assert buffer.start == span[1]
    assert buffer.cut() is None


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["push", "begin", "end", "cut", "reset"]), st.integers(0, 40_000)), max_size=40)
)
def test_memory_is_bounded_and_positions_hold(steps: list[tuple[str, int]]) -> None:
    buffer = UtteranceBuffer(limit=64_000, segment=32_000)
    position = 0
    for action, n in steps:
        if action == "push":
            buffer.push(bytes(2 * n))
            position += n
        elif action == "begin":
            buffer.begin(position - n)
        elif action == "end":
            buffer.end(position - n)
        elif action == "cut":
            span = buffer.cut()
            assert span is None or span[0] < span[1] <= position
        else:
            buffer.reset(n)
            position = n
        assert buffer.position == position
        assert len(buffer.read((0, position))) // 2 <= 64_000
        assert buffer.start is None or buffer.start <= position


def test_audio_that_nobody_recognises_is_lost_and_counted() -> None:
    buffer = UtteranceBuffer(limit=32_000)
    buffer.begin(0)
    for _ in range(5):
        buffer.push(tone(1))
    assert buffer.lost == 48_000
    assert buffer.start == 48_000
    with pytest.raises(AudioFormatError):
        buffer.push(b"\0")


def test_levels_are_in_dbfs() -> None:
    assert frame_levels(tone(0.1, 1.0)) == pytest.approx(np.full(10, -3.01), abs=0.2)
    assert frame_levels(bytes(640)) == pytest.approx([-120, -120])
