"""Group commit, under virtual time and with a real thread and disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ConfigurationError, FencedError, OverloadedError, StoreError
from duologue.store import (
    Append,
    Claim,
    Commit,
    Committer,
    GroupCommitter,
    InlineCommitter,
    MemoryStore,
    SQLiteStore,
    Writer,
)
from duologue.store.committer import IDLE_JOURNALS
from duologue.testing.clock import VirtualLoop, run_virtual


class Faulty(MemoryStore):
    """Fails, or blocks, on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[tuple[str, int]]] = []

    def append_batch(self, batch: Sequence[Append]) -> list[Commit | FencedError]:
        self.entered.set()
        self.gate.wait(20)
        if self.fault is not None:
            raise self.fault
        self.batches.append([(part.key, len(part.records)) for part in batch])
        return super().append_batch(batch)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_waiting_record_is_committed_after_the_window() -> None:
    async def main() -> None:
        store = Faulty()
        async with InlineCommitter(store, window=0.004, latency=0.002) as committer:
            a, b, c = [await committer.claim("t", key) for key in "abc"]
            start = now()
            ticket = a.submit(b"1")
            assert ticket == 0
            await asyncio.sleep(0.05)
            assert (a.durable_seq, store.batches) == (0, [])
            waiting = asyncio.create_task(a.durable(ticket))
            await asyncio.sleep(0.003)
            b.on_durable(b.submit(b"2"), lambda error: None)
            c.submit(b"not waited for")
            a.submit(b"3")
            await waiting
            assert now() - start == pytest.approx(0.056)
            assert store.batches == [[("a", 2), ("b", 1)]]
            assert (a.durable_seq, b.durable_seq, c.durable_seq) == (2, 1, 0)

    run_virtual(main())


def test_records_that_nobody_waits_for_are_committed_too() -> None:
    async def main() -> None:
        store = Faulty()
        committer = InlineCommitter(store, idle_window=0.095)
        writer = await committer.claim("t", "k")
        for n in range(100):
            writer.submit(b"%d" % n)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert [part for batch in store.batches for part in batch] == [("k", 10)] * 10
        assert [r.data for r in store.read("t", "k")] == [b"%d" % n for n in range(100)]
        assert committer.stats.records == 100
        assert committer.queued == 0

    run_virtual(main())


def test_a_batch_takes_few_journals_that_nobody_waits_for() -> None:
    async def main() -> None:
        store = Faulty()
        async with InlineCommitter(store) as committer:
            writers = [await committer.claim("t", f"k{n:03}") for n in range(100)]
            for writer in writers:
                writer.submit(b"evidence")
            urgent = await committer.claim("t", "urgent")
            await asyncio.sleep(0.19)
            await urgent.durable(urgent.submit(b"event"))
            assert [len(batch) for batch in store.batches] == [1 + IDLE_JOURNALS]
            await asyncio.sleep(0.02)
            assert [len(batch) for batch in store.batches] == [33, 32, 32, 4]
            assert sorted(key for batch in store.batches for key, _ in batch)[:100] == [f"k{n:03}" for n in range(100)]

    run_virtual(main())


def test_no_latency_is_the_same_instant() -> None:
    async def main() -> None:
        committer = InlineCommitter(MemoryStore())
        writer = await committer.claim("t", "k")
        await writer.durable(writer.submit(b"x"))
        assert now() == 0.0

    run_virtual(main())


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("submit"), st.integers(0, 2)),
            st.tuples(st.just("wait"), st.integers(0, 40)),
            st.tuples(st.just("sleep"), st.integers(0, 20)),
        ),
        max_size=60,
    ),
    st.sampled_from([0.0, 0.001, 0.015]),
)
def test_callbacks_come_once_in_ticket_order_after_the_commit(plan: list[tuple[str, int]], latency: float) -> None:
    async def main() -> None:
        store = MemoryStore()
        committer = InlineCommitter(store, latency=latency, window=0.003, idle_window=0.02)
        writers = [await committer.claim("t", key) for key in "abc"]
        submitted: list[tuple[Writer, int]] = []
        called: list[tuple[str, int]] = []
        waits: list[tuple[str, int]] = []

        def wait(writer: Writer, ticket: int) -> None:
            def done(error: StoreError | None) -> None:
                assert error is None
                journal = store.journal("t", writer.claim.key)
                assert journal is not None
                assert journal.next_seq > ticket
                assert writer.durable_seq > ticket
                called.append((writer.claim.key, ticket))

            waits.append((writer.claim.key, ticket))
            writer.on_durable(ticket, done)

        for what, n in plan:
            if what == "submit":
                submitted.append((writers[n], writers[n].submit(f"{n}:{writers[n].next_seq}".encode())))
            elif what == "wait" and submitted:
                wait(*submitted[n % len(submitted)])
            elif what == "sleep":
                await asyncio.sleep(n / 1000)
        await committer.close()
        assert sorted(called) == sorted(waits)
        for n, writer in enumerate(writers):
            expected = [f"{n}:{seq}".encode() for seq in range(writer.next_seq)]
            assert [record.data for record in store.read("t", writer.claim.key)] == expected
            assert writer.durable_seq == writer.next_seq
        assert committer.queued == 0

    run_virtual(main())


