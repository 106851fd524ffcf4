"""Limits of a call, hooks, and that an hour of talk leaves no trace in memory."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

import pytest

from duologue.engine.limits import LimitOptions
from duologue.events import ErrorEvent, Event, ResponseStarted, SessionGoingAway
from duologue.models.base import Context
from duologue.session.hooks import Hooks
from duologue.testing.scripted import Line, Reply, ScriptedCaller
from duologue.tools import tool
from tests.session.calls import BARGE_IN, LONG, NOISE, SHORT, STOP, Call, hold, line, make, run

pytestmark = pytest.mark.virtual


def origins(call: Call) -> list[str]:
    return [event.origin for event in call.caller.of(ResponseStarted)]


async def test_nobody_there_is_asked_twice_and_then_the_call_ends() -> None:
    call = await run(make(until_s=200, limits=LimitOptions(idle_s=10, idle_prompts=2)))
    assert origins(call) == ["idle", "idle"]
    assert call.session.ended is not None
    assert call.session.ended.reason == "idle"
    assert 30 <= call.session.ended.at <= 36


async def test_an_answer_begins_patience_anew_but_a_noise_does_not() -> None:
    limits = LimitOptions(idle_s=10, idle_prompts=1)
    call = await run(make([line(14.0, STOP, 1.0)], until_s=200, limits=limits))
    assert origins(call) == ["idle", "turn", "idle"]
    call = await run(make([line(16.0, NOISE, 0.3)], until_s=200, limits=limits))
    assert origins(call) == ["idle"]
    assert call.session.ended is not None
    assert call.session.ended.reason == "idle"


async def test_a_text_session_has_patience_with_an_end_too() -> None:
    call = await run(
        make(until_s=200, limits=LimitOptions(idle_s=10, idle_prompts=2), session={"text_only": True}, greeting="Hi.")
    )
    assert origins(call) == ["greeting", "idle", "idle"]
    assert call.session.ended is not None
    assert call.session.ended.at == pytest.approx(30, abs=0.1)


async def test_a_long_tool_is_no_silence() -> None:
    @tool(long_running=True)
    async def research() -> str:
        """Research."""
        await asyncio.sleep(60)
        return "done"

    def answer(text: str | None, context: Context) -> Reply:
        return Reply(text="Done.") if text is None else Reply(text="I will look.", tools=(("research", {}),))

    call = await run(
        make([line(1.0, STOP, 1.0)], answer, until_s=70, tools=(research,), limits=LimitOptions(idle_s=10))
    )
    assert "idle" not in origins(call)
    assert call.finished("tool")[0].heard == "Done."


async def test_a_call_has_a_longest_length_and_says_so_before() -> None:
    call = await run(make(until_s=100, limits=LimitOptions(max_call_s=50, notice_s=10)))
    (notice,) = call.caller.of(SessionGoingAway)
    assert (notice.at, notice.in_s, notice.reason) == (40.0, 10.0, "limit")
    assert call.session.ended is not None
    assert (call.session.ended.reason, call.session.ended.at) == ("limit", 50.0)


class Recording(Hooks):
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    async def on_start(self, session: Any) -> None:
        self.seen.append(("start",))

    async def on_turn(self, session: Any, turn: str, text: str) -> None:
        self.seen.append(("turn", turn, text))

    async def before_tool(self, session: Any, call: Any) -> None:
        self.seen.append(("before", call.name))

    async def after_tool(self, session: Any, call: Any, result: Any) -> None:
        self.seen.append(("after", call.name, result.status))

    async def on_response(self, session: Any, response: str, status: str) -> None:
        self.seen.append(("response", status))

    async def on_interruption(self, session: Any, response: str, reason: str) -> None:
        self.seen.append(("interruption", reason))

    async def on_end(self, session: Any, reason: str) -> None:
        self.seen.append(("end", reason))


async def test_hooks_are_told_what_happens_in_order() -> None:
    @tool
    async def look() -> str:
        """Look."""
        return "ok"

    def answer(text: str | None, context: Context) -> Reply:
        if text is None:
            return Reply(text=LONG)
        return Reply(tools=(("look", {}),)) if "next" in text else Reply(text=SHORT)

    hooks = Recording()
    call = make([line(1.0, STOP, 1.0), line(4.5, BARGE_IN, 1.0)], answer, until_s=9, hooks=(hooks,), tools=(look,))
    await run(call)
    assert hooks.seen[0] == ("start",)
    assert hooks.seen[-1] == ("end", "hangup")
    kinds = [entry[0] for entry in hooks.seen]
    assert kinds.index("turn") < kinds.index("before") < kinds.index("after") < kinds.index("interruption")
    assert ("turn", "t2", "stop please tell me less") in hooks.seen
    assert ("response", "interrupted") in hooks.seen


async def test_hooks_that_raise_or_hang_are_reported_and_cost_nothing() -> None:
    class Raising(Hooks):
        async def on_turn(self, session: Any, turn: str, text: str) -> None:
            raise RuntimeError("hook broke")

    class Hanging(Hooks):
        budget_s = 2.0

        async def on_turn(self, session: Any, turn: str, text: str) -> None:
            await asyncio.sleep(1e6)

    hooks = Recording()
    call = await run(make([line(1.0, STOP, 1.0)], until_s=8, hooks=(Raising(), Hanging(), hooks)))
    assert [event.message for event in call.caller.of(ErrorEvent)] == [
        "Hook on_turn failed: RuntimeError('hook broke').",
        "Hook on_turn took too long.",
    ]
    assert ("turn", "t1", "what is my next stop") in hooks.seen
    assert call.finished("turn")[0].heard == SHORT


async def test_a_hook_may_stop_the_session() -> None:
    class Stopping(Hooks):
        async def on_turn(self, session: Any, turn: str, text: str) -> None:
            await session.stop("completed")

    call = await run(make([line(1.0, STOP, 1.0)], until_s=60, hooks=(Stopping(),)))
    assert call.session.ended is not None
    assert call.session.ended.reason == "completed"
    assert call.session.ended.at < 10


class Forgetful(ScriptedCaller):
    """Keeps nothing of what it heard, so that what memory grows is the session's."""

    def event(self, event: Event, encoded: bytes) -> None:
        """Nothing is kept."""

    def _render(self, now: float) -> None:
        super()._render(now)
        self.rendered.clear()
        self.clears.clear()
        self.ducks.clear()


async def test_memory_is_flat_over_a_long_talk() -> None:
    """Two hundred turns and barge-ins later nothing has grown but what is bounded."""
    lines: list[Line] = []
    for index in range(120):
        lines += [line(1.0 + index * 10, STOP, 1.0), line(5.0 + index * 10, BARGE_IN, 1.2)]
    call = make(answer=lambda text, context: Reply(text=LONG), caller=Forgetful(lines, until_s=1200))

    async def drain() -> None:
        async for _ in call.session.receive():
            pass

    def used() -> int:
        call.asked.clear()
        call.connection.truncated.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async with call.session as session:
        session.conductor.conversation.max_items = 40
        reader = asyncio.create_task(drain())
        tracemalloc.start()
        await hold(call, 300)
        first = used()
        await hold(call, 1100)
        grown = used() - first
        tracemalloc.stop()
        assert len(session.conductor.conversation.items) <= 40
        await session.stop()
    await reader
    assert grown < 200_000, grown
