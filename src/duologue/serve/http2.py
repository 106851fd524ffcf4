"""A small HTTP/2 server for ASGI applications whose requests and answers flow at the same time, for minutes.

It is here because of what a duplex stream asks for: an answer may end before the request does, and what the client still sends
then is dropped without harm to it or to the other streams of its connection; windows are given back as the application reads.
TLS with ALPN `h2` only. `h2` does the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

logger = logging.getLogger("duologue.serve.http2")

App = Callable[[Any, Any, Any], Awaitable[None]]

#: streams of one connection at a time
_STREAMS = 64
#: how long a client may go on sending once its answer is complete, and a connection be open without a stream (seconds)
_TRAILING_S = 5.0
_IDLE_S = 60.0
#: how long a client may take to answer a goodbye, seconds
_CLOSING_S = 0.5
#: what a client may send before the application has read it, bytes: of a stream, and of a connection
_WINDOW, _CONNECTION_WINDOW = 1 << 18, 1 << 20


class Http2Stream:
    """One request and its answer, as ASGI's `receive` and `send`."""

    def __init__(self, connection: Http2Connection, id: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.id = id
        self.task: asyncio.Task[None] | None = None
        self.window = asyncio.Event()
        self.reset = False
        self.request_over = False
        self.answer_over = False
        self.answer_begun = False
        self._connection = connection
        self._data: deque[tuple[bytes, int]] = deque()
        self._ready = asyncio.Event()
        pseudo = {name: value for name, value in headers if name.startswith(b":")}
        plain = [(name, value) for name, value in headers if not name.startswith(b":")]
        if b":authority" in pseudo and not any(name == b"host" for name, _ in plain):
            plain.append((b"host", pseudo[b":authority"]))
        path, _, query = pseudo.get(b":path", b"/").partition(b"?")
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "method": pseudo.get(b":method", b"").decode("latin-1"),
            "scheme": "https",
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": plain,
            "client": connection.peer,
            "extensions": {"duologue.reset": self.abort},
        }

    def feed(self, data: bytes, counted: int) -> None:
        """More of the request; `counted` bytes of window were used for it."""
        if self.answer_over:
            self._connection.give_back(self.id, counted)
            return
        self._data.append((data, counted))
        self._ready.set()

    def wake(self) -> None:
        """Something changed: let whoever waits look."""
        self._ready.set()
        self.window.set()

    async def receive(self) -> dict[str, Any]:
        """ASGI."""
        while True:
            if self.reset:
                return {"type": "http.disconnect"}
            if self._data:
                data, counted = self._data.popleft()
                self._connection.give_back(self.id, counted)
                more = bool(self._data) or not self.request_over
                return {"type": "http.request", "body": data, "more_body": more}
            if self.request_over:
                return {"type": "http.request", "body": b"", "more_body": False}
            self._ready.clear()
            await self._ready.wait()

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI. Raises OSError when the stream is gone."""
        try:
            await self._send(message)
        except (
            h2.exceptions.ProtocolError
        ) as error:  # the client has closed the connection, or the stream, at this moment
            self.reset = True
            raise ConnectionResetError("The stream is gone.") from error

    async def _send(self, message: dict[str, Any]) -> None:
        self._check()
        if message["type"] == "http.response.start":
            self.answer_begun = True
            headers = [(b":status", str(message["status"]).encode()), *message.get("headers", ())]
            self._connection.h2.send_headers(self.id, headers)
            self._connection.flush()
            return
        more = message.get("more_body", False)
        await self._send_data(message.get("body", b""))
        if not more:
            self._check()
            self.answer_over = True
            self._connection.h2.end_stream(self.id)
            self._connection.flush()

    async def _send_data(self, data: bytes) -> None:
        connection = self._connection
        view = memoryview(data)
        while view:
            self._check()
            self.window.clear()
            room = min(connection.h2.local_flow_control_window(self.id), connection.h2.max_outbound_frame_size)
            if room <= 0:
                await self.window.wait()
                continue
            connection.h2.send_data(self.id, bytes(view[:room]))
            connection.flush()
            view = view[room:]
            await connection.drained.wait()

    def _check(self) -> None:
        if self.reset or self.answer_over:
            raise ConnectionResetError("The stream is gone.")

    def abort(self) -> None:
        """Reset the stream, as a service that fails does."""
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._connection.h2.reset_stream(self.id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            self._connection.flush()
        self.reset = True
        self.wake()

    def drop(self) -> None:
        """What was not read is of no use any more: give its window back."""
        while self._data:
            self._connection.give_back(self.id, self._data.popleft()[1])


class Http2Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, app: App, server: Http2Server) -> None:
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None, logger=None)
        )
        self.peer: tuple[str, int] | None = None
        self.drained = asyncio.Event()
        self.drained.set()
        self._app = app
        self._server = server
        self._streams: dict[int, Http2Stream] = {}
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._idle: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.peer = transport.get_extra_info("peername")
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is None or ssl_object.selected_alpn_protocol() != "h2":
            transport.close()
            return
        self._server.connections.add(self)
        self.h2.initiate_connection()  # first: its own settings would take back what was set before
        self.h2.update_settings(
            {
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: _STREAMS,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW,
            }
        )
        self.h2.increment_flow_control_window(_CONNECTION_WINDOW)
        self.flush()
        self._watch_idle()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            logger.debug("a connection broke the protocol: %s", error)
            self.flush()  # says why
            self.close()
            return
        for event in events:
            self._handle(event)
        self.flush()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self.drained.clear()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self.drained.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._server.connections.discard(self)
        self._server.gone.set()
        if self._idle is not None:
            self._idle.cancel()
        self.drained.set()
        self._transport = None
        for stream in self._streams.values():
            stream.reset = True
            stream.wake()

    # ------------------------------------------------------------------ HTTP/2

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                self._begin(event)
            case h2.events.DataReceived():
                stream = self._streams.get(event.stream_id)
                counted = event.flow_controlled_length
                if stream is None:
                    self.give_back(event.stream_id, counted)
                else:
                    stream.feed(event.data, counted)
            case h2.events.StreamEnded():
                if (stream := self._streams.get(event.stream_id)) is not None:
                    stream.request_over = True
                    self._settle(stream)
            case h2.events.StreamReset():
                if (stream := self._streams.get(event.stream_id)) is not None:
                    stream.reset = True
                    self._settle(stream)
            case h2.events.WindowUpdated():
                for stream in self._streams.values():
                    if event.stream_id in (0, stream.id):
                        stream.window.set()
            case h2.events.RemoteSettingsChanged():
                for stream in self._streams.values():
                    stream.window.set()
            case h2.events.ConnectionTerminated():
                self.close()

    def _settle(self, stream: Http2Stream) -> None:
        """The client has ended its side, or reset the stream."""
        stream.wake()
        if stream.task is not None and stream.task.done():
            self._forget(stream)

    def _begin(self, event: h2.events.RequestReceived) -> None:
        stream = Http2Stream(self, event.stream_id, list(event.headers))
        self._streams[event.stream_id] = stream
        stream.task = self._loop.create_task(self._run(stream), name=f"http2 stream {stream.id}")
        self._server.tasks.add(stream.task)
        stream.task.add_done_callback(self._server.tasks.discard)

    async def _run(self, stream: Http2Stream) -> None:
        try:
            await self._app(stream.scope, stream.receive, stream.send)
        except OSError:
            logger.debug("a client left its stream")
        except Exception:
            logger.exception("a request failed")
        finally:
            self._end(stream)

    def _end(self, stream: Http2Stream) -> None:
        """The application is done with a stream. The client may finish what it sends: a reset could cost it its answer's end."""
        complete = stream.answer_over
        stream.answer_over = True
        stream.drop()
        if stream.reset or (complete and stream.request_over):
            self._forget(stream)
        elif complete:
            self._loop.call_later(_TRAILING_S, self._cut, stream, h2.errors.ErrorCodes.NO_ERROR)
        else:
            self._cut(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)

    def _cut(self, stream: Http2Stream, code: h2.errors.ErrorCodes) -> None:
        if self._streams.get(stream.id) is stream:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.h2.reset_stream(stream.id, code)
                self.flush()
            self._forget(stream)

    def _forget(self, stream: Http2Stream) -> None:
        self._streams.pop(stream.id, None)
        self._watch_idle()

    def give_back(self, stream: int, counted: int) -> None:
        """Data was read: the client may send as much again."""
        if counted:
            with contextlib.suppress(h2.exceptions.ProtocolError, ValueError):
                self.h2.acknowledge_received_data(counted, stream)
                self.flush()

    def flush(self) -> None:
        """Write what is to be written."""
        data = self.h2.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _watch_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self._loop.call_later(_IDLE_S, self._check_idle)

    def _check_idle(self) -> None:
        if not self._streams:
            self.close()

    def close(self) -> None:
        """Say goodbye and close."""
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.h2.close_connection()
            self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close without a goodbye."""
        if self._transport is not None:
            self._transport.abort()

    def reset_all(self) -> None:
        """Reset every stream, for tests of what clients do then."""
        for stream in self._streams.values():
            stream.abort()


class Http2Server:
    """Serves `app` on a socket: ``await server.start()``, later ``await server.close()``."""

    def __init__(self, app: App, listener: Any, context: ssl.SSLContext) -> None:
        self.connections: set[Http2Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.gone = asyncio.Event()  # set whenever a connection is lost
        self._app = app
        self._listener = listener
        context.set_alpn_protocols(["h2"])
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context = context
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Http2Connection(self._app, self), sock=self._listener, ssl=self._context
        )

    async def close(self, grace_s: float = 5.0) -> None:
        """Take no more, wait for what runs, and close. Bounded."""
        if self._server is not None:
            self._server.close()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=grace_s)
        for task in list(self.tasks):
            task.cancel()
        for connection in list(self.connections):
            connection.close()
        # A client that does not answer the end of TLS would keep its connection for half a minute.
        for abort in (False, True):
            for connection in list(self.connections) if abort else ():
                connection.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSING_S):
                    while self.connections:
                        self.gone.clear()
                        await self.gone.wait()
