"""The audit log: one chain a tenant, whoever writes."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from duologue.errors import StoreError
from duologue.host.auth import HOST_TENANT, Audit, Entry, Head
from duologue.host.auth.audit import DENIALS_PER_S, JOURNAL
from duologue.store import MemoryStore, SQLiteStore, Store

from .helpers import OTHER, TENANT, Clock


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "host.db")


def written(store: Store, count: int = 5) -> Audit:
    audit = Audit(store, clock=Clock())
    for index in range(count):
        audit.record(TENANT, "deploy", actor="someone", subject=f"v{index}")
    audit.flush()
    return audit


def forge(store: Store, records: list[bytes]) -> None:
    """What somebody does who can write the database: put other records in place."""
    store.delete(TENANT, JOURNAL)
    store.append(TENANT, JOURNAL, store.claim(TENANT, JOURNAL).epoch, records)


def test_records_are_kept_in_order_and_verify(store: Store) -> None:
    audit = written(store)
    assert [entry.subject for entry in audit.entries(TENANT)] == ["v0", "v1", "v2", "v3", "v4"]
    assert audit.verify(TENANT).holds
    assert audit.verify(TENANT).records == 5
    assert audit.verify(OTHER).records == 0
    assert audit.head(OTHER) == Head(records=0, sha256="0" * 64)


@pytest.mark.parametrize("at", range(4))
def test_a_changed_record_is_found(at: int) -> None:
    store = MemoryStore()
    audit = written(store)
    records = [record.data for record in store.read(TENANT, JOURNAL)]
    entry = msgspec.json.decode(records[at], type=Entry)
    records[at] = msgspec.json.encode(msgspec.structs.replace(entry, actor="nobody"))
    forge(store, records)
    verdict = audit.verify(TENANT)
    assert (verdict.holds, verdict.broken_at) == (False, at + 1)


@pytest.mark.parametrize("change", ["drop", "swap", "garbage"])
def test_a_missing_moved_or_unreadable_record_is_found(change: str) -> None:
    store = MemoryStore()
    audit = written(store)
    records = [record.data for record in store.read(TENANT, JOURNAL)]
    if change == "drop":
        del records[2]
    elif change == "swap":
        records[2], records[3] = records[3], records[2]
    else:
        records[2] = b"{"
    forge(store, records)
    verdict = audit.verify(TENANT)
    assert (verdict.holds, verdict.broken_at) == (False, 2)


def test_a_log_cut_short_or_written_anew_is_found_by_a_head_kept_elsewhere() -> None:
    store = MemoryStore()
    audit = written(store)
    known = audit.head(TENANT)
    assert audit.verify(TENANT, known=known).holds
    records = [record.data for record in store.read(TENANT, JOURNAL)]
    forge(store, records[:3])
    assert audit.verify(TENANT).holds
    assert audit.verify(TENANT, known=known).reason == "records are missing at the end"
    store.delete(TENANT, JOURNAL)
    anew = Audit(store, clock=Clock())
    for _ in range(6):
        anew.record(TENANT, "other")
    anew.flush()
    assert anew.verify(TENANT).holds
    assert anew.verify(TENANT, known=known).reason == "another chain was written"


def test_several_writers_make_one_chain(tmp_path: Path) -> None:
    audits = [Audit(SQLiteStore(tmp_path / "host.db")) for _ in range(3)]

    def write(audit: Audit, name: str) -> None:
        for index in range(30):
            audit.record(TENANT, "deploy", subject=f"{name}{index}")
            if index % 7 == 0:
                audit.flush()
        audit.close()

    threads = [threading.Thread(target=write, args=(audit, name)) for audit, name in zip(audits, "abc", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [entry.subject for entry in audits[0].entries(TENANT)]
    assert len(found) == 90
    for name in "abc":
        assert [subject for subject in found if subject[0] == name] == [f"{name}{index}" for index in range(30)]
    assert audits[0].verify(TENANT).holds


def test_a_flood_of_denials_is_counted_not_written() -> None:
    store, clock = MemoryStore(), Clock()
    audit = Audit(store, clock=clock)
    for index in range(10_000):
        audit.record(HOST_TENANT, "authenticate", outcome="denied", reason=f"r{index % 2}", subject=f"x{index}")
    audit.record(TENANT, "authorise", outcome="denied", reason="deploy")
    audit.flush()
    entries = list(audit.entries(HOST_TENANT))
    assert len(entries) <= DENIALS_PER_S + 2 * 3
    assert sum(entry.count for entry in entries) == 10_000
    assert [entry.reason for entry in audit.entries(TENANT)] == ["deploy"]
    assert audit.lost == 0


def test_a_flood_of_reasons_is_bounded() -> None:
    audit = Audit(MemoryStore(), clock=Clock())
    for index in range(5_000):
        audit.record(TENANT, "authenticate", outcome="denied", reason=f"r{index}")
    audit.flush()
    found = [*audit.entries(TENANT), *audit.entries(HOST_TENANT)]
    assert sum(entry.count for entry in found) == 5_000


def test_what_is_queued_is_written_on_close(store: Store) -> None:
    audit = Audit(store)
    audit.record(TENANT, "a" * 10_000, reason="b" * 10_000)
    audit.close()
    audit.close()
    (entry,) = audit.entries(TENANT)
    assert (len(entry.action), len(entry.reason)) == (512, 512)
    with pytest.raises(StoreError, match="closed"):
        audit.record(TENANT, "late")


class Failing(MemoryStore):
    """A store whose disk is full until told otherwise."""

    full = True

    def append(self, tenant: str, key: str, epoch: int, records: object) -> object:  # type: ignore[override]
        if self.full:
            raise StoreError("The disk is full.")
        return super().append(tenant, key, epoch, records)  # type: ignore[arg-type]


def test_records_wait_for_a_store_that_fails() -> None:
    store = Failing()
    audit = Audit(store)
    audit.record(TENANT, "deploy")
    with pytest.raises(StoreError, match="full"):
        audit.flush()
    store.full = False
    audit.flush()
    assert [entry.action for entry in audit.entries(TENANT)] == ["deploy"]
    audit.close()


def test_records_that_never_could_be_written_are_counted() -> None:
    audit = Audit(Failing())
    audit.record(TENANT, "deploy")
    audit.record(TENANT, "deploy")
    audit.close()
    assert audit.lost == 2
