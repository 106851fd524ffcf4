"""The worker's end of links: streams become sockets, and go to the code that serves `/ws` and the providers' protocols."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket as sockets
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any, cast
from urllib.parse import parse_qsl

from ...channels.link import End, SocketClosedError
from ...errors import CredentialsError
from ...serve.app import Server, serve_socket
from ...serve.openai_realtime import PRESET
from ...serve.sessions import SESSION_HEADER
from ...wire.hostlink import (
    Closed,
    LinkError,
    LinkServer,
    Message,
    Open,
    Opened,
    RefreshAnswered,
    Refreshed,
)
from ..gather import Gather
from ..types import SCHEMA
from .accept import Acceptor

logger = logging.getLogger("duologue.host.workers")

#: a link that failed has this long to take what was written last, seconds
_FAREWELL_S = 2.0


class Refusal(Exception):
    """A stream is not taken: HTTP status and body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class StreamSocket:
    """A stream of a link as the channels' socket: it calls where it is attached (duologue.channels.link.DirectSocket)."""

    def __init__(self, link: _Connection, stream: int, request: Open) -> None:
        self.request = request
        self._link = link
        self.id = stream
        self._inbox: deque[Message] = deque()
        self._code: int | None = None
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._refreshed: asyncio.Future[Refreshed] | None = None
        self._end: End | None = None
        #: what serves it, once it is taken
        self.service: asyncio.Task[None] | None = None

    async def receive(self) -> str | bytes:
        """See Socket."""
        while not self._inbox:
            if self._code is not None:
                raise SocketClosedError(self._code)
            self._arrived.clear()
            await self._arrived.wait()
        message = self._inbox.popleft()
        self._link.consumed(self.id, message.cost)
        try:
            return message.value
        except LinkError:
            await self.close(1007, "text that is not UTF-8")
            raise SocketClosedError(1007) from None

    async def send(self, message: str | bytes) -> None:
        """See Socket."""
        if self._code is not None:
            raise SocketClosedError(self._code)
        try:
            takes = self._link.send(self.id, message)
            while not takes:
                self._room.clear()
                self._link.wait(self)
                await self._room.wait()
                if self._code is not None:
                    raise SocketClosedError(self._code)
                takes = self._link.takes(self.id)
        except LinkError as error:
            raise SocketClosedError from error

    def attach(self, end: End) -> None:
        """See DirectSocket."""
        self._end = end
        while self._inbox:
            self.take(self._inbox.popleft())
        if self._code is not None:
            end.gone(self._code)

    def detach(self) -> None:
        """See DirectSocket."""
        self._end = None

    def ready(self) -> None:
        """See DirectSocket."""
        if self._end is not None:
            self._link.ready(self)

    def post(self, message: str | bytes) -> bool:
        """See DirectSocket."""
        if self._code is not None:
            raise SocketClosedError(self._code)
        try:
            if self._link.send(self.id, message):
                return True
        except LinkError as error:
            raise SocketClosedError from error
        self._link.wait(self)
        return False

    async def close(self, code: int, reason: str = "") -> None:
        """See Socket."""
        self._shut(code, reason)

    async def refresh(self, token: str) -> float | None:
        """Have the gateway verify a newer token of the client: seconds it lasts. Raises CredentialsError."""
        if self._refreshed is not None or self._code is not None:
            raise CredentialsError("A token is being verified already.")
        self._refreshed = asyncio.get_running_loop().create_future()
        try:
            self._link.refresh(self.id, token)
            answer = await self._refreshed
        except LinkError as error:
            raise CredentialsError("The token could not be verified.", hint="Reconnect with it.") from error
        finally:
            self._refreshed = None
        if answer.error:
            raise CredentialsError(answer.message or "The token was refused.")
        return None if answer.expires is None else max(0.0, answer.expires - time.time())

    # --- called by the link

    def take(self, message: Message) -> None:
        """A message arrived."""
        if (end := self._end) is None:
            self._inbox.append(message)
            self._arrived.set()
            return
        self._link.consumed(self.id, message.cost)
        try:
            end.take(message.value if message.text else message.data)
        except LinkError:
            self._shut(1007, "text that is not UTF-8")

    def fill(self) -> None:
        """The link is about to write."""
        try:
            if self._end is not None:
                self._end.fill()
        except Exception:
            self._link.report(self.request.session)
            self._shut(1011, "internal error")

    def lost(self, code: int) -> None:
        """It is closed."""
        if self._code is None:
            self._code = code
        if self._refreshed is not None and not self._refreshed.done():
            self._refreshed.set_exception(LinkError("The stream is closed.", code="link.state"))
        self._wake(code)

    def room(self) -> None:
        """The link may take more."""
        self._room.set()
        self.ready()

    def answered(self, answer: Refreshed) -> None:
        """A token was verified."""
        if self._refreshed is not None and not self._refreshed.done():
            self._refreshed.set_result(answer)

    def _shut(self, code: int, reason: str) -> None:
        if self._code is None:
            self._code = code
            self._link.close(self.id, code, reason)
            self._wake(code)

    def _wake(self, code: int) -> None:
        self._arrived.set()
        self._room.set()
        if self._end is not None:
            self._end.gone(code)


