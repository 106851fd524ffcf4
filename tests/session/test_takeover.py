"""A session whose owner dies at any point of its journal goes on under the next one, and keeps its promises."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duologue.engine.limits import LimitOptions
from duologue.engine.replay import recorded, replay
from duologue.events import (
    AnyEvent,
    ResponseFinished,
    ResponseStarted,
    SessionEnded,
    SessionStarted,
    SessionTakenOver,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
)
from duologue.models.base import Context
from duologue.session.journal import Emitted, decode_record, owners
from duologue.session.rebuild import rebuild
from duologue.store import InlineCommitter, MemoryStore
from duologue.testing.scripted import Reply
from duologue.tools import ToolContext, tool
from tests.session.calls import EVENTFUL, LONG, SHORT, STOP, line, make, run

pytestmark = pytest.mark.virtual(limit=86_400)


@tool
async def slow(session: ToolContext) -> str:
    """Slow."""
    session.state["runs"] = session.state.get("runs", 0) + 1
    await asyncio.sleep(3)
    return "done"


@tool(on_takeover="rerun")
async def sure() -> str:
    """Slow, and harmless."""
    await asyncio.sleep(3)
    return "done"


def answer(text: str | None, context: Context) -> Reply:
    if text is None:
        return Reply(text="It is done.")
    if "mark" in text:
        return Reply(text="One second. ", tools=(("slow", {}), ("sure", {})))
    return Reply(text=LONG if "next" in text else SHORT)


def events(records: list[Any]) -> list[AnyEvent]:
    return [record.event for record in records if isinstance(record, Emitted)]


async def lived() -> list[bytes]:
    """The journal of a whole call."""
    store = MemoryStore()
    async with InlineCommitter(store) as committer:
        call = make(
            EVENTFUL, answer, until_s=32, tools=(slow, sure), greeting="Hello.", session={"committer": committer}
        )
        await run(call)
    return [record.data for record in store.read("local", call.session.id)]


async def taken_over(kept: list[bytes]) -> tuple[Any, list[Any]]:
    """The call that goes on after these records, and all records."""
    past = rebuild([decode_record(record) for record in kept])
    assert not past.ended
    store = MemoryStore()
    claim = store.claim("local", "s")
    store.append("local", "s", claim.epoch, kept)
    past.epoch = claim.epoch
    async with InlineCommitter(store) as committer:
        session = {"committer": committer, "id": "s", "past": past}
        call = make([line(1.0, STOP, 0.8)], answer, until_s=20, tools=(slow, sure), greeting="Hello.", session=session)
        await run(call)
    return call, [record.data for record in store.read("local", "s")]


async def test_what_a_tool_has_found_out_is_told_by_the_next_owner() -> None:
    records = await lived()
    decoded = [decode_record(record) for record in records]
    told = next(
        index
        for index, record in enumerate(decoded)
        if isinstance(record, Emitted) and isinstance(record.event, ResponseStarted) and record.event.origin == "tool"
    )
    _, after = await taken_over(records[:told])
    next_one = [decode_record(record) for record in after[told:]]
    started = [event for event in events(next_one) if isinstance(event, ResponseStarted)]
    assert started[0].origin == "tool"


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
async def test_wherever_an_owner_dies_the_next_one_keeps_what_was_promised(deaths: list[float]) -> None:
    records = await lived()
    decoded = [decode_record(record) for record in records]
    begun = next(index for index, record in enumerate(decoded) if isinstance(record, Emitted))
    for death in deaths:
        # Somewhere after the session began, in what the last owner has written.
        kept = records[: begun + 1 + round(death * (len(records) - begun - 2))]
        past = rebuild([decode_record(record) for record in kept])
        call, records = await taken_over(kept)
        assert records[: len(kept)] == kept
        check([decode_record(record) for record in records], taken=1)
        # What was said before is known.
        before = [event.text for event in past.events if isinstance(event, TurnCommitted)]
        assert [item.text for item in call.session.history if item.kind == "user"][: len(before)] == _last(past.events)
        told = events([decode_record(record) for record in records])
        turns = [
            {event.turn for event in part if isinstance(event, TurnCommitted)}
            for part in (past.events, told[len(past.events) :])
        ]
        assert not turns[0] & turns[1], "a turn of one owner is not another's"
        begun = len(kept)


def _last(told: list[Any]) -> list[str]:
    """The texts of the turns, each as it was committed last."""
    return list({event.turn: event.text for event in told if isinstance(event, TurnCommitted)}.values())


def check(records: list[Any], *, taken: int) -> None:
    """What holds of every journal."""
    told = events(records)
    assert sum(isinstance(event, SessionStarted) for event in told) == 1
    assert sum(isinstance(event, SessionTakenOver) for event in told) >= taken
    assert isinstance(told[-1], SessionEnded)
    started = Counter(event.response for event in told if isinstance(event, ResponseStarted))
    finished = Counter(event.response for event in told if isinstance(event, ResponseFinished))
    assert started == finished, "every response that starts finishes once"
    assert set(started.values()) <= {1}
    runs = Counter(event.call for event in told if isinstance(event, ToolStarted))
    results = Counter(event.call for event in told if isinstance(event, ToolFinished))
    assert runs == results, "every run has one result"
    for options, facts in owners(records):
        _, decided = replay(facts, options.floor, turns=options.turns)
        assert decided == recorded(facts), "each owner's decisions can be made again"


async def test_a_state_that_is_no_json_costs_the_call_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Ledger:
        """An application's own."""

    store = MemoryStore()
    with caplog.at_level(logging.WARNING):
        async with InlineCommitter(store) as committer:
            call = make([line(1.0, STOP, 0.8)], until_s=12, state=Ledger, session={"committer": committer})
            await run(call)
    assert len([record for record in caplog.records if "the state cannot be journaled" in record.message]) == 1
    assert call.finished()[-1].status == "completed"


async def test_a_state_that_is_too_large_is_not_journaled_and_costs_the_call_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    async with InlineCommitter(store) as committer:
        call = make([line(1.0, STOP, 0.8)], until_s=12, session={"committer": committer})
        call.session.state["all"] = "x" * LimitOptions().snapshot_bytes
        await run(call)
    assert not [record for record in store.read("local", call.session.id) if b'"kind":"state"' in record.data]
    assert len([record for record in caplog.records if "the state cannot be journaled" in record.message]) == 1
    assert call.finished()[-1].status == "completed"


async def test_a_state_is_had_back_as_the_application_declares_it() -> None:
    class Order(msgspec.Struct):
        items: list[str] = []

    store = MemoryStore()
    async with InlineCommitter(store) as committer:
        call = make([line(1.0, STOP, 0.8)], until_s=12, state=Order, session={"committer": committer})
        call.session.state.items.append("bread")
        await run(call)
        records = [decode_record(record.data) for record in store.read("local", call.session.id)]
        past = rebuild([record for record in records if not isinstance(getattr(record, "event", None), SessionEnded)])
        past.epoch = 1
        session = {"committer": committer, "id": call.session.id, "past": past}
        again = make([line(1.0, STOP, 0.8)], until_s=12, state=Order, session=session)
        await run(again)
    assert again.session.state == Order(items=["bread"])
