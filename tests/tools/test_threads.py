from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Iterator

import pytest

from duologue.errors import OverloadedError
from duologue.tools.threads import ShortTurns, SyncThreads, ToolThreads

LIMIT_S = 20.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds threads up until a test ends at the latest."""
    event = threading.Event()
    yield event
    event.set()


def test_runs_and_raises() -> None:
    threads = SyncThreads()

    def leave() -> None:
        raise SystemExit(3)

    assert threads.submit(lambda: 3).future.result(LIMIT_S) == 3
    assert isinstance(threads.submit(leave).future.exception(LIMIT_S), SystemExit)
    assert threads.submit(threading.current_thread).future.result(LIMIT_S) is not threading.current_thread()


def test_threads_take_short_turns_while_a_tool_runs() -> None:
    assert SyncThreads().submit(sys.getswitchinterval).future.result(LIMIT_S) <= ShortTurns.INTERVAL_S


def test_turns_are_as_before_when_the_last_tool_is_done() -> None:
    usual, turns = sys.getswitchinterval(), ShortTurns()
    sys.setswitchinterval(0.02)
    try:
        with turns:
            with turns:
                assert sys.getswitchinterval() == pytest.approx(ShortTurns.INTERVAL_S)
            assert sys.getswitchinterval() == pytest.approx(ShortTurns.INTERVAL_S)
        assert sys.getswitchinterval() == pytest.approx(0.02)
    finally:
        sys.setswitchinterval(usual)


def test_context_variables_are_copied() -> None:
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(1)
    threads = SyncThreads()

    def change() -> int:
        before = variable.get()
        variable.set(2)
        return before

    assert threads.submit(change).future.result(LIMIT_S) == 1
    assert variable.get() == 1


def test_calls_beyond_the_limit_wait_and_beyond_that_are_refused(gate: threading.Event) -> None:
    threads = SyncThreads(limit=1, max_queued=2)
    begun = threading.Event()

    def hang() -> None:
        begun.set()
        gate.wait()

    first = threads.submit(hang)
    assert begun.wait(LIMIT_S)
    waiting = [threads.submit(lambda: "ran") for _ in range(2)]
    assert threads.queued == 2
    with pytest.raises(OverloadedError, match="2 tool calls wait"):
        threads.submit(lambda: None)
    waiting[0].abandon()
    assert waiting[0].future.cancelled()
    gate.set()
    assert waiting[1].future.result(LIMIT_S) == "ran"
    assert first.future.done()
    assert threads.abandoned == 0


def test_a_hung_thread_gives_its_place_up_and_is_counted_until_it_returns(gate: threading.Event) -> None:
    threads = SyncThreads(limit=1, max_abandoned=2)
    for expected in (1, 2):
        begun = threading.Event()
        work = threads.submit(lambda begun=begun: (begun.set(), gate.wait()))  # type: ignore[misc]
        assert begun.wait(LIMIT_S)
        after = threads.submit(lambda: "ran") if expected == 1 else None
        work.abandon()
        work.abandon()  # a second time changes nothing
        assert threads.abandoned == expected
        if after is not None:
            assert after.future.result(LIMIT_S) == "ran"
    with pytest.raises(OverloadedError, match="2 tool threads hang"):
        threads.submit(lambda: None)
    gate.set()
    work.future.result(LIMIT_S)
    while threads.abandoned:  # the other returns as well
        threading.Event().wait(0.01)
    assert threads.submit(lambda: "again").future.result(LIMIT_S) == "again"


def test_async_work_runs_elsewhere_and_is_cancelled() -> None:
    loop = ToolThreads().loop
    begun = threading.Event()
    ended = threading.Event()

    async def where() -> threading.Thread:
        return threading.current_thread()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def leave() -> None:
        raise SystemExit(3)

    assert loop.submit(where).future.result(LIMIT_S) is not threading.current_thread()
    assert isinstance(loop.submit(leave).future.exception(LIMIT_S), SystemExit)
    work = loop.submit(hang)
    assert begun.wait(LIMIT_S)
    work.abandon()
    assert ended.wait(LIMIT_S)
    loop.retire()


def test_a_blocked_loop_is_replaced_a_bounded_number_of_times(gate: threading.Event) -> None:
    threads = ToolThreads(max_blocked=1)
    blocked = threads.loop
    begun = threading.Event()

    async def block() -> None:
        begun.set()
        gate.wait()

    async def answer() -> str:
        return "ran"

    work = blocked.submit(block)
    assert begun.wait(LIMIT_S)
    threads.replace(blocked)
    threads.replace(blocked)  # a second time changes nothing
    assert threads.blocked_loops == 1
    with pytest.raises(OverloadedError, match="blocked 1 event loops"):
        threads.loop  # noqa: B018
    gate.set()
    work.future.result(LIMIT_S)
    assert ToolThreads().loop.submit(answer).future.result(LIMIT_S) == "ran"


def test_to_thread_inside_a_tool_uses_the_bounded_threads() -> None:
    threads = ToolThreads()

    async def inside() -> str:
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert threads.loop.submit(inside).future.result(LIMIT_S) == "duologue-tool"
