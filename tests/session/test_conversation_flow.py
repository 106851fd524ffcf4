"""What a caller lives through: turns, backchannels, barge-ins, pauses, corrections; judged by what their device played."""

from __future__ import annotations

import asyncio

import pytest

from duologue.engine.floor import State
from duologue.events import (
    Interruption,
    ResponseFinished,
    ResponseHeard,
    SessionEnded,
    SessionStarted,
    TurnCommitted,
    TurnDiscarded,
    TurnMeasured,
    UserSpeechStarted,
    UserSpeechStopped,
    UserTranscript,
)
from duologue.models.base import Began, Context, Ended, Said, Spoke
from duologue.testing.scripted import OUTPUT_RATE, Reply, ScriptedCaller
from tests.session.calls import (
    BARGE_IN,
    LONG,
    MARK,
    NOISE,
    OTHER,
    SHORT,
    STOP,
    UH_HUH,
    hold,
    line,
    make,
    run,
    seconds,
)

pytestmark = pytest.mark.virtual


def long_answer(text: str | None, context: Context) -> Reply:
    return Reply(text=SHORT if text and "less" in text else LONG)


async def test_the_agent_greets_and_what_it_said_is_history() -> None:
    call = await run(make(until_s=4, greeting="Hi, ready when you are."))
    assert call.history == [("assistant", "Hi, ready when you are.")]
    (greeting,) = call.finished("greeting")
    assert greeting.status == "completed"
    assert not greeting.estimated
    assert call.rendered(greeting.response)[0][0] <= 0.1
    assert isinstance(call.caller.events[0], SessionStarted)
    assert isinstance(call.caller.events[-1], SessionEnded)


async def test_a_question_is_answered_soon_after_its_end() -> None:
    call = await run(make([line(1.0, STOP, 1.2)], until_s=6))
    assert call.asked == ["what is my next stop"]
    assert call.history == [("user", "what is my next stop"), ("assistant", SHORT)]
    (answer,) = call.finished("turn")
    first = call.rendered(answer.response)[0][0]
    assert 0.2 <= first - 2.2 <= 0.5, "after a short silence, not before"
    (committed,) = call.caller.of(TurnCommitted)
    assert committed.text == "what is my next stop"
    (measured,) = call.caller.of(TurnMeasured)
    assert measured.record["voice_to_voice_ms"] == pytest.approx((first - 2.2) * 1000, abs=60)
    assert measured.record["reasons"][-1]["transition"] == "agent>idle" or measured.record["reasons"]
    assert [event.final for event in call.caller.of(UserTranscript)] == [True]
    (started,), (stopped,) = call.caller.of(UserSpeechStarted), call.caller.of(UserSpeechStopped)
    assert (started.position, stopped.position) == (pytest.approx(16_000, abs=512), pytest.approx(35_200, abs=512))


async def test_two_questions_have_two_answers_in_order() -> None:
    call = await run(make([line(1.0, STOP, 1.0), line(5.0, OTHER, 1.0)], until_s=9))
    assert [text for kind, text in call.history if kind == "user"] == ["what is my next stop", "what is the weather"]
    assert [event.status for event in call.finished("turn")] == ["completed", "completed"]
    assert [event.turn for event in call.caller.of(TurnCommitted)] == ["t1", "t2"]


