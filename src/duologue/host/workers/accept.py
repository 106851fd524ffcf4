"""Accepting on an inherited Unix socket whose path the process itself cannot reach, which `create_unix_server` would look up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

logger = logging.getLogger("duologue.host.workers")


class Acceptor:
    """Makes a protocol for each connection until it is closed.

    Args:
        listener: listening; closed with the acceptor.
        protocol: makes one for each connection.
        of: the version that is served, tenant first; for the log.
    """

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], *, of: str) -> None:
        self._listener: socket.socket | None = listener
        self._protocol = protocol
        self._of = of
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more; connections go on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener.fileno())
            listener.close()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors: those who wait are served when some are free again
            logger.warning("a worker of %s cannot accept: %s", self._of, error.strerror)
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(0.1, self._listen_again)
            return
        task = asyncio.ensure_future(self._begin(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _listen_again(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    async def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(self._protocol, connection)
