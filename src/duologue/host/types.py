"""What the parts of the host say to each other. Plain, immutable structs; no part imports another's insides for them.

Who does what::

    client ── gateway ──(link or HTTP over a Unix socket)── worker
                 │ authenticates by `auth`, asks placement for a worker
              control ── directory (store), deploys, placement ── workers (templates, processes, limits)

A request's way: the gateway reads its head, finds the :class:`Route`, lets the authority make an :class:`Identity` of its
credential and check the role, asks placement for an :class:`Assignment`, and carries bytes. Every row, path, key and log
line carries the tenant.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol
from urllib.parse import quote

import msgspec

from ..errors import DuologueError

Role = Literal["invoke", "observe", "deploy", "admin"]
#: role → what it may do, larger roles included by being granted apart: roles are not ordered
ROLES: tuple[Role, ...] = ("invoke", "observe", "deploy", "admin")
Tier = Literal["shared", "process", "cold"]
#: version of every message between gateway, control and workers, and of the rows in the directory
SCHEMA = 1


class _Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


# --------------------------------------------------------------------------- errors


class HostError(DuologueError):
    """What a client of the host is told: an HTTP status, the documented error name, a message, more headers.

    `type` is the managed service's name (`ValidationException`, `AccessDeniedException`, …), sent as `x-amzn-ErrorType`.
    `detail` is for those who own the agent, such as the end of its output: it is not told to its callers.
    """

    def __init__(
        self,
        status: int,
        type: str,
        message: str,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        body: dict[str, Any] | None = None,
        hint: str = "",
        detail: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.detail = detail
        self.code = type
        self.status = status
        self.type = type
        self.headers = headers
        self.body = body

    def whole(self) -> HostError:
        """The same, with what its callers are not told in the message."""
        message = f"{self.message} {self.detail}".strip()
        return HostError(self.status, self.type, message, headers=self.headers, body=self.body, hint=self.hint)


# --------------------------------------------------------------------------- requests


class RequestHead(_Struct, frozen=True, kw_only=True):
    """The head of an HTTP request as it was read.

    `target` is the request target as sent (still percent-encoded); header names are lower-case, in the order sent, values
    stripped and decoded as latin-1. `peer` is the address of the client as trusted (forwarded headers applied only from
    trusted proxies).
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    peer: str = ""
    tls: bool = False

    @property
    def path(self) -> str:
        """The encoded path."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The encoded query, "" if none."""
        return self.target.partition("?")[2]

    def header(self, name: str, default: str = "") -> str:
        """The first header called `name` (lower-case)."""
        return next((value for key, value in self.headers if key == name), default)


Kind = Literal["invocations", "ws", "stop", "connect", "openai", "client_secrets", "gemini", "metadata"]


class Route(_Struct, frozen=True, kw_only=True):
    """Where a request on the public listener goes.

    `runtime` is the id, `tenant` the account ("" if the request names neither ARN nor account: the credential's own is
    meant), `qualifier` the endpoint's name. `rest` is what follows for wires with paths of their own.
    """

    kind: Kind
    runtime: str
    tenant: str = ""
    region: str = ""
    qualifier: str = "DEFAULT"
    rest: str = ""


# --------------------------------------------------------------------------- authority


class Principal(_Struct, frozen=True, kw_only=True):
    """Who acts. `user` is set where a trusted caller acts for one (X-Amzn-…-User-Id)."""

    tenant: str
    issuer: str  # "keys" (access keys and API keys), "peer" (the local socket), or the OIDC issuer's URL
    subject: str
    user: str = ""

    @property
    def id(self) -> str:
        """One string for rows and logs."""
        # encoded part by part: `a/b` of one issuer is not `b` of the issuer `…/a`
        parts = (self.tenant, self.issuer, self.subject, *([self.user] if self.user else ()))
        return "/".join(quote(part, safe=":@+=,") for part in parts)


