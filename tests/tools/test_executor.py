from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ConfigurationError, FencedError, OverloadedError, SessionClosedError
from duologue.testing.clock import run_virtual
from duologue.tools import (
    Decision,
    SyncThreads,
    Tool,
    ToolCall,
    ToolEvent,
    ToolExecutor,
    ToolThreads,
    current_call,
    progress,
    tool,
)
from tests.tools.test_schema import Talk


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds tools up until a test ends at the latest."""
    event = threading.Event()
    yield event
    event.set()


@contextlib.asynccontextmanager
async def executing(*tools: Tool, **options: Any) -> AsyncIterator[tuple[ToolExecutor, list[ToolEvent]]]:
    events: list[ToolEvent] = []
    options.setdefault("threads", ToolThreads())
    executor = ToolExecutor(tools, on_event=events.append, run_key="session", **options)
    try:
        yield executor, events
    finally:
        await executor.aclose()


def call(name: str, id: str = "1", **arguments: Any) -> ToolCall:
    return ToolCall(id=id, name=name, arguments=arguments)


@pytest.mark.anyio
@pytest.mark.parametrize("runner", ["thread", "inline"])
async def test_sync_and_async_tools_run_and_report(runner: str) -> None:
    home = threading.current_thread()

    @tool
    def sync_tool(word: str) -> dict[str, Any]:
        progress("half way")
        return {"word": word, "here": threading.current_thread() is home, "key": current_call().idempotency_key}

    @tool
    async def async_tool(talk: Talk, word: str) -> dict[str, Any]:
        await talk.progress("half way")
        await asyncio.sleep(0)
        return {"word": word, "here": threading.current_thread() is home, "key": current_call().idempotency_key}

    async with executing(sync_tool, async_tool, context=Talk(), runner=runner) as (executor, events):
        for name in ("sync_tool", "async_tool"):
            events.clear()
            result = await executor.start(call(name, name, word="x"))
            assert (result.status, result.error, result.truncated) == ("ok", None, False)
            assert result.output == {"word": "x", "here": runner == "inline", "key": f"session:{name}"}
            assert [event.kind for event in events] == ["started", "progress", "finished"]
            assert events[1].text == "half way"
            assert events[2].result == result


@pytest.mark.anyio
async def test_runs_go_side_by_side(gate: threading.Event) -> None:
    both = threading.Barrier(2, timeout=20)

    @tool
    def meet() -> str:
        both.wait()
        return "met"

    async with executing(meet) as (executor, _):
        runs = [executor.start(call("meet", id)) for id in "ab"]
        assert [(await run).output for run in runs] == ["met", "met"]


@pytest.mark.anyio
async def test_every_way_to_fail_is_told_in_words() -> None:
    @tool
    def fails(how: str) -> Any:
        if how == "raise":
            raise ValueError("no such delivery")
        if how == "exit":
            raise SystemExit(3)
        if how == "object":
            return {"a": [object()]}
        if how == "coroutine":
            return asyncio.sleep(0, "late")
        raise RuntimeError("x" * 1000)

    @tool
    async def async_fails() -> None:
        raise KeyboardInterrupt

    async with executing(fails, async_fails) as (executor, _):
        results = {
            how: await executor.start(call("fails", how, how=how)) for how in ("raise", "exit", "object", "long")
        }
        assert {result.status for result in results.values()} == {"error"}
        assert results["raise"].error == "no such delivery"
        assert isinstance(results["raise"].exception, ValueError)
        assert results["exit"].error == "fails failed."
        assert isinstance(results["exit"].exception, SystemExit)
        assert "at $.a[0], a object cannot be carried by JSON" in (results["object"].error or "")
        assert len(results["long"].error or "") == 500
        assert (await executor.start(call("fails", "c", how="coroutine"))).output == "late"
        assert (await executor.start(call("async_fails", "k"))).error == "async_fails failed."
        assert (await executor.start(call("failz", "n"))).error == "There is no tool 'failz'. Did you mean 'fails'?"
        assert "parameter 'how' is missing" in ((await executor.start(call("fails", "m"))).error or "")
        bad = await executor.start(ToolCall(id="j", name="fails", arguments="{"))
        assert "not JSON" in (bad.error or "")


@pytest.mark.anyio
async def test_a_hung_sync_tool_ends_at_its_deadline_and_its_thread_is_counted(gate: threading.Event) -> None:
    @tool(timeout=0.05)
    def hang() -> None:
        gate.wait()

    @tool
    def fine() -> str:
        return "fine"

    threads = ToolThreads(SyncThreads(limit=1))
    async with executing(hang, fine, threads=threads) as (executor, _):
        result = await executor.start(call("hang"))
        assert result.status == "timeout"
        assert result.error == (
            "hang did not answer within 0.05 seconds. "
            "It may or may not have taken effect; do not repeat it without asking."
        )
        assert threads.sync.abandoned == 1
        assert (await executor.start(call("fine", "2"))).output == "fine"


@pytest.mark.anyio
async def test_an_async_tool_that_blocks_its_loop_holds_nobody_up(gate: threading.Event) -> None:
    begun = threading.Event()

    @tool(timeout=60)
    async def block() -> None:
        begun.set()
        gate.wait()

    @tool
    async def fine() -> str:
        return "fine"

    threads = ToolThreads()
    async with executing(block, fine, threads=threads) as (executor, _):
        blocked = executor.start(call("block"))
        assert await asyncio.to_thread(begun.wait, 20)
        assert (await executor.start(call("fine", "2"))).output == "fine"
        assert threads.blocked_loops == 1
        assert blocked.result is None
        executor.cancel("1", "enough")
        assert (await blocked).status == "cancelled"


@pytest.mark.anyio
async def test_cancelling(gate: threading.Event) -> None:
    begun = threading.Event()
    stopped = threading.Event()
    paying_begun = threading.Event()

    @tool(cancel_on_barge_in=True, side_effects=False)
    async def search() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    @tool
    def pay() -> None:
        paying_begun.set()
        gate.wait()

    async with executing(search, pay) as (executor, _):
        searching, paying = executor.start(call("search", "s")), executor.start(call("pay", "p"))
        assert await asyncio.to_thread(begun.wait, 20)
        assert executor.barge_in() == ("s",)
        result = await searching
        assert (result.status, result.error) == ("cancelled", "search was cancelled: the caller interrupted.")
        assert await asyncio.to_thread(stopped.wait, 20)
        assert executor.running == (paying,)
        assert await asyncio.to_thread(paying_begun.wait, 20)
        assert executor.cancel("p", "changed my mind")
        assert not executor.cancel("p", "again")
        assert not executor.cancel("unknown", "")
        result = await paying
        assert result.status == "outcome_unknown"
        assert "may or may not have taken effect" in (result.error or "")


@pytest.mark.anyio
async def test_a_call_that_comes_twice_runs_once() -> None:
    ran: list[int] = []

    @tool
    def count() -> int:
        ran.append(1)
        return len(ran)

    async with executing(count) as (executor, _):
        first = executor.start(call("count"))
        assert executor.start(call("count")) is first
        await first
        assert executor.start(call("count")) is first
        assert ran == [1]


@pytest.mark.anyio
async def test_approval() -> None:
    @tool(approval=True)
    def pay(amount: int) -> str:
        return f"paid {amount}"

    async with executing(pay) as (executor, events):
        run = executor.start(call("pay", "a", amount=3))
        await asyncio.sleep(0)
        assert [waiting.id for waiting in executor.pending_approvals] == ["a"]
        assert not executor.decide("b", True)
        assert executor.decide("a", True)
        assert (await run).output == "paid 3"
        assert [event.kind for event in events] == ["approval", "started", "finished"]

        run = executor.start(call("pay", "b", amount=3))
        await asyncio.sleep(0)
        executor.decide("b", False, "too much")
        assert ((await run).status, (await run).error) == ("denied", "pay was not approved: too much")

        run = executor.start(call("pay", "c", amount=3))
        await asyncio.sleep(0)
        executor.cancel("c", "gone")
        assert ((await run).status, (await run).error) == ("cancelled", "pay was cancelled: gone.")

        events.clear()
        assert (await executor.start(call("pay", "d", amount="x"))).status == "error"
        assert [event.kind for event in events] == ["finished"]  # nobody is asked about a call that cannot run


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("There is no delivery 12."), "There is no delivery 12."),
        (RuntimeError("The gate\nis shut."), "The gate is shut."),
        (ValueError(), "lookup failed."),
        (KeyError("delivery"), "lookup failed."),
        (TypeError("unsupported operand type(s)"), "lookup failed."),
        (FileNotFoundError(2, "No such file", "/srv/secret"), "lookup failed."),
        (OverloadedError("Too much.", hint="Wait."), "Too much. Wait."),
    ],
)
async def test_the_model_is_told_in_plain_words_and_the_application_gets_the_exception(
    error: Exception, told: str
) -> None:
    @tool
    def lookup() -> str:
        raise error

    async with executing(lookup) as (executor, _):
        result = await executor.start(call("lookup"))
        assert (result.status, result.error, result.text()) == ("error", told, told)
        assert result.exception is error


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("verdict", "status", "error"),
    [
        (True, "ok", None),
        (Decision(True), "ok", None),
        (False, "denied", "pay was not approved."),
        (Decision(False, "no"), "denied", "pay was not approved: no"),
        (None, "denied", "pay was not approved."),
        (ValueError("broken"), "denied", "pay was not approved: the decision failed."),
    ],
)
async def test_approval_by_a_function(verdict: Any, status: str, error: str | None) -> None:
    @tool(approval=True)
    def pay() -> str:
        return "paid"

    async def approve(asked: ToolCall, definition: Tool) -> Any:
        assert (asked.name, definition) == ("pay", pay)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    async with executing(pay, approve=approve) as (executor, _):
        result = await executor.start(call("pay"))
        assert (result.status, result.error) == (status, error)


def test_nobody_decides() -> None:
    @tool(approval=True)
    def pay() -> str:
        return "paid"

    async def main() -> None:
        async with executing(pay, runner="inline", approval_timeout_s=60) as (executor, _):
            began = asyncio.get_running_loop().time()
            result = await executor.start(call("pay"))
            assert (result.status, result.error) == ("denied", "pay was not approved: nobody decided in time.")
            assert asyncio.get_running_loop().time() - began == pytest.approx(60)

    run_virtual(main())


def test_deadlines_under_a_virtual_clock() -> None:
    @tool(timeout=3600, side_effects=False)
    async def wait(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    async def main() -> None:
        async with executing(wait, runner="inline") as (executor, _):
            runs = [executor.start(call("wait", str(seconds), seconds=seconds)) for seconds in (10, 4000)]
            results = [await run for run in runs]
            assert [result.status for result in results] == ["ok", "timeout"]
            assert [result.duration for result in results] == pytest.approx([10, 3600])
            assert results[1].error == "wait did not answer within 3600 seconds."

    run_virtual(main())


@pytest.mark.anyio
async def test_tools_are_replaced_while_others_run(gate: threading.Event) -> None:
    @tool
    def old() -> str:
        gate.wait()
        return "old"

    @tool
    def new() -> str:
        return "new"

    async with executing(old) as (executor, _):
        running = executor.start(call("old"))
        with pytest.raises(ConfigurationError, match="Two tools"):
            executor.replace([new, new])
        executor.replace([new])
        assert list(executor.tools) == ["new"]
        assert (await executor.start(call("new", "2"))).output == "new"
        gate.set()
        assert (await running).output == "old"


@pytest.mark.anyio
async def test_large_results_are_cut() -> None:
    @tool
    def large() -> list[str]:
        return ["x" * 100] * 100

    async with executing(large, max_result_bytes=1000) as (executor, _):
        result = await executor.start(call("large"))
        assert result.truncated
        assert len(result.text()) < 1100


@pytest.mark.anyio
async def test_progress_is_bounded_and_ends_with_the_run() -> None:
    @tool
    def chatty() -> None:
        for _ in range(500):
            progress("x" * 1000)
        progress("")

    async with executing(chatty) as (executor, events):
        run = executor.start(call("chatty"))
        await run
        reports = [event for event in events if event.kind == "progress"]
        assert len(reports) == 200
        assert run.reports_dropped == 300
        assert {len(report.text) for report in reports} == {500}
        assert events[-1].kind == "finished"


@pytest.mark.anyio
async def test_too_many_at_once_are_refused(gate: threading.Event) -> None:
    @tool
    def hang() -> None:
        gate.wait()

    async with executing(hang, max_concurrent=1) as (executor, _):
        executor.start(call("hang", "1"))
        result = await executor.start(call("hang", "2"))
        assert (result.status, result.error) == (
            "error",
            "1 tools are running already; try again when one has finished.",
        )


@pytest.mark.anyio
async def test_after_a_takeover_only_what_says_so_runs_again() -> None:
    ran: list[str] = []

    @tool
    def pay() -> None:
        ran.append("pay")

    @tool(on_takeover="rerun")
    def look() -> str:
        ran.append(current_call().idempotency_key)
        return "seen"

    async with executing(pay, look) as (executor, events):
        result = await executor.recover(call("pay", "1"))
        assert result.status == "outcome_unknown"
        assert "nobody knows how it ended" in (result.error or "")
        assert (await executor.recover(call("look", "2"))).output == "seen"
        assert (await executor.recover(call("gone", "3"))).status == "outcome_unknown"
        assert ran == ["session:2"]
        assert [event.kind for event in events if event.call.id == "1"] == ["finished"]


@pytest.mark.anyio
async def test_a_fenced_executor_starts_and_reports_nothing(gate: threading.Event) -> None:
    begun = threading.Event()

    @tool
    def hang() -> None:
        begun.set()
        gate.wait()

    async with executing(hang) as (executor, events):
        run = executor.start(call("hang"))
        assert await asyncio.to_thread(begun.wait, 20)
        events.clear()
        executor.fence()
        with pytest.raises(FencedError):
            executor.start(call("hang", "2"))
        await run
        assert events == []


@pytest.mark.anyio
async def test_closing_waits_for_grace_and_for_nothing_longer(gate: threading.Event) -> None:
    @tool
    def hang() -> None:
        gate.wait()

    @tool
    async def quick() -> str:
        return "done"

    async with executing(hang, quick) as (executor, _):
        hung, done = executor.start(call("hang")), executor.start(call("quick", "2"))
        assert (await done).output == "done"
        await executor.aclose(grace=0.01)
        assert hung.result is not None
        assert hung.result.status in ("outcome_unknown", "cancelled")
        with pytest.raises(SessionClosedError):
            executor.start(call("quick", "3"))
        await executor.aclose()


@pytest.mark.anyio
async def test_cancelling_the_wait_does_not_cancel_the_run(gate: threading.Event) -> None:
    @tool
    def hang() -> str:
        gate.wait()
        return "done"

    async with executing(hang) as (executor, _):
        run = executor.start(call("hang"))

        async def wait() -> None:
            await run

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        gate.set()
        assert (await run).output == "done"


@pytest.mark.anyio
async def test_a_listener_that_fails_takes_nothing_with_it() -> None:
    @tool
    def fine() -> str:
        return "fine"

    def fail(event: ToolEvent) -> None:
        raise ValueError("listener")

    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    executor = ToolExecutor([fine], on_event=fail)
    assert (await executor.start(call("fine"))).output == "fine"
    await executor.aclose()
    loop.set_exception_handler(None)
    assert len(reported) == 2


def test_options_that_cannot_work() -> None:
    @tool
    def fine() -> None: ...

    for options, message in [
        ({"tools": [fine, fine]}, "Two tools are named 'fine'"),
        ({"runner": "process"}, "'thread', or 'inline'"),
        ({"max_concurrent": 0}, "max_concurrent"),
        ({"max_result_bytes": 1}, "max_result_bytes"),
        ({"approval_timeout_s": 0}, "approval_timeout_s"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            ToolExecutor(**options)  # type: ignore[arg-type]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.sampled_from(["quick", "slow", "fails", "gated", "missing"])),
        st.tuples(st.sampled_from(["cancel", "approve", "deny"]), st.integers(0, 8)),
        st.tuples(st.just("wait"), st.floats(0, 40)),
        st.tuples(st.just("barge_in"), st.none()),
    ),
    max_size=20,
)


@given(_STEPS)
def test_every_run_gets_exactly_one_result_whatever_happens(steps: list[tuple[str, Any]]) -> None:
    @tool
    async def quick() -> str:
        return "done"

    @tool(timeout=20, cancel_on_barge_in=True)
    async def slow() -> str:
        progress("working")
        await asyncio.sleep(30)
        return "never"

    @tool
    def fails() -> None:
        raise ValueError

    @tool(approval=True)
    async def gated() -> str:
        await asyncio.sleep(1)
        return "done"

    async def main() -> None:
        async with executing(quick, slow, fails, gated, runner="inline", approval_timeout_s=30) as (executor, events):
            started = 0
            for step, value in steps:
                if step == "start":
                    executor.start(call(value, str(started)))
                    started += 1
                elif step == "cancel":
                    executor.cancel(str(value), "test")
                elif step in ("approve", "deny"):
                    executor.decide(str(value), step == "approve")
                elif step == "barge_in":
                    executor.barge_in()
                else:
                    await asyncio.sleep(value)
            await executor.aclose(grace=1)
            assert executor.running == ()
            for number in range(started):
                kinds = [event.kind for event in events if event.call.id == str(number)]
                assert kinds.count("finished") == 1
                assert kinds[-1] == "finished"
                assert kinds.count("started") <= 1

    run_virtual(main())
