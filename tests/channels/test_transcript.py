"""The conversation as text."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.channels.transcript import Transcript
from duologue.events import (
    AnyEvent,
    ErrorEvent,
    Event,
    ResponseFinished,
    ResponseHeard,
    ResponseStarted,
    ResponseText,
    SessionEnded,
    SessionStarted,
    ToolApprovalNeeded,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    TurnMeasured,
)


def show(*events: Event, live: bool = False, spoken: bool = True, typed: bool = False) -> list[str]:
    out = io.StringIO()
    transcript = Transcript(out, live=live, spoken=spoken, typed=typed)
    for event in events:
        transcript.take(event)
    return out.getvalue().splitlines()


CUT = (
    ResponseStarted(response="r1", turn="t1"),
    ResponseText(response="r1", text="Your next stop is Harbour Street."),
    ResponseHeard(response="r1", text="Your next", ms=400),
    ResponseHeard(response="r1", text="Your next stop", ms=700),
)
END = ResponseFinished(
    response="r1", status="interrupted", text="Your next stop is Harbour Street.", heard="Your next stop ", heard_ms=800
)


def test_the_first_line_says_what_answers() -> None:
    lines = show(
        SessionStarted(session="s", agent="agent", model="cascade/phrases", notice="A phrase matcher answers.")
    )
    assert "A phrase matcher answers." in lines[0]
    assert "cascade/phrases" in lines[1]


def test_heard_and_unheard_are_told_apart() -> None:
    assert show(*CUT, END) == ["  agent  Your next stop [not heard: is Harbour Street.]"]


def test_live_words_appear_as_they_are_heard_and_once() -> None:
    assert show(*CUT, live=True) == ["  agent  Your next stop"]
    assert show(*CUT, END, live=True) == ["  agent  Your next stop  is Harbour Street."]


def test_a_line_that_was_broken_into_goes_on() -> None:
    lines = show(*CUT[:3], ToolStarted(call="c", name="look"), CUT[3], live=True)
    assert lines == ["  agent  Your next", "   tool  look()", "  agent  … stop"]


def test_written_answers_are_shown_whole() -> None:
    done = ResponseFinished(response="r1", status="completed", text="Hello there.")
    assert show(
        ResponseStarted(response="r1"), ResponseText(response="r1", text="Hello there."), done, spoken=False
    ) == ["  agent  Hello there."]


def test_an_answer_that_nobody_heard_is_not_shown() -> None:
    assert show(ResponseStarted(response="r1"), ResponseFinished(response="r1", status="cancelled", text="Hm.")) == []


def test_tools_turns_errors_and_the_end() -> None:
    lines = show(
        TurnCommitted(turn="t1", text="pay the bill", reason="pause"),
        TurnDiscarded(turn="t2", text="uh-huh", reason="backchannel"),
        ToolStarted(call="c", name="pay", arguments={"sum": 3}),
        ToolApprovalNeeded(call="c", name="pay", arguments={"sum": 3}, timeout_s=60),
        ToolFinished(call="c", name="pay", status="ok", output={"paid": True}, duration_s=1.25),
        ToolFinished(call="d", name="pay", status="timeout", error="took too long"),
        ErrorEvent(code="x", message="The microphone is gone.", fatal=True),
        SessionEnded(reason="error", detail="no model", at=12.34),
    )
    assert lines == [
        "    you  pay the bill",
        "      · “uh-huh”: backchannel",
        "   tool  pay(sum=3)",
        "      · pay(sum=3) wants your approval: yes or no, within 60 s",
        '   tool  pay → {"paid":true} (1.2 s)',
        "   tool  pay: timeout, took too long",
        "      · fatal: The microphone is gone.",
        "      · the call has ended after 12.3 s (error): no model",
    ]


def test_what_was_typed_on_a_terminal_is_not_repeated() -> None:
    typed = TurnCommitted(turn="t1", text="hello", reason="typed")
    assert show(typed, typed=True) == []
    assert show(typed) == ["    you  hello"]


def test_a_turn_shows_its_latency() -> None:
    record = {"voice_to_voice_ms": 612.0, "points_ms": {"committed": 300.0, "first_sample": 612.0}, "drops": {"x": 2}}
    (line,) = show(TurnMeasured(turn="t1", record=record))
    assert "612 ms voice to voice" in line
    assert "turn over 300" in line
    assert "dropped 2 x" in line
    assert show(TurnMeasured(turn="t1", record={})) == []


@given(st.text())
def test_nothing_that_anybody_says_steers_the_terminal(text: str) -> None:
    out = io.StringIO()
    transcript = Transcript(out, live=True)
    transcript.take(TurnCommitted(turn="t1", text=text, reason="pause"))
    transcript.take(ResponseStarted(response="r1"))
    transcript.take(ResponseHeard(response="r1", text=text, ms=1))
    transcript.take(ResponseFinished(response="r1", status="interrupted", text=text + "x", heard=text))
    assert all(character.isprintable() or character == "\n" for character in out.getvalue())


@given(st.lists(st.sampled_from([*CUT, END, TurnCommitted(turn="t", text="x", reason="y")])), st.booleans())
def test_no_order_of_events_breaks_it(events: list[AnyEvent], live: bool) -> None:
    show(*events, live=live)


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/]", "[red]"])
def test_markup_in_speech_is_text(text: str) -> None:
    assert show(TurnCommitted(turn="t", text=text, reason="pause")) == [f"    you  {text}"]
