"""MemoryStore and SQLiteStore answer every sequence of calls alike."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from duologue.errors import DuologueError, FencedError
from duologue.store import Append, MemoryStore, SQLiteStore, Store

TENANTS = st.sampled_from(["t", "u"])
KEYS = st.sampled_from(["a", "a/1", "b", "é"])
EPOCHS = st.integers(0, 4)
OWNERS = st.sampled_from(["x", "y"])
TIMES = st.floats(0, 20)


class Stores(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "s.db"
        self.memory: Store = MemoryStore()
        self.sqlite: Store = SQLiteStore(self.path)

    def both(self, call: Callable[[Store], Any]) -> Any:
        def answer(store: Store) -> Any:
            try:
                return call(store)
            except DuologueError as error:
                return type(error), str(error)

        ours, theirs = answer(self.memory), answer(self.sqlite)
        assert ours == theirs
        return ours

    @rule(tenant=TENANTS, key=KEYS, epoch=EPOCHS)
    def claim(self, tenant: str, key: str, epoch: int) -> None:
        self.both(lambda store: store.claim(tenant, key, epoch))

    @rule(tenant=TENANTS, key=KEYS)
    def take_over(self, tenant: str, key: str) -> None:
        def call(store: Store) -> Any:
            journal = store.journal(tenant, key)
            return store.claim(tenant, key, journal.epoch if journal else 0)

        self.both(call)

    @rule(tenant=TENANTS, key=KEYS, epoch=EPOCHS, records=st.lists(st.binary(max_size=20), max_size=4))
    def append(self, tenant: str, key: str, epoch: int, records: list[bytes]) -> None:
        self.both(lambda store: store.append(tenant, key, epoch, records))

    @rule(parts=st.lists(st.tuples(TENANTS, KEYS, EPOCHS, st.lists(st.binary(max_size=9), max_size=3)), max_size=6))
    def append_batch(self, parts: list[tuple[str, str, int, list[bytes]]]) -> None:
        batch = [Append(tenant=t, key=k, epoch=e, records=r) for t, k, e, r in parts]
        self.both(
            lambda store: [(type(a), str(a)) if isinstance(a, FencedError) else a for a in store.append_batch(batch)]
        )

    @rule(tenant=TENANTS, key=KEYS)
    def delete(self, tenant: str, key: str) -> None:
        self.both(lambda store: store.delete(tenant, key))

    @rule(tenant=TENANTS, key=KEYS, start=st.integers(-1, 6))
    def read(self, tenant: str, key: str, start: int) -> None:
        self.both(lambda store: list(store.read(tenant, key, start)))

    @rule(tenant=TENANTS, key=KEYS, value=st.one_of(st.none(), st.integers(0, 9), st.text(max_size=4)))
    def put(self, tenant: str, key: str, value: Any) -> None:
        self.both(lambda store: store.put(tenant, key, value))

    @rule(tenant=TENANTS, key=KEYS, version=st.integers(0, 5))
    def cas(self, tenant: str, key: str, version: int) -> None:
        self.both(lambda store: store.cas(tenant, key, version, {"v": version}))

    @rule(tenant=TENANTS, key=KEYS, version=st.one_of(st.none(), st.integers(0, 5)))
    def remove(self, tenant: str, key: str, version: int | None) -> None:
        self.both(lambda store: store.remove(tenant, key, version))

    @rule(tenant=TENANTS, name=KEYS, owner=OWNERS, ttl=st.floats(0, 9), now=TIMES)
    def acquire(self, tenant: str, name: str, owner: str, ttl: float, now: float) -> None:
        self.both(lambda store: store.acquire(tenant, name, owner, ttl, now))

    @rule(tenant=TENANTS, name=KEYS, owner=OWNERS, token=st.integers(0, 3), ttl=st.floats(0, 9), now=TIMES)
    def renew(self, tenant: str, name: str, owner: str, token: int, ttl: float, now: float) -> None:
        self.both(lambda store: store.renew(tenant, name, owner, token, ttl, now))

    @rule(tenant=TENANTS, name=KEYS, owner=OWNERS, token=st.integers(0, 3))
    def release(self, tenant: str, name: str, owner: str, token: int) -> None:
        self.both(lambda store: store.release(tenant, name, owner, token))

    @rule()
    def reopen(self) -> None:
        self.sqlite.close()
        self.sqlite = SQLiteStore(self.path)

    @rule(tenant=TENANTS, prefix=st.sampled_from(["", "a", "a/", "é", "z"]))
    def listed(self, tenant: str, prefix: str) -> None:
        self.both(
            lambda store: (store.journals(tenant, prefix), store.rows(tenant, prefix), store.leases(tenant, prefix))
        )

    @invariant()
    def journals_have_no_gaps(self) -> None:
        for journal in self.memory.journals("t"):
            records = list(self.sqlite.read("t", journal.key))
            assert [record.seq for record in records] == list(range(journal.next_seq))
            assert [record.epoch for record in records] == sorted(record.epoch for record in records)

    def teardown(self) -> None:
        self.sqlite.close()
        self.folder.cleanup()


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
