"""One WebSocket of protocol v1, driven from its first message to its end on behalf of the channel it belongs to."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ..errors import DuologueError, ProtocolError
from ..wire.duologue import ServerOptions, ServerProtocol, UserAudio
from .websocket import WebSocketChannel

logger = logging.getLogger("duologue.channels")

#: longest wait, once a link must end, for what is still to be written; and for a socket to close
_LAST_WORDS_S, _CLOSE_S = 2.0, 1.0
#: deadlines of a link are looked at no more and no less often than this: mostly one look finds an acknowledgement due, and none
#: is later than ACK_AFTER_S and the shorter of the two, the 250 ms of the protocol
_TICK_S, _LOOK_S = 0.05, 0.23
#: frames that are written before other calls have their turn
_TURN = 16


class SocketClosedError(Exception):
    """The socket is closed. `code` is its WebSocket close code."""

    def __init__(self, code: int = 1006) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Socket(Protocol):
    """What a link needs of a WebSocket, whichever library carries it."""

    async def receive(self) -> str | bytes:
        """The next message. Raises SocketClosedError."""

    async def send(self, message: str | bytes) -> None:
        """Send a message; waits while the client does not read. Raises SocketClosedError."""

    async def close(self, code: int, reason: str = "") -> None:
        """Close it. Never raises."""


class End(Protocol):
    """Whom a direct socket calls. None of it raises."""

    def take(self, message: str | bytes) -> None:
        """A message has arrived."""

    def gone(self, code: int) -> None:
        """The socket is closed: nothing more arrives, nothing more is written."""

    def fill(self) -> None:
        """Post what is ready, as far as there is room."""


@runtime_checkable
class DirectSocket(Socket, Protocol):
    """A socket that needs no tasks: it calls, and what is to be written is asked for when it is about to write.

    That costs half of what waking a task does for each frame of each call, and what is urgent overtakes to the last moment.
    """

    def attach(self, end: End) -> None:
        """From now on call `end`; first for what waits already."""

    def detach(self) -> None:
        """Call no more."""

    def ready(self) -> None:
        """Something is to be written: have `fill` called soon, once for all that happens now."""

    def post(self, message: str | bytes) -> bool:
        """Send; whether more may follow at once. If not, `fill` is called when it may. Raises SocketClosedError."""


class Opener(Protocol):
    """Finds or makes the channel for a client that has said hello."""

    async def open(self, link: ServerProtocol) -> WebSocketChannel:
        """The channel for `link.hello`: new, with its session started, or the one to be resumed.

        Raises ProtocolError, or another typed error, to refuse the client.
        """


def new_token() -> str:
    """A resume token: an unguessable secret."""
    return secrets.token_urlsafe(32)


async def run_link(
    socket: Socket,
    first: str | bytes,
    opener: Opener,
    *,
    options: ServerOptions | None = None,
    notice: Callable[[WebSocketChannel], str],
) -> None:
    """Drive one WebSocket of protocol v1, from its first message to its end. Does not raise for what the client does."""
    loop = asyncio.get_running_loop()
    driver = _Direct(socket, loop) if isinstance(socket, DirectSocket) else _Tasks(socket, loop)
    link = ServerProtocol(now=loop.time(), options=options, wake=driver.wake)
    channel: WebSocketChannel | None = None
    try:
        try:
            _receive(link, first, loop.time())
            channel = await opener.open(link)
            token = new_token()
            await channel.keep(token)  # whoever takes the session over is to know it before the client does
            replay = link.welcome(channel.delivery, token=token, now=loop.time(), notice=notice(channel))
        except ProtocolError as error:
            if link.close_code is None:
                link.refuse(error)
        except DuologueError as error:
            code = 4013 if error.retryable else 4000
            link.refuse(ProtocolError(error.message, hint=error.hint, code=error.code, close_code=code))
        else:
            channel.linked()
            assert link.hello is not None
            if link.hello.resume is not None:
                channel.port.back(gap_events=replay.gap_events, gap_ms=replay.gap_ms)
                if channel.delivery.capabilities.acks:
                    channel.port.played(channel.delivery.played)
        watch = _Watch(link, driver.wake, loop)
        try:
            driver.start(link, None if channel is None or link.close_code is not None else channel)
            # Not what is read: when the client has gone, or was refused, the last words are still to be written.
            await asyncio.wait({driver.written, watch.over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.close()
            await driver.stop()
            await _close(socket, link)
    finally:
        if channel is not None:
            channel.unlinked(link, loop.time())


async def _close(socket: Socket, link: ServerProtocol) -> None:
    """Close the socket; a client that is gone is not waited for."""
    code = link.close_code
    try:
        async with asyncio.timeout(_CLOSE_S):
            await socket.close(code if code is not None and code >= 1000 and code != 1006 else 1000)
    except TimeoutError:
        logger.debug("the socket does not close")


def _receive(link: ServerProtocol, message: str | bytes, now: float) -> list[object]:
    if isinstance(message, str):
        return list(link.receive_text(message, now))
    return list(link.receive_bytes(message, now))


class _Reader:
    """Takes what arrives on a link."""

    __slots__ = ("_audio", "_channel", "_link", "_time")

    def __init__(self, link: ServerProtocol, channel: WebSocketChannel, loop: asyncio.AbstractEventLoop) -> None:
        self._link = link
        self._channel = channel
        self._audio = channel.port.audio
        self._time = loop.time

    def take(self, message: str | bytes) -> None:
        """A message. Whatever is wrong with it is told to the client, and ends its link at most."""
        link = self._link
        try:
            if isinstance(message, bytes):
                for item in link.receive_bytes(message, self._time()):
                    if type(item) is UserAudio:
                        self._audio(item.pcm, item.position)
                    else:
                        self._channel.handle(item)
                return
            for item in link.receive_text(message, self._time()):
                self._channel.handle(item)
        except ProtocolError as error:
            if link.close_code is None:
                link.error(error.code, str(error))
        except Exception:
            logger.exception("what %s sent could not be taken", self._channel.name)
            if link.close_code is None:
                link.refuse(ProtocolError("It could not be taken.", code="internal", close_code=1011))
        if link.close_code is not None:
            link.notify()


class _Direct:
    """Drives a socket that calls."""

    def __init__(self, socket: DirectSocket, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = socket
        self._loop = loop
        self._link: ServerProtocol | None = None
        #: see End; what a client says that was refused is not heard
        self.take: Callable[[str | bytes], None] = _deaf
        #: done once nothing more is to be written
        self.written: asyncio.Future[None] = loop.create_future()
        self.wake = socket.ready

    def start(self, link: ServerProtocol, channel: WebSocketChannel | None) -> None:
        """Read for `channel`, if there is one, and write."""
        self._link = link
        if channel is not None:
            self.take = _Reader(link, channel, self._loop).take
        self._socket.attach(self)
        self._socket.ready()

    async def stop(self) -> None:
        """Neither read nor write any more."""
        self._socket.detach()
        self.written.cancel()

    def gone(self, code: int) -> None:
        """See End."""
        assert self._link is not None
        self._link.lost(code)
        self._over()

    def fill(self) -> None:
        """See End."""
        link, socket = self._link, self._socket
        assert link is not None
        now, left = self._loop.time(), _TURN
        try:
            while (frame := link.next_frame(now)) is not None:
                if not socket.post(frame):
                    return
                left -= 1
                if not left:
                    # A replay of seconds must not keep other calls waiting.
                    socket.ready()
                    return
        except SocketClosedError as closed:
            link.lost(closed.code)
        if link.close_code is not None:
            self._over()

    def _over(self) -> None:
        if not self.written.done():
            self.written.set_result(None)


def _deaf(message: str | bytes) -> None:
    """Takes a message of a client that was refused."""


class _Tasks:
    """Drives any other socket: a task reads, a task writes."""

    def __init__(self, socket: Socket, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = socket
        self._loop = loop
        self._writable = _Writable(loop)
        self._tasks: set[asyncio.Task[None]] = set()
        self.written: asyncio.Future[None] = loop.create_future()
        self.wake = self._writable.set

    def start(self, link: ServerProtocol, channel: WebSocketChannel | None) -> None:
        """Read for `channel`, if there is one, and write."""
        self.written = writer = self._loop.create_task(self._write(link))
        self._tasks.add(writer)
        if channel is not None:
            self._tasks.add(self._loop.create_task(self._read(link, _Reader(link, channel, self._loop))))

    async def stop(self) -> None:
        """Neither read nor write any more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _read(self, link: ServerProtocol, reader: _Reader) -> None:
        receive, take = self._socket.receive, reader.take
        try:
            while link.close_code is None:
                take(await receive())
        except SocketClosedError as closed:
            link.lost(closed.code)
        finally:
            self.wake()

    async def _write(self, link: ServerProtocol) -> None:
        """Write what is ready, one frame at a time so that control overtakes, until the link must end."""
        time, writable = self._loop.time, self._writable
        send, next_frame = self._socket.send, link.next_frame
        try:
            while True:
                writable.clear()
                written = 0
                while (frame := next_frame(time())) is not None:
                    await send(frame)
                    written += 1
                    if not written % _TURN:
                        # Nor must the news that the socket is gone wait.
                        await asyncio.sleep(0)
                if link.close_code is not None:
                    return
                await writable.wait()
        except SocketClosedError as closed:
            link.lost(closed.code)


