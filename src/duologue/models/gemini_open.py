"""How a connection to Gemini Live begins: for a session, or in somebody's own hands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from ..errors import ModelConnectionError, ModelRequestError
from ..wire.gemini_live import ClientProtocol, Malformed
from ..wire.gemini_live import messages as g
from .base import Connection, Context
from .gemini_connection import GeminiConnection, Resume
from .gemini_live import GeminiLive
from .gemini_transport import error_of_close
from .transport import Transport, TransportClosedError

logger = logging.getLogger("duologue.models.gemini_live")

#: longest wait for the link to open and the session to be set up
_SETUP_S = 4.5


class RawConnection:
    """A connection without a session: typed vendor messages both ways. Made by :meth:`GeminiLive.connect`."""

    def __init__(self, transport: Transport, setup: g.Setup) -> None:
        self._transport = transport
        self.protocol = ClientProtocol(setup)

    async def begin(self) -> None:
        """Send the setup; `setupComplete` is the first message received."""
        self.protocol.begin()
        await self._flush()

    async def send(self, message: g.ClientMessage) -> None:
        """Send a message (see `duologue.wire.gemini_live.messages`). Raises ProtocolError before `setupComplete` came."""
        self.protocol.send(message)
        await self._flush()

    async def _flush(self) -> None:
        while (frame := self.protocol.next_frame()) is not None:
            await self._transport.send(frame)

    async def __aiter__(self) -> AsyncIterator[g.ServerMessage | Malformed]:
        """The server's messages, until the link ends."""
        while True:
            try:
                received = self.protocol.receive(await self._transport.receive())
            except TransportClosedError as closed:
                self.protocol.closed()
                if closed.code == 1000:
                    return
                raise error_of_close(closed.code, closed.reason) from None
            if received is not None:
                yield received

    async def close(self) -> None:
        """End the link."""
        self.protocol.closed()
        await self._transport.close()


async def open_connection(model: GeminiLive, context: Context) -> Connection:
    """Connect and set up. Raises a typed error within 5 seconds; then nothing is left open.

    A handle that the provider does not take (any more) is forgotten: the conversation goes on from our history.
    """
    resume = Resume.of(model, context)
    deadline = asyncio.get_running_loop().time() + _SETUP_S
    if resume is not None:
        try:
            return await _open(model, context, resume, deadline)
        except ModelRequestError as error:
            logger.debug("the session cannot be resumed: %s", error)
            Resume.forget(context)
    return await _open(model, context, None, deadline)


async def _open(model: GeminiLive, context: Context, resume: Resume | None, deadline: float) -> Connection:
    transport: Transport | None = None
    try:
        async with asyncio.timeout_at(deadline):
            transport = await model.transport()
            wanted = context.setup()
            setup = model.setup(wanted, resume.handle if resume is not None else None)
            connection = GeminiConnection(model, context, transport, setup, wanted.voice)
            await connection.start(resume)
    except BaseException as error:
        if transport is not None:
            await transport.close()
        if isinstance(error, TimeoutError):
            raise ModelConnectionError(f"Gemini did not set the session up within {_SETUP_S:g} s.") from None
        if isinstance(error, TransportClosedError):
            raise error_of_close(error.code, error.reason) from None
        raise
    return connection
