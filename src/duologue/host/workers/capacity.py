"""Admission: whether the host takes another session. Tokens decide first, the loop's lag and the memory second."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from pathlib import Path

import msgspec

from ..types import HostError
from .options import FleetOptions

#: how often the loop's lag is sampled, seconds, and how many samples are looked back at
_SAMPLE_S = 0.1
_SAMPLES = 40
_MEMINFO = Path("/proc/meminfo")


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What is left. `reason` says why no session would be taken now; "": one would be.

    Attributes:
        sessions: sessions that run or start.
        tokens: capacity tokens left.
        loop_lag_s: 95th percentile of how late the host's loop was in the last seconds.
        memory_available: bytes that the machine can still give.
    """

    sessions: int
    tokens: int
    loop_lag_s: float
    memory_available: int
    reason: str = ""


class Admission:
    """Counts tokens, and measures what the tokens do not know of."""

    def __init__(self, options: FleetOptions) -> None:
        self._options = options
        self._used = 0
        self._late: deque[float] = deque(maxlen=_SAMPLES)
        self._task: asyncio.Task[None] | None = None
        #: refusals since the start
        self.refused = 0

    def start(self) -> None:
        """Begin to measure the loop."""
        self._task = asyncio.ensure_future(self._measure())

    async def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def take(self) -> None:
        """Take a token. Raises HostError 429 with `Retry-After` and the reason."""
        capacity = self.state()
        if capacity.reason:
            self.refused += 1
            raise HostError(429, "ThrottlingException", capacity.reason, headers=(("retry-after", "1"),))
        self._used += 1

    def give_back(self) -> None:
        """Give a token back."""
        self._used -= 1

    def state(self) -> Capacity:
        """What is left."""
        options = self._options
        left = options.sessions - self._used
        lag, available = self.lag, memory_available()
        reason = ""
        if left <= 0:
            reason = f"All {options.sessions} sessions of this host are in use."
        elif lag > options.max_lag_s:
            reason = f"This host is {1000 * lag:.0f} ms late with its work."
        elif available < options.memory_reserve:
            reason = f"This host has {available >> 20} MB of memory left, of which it keeps {options.memory_reserve >> 20} MB."
        return Capacity(
            sessions=self._used, tokens=max(0, left), loop_lag_s=lag, memory_available=available, reason=reason
        )

    @property
    def lag(self) -> float:
        """95th percentile of the loop's lag, seconds; the median of few samples says nothing and counts as none."""
        if len(self._late) < _SAMPLES // 4:
            return 0.0
        return sorted(self._late)[int(0.95 * (len(self._late) - 1))]

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _SAMPLE_S
            await asyncio.sleep(_SAMPLE_S)
            self._late.append(max(0.0, loop.time() - due))


def memory_available() -> int:
    """Bytes that the machine can give without swapping, as the kernel estimates; 1 TB where it does not say."""
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 1 << 40
