"""The audit log: who did what, or was refused; append-only, and each record names the SHA-256 of the one before.

A tenant's log is one journal of the store, written by every process of the host. A writer appends under the journal's
epoch; one that finds itself fenced because another process wrote since claims the journal anew and goes on from the last
record, so that the chain has no forks. Records hold names, ids and reasons, never payloads and never secrets.

Records are written by a thread of the log's own, since a disk may block; the order of :meth:`Audit.record` is kept.
Refusals of callers that nobody knows go to the tenant ``_host``, since the tenant they name is only a claim. What comes
faster than :data:`DENIALS_PER_S` for a tenant is counted and written as one record a second.

Whoever can write the database can also write a whole new chain: keep :meth:`Audit.head` elsewhere, and give it to
:meth:`Audit.verify`, which then also finds a log that was cut short.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from ...errors import FencedError, StoreError
from ...store import Claim, Store

_log = logging.getLogger("duologue.host")

#: tenant of what belongs to nobody: indexes, tickets, refusals of unknown callers. No tenant can be called so
HOST_TENANT = "_host"
JOURNAL = "audit"
DENIALS_PER_S = 50
_GENESIS = "0" * 64
_QUEUE = 8_192
_TEXT = 512
_SUMMARY_S = 1.0
_RETRY_S = 1.0


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record.

    Attributes:
        at: Unix time, seconds.
        action: what was done or tried, dotted: "key.create", "session.tail", "authorise".
        outcome: "ok" or "denied".
        actor: the principal's id, "" if unknown.
        credential: its name, never itself.
        subject: what it was done to: a runtime, a session, a key's id.
        reason: why it was refused.
        peer: the address of the client.
        count: how many refusals this record stands for.
        prev: SHA-256 of the record before, hex.
    """

    at: float
    tenant: str
    action: str
    outcome: Literal["ok", "denied"] = "ok"
    actor: str = ""
    credential: str = ""
    subject: str = ""
    reason: str = ""
    peer: str = ""
    count: int = 1
    prev: str = ""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a log: how many records, and the SHA-256 of the last."""

    records: int
    sha256: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What :meth:`Audit.verify` found: `broken_at` is the number of the first record that does not fit, None if all do."""

    holds: bool
    records: int
    broken_at: int | None = None
    reason: str = ""


class _Chain:
    """The end of a journal as this writer knows it."""

    def __init__(self, claim: Claim, last: str) -> None:
        self.epoch = claim.epoch
        self.last = last


