"""A stream of Nova Sonic without a session: typed vendor events both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ..errors import ProtocolError
from ..wire.nova_sonic import ClientProtocol, Input, Output
from ..wire.nova_sonic.sequence import SequenceLimits
from .nova_errors import error_of
from .nova_transport import NovaTransport
from .transport import TransportClosedError

#: longest wait for the service to take an event
_SEND_S = 5.0


class NovaStream:
    """Made by :meth:`NovaSonic.connect`.

    Send `SessionStart`, `PromptStart` and so on (`duologue.wire.nova_sonic.inputs`) by :meth:`send`, or the payloads that
    :attr:`protocol` makes (``protocol.begin(...)``, ``protocol.text(...)``) by :meth:`send_payloads`; read the events by
    ``async for``. The service answers only once events have been sent.
    """

    def __init__(self, transport: NovaTransport, model_id: str, *, limits: SequenceLimits | None = None) -> None:
        self.transport = transport
        self.model_id = model_id
        self.protocol = ClientProtocol(model_id, limits=limits)

    async def send(self, event: Input) -> None:
        """Send an event. Raises StreamException, before anything is sent, for one that the service would refuse."""
        await self.send_payloads([self.protocol.send(event)])

    async def send_payloads(self, payloads: list[bytes]) -> None:
        """Send what :attr:`protocol` has made. Raises ModelConnectionError when the stream is gone."""
        for payload in payloads:
            try:
                await self.put(payload)
            except TransportClosedError as closed:
                raise self._typed(closed) from None

    async def put(self, payload: bytes) -> None:
        """Send one event's JSON. Raises TransportClosedError, also for a stream that takes nothing any more."""
        try:
            async with asyncio.timeout(_SEND_S):
                await self.transport.send(payload.decode())
        except TimeoutError:
            # A dead stream says nothing: the SDK's buffer is full, and it would wait for ever.
            raise TransportClosedError(reason=f"nothing was taken for {_SEND_S:g} s") from None

    async def __aiter__(self) -> AsyncIterator[Output]:
        """The service's events until it ends the stream. Raises typed errors for its exceptions."""
        while True:
            try:
                payload = await self.transport.receive()
            except TransportClosedError as closed:
                if closed.reason:
                    raise self._typed(closed) from None
                return
            except ProtocolError as error:
                raise self._typed(error) from error
            yield self.protocol.receive(payload)

    def _typed(self, error: BaseException) -> BaseException:
        return error_of(error, model=self.model_id, region=self.transport.region)

    async def close(self) -> None:
        """End the stream. Bounded, idempotent."""
        await self.transport.close()
