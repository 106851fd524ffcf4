"""uvicorn's HTTP protocol for one request of a connection whose head the gateway has read.

The head is replayed to it without what asks for upgrades. When request and answer are complete, the connection goes back
to the gateway's reader, so that the next request on it is authenticated like the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ..types import RequestHead
from .head import body_length, keeps

#: of a next request that is held until this one is answered
_SURPLUS = 64 << 10
#: how long the rest of a body is read that was refused before its end, so that the client sees the answer
_LINGER_S = 2.0
_DROPPED = frozenset({"connection", "keep-alive", "upgrade", "http2-settings", "proxy-connection", "te", "trailer"})


def config(app: Any) -> uvicorn.Config:
    """uvicorn's, for HTTP alone: it neither listens nor logs requests."""
    made = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
    )
    made.load()
    return made


class OneRequest(HttpToolsProtocol):
    """Serves one request.

    Args:
        again: takes the connection back, with what came after the request.
        lost: told that the connection is gone.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        head: RequestHead,
        visit: Any,
        *,
        again: Callable[[bytes], None],
        lost: Callable[[], None],
    ) -> None:
        super().__init__(config, state, {"visit": visit, "cut": self._cut})
        self._head = head
        self._left = body_length(head)
        self._again = again
        self._lost = lost
        self._surplus = bytearray()
        self._begun = False
        self._read = False  # the request is complete
        self._answered = False
        self._over = False  # the connection is lost, or given back
        self._linger: asyncio.TimerHandle | None = None

    def begin(self, transport: asyncio.Transport, rest: bytes) -> None:
        """Take the connection over; `rest` came after the head."""
        transport.set_protocol(self)
        self.connection_made(transport)
        head = self._head
        lines = [f"{head.method} {head.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in head.headers if name not in _DROPPED]
        if not keeps(head):
            lines.append("connection: close")
        super().data_received("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if rest:
            self.data_received(rest)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._left is not None:
            data, surplus = data[: self._left], data[self._left :]
            self._left -= len(data)
            self._keep(surplus)
        elif self._read:
            data, surplus = b"", data
            self._keep(surplus)
        if data and not self._over:
            super().data_received(data)

    def _keep(self, surplus: bytes) -> None:
        self._surplus += surplus
        if len(self._surplus) > _SURPLUS:
            self.flow.pause_reading()

    def on_message_begin(self) -> None:
        """See httptools. A second request in the bytes of the first was never authenticated."""
        if self._begun:
            raise ValueError("one request at a time")
        self._begun = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """See httptools."""
        super().on_message_complete()
        self._read = True
        if self._answered:
            self._finish()

    def on_response_complete(self) -> None:
        """See HttpToolsProtocol."""
        super().on_response_complete()
        self._unset_keepalive_if_required()
        self._answered = True
        if self.transport.is_closing():
            return
        if self._read:
            self._finish()
        else:
            self._linger = self.loop.call_later(_LINGER_S, self.transport.close)

    def _finish(self) -> None:
        self.loop.call_soon(self._give_back)

    def _give_back(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
        if self.transport.is_closing() or self._over:
            return
        self.connections.discard(self)
        self.flow.resume_reading()
        self._over = True
        self._again(bytes(self._surplus))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._over = True
        super().connection_lost(exc)
        if self._linger is not None:
            self._linger.cancel()
        self._lost()

    def _cut(self) -> None:
        self.transport.abort()
