"""Voice activity, endpointing, grading of interruptions, and the limits of a call."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.engine.activity import Activity, ActivityOptions
from duologue.engine.endpointing import Endpointing, EndpointingOptions
from duologue.engine.interruption import InterruptionOptions, grade, is_backchannel, is_noise, wordy
from duologue.engine.limits import Fired, LimitOptions, Limits

W = 32.0
unit = st.floats(0, 1)


@given(st.lists(unit, max_size=200))
def test_speech_has_edges_that_alternate_and_are_where_the_sound_is(probabilities: list[float]) -> None:
    activity, options = Activity(), ActivityOptions()
    speaking = False
    for index, probability in enumerate(probabilities):
        change = activity.window(index * W, (index + 1) * W, probability)
        if change is not None:
            assert change is not speaking
            speaking = change
        assert activity.speaking is speaking
        assert activity.began_ms <= activity.voiced_ms <= activity.now_ms == (index + 1) * W
        if change is True:
            run = probabilities[int(activity.began_ms / W) : index + 1]
            assert min(run) >= options.on
            assert len(run) * W >= options.onset_ms
        if change is False:
            quiet = probabilities[int(activity.voiced_ms / W) : index + 1]
            assert max(quiet) < options.off
            assert len(quiet) * W >= options.end_ms


@given(st.lists(unit, max_size=60), st.floats(0, 1000))
def test_a_shift_of_media_time_shifts_everything(probabilities: list[float], shift: float) -> None:
    shift = round(shift) * 1.0
    one, other = Activity(), Activity()
    for index, probability in enumerate(probabilities):
        a = one.window(index * W, (index + 1) * W, probability)
        b = other.window(shift + index * W, shift + (index + 1) * W, probability)
        assert a == b
    if one.voiced_ms:
        assert other.voiced_ms - one.voiced_ms == shift


def test_a_click_is_no_speech_even_across_a_gap() -> None:
    activity = Activity()
    assert activity.window(0, W, 0.9) is None
    assert activity.window(5000, 5000 + W, 0.9) is None, "what was lost in between proves nothing"
    assert activity.window(5000 + W, 5000 + 2 * W, 0.9) is True
    assert activity.began_ms == 5000


@given(unit, unit, st.lists(st.floats(0, 10_000), max_size=20))
def test_the_wait_falls_with_certainty_and_has_a_hard_maximum(p: float, q: float, pauses: list[float]) -> None:
    options = EndpointingOptions()
    endpointing = Endpointing(options)
    for pause in pauses:
        endpointing.continued_after(pause)
    assert 0 <= endpointing.typical_pause_ms <= options.hard_max_ms
    low, high = sorted((p, q))
    assert endpointing.delay_ms(high) <= endpointing.delay_ms(low)
    assert options.shortest_ms <= endpointing.delay_ms(high) <= options.hard_max_ms
    assert endpointing.delay_ms(1.0) == options.shortest_ms, "certainty stays fast, however this user pauses"
    assert endpointing.delay_ms(None) == endpointing.delay_ms(options.unknown)


@given(st.floats(-5, 5))
def test_the_wait_is_smooth(p: float) -> None:
    endpointing = Endpointing()
    assert abs(endpointing.delay_ms(p + 0.01) - endpointing.delay_ms(p)) < 60


def test_a_user_who_pauses_long_is_given_more_time() -> None:
    endpointing = Endpointing()
    before = endpointing.delay_ms(0.3)
    for _ in range(10):
        endpointing.continued_after(1500)
    assert endpointing.delay_ms(0.3) > before + 100
    endpointing.continued_after(100)
    assert endpointing.typical_pause_ms > 1000, "gaps between words say nothing"


def test_who_goes_on_where_they_seemed_done_is_given_more_time_in_that_turn() -> None:
    endpointing = Endpointing()
    first = endpointing.delay_ms(0.8)
    waits = []
    for _ in range(6):
        endpointing.continued_after(450, 0.8)
        waits.append(endpointing.delay_ms(0.8))
    assert first < waits[0] < waits[1] < waits[2] <= waits[-1] < EndpointingOptions().longest_ms
    assert waits[-1] - waits[2] < 100, "however long they talk"
    endpointing.begin_turn(3000, 0.8)
    assert endpointing.delay_ms(0.8) < first + 100, "the next turn is another matter"


def test_a_gap_in_mid_phrase_says_nothing_of_how_phrases_end() -> None:
    endpointing = Endpointing()
    endpointing.continued_after(900, 0.05)
    endpointing.continued_after(100, 0.9)
    endpointing.continued_after(900)
    assert endpointing.misled == 0


def test_a_turn_that_was_cut_teaches_the_next_one() -> None:
    endpointing = Endpointing()
    endpointing.begin_turn(400, 0.8)
    assert endpointing.misled == 1, "speech so soon is no reaction to an answer"
    endpointing.begin_turn(None, None)
    assert endpointing.misled == 0
    patient = Endpointing(EndpointingOptions(doubt=0.0))
    patient.begin_turn(400, 0.8)
    assert patient.delay_ms(1.0) == patient.options.shortest_ms


_RANK = {"none": 0, "duck": 1, "pause": 2, "yield": 3}


@given(st.floats(0, 3000), st.floats(0, 3000), st.sampled_from(["", "uh-huh", "yeah right", "stop that"]))
def test_more_speech_pushes_no_less(a: float, b: float, text: str) -> None:
    options = InterruptionOptions()
    short, long = sorted((a, b))
    assert _RANK[grade(options, short, text)] <= _RANK[grade(options, long, text)]
    assert grade(InterruptionOptions(enabled=False), long, text) == "none"


@pytest.mark.parametrize("text", ["Oh", "Oh.", "Uh", "Uh,", "Ohh!", "Um...", "Ah.", "Hmm.", "Uhh, um"])
def test_sounds_are_listening_noise_and_answer_nothing(text: str) -> None:
    assert is_noise(text)
    assert is_backchannel(text)
    assert grade(InterruptionOptions(), 300.0, text) == "pause"


@pytest.mark.parametrize("text", ["", "uh-huh", "yes", "oh no", "um, stop", "home", "her"])
def test_what_may_answer_is_no_mere_sound(text: str) -> None:
    assert not is_noise(text)


@pytest.mark.parametrize("text", ["uh-huh", "Mm-hmm.", "yeah", "okay, great", "right right right right"])
def test_listening_noise_is_a_backchannel(text: str) -> None:
    assert is_backchannel(text)
    assert wordy(text) == 0


@pytest.mark.parametrize("text", ["", "stop", "yes but no", "okay okay okay okay okay"])
def test_what_asks_for_the_floor_is_none(text: str) -> None:
    assert not is_backchannel(text)


def run(limits: Limits, until: float, start: float = 0.0) -> list[tuple[float, Fired]]:
    fired, now = [], start
    while (due := limits.next_deadline()) <= until:
        assert due >= now, "a deadline in the past would spin"
        now = due
        got = limits.wake(now)
        assert got, "a wake-up in time fires"
        fired += [(now, name) for name in got]
    return fired


def test_a_silent_call_asks_and_then_ends() -> None:
    limits = Limits(LimitOptions(idle_s=20, idle_prompts=2), 0.0)
    assert run(limits, 70) == [(20, "idle_prompt"), (40, "idle_prompt"), (60, "idle_end")]


def test_a_turn_makes_patience_begin_anew_and_business_stops_it() -> None:
    limits = Limits(LimitOptions(idle_s=20, idle_prompts=1), 0.0)
    assert run(limits, 25) == [(20, "idle_prompt")]
    limits.active()
    assert limits.next_deadline() > 1000
    limits.idle(100.0)
    limits.idle(110.0)
    assert run(limits, 125, 100.0) == [(120, "idle_prompt")]
    limits.busy()
    assert run(limits, 1000, 125.0) == []


@given(st.floats(1, 1000), st.floats(0, 2000))
def test_the_end_is_announced_and_comes_once(length: float, notice: float) -> None:
    limits = Limits(LimitOptions(max_call_s=length, notice_s=notice, idle_s=0), 0.0)
    fired = run(limits, 10_000)
    assert [name for _, name in fired] == ["going_away", "length"]
    assert fired[1][0] == length
    assert fired[0][0] == max(0.0, length - notice) or fired[0][0] == pytest.approx(length - notice)
