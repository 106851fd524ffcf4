"""Who may come in, and to which worker: credential, role, origin, session, limits, placement. In this order."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from ..types import (
    Assignment,
    AssignRequest,
    Authority,
    HostError,
    Identity,
    Kind,
    Placement,
    RequestHead,
    Route,
    VersionSpec,
)
from . import passing
from .answers import Headers
from .budget import Admitted

logger = logging.getLogger("duologue.host")


class Pass(msgspec.Struct, kw_only=True):
    """An admitted request: give it back with `Admission.leave`.

    `route` has its tenant. `handle` is placement's.
    """

    head: RequestHead
    route: Route
    identity: Identity
    assignment: Assignment
    handle: str
    keys: tuple[tuple[str, str], ...]
    request: str

    @property
    def of(self) -> str:
        """The session, tenant first; for the log."""
        return f"{self.assignment.tenant}/{self.assignment.runtime}/{self.assignment.session}"


class Admission:
    """Decides about requests with the authority and the placement."""

    def __init__(self, authority: Authority, placement: Placement, admitted: Admitted) -> None:
        self.authority = authority
        self.placement = placement
        self._admitted = admitted
        #: handles of slots that `POST /connect` reserved, by ticket's session
        self.reserved: dict[tuple[str, str, str], Reservation] = {}

    async def identify(
        self, head: RequestHead, route: Route, *, body_sha256: str | None = None
    ) -> tuple[Identity, Route]:
        """Who sends it; the route with the tenant that is meant. Raises HostError 400, 401, 403; NeedsBody."""
        identity = await self.authority.authenticate(head, route, body_sha256=body_sha256)
        if not route.tenant:
            route = msgspec.structs.replace(route, tenant=identity.principal.tenant)
        self.authority.authorise(identity, "invoke", route.tenant, route.runtime)
        return identity, route

    async def enter(self, head: RequestHead, route: Route, identity: Identity, *, request: str) -> Pass:
        """Admit an identified request. Raises HostError as Placement.assign does, 400, 403 and 429."""
        session = passing.session_id(head, identity)
        passing.subprotocols(head)
        passing.headers(head, (), identity, session=session, request=request)
        spec = await self.placement.version(route.tenant, route.runtime, route.qualifier)
        check_origin(head, spec, identity)
        await self.authority.spend(identity)
        keys = self._admitted.enter(identity, route, asyncio.get_running_loop().time())
        handle = ""
        try:
            assignment = await self.placement.assign(
                AssignRequest(
                    tenant=route.tenant,
                    runtime=route.runtime,
                    qualifier=route.qualifier,
                    session=session,
                    principal=identity.principal.id,
                    signed_session=identity.signed_session and bool(session),
                    channel=_CHANNELS[route.kind],
                )
            )
            handle = await self.placement.opened(assignment, route.kind)
        except BaseException:
            self._admitted.leave(keys)
            raise
        reservation = self.reserved.pop((route.tenant, route.runtime, assignment.session), None)
        if reservation is not None:
            await reservation.end()
        return Pass(
            head=head,
            route=route,
            identity=identity,
            assignment=assignment,
            handle=handle,
            keys=keys,
            request=request,
        )

    async def leave(self, entry: Pass) -> None:
        """An admitted request ended."""
        self._admitted.leave(entry.keys)
        try:
            await self.placement.closed(entry.handle)
        except HostError as error:
            logger.debug("session %s: end of a request not taken: %s", entry.of, error)

    async def origins(self, head: RequestHead, route: Route) -> Headers:
        """CORS headers for a page that may call a runtime, () for another. For preflights, which carry no credential."""
        origin = head.header("origin")
        if not origin or not route.tenant:
            return ()
        try:
            spec = await self.placement.version(route.tenant, route.runtime, route.qualifier)
        except HostError:
            return ()
        return cors(origin) if listed(origin, spec) else ()


class Reservation:
    """A slot that waits for the socket of a ticket."""

    def __init__(self, admission: Admission, entry: Pass) -> None:
        self._admission = admission
        self._entry: Pass | None = entry

    async def end(self) -> None:
        """The socket came, or the ticket ran out. Once."""
        entry, self._entry = self._entry, None
        if entry is not None:
            key = (entry.route.tenant, entry.route.runtime, entry.assignment.session)
            if self._admission.reserved.get(key) is self:
                del self._admission.reserved[key]
            await self._admission.leave(entry)


_CHANNELS: dict[Kind, str] = {
    "ws": "websocket",
    "openai": "openai-realtime",
    "gemini": "gemini-live",
    "invocations": "invocations",
    "connect": "websocket",
    "client_secrets": "openai-realtime",
    "stop": "",
    "metadata": "",
}


def listed(origin: str, spec: VersionSpec) -> bool:
    """Whether a version lists an origin (or all: ``*``)."""
    wanted = origin.lower().rstrip("/")
    return origin != "null" and any(entry == "*" or entry.lower().rstrip("/") == wanted for entry in spec.origins)


def check_origin(head: RequestHead, spec: VersionSpec, identity: Identity) -> None:
    """Raises HostError 403 if a page of that origin may not connect. Programs send none."""
    origin = head.header("origin")
    if identity.origin and origin.lower() != identity.origin.lower():
        raise HostError(403, "AccessDeniedException", "The ticket was given to a page of another origin.")
    if not origin or identity.origin:
        return
    if origin == "null":
        raise HostError(403, "AccessDeniedException", "A page without an origin may not connect.")
    if not listed(origin, spec):
        raise HostError(
            403, "AccessDeniedException", f"Pages of {origin[:200]} may not connect: the runtime does not list them."
        )


def cors(origin: str) -> Headers:
    """Headers that let a page read an answer."""
    return (
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Expose-Headers", f"{passing.SESSION}, x-amzn-ErrorType, x-amzn-RequestId"),
        ("Vary", "Origin"),
    )


def preflight(origin: str) -> Headers:
    """Headers of the answer to a preflight request."""
    return (
        *cors(origin),
        ("Access-Control-Allow-Methods", "POST"),
        ("Access-Control-Allow-Headers", f"authorization, content-type, accept, x-api-key, {passing.SESSION}"),
        ("Access-Control-Max-Age", "600"),
    )
