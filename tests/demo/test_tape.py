from __future__ import annotations

from duologue.audio import split_stereo
from duologue.client import PlaybackDevice
from duologue.demo.tape import Run, Tape

LOUD = b"\x00\x20\x00\xe0"


def test_both_sides_are_on_one_clock() -> None:
    tape = Tape(100.0, mic_rate=16_000, rate=16_000)
    tape.speak(bytes(2 * 1600) + LOUD * 160)
    tape.hear(LOUD * 80, 100.05)
    tape.hear(LOUD * 80, 100.06)
    left, right = split_stereo(tape.stereo())
    assert left == (bytes(2 * 1600) + LOUD * 160)
    assert right[: 2 * 800] == bytes(2 * 800)
    assert right[2 * 800 : 2 * 1120] == LOUD * 160
    assert not any(right[2 * 1120 :])


def test_ears_notice_voice_and_silence() -> None:
    tape = Tape(0.0, rate=16_000)
    assert tape.silent_for(3.0) == 3.0
    tape.hear(LOUD * 80, 1.0)
    tape.hear(bytes(320), 1.01)
    assert tape.voice_since == 1.0
    assert abs(tape.silent_for(2.0) - 0.99) < 1e-6
    tape.hear(LOUD * 80, 1.2)
    assert tape.voice_since == 1.0, "a gap between words is no pause"
    tape.hear(LOUD * 80, 2.0)
    assert tape.voice_since == 2.0


def test_a_device_renders_onto_the_tape_to_the_sample() -> None:
    tape = Tape(10.0, rate=16_000)
    device = PlaybackDevice(16_000, now=10.0, sink=tape.hear)
    device.write(LOUD * 1600, position=0, response="r1", offset=0, now=10.5)
    device.run(10.6)
    device.clear(1 << 30, now=10.6)
    device.write(LOUD * 800, position=5000, response="r2", offset=0, now=10.8)
    device.run(11.0)
    runs = tape.runs(list(device.log))
    assert [run.response for run in runs] == ["r1", "r2"]
    _, right = split_stereo(tape.stereo())
    for run in runs:
        assert any(right[2 * run.start : 2 * run.start + 4])
        assert not any(right[2 * run.start - 40 : 2 * run.start])
        assert not any(right[2 * (run.start + run.samples) : 2 * (run.start + run.samples) + 40])
    assert runs[0] == Run(8160, runs[0].samples, "r1", 0)
