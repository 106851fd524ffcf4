"""The tail of a session: the events in its journal as server-sent events, and those that come while it lasts.

The journal is in the tenant's own file, written by the worker. It is read from here through a connection of its own, page
by page; `id:` carries the sequence number, so that a reader that was cut off goes on with ``Last-Event-ID``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from duologue.errors import StoreError
from duologue.store import SQLiteStore

#: what an event's record begins with; other records are the session's own business
_EVENT = b'{"kind":"event","event":'
_PAGE = 256
_POLL_S = 0.25
#: a comment now and then, so that a reader that has gone is noticed
_COMMENT_S = 15.0


async def tail(
    path: Path,
    tenant: str,
    session: str,
    *,
    start: int = 0,
    follow: bool = True,
    ended: Callable[[], bool],
) -> AsyncIterator[bytes]:
    """Server-sent events from record `start` on; with `follow` until `ended()` and nothing more comes.

    A journal that cannot be read ends it, with an event of type ``error``.
    """
    store: SQLiteStore | None = None
    seq, quiet, trouble = start, 0.0, ""
    try:
        while True:
            over = ended()  # before reading: what was written until then is read below
            if store is None and await asyncio.to_thread(path.is_file):
                store = await asyncio.to_thread(SQLiteStore, path)
            page: list[bytes] = []
            if store is not None:
                seq, page, trouble = await asyncio.to_thread(_page, store, tenant, session, seq)
            for event in page:
                yield event
            if trouble:
                yield b"event: error\ndata: " + trouble.encode().replace(b"\n", b" ") + b"\n\n"
                return
            if page:
                quiet = 0.0
                continue
            if over or not follow:
                return
            quiet += _POLL_S
            if quiet >= _COMMENT_S:
                quiet = 0.0
                yield b": still here\n\n"
            await asyncio.sleep(_POLL_S)
    finally:
        if store is not None:
            await asyncio.to_thread(store.close)


def _page(store: SQLiteStore, tenant: str, session: str, start: int) -> tuple[int, list[bytes], str]:
    """Events of at most a page of records from `start` on that are not evidence, where to go on, and what went wrong."""
    found: list[bytes] = []
    seq = start
    try:
        for record in store.read(tenant, session, start):
            seq = record.seq + 1
            if record.data.startswith(_EVENT):
                found.append(b"id: %d\ndata: %s\n\n" % (record.seq, record.data[len(_EVENT) : -1]))
                if len(found) >= _PAGE:
                    break
    except StoreError as error:
        return seq, found, str(error)
    return seq, found, ""