def test_waits_within_a_window_are_called_in_ticket_order() -> None:
    async def main() -> None:
        committer = InlineCommitter(MemoryStore())
        writer = await committer.claim("t", "k")
        called: list[int] = []
        tickets = [writer.submit(b"x") for _ in range(5)]
        for ticket in reversed(tickets):
            writer.on_durable(ticket, lambda _, ticket=ticket: called.append(ticket))  # type: ignore[misc]
        await committer.flush()
        assert called == tickets

    run_virtual(main())


def test_a_fenced_writer_fails_and_the_others_do_not_notice() -> None:
    async def main() -> None:
        store = MemoryStore()
        async with InlineCommitter(store) as committer:
            old, other = await committer.claim("t", "k"), await committer.claim("t", "other")
            await old.durable(old.submit(b"kept"))
            new = await committer.claim("t", "k", 1)
            lost, fine = old.submit(b"ghost"), other.submit(b"fine")
            results = await asyncio.gather(old.durable(lost), other.durable(fine), return_exceptions=True)
            assert isinstance(results[0], FencedError)
            assert results[1] is None
            with pytest.raises(FencedError):
                old.submit(b"ghost")
            with pytest.raises(FencedError):
                await old.durable(lost)
            await old.durable(0)
            await new.durable(new.submit(b"new"))
            assert [r.data for r in store.read("t", "k")] == [b"kept", b"new"]
            assert committer.stats.fenced == 1

    run_virtual(main())


def test_a_failing_store_fails_everyone_in_the_batch_for_good() -> None:
    async def main() -> None:
        store = Faulty()
        committer = InlineCommitter(store, latency=0.005)
        a, b, idle = [await committer.claim("t", key) for key in ("a", "b", "idle")]
        store.fault = StoreError("The disk is gone.")
        first, second = a.submit(b"1"), b.submit(b"2")
        late: list[StoreError | None] = []
        waits = [asyncio.create_task(a.durable(first)), asyncio.create_task(b.durable(second))]
        await asyncio.sleep(0.001)
        a.on_durable(a.submit(b"in the next batch"), late.append)
        results = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(result) for result in results] == [StoreError, StoreError]
        assert late == [store.fault]
        with pytest.raises(StoreError, match="disk is gone"):
            a.submit(b"3")
        store.fault = None
        await idle.durable(idle.submit(b"4"))
        again = await committer.claim("t", "a", 1)
        await again.durable(again.submit(b"5"))
        assert [r.data for r in store.read("t", "a")] == [b"5"]
        assert committer.queued == 0
        assert committer.stats.failed_batches == 1

    run_virtual(main())


def test_a_store_that_raises_anything_is_a_store_error() -> None:
    async def main() -> None:
        store = Faulty()
        committer = InlineCommitter(store)
        writer = await committer.claim("t", "k")
        store.fault = ZeroDivisionError("a bug")
        with pytest.raises(StoreError, match="a bug"):
            await writer.durable(writer.submit(b"x"))
        with pytest.raises(StoreError, match="a bug"):
            await writer.durable(0)

    run_virtual(main())


def test_flush_and_close_report_a_failing_store() -> None:
    async def main() -> None:
        store = Faulty()
        committer = InlineCommitter(store)
        writer = await committer.claim("t", "k")
        writer.submit(b"x")
        store.fault = StoreError("The disk is gone.")
        with pytest.raises(StoreError, match="gone"):
            await committer.flush()
        await committer.flush()
        await committer.close()
        await committer.close()
        fresh = Committer.writer(committer, Claim(tenant="t", key="k", epoch=1, next_seq=0))
        with pytest.raises(StoreError, match="closed"):
            fresh.submit(b"y")

    run_virtual(main())


def test_the_queue_is_bounded_and_recovers() -> None:
    async def main() -> None:
        committer = InlineCommitter(MemoryStore(), max_bytes=100, latency=0.01)
        writer = await committer.claim("t", "k")
        ticket = writer.submit(b"x" * 60)
        waiting = asyncio.create_task(writer.durable(ticket))
        await asyncio.sleep(0.001)
        writer.submit(b"x" * 40)  # in flight counts
        with pytest.raises(OverloadedError):
            writer.submit(b"x")
        await waiting
        assert writer.submit(b"x" * 60) == 2
        await committer.flush()
        assert committer.stats.refused == 1
        assert committer.queued == 0

    run_virtual(main())


