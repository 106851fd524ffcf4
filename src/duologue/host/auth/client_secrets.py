"""Client secrets of the OpenAI wire: what a page opens its realtime sessions with, made by somebody who holds a real credential.

Good for one runtime and its OpenAI wire alone, for as long as was asked, any number of times, from any page that the runtime
lists. Each carries the session's configuration that was posted with it. Stored like tickets, as their SHA-256.

Source: OpenAI's API reference, "Create client secret" (`POST /v1/realtime/client_secrets`).
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

import msgspec

from ...errors import StoreError
from ...store import Store
from ..types import SCHEMA, Identity
from .expiring import Expiring, id_of

CLIENT_SECRET_PREFIX = "ek_"
#: how long one may be good, seconds
MIN_S, MAX_S = 10, 7200
_SECRET = re.compile(r"ek_[A-Za-z0-9_-]{43}")


class ClientSecret(msgspec.Struct, frozen=True, kw_only=True):
    """A client secret as stored.

    `runtime` is the runtime's id, `session` the configuration as JSON ("": none), `until` Unix time, `identity` whom it was
    given to.
    """

    id: str
    tenant: str
    runtime: str
    qualifier: str
    session: str
    until: float
    identity: Identity
    schema: int = SCHEMA


class ClientSecrets:
    """The client secrets of all tenants. Synchronous: it reads and writes the store.

    Args:
        most: how many may be good at a time, as far as this process knows of them.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time, most: int = 100_000) -> None:
        self._clock = clock
        self._most = most
        self._rows = Expiring(store, ClientSecret, "auth/client-secret/", clock)

    def make(
        self, identity: Identity, *, tenant: str, runtime: str, qualifier: str, session: str, seconds: float
    ) -> tuple[str, float]:
        """A new secret's text, which is not kept, and until when it is good, Unix time.

        Raises:
            StoreError: there are too many.
        """
        self._rows.tidy()
        if self._rows.alive >= self._most:
            raise StoreError("There are too many client secrets.", hint="Let them expire sooner (expires_after).")
        text = CLIENT_SECRET_PREFIX + secrets.token_urlsafe(32)
        until = self._clock() + seconds
        if identity.expires is not None:
            until = min(until, identity.expires)
        secret = ClientSecret(
            id=id_of(text),
            tenant=tenant,
            runtime=runtime,
            qualifier=qualifier,
            session=session,
            until=until,
            identity=identity,
        )
        self._rows.put(secret.id, secret)
        return text, until

    def find(self, text: str) -> ClientSecret | None:
        """The client secret that `text` is; None if it is unknown or over."""
        found = self._rows.get(id_of(text)) if _SECRET.fullmatch(text) else None
        return found[0] if found else None
