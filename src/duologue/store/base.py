"""What a store promises.

A store holds three kinds of things, each under a tenant:

* **journals**, append-only sequences of records. A journal has an owner, known by its *epoch*: `claim` makes a new
  owner by compare-and-set, and `append` takes records from the present epoch only. An owner that was replaced is thus
  fenced at the store, wherever it still runs and whatever it believes.
* a **directory** of small JSON rows, each with a version for compare-and-set.
* **leases**, which say who does a thing until when.

Every method is synchronous, atomic, safe to call from any thread, and may block on a disk. Code on an event loop goes
through :class:`duologue.store.committer.Committer`.

Tenants, keys and names are non-empty printable text of at most 512 characters, compared by code point.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec

from duologue.errors import FencedError, StoreError

MAX_NAME = 512
#: largest JSON text of a directory row, bytes
MAX_ROW = 262_144


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The ownership of a journal: its present epoch, and the sequence number of the next record."""

    tenant: str
    key: str
    epoch: int
    next_seq: int


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """Records for one journal, in order, from the owner with `epoch`."""

    tenant: str
    key: str
    epoch: int
    records: Sequence[bytes]


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """What an append wrote: the records `first_seq` <= seq < `next_seq`."""

    tenant: str
    key: str
    epoch: int
    first_seq: int
    next_seq: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One journal record; `seq` counts from 0 without gaps, `epoch` is that of the owner that wrote it."""

    seq: int
    epoch: int
    data: bytes


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """A journal as listed."""

    key: str
    epoch: int
    next_seq: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A directory row. Versions grow with every write to the store, so that one is never seen twice."""

    key: str
    version: int
    value: Any


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease held by `owner` while now < `expires`. `token` grows with every holding: a fence for what it guards."""

    name: str
    owner: str
    expires: float
    token: int


class Store(Protocol):
    """The interface of all stores. Every method raises :class:`StoreError` when the medium fails."""

    def claim(self, tenant: str, key: str, expected_epoch: int = 0) -> Claim:
        """Become the owner of a journal, which is made if `expected_epoch` is 0.

        Epochs go on where they were when a journal is deleted and made anew, so that an owner from before stays fenced.

        Raises:
            FencedError: the journal's epoch is not `expected_epoch`; somebody else claimed it.
        """
        ...

    def append(self, tenant: str, key: str, epoch: int, records: Sequence[bytes]) -> Commit:
        """Write records, all or none. What is returned is committed.

        Raises:
            FencedError: `epoch` is not the present one, or the journal does not exist.
        """
        ...

    def append_batch(self, batch: Sequence[Append]) -> list[Commit | FencedError]:
        """Write records of many journals in one transaction; answers in the order of `batch`.

        A fenced journal gets its error as its answer and does not disturb the others. If this raises, nothing was
        written. A journal may occur more than once.
        """
        ...

    def read(self, tenant: str, key: str, from_seq: int = 0) -> Iterator[Record]:
        """The records of a journal from `from_seq` on; none if it does not exist.

        Read in pages: what is appended while it is consumed may or may not be among them.
        """
        ...

    def journal(self, tenant: str, key: str) -> Journal | None:
        """The present owner and length of a journal."""
        ...

    def journals(self, tenant: str, prefix: str = "") -> list[Journal]:
        """The journals whose key begins with `prefix`, by key."""
        ...

    def delete(self, tenant: str, key: str) -> bool:
        """Erase a journal and all its records; its owner is fenced. The key and its last epoch stay known."""
        ...

    def put(self, tenant: str, key: str, value: Any) -> int:
        """Write a directory row, whatever was there. `value` is what JSON can carry. Returns its version."""
        ...

    def cas(self, tenant: str, key: str, expected_version: int, value: Any) -> int | None:
        """Write a row if its version is `expected_version` (0: there is none); its new version, or None if not."""
        ...

    def get(self, tenant: str, key: str) -> Row | None:
        """A directory row."""
        ...

    def rows(self, tenant: str, prefix: str = "") -> list[Row]:
        """The rows whose key begins with `prefix`, by key."""
        ...

    def remove(self, tenant: str, key: str, expected_version: int | None = None) -> bool:
        """Delete a row, if its version is the expected one; whether it was deleted."""
        ...

    def acquire(self, tenant: str, name: str, owner: str, ttl: float, now: float) -> Lease | None:
        """Take a lease that is free or has expired, or extend one's own; None if another holds it.

        `now` and `ttl` are seconds on a clock that all owners share: the system's monotonic clock on one machine, wall
        time with a stated skew between machines.
        """
        ...

    def renew(self, tenant: str, name: str, owner: str, token: int, ttl: float, now: float) -> Lease | None:
        """Extend a lease. None if it has expired, even if nobody took it: what it guards may be in other hands."""
        ...

    def release(self, tenant: str, name: str, owner: str, token: int) -> bool:
        """Give a lease back; False if it was not held any more."""
        ...

    def leases(self, tenant: str, prefix: str = "") -> list[Lease]:
        """The leases that were not given back, expired ones included, by name."""
        ...

    def close(self) -> None:
        """Release the medium. May be called twice; every other call afterwards raises :class:`StoreError`."""
        ...


def check_name(what: str, name: str) -> None:
    """Refuse a tenant, key or name that a store cannot hold.

    Raises:
        StoreError: it is empty, longer than 512 characters, or holds unprintable characters.
    """
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise StoreError(f"{what} {name[:40]!r} cannot be stored.", hint=f"Use 1 to {MAX_NAME} printable characters.")


def check_lease(owner: str, ttl: float) -> None:
    """Refuse a lease that could never be held.

    Raises:
        StoreError: the owner cannot be stored, or `ttl` is not above 0.
    """
    check_name("The lease owner", owner)
    if not ttl > 0:
        raise StoreError(f"A lease of {ttl} seconds cannot be held.", hint="Give a ttl above 0.")


def encode_row(value: Any) -> bytes:
    """The JSON text of a directory row.

    Raises:
        StoreError: JSON cannot carry it, or it is longer than 256 KiB.
    """
    try:
        text = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError(f"A row cannot be written as JSON: {error}.", hint="Store plain JSON values.") from error
    if len(text) > MAX_ROW:
        raise StoreError(f"A row of {len(text)} bytes is too long.", hint=f"Rows hold {MAX_ROW} bytes of JSON.")
    return text


def fenced(key: str, epoch: int, present: int | None) -> FencedError:
    """The error for an owner with `epoch` of a journal whose epoch is `present` (None: there is no such journal)."""
    if present is None:
        return FencedError(
            f"Journal {key!r} does not exist.", hint="Claim it before writing; it may have been deleted."
        )
    return FencedError(
        f"Journal {key!r} has epoch {present}, not {epoch}.", hint="Another owner holds it: stop writing and speaking."
    )