def test_a_callback_that_fails_does_not_keep_the_news_from_others() -> None:
    async def main() -> None:
        committer = InlineCommitter(MemoryStore())
        a, b = await committer.claim("t", "a"), await committer.claim("t", "b")

        def bad(error: StoreError | None) -> None:
            raise LookupError("bad callback")

        a.on_durable(a.submit(b"1"), bad)
        await b.durable(b.submit(b"2"))

    with pytest.raises(ExceptionGroup) as caught:
        run_virtual(main())
    assert isinstance(caught.value.exceptions[0], LookupError)


def test_a_wait_for_no_record_is_refused() -> None:
    async def main() -> None:
        committer = InlineCommitter(MemoryStore())
        writer = await committer.claim("t", "k")
        with pytest.raises(StoreError, match="ticket 0"):
            await writer.durable(0)

    run_virtual(main())


def test_a_cancelled_wait_disturbs_nobody() -> None:
    async def main() -> None:
        committer = InlineCommitter(MemoryStore(), latency=0.01)
        writer = await committer.claim("t", "k")
        ticket = writer.submit(b"x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await writer.durable(ticket)
        await writer.durable(ticket)

    run_virtual(main())


@pytest.mark.parametrize(
    "options",
    [{"window": 0.02}, {"window": 0.005, "idle_window": 0.001}, {"max_bytes": 0}, {"patience": 0}, {"latency": -1}],
)
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    async def main() -> None:
        InlineCommitter(MemoryStore(), **options)  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError):
        run_virtual(main())


class TestThread:
    """The real thread."""

    def test_many_sessions_on_a_real_disk(self, tmp_path: Path) -> None:
        async def session(committer: Committer, n: int) -> None:
            writer = await committer.claim("t", f"s{n}")
            for step in range(20):
                for part in range(5):
                    writer.submit(f"{n}.{step}.{part}".encode())
                await writer.durable(writer.next_seq - 1)
                await asyncio.sleep(0)

        async def main() -> Committer:
            async with (
                GroupCommitter(SQLiteStore(tmp_path / "s.db"), window=0.001) as committer,
                asyncio.TaskGroup() as group,
            ):
                for n in range(30):
                    group.create_task(session(committer, n))
            return committer

        stats = asyncio.run(main()).stats
        assert stats.records == 3000
        assert stats.batches < 1500
        store = SQLiteStore(tmp_path / "s.db")
        for n in range(30):
            expected = [f"{n}.{step}.{part}".encode() for step in range(20) for part in range(5)]
            assert [record.data for record in store.read("t", f"s{n}")] == expected
        store.close()

    def test_under_a_virtual_loop_the_clock_waits_for_the_disk(self, tmp_path: Path) -> None:
        async def main() -> float:
            async with GroupCommitter(SQLiteStore(tmp_path / "s.db"), window=0.004) as committer:
                writer = await committer.claim("t", "k")
                for n in range(50):
                    await writer.durable(writer.submit(b"%d" % n))
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            assert loop.undeclared_wakeups == 0
            return loop.time()

        assert run_virtual(main()) == pytest.approx(50 * 0.004)

    def test_a_disk_that_hangs_is_a_typed_error_to_all(self) -> None:
        async def main() -> None:
            store = Faulty()
            committer = GroupCommitter(store, patience=0.05)
            a, b = await committer.claim("t", "a"), await committer.claim("t", "b")
            store.gate.clear()
            first = a.submit(b"1")
            out = asyncio.create_task(a.durable(first))
            await asyncio.to_thread(store.entered.wait, 20)
            queued = asyncio.create_task(b.durable(b.submit(b"2")))
            results = await asyncio.gather(out, queued, return_exceptions=True)
            assert [type(result) for result in results] == [StoreError, StoreError]
            assert "unknown" in str(results[0])
            fresh = committer.writer(Claim(tenant="t", key="c", epoch=1, next_seq=0))
            with pytest.raises(StoreError, match="not answered"):
                fresh.submit(b"3")
            with pytest.raises(StoreError, match="not answered"):
                await committer.flush()
            answered = asyncio.Event()
            committer._work.put(lambda: committer._post(answered.set))
            store.gate.set()
            await answered.wait()
            again = await committer.claim("t", "a", 1)
            assert again.next_seq == 1  # it was written after all, as the error said it might be
            await again.durable(again.submit(b"4"))
            await committer.close()
            assert [r.data for r in store.read("t", "a")] == [b"1", b"4"]
            assert [r.data for r in store.read("t", "b")] == []

        asyncio.run(main())

    def test_errors_of_other_work_reach_who_asked(self) -> None:
        async def main() -> None:
            async with GroupCommitter(MemoryStore()) as committer:
                with pytest.raises(FencedError):
                    await committer.claim("t", "k", 7)
                assert await committer.run(lambda store: store.put("t", "row", 1)) == 1
            with pytest.raises(StoreError, match="closed"):
                await committer.run(lambda store: store.get("t", "row"))

        asyncio.run(main())