class Audit:
    """See the module. Thread-safe; :meth:`close` writes what is queued.

    Attributes:
        lost: records that could not be kept, for the queue was full while the store failed.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._queue: deque[Entry] = deque()
        self._wake = threading.Condition()
        self._chains: dict[str, _Chain] = {}
        self._rates: dict[str, tuple[int, int]] = {}  # tenant → (second, refusals in it)
        self._held: Counter[tuple[str, str, str]] = Counter()
        self._held_at = 0.0
        self._busy = False
        self._closed = False
        self._hurry = threading.Event()
        self._failure: StoreError | None = None
        self._thread: threading.Thread | None = None
        self.lost = 0

    # -- writing ---------------------------------------------------------------------------------------------------

    def record(
        self,
        tenant: str,
        action: str,
        *,
        outcome: Literal["ok", "denied"] = "ok",
        actor: str = "",
        credential: str = "",
        subject: str = "",
        reason: str = "",
        peer: str = "",
    ) -> None:
        """Queue a record; never blocks on the store. Texts are cut to 512 characters."""
        entry = Entry(
            at=self._clock(),
            tenant=tenant,
            action=action[:_TEXT],
            outcome=outcome,
            actor=actor[:_TEXT],
            credential=credential[:_TEXT],
            subject=subject[:_TEXT],
            reason=reason[:_TEXT],
            peer=peer[:_TEXT],
        )
        with self._wake:
            if self._closed:
                raise StoreError("The audit log is closed.", hint="Close it last.")
            if outcome == "denied" and not self._room(tenant, int(entry.at)):
                if not self._held:
                    self._held_at = time.monotonic()
                key = (tenant, entry.action, entry.reason)
                self._held[key if key in self._held or len(self._held) < 1024 else (HOST_TENANT, "many", "")] += 1
            elif len(self._queue) >= _QUEUE:
                self.lost += 1
                return
            else:
                self._queue.append(entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="duologue-audit", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def _room(self, tenant: str, second: int) -> bool:
        if len(self._rates) > 10_000:
            self._rates.clear()
        at, used = self._rates.get(tenant, (second, 0))
        used = used + 1 if at == second else 1
        self._rates[tenant] = (second, used)
        return used <= DENIALS_PER_S

    def flush(self) -> None:
        """Wait until everything recorded so far is in the store, summaries included.

        Raises:
            StoreError: the store refuses; what is queued stays queued.
        """
        with self._wake:
            self._failure = None
            self._hurry.set()
            self._queue.extend(self._summaries())
            self._wake.notify_all()
            while self._queue or self._busy:
                if self._failure is not None:
                    raise self._failure
                self._wake.wait()

    def close(self) -> None:
        """Write what is queued and stop."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self._hurry.set()
        if self._thread is not None:
            self._thread.join()

    def _summaries(self) -> list[Entry]:
        made = [
            Entry(at=self._clock(), tenant=tenant, action=action, outcome="denied", reason=reason, count=count)
            for (tenant, action, reason), count in self._held.items()
        ]
        self._held.clear()
        return made

    def _due(self) -> float | None:
        """Seconds until the summaries leave; None if there are none."""
        return max(self._held_at + _SUMMARY_S - time.monotonic(), 0.0) if self._held else None

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closed and self._due() != 0:
                    self._wake.wait(self._due())
                if self._closed or self._due() == 0:
                    self._queue.extend(self._summaries())
                batch = list(self._queue)
                self._queue.clear()
                if not batch:
                    return
                self._busy = True
            failure = None
            try:
                self._write(batch)
            except StoreError as error:
                failure = error
            with self._wake:
                self._busy, self._failure = False, failure
                if failure is not None:
                    _log.error("the audit log cannot be written: %s", failure)
                    room = 0 if self._closed else max(_QUEUE - len(self._queue), 0)
                    self.lost += max(len(batch) - room, 0)
                    self._queue.extendleft(reversed(batch[:room]))
                self._wake.notify_all()
            if failure is not None:
                self._hurry.wait(_RETRY_S)
                self._hurry.clear()

    def _write(self, batch: list[Entry]) -> None:
        by_tenant: dict[str, list[Entry]] = {}
        for entry in batch:
            by_tenant.setdefault(entry.tenant, []).append(entry)
        while by_tenant:
            tenant, entries = next(iter(by_tenant.items()))
            self._append(tenant, entries)
            del by_tenant[tenant]
            # what is written must not be written again if a later tenant's journal fails
            batch[:] = [entry for entry in batch if entry.tenant != tenant]

    def _append(self, tenant: str, entries: list[Entry]) -> None:
        while True:
            chain = self._chains.get(tenant) or self._claim(tenant)
            records, last = [], chain.last
            for entry in entries:
                records.append(msgspec.json.encode(msgspec.structs.replace(entry, prev=last)))
                last = hashlib.sha256(records[-1]).hexdigest()
            try:
                self._store.append(tenant, JOURNAL, chain.epoch, records)
            except FencedError:
                self._chains.pop(tenant, None)  # another process wrote: go on from its end
                continue
            except StoreError:
                self._chains.pop(tenant, None)
                raise
            chain.last = last
            return

    def _claim(self, tenant: str) -> _Chain:
        while True:
            present = self._store.journal(tenant, JOURNAL)
            try:
                claim = self._store.claim(tenant, JOURNAL, present.epoch if present else 0)
            except FencedError:
                continue
            last = _GENESIS
            for record in self._store.read(tenant, JOURNAL, max(claim.next_seq - 1, 0)):
                last = hashlib.sha256(record.data).hexdigest()
            if len(self._chains) > 4096:
                self._chains.clear()
            chain = self._chains[tenant] = _Chain(claim, last)
            return chain

    # -- reading ---------------------------------------------------------------------------------------------------

    def entries(self, tenant: str, start: int = 0) -> Iterator[Entry]:
        """The records from number `start` on."""
        for record in self._store.read(tenant, JOURNAL, start):
            yield msgspec.json.decode(record.data, type=Entry)

    def head(self, tenant: str) -> Head:
        """The end of the log, to be kept where the host cannot write."""
        count, last = 0, _GENESIS
        journal = self._store.journal(tenant, JOURNAL)
        for record in self._store.read(tenant, JOURNAL, max((journal.next_seq if journal else 0) - 1, 0)):
            count, last = record.seq + 1, hashlib.sha256(record.data).hexdigest()
        return Head(records=count, sha256=last)

    def verify(self, tenant: str, *, known: Head | None = None) -> Verdict:
        """Recompute the chain. `known` is an earlier head that must be part of it."""
        count, last, seen = 0, _GENESIS, known is None or known.records == 0
        for record in self._store.read(tenant, JOURNAL):
            try:
                prev = msgspec.json.decode(record.data, type=Entry).prev
            except msgspec.MsgspecError:
                return Verdict(holds=False, records=count, broken_at=count, reason="the record cannot be read")
            if prev != last or record.seq != count:
                return Verdict(holds=False, records=count, broken_at=count, reason="the record does not follow")
            last = hashlib.sha256(record.data).hexdigest()
            count += 1
            if known is not None and count == known.records:
                if last != known.sha256:
                    return Verdict(holds=False, records=count, broken_at=count - 1, reason="another chain was written")
                seen = True
        if not seen:
            return Verdict(holds=False, records=count, broken_at=count, reason="records are missing at the end")
        return Verdict(holds=True, records=count)
