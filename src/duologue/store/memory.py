"""A store in memory, for tests, virtual time, and sessions that need not survive. Behaves as SQLiteStore does."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from duologue.errors import FencedError, StoreError
from duologue.store.base import (
    Append,
    Claim,
    Commit,
    Journal,
    Lease,
    Record,
    Row,
    check_lease,
    check_name,
    encode_row,
    fenced,
)


class _Journal:
    __slots__ = ("epoch", "live", "records")

    def __init__(self) -> None:
        self.epoch = 0
        self.live = False
        self.records: list[Record] = []


class MemoryStore:
    """See :class:`duologue.store.base.Store`. Nothing survives the process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._journals: dict[tuple[str, str], _Journal] = {}
        self._rows: dict[tuple[str, str], tuple[int, bytes]] = {}
        self._leases: dict[tuple[str, str], Lease] = {}
        self._version = 0
        self._closed = False

    def _open(self) -> threading.RLock:
        if self._closed:
            raise StoreError("The store is closed.", hint="Open a new one.")
        return self._lock

    def claim(self, tenant: str, key: str, expected_epoch: int = 0) -> Claim:
        check_name("The tenant", tenant)
        check_name("The journal key", key)
        with self._open():
            journal = self._journals.setdefault((tenant, key), _Journal())
            present = journal.epoch if journal.live else 0
            if present != expected_epoch:
                raise fenced(key, expected_epoch, present)
            journal.live = True
            journal.epoch += 1
            return Claim(tenant=tenant, key=key, epoch=journal.epoch, next_seq=len(journal.records))

    def append(self, tenant: str, key: str, epoch: int, records: Sequence[bytes]) -> Commit:
        (answer,) = self.append_batch([Append(tenant=tenant, key=key, epoch=epoch, records=records)])
        if isinstance(answer, FencedError):
            raise answer
        return answer

    def append_batch(self, batch: Sequence[Append]) -> list[Commit | FencedError]:
        answers: list[Commit | FencedError] = []
        with self._open():
            for part in batch:
                journal = self._journals.get((part.tenant, part.key))
                if journal is None or not journal.live or journal.epoch != part.epoch:
                    present = journal.epoch if journal is not None and journal.live else None
                    answers.append(fenced(part.key, part.epoch, present))
                    continue
                first = len(journal.records)
                journal.records.extend(
                    Record(seq=seq, epoch=part.epoch, data=bytes(data)) for seq, data in enumerate(part.records, first)
                )
                answers.append(
                    Commit(
                        tenant=part.tenant,
                        key=part.key,
                        epoch=part.epoch,
                        first_seq=first,
                        next_seq=len(journal.records),
                    )
                )
        return answers

    def read(self, tenant: str, key: str, from_seq: int = 0) -> Iterator[Record]:
        seq = max(from_seq, 0)
        while True:
            with self._open():
                journal = self._journals.get((tenant, key))
                page = journal.records[seq : seq + 512] if journal is not None else []
            if not page:
                return
            yield from page
            seq += len(page)

    def journal(self, tenant: str, key: str) -> Journal | None:
        with self._open():
            journal = self._journals.get((tenant, key))
            if journal is None or not journal.live:
                return None
            return Journal(key=key, epoch=journal.epoch, next_seq=len(journal.records))

    def journals(self, tenant: str, prefix: str = "") -> list[Journal]:
        with self._open():
            return [
                Journal(key=key, epoch=journal.epoch, next_seq=len(journal.records))
                for (owner, key), journal in sorted(self._journals.items(), key=lambda item: item[0])
                if owner == tenant and key.startswith(prefix) and journal.live
            ]

    def delete(self, tenant: str, key: str) -> bool:
        with self._open():
            journal = self._journals.get((tenant, key))
            if journal is None or not journal.live:
                return False
            journal.live = False
            journal.records = []
            return True

    def put(self, tenant: str, key: str, value: Any) -> int:
        check_name("The tenant", tenant)
        check_name("The row key", key)
        text = encode_row(value)
        with self._open():
            self._version += 1
            self._rows[tenant, key] = (self._version, text)
            return self._version

    def cas(self, tenant: str, key: str, expected_version: int, value: Any) -> int | None:
        check_name("The tenant", tenant)
        check_name("The row key", key)
        encode_row(value)
        with self._open():
            version, _ = self._rows.get((tenant, key), (0, b""))
            return self.put(tenant, key, value) if version == expected_version else None

    def get(self, tenant: str, key: str) -> Row | None:
        with self._open():
            found = self._rows.get((tenant, key))
        return None if found is None else Row(key=key, version=found[0], value=msgspec.json.decode(found[1]))

    def rows(self, tenant: str, prefix: str = "") -> list[Row]:
        with self._open():
            found = sorted(
                (key, version, text)
                for (owner, key), (version, text) in self._rows.items()
                if owner == tenant and key.startswith(prefix)
            )
        return [Row(key=key, version=version, value=msgspec.json.decode(text)) for key, version, text in found]

    def remove(self, tenant: str, key: str, expected_version: int | None = None) -> bool:
        with self._open():
            found = self._rows.get((tenant, key))
            if found is None or expected_version not in (None, found[0]):
                return False
            del self._rows[tenant, key]
            return True

    def acquire(self, tenant: str, name: str, owner: str, ttl: float, now: float) -> Lease | None:
        check_name("The tenant", tenant)
        check_name("The lease name", name)
        check_lease(owner, ttl)
        with self._open():
            held = self._leases.get((tenant, name))
            live = held is not None and held.owner != "" and now < held.expires
            if held is not None and live and held.owner != owner:
                return None
            token = 1 if held is None else held.token if live else held.token + 1
            lease = Lease(name=name, owner=owner, expires=now + ttl, token=token)
            self._leases[tenant, name] = lease
            return lease

    def renew(self, tenant: str, name: str, owner: str, token: int, ttl: float, now: float) -> Lease | None:
        check_lease(owner, ttl)
        with self._open():
            held = self._leases.get((tenant, name))
            if held is None or held.owner != owner or held.token != token or now >= held.expires:
                return None
            lease = Lease(name=name, owner=owner, expires=now + ttl, token=token)
            self._leases[tenant, name] = lease
            return lease

    def release(self, tenant: str, name: str, owner: str, token: int) -> bool:
        with self._open():
            held = self._leases.get((tenant, name))
            if held is None or held.owner != owner or held.token != token or owner == "":
                return False
            # the row stays, so that its tokens go on growing
            self._leases[tenant, name] = Lease(name=name, owner="", expires=0.0, token=token)
            return True

    def leases(self, tenant: str, prefix: str = "") -> list[Lease]:
        with self._open():
            return [
                lease
                for (owner, name), lease in sorted(self._leases.items(), key=lambda item: item[0])
                if owner == tenant and name.startswith(prefix) and lease.owner != ""
            ]

    def close(self) -> None:
        self._closed = True
