from __future__ import annotations

import io

import pytest
from rich.console import Console

from duologue.demo.story import tell
from duologue.demo.terminal import Terminal, last_line, median, stages
from duologue.events import TurnMeasured

from .journals import LENGTH, RATE, RUNS, events, records


@pytest.mark.parametrize("terminal", [False, True])
def test_the_transcript_tells_heard_and_unheard_apart(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, highlight=False, color_system=None)
    with Terminal(console) as shown:
        for event in events():
            shown.take(event, event.at)
    text = out.getvalue()
    assert "First go left, then go ✂ not heard: right at the bridge." in text
    assert "barge-in: words over the agent" in text
    assert "Uh-huh.   backchannel: the agent goes on" in text
    assert "slow(what='it')" in text
    assert "slow done after 2.3 s" in text
    if not terminal:
        # each line once, nothing to steer a terminal with
        assert "\x1b" not in text
        assert text.count("Hello there.") == 1


def test_a_waterfall_a_turn() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, highlight=False)
    points = {"user_speech_end": 0.0, "stt_final": 120.0, "committed": 300.0, "first_sample": 480.0}
    with Terminal(console) as shown:
        shown.take(TurnMeasured(turn="t", record={"points_ms": points, "voice_to_voice_ms": 480.0}), 1.0)
        shown.take(TurnMeasured(turn="t", record={"points_ms": points}), 1.0)
    (line,) = out.getvalue().splitlines()
    assert line.split()[:2] == ["480", "ms"]
    assert "hear 120 wait 180 send 180" in line


def test_stages_follow_each_other_and_leave_out_what_cost_no_time() -> None:
    points = {
        "stt_final": -20.0,
        "llm_first_token": 100.0,
        "committed": 300.0,
        "tts_first_audio": 250.0,
        "first_sample": 310.0,
    }
    assert [(name, start, end) for name, start, end, _ in stages(points)] == [
        ("think", 0.0, 100.0),
        ("voice", 100.0, 250.0),
        ("wait", 250.0, 300.0),
        ("send", 300.0, 310.0),
    ]


def test_the_last_line() -> None:
    line = last_line(tell(records(), RUNS, RATE, LENGTH))
    assert (
        line
        == "voice to voice: median 500 ms over 1 turns (500 to 500) · barge-in: silent 200 ms after the caller's first sound"
    )


def test_median() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0]) == 2.5
