"""Group commit: many journals, one transaction, never on the event loop.

A session submits records as they come and goes on; what may leave the process only after it was written waits for its
record to be *durable*. Between the two stands a batch, the records of many sessions. A journal's records go into the
batch that is handed to the store

* `window` seconds after somebody began to wait for one of them, so that others can join, or else
* `idle_window` seconds after the first: records of mere evidence gather, because a commit costs by journals touched. No
  batch takes more than a few journals of this kind, so that those who wait do not wait for these.

One batch is out at a time; what comes meanwhile makes up the next. So records of one journal keep their order, and a
slow disk makes batches larger rather than the queue longer. What is queued is bounded in bytes.

Failure reaches everyone it concerns. A journal whose owner was replaced is *fenced*: its writer fails, the others in
the batch do not notice. When the store itself fails, every writer with records in the batch fails, and stays failed:
what it would write next would leave a hole. Its owner must claim the journal again, or end. An answer that does not
come within `patience` counts as a failure whose outcome is unknown.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import msgspec

from duologue.errors import ConfigurationError, FencedError, OverloadedError, StoreError
from duologue.store.base import Append, Claim, Commit, Store

logger = logging.getLogger("duologue.store")

#: called on the loop with None once a record is durable, or with the error that keeps it from being so
Durable = Callable[[StoreError | None], object]
#: how many journals that nobody waits for one batch takes along
IDLE_JOURNALS = 32

#: what a store made of a batch
Answers = list[Commit | FencedError] | StoreError


class CommitStats(msgspec.Struct):
    """What a committer has done so far. `seconds` is the time the store took, summed; `slowest` its largest."""

    batches: int = 0
    records: int = 0
    bytes: int = 0
    failed_batches: int = 0
    fenced: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0


class Writer:
    """One owner's way into its journal. Made by `Committer.writer`; used on the committer's event loop only.

    Tickets are the sequence numbers that the records will have in the journal.
    """

    __slots__ = (
        "_committer",
        "_counter",
        "_due",
        "_hurried",
        "_pending",
        "_waiters",
        "claim",
        "durable_seq",
        "error",
        "next_seq",
    )

    def __init__(self, committer: Committer, claim: Claim) -> None:
        self.claim = claim
        #: the ticket that the next record gets
        self.next_seq = claim.next_seq
        #: records with a lower sequence number are durable
        self.durable_seq = claim.next_seq
        #: why nothing more can be written; None while all is well
        self.error: StoreError | None = None
        self._committer = committer
        self._pending: list[bytes] = []
        self._due = 0.0
        self._hurried = False
        self._waiters: list[tuple[int, int, Durable]] = []
        self._counter = 0

    def submit(self, record: bytes) -> int:
        """Queue a record; returns its ticket at once.

        Raises:
            FencedError: another owner holds the journal.
            StoreError: the store failed; nothing more can be written under this claim.
            OverloadedError: too many bytes are queued. Nothing was queued, and the writer stays usable.
        """
        if self.error is not None:
            raise self.error
        committer = self._committer
        size = committer.queued + len(record)
        if size > committer.max_bytes:
            raise committer._overloaded()
        pending = self._pending
        if not pending:
            committer._first(self)
        committer.queued = size
        pending.append(record)
        ticket = self.next_seq
        self.next_seq = ticket + 1
        return ticket

    def on_durable(self, ticket: int, callback: Durable) -> None:
        """Call back when the record of `ticket` is durable, or cannot become so: at once if that is known already.

        Callbacks of a writer are made in the order of their tickets.

        Raises:
            StoreError: no record has this ticket.
        """
        if ticket < self.durable_seq:
            callback(None)
        elif self.error is not None:
            callback(self.error)
        elif ticket >= self.next_seq:
            raise StoreError(f"No record has ticket {ticket}.", hint="Wait for what submit() returned.")
        else:
            self._counter += 1
            heapq.heappush(self._waiters, (ticket, self._counter, callback))
            if ticket >= self.next_seq - len(self._pending):
                self._committer._hurry(self)

    async def durable(self, ticket: int) -> None:
        """Wait until the record of `ticket`, and all before it, are committed.

        Raises:
            FencedError: another owner holds the journal.
            StoreError: the store failed, or no record has this ticket.
        """
        if ticket < self.durable_seq:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: StoreError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self.on_durable(ticket, done)
        await future

    def _advance(self, durable_seq: int) -> None:
        self.durable_seq = durable_seq
        waiters = self._waiters
        while waiters and waiters[0][0] < durable_seq:
            self._committer._call(heapq.heappop(waiters)[2], None)

    def _fail(self, error: StoreError) -> None:
        if self.error is not None:
            return
        self.error = error
        self._committer.queued -= sum(map(len, self._pending))
        self._pending = []
        waiters, self._waiters = sorted(self._waiters, key=lambda waiter: waiter[:2]), []
        for _, _, callback in waiters:
            self._committer._call(callback, error)


class Committer(ABC):
    """What the two committers share; made and used on one event loop. An async context manager that closes itself.

    Args:
        store: where to.
        window: seconds from the first wait for a record until its batch is handed over; at most 0.01.
        idle_window: the same for records that nobody waits for.
        max_bytes: how much may be queued, in flight included.
        patience: seconds after which a store that does not answer has failed.
    """

    def __init__(self, store: Store, *, window: float, idle_window: float, max_bytes: int, patience: float) -> None:
        if not 0 <= window <= 0.01:
            raise ConfigurationError(f"A commit window of {window} s is out of range.", hint="Use 0 to 0.01 s.")
        if idle_window < window or max_bytes <= 0 or patience <= 0:
            raise ConfigurationError(
                "A committer needs idle_window >= window, max_bytes > 0 and patience > 0.", hint="Correct the options."
            )
        self.store = store
        self.window = window
        self.idle_window = idle_window
        self.max_bytes = max_bytes
        self.patience = patience
        self.stats = CommitStats()
        #: bytes that are queued or in flight
        self.queued = 0
        self._loop = asyncio.get_running_loop()
        self._hurried: list[Writer] = []
        self._hurried_due = 0.0
        # in the order of their due times; an entry is void once its writer has another due time or nothing pending
        self._idle: deque[tuple[float, Writer]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._out: list[tuple[Writer, list[bytes]]] = []
        self._out_bytes = 0
        self._overdue: asyncio.TimerHandle | None = None
        self._stuck: StoreError | None = None
        self._closed = False

    def writer(self, claim: Claim) -> Writer:
        """The way into the journal of `claim`. One writer a claim."""
        return Writer(self, claim)

    async def claim(self, tenant: str, key: str, expected_epoch: int = 0) -> Writer:
        """Claim a journal at the store and return a writer for it. Raises as `Store.claim`.

        What an earlier owner has queued and not committed is fenced from then on.
        """
        return self.writer(await self._do(lambda store: store.claim(tenant, key, expected_epoch)))

    async def read(self, tenant: str, key: str) -> tuple[int, list[bytes]]:
        """The present epoch of a journal and its records; (0, []) if there is none. Raises as `run`."""

        def records(store: Store) -> tuple[int, list[bytes]]:
            journal = store.journal(tenant, key)
            if journal is None:
                return 0, []
            return journal.epoch, [record.data for record in store.read(tenant, key)]

        return await self.run(records)

    async def run[T](self, work: Callable[[Store], T]) -> T:
        """Do something else with the store, off the loop, after everything that was submitted before.

        Raises:
            StoreError: the store failed or does not answer. And whatever `work` raises.
        """
        await self._drain()
        return await self._do(work)

    async def flush(self) -> None:
        """Hand over what is queued and wait until it is committed.

        Raises:
            StoreError: the store failed meanwhile. (A fenced journal is its own writer's matter.)
        """
        if (error := await self._drain()) is not None:
            raise error

    async def _drain(self) -> StoreError | None:
        """Wait for everything submitted so far, however it ends; the store's failure, if it failed."""
        if self._stuck is not None:
            return self._stuck
        writers = dict.fromkeys(
            [writer for writer, _ in self._out] + self._hurried + [writer for _, writer in self._idle]
        )
        ends = await asyncio.gather(
            *(writer.durable(writer.next_seq - 1) for writer in writers if writer.error is None),
            return_exceptions=True,
        )
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, StoreError):
                raise end
        return next((end for end in ends if isinstance(end, StoreError) and not isinstance(end, FencedError)), None)

    async def close(self) -> None:
        """Flush and stop. Writers fail afterwards. The store stays open. May be called twice; raises as `flush`."""
        if self._closed:
            return
        self._closed = True
        try:
            await self.flush()
        finally:
            self._stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    # -- called by writers -----------------------------------------------------------------------------------------

    def _first(self, writer: Writer) -> None:
        """`writer` is about to queue its first record of the next batch."""
        if self._closed:
            raise StoreError("The committer is closed.", hint="Submit before close().")
        if self._stuck is not None:
            writer._fail(self._stuck)
            raise self._stuck
        due = writer._due = self._loop.time() + self.idle_window
        self._idle.append((due, writer))
        if self._timer is None and not self._out:
            self._timer = self._loop.call_at(due, self._hand_over)

    def _hurry(self, writer: Writer) -> None:
        """Somebody waits for a record of `writer` that is queued."""
        if writer._hurried:
            return
        writer._hurried = True
        self._hurried.append(writer)
        if len(self._hurried) == 1:
            self._hurried_due = self._loop.time() + self.window
            if not self._out:
                self._plan()

    def _queues(self) -> bool:
        """Whether anything is queued; drops void entries from the head of the idle queue."""
        idle = self._idle
        while idle and (idle[0][0] != idle[0][1]._due or not idle[0][1]._pending):
            idle.popleft()
        return bool(self._hurried or idle)

    def _plan(self) -> None:
        """Nothing is out: set the timer for the next batch, if there is one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._queues():
            # what is overdue because the batches were full still leaves a window for others to join
            due = self._hurried_due if self._hurried else max(self._idle[0][0], self._loop.time() + self.window)
            self._timer = self._loop.call_at(due, self._hand_over)

    def _overloaded(self) -> OverloadedError:
        self.stats.refused += 1
        return OverloadedError(
            f"{self.queued} bytes wait for the journal.",
            hint="The disk is too slow for what is written; shed load, or raise max_bytes.",
        )

    def _call(self, callback: Durable, error: StoreError | None) -> None:
        try:
            callback(error)
        except Exception as fault:
            # one session's callback must not keep the news from the others
            self._loop.call_exception_handler(
                {"message": "A durability callback failed", "exception": fault, "callback": callback}
            )

    # -- one batch -------------------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        self._timer = None
        if self._out or not self._queues():
            return
        writers, self._hurried = self._hurried, []
        # those due soon come along, so that there are few batches rather than one for each journal
        horizon = self._loop.time() + self.idle_window / 4
        room = IDLE_JOURNALS
        while room and self._queues() and self._idle[0][0] <= horizon:
            writer = self._idle.popleft()[1]
            if not writer._hurried:
                writers.append(writer)
                room -= 1
        batch = []
        for writer in writers:
            writer._hurried = False
            if writer._pending:
                self._out.append((writer, writer._pending))
                claim = writer.claim
                batch.append(Append(tenant=claim.tenant, key=claim.key, epoch=claim.epoch, records=writer._pending))
                writer._pending = []
        self._out_bytes = sum(sum(map(len, part.records)) for part in batch)
        if not batch:
            self._plan()
            return
        self._overdue = self._loop.call_later(self.patience, self._lost)
        self._commit(batch)

    @abstractmethod
    async def _do[T](self, work: Callable[[Store], T]) -> T:
        """Have the store do `work`, after the batch that is out."""

    @abstractmethod
    def _commit(self, batch: Sequence[Append]) -> None:
        """Have the store append `batch`, then have `_answered` called on the loop."""

    @abstractmethod
    def _stop(self) -> None:
        """Nothing will be handed over any more."""

    def _answered(self, answers: Answers, seconds: float) -> None:
        """The store has answered the batch that is out."""
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        self._stuck = None
        stats, out, self._out = self.stats, self._out, []
        self.queued -= self._out_bytes
        stats.seconds += seconds
        stats.slowest = max(stats.slowest, seconds)
        if isinstance(answers, StoreError):
            stats.failed_batches += 1
            logger.error("journal commit failed: %s", answers)
            for writer, _ in out:
                writer._fail(answers)
        else:
            stats.batches += 1
            for (writer, records), answer in zip(out, answers, strict=True):
                if isinstance(answer, FencedError):
                    stats.fenced += 1
                    writer._fail(answer)
                else:
                    stats.records += len(records)
                    # a writer that was given up as lost stays failed, though its records did arrive
                    if writer.error is None:
                        writer._advance(answer.next_seq)
            stats.bytes += self._out_bytes
        self._out_bytes = 0
        self._plan()

    def _lost(self) -> None:
        """The store has not answered in time. The batch stays out: it may yet be written, nothing may overtake it."""
        self._overdue = None
        self._stuck = StoreError(
            f"The store has not answered for {self.patience} s; whether the records were written is unknown.",
            hint="Check the disk; claim the journal again once it answers.",
        )
        logger.error("journal commit failed: %s", self._stuck)
        self.stats.failed_batches += 1
        for writer in [writer for writer, _ in self._out] + self._hurried + [writer for _, writer in self._idle]:
            writer._fail(self._stuck)
        self._hurried.clear()
        self._idle.clear()
