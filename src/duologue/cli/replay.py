"""``duologue replay``: does the engine decide the same again?"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path

import msgspec

from ..engine.replay import TICK_S
from ..engine.replay import recorded as recorded_decisions
from ..engine.replay import replay as decide
from ..errors import StoreError
from ..session.journal import Emitted, decode_record, owners
from ..store import Record, SQLiteStore, read_jsonl

_TENANT = "local"
_SQLITE = b"SQLite format 3\0"


def replay(journal: Path, /, *, session: str = "") -> int:
    """Give a recorded call to a new floor and compare each decision. Exit code 1 if any differs.

    Parameters
    ----------
    journal
        A journal as JSON lines (talk --journal, the demo), or a server's SQLite file.
    session
        Which call of a SQLite file; left out, they are listed.
    """
    if not journal.is_file():
        raise StoreError(f"There is no file {journal}.", hint="Name a journal.")
    if not _is_sqlite(journal):
        return _replay(read_jsonl(journal))
    store = SQLiteStore(journal)
    try:
        if not session:
            for found in store.journals(_TENANT):
                print(found.key)
            return 0
        if store.journal(_TENANT, session) is None:
            raise StoreError(f"{journal} has no call {session!r}.", hint="Leave --session out, and they are listed.")
        return _replay(store.read(_TENANT, session))
    finally:
        store.close()


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _replay(journal: Iterable[Record]) -> int:
    try:
        records = [decode_record(record.data) for record in journal]
        made = owners(records)
    except (msgspec.MsgspecError, IndexError) as error:
        raise StoreError(f"This is no journal of a session: {error}.", hint="Name one that a session wrote.") from None
    if not made:
        raise StoreError("This is no journal of a session: it is empty.", hint="Name one that a session wrote.")
    events = sum(isinstance(record, Emitted) for record in records)
    facts = sum(len(facts) for _, facts in made)
    wanted = [decision for _, facts in made for decision in recorded_decisions(facts)]
    decided = [decision for options, facts in made for decision in decide(facts, options.floor, turns=options.turns)[1]]
    many = f", {len(made)} owners" if len(made) > 1 else ""
    print(f"{len(records)} records, {facts} facts, {len(wanted)} decisions, {events} events{many}")
    for index, (was, now) in enumerate(zip_longest(wanted, decided)):
        if was != now:
            at = (was or now or (0, []))[0] * TICK_S
            print(f"decision {index + 1} differs, {at:.3f} s into the call:")
            print(f"  recorded: {was[1] if was else 'none'}")
            print(f"  replayed: {now[1] if now else 'none'}")
            return 1
    print("The same decisions came again, each at the same moment.")
    return 0
