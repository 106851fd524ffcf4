"""Whether the machine itself stood still: `python -m benchmarks.hosted.stalls` says so, a line each, until it is ended.

A virtual machine is now and then not run at all, for tens of milliseconds, and nothing in it can be in time then. A process of
each core that must run before all others (SCHED_FIFO, which needs root) wakes every 5 ms; what it misses, everybody missed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

_EVERY_S, _STALL_S = 0.005, 0.02


class Watch:
    """Stalls since it was begun, in seconds. `possible`: whether the kernel let us look."""

    def __init__(self) -> None:
        self.possible = hasattr(os, "sched_setscheduler") and os.geteuid() == 0
        self.stalls: list[float] = []

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Take what a process says."""
        while line := await stream.readline():
            self.stalls.append(float(line))


@asynccontextmanager
async def watching(cores: Sequence[int]) -> AsyncIterator[Watch]:
    """Watch these cores until the block ends."""
    watch = Watch()
    if not watch.possible:
        yield watch
        return
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.hosted.stalls", str(core), stdout=asyncio.subprocess.PIPE
        )
        for core in cores
    ]
    readers = [asyncio.create_task(watch.read(p.stdout)) for p in processes if p.stdout is not None]
    try:
        yield watch
    finally:
        for process in processes:
            process.kill()
            await process.wait()
        await asyncio.gather(*readers)


def main(core: int) -> None:
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    last = time.monotonic()
    while True:
        time.sleep(_EVERY_S)
        now = time.monotonic()
        if now - last > _EVERY_S + _STALL_S:
            print(now - last - _EVERY_S, flush=True)
        last = now


if __name__ == "__main__":
    main(int(sys.argv[1]))
