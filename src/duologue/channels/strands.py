"""Clients of a Strands bidirectional agent, as a channel: JSON both ways, no acknowledgements, no resume."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from ..errors import DuologueError, ProtocolError
from ..events import AudioInput, Event
from ..wire.strands import FromStrands, StrandsServer
from .base import Channel, Traits
from .link import Socket, SocketClosedError

logger = logging.getLogger("duologue.channels")

#: messages that wait for a client that does not read; one more ends its call
_QUEUED = 2048


class StrandsChannel(Channel):
    """One client of the Strands dialect, on one socket.

    Args:
        socket: its WebSocket.
        protocol: its codec, which has seen the client's first message.
        first: what that message said.
    """

    name = "strands"

    def __init__(self, socket: Socket, protocol: StrandsServer, first: list[FromStrands]) -> None:
        self._socket = socket
        self._protocol = protocol
        self._first = first
        self._out: deque[str] = deque()
        self._audio_waiting: deque[str] = deque()
        self._ready = asyncio.Event()
        self._closing = False
        self._done = asyncio.Event()
        self._opened = False  # audio does not wait for the journal, and would overtake the first event

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(input_rate=self._protocol.input_rate, output_rate=self._protocol.output_rate, pacing="paced")

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""
        self._opened = True
        self._put(self._protocol.event(event))

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See Channel."""
        self._audio_waiting.extend(self._protocol.audio(response, pcm))
        self._ready.set()

    def clear(self, response: str) -> None:
        """See Channel. What the client has not been sent it need not drop; what it has it is told to."""
        self._audio_waiting.clear()
        self._put(self._protocol.clear(response))

    def _put(self, messages: list[str]) -> None:
        self._out.extend(messages)
        self._ready.set()

    async def run(self) -> None:
        """See Channel."""
        self._take(self._first)
        loop = asyncio.get_running_loop()
        reader = loop.create_task(self._read())
        try:
            await self._write()
        except SocketClosedError:
            self.port.ended("hangup")
        finally:
            reader.cancel()
            await asyncio.wait({reader})
            self._done.set()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                message = await self._socket.receive()
                try:
                    if isinstance(message, bytes):
                        self._take(self._protocol.receive_bytes(message, loop.time()))
                    else:
                        self._take(self._protocol.receive_text(message, loop.time()))
                except ProtocolError as error:
                    logger.debug("strands link ends: %s", error.code)
                self._ready.set()
        except SocketClosedError:
            self._closing = True
            self.port.ended("hangup")
        finally:
            self._ready.set()

    def _take(self, items: list[FromStrands]) -> None:
        for item in items:
            try:
                if isinstance(item, AudioInput):
                    self.port.audio(item.pcm, item.position)
                elif not isinstance(item, tuple):
                    self.port.input(item)
            except DuologueError as error:
                self._put(self._protocol.error(error.code, str(error)))

    async def _write(self) -> None:
        protocol = self._protocol
        while True:
            self._ready.clear()
            while (frame := protocol.next_frame()) is not None:
                await self._socket.send(frame)
            while self._out:
                await self._socket.send(self._out.popleft())
            if protocol.close_code is not None or len(self._out) + len(self._audio_waiting) > _QUEUED:
                await self._socket.close(protocol.close_code or 4011)
                self.port.ended("error")
                return
            if self._audio_waiting and self._opened:
                await self._socket.send(self._audio_waiting.popleft())
                continue
            if self._closing:
                await self._socket.close(1000)
                return
            await self._ready.wait()

    async def wait(self) -> None:
        """Wait until the client is gone; the session may outlast it."""
        await self._done.wait()

    async def close(self, reason: str) -> None:
        """See Channel."""
        self._closing = True
        self._ready.set()
        await self._done.wait()
