"""The real owners: one thread a handle."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from duologue.compute.base import Compute, Handle, LaneStats
from duologue.compute.jobs import log
from duologue.compute.lane import Lane, LaneHandle
from duologue.errors import SessionClosedError


class _Owner[H]:
    """The thread that opens, uses and closes one handle."""

    def __init__(
        self,
        compute: ThreadCompute,
        key: Hashable,
        open: Callable[[], H],
        close: Callable[[H], None] | None,
        capacity: int,
    ) -> None:
        name = str(key[0]) if isinstance(key, tuple) and key else str(key)
        self.key = key
        self.uses = 0
        self.opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._compute = compute
        self._open = open
        self._close = close
        self._event = threading.Event()
        self.lane: Lane[H] = Lane(name, capacity, self._event.set, time.monotonic, _hold)
        # Daemon: an interpreter that exits without close() must not hang; the exit hook of shared() ends it properly.
        self.thread = threading.Thread(target=self._main, name=f"duologue-{name}", daemon=True)
        self.thread.start()

    def wake(self) -> None:
        self._event.set()

    def _main(self) -> None:
        try:
            handle = self._open()
        except BaseException as error:  # whoever waits for the handle gets it
            self._compute._forget(self)
            self.lane.shut("The model could not be opened.")
            self.opened.set_exception(error)
            return
        self.opened.set_result(None)
        log.debug("lane %s: opened", self.lane.name)
        try:
            self._serve(handle)
        finally:
            self.lane.shut("The model is closed.")
            if self._close is not None:
                self._close(handle)
            log.debug("lane %s: closed", self.lane.name)

    def _serve(self, handle: H) -> None:
        lane = self.lane
        while True:
            self._event.clear()
            if lane.closed:
                return
            job = lane.take()
            if job is None:
                idle = self._compute._linger if self.uses == 0 else None
                if not self._event.wait(idle) and self._compute._retire(self):
                    return
                continue
            deliver, _, more = job.step(handle)
            lane.finish(job, more)
            deliver()
            # The result may hold a buffer of the model: nothing of a job stays alive while the owner waits.
            del job, deliver


class ThreadCompute(Compute):
    """Handles with a thread each, shared by all event loops of the process.

    Args:
        linger: seconds that a model nobody uses stays loaded for the next call.
    """

    def __init__(self, *, linger: float = 120.0) -> None:
        self._linger = linger
        self._lock = threading.Lock()
        self._owners: dict[Hashable, _Owner[Any]] = {}
        self._closed = False

    async def acquire[H](
        self,
        key: Hashable,
        open: Callable[[], H],
        *,
        close: Callable[[H], None] | None = None,
        capacity: int = 64,
    ) -> Handle[H]:
        with self._lock:
            if self._closed:
                raise SessionClosedError("The compute is closed.")
            owner: _Owner[H] | None = self._owners.get(key)
            if owner is None:
                owner = self._owners[key] = _Owner(self, key, open, close, capacity)
            owner.uses += 1
        try:
            with _hold(asyncio.get_running_loop()):
                await asyncio.shield(asyncio.wrap_future(owner.opened))
        except BaseException:
            await self._give_back(owner)
            raise
        return LaneHandle(owner.lane, lambda: self._give_back(owner))

    def stats(self) -> list[LaneStats]:
        with self._lock:
            owners = list(self._owners.values())
        return [owner.lane.stats for owner in owners]

    async def close(self) -> None:
        threads = self._shut()
        loop = asyncio.get_running_loop()
        for thread in threads:
            # A thread in the middle of a step ends after it; waiting must not stop the loop.
            await loop.run_in_executor(None, thread.join)

    def _shut(self) -> list[threading.Thread]:
        with self._lock:
            self._closed = True
            owners = list(self._owners.values())
            self._owners.clear()
        for owner in owners:
            owner.lane.shut("The compute is closed.")
        return [owner.thread for owner in owners]

    def _close_at_exit(self) -> None:
        for thread in self._shut():
            thread.join(timeout=5.0)

    # --- called by owners and handles

    async def _give_back(self, owner: _Owner[Any]) -> None:
        with self._lock:
            owner.uses -= 1
        owner.wake()

    def _forget(self, owner: _Owner[Any]) -> None:
        with self._lock:
            if self._owners.get(owner.key) is owner:
                del self._owners[owner.key]

    def _retire(self, owner: _Owner[Any]) -> bool:
        """Whether `owner`, idle for the linger, may end: only if nobody took a use meanwhile."""
        with self._lock:
            if owner.uses > 0 or self._owners.get(owner.key) is not owner:
                return False
            del self._owners[owner.key]
            return True


def _hold(loop: asyncio.AbstractEventLoop) -> AbstractContextManager[object]:
    """A loop with virtual time stands still while real work is out; such a loop is known by its `hold`."""
    hold: Callable[[str], AbstractContextManager[object]] | None = getattr(loop, "hold", None)
    return nullcontext() if hold is None else hold("inference")


_shared: ThreadCompute | None = None
_provided: Compute | None = None
_shared_lock = threading.Lock()


def shared() -> Compute:
    """The compute of this process; closed when the interpreter exits. Closed by hand, the next call makes a new one."""
    global _shared
    with _shared_lock:
        if _provided is not None:
            return _provided
        if _shared is None or _shared._closed:
            if _shared is not None:
                atexit.unregister(_shared._close_at_exit)
            _shared = ThreadCompute()
            atexit.register(_shared._close_at_exit)
        return _shared


def provide(compute: Compute | None) -> None:
    """Have `shared` answer `compute` from now on; None: threads of this process again."""
    global _provided
    with _shared_lock:
        _provided = compute


def _forget_shared() -> None:
    """A forked child has the handles but not their threads: it starts with none."""
    global _shared, _provided, _shared_lock
    if _shared is not None:
        atexit.unregister(_shared._close_at_exit)
    _shared = _provided = None
    _shared_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_shared)