async def test_a_backchannel_is_let_pass_and_no_word_is_lost() -> None:
    call = await run(make([line(1.0, STOP, 1.0), line(4.0, UH_HUH, 0.35)], long_answer, until_s=16))
    (answer,) = call.finished("turn")
    assert (answer.status, answer.heard) == ("completed", LONG)
    played = call.rendered(answer.response)
    end = 0
    jumps = []
    for at, start, stop in played:
        assert start <= end, "no sample is left out"
        if start < end:
            jumps.append((at, end, start))
        end = stop
    assert seconds(end) == pytest.approx(len(LONG) / 15.0, abs=0.05)
    ((at, reached, resumed),) = jumps
    assert 4.0 < at < 5.5
    assert seconds(reached - resumed) < 1.0, "only the word that was being spoken is said again"
    # Both places lie in the same word of the text.
    script = LONG[: round(seconds(resumed) * 15.0)]
    assert script == "" or not LONG[len(script) - 1].isalnum() or abs(resumed - reached) < 24_000
    assert [event.stage for event in call.caller.of(Interruption)] == ["pause", "resume"]
    assert [event.reason for event in call.caller.of(TurnDiscarded)] == ["backchannel"]
    assert [kind for kind, _ in call.history] == ["user", "assistant"]
    assert call.connection.truncated == []


@pytest.mark.parametrize("acknowledges", [True, False])
async def test_a_barge_in_silences_the_agent_and_history_is_what_was_heard(acknowledges: bool) -> None:
    lines = [line(1.0, STOP, 1.0), line(5.0, BARGE_IN, 1.4)]
    caller = ScriptedCaller(lines, until_s=10, acknowledges=acknowledges)
    call = await run(make(answer=long_answer, caller=caller))
    answer, second = call.finished("turn")
    assert answer.status == "interrupted"
    assert (second.heard, second.status) == (SHORT, "completed")
    played = call.rendered(answer.response)
    assert call.caller.clears[0] - call.caller.begin == pytest.approx(5.13, abs=0.08)
    assert played[-1][0] <= call.caller.clears[0] - call.caller.begin, "nothing stale after the clear"
    heard_to = max(stop for _, _, stop in played)
    error = abs(answer.heard_ms / 1000 - seconds(heard_to))
    assert error <= (0.001 if acknowledges else 0.1)
    assert answer.estimated is not acknowledges
    assert LONG.startswith(answer.heard)
    assert abs(len(answer.heard) / 15.0 - seconds(heard_to)) < 1.0, "to within a word"
    assert call.history[1] == ("assistant", answer.heard)
    ((response, told),) = call.connection.truncated
    assert (response, told) == (answer.response, pytest.approx(answer.heard_ms * 24, abs=24))
    record = next(event.record for event in call.caller.of(TurnMeasured) if event.turn == "t2")
    assert record["barge_in_onset_ms"] <= 300


async def test_a_pause_inside_a_sentence_is_waited_for() -> None:
    call = await run(make([line(1.0, MARK, 0.8), line(2.8, MARK, 0.9)], until_s=7))
    assert call.asked[-1] == "mark the last one complete"
    assert [event.text for event in call.caller.of(TurnCommitted)] == ["mark the last one complete"]
    (answer,) = call.finished("turn")
    assert call.rendered(answer.response)[0][0] > 3.7


async def test_who_corrects_themselves_before_the_answer_has_one_turn() -> None:
    """The answer takes a while; the caller goes on meanwhile; what they said is one turn, answered once."""
    slow = make(
        [line(1.0, STOP, 0.8), line(2.3, OTHER, 0.8)], lambda text, _: Reply(text=SHORT, delay_s=1.5), until_s=9
    )
    call = await run(slow)
    assert [event.turn for event in call.caller.of(TurnCommitted)] == ["t1", "t1"]
    assert [text for kind, text in call.history if kind == "user"] == ["what is my next stop what is the weather"]
    assert [event.status for event in call.finished("turn")] == ["cancelled", "completed"]
    assert len({id for _, id, *_ in call.caller.rendered}) == 1, "only the last answer was audible"
    (record,) = [event.record for event in call.caller.of(TurnMeasured)]
    assert record["reopened"] == 1


async def test_a_noise_is_no_turn() -> None:
    call = await run(make([line(1.0, NOISE, 0.3)], until_s=5))
    assert [event.reason for event in call.caller.of(TurnDiscarded)] == ["no words"]
    assert call.history == []
    assert call.asked == []


