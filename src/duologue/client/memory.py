"""A link without a network, for a server in the same process and for runs on virtual time."""

from __future__ import annotations

import asyncio

from duologue.client.errors import LinkClosedError


class MemoryTransport:
    """One end of a link in memory. Messages arrive in order, `delay_s` after they were sent.

    Attributes:
        delay_s: one-way delay of what this end sends; may be changed at any time, order is kept.
    """

    def __init__(self, *, delay_s: float = 0.0, capacity: int = 1024) -> None:
        self.delay_s = delay_s
        self._peer: MemoryTransport | None = None
        self._inbox: asyncio.Queue[str | bytes | LinkClosedError] = asyncio.Queue()
        self._in_flight = 0
        self._capacity = capacity
        self._room = asyncio.Event()
        self._room.set()
        self._free_at = 0.0
        self._closed: LinkClosedError | None = None
        self._frozen = False

    async def send(self, frame: str | bytes) -> None:
        """Send to the other end; waits while `capacity` messages have not been received."""
        while self._closed is None and self._in_flight >= self._capacity:
            self._room.clear()
            await self._room.wait()
        if self._closed is not None:
            raise self._closed
        self._in_flight += 1
        self._deliver(frame)

    async def recv(self) -> str | bytes:
        """The next message from the other end."""
        if self._closed is not None and self._inbox.empty():
            raise self._closed
        item = await self._inbox.get()
        if isinstance(item, LinkClosedError):
            self._end(item)
            raise item
        if self._peer is not None:
            self._peer._received()
        return item

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the link; the other end reads what was sent before, then the close."""
        if self._closed is None:
            self._end(LinkClosedError(code, reason))
            self._deliver(LinkClosedError(code, reason))

    def cut(self) -> None:
        """Reset the link: both ends fail at once with 1006, and what was under way is lost."""
        for end in (self, self._peer):
            if end is not None and end._closed is None:
                while not end._inbox.empty():
                    end._inbox.get_nowait()
                end._frozen = True
                end._end(LinkClosedError(1006))
                end._inbox.put_nowait(LinkClosedError(1006))

    def freeze(self) -> None:
        """Make the link a silent black hole: nothing arrives any more in either direction, and nobody is told."""
        for end in (self, self._peer):
            if end is not None:
                end._frozen = True

    def _deliver(self, item: str | bytes | LinkClosedError) -> None:
        peer = self._peer
        if peer is None:
            return
        loop = asyncio.get_running_loop()
        due = max(loop.time() + self.delay_s, self._free_at)
        self._free_at = due
        if due <= loop.time():
            peer._arrive(item)
        else:
            loop.call_at(due, peer._arrive, item)

    def _arrive(self, item: str | bytes | LinkClosedError) -> None:
        if not self._frozen:
            self._inbox.put_nowait(item)

    def _received(self) -> None:
        self._in_flight -= 1
        self._room.set()

    def _end(self, error: LinkClosedError) -> None:
        self._closed = self._closed or error
        self._room.set()


def memory_link(*, delay_s: float = 0.0) -> tuple[MemoryTransport, MemoryTransport]:
    """The two ends of a link in memory; `delay_s` each way."""
    left, right = MemoryTransport(delay_s=delay_s), MemoryTransport(delay_s=delay_s)
    left._peer, right._peer = right, left
    return left, right
