"""A user id for each tenant, kept for good: files that a tenant's workers wrote must never become another's."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ...errors import ConfigurationError, OverloadedError


class Uids:
    """Hands out ids from a range.

    Args:
        path: JSON file that remembers them, 0600.
        first, count: the range.

    Raises ConfigurationError if the file is damaged: guessing would mix tenants.
    """

    def __init__(self, path: Path, first: int, count: int) -> None:
        self._path = path
        self._first = first
        self._count = count
        try:
            self._given: dict[str, int] = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            self._given = {}
        except msgspec.DecodeError as error:
            raise ConfigurationError(
                f"{path} is damaged: {error}.", hint="Restore it: it says which files belong to which tenant."
            ) from None

    def of(self, tenant: str) -> int:
        """The tenant's id. Raises OverloadedError when there are none left."""
        if (known := self._given.get(tenant)) is not None:
            return known
        taken = set(self._given.values())
        id = next((id for id in range(self._first, self._first + self._count) if id not in taken), None)
        if id is None:
            raise OverloadedError(
                f"All {self._count} user ids for tenants are given out.", hint="Give the fleet a larger range."
            )
        self._given[tenant] = id
        fresh = self._path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(self._given))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        return id