class LinkListener:
    """Takes links on a listening socket.

    Args:
        worker: names this worker in its hello.
        admit: raises Refusal for a stream that may not be served.
        of: the version that is served, tenant first; for the log.
    """

    def __init__(self, worker: str, server: Server, app: Any, admit: Callable[[Open], None], *, of: str) -> None:
        self.worker = worker
        self.of = of
        self.server = server
        self.app = app
        self.admit = admit
        self.tasks: set[asyncio.Task[None]] = set()
        #: links that failed, by a LinkError's code
        self.failed: Counter[str] = Counter()
        self._links: set[_Connection] = set()
        self._acceptor: Acceptor | None = None

    @property
    def busy(self) -> bool:
        """Whether a stream is open."""
        return bool(self.tasks)

    def serves(self, session: str) -> bool:
        """Whether a stream of that session is open."""
        return any(link.serves(session) for link in self._links)

    def start(self, listener: sockets.socket) -> None:
        """Serve."""
        self._acceptor = Acceptor(listener, lambda: _Connection(self, self._links), of=self.of)

    def go_away(self, reason: str, in_s: float) -> None:
        """Tell all gateways that no new streams are wanted."""
        for link in self._links:
            link.go_away(reason, in_s)

    async def stop(self, patience_s: float) -> None:
        """Close: streams get `patience_s` to end, then 1001."""
        if self._acceptor is not None:
            self._acceptor.close()
        if self.tasks:
            await asyncio.wait(set(self.tasks), timeout=patience_s)
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(set(self.tasks), timeout=1.0)
        for link in list(self._links):
            link.shut()

    async def end(self, session: str, patience_s: float) -> None:
        """Close the streams of one session, with 1001 where their service goes on."""
        if tasks := {task for link in self._links for task in link.services(session)}:
            await asyncio.wait(tasks, timeout=patience_s)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1.0)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run the service of a stream."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


