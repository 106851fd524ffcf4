"""A long task goes on after everybody has left, and whoever comes next is told of it, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from duologue.engine.limits import LimitOptions
from duologue.errors import ConfigurationError, SessionClosedError
from duologue.events import (
    ListenerBack,
    ListenerJoined,
    ResponseStarted,
    SessionEnded,
    SessionStarted,
    SessionWaiting,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    TurnCommitted,
)
from duologue.models.base import Context
from duologue.session.journal import Emitted, decode_record
from duologue.session.session import Session
from duologue.store import GroupCommitter, MemoryStore
from duologue.testing.scripted import Reply, ScriptedCaller
from duologue.tools import progress, tool
from tests.session.calls import BARGE_IN, LONG, MARK, SHORT, STOP, Call, hold, line, make

pytestmark = pytest.mark.virtual

MARKING = [line(1.0, MARK, 0.6), line(1.8, MARK, 0.8)]


def uses(*names: str) -> Any:
    def answer(text: str | None, context: Context) -> Reply:
        if text is None:
            return Reply(text="The report is ready.")
        if "mark" in text:
            return Reply(tools=tuple((name, {}) for name in names))
        return Reply(text=SHORT)

    return answer


@tool(long_running=True)
async def report() -> str:
    """Write a report."""
    for part in range(6):
        await asyncio.sleep(5)
        progress(f"Part {part}.")
    return "done"


@tool
async def ordinary() -> str:
    """Ordinary."""
    await asyncio.sleep(20)
    return "done"


def call_of(*tools: Any, until_s: float = 6.0, answer: Any = None, lines: Any = MARKING, **options: Any) -> Call:
    return make(
        lines,
        answer or uses(*(entry.name for entry in tools)),
        until_s=until_s,
        tools=tools,
        session={"joinable": True, **options.pop("session", {})},
        **options,
    )


class Next(ScriptedCaller):
    """Whoever comes next."""

    name = "next"


@asynccontextmanager
async def running(call: Call) -> AsyncIterator[Session]:
    async with call.session as session:
        yield session
    assert session.ended is not None


def kinds(caller: ScriptedCaller) -> list[str]:
    return [event.origin for event in caller.of(ResponseStarted)]


async def test_it_goes_on_alone_and_the_next_one_hears_of_it_once() -> None:
    call = call_of(report)
    async with running(call) as session:
        await hold(call, 10)
        assert session.waiting
        assert session.busy
        assert call.caller.of(SessionEnded) == []
        after = Next([], until_s=40)
        await session.join(after)
        assert not session.waiting
        begun, started, *_ = after.events
        assert isinstance(begun, SessionStarted)
        assert isinstance(started, ToolStarted)
        assert started.name == "report"
        await hold(call, 45)
        assert isinstance(after.events[2], ListenerJoined)
        assert len(after.of(ToolProgress)) >= 4
        assert all(event.at > 10 for event in after.of(ToolProgress))
        (finished,) = after.of(ToolFinished)
        assert finished.status == "ok"
        ended = await session.wait()
    assert (ended.reason, ended.detail) == ("hangup", "next: hangup")
    assert kinds(after).count("tool") == 1
    said = {response for _, response, *_ in after.rendered}
    assert next(event.response for event in after.of(ResponseStarted) if event.origin == "tool") in said
    assert call.connection.results == [("report", "done")]


async def test_what_is_done_while_nobody_is_there_waits() -> None:
    call = call_of(report)
    async with running(call) as session:
        await hold(call, 60)
        assert session.waiting
        assert not session.busy
        assert call.connection.results == [], "a model that is given a result may answer it"
        asked = len(call.asked)
        after = Next([line(8.0, STOP, 1.0)], until_s=15)
        await session.join(after)
        await session.wait()
    assert kinds(after) == ["tool", "turn"]
    assert call.asked[asked:] == [None, STOP.text]
    assert call.connection.results == [("report", "done")]
    (committed,) = after.of(TurnCommitted)
    assert committed.text == STOP.text
    history = [(item.kind, item.text) for item in call.items if item.kind in ("result", "assistant")]
    assert history[-3:] == [("result", "done"), ("assistant", "The report is ready."), ("assistant", SHORT)]


async def test_nothing_is_said_and_nobody_is_asked_for_while_everybody_is_gone() -> None:
    call = call_of(report, limits=LimitOptions(idle_s=3), greeting="Hello there.")
    async with running(call) as session:
        events = session.receive()
        await hold(call, 200)
        assert session.waiting
        await session.stop()
        seen = [event async for event in events]
    left = next(index for index, event in enumerate(seen) if isinstance(event, SessionWaiting))
    assert seen[left].reason == "hangup"  # type: ignore[attr-defined]
    assert not [event for event in seen[left:] if isinstance(event, ResponseStarted)]
    assert isinstance(seen[-1], SessionEnded)
    assert seen[-1].reason == "stopped"


@pytest.mark.parametrize(
    ("tools", "joinable"), [((ordinary,), True), ((), True), ((report,), False)], ids=["ordinary", "none", "closed"]
)
async def test_any_other_session_ends_with_the_call(tools: Any, joinable: bool) -> None:
    call = call_of(*tools, session={"joinable": joinable})
    async with running(call) as session:
        ended = await session.wait()
    assert ended.reason == "hangup"
    assert ended.at == pytest.approx(6, abs=0.1)
    assert call.caller.of(SessionWaiting) == []
    assert [event.status for event in call.caller.of(ToolFinished)] == ["cancelled"] * len(tools)


async def test_ordinary_tools_beside_it_are_cancelled() -> None:
    call = call_of(report, ordinary)
    async with running(call) as session:
        events = session.receive()
        await hold(call, 60)
        after = Next([], until_s=6)
        await session.join(after)
        await session.wait()
    finished = [event async for event in events if isinstance(event, ToolFinished)]
    assert [(event.name, event.status) for event in finished] == [("ordinary", "cancelled"), ("report", "ok")]
    assert finished[0].at == pytest.approx(6, abs=0.1)
    assert kinds(after) == ["tool"]


async def test_a_failure_while_alone_is_told_too() -> None:
    @tool(long_running=True)
    async def fails() -> str:
        """Fails."""
        await asyncio.sleep(10)
        raise ValueError("The printer is out of paper.")

    call = call_of(fails)
    async with running(call) as session:
        await hold(call, 30)
        assert session.waiting
        after = Next([], until_s=6)
        await session.join(after)
        await session.wait()
    assert kinds(after) == ["tool"]
    assert call.connection.results == [("fails", "The printer is out of paper.")]


async def test_its_own_deadline_holds() -> None:
    @tool(long_running=True, timeout=12)
    async def endless() -> str:
        """Never done."""
        await asyncio.sleep(1e6)
        return ""

    call = call_of(endless)
    async with running(call) as session:
        await hold(call, 12)
        assert session.busy
        await hold(call, 20)
        assert session.waiting
        assert not session.busy


async def test_if_nobody_comes_back_the_session_ends_with_a_reason_and_its_journal() -> None:
    store = MemoryStore()
    committer = GroupCommitter(store)
    call = call_of(report, limits=LimitOptions(untold_s=100), session={"committer": committer, "id": "s-1"})
    async with running(call) as session:
        ended = await session.wait()
    done = next(item for item in session.history if item.kind == "result")
    assert done.text == "done"
    assert (ended.reason, ended.detail) == ("idle", "nobody came back")
    assert ended.at == pytest.approx(33 + 100, abs=2)
    await committer.close()
    records = [decode_record(record.data) for record in store.read("local", "s-1")]
    events = [record.event for record in records if isinstance(record, Emitted)]
    assert isinstance(events[-1], SessionEnded)
    assert len([event for event in events if isinstance(event, SessionWaiting)]) == 1


async def test_the_longest_call_bounds_it() -> None:
    call = call_of(report, limits=LimitOptions(max_call_s=20))
    async with running(call) as session:
        ended = await session.wait()
    assert (ended.reason, ended.at) == ("limit", pytest.approx(20, abs=0.1))


async def test_stop_ends_it_at_once() -> None:
    call = call_of(report)
    async with running(call) as session:
        await hold(call, 10)
        await session.stop()
        assert session.ended is not None
        assert session.ended.reason == "stopped"
        assert not session.waiting
        with pytest.raises(SessionClosedError):
            await session.join(Next([], until_s=1))


async def test_a_session_that_nobody_may_join_says_so() -> None:
    call = call_of(report, session={"joinable": False})
    async with running(call) as session:
        with pytest.raises(ConfigurationError, match="joinable"):
            await session.join(Next([], until_s=1))


async def test_a_channel_that_cannot_open_leaves_the_session_waiting() -> None:
    class Broken(Next):
        async def start(self, port: Any) -> None:
            raise ConfigurationError("No line.")

    call = call_of(report, limits=LimitOptions(untold_s=50))
    async with running(call) as session:
        await hold(call, 40)
        with pytest.raises(ConfigurationError, match="No line"):
            await session.join(Broken([], until_s=1))
        assert session.waiting
        ended = await session.wait()
    assert ended.at == pytest.approx(90, abs=1)


async def test_who_comes_back_within_the_grace_period_is_the_same_participant() -> None:
    call = call_of(report, until_s=60)
    async with running(call) as session:
        await hold(call, 5)
        call.caller.port.away()
        await hold(call, 20)
        assert not session.waiting
        call.caller.port.back()
        await session.wait()
    assert len(call.caller.of(ListenerBack)) == 1
    assert kinds(call.caller).count("tool") == 1
    assert call.caller.of(SessionWaiting) == []


async def test_grace_that_runs_out_leaves_the_session_waiting() -> None:
    call = call_of(report, until_s=600, limits=LimitOptions(grace_s=5))
    async with running(call) as session:
        events = session.receive()
        await hold(call, 5)
        call.caller.port.away()
        await hold(call, 12)
        assert session.waiting
        call.caller.port.back()  # too late: it is nobody any more
        assert session.waiting
        await session.stop()
        waiting = [event async for event in events if isinstance(event, SessionWaiting)]
    assert [event.reason for event in waiting] == ["client_left"]


async def test_an_answer_of_which_nothing_was_heard_is_told_again_and_one_that_was_is_not() -> None:
    for away_s, told in ((25.0, 1), (36.0, 0)):
        call = call_of(report, until_s=600, limits=LimitOptions(grace_s=12, untold_s=50))
        async with running(call) as session:
            await hold(call, away_s)
            call.caller.port.away()
            call.caller._lose = lambda n: True
            await hold(call, 60)
            assert session.waiting is bool(told)
            if told:
                after = Next([], until_s=6)
                await session.join(after)
                await session.wait()
                assert kinds(after) == ["tool"]


@pytest.mark.parametrize("leaves_s", [8.5, 9.4, 9.75, 10.3, 10.8, 11.2, 12.0, 14.0])
async def test_the_caller_may_leave_at_any_point_of_a_turn(leaves_s: float) -> None:
    """While they speak, pause, are answered or interrupt; then nothing is answered until somebody comes."""

    def answer(text: str | None, context: Context) -> Reply:
        return uses("report")(text, context) if text is None or "mark" in text else Reply(text=LONG)

    lines = [*MARKING, line(8.0, STOP, 1.0), line(10.8, BARGE_IN, 0.6)]
    call = call_of(report, until_s=leaves_s, answer=answer, lines=lines)
    async with running(call) as session:
        await hold(call, 50)
        assert session.waiting
        floor = session.conductor.floor
        assert floor.state == "idle"
        assert not session.busy
        after = Next([line(6.0, STOP, 1.0)], until_s=30)
        await session.join(after)
        await session.wait()
    assert kinds(after) == ["tool", "turn"]


async def test_what_a_tool_says_to_nobody_is_said_to_the_next() -> None:
    @tool(long_running=True)
    async def talks(session: Session) -> str:
        """Talks."""
        await asyncio.sleep(10)
        await session.say("It is half done.")
        await asyncio.sleep(10)
        return "done"

    call = call_of(talks)
    async with running(call) as session:
        await hold(call, 40)
        after = Next([], until_s=12)
        await session.join(after)
        await session.wait()
    assert kinds(after) == ["say", "tool"]


async def test_the_agent_may_hang_up_meanwhile() -> None:
    @tool(ends_call=True)
    async def goodbye() -> str:
        """End the call."""
        return "ended"

    def answer(text: str | None, context: Context) -> Reply:
        if text is None:
            return Reply(text="It is done.")
        if "mark" in text:
            return Reply(text="I begin.", tools=(("report", {}),))
        return Reply(tools=(("goodbye", {}),))

    lines = [*MARKING, line(8.0, STOP, 1.0)]
    call = call_of(report, goodbye, until_s=600, answer=answer, lines=lines)
    async with running(call) as session:
        await hold(call, 30)
        assert session.waiting
        await hold(call, 50)
        after = Next([], until_s=20)
        await session.join(after)
        ended = await session.wait()
    assert kinds(after) == ["tool"]
    assert (ended.reason, ended.detail) == ("hangup", "next: hangup")


async def test_a_program_that_asks_is_answered_and_told() -> None:
    call = call_of(report, limits=LimitOptions(untold_s=100))
    async with running(call) as session:
        await hold(call, 50)
        events = session.receive()
        with session.attended():
            await session.send("what is my next stop")
            await hold(call, 60)
        assert session.waiting
        ended = await session.wait()
        seen = [event async for event in events]
    after = [event for event in seen if event.at >= 50]
    assert [event.origin for event in after if isinstance(event, ResponseStarted)] == ["turn", "tool"]
    assert (ended.reason, ended.at) == ("idle", pytest.approx(160, abs=1))
