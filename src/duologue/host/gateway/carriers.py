"""What carries a client's WebSocket: a stream of a link to a Duologue worker, or a real WebSocket to a foreign app.

A carrier is made and connected before the client is answered, so that a refusal is plain HTTP; `attach` joins the two.
"""

from __future__ import annotations

import asyncio
import socket as sockets
from collections import deque
from collections.abc import Callable
from typing import Any

from picows import WSFrame, WSHandshakeError, WSMsgType, WSTransport
from picows.picows import WSAutoPingStrategy, WSProtocol  # type: ignore[attr-defined]

from ...wire.hostlink import LinkError, Open, Refreshed
from ..types import HostError
from .limits import GatewayLimits
from .links import WorkerLink
from .sockets import _KINDS, _OVER, ClientSocket, Kind, Pipe, close_payload, quiet, too_big

#: a Duologue client resumes after it; the codes of protocol v1 begin at 4000
WORKER_LOST = 1012


class LinkCarrier:
    """A stream of a link.

    Args:
        refresh: verifies a newer token of the client; returns what the worker is told.
    """

    def __init__(self, link: WorkerLink, limits: GatewayLimits, refresh: Callable[[LinkCarrier, str], None]) -> None:
        self._link = link
        self._limits = limits
        self._refresh = refresh
        self._stream = 0
        self._socket: ClientSocket | None = None
        self._answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pieces: list[bytes] = []
        self._size = 0
        self._text = False
        self._early: list[tuple[bytes, bool, int]] = []  # came before the client was answered
        self._end: bytes | None = None  # the close frame that came then
        self._unread = 0  # cost of what waits in the client's write buffer

    async def connect(self, request: Open) -> str:
        """Have the worker take it; the chosen subprotocol. Raises HostError."""
        self._stream = self._link.open(request, self)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.gone()
            raise

    def attach(self, socket: ClientSocket) -> None:
        """The client was answered."""
        self._socket = socket
        early, self._early = self._early, []
        for message in early:
            self.message(*message)
        if self._end is not None:
            socket.finish_with(self._end)

    # ------------------------------------------------------------------ from the client

    def frame(self, kind: Kind, final: bool, data: bytes) -> bool:
        """See Carrier. Frames of a message are put together: a link carries messages."""
        if kind is not Kind.CONTINUATION:
            self._text = kind is Kind.TEXT
            if final:
                return self._send(data)
        self._size += len(data)
        if self._size > self._limits.message_bytes:
            assert self._socket is not None
            self._socket.refuse(1009, f"A message is longer than {self._limits.message_bytes} bytes.")
            return True
        self._pieces.append(data)
        if not final:
            return True
        data, self._pieces, self._size = b"".join(self._pieces), [], 0
        return self._send(data)

    def _send(self, data: bytes) -> bool:
        try:
            return self._link.send(self._stream, data, text=self._text)
        except LinkError:
            assert self._socket is not None
            self._socket.refuse(1013, "The agent does not keep up.")
            return True

    def closing(self, payload: bytes) -> None:
        """See Carrier."""
        code = int.from_bytes(payload[:2]) if len(payload) >= 2 else 1005
        self._link.close(self._stream, code, payload[2:].decode("utf-8", "replace"))

    def gone(self) -> None:
        """See Carrier."""
        self._link.abort(self._stream)

    def drained(self) -> None:
        """See Carrier."""
        if self._unread:
            unread, self._unread = self._unread, 0
            self._link.consumed(self._stream, unread)

    # ------------------------------------------------------------------ from the worker (links.Taker)

    def accepted(self, subprotocol: str) -> None:
        """See Taker."""
        if not self._answer.done():
            self._answer.set_result(subprotocol)

    def rejected(self, error: HostError) -> None:
        """See Taker."""
        if not self._answer.done():
            self._answer.set_exception(error)

    def message(self, data: bytes, text: bool, cost: int) -> None:
        """See Taker. What the client does not read is not given back, so that the worker stops."""
        if self._socket is None:
            self._early.append((data, text, cost))
            return
        if len(data) > self._limits.frame_bytes:
            free = self._fragments(self._socket, data, text)
        else:
            free = self._socket.send(Kind.TEXT if text else Kind.BINARY, data)
        if free:
            self._link.consumed(self._stream, cost)
        else:
            self._unread += cost

    def _fragments(self, socket: ClientSocket, data: bytes, text: bool) -> bool:
        """A long message in frames within the limit."""
        step, kind, free = self._limits.frame_bytes, Kind.TEXT if text else Kind.BINARY, True
        for at in range(0, len(data), step):
            free = socket.send(kind, data[at : at + step], final=at + step >= len(data))
            kind = Kind.CONTINUATION
        return free

    def writable(self) -> None:
        """See Taker."""
        if self._socket is not None:
            self._socket.resume()

    def closed(self, code: int, reason: str) -> None:
        """See Taker."""
        payload = close_payload(code, reason)
        if not self._answer.done():
            self._answer.set_exception(_refused(424, "The agent closed the connection before it was open."))
        elif self._socket is not None:
            self._socket.finish_with(payload)
        else:
            self._end = payload

    def lost(self) -> None:
        """See Taker."""
        reason = "The agent's worker ended."
        if not self._answer.done():
            self._answer.set_exception(_refused(424, reason))
        elif self._socket is not None:
            self._socket.finish(WORKER_LOST, reason)
        else:
            self._end = close_payload(WORKER_LOST, reason)

    def refresh(self, token: str) -> None:
        """See Taker."""
        self._refresh(self, token)

    def refreshed(self, answer: Refreshed) -> None:
        """The token was verified."""
        self._link.link.refreshed(self._stream, answer)
        self._link.flush()


