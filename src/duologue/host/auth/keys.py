"""Access keys (SigV4) and API keys: made, listed, revoked, looked up.

The secret of a key is shown once, when it is made. Of an API key only the SHA-256 is kept: it is random and long, so that
a fast hash is enough. The secret of an access key is what verification computes with, and lies in the vault.

Rows: under the tenant ``auth/key/<id>``; under :data:`HOST_TENANT` ``auth/key/<id>`` names the tenant, since a request
shows a key before it is known whose it is. Every look-up reads the store: a revoked key is refused from the next request on.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from ...errors import ConfigurationError, StoreError
from ...store import Row, Store
from ..types import ROLES, SCHEMA, Grant, Principal
from .audit import HOST_TENANT, Audit
from .vault import Sealed, Secret, Vault

#: what API keys begin with, so that scanners of repositories find them
API_KEY_PREFIX = "dlk_"
#: who issues the principals of keys
ISSUER = "keys"

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_SUBJECT = re.compile(r"[^\x00-\x1f\x7f/]{1,128}")
_RUNTIME = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_ACCESS_ID = re.compile(r"DLAK[A-Z2-7]{16}")
_API_KEY = re.compile(r"dlk_([a-z2-7]{16})_([A-Za-z0-9_-]{43})")
_ROW = "auth/key/"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as listed: everything but its secret.

    Attributes:
        subject: who it speaks for; keys of one subject are credentials of one principal.
        for_users: whether it may act for a user named in X-Amzn-Bedrock-AgentCore-Runtime-User-Id.
        created, expires, revoked: Unix times; None: never.
    """

    id: str
    kind: Literal["access", "api"]
    tenant: str
    subject: str
    grants: tuple[Grant, ...]
    label: str = ""
    for_users: bool = False
    created: float = 0.0
    expires: float | None = None
    revoked: float | None = None

    @property
    def principal(self) -> Principal:
        """Who it speaks for."""
        return Principal(tenant=self.tenant, issuer=ISSUER, subject=self.subject)

    def good(self, now: float) -> bool:
        """Whether it may be used."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key just made. `secret` is the secret access key, or the whole API key: it is not shown again."""

    key: Key
    secret: Secret


class _KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    key: Key
    sha256: str = ""
    sealed: Sealed | None = None
    schema: int = SCHEMA