async def test_a_noise_over_the_agent_is_let_pass() -> None:
    call = await run(make([line(1.0, STOP, 1.0), line(4.0, NOISE, 0.25)], long_answer, until_s=16))
    (answer,) = call.finished("turn")
    assert answer.heard == LONG


async def test_the_agent_is_ducked_while_it_is_not_clear_who_speaks() -> None:
    call = await run(make([line(1.0, STOP, 1.0), line(4.0, UH_HUH, 0.35)], long_answer, until_s=16))
    assert call.caller.ducks == [-9.0, 0.0]


async def test_a_hold_over_the_very_end_of_an_answer_ends_in_idle() -> None:
    """The answer is handed over whole when the hold begins: it is resumed from its word, and then the floor is free."""
    length = len(SHORT) / 15.0
    begins = 2.0 + 0.35
    for at in (begins + length - 0.25, begins + length - 0.1, begins + length - 0.02):
        lines = [line(1.0, STOP, 1.0), line(round(at, 3), NOISE, 0.2), line(8.0, OTHER, 1.0)]
        call = await run(make(lines, until_s=13))
        first, second = call.finished("turn")
        assert (first.status, first.heard) == ("completed", SHORT), at
        assert (second.status, second.heard) == ("completed", SHORT), at
        assert call.session.conductor.floor.transitions[-2].target is State.IDLE


async def test_heard_text_only_grows_and_ends_complete() -> None:
    lines = [line(1.0, STOP, 1.0), line(4.0, UH_HUH, 0.35), line(6.5, UH_HUH, 0.35)]
    call = await run(make(lines, long_answer, until_s=18))
    told = [event.text for event in call.caller.of(ResponseHeard)]
    assert told == sorted(told, key=len)
    assert len(set(told)) == len(told) > 5
    assert all(LONG.startswith(text) for text in told)


@pytest.mark.parametrize("lag_s", [0.02, 0.3])
async def test_lost_acknowledgements_cost_nothing_but_certainty(lag_s: float) -> None:
    caller = ScriptedCaller(
        [line(1.0, STOP, 1.0), line(6.0, BARGE_IN, 1.4)], until_s=12, lag_s=lag_s, lose=lambda n: n % 3 != 0
    )
    call = await run(make(answer=long_answer, caller=caller))
    answer = call.finished("turn")[0]
    assert answer.status == "interrupted"
    heard_to = max(stop for _, _, stop in call.rendered(answer.response))
    assert abs(answer.heard_ms / 1000 - seconds(heard_to)) <= 0.001
    gaps = [
        b[0] - a[0] for a, b in zip(call.rendered(answer.response), call.rendered(answer.response)[1:], strict=False)
    ]
    assert max(gaps) < 0.021, "playout did not stall for want of acknowledgements"


async def test_a_listener_that_never_answers_a_clear_delays_the_next_answer_by_a_bound_only() -> None:
    class Deaf(ScriptedCaller):
        def clear(self, response: str) -> None:
            self.clears.append(asyncio.get_running_loop().time())
            self._queue.clear()

    lines = [line(1.0, STOP, 1.0), line(5.0, BARGE_IN, 1.0)]
    caller = Deaf(lines, until_s=10, lose=lambda n: n > 20)
    call = await run(make(answer=long_answer, caller=caller))
    first, second = call.finished("turn")
    assert first.estimated
    heard_to = max(stop for _, _, stop in call.rendered(first.response))
    assert abs(first.heard_ms / 1000 - seconds(heard_to)) <= 0.1
    assert second.status == "completed"


async def test_typing_while_the_agent_speaks_is_a_barge_in() -> None:
    call = make([line(1.0, STOP, 1.0)], long_answer, until_s=12)
    async with call.session as session:
        await hold(call, 5.0)
        await session.send("tell me less")
        await session.wait()
    first, second = call.finished("turn")
    assert first.status == "interrupted"
    assert second.heard == SHORT
    assert call.rendered(first.response)[-1][0] <= 5.02
    assert call.history[-2:] == [("user", "tell me less"), ("assistant", SHORT)]


