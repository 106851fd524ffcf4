"""Tools beside the conversation: never before the turn is over, never in its way, each with exactly one result."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from duologue.errors import ConfigurationError
from duologue.events import (
    ApprovalInput,
    ErrorEvent,
    ResponseStarted,
    ToolApprovalNeeded,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    TurnCommitted,
)
from duologue.models.base import Context
from duologue.session.session import Session
from duologue.session.toolbench import FillerOptions
from duologue.testing.scripted import Reply
from duologue.tools import progress, tool
from tests.session.calls import BARGE_IN, LAST, MARK, OTHER, SHORT, Call, hold, line, make, run

pytestmark = pytest.mark.virtual


def uses(name: str, trigger: str = "mark", **arguments: Any) -> Any:
    def answer(text: str | None, context: Context) -> Reply:
        if text is None:
            return Reply(text="It is done.")
        if trigger in text:
            return Reply(tools=((name, arguments),))
        return Reply(text=SHORT)

    return answer


MARKING = [line(1.0, MARK, 0.6), line(1.8, MARK, 0.8)]


async def test_a_slow_tool_does_not_hold_up_the_conversation() -> None:
    runs: list[float] = []

    @tool
    async def slow() -> str:
        """Slow."""
        runs.append(asyncio.get_running_loop().time())
        await asyncio.sleep(6)
        return "done"

    call = await run(make([*MARKING, line(5.5, OTHER, 1.0)], uses("slow"), until_s=16, tools=(slow,)))
    assert len(runs) == 1
    (finished,) = call.caller.of(ToolFinished)
    assert (finished.status, finished.output) == ("ok", "done")
    origins = [event.origin for event in call.caller.of(ResponseStarted)]
    assert origins == ["turn", "filler", "turn", "tool"], "a filler, the other question, then the late result"
    assert [event.heard for event in call.finished("turn")] == ["", SHORT]
    assert [event.heard for event in call.finished("tool")] == ["It is done."]
    assert call.connection.results == [("slow", "done")], "delivered once"
    (result,) = [item for item in call.items if item.kind == "result"]
    assert result.late
    assert call.session.conductor.conversation.open_calls() == []


async def test_a_filler_breaks_the_silence_once_and_only_the_silence() -> None:
    @tool
    async def slow() -> str:
        """Slow."""
        await asyncio.sleep(5)
        return "done"

    filler = FillerOptions(after_s=1.0, texts=("A moment.",))
    call = await run(make(MARKING, uses("slow"), until_s=12, tools=(slow,), filler=filler))
    (said,) = call.finished("filler")
    (started,) = call.caller.of(ToolStarted)
    assert said.heard == "A moment."
    assert call.rendered(said.response)[0][0] == pytest.approx(started.at + 1.0, abs=0.06)
    call = await run(make(MARKING, uses("slow"), until_s=12, tools=(slow,), filler=FillerOptions(after_s=0)))
    assert call.finished("filler") == []


async def test_no_tool_starts_before_its_turn_is_over() -> None:
    """The model asks for the tool in every pause; the caller goes on twice, and then is silent."""
    started: list[float] = []

    @tool
    async def mark() -> str:
        """Mark."""
        started.append(asyncio.get_running_loop().time())
        return "ok"

    lines = [line(1.0, LAST, 0.6), line(2.2, LAST, 0.6), line(3.4, LAST, 0.6)]
    call = await run(make(lines, uses("mark"), until_s=9, tools=(mark,)))
    (committed,) = call.caller.of(TurnCommitted)
    assert len(call.asked) >= 2, "there was speculation"
    assert len(started) == 1
    assert started[0] - call.session.conductor.base >= committed.at
    assert call.caller.of(ToolStarted)[0].at >= committed.at


async def test_going_on_before_the_answer_stops_a_read_only_tool_and_nobody_speaks_of_it() -> None:
    @tool(side_effects=False)
    async def look_up() -> str:
        """Look up."""
        await asyncio.sleep(4)
        return "old news"

    lines = [*MARKING, line(3.3, OTHER, 1.0)]
    call = await run(make(lines, uses("look_up"), until_s=14, tools=(look_up,)))
    assert [event.turn for event in call.caller.of(TurnCommitted)] == ["t1", "t1"]
    assert [event.status for event in call.caller.of(ToolFinished)] == ["cancelled", "ok"]
    assert [event.heard for event in call.finished("tool")] == ["It is done."]


async def test_a_tool_with_side_effects_is_not_taken_back() -> None:
    runs: list[str] = []

    @tool
    async def mark() -> str:
        """Mark."""
        await asyncio.sleep(4)
        runs.append("marked")
        return "ok"

    call = await run(make([*MARKING, line(3.3, OTHER, 1.0)], uses("mark"), until_s=14, tools=(mark,)))
    assert [event.turn for event in call.caller.of(TurnCommitted)] == ["t1", "t2"]
    assert runs == ["marked"]
    assert [event.status for event in call.caller.of(ToolFinished)] == ["ok"]


async def test_a_tool_that_allows_it_is_stopped_by_a_barge_in() -> None:
    @tool(cancel_on_barge_in=True)
    async def search() -> str:
        """Search."""
        await asyncio.sleep(30)
        return "found"

    def answer(text: str | None, context: Context) -> Reply:
        if text and "mark" in text:
            return Reply(text="Let me search for a long time, and tell you all about it.", tools=(("search", {}),))
        return Reply(text=SHORT)

    call = await run(make([*MARKING, line(4.0, BARGE_IN, 1.2)], answer, until_s=10, tools=(search,)))
    (finished,) = call.caller.of(ToolFinished)
    assert finished.status == "cancelled"
    assert call.finished("tool") == [], "who interrupted does not want to hear of it"
    assert call.finished("turn")[-1].heard == SHORT


@pytest.mark.parametrize("kind", ["raises", "hangs", "unserialisable", "unknown", "bad_arguments"])
async def test_a_tool_that_goes_wrong_is_told_to_the_model_and_the_call_goes_on(kind: str) -> None:
    @tool
    async def raises() -> str:
        """Raises."""
        raise ValueError("no such delivery")

    @tool(timeout=2)
    async def hangs() -> str:
        """Hangs."""
        await asyncio.sleep(1e6)
        return "never"

    @tool
    async def unserialisable() -> Any:
        """Unserialisable."""
        return object()

    @tool
    async def bad_arguments(number: int) -> int:
        """Number."""
        return number

    arguments = {"number": "many"} if kind == "bad_arguments" else {}
    call = await run(
        make(
            [*MARKING, line(8.0, OTHER, 1.0)],
            uses(kind, **arguments),
            until_s=13,
            tools=(raises, hangs, unserialisable, bad_arguments),
        )
    )
    (finished,) = call.caller.of(ToolFinished)
    assert finished.status == ("timeout" if kind == "hangs" else "error")
    assert finished.error
    assert call.connection.results == [(kind, finished.error)]
    assert call.finished("tool")[0].heard == "It is done."
    assert call.finished("turn")[-1].heard == SHORT
    assert call.session.ended is not None
    assert call.session.ended.reason == "hangup"


@pytest.mark.parametrize("approved", [True, False])
async def test_an_approval_is_waited_for(approved: bool) -> None:
    @tool(approval=True)
    async def refund() -> str:
        """Refund."""
        return "refunded"

    call = make(MARKING, uses("refund"), until_s=12, tools=(refund,))
    async with call.session as session:
        await hold(call, 6.0)
        (needed,) = call.caller.of(ToolApprovalNeeded)
        assert call.caller.of(ToolFinished) == []
        with pytest.raises(ConfigurationError):
            await session.send(ApprovalInput(call="nobody", approved=True))
        await session.send(ApprovalInput(call=needed.call, approved=approved))
        await session.wait()
    (finished,) = call.caller.of(ToolFinished)
    assert finished.status == ("ok" if approved else "denied")
    assert call.finished("tool")[0].heard == "It is done."


async def test_parallel_tools_are_spoken_of_together() -> None:
    @tool
    async def one() -> str:
        """One."""
        await asyncio.sleep(0.5)
        return "1"

    @tool
    async def two() -> str:
        """Two."""
        await asyncio.sleep(1.5)
        return "2"

    def answer(text: str | None, context: Context) -> Reply:
        return Reply(text="Both are done.") if text is None else Reply(tools=(("one", {}), ("two", {})))

    call = await run(make(MARKING, answer, until_s=9, tools=(one, two), filler=FillerOptions(after_s=0)))
    assert [event.heard for event in call.finished("tool")] == ["Both are done."]
    assert call.connection.results == [("one", "1"), ("two", "2")]


async def test_progress_is_told_and_spoken() -> None:
    @tool
    async def slow() -> str:
        """Slow."""
        progress("Half way there.")
        await asyncio.sleep(2)
        return "done"

    call = await run(make(MARKING, uses("slow"), until_s=10, tools=(slow,)))
    assert [event.message for event in call.caller.of(ToolProgress)] == ["Half way there."]
    assert [event.heard for event in call.finished("filler")] == ["Half way there."]


async def test_ending_the_call_lets_the_farewell_play_out() -> None:
    @tool(ends_call=True)
    async def end_call() -> str:
        """Hang up."""
        return "ok"

    def answer(text: str | None, context: Context) -> Reply:
        return Reply(text="Goodbye, drive safely.") if text is None else Reply(tools=(("end_call", {}),))

    call = await run(make(MARKING, answer, until_s=60, tools=(end_call,)))
    assert call.session.ended is not None
    assert call.session.ended.reason == "completed"
    (farewell,) = call.finished("farewell")
    assert (farewell.heard, farewell.status) == ("Goodbye, drive safely.", "completed")
    played = call.rendered(farewell.response)
    assert max(stop for *_, stop in played) / 24_000 == pytest.approx(len(farewell.heard) / 15.0, abs=0.01)
    assert call.session.ended.at == pytest.approx(played[-1][0], abs=0.3)


async def test_ending_the_call_says_goodbye_for_a_model_that_does_not() -> None:
    @tool(ends_call=True)
    async def end_call() -> str:
        """Hang up."""
        return "ok"

    def answer(text: str | None, context: Context) -> Reply:
        return Reply() if text is None else Reply(tools=(("end_call", {}),))

    call = await run(make(MARKING, answer, until_s=60, tools=(end_call,), farewell="Bye now."))
    assert [event.heard for event in call.finished("farewell") if event.text] == ["Bye now."]
    assert call.session.ended is not None
    assert call.session.ended.at < 8


async def test_a_farewell_that_takes_for_ever_is_cut() -> None:
    @tool(ends_call=True)
    async def end_call() -> str:
        """Hang up."""
        return "ok"

    def answer(text: str | None, context: Context) -> Reply:
        return Reply(text="Goodbye. " * 100) if text is None else Reply(tools=(("end_call", {}),))

    call = await run(make(MARKING, answer, until_s=60, tools=(end_call,)))
    assert call.session.ended is not None
    assert (call.session.ended.reason, call.session.ended.at) == ("completed", pytest.approx(18, abs=0.5))


async def test_a_tool_may_speak_and_stop_the_session_it_runs_in() -> None:
    @tool
    async def speaks(session: Session) -> str:
        """Speaks."""
        await session.say("I am a tool.")
        return "ok"

    @tool
    async def stops(session: Session) -> str:
        """Stops."""
        await session.stop()
        return "never told"

    call = await run(make(MARKING, uses("speaks"), until_s=8, tools=(speaks,)))
    assert [event.heard for event in call.finished("say")] == ["I am a tool."]
    call = await run(make(MARKING, uses("stops"), until_s=30, tools=(stops,)))
    assert call.session.ended is not None
    assert call.session.ended.reason == "stopped"
    assert call.session.ended.at < 4


async def test_a_hung_tool_does_not_keep_the_session_from_ending() -> None:
    @tool
    async def hangs() -> str:
        """Hangs, and does not let itself be cancelled at once."""
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            await asyncio.sleep(60)
        return "never told"

    call: Call = make(MARKING, uses("hangs"), until_s=8, tools=(hangs,))
    async with call.session as session:
        await session.wait()
    assert call.session.ended is not None
    assert call.session.ended.at < 12
    assert not [event for event in call.caller.of(ErrorEvent) if event.fatal]