class Keys:
    """The keys of all tenants. Synchronous: it reads and writes the store."""

    def __init__(self, store: Store, vault: Vault, audit: Audit, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._vault = vault
        self._audit = audit
        self._clock = clock

    # -- making ----------------------------------------------------------------------------------------------------

    def create(
        self,
        kind: Literal["access", "api"],
        tenant: str,
        *,
        subject: str = "",
        grants: tuple[Grant, ...] = (Grant(role="invoke"),),
        label: str = "",
        for_users: bool = False,
        expires: float | None = None,
        by: str = "",
    ) -> NewKey:
        """Make a key.

        Args:
            subject: who it speaks for; its own id if not given.
            expires: Unix time.
            by: the principal's id that makes it, for the audit log.

        Raises:
            ConfigurationError: a name, role or time that cannot be.
        """
        now = self._clock()
        _check(kind, tenant, subject, grants, label)
        if expires is not None and not now < expires < 1e11:
            raise ConfigurationError("The key would never be good.", hint="Give an expiry that is still to come.")
        letters = base64.b32encode(secrets.token_bytes(10)).decode()
        id = f"DLAK{letters}" if kind == "access" else letters.lower()
        text = secrets.token_urlsafe(30) if kind == "access" else f"{API_KEY_PREFIX}{id}_{secrets.token_urlsafe(32)}"
        key = Key(
            id=id,
            kind=kind,
            tenant=tenant,
            subject=subject or id,
            grants=grants,
            label=label,
            for_users=for_users,
            created=now,
            expires=expires,
        )
        row = (
            _KeyRow(key=key, sha256=_sha256(text)) if kind == "api" else _KeyRow(key=key, sealed=self._seal(key, text))
        )
        if self._store.cas(tenant, _ROW + id, 0, msgspec.to_builtins(row)) is None:
            raise StoreError("The key's id is taken.", hint="Try again.")
        # last, so that a key is not found before it is whole
        self._store.put(HOST_TENANT, _ROW + id, {"tenant": tenant, "schema": SCHEMA})
        granted = ",".join(f"{grant.role}:{grant.runtime}" for grant in grants)
        self._audit.record(tenant, "key.create", actor=by, subject=id, reason=f"{kind} {key.subject} {granted}")
        return NewKey(key=key, secret=Secret(text))

    def list_keys(self, tenant: str) -> list[Key]:
        """All keys of a tenant, revoked ones included, oldest first."""
        found = [_decode(row).key for row in self._store.rows(tenant, _ROW)]
        return sorted(found, key=lambda key: (key.created, key.id))

    def revoke(self, tenant: str, id: str, *, by: str = "") -> bool:
        """End a key for good; its secret is erased, its row stays listed. False if the tenant has no such key."""
        while True:
            row = self._store.get(tenant, _ROW + id)
            if row is None:
                return False
            found = _decode(row)
            if found.key.revoked is not None:
                return True
            dead = _KeyRow(key=msgspec.structs.replace(found.key, revoked=self._clock()))
            if self._store.cas(tenant, _ROW + id, row.version, msgspec.to_builtins(dead)) is not None:
                self._audit.record(tenant, "key.revoke", actor=by, subject=id)
                return True

    def reseal(self) -> int:
        """Seal every access key's secret under the current host key; how many were under another."""
        moved = 0
        for index in self._store.rows(HOST_TENANT, _ROW):
            tenant = index.value["tenant"]
            row = self._store.get(tenant, index.key)
            found = _decode(row) if row else None
            if row is None or found is None or found.sealed is None or found.sealed.key == self._vault.keys.current:
                continue
            text = self._vault.open(found.sealed, _place(found.key)).reveal()
            fresh = msgspec.structs.replace(found, sealed=self._seal(found.key, text))
            # lost to a revocation: then there is nothing to seal any more
            moved += self._store.cas(tenant, index.key, row.version, msgspec.to_builtins(fresh)) is not None
        return moved

    # -- using -----------------------------------------------------------------------------------------------------

    def access(self, id: str) -> tuple[Key, Secret] | None:
        """A good access key and its secret; None if it is unknown, revoked or over."""
        found = self._find(id) if _ACCESS_ID.fullmatch(id) else None
        if found is None or found.sealed is None:
            return None
        return found.key, self._vault.open(found.sealed, _place(found.key))

    def api(self, text: str) -> Key | None:
        """The good API key that `text` is; None otherwise."""
        shape = _API_KEY.fullmatch(text)
        found = self._find(shape[1]) if shape else None
        if found is None or found.key.kind != "api":
            return None
        return found.key if hmac.compare_digest(found.sha256, _sha256(text)) else None

    def good(self, id: str) -> bool:
        """Whether there is such a key, and it is neither revoked nor over."""
        return self._find(id) is not None

    def _find(self, id: str) -> _KeyRow | None:
        index = self._store.get(HOST_TENANT, _ROW + id)
        row = self._store.get(index.value["tenant"], _ROW + id) if index else None
        found = _decode(row) if row else None
        return found if found is not None and found.key.good(self._clock()) else None

    def _seal(self, key: Key, text: str) -> Sealed:
        return self._vault.seal(text, _place(key))


def _place(key: Key) -> str:
    return f"{key.tenant}/{_ROW}{key.id}"


def _decode(row: Row) -> _KeyRow:
    return msgspec.convert(row.value, _KeyRow)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def check_tenant(tenant: str) -> None:
    """Raise ConfigurationError for what no tenant can be called."""
    if not _TENANT.fullmatch(tenant):
        raise ConfigurationError(
            f"No tenant can be called {tenant[:70]!r}.", hint="Use 1 to 64 of A-Z a-z 0-9 and '-'."
        )


def _check(kind: str, tenant: str, subject: str, grants: tuple[Grant, ...], label: str) -> None:
    check_tenant(tenant)
    if kind not in ("access", "api"):
        raise ConfigurationError(f"There is no kind of key {kind!r}.", hint="Use 'access' or 'api'.")
    if subject and not _SUBJECT.fullmatch(subject):
        raise ConfigurationError("The key's subject cannot be used.", hint="Use 1 to 128 printable characters, no '/'.")
    if len(label) > 256 or not label.isprintable():
        raise ConfigurationError("The key's label cannot be used.", hint="Use up to 256 printable characters.")
    if not grants or len(grants) > 64:
        raise ConfigurationError("A key needs 1 to 64 grants.", hint="Grant a role: invoke, observe, deploy, admin.")
    for grant in grants:
        if grant.role not in ROLES:
            raise ConfigurationError(f"There is no role {grant.role!r}.", hint=f"Roles: {', '.join(ROLES)}.")
        if not _RUNTIME.fullmatch(grant.runtime):
            raise ConfigurationError(f"No runtime is called {grant.runtime[:130]!r}.", hint="Give its id, or '*'.")
