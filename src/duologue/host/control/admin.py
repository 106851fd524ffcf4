"""Operations of administrators: status, keys, secrets, audit, drain."""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec

from ..types import Grant, Role
from .arn import invalid, missing
from .context import Context
from .operations import LIMIT, Done, Operation, Parameter


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How the host is. `draining`: why it takes no new session, "" if it does; `parts`: what each part tells of itself."""

    status: Literal["ok", "draining"]
    draining: str
    account: str
    region: str
    url: str
    sessions: int
    channels: tuple[str, ...]
    parts: dict[str, Any]


class KeyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be made.

    Attributes:
        kind: ``api`` (a bearer token) or ``access`` (an access key for AWS SDKs).
        roles: on `agent` (a name or id), or on all.
        subject: who it speaks for; keys of one subject are one principal. Its own id unless given.
        for_users: whether it may act for users it names.
        expires_s: how long it is good; 0: until it is revoked.
    """

    kind: Literal["api", "access"] = "api"
    roles: tuple[Role, ...] = ("invoke",)
    agent: str = "*"
    subject: str = ""
    label: str = ""
    for_users: bool = False
    expires_s: float = 0.0


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key, without its secret. Times are Unix seconds; 0: never."""

    id: str
    kind: str
    subject: str
    grants: tuple[Grant, ...]
    label: str
    for_users: bool
    created: float
    expires: float
    revoked: float


class NewKeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key just made. `secret` is the API key itself, or the secret access key; it is not shown again."""

    key: KeyView
    secret: str


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """Keys, revoked ones included."""

    keys: list[KeyView]


class SecretValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The value of a secret. It cannot be read back."""

    value: str

    def __repr__(self) -> str:
        return "SecretValue(…)"


class SecretView(msgspec.Struct, frozen=True, kw_only=True):
    """A secret, without its value."""

    name: str
    updated: float


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Secrets by name."""

    secrets: list[SecretView]


class AuditView(msgspec.Struct, frozen=True, kw_only=True):
    """Records of the audit log, as written; `next` goes into `after` for those that follow, "" if there are none."""

    entries: list[dict[str, Any]]
    next: str = ""


def _key(key: Any) -> KeyView:
    return KeyView(
        id=key.id,
        kind=key.kind,
        subject=key.subject,
        grants=key.grants,
        label=key.label,
        for_users=key.for_users,
        created=key.created,
        expires=key.expires or 0.0,
        revoked=key.revoked or 0.0,
    )


async def _status(context: Context) -> Status:
    control = context.control
    draining = control.placement.draining
    own = context.tenant == control.account
    return Status(
        status="draining" if draining else "ok",
        draining=draining,
        account=control.account,
        region=control.region,
        url=control.url,
        sessions=control.placement.count
        if own
        else sum(count for states in control.placement.counts_by(context.tenant).values() for count in states.values()),
        channels=control.channels.names,
        parts=control.status() if own else {},
    )


async def _make_key(context: Context) -> NewKeyView:
    wanted: KeyRequest = context.body
    if not wanted.roles or len(set(wanted.roles)) != len(wanted.roles):
        raise invalid("A key has one or more roles, each once.")
    if not 0 <= wanted.expires_s <= 10 * 366 * 86_400:
        raise invalid("A key expires within ten years, or never (0).")
    # By its id: another agent may have the name one day.
    runtime = "*" if wanted.agent == "*" else (await context.agent("admin", wanted.agent)).id
    made = await context.aside(
        context.control.keys.create,
        wanted.kind,
        context.tenant,
        subject=wanted.subject,
        grants=tuple(Grant(role=role, runtime=runtime) for role in wanted.roles),
        label=wanted.label,
        for_users=wanted.for_users,
        expires=time.time() + wanted.expires_s if wanted.expires_s else None,
        by=context.by,
    )
    return NewKeyView(key=_key(made.key), secret=made.secret.reveal())


async def _keys(context: Context) -> Keys:
    found = await context.aside(context.control.keys.list_keys, context.tenant)
    return Keys(keys=[_key(key) for key in found])


async def _revoke(context: Context) -> Done:
    if not await context.aside(context.control.keys.revoke, context.tenant, context.path["key"], by=context.by):
        raise missing(f"There is no key {context.path['key'][:64]!r}.")
    return Done()


async def _secrets(context: Context) -> Secrets:
    found = await context.aside(lambda: list(context.control.secrets.names(context.tenant)))
    return Secrets(secrets=[SecretView(name=row.name, updated=row.updated) for row in found])


async def _put_secret(context: Context) -> Done:
    wanted: SecretValue = context.body
    await context.aside(context.control.secrets.put, context.tenant, context.path["name"], wanted.value, by=context.by)
    return Done()


async def _delete_secret(context: Context) -> Done:
    name = context.path["name"]
    if not await context.aside(context.control.secrets.delete, context.tenant, name, by=context.by):
        raise missing(f"There is no secret {name!r}.")
    return Done()


async def _audit(context: Context) -> AuditView:
    limit, start = context.number("limit", 100, 1, 1000), context.number("after", 0, 0, 999_999_999)

    def read() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for entry in context.control.audit.entries(context.tenant, start):
            found.append(msgspec.to_builtins(entry))
            if len(found) > limit:
                break
        return found

    context.record("audit.read", str(start))
    entries = await context.aside(read)
    return AuditView(entries=entries[:limit], next=str(start + limit) if len(entries) > limit else "")


async def _drain(context: Context) -> Done:
    control = context.control
    if context.tenant != control.account:
        raise invalid(
            "Only the host's own account drains the host.", "POST /sessions/drain is for a tenant's sessions."
        )
    context.record("host.drain")
    control.drain()
    return Done(count=control.placement.count)


_AFTER = Parameter(
    name="after",
    about="Go on after this record: `next` of the answer before.",
    schema={"type": "string", "pattern": "^[0-9]{1,9}$"},
)


def _op(id: str, method: Any, path: str, role: Any, about: str, handler: Any, **more: Any) -> Operation:
    return Operation(id=id, method=method, path=path, role=role, about=about, handler=handler, **more)


OPERATIONS: tuple[Operation, ...] = (
    _op("status", "GET", "/status", "observe", "How the host is.", _status, answer=Status),
    _op(
        "drain",
        "POST",
        "/drain",
        "admin",
        "Shut the host down once its sessions have ended; how many there are.",
        _drain,
        answer=Done,
        status=202,
    ),
    _op(
        "makeKey",
        "POST",
        "/keys",
        "admin",
        "Make a key.",
        _make_key,
        body=KeyRequest,
        body_optional=True,
        answer=NewKeyView,
        status=201,
    ),
    _op("listKeys", "GET", "/keys", "admin", "The keys of a tenant.", _keys, answer=Keys),
    _op("revokeKey", "DELETE", "/keys/{key}", "admin", "End a key for good.", _revoke, answer=Done),
    _op("listSecrets", "GET", "/secrets", "admin", "The names of a tenant's secrets.", _secrets, answer=Secrets),
    _op("putSecret", "PUT", "/secrets/{name}", "admin", "Write a secret.", _put_secret, body=SecretValue, answer=Done),
    _op("deleteSecret", "DELETE", "/secrets/{name}", "admin", "Erase a secret.", _delete_secret, answer=Done),
    _op(
        "audit",
        "GET",
        "/audit",
        "admin",
        "The tenant's audit log, oldest first.",
        _audit,
        answer=AuditView,
        query=(LIMIT, _AFTER),
    ),
)
