"""One gateway process's listener, and everything that hangs on it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import socket
import ssl
from collections.abc import Coroutine
from typing import Any, Self

from uvicorn.server import ServerState

from ...errors import ConfigurationError
from ..types import Authority, Placement
from .admission import Admission
from .budget import Addresses, Admitted, Spool
from .connection import Connection
from .counters import Counters
from .handover import config
from .limits import GatewayLimits, GatewayOptions
from .links import READ_AHEAD, Links
from .proxy_http import HttpProxy
from .proxy_ws import Sockets

logger = logging.getLogger("duologue.host")
#: how long a client may take for the TLS handshake, and for closing it
_TLS_S = 5.0
#: pause after an accept that failed for want of descriptors
_SHORT_S = 0.1


class Gateway:
    """The public listener. An async context manager: it listens while it is entered.

    Args:
        authority: authentication and authorisation.
        placement: control's face towards gateways.
        options: where to listen.
        limits: what clients may do; `GatewayLimits.strict()` are the managed service's.
        tls: the server's context; None listens in the clear (behind a proxy, on loopback).
        sockets: listening sockets to use instead of making one, for a parent that binds before it drops privileges.

    Raises ConfigurationError when entered, if the address cannot be bound.
    """

    def __init__(
        self,
        authority: Authority,
        placement: Placement,
        *,
        options: GatewayOptions | None = None,
        limits: GatewayLimits | None = None,
        tls: ssl.SSLContext | None = None,
        sockets: tuple[socket.socket, ...] = (),
    ) -> None:
        self.options = options or GatewayOptions()
        self.limits = limits or GatewayLimits()
        self.id = self.options.id or f"gateway-{secrets.token_hex(4)}"
        self.counters = Counters()
        self.addresses = Addresses(self.limits)
        self.connections: set[Connection] = set()
        self.draining = False
        self._tls = tls
        self._given = sockets
        self._listening: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._last: set[asyncio.Task[Any]] = set()
        self._trusted = _networks(self.options.trusted_proxies)
        self.admission = Admission(authority, placement, Admitted(self.limits))
        self.links = Links(peer=self.id, limits=self.limits, counters=self.counters)
        self.sockets = Sockets(self)
        self.http_state = ServerState()
        self.http_config = config(HttpProxy(self.admission, self.limits, Spool(self.limits), self.counters, self.spawn))

    # ------------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        self._listening = list(self._given) or [self._bind()]
        for listening in self._listening:
            listening.setblocking(False)
            self._accepting.append(asyncio.create_task(self._accept(listening)))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.drain(0.0 if exc[0] is not None else self.options.drain_s)

    @property
    def addresses_bound(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each listening socket."""
        return tuple(listening.getsockname()[:2] for listening in self._listening)

    @property
    def port(self) -> int:
        """Of the first listening socket."""
        return self.addresses_bound[0][1]

    async def drain(self, grace_s: float) -> None:
        """Accept no more, let requests end within `grace_s`, close sockets with 1001 (their clients come back elsewhere)."""
        self.draining = True
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._accepting.clear()
        for listening in self._listening:
            listening.close()
        await self.sockets.close(1001, "The host is going away.")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self.http_state.tasks:
                    await asyncio.wait(set(self.http_state.tasks))
        for connection in list(self.connections):
            connection.shut()
        for protocol in list(self.http_state.connections):
            if (transport := protocol.transport) is not None:
                transport.abort()
        tasks = [*self._tasks, *self.http_state.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._last, return_exceptions=True)
        await self.links.close()

    def spawn[T](self, work: Coroutine[Any, Any, T], *, of: str = "", finish: bool = False) -> asyncio.Task[T]:
        """A task whose failure is logged; at the end it is cancelled, or waited for if it is to `finish`.

        `of`: the session that it is for, tenant first; "" where it is for none.
        """
        task = asyncio.ensure_future(work)
        (self._last if finish else self._tasks).add(task)
        task.add_done_callback(lambda done: self._done(done, of))
        return task

    def _done(self, task: asyncio.Task[Any], of: str) -> None:
        self._tasks.discard(task)
        self._last.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task for %s failed", of or "the gateway itself", exc_info=error)

    # ------------------------------------------------------------------ accepting

    def _bind(self) -> socket.socket:
        options = self.options
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if options.reuse_port:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind((options.host, options.port))
            listening.listen(options.backlog)
        except OSError as error:
            listening.close()
            raise ConfigurationError(
                f"The gateway cannot listen on {options.host} port {options.port}: {error.strerror}."
            ) from error
        return listening

    async def _accept(self, listening: socket.socket) -> None:
        """Accept ourselves: connections count from the first packet, not from the end of their TLS handshake."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listening)
            except OSError as error:
                self.counters.add("dropped.accept")
                logger.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(_SHORT_S)
                continue
            address = peer[0] if isinstance(peer, tuple) else ""
            refused = self.addresses.enter(address)
            if refused:
                self.counters.add(f"dropped.{refused}")
                accepted.close()
                continue
            self.counters.add("accepted")
            self.spawn(self._connect(accepted, address))

    async def _connect(self, accepted: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        made: list[Connection] = []

        def protocol() -> Connection:
            made.append(Connection(self, address, self._tls is not None))
            return made[0]

        timeout = _TLS_S if self._tls is not None else None
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_AHEAD // 2)  # the kernel doubles it
            await loop.connect_accepted_socket(
                protocol, accepted, ssl=self._tls, ssl_handshake_timeout=timeout, ssl_shutdown_timeout=timeout
            )
        except (OSError, TimeoutError) as error:
            self.counters.add("dropped.tls" if self._tls is not None else "dropped.early")
            logger.debug("a connection ended before its first request: %s", type(error).__name__)
            accepted.close()
            if made:
                made[0].end()
            else:
                self.addresses.leave(address)

    def trusts(self, address: str) -> bool:
        """Whether forwarded headers of this peer are believed."""
        if not self._trusted:
            return False
        try:
            peer = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(peer in network for network in self._trusted)


def _networks(texts: tuple[str, ...]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    try:
        return [ipaddress.ip_network(text, strict=False) for text in texts]
    except ValueError as error:
        raise ConfigurationError(f"A trusted proxy is an address or a network: {error}.") from None
