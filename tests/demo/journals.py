"""A small journal made by hand: a question, an answer that is barged in on, a tool."""

from __future__ import annotations

import msgspec

from duologue.demo.tape import Run
from duologue.engine.floor import Floor, FloorOptions
from duologue.engine.replay import FloorRecord, Recorder
from duologue.events import (
    AnyEvent,
    Interruption,
    ResponseFinished,
    ResponseStarted,
    ResponseText,
    SessionEnded,
    SessionStarted,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    TurnMeasured,
    UserSpeechStarted,
    UserSpeechStopped,
    UserTranscript,
)
from duologue.session.journal import Emitted, JournalRecord, Options

#: the session's clock is this much ahead of the caller's track
AHEAD = 0.25
RATE = 1000
LENGTH = 14.0

#: (start, samples, response, offset): r2 was held at 5.0 s, went on at 5.4 from 100 ms before, and was cut at 8.2
RUNS = [
    Run(500, 1000, "r1", 0),
    Run(3500, 1500, "r2", 0),
    Run(5400, 2800, "r2", 1400),
    Run(12000, 1500, "r3", 0),
]


def speech(start: float, end: float) -> list[AnyEvent]:
    return [
        UserSpeechStarted(at=start + 0.1, position=round(start * 16_000)),
        UserSpeechStopped(at=end + 0.1, position=round(end * 16_000)),
    ]


def events() -> list[AnyEvent]:
    """All times on the caller's track."""
    return [
        SessionStarted(session="s", agent="a", model="m", input_rate=16_000, output_rate=2 * RATE, notice="<matcher>"),
        ResponseStarted(at=0.3, response="r1", origin="greeting"),
        ResponseText(at=0.3, response="r1", text="Hello there.", offset=0),
        ResponseFinished(at=1.6, response="r1", status="completed", text="Hello there.", heard="Hello there.", heard_ms=1000),
        *speech(2.0, 2.6),
        *speech(2.8, 3.0),
        TurnCommitted(at=3.3, turn="t1", text="Which", reason="turn over"),
        UserTranscript(at=3.35, turn="t1", text="Which way & <why>?", final=True),
        ResponseStarted(at=3.4, response="r2", turn="t1"),
        ResponseText(at=3.4, response="r2", text="First go left,", offset=0),
        ResponseText(at=3.5, response="r2", text=" then go right at the bridge.", offset=4000),
        *speech(4.8, 5.0),
        Interruption(at=5.0, response="r2", stage="pause", reason="speech"),
        Interruption(at=5.3, response="r2", stage="resume", reason="backchannel"),
        TurnDiscarded(at=5.3, turn="t2", reason="backchannel", text="Uh-huh."),
        *speech(8.0, 9.0),
        Interruption(at=8.2, response="r2", stage="yield", reason="words over the agent"),
        ResponseFinished(
            at=8.2,
            response="r2",
            status="interrupted",
            text="First go left, then go right at the bridge.",
            heard="First go left, then go",
            heard_ms=4200,
        ),
        TurnMeasured(at=8.2, turn="t1", record={"points_ms": {"committed": 300.0, "first_sample": 480.0}}),
        TurnCommitted(at=9.4, turn="t3", text="Stop.", reason="turn over"),
        ToolStarted(at=9.5, call="c1", name="slow", arguments={"what": "it"}),
        ToolFinished(at=11.8, call="c1", name="slow", status="ok", output="Done.", duration_s=2.3),
        ResponseStarted(at=11.9, response="r3", origin="tool"),
        ResponseText(at=11.9, response="r3", text="Done.", offset=0),
        ResponseFinished(at=13.5, response="r3", status="completed", text="Done.", heard="Done.", heard_ms=1500),
        SessionEnded(at=13.6, reason="completed"),
    ]  # fmt: skip


def records() -> list[JournalRecord]:
    """The journal, with the floor's facts of a caller who speaks from 2 to 3 seconds."""
    facts: list[FloorRecord] = []
    recorder = Recorder(Floor(FloorOptions()), facts.append, 0.0)
    for window in range(150):
        start, end = window * 32.0, window * 32.0 + 32.0
        late = 0.0 if window == 40 else 0.012  # each window is judged a little after its end; one of them at once
        recorder.window(start, end, 0.98 if 2000 <= start < 3000 else 0.02, end / 1000 + AHEAD + late)
    recorder.flush()
    emitted = [Emitted(msgspec.structs.replace(event, at=event.at + AHEAD)) for event in events()]
    return [Options("s", FloorOptions()), *facts, *emitted]
