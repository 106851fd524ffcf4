"""Rotation: each rule by example, and its promises over random histories."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.engine.rotation import CutOver, GiveUp, Open, Order, Phase, Rotation, RotationOptions

OPTIONS = RotationOptions(early_s=60, force_s=12, jitter=0.25)


def _running(candidates: int = 1, life_s: float | None = 480.0, **options: Any) -> Rotation:
    rotation = Rotation(RotationOptions(**options), candidates, dice=0.0)
    (order,) = rotation.start(0.0)
    assert isinstance(order, Open)
    (cut,) = rotation.opened(life_s, 0.0)
    assert isinstance(cut, CutOver)
    return rotation


def test_a_successor_is_opened_early_and_takes_over_at_a_quiet_point() -> None:
    rotation = _running()
    assert rotation.next_deadline() == 420.0
    rotation.quiet(False, 410.0)
    (order,) = rotation.wake(420.0)
    assert order == Open(candidate=0, reason="planned")
    assert rotation.opened(480.0, 421.0) == []
    assert rotation.next_deadline() == 468.0
    (cut,) = rotation.quiet(True, 430.0)
    assert cut == CutOver(forced=False, reason="planned")
    assert rotation.next_deadline() == 421.0 + 480.0 - 60.0


def test_who_never_pauses_is_cut_over_before_the_end() -> None:
    rotation = _running()
    rotation.quiet(False, 1.0)
    rotation.wake(420.0)
    rotation.opened(480.0, 421.0)
    (cut,) = rotation.wake(468.0)
    assert cut == CutOver(forced=True, reason="planned")


def test_jitter_spreads_openings_and_only_makes_them_earlier() -> None:
    due = []
    for dice in (0.0, 0.5, 0.99):
        rotation = Rotation(OPTIONS, 1, dice=dice)
        rotation.start(0.0)
        rotation.opened(480.0, 0.0)
        due.append(rotation.next_deadline())
    assert due == [420.0, 412.5, pytest.approx(405.15)]


def test_sessions_that_began_together_do_not_double_a_providers_connections_together() -> None:
    openings = []
    for number in range(200):
        rotation = Rotation(OPTIONS, 1, dice=number / 200)
        rotation.start(0.0)
        rotation.opened(480.0, 0.0)
        openings.append(rotation.next_deadline())
    busiest = max(sum(at <= other < at + 1.0 for other in openings) for at in openings)
    assert busiest <= 14, "of 200, in any one second"


def test_a_short_life_is_used_at_least_by_half() -> None:
    rotation = _running(life_s=30.0)
    assert rotation.next_deadline() == 15.0


def test_a_loss_is_met_at_once_by_the_successor_that_waits() -> None:
    rotation = _running()
    rotation.quiet(False, 1.0)
    rotation.wake(420.0)
    rotation.opened(480.0, 421.0)
    (cut,) = rotation.lost("reset", 425.0)
    assert cut == CutOver(forced=True, reason="lost: reset")


def test_a_loss_while_the_successor_is_opened_waits_for_it() -> None:
    rotation = _running()
    rotation.wake(420.0)
    assert rotation.lost("reset", 421.0) == []
    (cut,) = rotation.opened(480.0, 422.0)
    assert cut == CutOver(forced=False, reason="lost: reset")


def test_failed_attempts_wait_longer_and_longer_then_the_next_candidate_has_its_turn() -> None:
    rotation = Rotation(RotationOptions(attempts=3, first_retry_s=1.0), 2, dice=0.0)
    assert rotation.start(100.0) == [Open(candidate=0, reason="start")]
    assert rotation.failed("x", True, 101.0) == []
    assert rotation.next_deadline() == 101.75
    assert rotation.wake(101.75) == [Open(candidate=0, reason="start")]
    assert rotation.failed("x", True, 102.0) == []
    assert rotation.next_deadline() == 103.5
    rotation.wake(103.5)
    assert rotation.failed("x", True, 104.0) == [Open(candidate=1, reason="failover: x")]


def test_somebody_on_the_line_is_not_kept_waiting_where_there_is_another_candidate() -> None:
    rotation = _running(candidates=2, patience_s=1.5)
    assert rotation.lost("reset", 100.0) == [Open(candidate=0, reason="lost: reset", patience_s=1.5)]
    assert rotation.failed("x", True, 101.0) == [Open(candidate=1, reason="failover: x")], "nobody else is left to try"


def test_where_there_is_no_other_candidate_the_same_one_is_waited_for() -> None:
    rotation = _running(attempts=3, first_retry_s=1.0)
    assert rotation.lost("reset", 100.0) == [Open(candidate=0, reason="lost: reset")]
    assert rotation.failed("x", True, 101.0) == []
    assert rotation.next_deadline() == 101.75


def test_a_provider_that_stalled_is_passed_over_if_there_is_another() -> None:
    rotation = _running(candidates=2)
    assert rotation.lost("stalled", 100.0, elsewhere=True) == [Open(candidate=1, reason="failover: stalled")]
    alone = _running()
    assert alone.lost("stalled", 100.0, elsewhere=True) == [Open(candidate=0, reason="lost: stalled")]


def test_an_attempt_that_hangs_passes_over() -> None:
    rotation = _running(candidates=2, attempts_in_call=3)
    rotation.lost("reset", 100.0)
    assert rotation.failed("no answer", True, 101.2, elsewhere=True) == [
        Open(candidate=1, reason="failover: no answer")
    ]


def test_an_answer_under_way_is_let_go_on_until_the_last_moment_and_speech_is_not() -> None:
    rotation = _running()
    rotation.quiet(False, 1.0, owing=True)
    rotation.wake(420.0)
    rotation.opened(480.0, 421.0)
    assert rotation.next_deadline() == 477.0
    assert rotation.wake(470.0) == []
    (cut,) = rotation.quiet(False, 472.0, owing=False)
    assert cut == CutOver(forced=True, reason="planned"), "the answer is over, the user speaks, and it was time"


def test_what_is_not_worth_retrying_passes_over_at_once_and_ends_when_nobody_is_left() -> None:
    rotation = Rotation(OPTIONS, 2)
    rotation.start(0.0)
    assert rotation.failed("no key", False, 0.1) == [Open(candidate=1, reason="failover: no key")]
    assert rotation.failed("no key", False, 0.2) == [GiveUp(reason="no key")]
    assert rotation.phase is Phase.OVER


def test_a_hopeless_candidate_is_not_tried_again_while_another_only_cools() -> None:
    rotation = Rotation(RotationOptions(attempts=1), 2)
    rotation.start(0.0)
    assert rotation.failed("down", True, 0.0) == [Open(candidate=1, reason="failover: down")]
    assert rotation.failed("no key", False, 0.1) == []
    (order,) = rotation.wake(rotation.next_deadline())
    assert order == Open(candidate=0, reason="failover: down")


def test_a_provider_that_takes_connections_only_to_drop_them_is_given_up() -> None:
    rotation = _running(budget=5)
    now, orders = 0.1, rotation.lost("dropped", 0.1)
    steps = 0
    while not any(isinstance(order, GiveUp) for order in orders):
        steps += 1
        assert steps < 20, "a hot loop"
        if not any(isinstance(order, Open) for order in orders):
            now = rotation.next_deadline()
            orders = rotation.wake(now)
            continue
        rotation.opened(480.0, now)
        now += 0.1
        orders = rotation.lost("dropped", now)
    assert now > 0.5, "with growing delays"


def test_an_announced_end_opens_the_successor_and_forces_it() -> None:
    rotation = _running(life_s=None)
    rotation.quiet(False, 1.0)
    assert rotation.ending(20.0, 100.0) == [Open(candidate=0, reason="going away")]
    assert rotation.opened(None, 101.0) == []
    assert rotation.next_deadline() == 115.0


def test_a_successor_that_cannot_be_opened_leaves_the_call_alone() -> None:
    rotation = _running(candidates=2, life_s=None)
    assert rotation.prefer(1, 10.0) == [Open(candidate=1, reason="to candidate 1")]
    assert rotation.failed("no key", False, 11.0) == []
    assert rotation.next_deadline() == float("inf")
    assert rotation.lost("reset", 20.0) == [Open(candidate=0, reason="lost: reset")], "the one that worked"


def test_a_change_during_an_opening_opens_anew() -> None:
    rotation = _running()
    rotation.wake(420.0)
    assert rotation.renew("voice", 421.0) == [Open(candidate=0, reason="voice")]


FACTS = st.one_of(
    st.tuples(st.just("opened"), st.sampled_from([None, 0.5, 30.0, 480.0])),
    st.tuples(st.just("failed"), st.booleans()),
    st.tuples(st.just("lost"), st.booleans()),
    st.tuples(st.just("ending"), st.floats(0, 100)),
    st.tuples(st.just("renew"), st.none()),
    st.tuples(st.just("prefer"), st.integers(0, 2)),
    st.tuples(st.just("quiet"), st.booleans()),
    st.tuples(st.just("owing"), st.booleans()),
    st.tuples(st.just("wait"), st.floats(0, 500)),
    st.tuples(st.just("deadline"), st.none()),
)


@given(st.lists(FACTS, max_size=80), st.floats(0, 0.999))
def test_whatever_happens_there_is_one_attempt_and_a_way_on(facts: list[tuple[str, Any]], dice: float) -> None:
    rotation = Rotation(RotationOptions(), 3, dice)
    now = 0.0
    attempts = in_use = 0  # attempts under way (a renewal replaces one), connections in use

    def take(orders: list[Order]) -> None:
        nonlocal attempts, in_use, ready
        for order in orders:
            if isinstance(order, Open):
                assert rotation.phase in (Phase.LOST, Phase.OPENING)
                attempts, ready = 1, False
            elif isinstance(order, CutOver):
                assert ready, "only what is open can take over"
                in_use, ready = 1, False
            else:
                assert isinstance(order, GiveUp)
                assert rotation.phase is Phase.OVER
                in_use = 0

    ready = False
    take(rotation.start(now))
    for fact, value in facts:
        if rotation.phase is Phase.OVER:
            assert rotation.next_deadline() == float("inf")
            return
        if fact == "opened" and attempts:
            attempts, ready = 0, True
            take(rotation.opened(value, now))
        elif fact == "failed" and (attempts or (ready and rotation.phase is Phase.READY)):
            attempts, ready = 0, False
            take(rotation.failed("x", value, now, elsewhere=value))
        elif fact == "lost" and in_use:
            in_use = 0
            take(rotation.lost("x", now, elsewhere=value))
        elif fact == "ending" and in_use:
            take(rotation.ending(value, now))
        elif fact == "renew" and in_use:
            take(rotation.renew("x", now))
        elif fact == "prefer":
            take(rotation.prefer(value, now))
        elif fact in ("quiet", "owing"):
            take(rotation.quiet(value and fact == "quiet", now, owing=value and fact == "owing"))
        elif fact == "wait":
            now = min(now + value, max(now, rotation.next_deadline()))
        elif fact == "deadline" and rotation.next_deadline() < float("inf"):
            now = max(now, rotation.next_deadline())
            before = rotation.next_deadline(), rotation.phase
            take(rotation.wake(now))
            assert (rotation.next_deadline(), rotation.phase) != before, "a deadline that stays is a spin"
        if not in_use and rotation.phase is not Phase.OVER:
            assert rotation.phase is Phase.LOST
            assert attempts or rotation.next_deadline() < float("inf"), "without a connection something must be tried"