class _Writable:
    """Tells the writer of a link that a frame may be ready: an `asyncio.Event` for one waiter, at a fraction of its cost."""

    __slots__ = ("_loop", "_set", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """A frame may be ready."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._set = True
        else:
            self._waiter = None
            waiter.set_result(None)

    def clear(self) -> None:
        """What was said so far is being looked into."""
        self._set = False

    def wait(self) -> asyncio.Future[None]:
        """To be awaited by one task at a time: done as soon as :meth:`set` was called since :meth:`clear`."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        if self._set:
            waiter.set_result(None)
        else:
            self._waiter = waiter
        return waiter


class _Watch:
    """Keeps the heartbeat, even while a write is stuck in a black hole. `over` is done some time after the link must end."""

    def __init__(self, link: ServerProtocol, wake: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._link = link
        self._wake = wake
        self._loop = loop
        self.over: asyncio.Future[None] = loop.create_future()
        self._timer = loop.call_soon(self._look)

    def _look(self) -> None:
        link, now = self._link, self._loop.time()
        try:
            link.tick(now)
        except ProtocolError as error:
            logger.debug("link ends: %s", error.code)
        if link.close_code is not None:
            self._wake()
            self._timer = self._loop.call_later(_LAST_WORDS_S, self.over.set_result, None)
            return
        self._timer = self._loop.call_at(now + min(max(link.next_deadline() - now, _TICK_S), _LOOK_S), self._look)

    def close(self) -> None:
        """No more looks."""
        self._timer.cancel()
        self.over.cancel()
