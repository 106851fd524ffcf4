"""One HTTP request to an agent over its Unix socket. Never sent twice; says whether a byte of it has gone.

A socket, not a transport: that gives up reading as well when it cannot write, and with it the answer of an agent that did not
wait for the body.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import h11

from ..types import HostError

_READ = 64 << 10
#: what an agent's error says is shown up to here, to those who may observe it
EXCERPT = 2048


class Upstream:
    """A connection for one request.

    Args:
        path: of the Unix socket.
        idle_s: longest wait for the next bytes of the answer.
    """

    def __init__(self, path: str, *, idle_s: float) -> None:
        self._path = path
        self._idle_s = idle_s
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 << 10)
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        #: whether a byte may have reached the agent; every failure after that is 424
        self.reached = False

    def open(self) -> None:
        """Connect. Raises HostError 503: the agent has seen nothing, and the request may be tried again."""
        try:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.setblocking(False)
            self._socket.connect(self._path)  # at once or not at all, see unix(7)
        except OSError:
            self.close()
            raise HostError(
                503, "ServiceUnavailableException", "The agent cannot be reached.", headers=(("Retry-After", "1"),)
            ) from None

    async def send(self, method: str, target: str, headers: list[tuple[str, str]], body: AsyncIterator[bytes]) -> None:
        """Send the request. `headers` frame the body. What `body` raises comes out.

        The connection broken in the middle is no error here: the agent may have answered early.
        """
        request = h11.Request(
            method=method, target=target, headers=[("host", "localhost"), ("connection", "close"), *headers]
        )
        self.reached = True
        broken = not await self._write(self._http.send(request))
        async for chunk in body:
            if chunk and not broken:
                broken = not await self._write(self._http.send(h11.Data(data=chunk)))
        if not broken:
            await self._write(self._http.send(h11.EndOfMessage()))

    async def _write(self, data: bytes | None) -> bool:
        assert self._socket is not None
        await asyncio.sleep(0)  # what can be written at once, and read, is: others have their turn
        try:
            await self._loop.sock_sendall(self._socket, data or b"")
        except OSError:
            return False
        return True

    async def head(self) -> h11.Response:
        """The answer's head. Raises HostError 424."""
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise _failed("The agent closed the connection without an answer.")

    async def body(self) -> AsyncIterator[bytes]:
        """The answer's body, as it comes. Raises HostError 424 if it breaks off."""
        while True:
            event = await self._event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise _failed("The agent broke its answer off.")

    async def _event(self) -> object:
        assert self._socket is not None
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                raise _failed("The agent's answer is not HTTP.") from None
            if event is not h11.NEED_DATA:
                return event
            try:
                async with asyncio.timeout(self._idle_s):
                    await asyncio.sleep(0)
                    data = await self._loop.sock_recv(self._socket, _READ)
            except TimeoutError:
                raise _failed("The agent did not answer in time.") from None
            except OSError:
                data = b""
            try:
                self._http.receive_data(data)
            except h11.RemoteProtocolError:
                raise _failed("The agent's answer is not HTTP.") from None

    async def excerpt(self) -> str:
        """The beginning of the answer's body, for whoever owns the agent."""
        out = b""
        try:
            async for chunk in self.body():
                out += chunk
                if len(out) >= EXCERPT:
                    break
        except HostError:
            pass
        return out[:EXCERPT].decode("utf-8", "replace")

    def close(self) -> None:
        """Hang up; an agent that still works on it sees its client gone."""
        if self._socket is not None:
            self._socket.close()


def _failed(message: str) -> HostError:
    return HostError(424, "RuntimeClientError", message)