class _Connection(asyncio.Protocol):
    """One link."""

    def __init__(self, listener: LinkListener, links: set[_Connection]) -> None:
        self._listener = listener
        self._links = links
        self._loop = asyncio.get_running_loop()
        self._link = LinkServer(peer=listener.worker, schema=SCHEMA, now=self._loop.time())
        self._streams: dict[int, StreamSocket] = {}
        self._full: set[StreamSocket] = set()  # those that wait until more may be sent
        self._ready: dict[StreamSocket, None] = {}  # those that have something to send
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._gather = Gather(self._loop, self._flush)
        self._timer: asyncio.TimerHandle | None = None

    # --- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._links.add(self)
        self._tick()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._links.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        for stream in list(self._streams.values()):
            stream.lost(1006)
        self._streams.clear()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable = False

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable = True
        self._flush()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        try:
            for event in self._link.receive(data, self._loop.time()):
                if isinstance(event, Message):
                    if (entry := self._streams.get(event.stream)) is not None:
                        entry.take(event)
                elif isinstance(event, Opened):
                    self._opened(event)
                elif isinstance(event, Closed):
                    if (entry := self._streams.pop(event.stream, None)) is not None:
                        entry.lost(event.code)
                elif isinstance(event, RefreshAnswered) and (entry := self._streams.get(event.stream)) is not None:
                    entry.answered(event.refreshed)
        except LinkError as error:
            self._fail(error)
            return
        self._later()

    # --- streams

    def _opened(self, event: Opened) -> None:
        request = event.open
        try:
            self._listener.admit(request)
        except Refusal as refusal:
            self._link.reject(event.stream, refusal.status, str(refusal))
            return
        stream = self._streams[event.stream] = StreamSocket(self, event.stream, request)
        if request.kind == "ws":
            self._link.accept(event.stream)
            stream.service = self._listener.spawn(self._serve(event.stream, stream))
        else:
            stream.service = self._listener.spawn(self._serve_app(event.stream, stream))

    async def _serve(self, id: int, stream: StreamSocket) -> None:
        request = stream.request
        headers = dict(request.headers)
        headers[SESSION_HEADER] = request.session
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        try:
            await serve_socket(self._listener.server, stream, headers, query, refresh=stream.refresh)
            await stream.close(1000)
        except asyncio.CancelledError:
            await stream.close(1001, "going away")
        except Exception:
            self.report(request.session)
            await stream.close(1011, "internal error")
        finally:
            self._streams.pop(id, None)

    async def _serve_app(self, id: int, stream: StreamSocket) -> None:
        """A provider's protocol: the application's own WebSocket route, over ASGI."""
        conversation = _Asgi(self, id, stream)
        try:
            await self._listener.app(conversation.scope, conversation.receive, conversation.send)
            await conversation.finish(1000, "")
        except asyncio.CancelledError:
            await conversation.finish(1001, "going away")
        except Exception:
            self.report(stream.request.session)
            await conversation.finish(1011, "internal error")
        finally:
            self._streams.pop(id, None)

    def serves(self, session: str) -> bool:
        """Whether a stream of that session is open."""
        return any(stream.request.session == session for stream in self._streams.values())

    def services(self, session: str) -> list[asyncio.Task[None]]:
        """What serves the streams of that session."""
        streams = (stream for stream in self._streams.values() if stream.request.session == session)
        return [stream.service for stream in streams if stream.service is not None]

    def accept(self, stream: int, subprotocol: str) -> None:
        """The application takes a stream."""
        with contextlib.suppress(LinkError):  # it may be over already
            self._link.accept(stream, subprotocol)
        self._flush()

    def reject(self, stream: int, status: int, body: str) -> None:
        """The application refuses a stream."""
        with contextlib.suppress(LinkError):
            self._link.reject(stream, status if 400 <= status <= 599 else 403, body)
        self._later()

    def send(self, stream: int, message: str | bytes) -> bool:
        """Send; whether more may follow at once. Raises LinkError."""
        takes = self._link.send(stream, message)
        self._later()
        return takes

    def ready(self, stream: StreamSocket) -> None:
        """Have `stream.fill` called before the link writes next."""
        self._ready[stream] = None
        self._later()

    def wait(self, stream: StreamSocket) -> None:
        """Have `stream.room` called when more may be sent."""
        self._full.add(stream)

    def takes(self, stream: int) -> bool:
        """Whether more may follow."""
        return self._link.takes(stream)

    def consumed(self, stream: int, cost: int) -> None:
        """A message was dealt with."""
        if self._link.consumed(stream, cost):
            self._later()

    def close(self, stream: int, code: int, reason: str) -> None:
        """Close a stream."""
        self._link.close(stream, code, reason)
        self._later()

    def refresh(self, stream: int, token: str) -> None:
        """Ask the gateway about a token. Raises LinkError."""
        self._link.refresh(stream, token)
        self._later()

    def report(self, session: str) -> None:
        """Log the error under way, of one of the session's streams."""
        logger.exception("a stream of session %s of %s fails", session, self._listener.of)

    # --- the link

    def go_away(self, reason: str, in_s: float) -> None:
        """No new streams."""
        self._link.go_away(reason, in_s)
        self._flush()

    def shut(self) -> None:
        """Close the connection, with what is still to be written."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _later(self) -> None:
        """Flush once after all that happens now."""
        self._gather.soon(len(self._streams))

    def _flush(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._ready and self._writable:
            ready, self._ready = self._ready, {}
            for stream in ready:
                stream.fill()
        while self._writable and (data := self._link.data_to_send()):
            transport.write(data)
        for stream in [stream for stream in self._full if self._link.takes(stream.id)]:
            self._full.discard(stream)
            stream.room()

    def _tick(self) -> None:
        try:
            self._link.tick(self._loop.time())
        except LinkError as error:
            self._fail(error)
            return
        self._flush()
        self._timer = self._loop.call_at(max(self._link.deadline(), self._loop.time() + 0.01), self._tick)

    def _fail(self, error: LinkError) -> None:
        failed = self._listener.failed
        failed[error.code] += 1
        said = self._listener.of, error.code, failed[error.code], error
        logger.warning("a gateway's link to a worker of %s fails: %s (%d times): %s", *said)
        if self._transport is None:
            return
        if self._writable:
            self._flush()
            self._transport.close()
            self._loop.call_later(_FAREWELL_S, self._transport.abort)  # whatever is unread by then
        else:
            self._transport.abort()  # a peer that does not read would hold it, and its streams, open


class _Asgi:
    """A stream as an ASGI WebSocket connection."""

    def __init__(self, link: _Connection, id: int, stream: StreamSocket) -> None:
        self._link = link
        self._id = id
        self._stream = stream
        self._connected = self._accepted = self._over = False
        self._status = 403
        self._body = b""
        request = stream.request
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers]
        headers.append((SESSION_HEADER.encode(), request.session.encode()))
        if not any(name == b"host" for name, _ in headers):
            headers.append((b"host", b"worker"))
        self.scope: dict[str, Any] = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": request.path,
            "raw_path": request.path.encode(),
            "root_path": "",
            "query_string": request.query.encode(),
            "headers": headers,
            "client": None,
            "server": None,
            "subprotocols": list(request.subprotocols),
            "state": {},
            "extensions": {"websocket.http.response": {}, **({PRESET: request.preset} if request.preset else {})},
        }

    async def receive(self) -> dict[str, Any]:
        """See ASGI."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        try:
            message = await self._stream.receive()
        except SocketClosedError as closed:
            self._over = True
            return {"type": "websocket.disconnect", "code": closed.code, "reason": ""}
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def send(self, message: dict[str, Any]) -> None:
        """See ASGI. Raises OSError when the client is gone."""
        kind = message["type"]
        if kind == "websocket.accept":
            self._accepted = True
            self._link.accept(self._id, message.get("subprotocol") or "")
        elif kind == "websocket.send":
            data = message.get("bytes")
            try:
                await self._stream.send(data if data is not None else message.get("text") or "")
            except SocketClosedError as closed:
                raise OSError("the stream is closed") from closed
        elif kind == "websocket.close":
            await self.finish(message.get("code") or 1000, message.get("reason") or "")
        elif kind == "websocket.http.response.start":
            self._status = message["status"]
        elif kind == "websocket.http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self.finish(1000, "")

    async def finish(self, code: int, reason: str) -> None:
        """The end, if it has not come."""
        if self._over:
            return
        self._over = True
        if self._accepted:
            await self._stream.close(code, reason)
        else:
            self._link.reject(self._id, self._status, self._body.decode("utf-8", "replace"))
