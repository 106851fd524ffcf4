"""Tickets: what a browser that was told yes by ``POST /connect`` opens its WebSocket with.

Good for 30 s, once, for one runtime, one session and one Origin. Stored as their SHA-256 under :data:`HOST_TENANT` (a
ticket is shown before it is known whose it is), the tenant inside; spent by a delete that compares the row's version, so
that of any number of gateways one wins.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable

import msgspec

from ...store import Store
from ..types import SCHEMA, Identity
from .audit import HOST_TENANT

TICKET_S = 30.0
_PREFIX = "dlt_"
_TICKET = re.compile(r"dlt_[A-Za-z0-9_-]{43}")
_ROW = "auth/ticket/"
_SWEEP_S = 30.0


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket as stored; `identity` is whom it was given to, `until` Unix time."""

    id: str
    tenant: str
    runtime: str
    qualifier: str
    session: str
    origin: str
    until: float
    identity: Identity
    schema: int = SCHEMA


class Tickets:
    """The tickets of all tenants. Synchronous: it reads and writes the store."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._swept = 0.0

    def make(self, identity: Identity, *, tenant: str, runtime: str, qualifier: str, session: str, origin: str) -> str:
        """A new ticket's text, which is not kept."""
        now = self._clock()
        if now - self._swept >= _SWEEP_S:
            self._swept = now
            self.sweep()
        text = _PREFIX + secrets.token_urlsafe(32)
        ticket = Ticket(
            id=_id(text),
            tenant=tenant,
            runtime=runtime,
            qualifier=qualifier,
            session=session,
            origin=origin,
            until=now + TICKET_S,
            identity=identity,
        )
        self._store.put(HOST_TENANT, _ROW + ticket.id, msgspec.to_builtins(ticket))
        return text

    def find(self, text: str) -> Ticket | None:
        """The ticket that `text` is; None if it is unknown, spent or over. It stays good."""
        found = self._get(_id(text)) if _TICKET.fullmatch(text) else None
        return found[0] if found else None

    def spend(self, id: str) -> bool:
        """Use a ticket up; False if it is unknown, spent or over. True once for each."""
        found = self._get(id)
        return found is not None and self._store.remove(HOST_TENANT, _ROW + id, found[1])

    def sweep(self) -> int:
        """Erase what is over; how many that were."""
        now, gone = self._clock(), 0
        for row in self._store.rows(HOST_TENANT, _ROW):
            if row.value["until"] <= now:
                gone += self._store.remove(HOST_TENANT, row.key, row.version)
        return gone

    def _get(self, id: str) -> tuple[Ticket, int] | None:
        row = self._store.get(HOST_TENANT, _ROW + id)
        ticket = msgspec.convert(row.value, Ticket) if row else None
        return (ticket, row.version) if row and ticket and self._clock() < ticket.until else None


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
