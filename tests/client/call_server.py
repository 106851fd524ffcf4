"""A minimal server of protocol v1 for the client's tests: one call, over as many links as it takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from duologue.client import ConnectError, LinkClosedError, MemoryTransport, Transport, memory_link
from duologue.errors import ProtocolError
from duologue.wire.duologue import FromClient, Hello, ServerDelivery, ServerOptions, ServerProtocol


class Server:
    """Answers each connection; what the session would do is done on `delivery` by the test.

    Attributes:
        got: what arrived, as (time, message).
        links: client ends of the links in memory, newest last.
        reachable: whether connecting works.
        refuse: an error that answers the next hello.
    """

    def __init__(self, options: ServerOptions | None = None, *, delay_s: float = 0.0) -> None:
        self.options = options or ServerOptions()
        self.delay_s = delay_s
        self.delivery: ServerDelivery | None = None
        self.got: list[tuple[float, FromClient]] = []
        self.links: list[MemoryTransport] = []
        self.headers: list[Mapping[str, str]] = []
        self.reachable = True
        self.refuse: ProtocolError | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.tokens = 0

    @property
    def side(self) -> ServerDelivery:
        assert self.delivery is not None
        return self.delivery

    def of[T](self, kind: type[T]) -> list[T]:
        return [message for _, message in self.got if isinstance(message, kind)]

    async def connect(self, url: str, headers: Mapping[str, str]) -> Transport:
        """The connector that a call is given."""
        await asyncio.sleep(self.delay_s)
        if not self.reachable:
            raise ConnectError(f"{url} cannot be reached.")
        self.headers.append(dict(headers))
        near, far = memory_link(delay_s=self.delay_s)
        self.links.append(near)
        task = asyncio.get_running_loop().create_task(self.serve(far))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return near

    async def serve(self, transport: Transport) -> None:
        loop = asyncio.get_running_loop()
        writable = asyncio.Event()
        link = ServerProtocol(now=loop.time(), options=self.options, wake=writable.set)
        writer = loop.create_task(self._write(transport, link, writable))
        watch = loop.create_task(self._watch(link, writable))
        try:
            while link.close_code is None:
                data = await transport.recv()
                now = loop.time()
                taken = link.receive_text(data, now) if isinstance(data, str) else link.receive_bytes(data, now)
                for message in taken:
                    if isinstance(message, Hello):
                        self._welcome(link, message, now)
                    else:
                        self.got.append((now, message))
                writable.set()
        except (LinkClosedError, ProtocolError):
            pass
        writable.set()
        if link.close_code is None:
            link.lost()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await writer
        for task in (writer, watch):
            task.cancel()
        if self.delivery is not None:
            self.delivery.detach(link, loop.time())
        await transport.close(link.close_code or 1000)

    def _welcome(self, link: ServerProtocol, hello: Hello, now: float) -> None:
        if self.refuse is not None:
            link.refuse(self.refuse)
            return
        if hello.resume is None:
            self.delivery = ServerDelivery(
                session="s_1",
                token="first",
                input=hello.input,
                output=hello.output,
                capabilities=hello.capabilities,
                options=self.options,
            )
        self.tokens += 1
        link.welcome(self.side, token=f"t{self.tokens}", now=now, notice="a test answers")

    async def _write(self, transport: Transport, link: ServerProtocol, writable: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(LinkClosedError):
            while True:
                writable.clear()
                while (frame := link.next_frame(loop.time())) is not None:
                    await transport.send(frame)
                if link.close_code is not None:
                    await transport.close(link.close_code if link.close_code != 1006 else 1001)
                    return
                await writable.wait()

    async def _watch(self, link: ServerProtocol, writable: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ProtocolError):
            while link.close_code is None:
                await asyncio.sleep(min(max(link.next_deadline() - loop.time(), 0.001), 0.25))
                link.tick(loop.time())
                writable.set()
        writable.set()
