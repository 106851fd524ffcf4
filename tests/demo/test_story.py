from __future__ import annotations

import pytest

from duologue.demo.story import Story, clock_offset, spread, tell

from .journals import AHEAD, LENGTH, RATE, RUNS, records


@pytest.fixture
def story() -> Story:
    return tell(records(), RUNS, RATE, LENGTH)


def test_the_clocks_meet_in_the_window_that_was_judged_soonest() -> None:
    assert clock_offset(records()) == pytest.approx(AHEAD, abs=2e-4)
    assert clock_offset([]) == 0.0


def test_turns_have_their_final_words_where_they_were_spoken(story: Story) -> None:
    question, noise, stop = story.utterances
    assert (question.kind, noise.kind, stop.kind) == ("turn", "discarded", "turn")
    assert question.text == "Which way & <why>?"
    assert question.spans == [(2.0, 2.6), (2.8, 3.0)]
    assert [word.text for word in question.words] == ["Which", "way", "&", "<why>?"]
    for word in question.words:
        assert any(start - 1e-9 <= word.start <= end for start, end in question.spans)
    assert noise.reason == "backchannel"


def test_latency_is_from_the_end_of_speech_to_the_first_sample(story: Story) -> None:
    question, _, stop = story.utterances
    assert question.latency_ms == pytest.approx(500)
    assert story.latencies == [pytest.approx(500)]
    assert stop.waited_for_tool
    assert stop.latency_ms == pytest.approx(3000)


def test_what_was_heard_is_told_from_what_was_not(story: Story) -> None:
    answer = next(answer for answer in story.answers if answer.response == "r2")
    assert [word.text for word in answer.words if word.heard] == ["First", "go", "left,", "then", "go"]
    assert [word.text for word in answer.words if not word.heard] == ["right", "at", "the", "bridge."]
    # the second clause begins two seconds into the response: 600 ms into its second stretch on the tape
    then = next(word for word in answer.words if word.text == "then")
    assert then.start == pytest.approx(6.0)
    starts = [word.start for word in answer.words]
    assert starts == sorted(starts)


def test_a_false_barge_in_and_a_true_one(story: Story) -> None:
    false, true = story.barge_ins
    assert false.false
    assert false.onset == pytest.approx(4.8)
    assert false.silent == pytest.approx(5.0, abs=1e-3)
    assert false.resumed == pytest.approx(5.4)
    assert not true.false
    assert true.onset == pytest.approx(8.0)
    assert true.silent == pytest.approx(8.2, abs=1e-3)
    assert story.cuts == [pytest.approx(200, abs=1)]


def test_a_barge_in_that_was_given_back_too_late_to_be_heard_is_one() -> None:
    runs = [run for run in RUNS if run.start != 5400]
    story = tell(records(), runs, RATE, LENGTH)
    (only,) = story.barge_ins
    assert not only.false
    assert only.onset == pytest.approx(4.8)
    assert only.silent == pytest.approx(5.0)


def test_tools_and_the_floor(story: Story) -> None:
    (tool,) = story.tools
    assert (tool.name, tool.status, tool.output) == ("slow", "ok", "Done.")
    assert (tool.start, tool.end) == (pytest.approx(9.5, abs=1e-3), pytest.approx(11.8, abs=1e-3))
    assert story.phases[0].start == 0.0
    assert story.phases[-1].end == LENGTH
    assert all(before.end == after.start for before, after in zip(story.phases, story.phases[1:], strict=False))
    user = next(phase for phase in story.phases if phase.state == "user")
    assert user.start == pytest.approx(2.0, abs=0.2)
    assert user.reason


def test_words_share_time_by_their_length() -> None:
    words = spread("a, considerable b", 1.0, 3.0)
    assert [word.text for word in words] == ["a,", "considerable", "b"]
    assert words[0].start == 1.0
    assert words[-1].end == pytest.approx(3.0)
    assert words[1].end - words[1].start > 2 * (words[0].end - words[0].start)
    assert spread("", 0, 1) == []