async def test_a_second_typed_turn_before_the_first_is_answered_is_answered_too() -> None:
    call = make(answer=lambda text, _: Reply(text=f"You said {text}.", delay_s=0.5), until_s=8)
    async with call.session as session:
        await hold(call, 1.0)
        await session.send("one")
        await session.send("two")
        await session.wait()
    assert call.history == [
        ("user", "one"),
        ("assistant", "You said one."),
        ("user", "two"),
        ("assistant", "You said two."),
    ] or [event.heard for event in call.finished("turn")] == ["You said one.", "You said two."]


async def test_speech_onset_in_the_last_word_becomes_the_next_turn() -> None:
    length = len(SHORT) / 15.0
    call = await run(make([line(1.0, STOP, 1.0), line(2.3 + length, OTHER, 1.2)], until_s=9))
    assert [event.text for event in call.caller.of(TurnCommitted)] == ["what is my next stop", "what is the weather"]
    assert call.finished("turn")[1].status == "completed"


async def test_consecutive_answers_follow_without_a_gap() -> None:
    call = make(until_s=8)
    async with call.session as session:
        await hold(call, 1.0)
        await session.say("The first thing to say.")
        await session.say("The second thing to say.")
        await session.wait()
    first, second = call.finished("say")
    assert (first.heard, second.heard) == ("The first thing to say.", "The second thing to say.")
    gap = call.rendered(second.response)[0][0] - call.rendered(first.response)[-1][0]
    assert gap <= 0.021


async def test_a_hold_across_two_answers_loses_neither() -> None:
    """The hold falls near the seam: both are handed over, what was cut is said again, nothing twice but a word."""
    for at in (2.0, 2.2, 2.35, 2.5, 2.6):
        call = make([line(at, NOISE, 0.25)], until_s=9)
        async with call.session as session:
            await hold(call, 1.0)
            await session.say("The first thing to say.")
            await session.say("The second thing to say.")
            await session.wait()
        assert [event.heard for event in call.finished("say")] == [
            "The first thing to say.",
            "The second thing to say.",
        ]
        for event in call.finished("say"):
            end = 0
            for _, start, stop in call.rendered(event.response):
                assert start <= end, at
                end = max(end, stop)
            assert seconds(end) == pytest.approx(len(event.heard) / 15.0, abs=0.01)


async def test_every_response_that_starts_finishes() -> None:
    lines = [line(1.0, STOP, 1.0), line(4.0, BARGE_IN, 1.0), line(8.0, STOP, 1.0)]
    call = await run(make(lines, long_answer, until_s=11))
    assert len(call.finished()) == len({event.response for event in call.caller.of(ResponseFinished)}) == 3
    assert call.finished()[-1].status == "cancelled", "the call ended in the middle of it"
    assert call.finished()[-1].heard


async def test_an_answer_that_is_made_is_spoken_when_the_one_before_it_is_given_up_in_silence() -> None:
    call = make([], until_s=8)
    async with call.session:
        await hold(call, 1.0)
        report = call.connection._context.report
        report(Began(response="r91", origin="tool"))  # begun, and still without a sound
        report(Began(response="r92", origin="turn"))
        report(Said(response="r92", text="Ready."))
        report(Spoke(response="r92", pcm=b"\x10\x10" * OUTPUT_RATE))
        report(Ended(response="r92"))
        await hold(call, 2.0)
        assert not call.rendered("r92"), "what comes first is played first"
        report(Ended(response="r91", status="cancelled"))
        await call.session.wait()
    assert sum(end - start for _, start, end in call.rendered("r92")) == OUTPUT_RATE
    assert {event.response: event.status for event in call.finished()} == {"r91": "cancelled", "r92": "completed"}
