"""The two ways to commit: in a thread of its own, for disks, and on the loop itself, for memory and virtual time."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from duologue.errors import ConfigurationError, StoreError
from duologue.store.base import Append, Store
from duologue.store.committer import Answers, Committer

logger = logging.getLogger("duologue.store")


class _Hold(Protocol):
    def release(self) -> None: ...


class InlineCommitter(Committer):
    """Commits on the loop itself: for MemoryStore and virtual time. A store that blocks would block the loop.

    Args:
        store: see Committer.
        latency: seconds that each commit is made to take, on the loop's clock; 0 is the same instant.
    """

    def __init__(
        self,
        store: Store,
        *,
        latency: float = 0.0,
        window: float = 0.0,
        idle_window: float = 0.2,
        max_bytes: int = 8 << 20,
        patience: float = 10.0,
    ) -> None:
        super().__init__(store, window=window, idle_window=idle_window, max_bytes=max_bytes, patience=patience)
        if latency < 0:
            raise ConfigurationError(f"A latency of {latency} s is out of range.", hint="Use 0 or more.")
        self.latency = latency

    async def _do[T](self, work: Callable[[Store], T]) -> T:
        if self.latency:
            await asyncio.sleep(self.latency)
        return work(self.store)

    def _commit(self, batch: Sequence[Append]) -> None:
        answers = _append(self.store, batch)
        self._loop.call_later(self.latency, self._answered, answers, self.latency)

    def _stop(self) -> None:
        return


class GroupCommitter(Committer):
    """Commits in a thread of its own, which is the only one that waits for the disk.

    Under a virtual loop (one that has `hold`) the clock stands still while the thread works.

    Args:
        store: see Committer.
        window: a batch is handed over this long after somebody began to wait; with the commit itself, within 10 ms on a
            disk that takes less than 6.
        idle_window: the same when nobody waits.
        max_bytes: how much may be queued.
        patience: seconds after which the store has failed.
    """

    def __init__(
        self,
        store: Store,
        *,
        window: float = 0.004,
        idle_window: float = 0.2,
        max_bytes: int = 8 << 20,
        patience: float = 10.0,
    ) -> None:
        super().__init__(store, window=window, idle_window=idle_window, max_bytes=max_bytes, patience=patience)
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="duologue-journal", daemon=True)
        self._thread.start()

    async def _do[T](self, work: Callable[[Store], T]) -> T:
        if self._closed:
            raise StoreError("The committer is closed.", hint="Use the store itself.")
        future: asyncio.Future[T] = self._loop.create_future()
        hold = self._hold("store")

        def deliver(result: T | None, error: BaseException | None) -> None:
            if hold is not None:
                hold.release()
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(cast(T, result))

        def task() -> None:
            result: T | None = None
            fault: BaseException | None = None
            try:
                result = work(self.store)
            except Exception as error:
                fault = error
            self._post(deliver, result, fault)

        self._work.put(task)
        try:
            async with asyncio.timeout(self.patience):
                return await future
        except TimeoutError:
            if future.done() and not future.cancelled():
                raise
            raise StoreError(
                f"The store has not answered for {self.patience} s.", hint="Check the disk that holds it."
            ) from None

    def _commit(self, batch: Sequence[Append]) -> None:
        hold = self._hold("journal commit")

        def deliver(answers: Answers, seconds: float) -> None:
            if hold is not None:
                hold.release()
            self._answered(answers, seconds)

        def task() -> None:
            begun = time.perf_counter()
            answers = _append(self.store, batch)
            self._post(deliver, answers, time.perf_counter() - begun)

        self._work.put(task)

    def _hold(self, what: str) -> _Hold | None:
        hold = getattr(self._loop, "hold", None)
        return None if hold is None else cast(_Hold, hold(what))

    def _post(self, callback: Callable[..., object], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            logger.error("the event loop ended before the journal was closed")

    def _run(self) -> None:
        while (task := self._work.get()) is not None:
            task()

    def _stop(self) -> None:
        # not joined: the thread ends by itself, and must not be waited for if its disk hangs
        self._work.put(None)


def _append(store: Store, batch: Sequence[Append]) -> Answers:
    try:
        return store.append_batch(batch)
    except StoreError as error:
        return error
    except Exception as error:
        # those who wait get a typed error whatever the store did wrong
        wrapped = StoreError(f"The store failed: {error!r}.", hint="This is a fault of the store; see the log.")
        wrapped.__cause__ = error
        logger.exception("journal commit failed")
        return wrapped
