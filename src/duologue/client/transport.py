"""What a call runs over: a transport of whole messages, and the real one, a WebSocket."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.http11 import Response

from duologue.client.errors import CallRefusedError, ConnectError, LinkClosedError

#: longest message that is taken from a server
_MAX_BYTES = 16 << 20
#: bytes that may wait in the socket's buffer; little, so that control overtakes what is not sent yet
_WRITE_LIMIT = 16_384


class Transport(Protocol):
    """A link of whole messages, in order: `str` are text, `bytes` binary.

    Each method raises LinkClosedError when the link has ended.
    """

    async def send(self, frame: str | bytes) -> None:
        """Write a message; waits while too much is unsent."""

    async def recv(self) -> str | bytes:
        """The next message."""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the link; never raises, may be called twice."""


#: opens a transport to a URL with extra headers; raises ConnectError or CallRefusedError
type Connector = Callable[[str, Mapping[str, str]], Awaitable[Transport]]


class WebSocketTransport:
    """A WebSocket through the `websockets` package."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, frame: str | bytes) -> None:
        """See Transport."""
        try:
            await self._socket.send(frame)
        except ConnectionClosed as error:
            raise _closed(error) from error

    async def recv(self) -> str | bytes:
        """See Transport."""
        try:
            return await self._socket.recv()
        except ConnectionClosed as error:
            raise _closed(error) from error

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """See Transport."""
        await self._socket.close(code, reason.encode()[:120].decode(errors="ignore"))


async def websocket(url: str, headers: Mapping[str, str]) -> Transport:
    """Open a WebSocket. The protocol's own heartbeat takes the place of WebSocket pings."""
    shown = url.partition("?")[0]  # a query may hold a credential
    try:
        socket = await ws_connect(
            url,
            additional_headers=headers,
            compression=None,
            ping_interval=None,
            max_size=_MAX_BYTES,
            write_limit=_WRITE_LIMIT,
            open_timeout=None,
            close_timeout=1.0,
        )
    except InvalidStatus as error:
        status, said = error.response.status_code, _said(error.response)
        # 409: the session is just ending, or moving; 424: its agent has failed, and another process of it may not
        if status >= 500 or status in (409, 424, 429):
            raise ConnectError(f"{shown} answered {status}{said or '.'}", hint="Try again later.") from error
        raise CallRefusedError(
            f"{shown} answered {status}{said or ' instead of opening a WebSocket.'}",
            hint="" if said else "Check the path, the credential and the origin.",
            code="auth" if status in (401, 403) else "refused",
        ) from error
    except InvalidURI as error:
        raise ConnectError(f"{shown} is no WebSocket address.", hint="Use ws://host:port/ws or wss://…") from error
    except ssl.SSLCertVerificationError as error:
        raise ConnectError(
            f"The certificate of {shown} is not trusted: {error.verify_message}.",
            hint="Name the file of its authority in SSL_CERT_FILE (a host's own for development is tls/ca.pem in its data).",
        ) from error
    except (OSError, InvalidHandshake, ConnectionClosed, EOFError) as error:
        raise ConnectError(f"{shown} cannot be reached: {error}.", hint="Is the server running there?") from error
    return WebSocketTransport(socket)


class _Refusal(msgspec.Struct):
    """The two shapes of the managed service's errors: its own, and JSON-RPC's."""

    message: str = ""
    error: _Refusal | None = None


def _said(response: Response) -> str:
    """Why, in the server's words; "" if its answer has none."""
    try:
        refusal = msgspec.json.decode(response.body or b"", type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    message = refusal.message or (refusal.error.message if refusal.error is not None else "")
    message = "".join(c if c.isprintable() else " " for c in message[:500]).strip()
    return f": {message}" if message else ""


def _closed(error: ConnectionClosed) -> LinkClosedError:
    received = error.rcvd
    return LinkClosedError(received.code, received.reason) if received is not None else LinkClosedError(1006)
