"""Admitted WebSockets: the agent's end first, then the answer to the client, then frames both ways."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Literal, cast

from ...wire.hostlink import Open, Refreshed
from ..headers import metadata
from ..types import HostError, Identity, RequestHead, Route
from . import passing
from .admission import Pass
from .carriers import ForeignCarrier, LinkCarrier
from .sockets import ClientSocket, take_over

if TYPE_CHECKING:
    from .connection import Connection
    from .gateway import Gateway

logger = logging.getLogger("duologue.host")
#: close codes when a credential expires: protocol v1's own, and for everything else policy violation
_EXPIRED_V1, _EXPIRED = 4003, 1008


class Sockets:
    """The open WebSockets of a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.open_now: set[ClientSocket] = set()
        self._none = asyncio.Event()

    async def open(
        self,
        connection: Connection,
        transport: asyncio.Transport,
        head: RequestHead,
        route: Route,
        identity: Identity,
        request: str,
    ) -> None:
        """Admit and connect a socket, answer its upgrade. Raises HostError; the client has been answered nothing then."""
        gateway = self._gateway
        limits = gateway.limits
        try:
            async with asyncio.timeout(limits.admission_s):
                entry = await gateway.admission.enter(head, route, identity, request=request)
                connection.admitted()
                try:
                    call = Call(gateway, entry)
                    chosen = await call.connect()
                except BaseException:
                    await asyncio.shield(gateway.admission.leave(entry))
                    raise
        except TimeoutError:
            raise HostError(
                503, "ServiceUnavailableException", "No worker in time.", headers=(("Retry-After", "1"),)
            ) from None
        if connection.closed or transport.is_closing():
            call.carrier.gone()
            await gateway.admission.leave(entry)
            return

        def ended() -> None:
            self.open_now.discard(socket)
            if not self.open_now:
                self._none.set()
            gateway.spawn(gateway.admission.leave(entry), of=entry.of, finish=True)

        socket = ClientSocket(call.carrier, limits, gateway.counters, ended, of=entry.of)
        headers = [(passing.SESSION, entry.assignment.session), ("x-amzn-RequestId", request)]
        answered = identity.subprotocol or chosen
        if answered:
            headers.append(("Sec-WebSocket-Protocol", answered))
        early = connection.take_early()
        connection.end()
        self.open_now.add(socket)
        gateway.counters.add("sockets")
        take_over(
            transport, socket, key=head.header("sec-websocket-key"), headers=tuple(headers), early=early, limits=limits
        )
        call.attach(socket)

    async def close(self, code: int, reason: str) -> None:
        """Close all, waiting a little for the clients' answers."""
        for socket in list(self.open_now):
            socket.refuse(code, reason)
        if self.open_now:
            self._none.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3.0):
                    await self._none.wait()


class Call:
    """One socket's way: its carrier, and its credential while the call lasts."""

    def __init__(self, gateway: Gateway, entry: Pass) -> None:
        self._gateway = gateway
        self._entry = entry
        self._identity = entry.identity
        self._socket: ClientSocket | None = None
        self.carrier: LinkCarrier | ForeignCarrier

    async def connect(self) -> str:
        """Make the agent's end; the subprotocol that it chose. Raises HostError."""
        entry, gateway = self._entry, self._gateway
        assignment, head = entry.assignment, entry.head
        headers = passing.headers(
            head, assignment.headers, entry.identity, session=assignment.session, request=entry.request
        )
        offered = passing.subprotocols(head)
        if not assignment.link:
            if entry.route.kind != "ws":
                raise HostError(404, "ResourceNotFoundException", "This runtime does not speak that protocol.")
            headers += metadata(assignment.metadata)
            foreign = self.carrier = ForeignCarrier(gateway.limits)
            return await foreign.connect(assignment.http, "/ws", headers, offered, gateway.limits.admission_s)
        link = await gateway.links.get(
            assignment.link, f"{assignment.worker} of {assignment.tenant}/{assignment.runtime}:{assignment.version}"
        )
        stream = self.carrier = LinkCarrier(link, gateway.limits, self._refresh)
        return await stream.connect(
            Open(
                kind=cast("Literal['ws', 'openai', 'gemini']", entry.route.kind),
                session=assignment.session,
                epoch=assignment.epoch,
                path=entry.route.rest,
                query=passing.query(head),
                headers=tuple(headers),
                principal=entry.identity.principal.id,
                subprotocols=offered,
                peer=head.peer,
                expires=entry.identity.expires,
                preset=entry.identity.preset,
            )
        )

    def attach(self, socket: ClientSocket) -> None:
        """The client was answered."""
        self._socket = socket
        self._watch()
        self.carrier.attach(socket)

    def _watch(self) -> None:
        """Close the socket when the credential ends (a ticket's is the one that it was given for)."""
        if self._socket is not None:
            v1 = self._entry.assignment.link and self._entry.route.kind == "ws"
            self._socket.expire_at(self._identity.expires, _EXPIRED_V1 if v1 else _EXPIRED)

    def _refresh(self, carrier: LinkCarrier, token: str) -> None:
        self._gateway.spawn(self._verify(carrier, token), of=self._entry.of)

    async def _verify(self, carrier: LinkCarrier, token: str) -> None:
        try:
            self._identity = await self._gateway.admission.authority.refresh(self._identity, token)
        except HostError as error:
            self._gateway.counters.add(f"refused.{error.status}.{error.type}")
            carrier.refreshed(Refreshed(error="auth", message=str(error)))
            return
        self._watch()
        carrier.refreshed(Refreshed(expires=self._identity.expires))
