"""One client's connection: its head is read, judged and answered, or the connection handed on."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from ..types import HostError, Identity, NeedsBody, RequestHead, Route
from . import answers, routes
from .handover import OneRequest
from .head import HeadReader, body_length, forwarded, upgrades
from .proxy_http import Visit

if TYPE_CHECKING:
    from .gateway import Gateway

logger = logging.getLogger("duologue.host")
#: what a client may send after its head while it waits for admission
_EARLY = 64 << 10
#: how long an answer may take to reach the client
_FLUSH_S = 5.0


class Connection(asyncio.Protocol):
    """The protocol of an accepted connection, until it is handed on, and again between requests.

    `address` is the peer's; it is counted as unauthenticated until a request is admitted.
    """

    def __init__(self, gateway: Gateway, address: str, tls: bool) -> None:
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._tls = tls
        self._transport: asyncio.Transport | None = None
        self._counted = True
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._reader = self._new_reader()
        self._early = bytearray()
        self._paused = False
        self._tenant = ""  # whose runtime is asked for, once it is known; for the log
        self.closed = False

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance
        self._gateway.connections.add(self)
        self._expect(self._gateway.limits.head_s)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.closed:
            return
        if self._task is not None:
            self._early += data
            if len(self._early) > _EARLY and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
            return
        if not self._reader.begun:
            self._expect(self._gateway.limits.head_s)  # a kept connection: from here on it is a head that is read
        try:
            head = self._reader.feed(data)
        except HostError as error:
            self.answer(error)
            return
        if head is None:
            return
        self._cancel_timer()
        self._early += self._reader.rest
        self._task = self._gateway.spawn(self._handle(head))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if not self.closed and self._task is None and self._reader.begun:
            self._gateway.counters.add("dropped.half-head")
        self.end()

    # ------------------------------------------------------------------ states

    def _new_reader(self) -> HeadReader:
        return HeadReader(self._gateway.limits.head_bytes, peer=self._address, tls=self._tls)

    def _expect(self, seconds: float) -> None:
        self._cancel_timer()
        self._timer = self._loop.call_later(seconds, self._late)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        """The head did not come in time. A connection on which nothing came is closed without a word."""
        if not self._reader.begun:
            self._gateway.counters.add("dropped.idle")
            self.shut()
            return
        self.answer(HostError(408, "ValidationException", "The request's head came too slowly."))

    def admitted(self) -> None:
        """No longer one of the unauthenticated."""
        if self._counted:
            self._counted = False
            self._gateway.addresses.leave(self._address)

    def answer(self, error: HostError, *, id: str = "", extra: answers.Headers = ()) -> None:
        """Refuse, and close."""
        self._gateway.counters.add(f"refused.{error.status}.{error.type}")
        transport = self._transport
        if transport is None or self.closed:
            return
        transport.write(answers.raw(answers.error(error, id=id, extra=extra)))
        self.shut()

    def shut(self) -> None:
        """Close when what was written has gone, within a bound."""
        transport = self._transport
        if transport is not None and not self.closed:
            self.end()
            if transport.can_write_eof() and transport.get_write_buffer_size() == 0:
                # The client may still be sending: with its bytes unread, a close would reset the connection, and the
                # answer be lost.
                transport.write_eof()
                self._loop.call_later(0.5, transport.close)
            else:
                transport.close()
            self._loop.call_later(_FLUSH_S, transport.abort)

    def end(self) -> None:
        """It is over for this protocol: closed, lost, or handed on for good."""
        if self.closed:
            return
        self.closed = True
        self._cancel_timer()
        self.admitted()
        self._gateway.connections.discard(self)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def take_early(self) -> bytes:
        """What came after the head; reading goes on."""
        early, self._early = bytes(self._early), bytearray()
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return early

    # ------------------------------------------------------------------ a request

    async def _handle(self, head: RequestHead) -> None:
        gateway = self._gateway
        if gateway.trusts(self._address):
            head = forwarded(head)
        request = answers.request_id()
        self._tenant = ""
        extra: answers.Headers = ()
        try:
            if head.path == "/ping" and head.method in ("GET", "HEAD"):
                self._alive(head)
                return
            route = routes.find(head)
            self._tenant = route.tenant
            gateway.counters.add(f"requests.{route.kind}")
            if gateway.draining:
                raise HostError(
                    503, "ServiceUnavailableException", "The host is going away.", headers=(("Retry-After", "1"),)
                )
            extra = await gateway.admission.origins(head, route)
            if upgrades(head):
                await self._socket(head, route, request)
            else:
                await self._request(head, route, request, extra)
        except HostError as error:
            self.answer(error, id=request, extra=extra)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("request %s of tenant %s", request, self._tenant or "unknown")
            self.answer(answers.failed(), id=request)

    def _alive(self, head: RequestHead) -> None:
        """For load balancers: whether this gateway takes requests."""
        assert self._transport is not None
        status = 503 if self._gateway.draining else 200
        body = b"" if head.method == "HEAD" else b'{"status":"Healthy"}' if status == 200 else b'{"status":"Draining"}'
        self._transport.write(answers.raw((status, (("content-type", "application/json"),), body)))
        self.shut()

    async def _request(self, head: RequestHead, route: Route, request: str, extra: answers.Headers) -> None:
        """Authenticate by the head, and let uvicorn read the body."""
        gateway = self._gateway
        length = body_length(head)
        if length is not None and length > gateway.limits.payload_bytes:
            raise HostError(
                413, "ValidationException", f"The body is longer than {gateway.limits.payload_bytes} bytes."
            )
        identity = None
        if route.kind != "metadata" and head.method != "OPTIONS":
            try:
                identity, route = await self._identify(head, route)
            except NeedsBody:
                identity = None
        visit = Visit(head=head, route=route, identity=identity, request=request, cors=extra)
        assert self._transport is not None
        if self.closed:
            return
        if identity is not None:
            self.admitted()
        protocol = OneRequest(gateway.http_config, gateway.http_state, head, visit, again=self._again, lost=self.end)
        protocol.begin(self._transport, self.take_early())

    def _again(self, surplus: bytes) -> None:
        """The answer is out: the next request may come."""
        transport = self._transport
        if transport is None or self.closed:
            return
        transport.set_protocol(self)
        if not self._counted:
            if self._gateway.addresses.enter(self._address):
                self.shut()
                return
            self._counted = True
        self._task = None
        self._reader = self._new_reader()
        if self._gateway.draining:
            self.shut()
            return
        self._expect(self._gateway.limits.idle_s)
        if surplus:
            self.data_received(surplus)

    async def _socket(self, head: RequestHead, route: Route, request: str) -> None:
        """Admit a WebSocket, connect it to its agent, then answer the upgrade."""
        gateway = self._gateway
        if route.kind not in ("ws", "openai", "gemini"):
            raise HostError(400, "ValidationException", "No WebSocket is opened at this path.")
        try:
            identity, route = await self._identify(head, route)
        except NeedsBody:
            raise HostError(403, "AccessDeniedException", "The signature of an upgrade covers no body.") from None
        assert self._transport is not None
        await gateway.sockets.open(self, self._transport, head, route, identity, request)

    async def _identify(self, head: RequestHead, route: Route) -> tuple[Identity, Route]:
        """See Admission. With the time limit of admission."""
        try:
            async with asyncio.timeout(self._gateway.limits.admission_s):
                identity, route = await self._gateway.admission.identify(head, route)
        except TimeoutError:
            raise HostError(
                503, "ServiceUnavailableException", "Admission took too long.", headers=(("Retry-After", "1"),)
            ) from None
        self._tenant = route.tenant
        return identity, route
