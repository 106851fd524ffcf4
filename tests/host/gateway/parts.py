"""A gateway with an authority and a placement of the tests, and agents behind it: a foreign app, a Duologue worker."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from duologue.host.gateway import Gateway, GatewayLimits, GatewayOptions
from duologue.host.types import (
    SCHEMA,
    Assignment,
    AssignRequest,
    Grant,
    HostError,
    Identity,
    Kind,
    NeedsBody,
    Principal,
    RequestHead,
    Route,
    VersionSpec,
)
from duologue.wire.hostlink import LinkServer, Message, Opened

TENANT = "123456789012"
ARN = f"arn:aws:bedrock-agentcore:us-east-1:{TENANT}:runtime/agent-0123456789"
RUNTIME = "agent-0123456789"
SESSION_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
SESSION = "s" * 40
KEY = {"Authorization": "Bearer good"}


class Keys:
    """An authority: tokens are names of principals; a signature covers the body if the request says so."""

    def __init__(self) -> None:
        self.expires: float | None = None
        self.session = ""
        self.tickets: dict[str, Identity] = {}
        self.spent: list[str] = []
        self.refreshed: list[str] = []
        self.hold: asyncio.Event | None = None
        self.roles: tuple[str, ...] = ("invoke",)

    def identity(self, name: str, **more: Any) -> Identity:
        """An identity of the test's tenant."""
        values: dict[str, Any] = {"mode": "oauth", "expires": self.expires, "session": self.session, **more}
        return Identity(
            principal=Principal(tenant=TENANT, issuer="keys", subject=name),
            grants=tuple(Grant(role=role) for role in self.roles),  # type: ignore[arg-type]
            credential=name,
            **values,
        )

    async def authenticate(self, head: RequestHead, route: Route, *, body_sha256: str | None = None) -> Identity:
        """See Authority."""
        if self.hold is not None:
            await self.hold.wait()
        if "ticket=" in head.query:
            found = self.tickets.get(head.query.partition("ticket=")[2].partition("&")[0])
            if found is None:
                raise HostError(403, "AccessDeniedException", "The ticket is not good.")
            return found
        protocols = head.header("sec-websocket-protocol")
        if protocols.startswith("base64UrlBearerAuthorization."):
            return self.identity("browser", subprotocol="base64UrlBearerAuthorization")
        kind, _, token = head.header("authorization").partition(" ")
        if kind == "AWS4-HMAC-SHA256":
            if "x-amz-content-sha256" not in dict(head.headers) and head.method == "POST":
                if body_sha256 is None:
                    raise NeedsBody
                if body_sha256 != hashlib.sha256(b'{"prompt": "signed"}').hexdigest():
                    raise HostError(403, "InvalidSignatureException", "The signature does not match.")
            return self.identity("signer", mode="sigv4")
        if token in self.tickets:
            return self.tickets[token]
        if token == "bad" or not token:
            raise HostError(
                401, "UnauthorizedException", "Missing Authentication Token", headers=(("WWW-Authenticate", "Bearer"),)
            )
        return self.identity(token)

    def authorise(self, identity: Identity, role: Any, tenant: str, runtime: str) -> None:
        """See Authority."""
        if tenant != identity.principal.tenant or identity.principal.subject == "outsider":
            raise HostError(403, "AccessDeniedException", "Not allowed.")

    async def refresh(self, identity: Identity, token: str) -> Identity:
        """See Authority."""
        self.refreshed.append(token)
        if token == "bad":
            raise HostError(401, "UnauthorizedException", "The token is not good.")
        return self.identity(identity.principal.subject, expires=None)

    async def ticket(
        self, identity: Identity, *, tenant: str, runtime: str, qualifier: str, session: str, origin: str
    ) -> str:
        """See Authority."""
        name = f"t{len(self.tickets)}"
        self.tickets[name] = self.identity(
            identity.principal.subject, mode="ticket", session=session, origin=origin, once=name, expires=None
        )
        return name

    async def client_secret(
        self, identity: Identity, *, tenant: str, runtime: str, qualifier: str, session: str, seconds: float
    ) -> tuple[str, float]:
        """See Authority."""
        self.tickets["ek_secret"] = self.identity(identity.principal.subject, mode="ticket", preset=session)
        return "ek_secret", 1000.0 + seconds

    async def spend(self, identity: Identity) -> None:
        """See Authority."""
        if identity.once:
            if self.tickets.pop(identity.once, None) is None:
                raise HostError(403, "AccessDeniedException", "The ticket was used.")
            self.spent.append(identity.once)