class Grant(_Struct, frozen=True, kw_only=True):
    """A role, on one runtime or on all ("*") of the principal's tenant."""

    role: Role
    runtime: str = "*"


class Identity(_Struct, frozen=True, kw_only=True):
    """An authenticated request: the principal, what it may do, and what its credential binds it to.

    Attributes:
        credential: names the credential in audit and logs; never the secret itself.
        expires: Unix time when it ends; None: never.
        session: the only session it is good for ("": any) — a ticket's, or one that the signature covers.
        signed_session: whether the session id is covered by the signature.
        subprotocol: what a browser must be answered in Sec-WebSocket-Protocol ("": nothing).
        origin: the only Origin a ticket may come from ("": no such rule).
        once: an id that may be used once only (a ticket's); spent by the gateway when it admits the request
            (`Authority.spend`).
        runtime, qualifier: where the credential was shown: whose configuration a refreshed token is held to.
        may_act_for: whether it may name a user to act for.
        preset: configuration, as JSON, that a client secret brings to its session ("": none).
    """

    principal: Principal
    grants: tuple[Grant, ...]
    credential: str
    mode: Literal["sigv4", "presigned", "oauth", "key", "ticket", "peer"]
    expires: float | None = None
    scopes: tuple[str, ...] = ()
    session: str = ""
    signed_session: bool = False
    subprotocol: str = ""
    origin: str = ""
    once: str = ""
    runtime: str = ""
    qualifier: str = ""
    may_act_for: bool = False
    preset: str = ""

    def may(self, role: Role, runtime: str = "*") -> bool:
        """Whether a grant covers `role` on `runtime`."""
        return any(g.role == role and g.runtime in ("*", runtime) for g in self.grants)


class Authority(Protocol):
    """Authentication and authorisation; all methods raise HostError with the documented status and body."""

    async def authenticate(self, head: RequestHead, route: Route, *, body_sha256: str | None = None) -> Identity:
        """Who sends this. `body_sha256` (hex) where a signature declares no payload hash and the body was spooled.

        Raises HostError 401/403. A signature that needs the body's hash first raises NeedsBody.
        """
        ...

    def authorise(self, identity: Identity, role: Role, tenant: str, runtime: str) -> None:
        """Raise HostError 403 unless the identity may; denials are audited."""
        ...

    async def refresh(self, identity: Identity, token: str) -> Identity:
        """A newer token for an open call: same issuer and subject, scopes never wider. Raises HostError 401/403."""
        ...

    async def ticket(
        self, identity: Identity, *, tenant: str, runtime: str, qualifier: str, session: str, origin: str
    ) -> str:
        """A single-use ticket of 30 s for a WebSocket (`?ticket=`), bound to session and Origin."""
        ...

    async def client_secret(
        self, identity: Identity, *, tenant: str, runtime: str, qualifier: str, session: str, seconds: float
    ) -> tuple[str, float]:
        """A secret for the OpenAI wire of one runtime, and its end, Unix time. `session`: `Identity.preset` of who shows it.

        Raises HostError 403.
        """
        ...

    async def spend(self, identity: Identity) -> None:
        """Use up what may be used once (`Identity.once`); nothing for other credentials. Raises HostError 403 if it was."""
        ...


class NeedsBody(Exception):
    """The signature covers a payload hash that no header declares: spool the body, hash it, and ask again."""


# --------------------------------------------------------------------------- versions


class Limits(_Struct, frozen=True, kw_only=True):
    """Of a session's process. 0: none. `disk_bytes`: of its home, in which its temporary files are."""

    memory_bytes: int = 512 << 20
    cpu: float = 1.0  # cores
    processes: int = 64
    disk_bytes: int = 1 << 30


class Lifecycle(_Struct, frozen=True, kw_only=True):
    """Seconds. A session idle (no socket, no request, not HealthyBusy) for `idle_s` ends; none lives longer than `lifetime_s`."""

    idle_s: float = 900.0
    lifetime_s: float = 28_800.0
    grace_s: float = 15.0


