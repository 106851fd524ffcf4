"""Channels that a session started over the control API is reached by.

``join`` starts the session and waits for a participant to open a socket to it; ``websocket`` dials out: the host opens a
WebSocket to the participant, who then speaks as a client would that had connected by itself. Others (a telephone line, a
conference room) register here under names of their own.

Whom the host may be made to call is the operator's to say: without ``dial_to`` nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from duologue.errors import ConfigurationError

from ..auth import SESSION_HEADER
from ..auth.origin import normalised
from ..headers import metadata
from ..types import Assignment, HostError
from .arn import invalid
from .placement import LocalPlacement

logger = logging.getLogger("duologue.host.control")

_OPEN_S = 10.0
_MAX_MESSAGE = 16 << 20
_MAX_VALUE = 4096


class Channel(Protocol):
    """A way to reach a participant."""

    def check(self, participant: dict[str, Any]) -> None:
        """Raise HostError 400 for a participant that cannot be reached this way, before anything is started."""

    async def connect(self, participant: dict[str, Any], assignment: Assignment) -> None:
        """Reach the participant. Returns once they are connected, what follows is the channel's. Raises HostError 424."""

    async def close(self) -> None:
        """End what is under way."""


class Channels:
    """The channels of a host, by name."""

    def __init__(self, channels: dict[str, Channel]) -> None:
        self._channels = dict(channels)

    @property
    def names(self) -> tuple[str, ...]:
        """What there is."""
        return tuple(sorted(self._channels))

    def register(self, name: str, channel: Channel) -> None:
        """Add a channel. Raises ConfigurationError if its name is taken."""
        if name in self._channels:
            raise ConfigurationError(f"There is a channel {name!r} already.", hint="Choose another name.")
        self._channels[name] = channel

    def check(self, channel: str, participant: dict[str, Any]) -> None:
        """Raise HostError 400 for a channel that is not there, or a participant that it cannot reach."""
        found = self._channels.get(channel)
        if found is None:
            raise invalid(f"There is no channel {channel[:60]!r}.", f"There are {', '.join(self.names)}.")
        found.check(participant)

    async def connect(self, channel: str, participant: dict[str, Any], assignment: Assignment) -> None:
        """Reach the participant. Raises HostError 424."""
        await self._channels[channel].connect(participant, assignment)

    async def close(self) -> None:
        """End what all of them have under way."""
        for channel in self._channels.values():
            await channel.close()


class Join:
    """The participant comes by themself, with a ticket: one that is for a page says so, ``{"origin": "https://…"}``."""

    def check(self, participant: dict[str, Any]) -> None:
        """See Channel."""
        if set(participant) - {"origin"}:
            raise invalid("Of a participant who joins only the `origin` of their page is asked.")
        origin = participant.get("origin", "")
        if not isinstance(origin, str) or (origin and normalised(origin) != origin):
            raise invalid("The participant's origin is not as browsers send it.", "For example https://app.example.com")

    async def connect(self, participant: dict[str, Any], assignment: Assignment) -> None:
        """See Channel."""

    async def close(self) -> None:
        """See Channel."""


class WebSocketOut:
    """Dials out to ``{"url": "wss://…", "headers": {…}}`` and joins that socket to the agent's.

    Args:
        dial_to: names of hosts that may be called, with ``*`` for any part; ``ws://`` only to ``localhost`` among them.
    """

    def __init__(self, placement: LocalPlacement[Any], *, dial_to: Iterable[str]) -> None:
        self._placement = placement
        self._dial_to = tuple(name.lower() for name in dial_to)
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()

    def check(self, participant: dict[str, Any]) -> None:
        """See Channel."""
        unknown = sorted(set(participant) - {"url", "headers"})
        url, headers = participant.get("url"), participant.get("headers", {})
        if unknown or not isinstance(url, str) or len(url) > _MAX_VALUE:
            raise invalid('The participant is not {"url": …, "headers": {…}}.')
        if not isinstance(headers, dict) or not all(
            isinstance(value, str) and name.isascii() and len(value) <= _MAX_VALUE and f"{name}{value}".isprintable()
            for name, value in headers.items()
        ):
            raise invalid("The participant's headers are not texts by name.")
        try:
            parts = urlsplit(url)
            host, _ = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise invalid("The participant's url cannot be read.") from None
        loopback = host in ("localhost", "127.0.0.1", "::1")
        if parts.username is not None or parts.scheme not in (("wss", "ws") if loopback else ("wss",)):
            raise invalid("The participant's url begins with wss://, and names no user.")
        if not any(fnmatch.fnmatchcase(host, pattern) for pattern in self._dial_to):
            raise invalid(f"This host may not dial {host[:80]!r}.", "Its operator allows names with --dial-to.")

    async def connect(self, participant: dict[str, Any], assignment: Assignment) -> None:
        """See Channel."""
        stack = contextlib.AsyncExitStack()
        try:
            handle = await self._placement.opened(assignment, "ws")
            stack.push_async_callback(self._placement.closed, handle)
            agent = await stack.enter_async_context(
                _open(
                    unix_connect(
                        assignment.http,
                        "ws://localhost/ws",
                        additional_headers=[(SESSION_HEADER, assignment.session), *metadata(assignment.metadata)],
                        compression=None,
                        ping_interval=None,
                        max_size=_MAX_MESSAGE,
                        open_timeout=_OPEN_S,
                    ),
                    "The agent",
                )
            )
            there = await stack.enter_async_context(
                _open(
                    connect(
                        participant["url"],
                        additional_headers=participant.get("headers", {}),
                        compression=None,
                        max_size=_MAX_MESSAGE,
                        open_timeout=_OPEN_S,
                        proxy=None,
                    ),
                    "The participant",
                )
            )
        except BaseException:
            self.counts["failed"] += 1
            await stack.aclose()
            raise
        self.counts["connected"] += 1
        task = asyncio.create_task(self._carry(stack, agent, there))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, stack: contextlib.AsyncExitStack, agent: ClientConnection, there: ClientConnection) -> None:
        async with stack:
            ways = {asyncio.create_task(_copy(agent, there)), asyncio.create_task(_copy(there, agent))}
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def close(self) -> None:
        """See Channel."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _open(connecting: Any, who: str) -> AsyncIterator[ClientConnection]:
    try:
        socket: ClientConnection = await connecting
    except (OSError, InvalidHandshake, InvalidURI, TimeoutError, ConnectionClosed) as error:
        raise HostError(424, "RuntimeClientError", f"{who} does not answer: {type(error).__name__}.") from error
    try:
        yield socket
    finally:
        await socket.close()


async def _copy(source: ClientConnection, target: ClientConnection) -> None:
    """Carry messages unchanged, and in the end the close code; `send` waits while the other side does not read."""
    try:
        async for message in source:
            await target.send(message)
    except ConnectionClosed:
        pass
    code, reason = source.close_code, source.close_reason
    await target.close(code if code is not None and code not in (1005, 1006, 1015) else 1000, reason or "")
