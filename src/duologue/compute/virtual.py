"""The virtual form of compute: the same queue, served by a task of the event loop.

A job runs inline, so no virtual clock can move while work is out; then its declared cost passes in the loop's own
time (``asyncio.sleep``) before the result is delivered. Under a loop whose clock jumps, an hour of inference is exact
and takes no time; contention of several callers for one handle is as with a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import Any

from duologue.compute.base import Compute, Handle, LaneStats
from duologue.compute.lane import Lane, LaneHandle
from duologue.errors import SessionClosedError


class _TaskOwner[H]:
    """The task that serves one handle."""

    def __init__(self, key: Hashable, handle: H, close: Callable[[H], None] | None, capacity: int) -> None:
        name = str(key[0]) if isinstance(key, tuple) and key else str(key)
        self.key = key
        self.uses = 0
        self._handle = handle
        self._close = close
        self._work = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.lane: Lane[H] = Lane(name, capacity, self._work.set, loop.time, lambda _: nullcontext())
        self._task = loop.create_task(self._serve(), name=f"duologue-{name}")

    async def _serve(self) -> None:
        lane = self.lane
        while not lane.closed:
            self._work.clear()
            job = lane.take()
            if job is None:
                await self._work.wait()
                continue
            deliver, cost, more = job.step(self._handle)
            try:
                if cost > 0:
                    await asyncio.sleep(cost)
            except asyncio.CancelledError:
                job.fail(SessionClosedError("The model is closed."))
                raise
            lane.finish(job, more)
            deliver()
            if more:
                # As between two items of a real owner: others may submit something more urgent.
                await asyncio.sleep(0)

    async def end(self) -> None:
        self.lane.shut("The model is closed.")
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._close is not None:
            self._close(self._handle)


class VirtualCompute(Compute):
    """Compute of one event loop, without threads. A model is closed with its last release."""

    def __init__(self) -> None:
        self._owners: dict[Hashable, _TaskOwner[Any]] = {}
        self._closed = False

    async def acquire[H](
        self,
        key: Hashable,
        open: Callable[[], H],
        *,
        close: Callable[[H], None] | None = None,
        capacity: int = 64,
    ) -> Handle[H]:
        if self._closed:
            raise SessionClosedError("The compute is closed.")
        owner: _TaskOwner[H] | None = self._owners.get(key)
        if owner is None:
            owner = self._owners[key] = _TaskOwner(key, open(), close, capacity)
        owner.uses += 1
        return LaneHandle(owner.lane, lambda: self._give_back(owner))

    def stats(self) -> list[LaneStats]:
        return [owner.lane.stats for owner in self._owners.values()]

    async def close(self) -> None:
        self._closed = True
        owners = list(self._owners.values())
        self._owners.clear()
        for owner in owners:
            await owner.end()

    async def _give_back(self, owner: _TaskOwner[Any]) -> None:
        owner.uses -= 1
        if owner.uses == 0 and self._owners.get(owner.key) is owner:
            del self._owners[owner.key]
            await owner.end()
