"""A lane: the bounded priority queue in front of one owner, and the handle through which callers use it.

The queue holds no thread and no task; :mod:`duologue.compute.threads` and :mod:`duologue.compute.virtual` are the two
owners that serve it. What the owner does is the same in both: take a job, do one *step* of it, deliver the outcome.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from duologue.compute.base import Cost, Handle, ItemStream, LaneStats, Priority, SupersededError
from duologue.compute.jobs import CallJob, Job, StreamJob
from duologue.errors import OverloadedError, SessionClosedError

_BUSY_TIME_CONSTANT = 10.0


class LaneHandle[H](Handle[H]):
    """One use of the handle behind a lane, whoever its owner is."""

    def __init__(self, lane: Lane[H], give_back: Callable[[], Awaitable[None]]) -> None:
        self._lane = lane
        self._give_back: Callable[[], Awaitable[None]] | None = give_back

    @property
    def stats(self) -> LaneStats:
        return self._lane.stats

    async def run[T](
        self,
        job: Callable[[H], T],
        *,
        priority: Priority = Priority.NORMAL,
        cost: Cost[T] = 0.0,
        key: Hashable | None = None,
    ) -> T:
        self._check()
        call = CallJob(self._lane, job, priority, key, cost)
        self._lane.submit(call)
        try:
            with self._lane.hold(call.loop):
                return await call.future
        except asyncio.CancelledError:
            self._lane.forget(call)
            raise

    def stream[T](
        self,
        job: Callable[[H], Iterator[T]],
        *,
        priority: Priority = Priority.NORMAL,
        cost: Cost[T] = 0.0,
        backlog: int = 8,
    ) -> ItemStream[T]:
        self._check()
        return StreamJob(self._lane, job, priority, cost, backlog)

    async def release(self) -> None:
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            await give_back()

    def _check(self) -> None:
        if self._give_back is None:
            raise SessionClosedError("This use of the model was released.")


class Lane[H]:
    """Bounded priority queue with coalescing. Thread-safe.

    Args:
        wake: called, from any thread, when there may be work.
        clock: seconds, for busyness.
        hold: entered on the loop of a caller for as long as it waits for the owner.
    """

    def __init__(
        self,
        name: str,
        capacity: int,
        wake: Callable[[], None],
        clock: Callable[[], float],
        hold: Callable[[asyncio.AbstractEventLoop], AbstractContextManager[object]],
    ) -> None:
        self.name = name
        self.hold = hold
        self.capacity = capacity
        self._wake = wake
        self._clock = clock
        self._lock = threading.Lock()
        self._heap: list[tuple[int, int, Job[Any]]] = []
        self._parked: set[StreamJob[Any, Any]] = set()
        self._order = 0
        self._closed: str | None = None
        self._busy = 0.0
        self._busy_at = clock()
        self._started_at: float | None = None
        self._work_seconds = 0.0
        self.done = 0
        self.failed = 0
        self.superseded = 0
        self.dropped = 0

    # --- callers

    def submit(self, job: Job[H]) -> None:
        """Queue `job`. Raises OverloadedError or SessionClosedError; may fail a queued job in its favour."""
        victim: Job[Any] | None = None
        reason = ""
        with self._lock:
            if self._closed is not None:
                raise SessionClosedError(self._closed)
            replaced = self._keyed(job.key)
            if replaced is not None:
                self._remove(replaced)
                self.superseded += 1
                victim, reason = replaced, "A newer job with the same key took its place."
            elif len(self._heap) >= self.capacity:
                self.dropped += 1
                worst = max(self._heap)
                if worst[0] <= job.priority or worst[0] < Priority.BACKGROUND:
                    raise OverloadedError(
                        f"The queue of {self.name} is full ({self.capacity} jobs wait).",
                        hint="Admit fewer calls, or give the model another handle or a faster machine.",
                    )
                self._remove(worst[2])
                victim, reason = worst[2], "A more urgent job took its room."
            job.order = self._next_order()
            heapq.heappush(self._heap, (job.priority, job.order, job))
        if victim is not None:
            victim.fail(SupersededError(f"A job of {self.name} was dropped.", hint=reason))
        self._wake()

    def forget(self, job: Job[H]) -> None:
        """Take a queued job out, if it is still there."""
        with self._lock:
            self._remove(job)

    def stop(self, job: StreamJob[H, Any]) -> None:
        """Have the owner close a stream's generator before its next item, ahead of other work."""
        with self._lock:
            if job.closed:
                return
            job.closed = True
            queued = self._remove(job)
            # One that is in the owner right now closes when its step ends.
            if (queued or job in self._parked) and self._closed is None:
                self._parked.discard(job)
                self._push_stop(job)
        self._wake()

    def taken(self, job: StreamJob[H, Any]) -> None:
        """The consumer took an item; a parked stream goes on."""
        with self._lock:
            job.outstanding -= 1
            if job not in self._parked:
                return
            self._parked.discard(job)
            heapq.heappush(self._heap, (job.priority, job.order, job))
        self._wake()

    # --- the owner

    def take(self) -> Job[H] | None:
        """The next job, or None."""
        with self._lock:
            if not self._heap:
                return None
            self._settle()
            self._started_at = self._clock()
            return heapq.heappop(self._heap)[2]

    def finish(self, job: Job[H], more: bool) -> None:
        """Account for the step of `job` that just ended, and put a stream with more to come back."""
        with self._lock:
            self._settle()
            self._started_at = None
            if not more or self._closed is not None:
                self.done += 1
                if more:
                    job.fail(SessionClosedError(self._closed or ""))
                return
            if isinstance(job, StreamJob):
                job.outstanding += 1
                if job.closed:
                    self._push_stop(job)
                elif job.full:
                    self._parked.add(job)
                else:
                    heapq.heappush(self._heap, (job.priority, job.order, job))

    def shut(self, reason: str) -> None:
        """Refuse and fail all jobs from now on. Idempotent."""
        with self._lock:
            if self._closed is None:
                self._closed = reason
            waiting = [job for _, _, job in self._heap] + list(self._parked)
            self._heap.clear()
            self._parked.clear()
        for job in waiting:
            job.fail(SessionClosedError(reason))
        self._wake()

    @property
    def closed(self) -> bool:
        return self._closed is not None

    @property
    def stats(self) -> LaneStats:
        with self._lock:
            self._settle()
            return LaneStats(
                name=self.name,
                depth=len(self._heap),
                capacity=self.capacity,
                busy=self._busy,
                mean_seconds=self._work_seconds / self.done if self.done else 0.0,
                done=self.done,
                failed=self.failed,
                superseded=self.superseded,
                dropped=self.dropped,
            )

    # --- under the lock

    def _next_order(self) -> int:
        self._order += 1
        return self._order

    def _keyed(self, key: Hashable | None) -> Job[Any] | None:
        if key is None:
            return None
        return next((job for _, _, job in self._heap if job.key == key), None)

    def _push_stop(self, job: StreamJob[Any, Any]) -> None:
        # Negative: before everything urgent. Unique: entries of the heap are never compared by their jobs.
        heapq.heappush(self._heap, (Priority.URGENT, -self._next_order(), job))

    def _remove(self, job: Job[Any]) -> bool:
        for index, entry in enumerate(self._heap):
            if entry[2] is job:
                self._heap[index] = self._heap[-1]
                self._heap.pop()
                heapq.heapify(self._heap)
                return True
        return False

    def _settle(self) -> None:
        """Bring the exponential mean of busyness up to now."""
        now = self._clock()
        elapsed = now - self._busy_at
        working = self._started_at is not None
        if elapsed > 0:
            decay = math.exp(-elapsed / _BUSY_TIME_CONSTANT)
            self._busy = self._busy * decay + (1.0 - decay if working else 0.0)
            self._busy_at = now
            if working:
                self._work_seconds += elapsed
