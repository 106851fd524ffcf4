"""Every store keeps the same promises: each test runs on each of them."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from duologue.errors import ConfigurationError, FencedError, StoreError
from duologue.store import Append, Commit, Lease, MemoryStore, SQLiteStore, Store


@pytest.fixture(params=["memory", "sqlite", "sqlite-full"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore()
    else:
        made = SQLiteStore(tmp_path / "deep" / "s.db", durability="machine" if "full" in request.param else "process")
    yield made
    made.close()


def test_records_come_back_in_order(store: Store) -> None:
    claim = store.claim("t", "call")
    assert (claim.epoch, claim.next_seq) == (1, 0)
    first = store.append("t", "call", 1, [b"a", b"", bytes(range(256))])
    assert (first.first_seq, first.next_seq) == (0, 3)
    store.append("t", "call", 1, [b"d"])
    assert [(r.seq, r.epoch, r.data) for r in store.read("t", "call", 1)] == [
        (1, 1, b""),
        (2, 1, bytes(range(256))),
        (3, 1, b"d"),
    ]
    assert list(store.read("t", "other")) == []
    assert list(store.read("t", "call", 4)) == []


def test_reading_pages_through_a_long_journal(store: Store) -> None:
    store.claim("t", "k")
    store.append("t", "k", 1, [b"%d" % n for n in range(1300)])
    assert [record.data for record in store.read("t", "k")] == [b"%d" % n for n in range(1300)]
    assert [record.seq for record in store.read("t", "k", 788)] == list(range(788, 1300))


def test_a_replaced_owner_is_fenced(store: Store) -> None:
    store.claim("t", "k")
    store.append("t", "k", 1, [b"old"])
    second = store.claim("t", "k", 1)
    assert (second.epoch, second.next_seq) == (2, 1)
    with pytest.raises(FencedError, match="epoch 2, not 1"):
        store.append("t", "k", 1, [b"ghost"])
    store.append("t", "k", 2, [b"new"])
    assert [(r.epoch, r.data) for r in store.read("t", "k")] == [(1, b"old"), (2, b"new")]


def test_only_one_of_two_claims_wins(store: Store) -> None:
    store.claim("t", "k")
    for wrong in (0, 2):
        with pytest.raises(FencedError):
            store.claim("t", "k", wrong)
    with pytest.raises(FencedError):
        store.claim("t", "unknown", 1)
    assert store.journal("t", "unknown") is None


def test_writing_without_a_claim_is_refused(store: Store) -> None:
    with pytest.raises(FencedError, match="does not exist"):
        store.append("t", "k", 1, [b"x"])


def test_a_batch_reports_each_fenced_journal_and_writes_the_rest(store: Store) -> None:
    for key in "abc":
        store.claim("t", key)
    store.claim("t", "b", 1)
    answers = store.append_batch(
        [
            Append(tenant="t", key="a", epoch=1, records=[b"1", b"2"]),
            Append(tenant="t", key="b", epoch=1, records=[b"ghost"]),
            Append(tenant="t", key="nothing", epoch=1, records=[b"ghost"]),
            Append(tenant="t", key="c", epoch=1, records=[]),
            Append(tenant="t", key="a", epoch=1, records=[b"3"]),
            Append(tenant="other", key="a", epoch=1, records=[b"ghost"]),
        ]
    )
    written = [(a.first_seq, a.next_seq) if isinstance(a, Commit) else a.code for a in answers]
    assert written == [(0, 2), "fenced", "fenced", (0, 0), (2, 3), "fenced"]
    assert [r.data for r in store.read("t", "a")] == [b"1", b"2", b"3"]
    assert list(store.read("t", "b")) == []


def test_a_deleted_journal_fences_its_owner_for_ever(store: Store) -> None:
    store.claim("t", "k")
    store.append("t", "k", 1, [b"secret"])
    assert store.delete("t", "k")
    assert not store.delete("t", "k")
    assert list(store.read("t", "k")) == []
    assert store.journals("t") == []
    again = store.claim("t", "k")
    assert (again.epoch, again.next_seq) == (2, 0)
    with pytest.raises(FencedError):
        store.append("t", "k", 1, [b"ghost"])


def test_listing_by_prefix_and_tenant(store: Store) -> None:
    for key in ("a/1", "a/2", "a", "b/1", "a%", "ä/1"):
        store.claim("t", key)
    store.claim("other", "a/3")
    assert [j.key for j in store.journals("t", "a/")] == ["a/1", "a/2"]
    assert [j.key for j in store.journals("t")] == sorted(["a/1", "a/2", "a", "b/1", "a%", "ä/1"])
    assert [j.key for j in store.journals("t", "a%")] == ["a%"]
    assert [j.key for j in store.journals("other")] == ["a/3"]


def test_rows_compare_and_set(store: Store) -> None:
    assert store.get("t", "k") is None
    first = store.cas("t", "k", 0, {"n": 1})
    assert first is not None
    assert store.cas("t", "k", 0, {"n": 2}) is None
    second = store.cas("t", "k", first, {"n": 2})
    assert second is not None
    assert second > first
    row = store.get("t", "k")
    assert row is not None
    assert (row.version, row.value) == (second, {"n": 2})
    assert store.get("other", "k") is None
    assert not store.remove("t", "k", first)
    assert store.remove("t", "k", second)
    assert not store.remove("t", "k")
    third = store.put("t", "k", [None, True, 1.5, "é"])
    assert third > second
    assert [row.value for row in store.rows("t", "k")] == [[None, True, 1.5, "é"]]


def test_what_json_cannot_carry_is_refused(store: Store) -> None:
    for bad in ({1j}, object(), "x" * 300_000):
        with pytest.raises(StoreError):
            store.put("t", "k", bad)
    assert store.rows("t") == []


def test_leases(store: Store) -> None:
    mine = store.acquire("t", "n", "me", 10, now=100)
    assert mine == Lease(name="n", owner="me", expires=110, token=1)
    assert store.acquire("t", "n", "you", 10, now=109.9) is None
    assert store.acquire("t", "n", "me", 10, now=105) == Lease(name="n", owner="me", expires=115, token=1)
    assert store.renew("t", "n", "me", 1, 10, now=110) == Lease(name="n", owner="me", expires=120, token=1)
    assert store.renew("t", "n", "me", 1, 10, now=120) is None
    yours = store.acquire("t", "n", "you", 10, now=120)
    assert yours == Lease(name="n", owner="you", expires=130, token=2)
    assert not store.release("t", "n", "me", 1)
    assert store.leases("t") == [yours]
    assert store.release("t", "n", "you", 2)
    assert not store.release("t", "n", "", 2)
    assert store.leases("t") == []
    again = store.acquire("t", "n", "you", 10, now=121)
    assert again is not None
    assert again.token == 3


def test_names_and_leases_that_cannot_be_kept_are_refused(store: Store) -> None:
    for bad in ("", "x" * 513, "a\0b", "line\nbreak", "\ud800"):
        for call in bad_name_calls(store, bad):
            with pytest.raises(StoreError):
                call()
    with pytest.raises(StoreError):
        store.acquire("t", "n", "me", 0, now=1)


def bad_name_calls(store: Store, bad: str) -> list[Callable[[], object]]:
    return [
        lambda: store.claim("t", bad),
        lambda: store.claim(bad, "k"),
        lambda: store.put("t", bad, 1),
        lambda: store.cas(bad, "k", 0, 1),
        lambda: store.acquire("t", bad, "me", 1, now=0),
        lambda: store.acquire("t", "n", bad, 1, now=0),
    ]


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.claim("t", "k")
    with pytest.raises(StoreError, match="closed"):
        list(store.read("t", "k"))


def test_threads_never_share_a_claim(store: Store) -> None:
    won: list[int] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        for epoch in range(20):
            try:
                won.append(store.claim("t", "k", epoch).epoch)
            except FencedError:
                continue

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == len(set(won))
    journal = store.journal("t", "k")
    assert journal is not None
    assert journal.epoch == max(won)


class TestFile:
    """What is special about a file."""

    def test_it_is_there_again(self, tmp_path: Path) -> None:
        path = tmp_path / "s.db"
        store = SQLiteStore(path)
        store.claim("t", "k")
        store.append("t", "k", 1, [b"kept"])
        version = store.put("t", "row", 1)
        store.close()
        store = SQLiteStore(path)
        assert [r.data for r in store.read("t", "k")] == [b"kept"]
        assert store.put("t", "row", 2) > version
        store.close()

    def test_two_processes_worth_of_connections_fence_each_other(self, tmp_path: Path) -> None:
        ours, theirs = SQLiteStore(tmp_path / "s.db"), SQLiteStore(tmp_path / "s.db")
        ours.claim("t", "k")
        theirs.claim("t", "k", 1)
        with pytest.raises(FencedError):
            ours.append("t", "k", 1, [b"ghost"])
        ours.close()
        theirs.close()

    def test_only_its_owner_can_read_it(self, tmp_path: Path) -> None:
        store = SQLiteStore(tmp_path / "s.db")
        store.claim("t", "k")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert set(modes) >= {"s.db", "s.db-wal"}
        assert set(modes.values()) == {0o600}
        store.close()

    def test_what_is_no_store_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("no database at all, but longer than one hundred bytes " * 20)
        with pytest.raises(StoreError, match="damaged or no store"):
            SQLiteStore(tmp_path / "text")
        other = sqlite3.connect(tmp_path / "other.db")
        other.execute("CREATE TABLE theirs (x)")
        other.close()
        with pytest.raises(StoreError, match="another program"):
            SQLiteStore(tmp_path / "other.db")
        with pytest.raises(StoreError, match="Cannot open"):
            SQLiteStore(tmp_path)

    def test_what_was_damaged_is_a_typed_error_that_names_it(self, tmp_path: Path) -> None:
        store = SQLiteStore(tmp_path / "s.db")
        epoch = store.claim("t", "call").epoch
        for n in range(3):
            store.append("t", "call", epoch, [b"%d" % n])
        store.put("t", "row", {"a": 1})
        with contextlib.closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
            other.execute("UPDATE chunk SET records = x'93ff' WHERE seq = 1")
            other.execute("UPDATE directory SET value = x'7bff' WHERE key = 'row'")
        read = store.read("t", "call")
        assert next(read).data == b"0"
        with pytest.raises(StoreError, match="journal 'call' .* damaged from record 1 on"):
            next(read)
        with pytest.raises(StoreError, match="row 'row' .* damaged"):
            store.get("t", "row")
        with pytest.raises(StoreError, match="row 'row' .* damaged"):
            store.rows("t")
        store.close()

    def test_a_newer_schema_is_refused(self, tmp_path: Path) -> None:
        SQLiteStore(tmp_path / "s.db").close()
        db = sqlite3.connect(tmp_path / "s.db")
        db.execute("UPDATE meta SET value = 2 WHERE name = 'schema_version'")
        db.commit()
        db.close()
        with pytest.raises(StoreError, match="schema version 2"):
            SQLiteStore(tmp_path / "s.db")

    def test_a_file_that_another_keeps_locked_is_a_typed_error(self, tmp_path: Path) -> None:
        store = SQLiteStore(tmp_path / "s.db", busy_timeout=0)
        other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="Another process"):
            store.claim("t", "k")
        other.execute("ROLLBACK")
        other.close()
        assert store.claim("t", "k").epoch == 1
        store.close()

    def test_a_full_disk_writes_nothing_of_the_batch(self, tmp_path: Path) -> None:
        store = SQLiteStore(tmp_path / "s.db")
        store.claim("t", "k")
        assert store._db is not None
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages + 2}")
        with pytest.raises(StoreError, match="disk is full"):
            store.append("t", "k", 1, [b"small", b"x" * 100_000])
        assert list(store.read("t", "k")) == []
        store.append("t", "k", 1, [b"small"])
        assert [(r.seq, r.data) for r in store.read("t", "k")] == [(0, b"small")]
        store.close()

    def test_unknown_durability(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError):
            SQLiteStore(tmp_path / "s.db", durability="eternal")  # type: ignore[arg-type]
