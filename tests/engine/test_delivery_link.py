"""Heartbeat, grace, resume tokens and clock estimation: all decided by the times that are passed in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from duologue.engine.clocksync import ClockSync
from duologue.engine.link import Beat, Grace, Heartbeat, ResumeTokens


def test_pings_at_once_and_then_every_interval() -> None:
    heart = Heartbeat(every=1.0, miss=3.0, now=10.0)
    assert heart.tick(10.0) is Beat.PING
    assert heart.tick(10.5) is Beat.NOTHING
    heart.received(10.9)
    assert heart.next_deadline() == 11.0
    assert heart.tick(11.0) is Beat.PING


def test_silence_for_the_stated_time_is_death_and_any_message_is_life() -> None:
    heart = Heartbeat(every=1.0, miss=3.0, now=0.0)
    seen = []
    now = 0.0
    while now < 2.5:
        seen.append(heart.tick(now))
        now += 0.5
    heart.received(2.4)
    while (beat := heart.tick(now)) is not Beat.DEAD:
        now += 0.1
        assert now < 6
        assert beat is not Beat.DEAD
    assert 5.4 <= now < 5.6
    assert Beat.DEAD not in seen


def test_our_own_stall_is_not_blamed_on_the_link() -> None:
    heart = Heartbeat(every=1.0, miss=3.0, now=0.0)
    heart.tick(0.0)
    assert heart.tick(60.0) is Beat.PING
    assert heart.tick(60.9) is Beat.NOTHING
    heart.received(60.95)  # what had waited in the socket meanwhile
    assert heart.tick(61.0) is Beat.PING
    dead = Heartbeat(every=1.0, miss=3.0, now=0.0)
    dead.tick(60.0)
    assert dead.tick(61.0) is Beat.DEAD


@given(st.lists(st.floats(0.01, 0.9), min_size=20, max_size=60))
def test_a_dead_link_is_found_within_the_stated_time_whenever_we_look(steps: list[float]) -> None:
    heart = Heartbeat(every=1.0, miss=3.0, now=0.0)
    now = 0.0
    for step in steps:
        now += step
        if heart.tick(now) is Beat.DEAD:
            assert 3.0 <= now < 4.0
            return
    assert now < 4.0


def test_grace_runs_from_the_cut_and_is_not_prolonged_by_a_second_report() -> None:
    grace = Grace(30.0)
    assert grace.next_deadline() is None
    grace.start(5.0)
    grace.start(20.0)
    assert grace.next_deadline() == 35.0
    assert not grace.expired(34.9)
    assert grace.expired(35.0)
    grace.cancel()
    assert not grace.running
    assert not grace.expired(99.0)


def test_the_token_before_is_good_until_the_new_one_has_arrived() -> None:
    tokens = ResumeTokens("a")
    tokens.rotate("b")
    tokens.rotate("c")  # two openings lost in a row
    assert not tokens.accepts("b")
    assert tokens.accepts("a")
    assert tokens.accepts("c")
    assert not tokens.accepts("a")  # it has shown c since
    tokens.rotate("d")
    tokens.confirm()
    assert not tokens.accepts("c")
    assert tokens.accepts("d")
    assert not tokens.accepts("")
    assert not ResumeTokens("").accepts("")
    assert not tokens.accepts("\ud800")


def test_the_clock_is_taken_from_the_shortest_round_trip() -> None:
    clock = ClockSync(window=3)
    assert clock.rtt is None
    assert clock.to_local(1.0) is None
    clock.pong(10.0, 110.5, 11.0)  # exact: the peer is 100 s ahead
    clock.pong(20.0, 120.9, 21.5)
    assert clock.rtt == 1.0
    assert clock.offset == 100.0
    assert clock.to_local(130.0) == 30.0
    clock.pong(30.0, 130.0, 29.0)  # an answer before its question
    assert clock.rtt == 1.0


@given(st.floats(-1e6, 1e6), st.lists(st.tuples(st.floats(0.001, 2), st.floats(0.001, 2)), min_size=1, max_size=20))
def test_the_error_of_the_clock_is_at_most_half_the_round_trip(offset: float, trips: list[tuple[float, float]]) -> None:
    clock = ClockSync()
    now = 0.0
    for there, back in trips:
        clock.pong(now, now + there + offset, now + there + back)
        now += 10
    assert clock.offset is not None
    assert clock.rtt is not None
    assert abs(clock.offset - offset) <= clock.rtt / 2 + 1e-6
