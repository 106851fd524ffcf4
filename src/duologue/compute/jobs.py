"""Jobs of a lane: what an owner does in steps for a caller on an event loop.

A call has one step. A stream has one per item and goes back into the queue between them, where a more urgent job may
overtake it.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any

from duologue.compute.base import Cost, Priority
from duologue.errors import DuologueError

if TYPE_CHECKING:
    from duologue.compute.lane import Lane

log = logging.getLogger("duologue.compute")


class Job[H](ABC):
    """Something an owner does in one or more steps for a caller on an event loop."""

    def __init__(self, lane: Lane[H], priority: Priority, key: Hashable | None) -> None:
        self.lane = lane
        self.priority = priority
        self.key = key
        self.order = 0
        self.loop = asyncio.get_running_loop()

    @abstractmethod
    def step(self, handle: H) -> tuple[Callable[[], None], float, bool]:
        """One step, in the owner: ``(delivery, declared cost, whether there is another step)``. Never raises."""

    @abstractmethod
    def fail(self, error: DuologueError) -> None:
        """The job will not go on. Called from any thread."""

    def to_loop(self, callback: Callable[..., None], *args: object) -> None:
        """Call back on the loop of the caller, from any thread. A caller whose loop has ended hears nothing."""
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            log.debug("lane %s: the loop of a caller is closed", self.lane.name)


class CallJob[H, T](Job[H]):
    """One call of a function with the handle."""

    def __init__(
        self, lane: Lane[H], job: Callable[[H], T], priority: Priority, key: Hashable | None, cost: Cost[T]
    ) -> None:
        super().__init__(lane, priority, key)
        self._job = job
        self._cost = cost
        self.future: asyncio.Future[T] = self.loop.create_future()

    def step(self, handle: H) -> tuple[Callable[[], None], float, bool]:
        try:
            result = self._job(handle)
            cost = _cost(self._cost, result)
        except BaseException as error:  # reaches whoever awaits, whatever it is; the owner goes on
            failure = _storable(error)
            self.lane.failed += 1
            return (lambda: self.to_loop(self._reject, failure)), 0.0, False
        return (lambda: self.to_loop(self._resolve, result)), cost, False

    def fail(self, error: DuologueError) -> None:
        self.to_loop(self._reject, error)

    def _resolve(self, result: T) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _reject(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class StreamJob[H, T](Job[H]):
    """A generator of the handle, one item a step; the consumer's side is an asynchronous iterator."""

    def __init__(
        self, lane: Lane[H], job: Callable[[H], Iterator[T]], priority: Priority, cost: Cost[T], backlog: int
    ) -> None:
        super().__init__(lane, priority, None)
        self._job = job
        self._cost = cost
        self._backlog = max(1, backlog)
        self._iterator: Iterator[T] | None = None
        # Of the consumer's loop alone:
        self._items: deque[T] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._submitted = False
        # Shared with the owner, under the lane's lock:
        self.outstanding = 0
        self.closed = False

    # --- the owner's side

    def step(self, handle: H) -> tuple[Callable[[], None], float, bool]:
        try:
            if self.closed:
                self._close_iterator()
                return (lambda: None), 0.0, False
            if self._iterator is None:
                self._iterator = iter(self._job(handle))
            try:
                item = next(self._iterator)
            except StopIteration:
                return (lambda: self.to_loop(self._end, None)), 0.0, False
            cost = _cost(self._cost, item)
        except BaseException as error:  # as in CallJob.step
            failure = _storable(error)
            self.lane.failed += 1
            return (lambda: self.to_loop(self._end, failure)), 0.0, False
        return (lambda: self.to_loop(self._arrive, item)), cost, True

    def fail(self, error: DuologueError) -> None:
        self.to_loop(self._end, error)

    @property
    def full(self) -> bool:
        return self.outstanding >= self._backlog

    def _close_iterator(self) -> None:
        close = getattr(self._iterator, "close", None)
        self._iterator = None
        if close is not None:
            close()

    # --- the consumer's side

    def _arrive(self, item: T) -> None:
        if not self._ended:
            self._items.append(item)
            self._wake()

    def _end(self, error: BaseException | None) -> None:
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> StreamJob[H, T]:
        return self

    async def __anext__(self) -> T:
        if not self._submitted and not self._ended:
            self._submitted = True
            self.lane.submit(self)
        while not self._items:
            if self._ended:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._waiter = self.loop.create_future()
            try:
                with self.lane.hold(self.loop):
                    await self._waiter
            except asyncio.CancelledError:
                await self.aclose()
                raise
            finally:
                self._waiter = None
        item = self._items.popleft()
        self.lane.taken(self)
        return item

    async def aclose(self) -> None:
        self._items.clear()
        if not self._ended:
            self._end(None)
            if self._submitted:
                self.lane.stop(self)


def _cost(cost: Cost[Any], result: object) -> float:
    return float(cost(result)) if callable(cost) else cost


def _storable(error: BaseException) -> BaseException:
    """A future refuses StopIteration, which would end an iteration somewhere else."""
    if not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError("an inference job raised StopIteration")
    wrapped.__cause__ = error
    return wrapped
