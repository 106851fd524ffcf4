"""When an end of a link writes: once for all that happens in a turn of the event loop, and not too often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: with fewer streams on a link nothing waits: so few seldom have something to say at once
FEW = 16
#: from one write to the next where there are more, seconds. Each wakes the process at the other end, and what it then does
#: for a frame costs half as much if there are several
WAIT_S = 0.003


class Gather:
    """Calls `flush` soon after it was asked to, once.

    Args:
        loop: its clock and its turns.
        flush: writes all there is.
    """

    __slots__ = ("_asked", "_at", "_flush", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, flush: Callable[[], None]) -> None:
        self._loop = loop
        self._flush = flush
        self._asked = False
        self._at = loop.time()  # of the last flush

    def soon(self, streams: int) -> None:
        """There is something to be written; the link has so many streams."""
        if self._asked:
            return
        self._asked = True
        if streams >= FEW and (wait := self._at + WAIT_S - self._loop.time()) > 0:
            self._loop.call_later(wait, self._run)
        else:
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._asked = False
        self._at = self._loop.time()
        self._flush()
