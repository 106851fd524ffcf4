"""The playback device to the sample: when what was rendered, and how fast it falls silent."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.audio.playback import PlaybackDevice, Rendered

RATE = 1000  # one sample a millisecond; quanta of ten


def ramp(start: int, count: int) -> bytes:
    return struct.pack(f"<{count}h", *range(start, start + count))


def samples(pcm: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(pcm) // 2}h", pcm))


def test_audio_is_rendered_in_real_time_from_the_next_quantum_on() -> None:
    device = PlaybackDevice(RATE, now=5.0)
    device.write(ramp(0, 35), position=0, response="r", offset=0, now=5.003)
    device.run(5.009)
    assert device.position == 0
    device.run(5.01)
    assert device.position == 10
    assert device.audible(5.0125) == 2
    device.run(6.0)
    assert list(device.log) == [Rendered(0, 35, 5.01, "r", 0)]
    assert device.audible(6.0) == 35
    assert device.heard("r") == [(0, 35)]


def test_being_run_late_changes_nothing() -> None:
    logs = []
    for step in (0.001, 0.05):
        device = PlaybackDevice(RATE)
        now = 0.0
        for k in range(20):
            device.write(ramp(k, 17), position=17 * k, response="r", offset=17 * k, now=k * 0.02 + 0.001)
            while now < (k + 1) * 0.02:
                device.run(now)
                now += step
        device.run(10.0)
        logs.append(list(device.log))
    assert logs[0] == logs[1]


def test_a_clear_is_effective_with_the_next_quantum() -> None:
    device = PlaybackDevice(RATE)
    device.write(ramp(0, 500), position=0, response="r", offset=0, now=0.0)
    played = device.clear(500, now=0.1234)
    assert played == 120  # quanta begin at 10, 20 … 120 ms: what the twelfth took can no longer be stopped
    device.run(1.0)
    (run,) = device.log
    silent_at = run.at + run.samples / RATE
    assert silent_at - 0.1234 < 0.01
    assert device.cleared_samples == 380
    device.write(ramp(0, 10), position=500, response="s", offset=0, now=1.0)
    device.run(2.0)
    assert device.log[-1] == Rendered(500, 10, 1.01, "s", 0)
    assert device.underruns == 0


def test_clearing_one_response_keeps_the_other_and_clearing_below_a_line_keeps_what_is_above() -> None:
    device = PlaybackDevice(RATE)
    device.write(ramp(0, 100), position=0, response="a", offset=0, now=0.0)
    device.write(ramp(0, 100), position=100, response="b", offset=0, now=0.0)
    device.clear(1000, response="a", now=0.005)
    assert device.waiting == 100
    device.clear(140, now=0.005)
    device.run(1.0)
    assert list(device.log) == [Rendered(140, 60, 0.01, "b", 40)]


def test_running_dry_inside_a_response_is_an_underrun_and_between_responses_is_not() -> None:
    device = PlaybackDevice(RATE)
    device.write(ramp(0, 20), position=0, response="a", offset=0, now=0.0)
    device.write(ramp(0, 20), position=20, response="b", offset=0, now=0.5)
    assert device.underruns == 0
    device.write(ramp(0, 20), position=40, response="b", offset=20, now=0.9)
    device.run(2.0)
    assert device.underruns == 1
    assert [run.at for run in device.log] == pytest.approx([0.01, 0.51, 0.91])


def test_audio_that_comes_just_in_time_is_one_run() -> None:
    device = PlaybackDevice(RATE)
    device.write(ramp(0, 20), position=0, response="a", offset=0, now=0.0)
    device.write(ramp(0, 20), position=20, response="a", offset=20, now=0.0299)
    device.run(1.0)
    assert list(device.log) == [Rendered(0, 40, 0.01, "a", 0)]
    assert device.underruns == 0


def test_skipped_positions_are_never_rendered() -> None:
    device = PlaybackDevice(RATE)
    device.write(ramp(0, 10), position=0, response="a", offset=0, now=0.0)
    device.write(ramp(0, 10), position=50, response="b", offset=0, now=0.0)
    device.run(1.0)
    assert [(run.position, run.samples) for run in device.log] == [(0, 10), (50, 10)]
    assert device.position == 60
    assert device.log[1].at == pytest.approx(0.02)  # no silence in between


def test_latency_is_added_to_what_is_audible() -> None:
    device = PlaybackDevice(RATE, latency_s=0.1)
    device.write(ramp(0, 10), position=0, response="a", offset=0, now=0.0)
    assert device.dry_at() == pytest.approx(0.12)
    device.run(0.05)
    assert device.position == 10
    assert device.audible(0.05) == 0
    assert device.audible(0.115) == 5
    assert device.audible(0.2) == 10


def test_loudness_changes_with_a_ramp_and_returns() -> None:
    heard: list[int] = []
    device = PlaybackDevice(RATE, sink=lambda pcm, at: heard.extend(samples(pcm)))
    device.write(struct.pack("<100h", *[10_000] * 100), position=0, response="a", offset=0, now=0.0)
    device.duck(-20.0, ramp_ms=20, now=0.025)
    device.duck(0.0, now=0.075)
    device.run(1.0)
    assert heard[:20] == [10_000] * 20
    assert heard[20:40] == sorted(heard[20:40], reverse=True)
    assert heard[40:70] == [pytest.approx(1000, abs=2)] * 30
    assert heard[70:] == [10_000] * 30


def test_the_buffer_is_bounded_and_drops_are_counted() -> None:
    device = PlaybackDevice(RATE, buffer_s=0.1)
    for k in range(3):
        device.write(ramp(0, 60), position=60 * k, response="a", offset=60 * k, now=0.0)
    assert (device.waiting, device.dropped_samples) == (60, 120)


def test_a_sound_card_pulls_what_it_needs_and_gets_silence_for_the_rest() -> None:
    device = PlaybackDevice(RATE, virtual=False)
    device.write(ramp(1, 15), position=0, response="a", offset=0, now=0.0)
    assert device.dry_at() is None
    device.run(5.0)
    assert device.position == 0
    assert samples(device.pull(10, 0.25)) == list(range(1, 11))
    assert samples(device.pull(10, 0.26)) == [*range(11, 16), 0, 0, 0, 0, 0]
    assert list(device.log) == [Rendered(0, 15, 0.25, "a", 0)]
    assert device.audible(0.255) == 5


@given(
    st.lists(
        st.tuples(st.floats(0.0, 0.2), st.integers(1, 60), st.sampled_from(["write", "write", "clear", "skip"])),
        max_size=40,
    )
)
def test_any_history_renders_each_sample_at_most_once_in_order_and_not_before_it_came(
    steps: list[tuple[float, int, str]],
) -> None:
    sunk: list[tuple[float, int]] = []
    device = PlaybackDevice(RATE, sink=lambda pcm, at: sunk.append((at, len(pcm) // 2)))
    now, position, cut = 0.0, 0, 0
    came: list[tuple[int, int, float]] = []
    for wait, count, what in steps:
        now += wait
        if what == "clear":
            cut = position
            played = device.clear(position, now=now)
            assert played == device.position
            assert device.waiting == 0
        else:
            position += 7 if what == "skip" else 0
            device.write(ramp(0, count), position=position, response="r", offset=position, now=now)
            came.append((position, count, now))
            position += count
    device.run(now + 10.0)
    end = -1.0
    place = -1
    for run in device.log:
        assert run.at >= end - 1e-9
        assert run.position >= place
        assert run.position == run.offset
        end, place = run.at + run.samples / RATE, run.position + run.samples
    rendered = {run.position + k: run.at + k / RATE for run in device.log for k in range(run.samples)}
    for start, count, at in came:
        for sample in range(start, start + count):
            if sample >= cut:
                assert rendered[sample] >= at - 1e-9
    assert len(rendered) + device.cleared_samples == sum(count for _, count, _ in came)
    assert sum(count for _, count in sunk) == len(rendered)
