"""The store in one SQLite file, shared by the processes of a machine.

What a commit survives is chosen by `durability`:

* ``"process"`` (the default; WAL with ``synchronous=NORMAL``): the death of the process, SIGKILL included, because a
  commit has reached the operating system. A power cut or a kernel crash may lose the last commits (up to the last
  checkpoint, at most some 4 MB of log), but never corrupts and never reorders.
* ``"machine"`` (``synchronous=FULL``): also the death of the machine, as far as its disk tells the truth about a flush.
  Each commit costs one.

A batch runs in five calls into SQLite however many journals it holds: each call gives up the interpreter lock, and a
busy event loop may keep it for a while, so a call for every journal would take the longer the busier the loop is. That
is why a batch travels as one blob with a JSON table of its parts, taken apart by SQL. The records of a journal in a
batch are one row, a MessagePack array, at the end of one table with a small index: the cost of a commit is in the pages
it touches, and a table clustered by journal would touch one for each (measured: five times the time for 200 journals).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from duologue.errors import ConfigurationError, FencedError, StoreError
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

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE journal (
    id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL,
    epoch INTEGER NOT NULL, next_seq INTEGER NOT NULL, live INTEGER NOT NULL, UNIQUE (tenant, key));
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY,
    journal INTEGER NOT NULL, seq INTEGER NOT NULL, epoch INTEGER NOT NULL, records BLOB NOT NULL);
CREATE UNIQUE INDEX chunk_place ON chunk (journal, seq);
CREATE TABLE directory (
    tenant TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (tenant, key)) WITHOUT ROWID;
CREATE TABLE lease (
    tenant TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL, expires REAL NOT NULL, token INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)) WITHOUT ROWID;
INSERT INTO meta VALUES ('schema_version', 1), ('row_version', 0);
"""

_OWNERS = """
SELECT json_group_array(json_array(m.key, j.id, j.epoch, j.next_seq))
FROM json_each(?) m JOIN journal j
  ON j.tenant = json_extract(m.value, '$[0]') AND j.key = json_extract(m.value, '$[1]') AND j.live
"""
_INSERT = """
INSERT INTO chunk (journal, seq, epoch, records)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
       substr(:blob, json_extract(value, '$[3]'), json_extract(value, '$[4]'))
FROM json_each(:parts)
"""
_READ = """
SELECT c.seq, c.epoch, c.records FROM chunk c JOIN journal j ON c.journal = j.id
WHERE j.tenant = :tenant AND j.key = :key AND c.seq >= coalesce(
    (SELECT max(p.seq) FROM chunk p WHERE p.journal = j.id AND p.seq <= :seq), 0)
ORDER BY c.seq LIMIT :page
"""
_ADVANCE = """
UPDATE journal SET next_seq = json_extract(m.value, '$[1]')
FROM json_each(?) m WHERE journal.id = json_extract(m.value, '$[0]')
"""
# the same for one journal
_ADVANCE_ONE = (
    "UPDATE journal SET next_seq = next_seq + ? WHERE tenant=? AND key=? AND live AND epoch=? RETURNING id, next_seq"
)
_INSERT_ONE = "INSERT INTO chunk (journal, seq, epoch, records) VALUES (?, ?, ?, ?)"
_EPOCH = "SELECT epoch FROM journal WHERE tenant=? AND key=? AND live"

#: greater than every printable character: the end of the range of keys with a prefix
_LAST = "\U0010ffff"
_PAGE = 256

_decode = msgspec.msgpack.Decoder(list[bytes]).decode


