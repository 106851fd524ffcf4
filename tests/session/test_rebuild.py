"""Where a session stood, out of its journal."""

from __future__ import annotations

import msgspec

from duologue.engine.floor import FloorOptions
from duologue.engine.replay import Fact, Windows
from duologue.events import (
    Event,
    ResponseFinished,
    ResponseHeard,
    ResponseStarted,
    ResponseText,
    SessionEnded,
    SessionStarted,
    SessionTakenOver,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    UserSpeechStarted,
    UserSpeechStopped,
)
from duologue.session.journal import Emitted, JournalRecord, Options, Reached, State, Taken, decode_record
from duologue.session.rebuild import rebuild

_STARTED = SessionStarted(session="s", agent="a", model="m", input_rate=8000)


def journal(*records: JournalRecord | Event) -> list[JournalRecord]:
    """Records as they are read back."""
    made = [record if not isinstance(record, Event) else Emitted(record) for record in records]  # type: ignore[arg-type]
    return [decode_record(msgspec.json.encode(record)) for record in made]


def reached(name: str, told: int) -> Reached:
    return Reached(name, told, msgspec.Raw(b"{}"))


def test_an_answer_under_way_is_known_as_far_as_it_was_heard() -> None:
    past = rebuild(
        journal(
            _STARTED,
            TurnCommitted(turn="t7", text="hi", reason="x"),
            ResponseStarted(response="r4", turn="t7"),
            ResponseText(response="r4", text="One two. "),
            ResponseText(response="r4", text="Three."),
            ResponseHeard(response="r4", text="One", ms=300),
        )
    )
    (cut,) = past.cuts
    assert (cut.response, cut.text, cut.heard, cut.heard_ms) == ("r4", "One two. Three.", "One", 300)
    assert (past.answered, past.turns, past.responses, past.turn, past.ended) == (True, 7, 4, "t7", False)


def test_a_turn_is_answered_once_something_was_begun_for_it() -> None:
    turn = TurnCommitted(turn="t1", text="hi", reason="x")
    filler = [ResponseStarted(response="r1", origin="filler"), ResponseFinished(response="r1", status="completed")]
    assert rebuild(journal(_STARTED)).answered
    assert not rebuild(journal(_STARTED, turn)).answered
    assert not rebuild(journal(_STARTED, turn, *filler)).answered
    done = [ResponseStarted(response="r2", turn="t1"), ResponseFinished(response="r2", status="completed")]
    past = rebuild(journal(_STARTED, turn, *done))
    assert past.answered
    assert past.cuts == []
    # One that was being made when the turn was committed answers it, too.
    assert rebuild(journal(_STARTED, done[0], turn)).answered


def test_runs_without_a_result_are_open() -> None:
    runs = [ToolStarted(call=f"c{n}", name="look", arguments={"n": n}, response="r1") for n in range(3)]
    past = rebuild(journal(_STARTED, *runs, ToolFinished(call="c1", name="look", status="ok")))
    assert [run.call for run in past.calls] == ["c0", "c2"]
    assert rebuild(journal(_STARTED, SessionEnded(reason="hangup"))).ended


def test_who_comes_back_is_told_what_they_have_not_had() -> None:
    turns = [TurnCommitted(turn=f"t{n}", text=str(n), reason="x") for n in range(6)]
    past = rebuild(
        journal(
            _STARTED,
            *turns[:2],
            reached("first", 3),
            turns[2],
            reached("second", 1),
            turns[3],
            reached("first", 5),
            *turns[4:],
        )
    )
    # `first` is told everything from the beginning; who had not had all that was told when that was written, from further back.
    assert past.since("first", 7) == []
    assert past.since("first", 6) == [turns[5]]
    assert past.since("first", 3) == turns[2:]
    assert past.since("first", 0) == past.events
    # `second` came later, and has had one event that others were not told.
    assert past.since("second", 1) == turns[3:]
    assert past.since("second", 2) == turns[4:]
    assert past.since("second", 99) == []


def test_an_id_that_was_used_before_has_nothing_of_that_session() -> None:
    options = Options("s", FloorOptions())
    before = [
        options,
        _STARTED,
        reached("a", 1),
        TurnCommitted(turn="t1", text="old", reason="x"),
        State(msgspec.Raw(b"1")),
        SessionEnded(reason="hangup"),
    ]
    now = [options, _STARTED, reached("b", 1), TurnCommitted(turn="t1", text="new", reason="x")]
    past = rebuild(journal(*before, *now))
    assert [item.text for item in past.conversation.items] == ["new"]
    assert (past.ended, past.state, list(past.participants), len(past.events)) == (False, None, ["b"], 2)
    assert past.since("b", 1) == [now[-1]]
    # One that was taken over is the same session.
    taken = rebuild(journal(*before, *now, options, SessionTakenOver(epoch=3, agent="a", model="m")))
    assert (len(taken.events), taken.losses) == (3, 1)


def test_the_last_state_and_the_last_input_count() -> None:
    past = rebuild(
        journal(
            reached("a", 0),
            Taken("a", 1, 4),
            State(msgspec.Raw(b'{"n":1}')),
            Taken("a", 1, 9),
            reached("a", 0),
            State(msgspec.Raw(b'{"n":2}')),
            Taken("nobody", 1, 2),
        )
    )
    assert past.participants["a"].taken == (1, 9)
    assert past.state is not None
    assert bytes(past.state) == b'{"n":2}'


def test_the_user_is_wanted_from_the_beginning_of_the_open_turn_or_from_where_they_were_heard_to() -> None:
    heard = [Windows(0.0, 32.0, bytes(100), [0] * 100), Fact("window", [3200.0, 3232.0, 9], 1)]
    assert rebuild(journal(_STARTED)).wanted_ms == 0
    assert rebuild(journal(_STARTED, *heard)).wanted_ms == 2732
    speech = [
        UserSpeechStarted(position=16_000),
        UserSpeechStopped(position=20_000),
        UserSpeechStarted(position=21_000),
    ]
    assert rebuild(journal(_STARTED, *speech, *heard)).wanted_ms == 1500
    assert rebuild(journal(_STARTED, *speech, *heard, TurnDiscarded(turn="t1", reason="x"))).wanted_ms == 2732
