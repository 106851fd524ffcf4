"""The journal: nothing leaves before it is written, and what was decided can be decided again from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duologue.engine.conversation import Conversation
from duologue.engine.endpointing import EndpointingOptions
from duologue.engine.limits import LimitOptions
from duologue.engine.replay import Fact, Recorder, Windows, recorded, replay
from duologue.errors import FencedError, OverloadedError, StoreError
from duologue.events import ErrorEvent, Event, ToolFinished, ToolStarted, TurnCommitted, decode_event
from duologue.models.base import Context
from duologue.session.definition import TurnTaking
from duologue.session.journal import Emitted, History, Options, decode_record, floor_records
from duologue.session.rebuild import rebuild
from duologue.store import Append, Commit, Committer, GroupCommitter, InlineCommitter, MemoryStore, SQLiteStore, Store
from duologue.testing.clock import run_virtual
from duologue.testing.scripted import Line, Reply, ScriptedCaller
from duologue.tools import tool
from tests.session.calls import ALL, EVENTFUL, LONG, SHORT, STOP, Call, hold, line, make, run

pytestmark = pytest.mark.virtual(limit=86_400)


@asynccontextmanager
async def opened(kind: str, path: Path) -> AsyncIterator[tuple[Store, Committer]]:
    store: Store = SQLiteStore(path / "journal.db") if kind == "sqlite" else MemoryStore()
    committer = GroupCommitter(store) if kind == "sqlite" else InlineCommitter(store, latency=0.003, window=0.004)
    async with committer:
        yield store, committer
    store.close()


def journal(store: Store, call: Call) -> list[Any]:
    return [decode_record(record.data) for record in store.read("local", call.session.id)]


def answer(text: str | None, context: Context) -> Reply:
    if text is None:
        return Reply(text="It is done.")
    if "mark" in text:
        return Reply(text="One second. ", tools=(("slow", {}),))
    return Reply(text=LONG if "next" in text else SHORT)


@tool
async def slow() -> str:
    """Slow."""
    await asyncio.sleep(3)
    return "done"


def check_replay(records: list[Any], call: Call) -> None:
    """The recorded facts, given to a new floor, cause the recorded actions and bring it to the same place."""
    assert isinstance(records[0], Options)
    assert records[0].session == call.session.id
    options, facts = floor_records(records)
    floor, caused = replay(facts, options)
    assert caused == recorded(facts)
    assert caused
    live = call.session.conductor.floor
    assert floor.state == live.state == "closed"
    assert list(floor.transitions) == list(live.transitions)
    assert (floor.turn, floor.text) == (live.turn, live.text)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_recorded_call_is_decided_again_in_the_same_way(kind: str, tmp_path: Path) -> None:
    turn_taking = TurnTaking(endpointing=EndpointingOptions(shortest_ms=300))
    async with opened(kind, tmp_path) as (store, committer):
        call = make(
            EVENTFUL,
            answer,
            until_s=34,
            tools=(slow,),
            greeting="Hello.",
            session={"committer": committer},
            turn_taking=turn_taking,
        )
        await run(call)
        records = journal(store, call)
        check_replay(records, call)
        assert records[0].floor.endpointing == turn_taking.endpointing
        told = [record.event for record in records if isinstance(record, Emitted)]
        assert told == call.caller.events, "what listeners were told is in the journal, in their order"
        windows = sum(len(record.p) for record in records if isinstance(record, Windows))
        windows += sum(record.name == "window" for record in records if isinstance(record, Fact))
        assert windows == 34 * 16_000 // 512
    assert len(call.caller.of(TurnCommitted)) >= 4


lines = st.lists(st.tuples(st.floats(0.1, 4.0), st.integers(1, len(ALL)), st.floats(0.1, 2.5)), min_size=1, max_size=12)


@given(lines, st.booleans(), st.integers(0, 200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
async def test_any_call_is_decided_again_in_the_same_way(
    script: list[tuple[float, int, float]], acknowledges: bool, lag_ms: int
) -> None:
    at, said = 0.5, []
    for pause, utterance, length in script:
        at += pause
        said.append(Line(at_s=round(at, 2), utterance=utterance, seconds=round(length, 2)))
        at += length
    store = MemoryStore()
    async with InlineCommitter(store) as committer:
        caller = ScriptedCaller(said, until_s=at + 8, acknowledges=acknowledges, lag_s=lag_ms / 1000)
        call = make(answer=answer, caller=caller, tools=(slow,), session={"committer": committer})
        await run(call)
        check_replay(journal(store, call), call)
    check_call(call)


def check_call(call: Call) -> None:
    """What must hold of any call."""
    started = [event.response for event in call.caller.events if type(event).__name__ == "ResponseStarted"]
    finished = [event.response for event in call.finished()]
    assert sorted(started) == sorted(finished), "every response that starts finishes once"
    for response in call.finished():
        assert response.text.startswith(response.heard)
        played = call.rendered(response.response)
        end = 0
        for _, start, stop in played:
            assert start <= end, "no sample is left out"
            end = max(end, stop)
        if response.status == "completed" and response.heard_ms:
            assert abs(end / 24 - response.heard_ms) < 1
    assert not call.session.conductor.conversation.open_calls()
    assert not call.caller.of(ErrorEvent)
    texts = [text for kind, text in call.history if kind == "assistant"]
    assert all(texts)


def test_the_same_call_twice_is_the_same() -> None:
    async def once() -> Call:
        return await run(make(EVENTFUL, answer, until_s=34, tools=(slow,), session={"id": "s-1"}))

    one, other = run_virtual(once()), run_virtual(once())
    assert one.caller.events[1:] == other.caller.events[1:]
    assert one.caller.rendered == other.caller.rendered


class Watching(ScriptedCaller):
    """Looks into the store whenever it is told something."""

    store: MemoryStore
    key: str
    early: list[Event]

    def event(self, event: Event, encoded: bytes) -> None:
        super().event(event, encoded)
        stored = [record.data for record in self.store.read("local", self.key)]
        if not any(encoded in data for data in stored):
            self.early.append(event)
        assert decode_event(encoded) == event


async def test_nothing_is_told_and_no_tool_starts_before_it_is_written() -> None:
    store = MemoryStore()
    begun: list[bool] = []

    @tool
    async def look() -> str:
        """Look."""
        begun.append(any(b'"tool.started"' in record.data for record in store.read("local", "watched")))
        return "ok"

    def uses(text: str | None, context: Context) -> Reply:
        return Reply(text="Done.") if text is None else Reply(tools=(("look", {}),))

    async with InlineCommitter(store, latency=0.003, window=0.004) as committer:
        caller = Watching([line(1.0, STOP, 1.0)], until_s=6)
        caller.store, caller.key, caller.early = store, "watched", []
        call = make(answer=uses, caller=caller, tools=(look,), session={"committer": committer, "id": "watched"})
        given_to_model: list[bool] = []
        async with call.session as session:
            connection = call.connection
            inner = connection.tool_result

            def told(id: str, name: str, text: str, *, error: bool) -> None:
                given_to_model.append(
                    any(b'"tool.finished"' in record.data for record in store.read("local", "watched"))
                )
                inner(id, name, text, error=error)

            connection.tool_result = told
            await session.wait()
    assert caller.early == []
    assert begun == [True]
    assert given_to_model == [True]
    assert len(caller.of(ToolStarted)) == len(caller.of(ToolFinished)) == 1


async def test_a_deadline_and_a_fact_of_the_same_instant_are_taken_in_recorded_order() -> None:
    """The tie rule: fact first, whatever it does to the deadline; a replay takes them in the order of the record."""
    from duologue.engine.floor import Floor

    for fact_first in (True, False):
        written: list[Any] = []
        recorder = Recorder(Floor(), written.append, 0.0)
        recorder.fact("audible", now=0.0)
        now = 0.0
        for index in range(8):
            now = (index + 1) * 0.032
            recorder.window(index * 32.0, (index + 1) * 32.0, 0.95, now)
        assert recorder.floor.state == "held"
        due = recorder.floor.next_deadline()
        assert due is not None
        facts: list[tuple[Any, ...]] = [("recognised", "stop it", False), ("wake",)]
        for fact in facts if fact_first else reversed(facts):
            recorder.fact(*fact, now=due)
        # Words take the floor; where the hold has run out before, its turn is over, and a new one is being judged.
        assert recorder.floor.state == ("user" if fact_first else "held")
        reasons = [step.reason for step in recorder.floor.transitions]
        assert ("held for too long without further input" in reasons) is not fact_first
        lines = [msgspec.json.encode(record) for record in written]
        again = [decode_record(line) for line in lines]
        floor, caused = replay(again, recorder.floor.options)
        assert caused == recorded(again)
        assert floor.state == recorder.floor.state
        assert list(floor.transitions) == list(recorder.floor.transitions)


@given(
    st.lists(st.tuples(st.integers(1, 3000), st.floats(0, 1), st.floats(0, 0.1)), max_size=120),
    st.sampled_from([8000, 16_000, 24_000, 44_100, 48_000]),
    st.floats(0, 1e5),
)
@settings(max_examples=100)
async def test_windows_of_any_rate_and_length_replay_exactly(
    windows: list[tuple[int, float, float]], rate: int, base: float
) -> None:
    from duologue.engine.floor import Floor

    written: list[Any] = []
    recorder = Recorder(Floor(), written.append, base)
    position, now, scale = 0, base, 1000 / rate
    for samples, probability, later in windows:
        now += later
        recorder.window(position * scale, (position + samples) * scale, probability, now)
        position += samples
    recorder.flush()
    again = [decode_record(msgspec.json.encode(record)) for record in written]
    floor, caused = replay(again, recorder.floor.options)
    assert caused == recorded(again)
    live = recorder.floor
    assert list(floor.transitions) == list(live.transitions)
    assert (floor.activity.now_ms, floor.activity.voiced_ms) == (live.activity.now_ms, live.activity.voiced_ms)


# ---------------------------------------------------------------------- when writing fails


class Faulty(MemoryStore):
    fault: Exception | None = None

    def append_batch(self, batch: Sequence[Append]) -> list[Commit | FencedError]:
        if self.fault is not None:
            raise self.fault
        return super().append_batch(batch)


async def test_a_failing_journal_ends_the_session_and_nothing_more_leaves() -> None:
    store = Faulty()
    async with InlineCommitter(store, latency=0.003, window=0.004) as committer:
        call = make([line(1.0, STOP, 1.0)], answer, until_s=60, session={"committer": committer})
        async with call.session as session:
            await hold(call, 4.0)
            store.fault = StoreError("The disk is full.")
            ended = await session.wait()
            sent_before = len(call.caller.rendered)
        assert (ended.reason, ended.detail) == ("error", "The disk is full.")
        fatal = call.caller.events[-1]
        assert isinstance(fatal, ErrorEvent)
        assert (fatal.code, fatal.fatal) == ("store", True)
        at = call.caller.events.index(fatal)
        assert at == len(call.caller.events) - 1, "nothing is told that could not be written"
        assert ended.at < 6, "and the end does not wait for what cannot come"
        assert len(call.caller.rendered) - sent_before <= 1


async def test_an_owner_that_was_replaced_stops_speaking_and_its_tools_are_fenced() -> None:
    ran: list[str] = []

    @tool
    async def late() -> str:
        """Late."""
        ran.append("started")
        await asyncio.sleep(60)
        ran.append("finished")
        return "done"

    def uses(text: str | None, context: Context) -> Reply:
        return Reply(text=LONG, tools=(("late", {}),))

    store = MemoryStore()
    async with InlineCommitter(store) as committer:
        call = make(answer=uses, until_s=60, tools=(late,), session={"committer": committer, "id": "taken"})
        async with call.session as session:
            await session.send("go")
            await hold(call, 2.0)
            store.claim("local", "taken", session.epoch)
            ended = await session.wait()
    assert ended.reason == "error"
    assert [event.code for event in call.caller.errors] == ["fenced"]
    assert ran == ["started"]
    assert call.caller.of(ToolFinished) == []
    records = [decode_record(record.data) for record in store.read("local", "taken")]
    assert not [record for record in records if isinstance(record, Emitted) and record.event.at > ended.at]


async def test_a_journal_that_is_taken_already_refuses_the_start() -> None:
    store = MemoryStore()
    store.claim("local", "mine")
    async with InlineCommitter(store) as committer:
        call = make(session={"committer": committer, "id": "mine"})
        with pytest.raises(FencedError):
            await call.session.start()


async def test_a_journal_that_cannot_keep_up_ends_the_session_with_a_typed_error() -> None:
    store = MemoryStore()
    async with InlineCommitter(store, latency=30.0, max_bytes=4000, patience=100.0) as committer:
        call = make([line(1.0, STOP, 1.0)], answer, until_s=60, session={"committer": committer})
        starting = asyncio.create_task(call.session.start())
        await starting
        ended = await call.session.wait()
    assert ended.reason == "error"
    assert OverloadedError.code in {event.code for event in call.caller.errors}


@pytest.mark.parametrize("every", [0, 1, 2, 3])
async def test_a_conversation_is_rebuilt_from_its_last_snapshot(every: int, tmp_path: Path) -> None:
    async with opened("memory", tmp_path) as (store, committer):
        call = make(
            EVENTFUL,
            answer,
            until_s=34,
            tools=(slow,),
            greeting="Hello.",
            session={"committer": committer},
            limits=LimitOptions(snapshot_turns=every),
        )
        await run(call)
        records = journal(store, call)
    committed = [
        record for record in records if isinstance(record, Emitted) and isinstance(record.event, TurnCommitted)
    ]
    snapshots = [record for record in records if isinstance(record, History)]
    assert len(snapshots) == (len(committed) // every if every else 0)
    made = rebuild(records)
    conductor = call.session.conductor
    assert made.conversation.items == conductor.conversation.items
    assert made.turn == committed[-1].event.turn
    assert made.responses <= conductor.responses.count
    assert made.untold == conductor.speaking.untold
    told = [record for record in records if isinstance(record, Emitted)]
    if snapshots:
        after = records[records.index(snapshots[-1]) :]
        assert made.replayed == sum(isinstance(record, Emitted) for record in after) < len(told)
    else:
        assert made.replayed == len(told)
    whole = rebuild(told)
    assert whole.conversation.items == made.conversation.items, "a snapshot and what led to it say the same"


async def test_a_journal_may_end_anywhere(tmp_path: Path) -> None:
    """As a killed worker leaves it: whatever was written last, the rest is a conversation."""
    async with opened("memory", tmp_path) as (store, committer):
        limits = LimitOptions(snapshot_turns=1)
        call = make(EVENTFUL, answer, until_s=34, tools=(slow,), session={"committer": committer}, limits=limits)
        await run(call)
        records = journal(store, call)
    for end in range(len(records) + 1):
        made = rebuild(records[:end])
        assert (
            made.conversation.items
            == rebuild([record for record in records[:end] if not isinstance(record, History)]).conversation.items
        )
        committed = [
            record.event.turn
            for record in records[:end]
            if isinstance(record, Emitted) and isinstance(record.event, TurnCommitted)
        ]
        assert made.turn == (committed[-1] if committed else "")


async def test_a_snapshot_is_bounded(tmp_path: Path) -> None:
    async with opened("memory", tmp_path) as (store, committer):
        call = make(
            [line(1.0 + 6 * index, STOP, 1.2) for index in range(8)],
            answer,
            until_s=50,
            session={"committer": committer},
            limits=LimitOptions(snapshot_turns=1, snapshot_bytes=700),
        )
        await run(call)
        records = journal(store, call)
    snapshots = [record for record in records if isinstance(record, History)]
    assert len(snapshots) == 8
    assert all(len(bytes(snapshot.state)) <= 700 for snapshot in snapshots)
    made = rebuild(records)
    live = call.session.conductor.conversation.items
    assert 0 < len(made.conversation.items) < len(live)
    assert made.conversation.items == live[-len(made.conversation.items) :]
    assert made.conversation.summary.startswith("User: ")
    assert isinstance(made.conversation, Conversation)
