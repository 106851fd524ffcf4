"""Rows of what is shown before it is known whose it is, and is good until a time: tickets and client secrets.

They are kept under :data:`HOST_TENANT` by the SHA-256 of what is shown, the tenant inside. `until` of a row is Unix time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from ...store import Store
from .audit import HOST_TENANT

_SWEEP_S = 30.0


class Expiring[T: msgspec.Struct]:
    """Rows of one kind. Synchronous: it reads and writes the store.

    Args:
        kind: the struct of a row; it has a field `until`.
        prefix: of the rows' keys.

    Attributes:
        alive: how many were good when they were last counted, and those put since then by this process.
    """

    def __init__(self, store: Store, kind: type[T], prefix: str, clock: Callable[[], float]) -> None:
        self._store = store
        self._kind = kind
        self._prefix = prefix
        self._clock = clock
        self._swept = float("-inf")
        self.alive = 0

    def tidy(self) -> None:
        """Erase what is over, unless that was done within the last 30 s."""
        if self._clock() - self._swept >= _SWEEP_S:
            self.sweep()

    def sweep(self) -> int:
        """Erase what is over; how many that were."""
        self._swept, gone, alive = self._clock(), 0, 0
        for row in self._store.rows(HOST_TENANT, self._prefix):
            if row.value["until"] <= self._swept:
                gone += self._store.remove(HOST_TENANT, row.key, row.version)
            else:
                alive += 1
        self.alive = alive
        return gone

    def put(self, id: str, row: T) -> None:
        """Keep a row."""
        self._store.put(HOST_TENANT, self._prefix + id, msgspec.to_builtins(row))
        self.alive += 1

    def get(self, id: str) -> tuple[T, int] | None:
        """A row that is still good, and its version."""
        row = self._store.get(HOST_TENANT, self._prefix + id)
        if row is None or self._clock() >= row.value["until"]:
            return None
        return msgspec.convert(row.value, self._kind), row.version

    def take(self, id: str) -> bool:
        """Erase a row that is still good; of any number of processes that do so at a time one is told True."""
        found = self.get(id)
        return found is not None and self._store.remove(HOST_TENANT, self._prefix + id, found[1])


def id_of(text: str) -> str:
    """What a row is found by."""
    return hashlib.sha256(text.encode()).hexdigest()