class Rooms:
    """A placement with one version; `link` and `http` say where its worker is."""

    def __init__(self) -> None:
        self.link = self.http = ""
        self.spec = VersionSpec(tenant=TENANT, runtime=RUNTIME, version=1, digest="d", kind="asgi", source="/")
        self.owners: dict[str, str] = {}
        self.requests: list[AssignRequest] = []
        self.open: dict[str, Kind] = {}
        self.opened_ever = 0
        self.changed = asyncio.Event()
        self.failure: HostError | None = None
        self._ids = itertools.count()

    async def version(self, tenant: str, runtime: str, qualifier: str) -> VersionSpec:
        """See Placement."""
        if (tenant, runtime, qualifier) != (TENANT, RUNTIME, "DEFAULT"):
            raise HostError(404, "ResourceNotFoundException", "No endpoint or agent found.")
        return self.spec

    async def assign(self, request: AssignRequest) -> Assignment:
        """See Placement."""
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        session = request.session or f"allocated-{next(self._ids):032}"
        if self.owners.setdefault(session, request.principal) != request.principal:
            raise HostError(403, "AccessDeniedException", "The session is another principal's.")
        return Assignment(
            tenant=TENANT, runtime=RUNTIME, version=1, session=session, epoch=1, worker="w1", link=self.link,
            http=self.http, new=True, lifetime_left_s=100.0, headers=self.spec.headers,
        )  # fmt: skip

    async def opened(self, assignment: Assignment, kind: Kind) -> str:
        """See Placement."""
        self.opened_ever += 1
        handle = f"h{self.opened_ever}"
        self.open[handle] = kind
        return handle

    async def closed(self, handle: str) -> None:
        """See Placement."""
        del self.open[handle]
        self.changed.set()

    async def stop(self, tenant: str, runtime: str, session: str, principal: str, *, reason: str = "stopped") -> bool:
        """See Placement."""
        return self.owners.pop(session, None) is not None

    async def empty(self) -> None:
        """Until nothing is open."""
        while self.open:
            self.changed.clear()
            await self.changed.wait()


class World:
    """A running gateway and its collaborators."""

    def __init__(self, gateway: Gateway, keys: Keys, rooms: Rooms, directory: Path, tls: bool) -> None:
        self.gateway, self.keys, self.rooms, self.directory = gateway, keys, rooms, directory
        self.port = gateway.port
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self.ws = f"ws{'s' if tls else ''}://127.0.0.1:{self.port}/runtimes/{RUNTIME}/ws?accountId={TENANT}"
        self.invoke = f"{self.url}/runtimes/{RUNTIME}/invocations?accountId={TENANT}"

    def count(self, name: str) -> int:
        """A counter."""
        return self.gateway.counters[name]

    async def counted(self, name: str) -> None:
        """Until a counter is not 0."""
        while not self.gateway.counters[name]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def world(
    limits: GatewayLimits | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    options: GatewayOptions | None = None,
    sockets: tuple[socket.socket, ...] = (),
    **spec: Any,
) -> AsyncIterator[World]:
    """A gateway on a free port."""
    keys, rooms = Keys(), Rooms()
    if spec:
        rooms.spec = VersionSpec(tenant=TENANT, runtime=RUNTIME, version=1, digest="d", kind="asgi", source="/", **spec)
    with tempfile.TemporaryDirectory() as directory:
        made = Gateway(
            keys,
            rooms,
            options=options or GatewayOptions(port=0, drain_s=1.0),
            limits=limits or GatewayLimits(),
            sockets=sockets,
            tls=tls,
        )
        async with made:
            yield World(made, keys, rooms, Path(directory), tls is not None)


@contextlib.asynccontextmanager
async def app_behind(world: World, app: Any) -> AsyncIterator[str]:
    """An ASGI application as a foreign worker, on a Unix socket."""
    path = str(world.directory / "app.sock")
    server = uvicorn.Server(
        uvicorn.Config(app, uds=path, log_level="error", lifespan="on", ws="websockets-sansio", ws_max_size=8 << 20)
    )
    server.config.load()
    task = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    world.rooms.http = path
    try:
        yield path
    finally:
        server.should_exit = server.force_exit = True
        await task


class Worker:
    """The worker's end of links: each stream is given to `serve`."""

    def __init__(self, serve: Callable[[Worker, Any], None]) -> None:
        self._serve = serve
        self.connections: list[_End] = []

    @contextlib.asynccontextmanager
    async def behind(self, world: World) -> AsyncIterator[Worker]:
        """Listen, and be the worker of the runtime."""
        path = str(world.directory / "link.sock")

        def make() -> _End:
            self.connections.append(_End(self._serve))
            return self.connections[-1]

        server = await asyncio.get_running_loop().create_unix_server(make, path)
        world.rooms.link = path
        world.rooms.http = "/nonexistent"
        try:
            yield self
        finally:
            server.close()
            self.die()

    def die(self) -> None:
        """The process is gone."""
        for end in self.connections:
            if end.transport is not None:
                end.transport.abort()


class _End(asyncio.Protocol):
    def __init__(self, serve: Callable[[Any, Any], None]) -> None:
        self._serve = serve
        self.link = LinkServer(peer="w1", schema=SCHEMA, now=0.0)
        self.transport: asyncio.Transport | None = None
        self.events: list[Any] = []
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        for event in self.link.receive(data, 0.0):
            self.events.append(event)
            self._serve(self, event)
        self.flush()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.flush()

    def flush(self) -> None:
        assert self.transport is not None
        while not self.paused and (data := self.link.data_to_send()):
            self.transport.write(data)


def echo(end: Any, event: Any) -> None:
    """Accepts, says each message back, consumes it."""
    if isinstance(event, Opened):
        end.link.accept(event.stream, next(iter(event.open.subprotocols), ""))
    elif isinstance(event, Message):
        end.link.send(event.stream, event.data, text=event.text)
        end.link.consumed(event.stream, event.cost)


def client(world: World, **more: Any) -> httpx.AsyncClient:
    """An HTTP client that trusts anybody's environment least."""
    return httpx.AsyncClient(trust_env=False, timeout=20, **more)
