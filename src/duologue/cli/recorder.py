"""A call's journal as a file."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Self

from ..store import Committer, GroupCommitter, MemoryStore, export_jsonl

_TENANT = "local"


class Journaled:
    """Keeps the journal of one call and writes it to `path` (JSON lines) when the call is over, however it ended.

    With `path` None nothing is kept. Raises StoreError at the end if the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.session = f"s-{uuid.uuid4().hex}"
        self._path = path
        self._store = MemoryStore()
        self.committer: Committer | None = GroupCommitter(self._store) if path is not None else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.committer is not None:
            await self.committer.close()
            if self._path is not None and self._store.journal(_TENANT, self.session) is not None:
                export_jsonl(self._store, _TENANT, self.session, self._path)
