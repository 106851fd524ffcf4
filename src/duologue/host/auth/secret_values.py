"""Values that agents need and nobody may see: ``secret://name``, per tenant, in the vault.

They are written through the API and never read through it: only a worker gets them, after it was assigned a session.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

import msgspec

from ...errors import ConfigurationError
from ...store import Store
from ..types import SCHEMA
from .audit import Audit
from .keys import check_tenant
from .vault import Sealed, Secret, Vault

MAX_VALUE = 65_536
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")
_ROW = "auth/secret/"
_SCHEME = "secret://"


class SecretName(msgspec.Struct, frozen=True, kw_only=True):
    """A secret as listed; `updated` is Unix time."""

    name: str
    updated: float


class _SecretRow(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    name: str
    updated: float
    sealed: Sealed
    schema: int = SCHEMA


class Secrets:
    """The secrets of all tenants. Synchronous: it reads and writes the store."""

    def __init__(self, store: Store, vault: Vault, audit: Audit, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._vault = vault
        self._audit = audit
        self._clock = clock

    def put(self, tenant: str, name: str, value: str, *, by: str = "") -> None:
        """Write a value, whatever was there.

        Raises:
            ConfigurationError: a name that cannot be, or more than 64 KiB.
        """
        check_tenant(tenant)
        check_name(name)
        if len(value.encode()) > MAX_VALUE:
            raise ConfigurationError(f"The secret {name!r} is too long.", hint=f"Values have up to {MAX_VALUE} bytes.")
        row = _SecretRow(
            tenant=tenant, name=name, updated=self._clock(), sealed=self._vault.seal(value, _place(tenant, name))
        )
        self._store.put(tenant, _ROW + name, msgspec.to_builtins(row))
        self._audit.record(tenant, "secret.put", actor=by, subject=name)

    def delete(self, tenant: str, name: str, *, by: str = "") -> bool:
        """Erase a value; whether there was one."""
        done = self._store.remove(tenant, _ROW + name)
        if done:
            self._audit.record(tenant, "secret.delete", actor=by, subject=name)
        return done

    def names(self, tenant: str) -> list[SecretName]:
        """What there is, by name; no values."""
        found = (msgspec.convert(row.value, _SecretRow) for row in self._store.rows(tenant, _ROW))
        return [SecretName(name=row.name, updated=row.updated) for row in found]

    def absent(self, tenant: str, names: Iterable[str]) -> list[str]:
        """Which of these there are not."""
        return [name for name in names if self._store.get(tenant, _ROW + name) is None]

    def resolve(self, tenant: str, names: Iterable[str], *, to: str = "") -> dict[str, Secret]:
        """The values for a worker (`to` names it in the audit log).

        Raises:
            ConfigurationError: there is no such secret.
        """
        given = {}
        for name in names:
            row = self._store.get(tenant, _ROW + name)
            if row is None:
                raise ConfigurationError(f"There is no secret {name!r}.", hint="Write it first.")
            found = msgspec.convert(row.value, _SecretRow)
            given[name] = self._vault.open(found.sealed, _place(tenant, name))
        if given:
            self._audit.record(tenant, "secret.deliver", actor=to, subject=",".join(given))
        return given

    def reseal(self, tenant: str) -> int:
        """Seal a tenant's values under the current host key; how many were under another."""
        moved = 0
        for row in self._store.rows(tenant, _ROW):
            found = msgspec.convert(row.value, _SecretRow)
            if found.sealed.key == self._vault.keys.current:
                continue
            place = _place(tenant, found.name)
            sealed = self._vault.seal(self._vault.open(found.sealed, place).reveal(), place)
            fresh = msgspec.to_builtins(msgspec.structs.replace(found, sealed=sealed))
            moved += self._store.cas(tenant, row.key, row.version, fresh) is not None
        return moved


def secret_name(reference: str) -> str | None:
    """The name in ``secret://name``; None for a text that is no such reference.

    Raises:
        ConfigurationError: it is one, with a name that cannot be.
    """
    if not reference.startswith(_SCHEME):
        return None
    name = reference.removeprefix(_SCHEME)
    check_name(name)
    return name


def check_name(name: str) -> None:
    """Raise ConfigurationError for what no secret can be called."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"No secret can be called {name[:40]!r}.", hint="Begin with a letter; then letters, digits, '_', '.', '-'."
        )


def _place(tenant: str, name: str) -> str:
    return f"{tenant}/{_ROW}{name}"
