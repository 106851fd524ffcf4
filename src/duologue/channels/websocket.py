"""Protocol v1 as a channel: a client that is reached over WebSockets, one after another, for one call.

The channel outlives its sockets: :class:`WebSocketChannel` keeps what the client has and has not received, and
:func:`run_link` drives one socket for it until that socket ends.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from ..errors import DuologueError, LimitExceededError, ProtocolError
from ..events import Event
from ..wire.duologue import (
    AuthRefresh,
    Bye,
    Cleared,
    GapMessage,
    InputReceived,
    Played,
    Refused,
    ServerDelivery,
    ServerOptions,
    ServerProtocol,
    UserAudio,
)
from .base import Channel, Traits

logger = logging.getLogger("duologue.channels")

#: longest wait for a client to take the goodbye and what is owed before it
_GOODBYE_S = 2.0
#: longest wait for a socket to close
_CLOSE_S = 1.0
#: deadlines of a link are looked at no more and no less often than this: mostly one look finds an acknowledgement due, and none
#: is later than ACK_AFTER_S and the shorter of the two, the 250 ms of the protocol
_TICK_S, _LOOK_S = 0.05, 0.23
#: frames that are written before other tasks have their turn
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


class WebSocketChannel(Channel):
    """One client of a session, over all its links.

    Args:
        delivery: what it was agreed with and what it has received.
        name: names the participant in events.
        refresh: takes a new credential in mid-call; returns the seconds it lasts (None: for ever) or raises a typed error.
    """

    def __init__(
        self,
        delivery: ServerDelivery,
        *,
        name: str = "client",
        refresh: Callable[[str], Awaitable[float | None]] | None = None,
    ) -> None:
        self.delivery = delivery
        self.name = name
        self._refresh = refresh
        self._over = False
        self._link_gone = asyncio.Event()
        self._link_gone.set()
        self._ended = asyncio.Event()
        #: samples of agent audio that found no room
        self.dropped = 0

    @property
    def traits(self) -> Traits:
        """See Channel."""
        delivery = self.delivery
        return Traits(
            input_rate=delivery.input.rate if delivery.input else None,
            output_rate=delivery.output.rate if delivery.output else None,
            pacing="paced" if delivery.output else "none",
            acknowledges=delivery.capabilities.acks,
            clears=delivery.capabilities.acks,
            ducks=delivery.capabilities.duck,
        )

    @property
    def losses(self) -> Mapping[str, int]:
        """See Channel."""
        return {"output_samples": self.dropped}

    @property
    def way_s(self) -> float:
        """See Channel: half of the shortest recent round trip."""
        link = self.delivery.link
        return (link.clock.rtt or 0.0) / 2 if link is not None else 0.0

    # ------------------------------------------------------------------ to the client

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""
        self.delivery.send_event(encoded)

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See Channel."""
        try:
            self.delivery.send_audio(pcm, response=response, offset=offset, position=position)
        except LimitExceededError:
            self.dropped += len(pcm) // 2

    def clear(self, response: str) -> None:
        """See Channel. Everything is cleared: after an interruption nothing that was sent before may still be heard."""
        self.delivery.clear()

    def duck(self, gain_db: float) -> None:
        """See Channel."""
        self.delivery.duck(gain_db, ramp_ms=30)

    def going_away(self, in_s: float, reason: str) -> None:
        """See Channel."""
        if self.delivery.link is not None:
            self.delivery.link.going_away(in_s, reason)

    async def run(self) -> None:
        """See Channel. The links bring the input; this waits for the end."""
        await self._ended.wait()

    async def close(self, reason: str) -> None:
        """See Channel."""
        self._over = True
        self._ended.set()
        if self.delivery.link is not None:
            self.delivery.link.bye(reason)
            try:
                async with asyncio.timeout(_GOODBYE_S):
                    await self._link_gone.wait()
            except TimeoutError:
                logger.debug("%s does not take the goodbye", self.name)

    # ------------------------------------------------------------------ from the client

    async def handle(self, message: object) -> None:
        """Take what a link received."""
        if isinstance(message, UserAudio):
            self.port.audio(message.pcm, message.position)
        elif isinstance(message, Played):
            link = self.delivery.link
            at = link.clock.to_local(message.at) if link is not None and message.at else None
            self.port.played(message.position, at)
        elif isinstance(message, Cleared):
            self.port.cleared(message.played)
        elif isinstance(message, InputReceived):
            try:
                self.port.input(message.input)
            except DuologueError as error:
                self._tell(error, f"{message.epoch}:{message.n}")
        elif isinstance(message, AuthRefresh):
            await self._refresh_credential(message.token)
        elif isinstance(message, GapMessage):
            logger.debug("%s could not send %d samples", self.name, message.samples)
        elif isinstance(message, Refused):
            logger.debug("%s: %s", self.name, message.error.code)
        elif isinstance(message, Bye):
            self._over = True
            self.port.ended("hangup")

    def refresh_by(self, refresh: Callable[[str], Awaitable[float | None]]) -> None:
        """From now on newer credentials go to `refresh`: the client's latest link may have come another way."""
        self._refresh = refresh

    async def _refresh_credential(self, token: str) -> None:
        link = self.delivery.link
        if link is None:
            return
        if self._refresh is None:
            link.auth_refreshed(None)
            return
        try:
            link.auth_refreshed(await self._refresh(token))
        except DuologueError as error:
            link.error("auth", str(error), ref="auth.refresh")

    def _tell(self, error: DuologueError, ref: str) -> None:
        if self.delivery.link is not None:
            self.delivery.link.error(error.code, str(error), ref=ref)

    def linked(self) -> None:
        """A link drives this channel now."""
        self._link_gone.clear()

    def unlinked(self, link: ServerProtocol, now: float) -> None:
        """A link is gone. Unless it said goodbye, or another has taken over, the client is away."""
        mine = self.delivery.link is link
        self.delivery.detach(link, now)
        if mine:
            self._link_gone.set()
            if not self._over:
                if link.close_code == 1000:
                    self._over = True
                    self.port.ended("hangup")
                else:
                    self.port.away()

    @property
    def over(self) -> bool:
        """Whether the call is over for this client: it cannot be resumed."""
        return self._over


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
    writable = _Writable(loop)
    link = ServerProtocol(now=loop.time(), options=options, wake=writable.set)
    channel: WebSocketChannel | None = None
    try:
        try:
            _receive(link, first, loop.time())
            channel = await opener.open(link)
            replay = link.welcome(channel.delivery, token=new_token(), now=loop.time(), notice=notice(channel))
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
        writer, watch = loop.create_task(_write(socket, link, writable)), _Watch(link, writable, loop)
        tasks = {writer}
        if channel is not None and link.close_code is None:
            tasks.add(loop.create_task(_read(socket, link, channel, writable)))
        try:
            # Not the reader: when the client has gone, or was refused, the writer still has the last words to write.
            await asyncio.wait({writer, watch.over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.close()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
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


async def _read(socket: Socket, link: ServerProtocol, channel: WebSocketChannel, writable: _Writable) -> None:
    time = asyncio.get_running_loop().time
    receive, receive_bytes, receive_text = socket.receive, link.receive_bytes, link.receive_text
    handle, audio = channel.handle, channel.port.audio
    try:
        while True:
            try:
                while True:
                    message = await receive()
                    if isinstance(message, bytes):
                        for item in receive_bytes(message, time()):
                            if type(item) is UserAudio:
                                audio(item.pcm, item.position)
                            else:
                                await handle(item)
                    else:
                        for item in receive_text(message, time()):
                            await handle(item)
                        if link.close_code is not None:
                            writable.set()
            except ProtocolError as error:
                if link.close_code is not None:
                    return
                link.error(error.code, str(error))
    except SocketClosedError as closed:
        link.lost(closed.code)
    finally:
        writable.set()


async def _write(socket: Socket, link: ServerProtocol, writable: _Writable) -> None:
    """Write what is ready, one frame at a time so that control overtakes, until the link must end."""
    time = asyncio.get_running_loop().time
    send, next_frame = socket.send, link.next_frame
    try:
        while True:
            writable.clear()
            written = 0
            while (frame := next_frame(time())) is not None:
                await send(frame)
                written += 1
                if not written % _TURN:
                    # A replay of seconds must not keep other calls, or the news that the socket is gone, waiting.
                    await asyncio.sleep(0)
            if link.close_code is not None:
                return
            await writable.wait()
    except SocketClosedError as closed:
        link.lost(closed.code)


class _Watch:
    """Keeps the heartbeat, even while a write is stuck in a black hole. `over` is done some time after the link must end."""

    def __init__(self, link: ServerProtocol, writable: _Writable, loop: asyncio.AbstractEventLoop) -> None:
        self._link = link
        self._writable = writable
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
            self._writable.set()
            self._timer = self._loop.call_later(_GOODBYE_S, self.over.set_result, None)
            return
        self._timer = self._loop.call_at(now + min(max(link.next_deadline() - now, _TICK_S), _LOOK_S), self._look)

    def close(self) -> None:
        """No more looks."""
        self._timer.cancel()
        self.over.cancel()
