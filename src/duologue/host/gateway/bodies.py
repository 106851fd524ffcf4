"""Bodies of requests: as they come within a rate and a deadline, or spooled until their signature is verified."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ..types import HostError, RequestHead
from .budget import Spool
from .head import body_length
from .limits import GatewayLimits

Receive = Callable[[], Awaitable[Any]]


class ClientGone(Exception):
    """The client hung up; nobody is there to answer."""


class Body:
    """The body of one request. Raises HostError 408 if it comes too slowly, 413 if it is too long.

    Args:
        receive: ASGI's.
        declared: the hash (hex) that the head declares and its signature covers, "" if none: what does not match it is cut
            off before its last piece.
    """

    def __init__(self, receive: Receive, head: RequestHead, limits: GatewayLimits, *, declared: str = "") -> None:
        self._receive = receive
        self._limits = limits
        self._declared = declared
        self.length = body_length(head)
        self._waited = 0.0
        self._got = 0
        self.complete = self.length == 0
        if self.length is not None and self.length > limits.payload_bytes:
            raise _too_long(limits)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The pieces as they come; the last one only when all is well."""
        digest = hashlib.sha256()
        held = b""
        while not self.complete:
            chunk = await self._next()
            if chunk and self._declared:
                digest.update(chunk)
                held, chunk = chunk, held
            if chunk:
                yield chunk
        if self._declared and digest.hexdigest() != self._declared:
            raise HostError(403, "AccessDeniedException", "The body is not the one that was signed.")
        if held:
            yield held

    async def spooled(self, spool: Spool, address: str) -> tuple[bytes, str]:
        """The whole body and its SHA-256, hex; the caller gives its length back to the spool. Raises HostError 429."""
        taken = self.length or 0
        spool.take(address, taken)
        data = bytearray()
        try:
            while not self.complete:
                data += await self._next()
                if len(data) > taken:
                    spool.take(address, len(data) - taken)
                    taken = len(data)
        except BaseException:
            spool.give(address, taken)
            raise
        spool.give(address, taken - len(data))
        return bytes(data), hashlib.sha256(data).hexdigest()

    async def _next(self) -> bytes:
        loop = asyncio.get_running_loop()
        limits = self._limits
        patience = limits.body_s
        if limits.body_rate:
            patience = min(patience, limits.body_grace_s + self._got / limits.body_rate)
        began = loop.time()
        try:
            async with asyncio.timeout(max(0.0, patience - self._waited)):
                message = await self._receive()
        except TimeoutError:
            raise HostError(408, "ValidationException", "The body came too slowly.") from None
        self._waited += loop.time() - began
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        self._got += len(chunk)
        if self._got > limits.payload_bytes:
            raise _too_long(limits)
        self.complete = not message.get("more_body", False)
        return chunk


def _too_long(limits: GatewayLimits) -> HostError:
    return HostError(413, "ValidationException", f"The body is longer than {limits.payload_bytes} bytes.")