class Storage(_Struct, frozen=True, kw_only=True):
    """Files of a session that outlive its process: the session's next use finds them.

    `path`: ``/mnt/NAME``, where they are mounted; "": none. `bytes`: most that they may take on the disk.
    """

    path: str = ""
    bytes: int = 1 << 30


#: what a command may reach
Network = Literal["auto", "own", "host"]


class VersionSpec(_Struct, frozen=True, kw_only=True):
    """One immutable, digest-addressed version of a runtime.

    `source` is a directory owned by the host that holds the unpacked code, read-only. `kind`: "agent" (a Python file or
    package that makes a Duologue Agent; `entry` is "app.py:name"), "asgi" ("app.py:app"), "command" (`command` is run with
    PORT-less contract: it listens on the Unix socket in $DUOLOGUE_SOCKET or, in a network namespace of its own, on 8080).
    `network`, of a command: "own", a namespace that reaches nothing and that nothing reaches, "host", the machine's; "auto"
    is "host" for a command that names the socket among its words, and "own" for any other.
    """

    tenant: str
    runtime: str
    version: int
    digest: str
    kind: Literal["agent", "asgi", "command"]
    source: str
    entry: str = ""
    command: tuple[str, ...] = ()
    tier: Tier = "process"
    isolation: Literal["strict", "best-effort"] = "best-effort"
    limits: Limits = Limits()
    lifecycle: Lifecycle = Lifecycle()
    storage: Storage = Storage()
    environment: dict[str, str] = {}
    secrets: tuple[str, ...] = ()  # names; values are delivered after assignment
    headers: tuple[str, ...] = ()  # request headers that the app may see
    origins: tuple[str, ...] = ()
    auth: dict[str, Any] = {}  # the OAuth authorizer's configuration, vendor's names
    network: Network = "auto"
    packages: str = ""  # directory of the installed dependencies, on sys.path after `source`; "": none
    schema: int = SCHEMA

    @property
    def id(self) -> str:
        """tenant/runtime:version"""
        return f"{self.tenant}/{self.runtime}:{self.version}"


# --------------------------------------------------------------------------- placement


class AssignRequest(_Struct, frozen=True, kw_only=True):
    """What the gateway asks: a worker for this session, made if it is new."""

    tenant: str
    runtime: str
    qualifier: str
    session: str  # "": allocate one
    principal: str  # Principal.id
    signed_session: bool = False
    channel: str = "websocket"
    metadata: dict[str, Any] = {}


class Assignment(_Struct, frozen=True, kw_only=True):
    """A session and the worker that has it.

    `link`: Unix socket of the multiplexed link ("" for a foreign app); `http`: Unix socket that serves the container
    contract over HTTP. `epoch` counts the session's owners. `metadata`, of a foreign app's session, is what its requests carry.
    """

    tenant: str
    runtime: str
    version: int
    session: str
    epoch: int
    worker: str
    link: str
    http: str
    new: bool
    lifetime_left_s: float
    headers: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}


class Placement(Protocol):
    """Control's face towards a gateway, in the same process or over RPC. Every method raises HostError."""

    async def version(self, tenant: str, runtime: str, qualifier: str) -> VersionSpec:
        """What a qualifier means now. HostError 404."""
        ...

    async def assign(self, request: AssignRequest) -> Assignment:
        """The worker of a session; concurrent first uses of an id join one start.

        HostError 403 (another principal's session), 404, 409 (stopping), 424 (could not start), 429/503 (no capacity,
        `Retry-After`).
        """
        ...

    async def opened(self, assignment: Assignment, kind: Kind) -> str:
        """A socket or request of the session begins: it is busy. Returns a handle for `closed`."""
        ...

    async def closed(self, handle: str) -> None:
        """It ended."""
        ...

    async def stop(self, tenant: str, runtime: str, session: str, principal: str, *, reason: str = "stopped") -> bool:
        """End a session, if it has not ended; False if there never was one. HostError 403 if it belongs to another principal."""
        ...