class ForeignCarrier(Pipe):
    """A WebSocket to a foreign app: frames pass as they are, each way."""

    def __init__(self, limits: GatewayLimits) -> None:
        super().__init__()
        self._limits = limits
        self._socket: ClientSocket | None = None
        self._early: deque[tuple[Kind, bool, bytes]] = deque()
        self._end: bytes | None = None
        self._broken = False  # it ended without a close frame before the client was answered

    async def connect(
        self, path: str, target: str, headers: list[tuple[str, str]], subprotocols: tuple[str, ...], timeout: float
    ) -> str:
        """Open it at an application's Unix socket; the chosen subprotocol. Raises HostError 403, 424, 503."""
        loop = asyncio.get_running_loop()
        extra = [(name, value) for name, value in headers if name != "accept"]
        if subprotocols:
            extra.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
        protocol: Any = _UnixProtocol(
            "localhost", target, True, lambda: self, quiet, True, timeout, False, 10.0, 10.0,
            WSAutoPingStrategy.PING_WHEN_IDLE, True, self._limits.frame_bytes + _OVER, extra, 4096,
        )  # fmt: skip
        try:
            transport, _ = await loop.create_unix_connection(lambda: protocol, path)
        except OSError:
            raise HostError(
                503, "ServiceUnavailableException", "The agent cannot be reached.", headers=(("Retry-After", "1"),)
            ) from None
        try:
            await protocol.wait_until_handshake_complete()
        except WSHandshakeError as error:
            status = int(error.response.status) if error.response is not None else 502
            if status == 403:
                raise _refused(status, "The agent refused the connection.") from None
            raise _refused(424, f"Received error ({status}) from runtime.") from None
        except (TimeoutError, OSError):
            raise _refused(424, "The agent did not answer the upgrade.") from None
        except asyncio.CancelledError:
            transport.abort()
            raise
        if self.transport is None or self._broken:
            raise _refused(424, "The agent closed the connection before it was open.")
        chosen = str(self.transport.response.headers.get("sec-websocket-protocol", ""))
        if chosen and chosen not in subprotocols:
            transport.abort()
            raise _refused(424, "The agent chose a subprotocol that was not offered.")
        return chosen

    def attach(self, socket: ClientSocket) -> None:
        """The client was answered."""
        self._socket = socket
        while self._early:
            kind, final, data = self._early.popleft()
            socket.send(kind, data, final=final)
        if self._end is not None:
            socket.finish_with(self._end)
        else:
            self.resume_reading()

    # ------------------------------------------------------------------ from the client

    def frame(self, kind: Kind, final: bool, data: bytes) -> bool:
        """See Carrier."""
        return self.send(kind, data, final=final)

    def closing(self, payload: bytes) -> None:
        """See Carrier."""
        self.shut(payload)

    def gone(self) -> None:
        """See Carrier."""
        self._socket = None
        self._abort()

    def drained(self) -> None:
        """See Carrier."""
        self.resume_reading()

    # ------------------------------------------------------------------ from the app

    def on_ws_connected(self, transport: WSTransport) -> None:
        """See WSListener."""
        super().on_ws_connected(transport)
        high = self._limits.unsent_bytes
        transport.underlying_transport.set_write_buffer_limits(high=high, low=high // 4)
        self.pause_reading()  # until the client was answered

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """See WSListener."""
        kind = _KINDS.get(frame.msg_type)
        if kind is None:
            if frame.msg_type == WSMsgType.CLOSE:
                payload = frame.get_payload_as_bytes()
                self._over(payload)
                self.shut(payload[:2])
                self.hang_up()
        elif frame.payload_size > self._limits.frame_bytes:
            self._over(close_payload(1009, too_big(self._limits)))
            self.shut(close_payload(1009, too_big(self._limits)))
        elif self._socket is None:
            self._early.append((kind, bool(frame.fin), frame.get_payload_as_bytes()))
        elif not self._socket.send(kind, frame.get_payload_as_bytes(), final=bool(frame.fin)):
            self.pause_reading()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """See WSListener."""
        self.ended()
        self._broken = self._end is None
        self._over(close_payload(1011, "The agent's connection ended."))

    def _over(self, payload: bytes) -> None:
        """The app ended it."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.finish_with(payload)
        elif self._end is None:
            self._end = payload

    def resume_writing(self) -> None:
        """See WSListener."""
        self.full = False
        if self._socket is not None:
            self._socket.resume()

    def pause_writing(self) -> None:
        """See WSListener."""
        self.full = True


class _UnixSocket:
    """A Unix socket without the options of TCP that picows sets on each."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def setsockopt(self, *args: Any) -> None:
        if args[0] != sockets.IPPROTO_TCP:
            self._socket.setsockopt(*args)

    def getsockopt(self, level: int, option: int) -> int:
        return 0 if level == sockets.IPPROTO_TCP else int(self._socket.getsockopt(level, option))


class _UnixTransport:
    """A transport that shows :class:`_UnixSocket`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        value = self._transport.get_extra_info(name, default)
        return _UnixSocket(value) if name == "socket" else value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _UnixProtocol(WSProtocol):  # type: ignore[misc]
    """picows' client over a Unix socket."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(_UnixTransport(transport))


def _refused(status: int, message: str) -> HostError:
    return HostError(status, "AccessDeniedException" if status == 403 else "RuntimeClientError", message)
