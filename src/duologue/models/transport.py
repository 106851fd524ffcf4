"""The seam between a provider's codec and what carries its messages: a vendor's SDK, a socket of ours, or memory in a test."""

from __future__ import annotations

from typing import Literal, Protocol

Direction = Literal["sent", "received"]


class TransportClosedError(Exception):
    """The link is gone. `code` and `reason` are those of its WebSocket, 1006 where it just broke."""

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(f"closed with {code} {reason}".strip())
        self.code = code
        self.reason = reason


class Transport(Protocol):
    """One open link that carries text messages."""

    async def send(self, message: str) -> None:
        """Send a message; waits while the other side does not read. Raises TransportClosedError."""

    async def receive(self) -> str | bytes:
        """The next message. Raises TransportClosedError."""

    async def close(self) -> None:
        """Close it. Idempotent."""


class Watched:
    """A transport that shows each frame to `watch` (the option `on_wire` of a model)."""

    def __init__(self, inner: Transport, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch

    async def send(self, message: str) -> None:
        """See Transport."""
        self._watch("sent", message)
        await self._inner.send(message)

    async def receive(self) -> str | bytes:
        """See Transport."""
        message = await self._inner.receive()
        self._watch("received", message)
        return message

    async def close(self) -> None:
        """See Transport."""
        await self._inner.close()


class Watch(Protocol):
    """Sees the frames of a connection as they are on the wire. Called on the event loop; must not block."""

    def __call__(self, direction: Direction, frame: str | bytes, /) -> None: ...
