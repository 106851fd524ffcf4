"""Tickets: what a browser that was told yes by ``POST /connect`` opens its WebSocket with.

Good for 30 s, once, for one runtime, one session and one Origin. Stored as their SHA-256; spent by a delete that compares the
row's version, so that of any number of gateways one wins.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

import msgspec

from ...store import Store
from ..types import SCHEMA, Identity
from .expiring import Expiring, id_of

TICKET_S = 30.0
_PREFIX = "dlt_"
_TICKET = re.compile(r"dlt_[A-Za-z0-9_-]{43}")


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
        self._clock = clock
        self._rows = Expiring(store, Ticket, "auth/ticket/", clock)

    def make(self, identity: Identity, *, tenant: str, runtime: str, qualifier: str, session: str, origin: str) -> str:
        """A new ticket's text, which is not kept."""
        self._rows.tidy()
        text = _PREFIX + secrets.token_urlsafe(32)
        ticket = Ticket(
            id=id_of(text),
            tenant=tenant,
            runtime=runtime,
            qualifier=qualifier,
            session=session,
            origin=origin,
            until=self._clock() + TICKET_S,
            identity=identity,
        )
        self._rows.put(ticket.id, ticket)
        return text

    def find(self, text: str) -> Ticket | None:
        """The ticket that `text` is; None if it is unknown, spent or over. It stays good."""
        found = self._rows.get(id_of(text)) if _TICKET.fullmatch(text) else None
        return found[0] if found else None

    def spend(self, id: str) -> bool:
        """Use a ticket up; False if it is unknown, spent or over. True once for each."""
        return self._rows.take(id)
