"""The one seam between the event loop and inference.

Speech models are not thread-safe: a handle used by two threads mixes the words of two callers. So every handle has
one *lane*: an owner that runs its jobs one at a time, fed by a bounded priority queue that admission can see. Many
sessions of the process share a lane. :class:`~duologue.compute.threads.ThreadCompute` gives each lane a thread;
:class:`~duologue.compute.virtual.VirtualCompute` runs the same queue on the event loop and charges declared costs in
the loop's own time, so that tests under a virtual clock are exact.

A job is a plain callable of the handle. What it returns must be its own (copied out of the model's buffers), because
the next job starts at once. Cancelling the task that awaits a job removes it from the queue; a job that already runs
is finished and its result dropped (inference cannot be interrupted), except for streams, which stop between two
items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from enum import IntEnum
from typing import Protocol

import msgspec

from duologue.errors import DuologueError


class Priority(IntEnum):
    """Order of queued jobs in a lane; lower runs first, equals run in order of submission."""

    URGENT = 0  # someone waits in silence: the final of a turn, the first clause of an answer
    NORMAL = 1
    BACKGROUND = 2  # may be dropped under load: partial recognition, speculation


type Cost[T] = float | Callable[[T], float]
"""Declared cost of a job in seconds, or a function of its result (of each item of a stream). For the virtual form."""


class SupersededError(DuologueError):
    """A queued job was replaced by a newer one with the same key, or dropped to make room for a more urgent one."""

    code = "superseded"


class LaneStats(msgspec.Struct, frozen=True, kw_only=True):
    """What admission and telemetry see of a lane. Counts are since the lane was opened."""

    name: str
    depth: int
    """jobs queued and not yet started"""
    capacity: int
    busy: float
    """fraction of recent time (time constant 10 s) that the owner spent working, 0 to 1"""
    mean_seconds: float
    """mean time of a job, 0.0 before the first"""
    done: int
    failed: int
    superseded: int
    dropped: int
    """background jobs evicted for more urgent ones, plus jobs refused because the queue was full"""


class ItemStream[T](Protocol):
    """Items of a streaming job. Close it when you stop early (``async with aclosing(stream)``); the owner then stops
    before its next item and the model's generator is closed in the owner."""

    def __aiter__(self) -> AsyncIterator[T]: ...

    async def __anext__(self) -> T: ...

    async def aclose(self) -> None: ...


class Handle[H](ABC):
    """A shared, reference-counted use of one model handle and its lane. Safe to use from many tasks (and loops)."""

    @property
    @abstractmethod
    def stats(self) -> LaneStats: ...

    @property
    def depth(self) -> int:
        """Jobs queued and not yet started."""
        return self.stats.depth

    @abstractmethod
    async def run[T](
        self,
        job: Callable[[H], T],
        *,
        priority: Priority = Priority.NORMAL,
        cost: Cost[T] = 0.0,
        key: Hashable | None = None,
    ) -> T:
        """Run ``job(handle)`` in the owner and return its result.

        Args:
            key: a queued job with the same key is replaced (its caller gets :class:`SupersededError`).

        Raises:
            OverloadedError: the queue is full of jobs at least as urgent.
            SupersededError: a newer job took this one's place, or a more urgent one its room.
            SessionClosedError: the handle was released or the compute closed.
        """

    @abstractmethod
    def stream[T](
        self,
        job: Callable[[H], Iterator[T]],
        *,
        priority: Priority = Priority.NORMAL,
        cost: Cost[T] = 0.0,
        backlog: int = 8,
    ) -> ItemStream[T]:
        """Run a generator in the owner; its items arrive here as they are made.

        At most `backlog` items wait; then the generator pauses and **the owner takes other jobs**, so a slow consumer
        never blocks the other callers of the handle. Between two items of one stream the owner looks for more urgent
        jobs first. Therefore a generator must keep its state to itself between items.

        Raises (from the first ``__anext__``): as :meth:`run`.
        """

    @abstractmethod
    async def release(self) -> None:
        """Give the use back. The model is closed after the last release (and, with threads, a linger). Idempotent."""

    async def __aenter__(self) -> Handle[H]:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.release()


class Compute(ABC):
    """Registry of handles by key. One a process (:func:`duologue.compute.shared`), or one a test."""

    @abstractmethod
    async def acquire[H](
        self,
        key: Hashable,
        open: Callable[[], H],
        *,
        close: Callable[[H], None] | None = None,
        capacity: int = 64,
    ) -> Handle[H]:
        """Use the handle registered under `key`, opening it in its owner if nobody did.

        Args:
            key: ``(component, model configuration...)``; equal keys share one handle.
            open: loads the model; runs in the owner. Its error reaches every caller that waits for it.
            close: frees it; runs in the owner.
            capacity: bound of the lane's queue (taken from the first to acquire).
        """

    @abstractmethod
    def stats(self) -> list[LaneStats]:
        """One entry a lane, for admission and telemetry."""

    @abstractmethod
    async def close(self) -> None:
        """Close every handle and end every owner; queued jobs fail with ``SessionClosedError``. Idempotent."""
