"""The seam to inference: order, bounds, coalescing, streams, sharing and ends, for both kinds of owner."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress

import pytest
import uvloop

from duologue.compute import (
    Compute,
    Handle,
    ItemStream,
    Priority,
    SupersededError,
    ThreadCompute,
    VirtualCompute,
    shared,
)
from duologue.errors import OverloadedError, SessionClosedError
from duologue.testing.clock import run_virtual

Scenario = Callable[[Compute], Awaitable[None]]


@pytest.fixture(params=["threads", "threads-uvloop", "virtual"])
def play(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    """Run a scenario against one kind of compute and check that nothing is left behind."""

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            compute: Compute = VirtualCompute() if request.param == "virtual" else ThreadCompute()
            try:
                await scenario(compute)
            finally:
                await compute.close()

        before = set(threading.enumerate())  # other tests' shared models may linger
        if request.param == "virtual":
            run_virtual(main())
        elif request.param == "threads":
            asyncio.run(main())
        else:
            asyncio.run(main(), loop_factory=uvloop.new_event_loop)
        left = set(threading.enumerate()) - before
        assert not [thread for thread in left if thread.name.startswith("duologue-")]
        assert len(left) <= 1  # asyncio's own pool, while it ends

    return run


@asynccontextmanager
async def gated(compute: Compute, capacity: int = 64) -> AsyncIterator[tuple[Handle[list[str]], Callable[[], None]]]:
    """A handle whose owner is busy until the gate is opened, so that what is submitted meanwhile queues up."""
    handle = await compute.acquire(("gated",), list[str], capacity=capacity)
    started, gate = threading.Event(), threading.Event()

    def block(_: list[str]) -> None:
        started.set()
        gate.wait(10)

    if isinstance(compute, VirtualCompute):
        gate.set()
        blocker = asyncio.create_task(handle.run(block, cost=1.0))
        await asyncio.sleep(0.5)
    else:
        blocker = asyncio.create_task(handle.run(block))
        await asyncio.to_thread(started.wait, 10)
    yield handle, gate.set
    gate.set()
    with suppress(SessionClosedError):  # a scenario may close the compute
        await blocker
    await handle.release()


def note(name: str) -> Callable[[list[str]], str]:
    def job(journal: list[str]) -> str:
        journal.append(name)
        return name

    return job


async def drain(stream: ItemStream[int]) -> list[int]:
    return [item async for item in stream]


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_jobs_run_by_priority_then_in_order(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        async with gated(compute) as (handle, open_gate):
            names = [("b1", 2), ("n1", 1), ("u1", 0), ("n2", 1), ("u2", 0), ("b2", 2)]
            tasks = [asyncio.create_task(handle.run(note(n), priority=Priority(p))) for n, p in names]
            await settle()
            assert handle.depth == 6
            open_gate()
            assert await asyncio.gather(*tasks) == [n for n, _ in names]
            assert await handle.run(list) == ["u1", "u2", "n1", "n2", "b1", "b2"]
            assert handle.stats.done >= 6

    play(scenario)


def test_errors_reach_the_caller_and_the_owner_goes_on(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        async with await compute.acquire(("x", 1), lambda: 7) as handle:

            def bad(_: int) -> int:
                raise ValueError("no")

            def stop(_: int) -> int:
                raise StopIteration

            with pytest.raises(ValueError, match="no"):
                await handle.run(bad)
            with pytest.raises(RuntimeError, match="StopIteration"):
                await handle.run(stop)
            assert await handle.run(lambda h: h + 1) == 8
            assert handle.stats.failed == 2

    play(scenario)


def test_a_newer_job_with_the_same_key_replaces_the_queued_one(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        async with gated(compute) as (handle, open_gate):
            old = asyncio.create_task(handle.run(note("old"), key="s1"))
            other = asyncio.create_task(handle.run(note("other"), key="s2"))
            await settle()
            new = asyncio.create_task(handle.run(note("new"), key="s1"))
            await settle()
            open_gate()
            with pytest.raises(SupersededError):
                await old
            assert [await other, await new] == ["other", "new"]
            assert await handle.run(list) == ["other", "new"]
            assert handle.stats.superseded == 1

    play(scenario)


def test_a_full_queue_refuses_or_drops_background_work(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        async with gated(compute, capacity=2) as (handle, open_gate):
            background = asyncio.create_task(handle.run(note("background"), priority=Priority.BACKGROUND))
            normal = asyncio.create_task(handle.run(note("normal")))
            await settle()
            with pytest.raises(OverloadedError, match="full"):
                await handle.run(note("more"), priority=Priority.BACKGROUND)
            urgent = asyncio.create_task(handle.run(note("urgent"), priority=Priority.URGENT))
            await settle()
            with pytest.raises(SupersededError):
                await background
            with pytest.raises(OverloadedError):
                await handle.run(note("urgent too"), priority=Priority.URGENT)
            open_gate()
            assert [await urgent, await normal] == ["urgent", "normal"]
            assert handle.stats.dropped == 3

    play(scenario)


def test_cancelling_the_caller_takes_the_job_out_of_the_queue(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        async with gated(compute) as (handle, open_gate):
            task = asyncio.create_task(handle.run(note("never")))
            await settle()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert handle.depth == 0
            open_gate()
            assert await handle.run(list) == []

    play(scenario)


def test_a_stream_gives_all_items_and_its_error(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        handle = await compute.acquire(("s",), lambda: 3)

        def count(h: int) -> Iterator[int]:
            yield from range(h)
            raise KeyError("end")

        stream = handle.stream(count, backlog=1)
        assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(KeyError):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert [x async for x in handle.stream(lambda h: iter(range(20)), backlog=3)] == list(range(20))

    play(scenario)


def test_a_stream_nobody_reads_pauses_and_lets_others_work(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        handle = await compute.acquire(("s",), lambda: None)
        made: list[int] = []

        def endless(_: None) -> Iterator[int]:
            for n in range(10_000):
                made.append(n)
                yield n

        stream = handle.stream(endless, backlog=4)
        assert await anext(stream) == 0
        for _ in range(20):
            await handle.run(lambda _: None)
        assert len(made) <= 6
        assert [await anext(stream) for _ in range(10)] == list(range(1, 11))
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    play(scenario)


def test_closing_a_stream_stops_the_generator_between_two_items(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        handle = await compute.acquire(("s",), lambda: None)
        made: list[int] = []
        closed_in: list[int] = []

        def endless(_: None) -> Iterator[int]:
            try:
                for n in range(1_000_000):
                    made.append(n)
                    yield n
            finally:
                closed_in.append(threading.get_ident())

        owner = await handle.run(lambda _: threading.get_ident())
        async with aclosing(handle.stream(endless, backlog=2)) as stream:
            async for item in stream:
                if item == 3:
                    break
        await handle.run(lambda _: None)
        await handle.run(lambda _: None)
        assert closed_in == [owner]
        assert len(made) <= 8

    play(scenario)


def test_urgent_work_overtakes_a_stream_between_its_items(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        async with gated(compute) as (handle, open_gate):

            def items(journal: list[str]) -> Iterator[str]:
                for n in range(3):
                    journal.append(f"item {n}")
                    if n == 0:
                        submitted.wait(10)
                    yield f"item {n}"

            submitted = threading.Event()

            async def consume() -> list[str]:
                return [x async for x in handle.stream(items, backlog=8)]

            consumer = asyncio.create_task(consume())
            await settle()
            urgent = asyncio.create_task(handle.run(note("urgent"), priority=Priority.URGENT))
            await settle()
            submitted.set()
            open_gate()
            assert await consumer == ["item 0", "item 1", "item 2"]
            await urgent
            assert await handle.run(list) == ["urgent", "item 0", "item 1", "item 2"]

    play(scenario)


def test_equal_keys_share_a_handle_until_the_last_release(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        opened: list[object] = []
        closed: list[object] = []

        def open() -> object:
            opened.append(object())
            return opened[-1]

        first, second = await asyncio.gather(
            compute.acquire(("m", "a"), open, close=closed.append),
            compute.acquire(("m", "a"), open, close=closed.append),
        )
        other = await compute.acquire(("m", "b"), open, close=closed.append)
        assert len(opened) == 2
        assert len(compute.stats()) == 2
        assert await first.run(id) == await second.run(id) != await other.run(id)
        await first.release()
        await first.release()
        with pytest.raises(SessionClosedError):
            await first.run(id)
        assert await second.run(lambda h: h is opened[0] or h is opened[1])
        assert closed == []
        await compute.close()
        assert len(closed) == 2
        with pytest.raises(SessionClosedError):
            await second.run(id)
        with pytest.raises(SessionClosedError):
            await compute.acquire(("m", "a"), open)

    play(scenario)


def test_an_open_that_fails_reaches_everyone_and_can_be_tried_again(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        attempts: list[int] = []

        def open() -> int:
            attempts.append(1)
            if len(attempts) == 1:
                raise OSError("no model")
            return 5

        with pytest.raises(OSError, match="no model"):
            await compute.acquire("m", open)
        assert compute.stats() == []
        handle = await compute.acquire("m", open)
        assert await handle.run(lambda h: h) == 5

    play(scenario)


def test_close_fails_what_waits(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        async with gated(compute) as (handle, open_gate):
            call = asyncio.create_task(handle.run(note("late")))

            async def consume() -> list[int]:
                return [x async for x in handle.stream(lambda _: iter(range(3)))]

            stream = asyncio.create_task(consume())
            await settle()
            closing = asyncio.create_task(compute.close())
            await settle()
            for waiter in (call, stream):
                with pytest.raises(SessionClosedError):
                    await waiter
            open_gate()
            await closing

    play(scenario)


def test_a_parked_stream_ends_with_the_compute(play: Callable[[Scenario], None]) -> None:
    async def scenario(compute: Compute) -> None:
        handle = await compute.acquire("s", lambda: None)
        stream = handle.stream(lambda _: iter(range(100)), backlog=2)
        assert await anext(stream) == 0
        for _ in range(5):
            await handle.run(lambda _: None)
        await compute.close()
        with pytest.raises(SessionClosedError):
            await drain(stream)

    play(scenario)


def test_virtual_time_is_the_declared_cost_and_callers_contend() -> None:
    async def main() -> None:
        compute = VirtualCompute()
        loop = asyncio.get_running_loop()
        handle = await compute.acquire("m", lambda: None)
        done: dict[str, float] = {}

        async def call(name: str, cost: float) -> None:
            await handle.run(lambda _: None, cost=cost)
            done[name] = round(loop.time(), 6)

        async with asyncio.TaskGroup() as group:
            group.create_task(call("a", 0.1))
            group.create_task(call("b", 0.25))
        assert done == {"a": 0.1, "b": 0.35}
        assert round(handle.stats.mean_seconds, 6) == 0.175
        times = [(x, round(loop.time(), 6)) async for x in handle.stream(lambda _: iter([0.5, 0.2]), cost=lambda x: x)]
        assert times == [(0.5, 0.85), (0.2, 1.05)]
        busy = handle.stats.busy
        await asyncio.sleep(30)
        assert 0.09 < busy < 0.11
        assert handle.stats.busy < 0.01
        await compute.close()

    run_virtual(main())


def test_a_virtual_clock_stands_still_while_a_thread_works() -> None:
    async def main() -> None:
        compute = ThreadCompute()
        loop = asyncio.get_running_loop()
        started, gate = threading.Event(), threading.Event()
        handle = await compute.acquire("m", lambda: None)
        ticker = asyncio.create_task(asyncio.sleep(60))

        def work(_: None) -> bool:
            started.set()
            return gate.wait(10)

        task = asyncio.create_task(handle.run(work))
        await asyncio.to_thread(started.wait, 10)
        assert not ticker.done()
        gate.set()
        assert await task
        assert [x async for x in handle.stream(lambda _: iter(range(5)))] == list(range(5))
        assert loop.time() == 0.0
        await ticker
        assert loop.time() == 60.0
        await compute.close()

    run_virtual(main())


def test_a_model_nobody_uses_is_closed_after_the_linger() -> None:
    async def main() -> None:
        compute = ThreadCompute(linger=0.0)
        closed = threading.Event()
        handle = await compute.acquire("m", lambda: 1, close=lambda _: closed.set())
        again = await compute.acquire("m", lambda: 2)
        await handle.release()
        assert await again.run(lambda h: h) == 1
        assert not closed.is_set()
        await again.release()
        assert await asyncio.to_thread(closed.wait, 10)
        third = await compute.acquire("m", lambda: 3)
        assert await third.run(lambda h: h) == 3
        await compute.close()

    asyncio.run(main())


def test_one_process_wide_compute_serves_several_loops_in_turn() -> None:
    async def main() -> int:
        handle = await shared().acquire(("shared", "test"), object)
        try:
            return await handle.run(id)
        finally:
            await handle.release()

    first = shared()
    assert asyncio.run(main()) == asyncio.run(main())
    assert shared() is first

    asyncio.run(first.close())
    assert shared() is not first
    asyncio.run(shared().close())


def test_a_caller_whose_loop_is_gone_does_no_harm() -> None:
    started, gate = threading.Event(), threading.Event()
    compute = ThreadCompute()

    def work(_: None) -> None:
        started.set()
        gate.wait(10)

    async def leave() -> None:
        handle = await compute.acquire("m", lambda: None)
        task = asyncio.create_task(handle.run(work))
        await asyncio.to_thread(started.wait, 10)
        task.cancel()

    async def come_back() -> int:
        handle = await compute.acquire("m", lambda: None)
        gate.set()
        result = await handle.run(lambda _: 42)
        await compute.close()
        return result

    asyncio.run(leave())
    assert asyncio.run(come_back()) == 42
