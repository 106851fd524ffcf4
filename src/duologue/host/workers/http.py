"""The container contract over HTTP, on a listening socket that the worker was given."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from .accept import Acceptor

#: longest WebSocket message, bytes; the gateway has its own, smaller limits
_WS_MAX = 22 << 20


class HttpServer:
    """uvicorn's protocols without its main loop, which would wake an idle worker ten times a second.

    Args:
        app: the ASGI application.
        lifespan: whether it gets lifespan events (foreign apps do).
    """

    def __init__(self, app: Any, *, lifespan: bool) -> None:
        self._config = uvicorn.Config(
            app,
            ws="websockets-sansio",
            ws_max_size=_WS_MAX,
            ws_per_message_deflate=False,
            ws_ping_interval=None,
            access_log=False,
            log_config=None,
            log_level="warning",
            lifespan="auto" if lifespan else "off",
            server_header=False,
            date_header=False,  # the gateway writes it
        )
        self._config.load()
        self._state = ServerState()
        self._lifespan: Any = None
        self._acceptor: Acceptor | None = None

    @property
    def busy(self) -> bool:
        """Whether a request or WebSocket is being served."""
        return bool(self._state.tasks)

    async def start(self, listener: socket.socket, *, of: str) -> None:
        """Serve; `of`: the version that it is, tenant first, for the log. Raises RuntimeError if the application cannot start."""
        config = self._config
        self._lifespan = config.lifespan_class(config)
        await self._lifespan.startup()
        if self._lifespan.should_exit:
            raise RuntimeError("The application's startup fails; its log says why.")
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            make: Any = config.http_protocol_class
            made: asyncio.Protocol = make(
                config=config, server_state=self._state, app_state=self._lifespan.state, _loop=loop
            )
            return made

        self._acceptor = Acceptor(listener, protocol, of=of)

    async def stop(self, patience_s: float) -> None:
        """Take no more connections, give open requests `patience_s`, then tell the application to shut down."""
        if self._acceptor is not None:
            self._acceptor.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=patience_s)
        if self._lifespan is not None:
            await self._lifespan.shutdown()
