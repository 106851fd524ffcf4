"""The virtual clock: order, jumps, declared work, and the errors that a real loop would turn into a hang."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.testing.clock import (
    SPIN_LIMIT,
    VirtualClockError,
    VirtualDeadlockError,
    VirtualLimitError,
    VirtualLoop,
    run_virtual,
)


def loop() -> VirtualLoop:
    running = asyncio.get_running_loop()
    assert isinstance(running, VirtualLoop)
    return running


def test_time_starts_where_told_and_jumps_to_the_next_timer() -> None:
    async def main() -> list[float]:
        seen = [loop().time()]
        for delay in (0.02, 3600.0, 0.0):
            await asyncio.sleep(delay)
            seen.append(loop().time())
        return seen

    assert run_virtual(main(), start=5.0) == [5.0, 5.02, 3605.02, 3605.02]


def test_a_callback_takes_no_virtual_time() -> None:
    async def main() -> float:
        sum(range(200_000))
        await asyncio.sleep(0)
        return loop().time()

    assert run_virtual(main()) == 0.0


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=400))
def test_timers_fire_by_time_then_by_order_of_scheduling(plan: list[tuple[int, bool]]) -> None:
    async def main() -> list[tuple[float, int]]:
        fired: list[tuple[float, int]] = []
        handles = [
            loop().call_at(when / 7, lambda n=n: fired.append((loop().time(), n)))  # type: ignore[misc]
            for n, (when, _) in enumerate(plan)
        ]
        for handle, (_, cancel) in zip(handles, plan, strict=True):
            if cancel:
                handle.cancel()
        await asyncio.sleep(1)
        return fired

    assert run_virtual(main()) == sorted((when / 7, n) for n, (when, cancel) in enumerate(plan) if not cancel)


def test_cancelled_timeouts_leave_the_heap() -> None:
    async def main() -> int:
        for _ in range(5_000):
            async with asyncio.timeout(60):
                await asyncio.sleep(0.001)
        return len(loop()._timers)

    assert run_virtual(main()) < 1_000


def test_timeouts_and_wait_for() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.sleep(20)
        assert loop().time() == 10
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 5)
        assert await asyncio.wait_for(asyncio.sleep(3, "done"), 4) == "done"
        return loop().time()

    assert run_virtual(main()) == 18


def test_threads_hold_the_clock() -> None:
    async def main() -> tuple[float, int]:
        late = asyncio.create_task(asyncio.sleep(0.001))
        gate = threading.Event()
        work = asyncio.create_task(asyncio.to_thread(gate.wait, 30))
        await asyncio.sleep(0)
        assert loop().held == 1
        gate.set()
        assert await work
        now = loop().time()
        await late
        return now, loop().undeclared_wakeups

    assert run_virtual(main()) == (0.0, 0)


def test_a_hold_released_in_its_thread_lets_nothing_slip_before_the_result() -> None:
    async def main() -> list[str]:
        order: list[str] = []
        done = asyncio.Event()
        hold = loop().hold("stt")

        def deliver() -> None:
            order.append(f"result at {loop().time()}")
            done.set()

        def work(running: VirtualLoop) -> None:
            running.call_soon_threadsafe(deliver)
            hold.release()
            hold.release()

        loop().call_later(0.001, order.append, "timer")
        threading.Thread(target=work, args=(loop(),)).start()
        await done.wait()
        await asyncio.sleep(1)
        return order

    for _ in range(50):
        assert run_virtual(main()) == ["result at 0.0", "timer"]


def test_undeclared_wakeups_are_counted() -> None:
    async def main() -> int:
        thread = threading.Thread(target=loop().call_soon_threadsafe, args=(lambda: None,))
        thread.start()
        thread.join()
        await asyncio.sleep(1)
        return loop().undeclared_wakeups

    assert run_virtual(main()) == 1


def test_a_hold_that_nobody_releases_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duologue.testing.clock.HOLD_LIMIT", 0.01)

    async def main() -> None:
        loop().hold("the lost inference")
        await asyncio.Event().wait()

    with pytest.raises(VirtualDeadlockError, match="the lost inference"):
        run_virtual(main())


def test_deadlock_names_the_tasks_and_where_they_wait() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.sleep(2)
        await asyncio.create_task(waits_for_ever(), name="the-caller")

    with pytest.raises(VirtualDeadlockError, match=r"2\.000 s.*the-caller waits in .*wait.*locks\.py"):
        run_virtual(main())


def test_a_timer_at_infinity_is_no_timer() -> None:
    with pytest.raises(VirtualDeadlockError):
        run_virtual(asyncio.sleep(math.inf))


def test_a_timer_at_nan_is_refused() -> None:
    async def main() -> None:
        loop().call_later(math.nan, print)

    with pytest.raises(ValueError, match="NaN"):
        run_virtual(main())


def test_spinning_is_found() -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110  # the very fault
            await asyncio.sleep(0)

    with pytest.raises(VirtualDeadlockError, match=f"{SPIN_LIMIT:,} times"):
        run_virtual(main())


def test_limit() -> None:
    async def main() -> None:
        for _ in range(100):
            await asyncio.sleep(1)

    with pytest.raises(VirtualLimitError, match=r"60\.000 s"):
        run_virtual(main(), limit=60)


def test_real_io_is_refused() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            await loop().sock_recv(ours, 1)

    with pytest.raises(VirtualClockError, match="Real I/O"):
        run_virtual(main())


def test_failures_in_callbacks_are_not_lost() -> None:
    async def main() -> None:
        def fail() -> None:
            raise LookupError("lost")

        loop().call_soon(fail)
        await asyncio.sleep(1)

    with pytest.raises(ExceptionGroup, match="no task received") as caught:
        run_virtual(main())
    assert isinstance(caught.value.exceptions[0], LookupError)


def test_leftover_tasks_are_cancelled() -> None:
    seen: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main() -> None:
        task = asyncio.create_task(background())
        await asyncio.sleep(1)
        assert not task.done()

    run_virtual(main())
    assert seen == ["cancelled"]


def test_two_runs_of_a_crowd_are_the_same() -> None:
    def run() -> list[tuple[float, str]]:
        async def main() -> list[tuple[float, str]]:
            log: list[tuple[float, str]] = []
            queue: asyncio.Queue[int] = asyncio.Queue(4)

            async def produce(n: int) -> None:
                for step in range(20):
                    await asyncio.sleep(0.02)
                    await queue.put(n * 100 + step)

            async def consume(name: str) -> None:
                while True:
                    log.append((loop().time(), f"{name}:{await queue.get()}"))
                    await asyncio.sleep(0.005)

            consumers = [asyncio.create_task(consume(name)) for name in "ab"]
            async with asyncio.TaskGroup() as group:
                for n in range(5):
                    group.create_task(produce(n))
            for consumer in consumers:
                consumer.cancel()
            return log

        return run_virtual(main())

    assert run() == run()


def test_debug_mode_works() -> None:
    async def main() -> float:
        loop().set_debug(True)
        await asyncio.sleep(1)
        wrong: list[Exception] = []

        def from_a_thread(schedule: Callable[[], object]) -> None:
            try:
                schedule()
            except RuntimeError as error:
                wrong.append(error)

        running = loop()
        thread = threading.Thread(target=from_a_thread, args=(lambda: running.call_later(1, print),))
        thread.start()
        thread.join()
        assert len(wrong) == 1
        return loop().time()

    assert run_virtual(main()) == 1.0
