"""Where state outlives a process: journals, a directory, leases. Knows nothing of what is kept in them."""

from duologue.store.base import Append, Claim, Commit, Journal, Lease, Record, Row, Store
from duologue.store.committer import CommitStats, Committer, Writer
from duologue.store.export import export_jsonl, read_jsonl
from duologue.store.group import GroupCommitter, InlineCommitter
from duologue.store.memory import MemoryStore
from duologue.store.sqlite import SQLiteStore

__all__ = [
    "Append",
    "Claim",
    "Commit",
    "CommitStats",
    "Committer",
    "GroupCommitter",
    "InlineCommitter",
    "Journal",
    "Lease",
    "MemoryStore",
    "Record",
    "Row",
    "SQLiteStore",
    "Store",
    "Writer",
    "export_jsonl",
    "read_jsonl",
]
