"""Carries one link after another between a transport and the protocol's state machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from duologue.client.errors import LinkClosedError
from duologue.client.transport import Transport
from duologue.errors import ProtocolError
from duologue.wire.duologue import ClientProtocol, FromServer
from duologue.wire.duologue.closing import DEAD

#: longest wait for a farewell to be written
FAREWELL_S = 1.0
#: how long the watch sleeps at most: an acknowledgement falls due no sooner than this after what it acknowledges
_WATCH_S = 0.25


class LinkDriver:
    """Reads, writes and watches the clock for a call, one link at a time.

    Args:
        protocol: the call.
        writable: set whenever a frame may be ready.
        take: gets what arrived, with the time.
        complain: gets the text of whatever broke the protocol.
    """

    def __init__(
        self,
        protocol: ClientProtocol,
        writable: asyncio.Event,
        take: Callable[[list[FromServer], float], None],
        complain: Callable[[str], None],
    ) -> None:
        self._protocol = protocol
        self._writable = writable
        self._take = take
        self._complain = complain
        self._closing: set[asyncio.Task[None]] = set()

    async def carry(self, transport: Transport, patience: float) -> int:
        """Carry one link to its end, which comes if no welcome arrives within `patience` seconds; returns its close code."""
        loop = asyncio.get_running_loop()
        self._protocol.connect(loop.time(), patience=patience)
        self._writable.set()
        writer = loop.create_task(self._write(transport), name="duologue-write")
        tasks = [
            loop.create_task(self._read(transport), name="duologue-read"),
            writer,
            loop.create_task(self._watch(), name="duologue-watch"),
        ]
        code = 1001
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            code = self._protocol.close_code or next(iter(done)).result()
            if self._protocol.close_code is not None and writer not in done:
                # What explains our own close is still to be written, if the link takes it.
                self._writable.set()
                await asyncio.wait([writer], timeout=0.0 if code == DEAD else FAREWELL_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._protocol.disconnected(loop.time())
            # Not waited for: on a dead link the closing handshake would only delay the resume.
            closing = loop.create_task(self._close(transport, code), name="duologue-close")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return code

    async def aclose(self) -> None:
        """Wait, within a bound, until the links have been closed."""
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _close(self, transport: Transport, code: int) -> None:
        # Codes that only report a lost link may not be sent (RFC 6455, section 7.4.1).
        sendable = code in (1000, 1001) or 1007 <= code <= 1014 or 3000 <= code < 5000
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await transport.close(code if sendable else 1001)

    async def _read(self, transport: Transport) -> int:
        loop = asyncio.get_running_loop()
        protocol = self._protocol
        while protocol.close_code is None:
            try:
                data = await transport.recv()
            except LinkClosedError as error:
                return error.close_code
            now = loop.time()
            try:
                taken = protocol.receive_text(data, now) if isinstance(data, str) else protocol.receive_bytes(data, now)
            except ProtocolError as error:
                self._complain(str(error))
                break
            self._take(taken, now)
            self._writable.set()
        return protocol.close_code or 1000

    async def _write(self, transport: Transport) -> int:
        loop = asyncio.get_running_loop()
        protocol = self._protocol
        while True:
            self._writable.clear()
            try:
                while (frame := protocol.next_frame(loop.time())) is not None:
                    await transport.send(frame)
            except LinkClosedError as error:
                return error.close_code
            if protocol.close_code is not None:
                return protocol.close_code
            await self._writable.wait()

    async def _watch(self) -> int:
        """Deadlines: heartbeat, acknowledgements, a welcome that does not come. Apart, since a writer may be stuck."""
        loop = asyncio.get_running_loop()
        protocol = self._protocol
        while protocol.close_code is None:
            deadline = protocol.next_deadline()
            wait = _WATCH_S if deadline is None else min(deadline - loop.time(), _WATCH_S)
            await asyncio.sleep(max(wait, 0.001))
            try:
                protocol.tick(loop.time())
            except ProtocolError as error:
                self._complain(str(error))
                break
            if deadline is not None and deadline <= loop.time():
                self._writable.set()
        return protocol.close_code or 1000
