"""Watches one worker: idle and lifetime limits, signs of life, what it writes, a foreign app's `/ping`.

Deaths are seen by its process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from .options import FleetOptions
from .storage import Meter
from .worker import Worker

logger = logging.getLogger("duologue.host.workers")

#: `stop(worker, reason, notice_s)`
Stop = Callable[[Worker, str, float], Awaitable[None]]


async def supervise(worker: Worker, options: FleetOptions, stop: Stop, meters: Mapping[str, Meter]) -> None:
    """Return when the worker has ended, or was told to. `meters`: of what it may fill, by the reason for which it ends then."""
    watch = _Watch(worker, options, meters)
    loop = asyncio.get_running_loop()
    due = loop.time()
    while not worker.ended.is_set():
        due = max(due + watch.tick, loop.time())
        try:
            async with asyncio.timeout_at(due):
                await worker.ended.wait()
            return
        except TimeoutError:
            pass
        if worker.intent:
            continue  # somebody ends it; kept under watch until it has ended
        # Late by more than a tick, it is this process that was held up, not the worker.
        punctual = loop.time() - due < watch.tick
        reason, notice = await watch.verdict(loop.time(), punctual)
        if reason == "hung":
            logger.warning("worker %s of %s gives no sign of life", worker.id, worker.spec.id)
            worker.intent = reason
            worker.process.kill()
        elif reason:
            await stop(worker, reason, notice)


class _Watch:
    def __init__(self, worker: Worker, options: FleetOptions, meters: Mapping[str, Meter]) -> None:
        self._worker = worker
        self._meters = meters
        self._options = options
        now = asyncio.get_running_loop().time()
        life = worker.spec.lifecycle
        self._lead = min(options.lifetime_notice_s, life.lifetime_s / 10)
        self._lease = options.foreign_lease_s if worker.foreign else options.lease_s
        self._answered = self._ping_at = now
        self._missed = 0
        steps = [life.idle_s / 4, life.lifetime_s / 10, self._lease / 4]
        if worker.foreign:
            steps.append(options.ping_s)
        self.tick = max(0.02, min(1.0, *steps))

    async def verdict(self, now: float, punctual: bool) -> tuple[str, float]:
        """(why it must end now or "", notice in seconds)."""
        worker = self._worker
        life = worker.spec.lifecycle
        notice = min(self._options.notice_s, life.grace_s / 2)
        if self._hangs(now, punctual):
            return "hung", 0.0
        for reason, meter in self._meters.items():
            if await meter.exceeded():
                return reason, 0.0
        # Where several share it each ends by its own lifetime, and the process with that of the last one who came.
        if now >= worker.joined_at + life.lifetime_s - self._lead:
            return "lifetime", self._lead
        if worker.foreign:
            if now >= self._ping_at and (reason := await self._ping(now)):
                return reason, notice
        elif worker.process.busy:
            worker.touch()
        if now - worker.used_at >= life.idle_s:
            if await worker.busy():
                worker.touch()
            elif now - worker.used_at >= life.idle_s:  # still: nobody came while it was asked
                return "idle", notice
        return "", 0.0

    def _hangs(self, now: float, punctual: bool) -> bool:
        """Twice in a row without a sign of life, looked at in time: what has arrived meanwhile was read."""
        late = now - max(self._worker.process.beat_at, 0.0) > self._lease
        if self._worker.foreign:
            late = late or now - self._answered > self._lease
        self._missed = self._missed + 1 if late and punctual else 0
        return self._missed >= 2

    async def _ping(self, now: float) -> str:
        options = self._options
        answer = await self._worker.pong(options.ping_s)
        self._ping_at = now + options.ping_s
        if answer is None:
            return ""
        self._answered = asyncio.get_running_loop().time()
        if answer.status != 200:
            return "unhealthy"
        if answer.busy:
            self._worker.touch()
        return ""
