"""When a caller may hang up."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.channels.settling import Settling, settled
from duologue.events import (
    Event,
    ResponseFinished,
    ResponseStarted,
    ToolApprovalNeeded,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    UserSpeechStarted,
    UserSpeechStopped,
)

ANSWERED: list[Event] = [
    UserSpeechStarted(position=0),
    UserSpeechStopped(position=100),
    TurnCommitted(turn="t1", text="next stop", reason="pause"),
    ResponseStarted(response="r1", turn="t1"),
    ToolStarted(call="c1", name="next_stop"),
    ToolFinished(call="c1", name="next_stop", status="ok"),
    ResponseFinished(response="r1", status="completed"),
]


@pytest.mark.parametrize("count", range(1, len(ANSWERED)))
def test_something_is_owed_until_the_answer_was_heard(count: int) -> None:
    settling = Settling(0.0)
    for event in ANSWERED[:count]:
        settling.take(event, 1.0)
    assert settling.busy
    assert settling.left(1.5, settle_s=1.0, give_up_s=20.0) == 19.5


def test_nothing_is_owed_after_the_answer() -> None:
    settling = Settling(0.0)
    for event in ANSWERED:
        settling.take(event, 3.0)
    assert not settling.busy
    assert settling.left(3.5, settle_s=1.0, give_up_s=20.0) == 0.5


def test_a_discarded_turn_is_not_owed() -> None:
    settling = Settling(0.0)
    settling.take(UserSpeechStarted(position=0), 1.0)
    settling.take(UserSpeechStopped(position=9), 1.2)
    settling.take(TurnDiscarded(turn="t1", reason="cough"), 1.4)
    assert not settling.busy


def test_a_tool_that_waits_for_us_is_our_turn() -> None:
    settling = Settling(0.0)
    settling.take(ToolStarted(call="c1", name="pay"), 1.0)
    settling.take(ToolApprovalNeeded(call="c1", name="pay"), 1.0)
    assert not settling.busy
    assert settling.approve(2.0) == "c1"
    assert settling.busy
    settling.take(ToolFinished(call="c1", name="pay", status="ok"), 3.0)
    assert not settling.busy


def test_a_greeting_is_known_while_it_is_spoken() -> None:
    settling = Settling(0.0)
    settling.take(ResponseStarted(response="r1", origin="greeting"), 0.1)
    assert settling.greeting
    settling.take(ResponseFinished(response="r1", status="completed"), 2.0)
    assert not settling.greeting


@given(st.permutations(ANSWERED))
def test_the_order_in_which_events_come_cannot_leave_a_response_or_tool_open(events: list[Event]) -> None:
    settling = Settling(0.0)
    for event in [*events, *ANSWERED]:
        settling.take(event, 1.0)
    assert not settling.busy


@pytest.mark.virtual
async def test_waiting_ends_when_it_has_settled_and_not_before() -> None:
    loop = asyncio.get_running_loop()
    settling = Settling(loop.time())
    settling.take(ResponseStarted(response="r1"), loop.time())
    loop.call_later(5.0, lambda: settling.take(ResponseFinished(response="r1", status="completed"), loop.time()))
    await settled(settling, settle_s=1.0, give_up_s=20.0)
    assert loop.time() == pytest.approx(6.0, abs=0.06)


@pytest.mark.virtual
async def test_waiting_gives_up_when_nothing_happens() -> None:
    loop = asyncio.get_running_loop()
    settling = Settling(loop.time())
    settling.asked(loop.time())
    await settled(settling, settle_s=1.0, give_up_s=20.0)
    assert loop.time() == pytest.approx(20.0, abs=0.06)
