"""The journal of one session: what it decided and why, in order, committed before it leaves.

Records are JSON objects with a ``kind``: ``windows`` and ``fact`` (what the floor was given, see
:mod:`duologue.engine.replay`), ``event`` (what listeners are told), ``options`` (once for each owner, first), ``history`` (a
snapshot every some turns), ``state`` (the application's, when it has changed), ``participant`` (how somebody is had back) and
``taken`` (up to which input). A journal is enough to replay every decision, and its last snapshot with what follows to take the
session over (see :mod:`duologue.session.rebuild`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from ..engine.floor import FloorOptions
from ..engine.replay import Fact, FloorRecord, Windows
from ..errors import DuologueError, OverloadedError, StoreError
from ..events import AnyEvent, Event
from ..store.committer import Writer


class Options(msgspec.Struct, frozen=True, tag_field="kind", tag="options"):
    """First record of each owner: what the floor was made of, and how many turns the session had had."""

    session: str
    floor: FloorOptions
    turns: int = 0


class Emitted(msgspec.Struct, frozen=True, tag_field="kind", tag="event"):
    """An event that listeners are told."""

    event: AnyEvent


class History(msgspec.Struct, frozen=True, tag_field="kind", tag="history"):
    """A snapshot of the conversation as it stands right after a turn was committed.

    `turn` is that turn, `at` the time as in events; `responses` counts the responses so far (their ids go on from there),
    `untold` are the calls whose results the model has not spoken of, `state` is what `Conversation.dump` gives.
    """

    at: float
    turn: str
    responses: int
    untold: list[str]
    state: msgspec.Raw


class Reached(msgspec.Struct, frozen=True, tag_field="kind", tag="participant"):
    """How a participant is had back by whoever takes the session over.

    `told`: how many events they are told of what was journaled so far; `state` is the channel's own.
    """

    participant: str
    told: int
    state: msgspec.Raw


class Taken(msgspec.Struct, frozen=True, tag_field="kind", tag="taken"):
    """An input of a participant was taken, and what it set off was journaled before: it is not to be taken again."""

    participant: str
    epoch: int
    n: int


class State(msgspec.Struct, frozen=True, tag_field="kind", tag="state"):
    """The application's state, as JSON."""

    state: msgspec.Raw


JournalRecord = Windows | Fact | Options | Emitted | History | Reached | Taken | State

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(JournalRecord)
_EVENT = b'{"kind":"event","event":'


def decode_record(line: bytes) -> JournalRecord:
    """A journal record from its JSON. Raises `msgspec.ValidationError` or `msgspec.DecodeError`."""
    record: JournalRecord = _decoder.decode(line)
    return record


class SessionJournal:
    """Writes records and releases events once they are durable, in order.

    Without a writer (no store) events are released at once.
    """

    def __init__(
        self, writer: Writer | None, release: Callable[[Event, bytes], None], failed: Callable[[DuologueError], None]
    ) -> None:
        self._writer = writer
        self._release = release
        self._failed = failed
        self._waiting: deque[tuple[Event, bytes]] = deque()
        #: nothing more can be written, and so nothing more may leave
        self.broken = False

    @property
    def durable(self) -> bool:
        """Whether anything is written at all."""
        return self._writer is not None and not self.broken

    @property
    def pending(self) -> int:
        """Events that are journaled and not released yet."""
        return len(self._waiting)

    def record(self, record: FloorRecord | Options | History | Reached | Taken | State) -> None:
        """Write a record that nobody waits for."""
        if self._writer is not None and not self.broken:
            self._submit(_encoder.encode(record))

    def emit(self, event: Event) -> None:
        """Journal an event; it is released when its record is durable."""
        encoded = _encoder.encode(event)
        if self._writer is None:
            self._release(event, encoded)
            return
        if self.broken:
            return
        ticket = self._submit(_EVENT + encoded + b"}")
        if ticket is not None:
            self._waiting.append((event, encoded))
            self._writer.on_durable(ticket, self._durable)

    def when_durable(self, then: Callable[[], None]) -> None:
        """Call `then` once everything written so far is durable (at once if it is)."""
        writer = self._writer
        if writer is None:
            then()
        elif not self.broken:
            writer.on_durable(writer.next_seq - 1, lambda error: then() if error is None else self._fail(error))

    def _submit(self, data: bytes) -> int | None:
        assert self._writer is not None
        try:
            return self._writer.submit(data)
        except (StoreError, OverloadedError) as error:
            self._fail(error)
            return None

    def _durable(self, error: StoreError | None) -> None:
        if error is not None:
            self._fail(error)
        if self.broken:
            return
        event, encoded = self._waiting.popleft()
        self._release(event, encoded)

    def _fail(self, error: DuologueError) -> None:
        if not self.broken:
            self.broken = True
            self._waiting.clear()
            self._failed(error)


def owners(records: Iterable[Any]) -> list[tuple[Options, list[FloorRecord]]]:
    """What the floor of each owner of a session was made of, and its facts, for :func:`duologue.engine.replay.replay`."""
    found: list[tuple[Options, list[FloorRecord]]] = []
    for record in records:
        if isinstance(record, Options):
            found.append((record, []))
        elif isinstance(record, Windows | Fact):
            found[-1][1].append(record)
    return found


def floor_records(records: Sequence[Any]) -> tuple[FloorOptions, list[FloorRecord]]:
    """The same of a session's first owner. Raises StopIteration if there is none."""
    options, facts = next(iter(owners(records)))
    return options.floor, facts