class SQLiteStore:
    """See :class:`duologue.store.base.Store`.

    Args:
        path: the database file; made, with its folder, readable by its owner alone. SQLite keeps two files beside it.
        durability: what a commit survives, see above.
        busy_timeout: seconds to wait for another process that writes.

    Raises:
        StoreError: the file cannot be opened, is no store, or was written by a newer version.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["process", "machine"] = "process",
        busy_timeout: float = 5.0,
    ) -> None:
        if durability not in ("process", "machine"):
            raise ConfigurationError(
                f"SQLiteStore has no durability {durability!r}.", hint="Use 'process' or 'machine'."
            )
        self.path = Path(path)
        self.durability = durability
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # journals hold what callers said; SQLite gives its side files the mode of this one
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(
                self.path, timeout=busy_timeout, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            self._prepare(self._db)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StoreError(f"Cannot open the store {self.path}: {error}.", hint=_hint(error)) from error
        except StoreError:
            self.close()
            raise

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={'FULL' if self.durability == 'machine' else 'NORMAL'}")
        with self._transaction():
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
            if not tables:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                return
            if "meta" not in tables:
                raise StoreError(f"{self.path} is another program's database.", hint="Name another file.")
            (version,) = db.execute("SELECT value FROM meta WHERE name='schema_version'").fetchone() or (None,)
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} has schema version {version}; this Duologue reads {SCHEMA_VERSION}.",
                hint="Upgrade Duologue, or name another file.",
            )

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._db is None:
                raise StoreError("The store is closed.", hint="Open a new one.")
            try:
                yield self._db
            except sqlite3.Error as error:
                raise StoreError(f"The store {self.path} failed: {error}.", hint=_hint(error)) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                # a full disk rolls back by itself
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    # -- journals --------------------------------------------------------------------------------------------------

    def claim(self, tenant: str, key: str, expected_epoch: int = 0) -> Claim:
        check_name("The tenant", tenant)
        check_name("The journal key", key)
        with self._transaction() as db:
            found = db.execute(
                "SELECT epoch, next_seq, live FROM journal WHERE tenant=? AND key=?", (tenant, key)
            ).fetchone()
            epoch, next_seq, live = found or (0, 0, 0)
            present = epoch if live else 0
            if present != expected_epoch:
                raise fenced(key, expected_epoch, present)
            db.execute(
                "INSERT INTO journal (tenant, key, epoch, next_seq, live) VALUES (?, ?, 1, 0, 1) "
                "ON CONFLICT (tenant, key) DO UPDATE SET epoch = epoch + 1, live = 1",
                (tenant, key),
            )
        return Claim(tenant=tenant, key=key, epoch=epoch + 1, next_seq=next_seq)

    def append(self, tenant: str, key: str, epoch: int, records: Sequence[bytes]) -> Commit:
        (answer,) = self.append_batch([Append(tenant=tenant, key=key, epoch=epoch, records=records)])
        if isinstance(answer, FencedError):
            raise answer
        return answer

    def append_batch(self, batch: Sequence[Append]) -> list[Commit | FencedError]:
        if len(batch) == 1:
            return [self._append_one(batch[0])]
        answers: list[Commit | FencedError] = []
        table: list[tuple[int, int, int, int, int]] = []
        blob: list[bytes] = []
        offset = 1  # substr counts from 1
        encode = msgspec.json.encode
        keys = encode([(part.tenant, part.key) for part in batch]).decode()
        with self._transaction() as db:
            owners = {row[0]: row for row in msgspec.json.decode(db.execute(_OWNERS, (keys,)).fetchone()[0])}
            ends: dict[int, int] = {}
            for index, part in enumerate(batch):
                _, journal, epoch, end = owners.get(index, (index, None, None, 0))
                if epoch != part.epoch:
                    answers.append(fenced(part.key, part.epoch, epoch))
                    continue
                first = ends.get(journal, end)
                seq = ends[journal] = first + len(part.records)
                if part.records:
                    chunk = msgspec.msgpack.encode(part.records)
                    table.append((journal, first, epoch, offset, len(chunk)))
                    blob.append(chunk)
                    offset += len(chunk)
                answers.append(Commit(tenant=part.tenant, key=part.key, epoch=epoch, first_seq=first, next_seq=seq))
            if table:
                db.execute(_INSERT, {"parts": encode(table).decode(), "blob": b"".join(blob)})
                db.execute(_ADVANCE, (encode(list(ends.items())).decode(),))
        return answers

    def _append_one(self, part: Append) -> Commit | FencedError:
        """The same for a batch of one, at two thirds of the cost: what a session pays that has the store to itself."""
        records = msgspec.msgpack.encode(part.records)
        with self._transaction() as db:
            count = len(part.records)
            found = db.execute(_ADVANCE_ONE, (count, part.tenant, part.key, part.epoch)).fetchone()
            if found is None:
                present = db.execute(_EPOCH, (part.tenant, part.key)).fetchone()
                return fenced(part.key, part.epoch, present and present[0])
            journal, seq = found
            if count:
                db.execute(_INSERT_ONE, (journal, seq - count, part.epoch, records))
        return Commit(tenant=part.tenant, key=part.key, epoch=part.epoch, first_seq=seq - count, next_seq=seq)

    def read(self, tenant: str, key: str, from_seq: int = 0) -> Iterator[Record]:
        seq = max(from_seq, 0)
        while True:
            # page by page, so that a reader that stops midway leaves neither a lock nor an open transaction
            with self._connection() as db:
                page = db.execute(_READ, {"tenant": tenant, "key": key, "seq": seq, "page": _PAGE}).fetchall()
            for first, epoch, chunk in page:
                try:
                    records = _decode(chunk)
                except msgspec.DecodeError as error:
                    raise self._damaged(f"The journal {key!r}", f"from record {first} on", error) from error
                for data in records[max(seq - first, 0) :]:
                    yield Record(seq=seq, epoch=epoch, data=data)
                    seq += 1
            if len(page) < _PAGE:
                return

    def journal(self, tenant: str, key: str) -> Journal | None:
        with self._connection() as db:
            found = db.execute(
                "SELECT epoch, next_seq FROM journal WHERE tenant=? AND key=? AND live", (tenant, key)
            ).fetchone()
        return None if found is None else Journal(key=key, epoch=found[0], next_seq=found[1])

    def journals(self, tenant: str, prefix: str = "") -> list[Journal]:
        with self._connection() as db:
            found = db.execute(
                "SELECT key, epoch, next_seq FROM journal WHERE tenant=? AND key>=? AND key<? AND live ORDER BY key",
                (tenant, prefix, prefix + _LAST),
            ).fetchall()
        return [Journal(key=key, epoch=epoch, next_seq=next_seq) for key, epoch, next_seq in found]

    def delete(self, tenant: str, key: str) -> bool:
        with self._transaction() as db:
            found = db.execute("SELECT id FROM journal WHERE tenant=? AND key=? AND live", (tenant, key)).fetchone()
            if found is None:
                return False
            db.execute("DELETE FROM chunk WHERE journal=?", found)
            db.execute("UPDATE journal SET live=0, next_seq=0 WHERE id=?", found)
        return True

    # -- directory -------------------------------------------------------------------------------------------------

    def put(self, tenant: str, key: str, value: Any) -> int:
        check_name("The tenant", tenant)
        check_name("The row key", key)
        text = encode_row(value)
        with self._transaction() as db:
            return _write_row(db, tenant, key, text)

    def cas(self, tenant: str, key: str, expected_version: int, value: Any) -> int | None:
        check_name("The tenant", tenant)
        check_name("The row key", key)
        text = encode_row(value)
        with self._transaction() as db:
            found = db.execute("SELECT version FROM directory WHERE tenant=? AND key=?", (tenant, key)).fetchone()
            if (found[0] if found else 0) != expected_version:
                return None
            return _write_row(db, tenant, key, text)

    def get(self, tenant: str, key: str) -> Row | None:
        with self._connection() as db:
            found = db.execute(
                "SELECT version, value FROM directory WHERE tenant=? AND key=?", (tenant, key)
            ).fetchone()
        return None if found is None else self._row(key, *found)

    def rows(self, tenant: str, prefix: str = "") -> list[Row]:
        with self._connection() as db:
            found = db.execute(
                "SELECT key, version, value FROM directory WHERE tenant=? AND key>=? AND key<? ORDER BY key",
                (tenant, prefix, prefix + _LAST),
            ).fetchall()
        return [self._row(*columns) for columns in found]

    def _row(self, key: str, version: int, value: bytes) -> Row:
        try:
            return Row(key=key, version=version, value=msgspec.json.decode(value))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._damaged(f"The row {key!r}", f"of version {version}", error) from error

    def _damaged(self, what: str, where: str, error: Exception) -> StoreError:
        return StoreError(
            f"{what} in {self.path} is damaged {where}: {error}.",
            hint="Something else wrote to the file: take a copy of it from before.",
        )

    def remove(self, tenant: str, key: str, expected_version: int | None = None) -> bool:
        with self._transaction() as db:
            done = db.execute(
                "DELETE FROM directory WHERE tenant=? AND key=? AND version=coalesce(?, version)",
                (tenant, key, expected_version),
            )
            return done.rowcount == 1

    # -- leases ----------------------------------------------------------------------------------------------------

    def acquire(self, tenant: str, name: str, owner: str, ttl: float, now: float) -> Lease | None:
        check_name("The tenant", tenant)
        check_name("The lease name", name)
        check_lease(owner, ttl)
        with self._transaction() as db:
            found = db.execute(
                "SELECT owner, expires, token FROM lease WHERE tenant=? AND name=?", (tenant, name)
            ).fetchone()
            holder, expires, token = found or ("", 0.0, 0)
            live = holder != "" and now < expires
            if live and holder != owner:
                return None
            lease = Lease(name=name, owner=owner, expires=now + ttl, token=token if live else token + 1)
            db.execute(
                "INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?)", (tenant, name, owner, lease.expires, lease.token)
            )
            return lease

    def renew(self, tenant: str, name: str, owner: str, token: int, ttl: float, now: float) -> Lease | None:
        check_lease(owner, ttl)
        with self._transaction() as db:
            done = db.execute(
                "UPDATE lease SET expires=? WHERE tenant=? AND name=? AND owner=? AND token=? AND ?<expires",
                (now + ttl, tenant, name, owner, token, now),
            )
            held = done.rowcount == 1
        return Lease(name=name, owner=owner, expires=now + ttl, token=token) if held else None

    def release(self, tenant: str, name: str, owner: str, token: int) -> bool:
        with self._transaction() as db:
            # the row stays, so that its tokens go on growing
            done = db.execute(
                "UPDATE lease SET owner='', expires=0 WHERE tenant=? AND name=? AND owner=? AND token=? AND owner<>''",
                (tenant, name, owner, token),
            )
            return done.rowcount == 1

    def leases(self, tenant: str, prefix: str = "") -> list[Lease]:
        with self._connection() as db:
            found = db.execute(
                "SELECT name, owner, expires, token FROM lease "
                "WHERE tenant=? AND name>=? AND name<? AND owner<>'' ORDER BY name",
                (tenant, prefix, prefix + _LAST),
            ).fetchall()
        return [Lease(name=name, owner=owner, expires=expires, token=token) for name, owner, expires, token in found]

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None


def _write_row(db: sqlite3.Connection, tenant: str, key: str, text: bytes) -> int:
    db.execute("UPDATE meta SET value = value + 1 WHERE name = 'row_version'")
    version: int = db.execute("SELECT value FROM meta WHERE name = 'row_version'").fetchone()[0]
    db.execute("INSERT OR REPLACE INTO directory VALUES (?, ?, ?, ?)", (tenant, key, version, text))
    return version


def _hint(error: Exception) -> str:
    text = str(error)
    if "full" in text:
        return "The disk is full: make room, or put the store elsewhere."
    if "locked" in text or "busy" in text:
        return "Another process keeps it locked: end it, or raise busy_timeout."
    if "not a database" in text or "malformed" in text:
        return "The file is damaged or no store: move it away."
    return "Check that its folder exists, is writable and is on a local disk."
