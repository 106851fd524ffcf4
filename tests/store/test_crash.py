"""A process that is killed while it writes: what it had called durable is there, whole and in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from duologue.store import SQLiteStore

WRITER = """
import asyncio, os, sys
from duologue.store import GroupCommitter, SQLiteStore

async def session(committer, n):
    writer = await committer.claim("t", f"s{n}")
    while True:
        for _ in range(3):
            ticket = writer.submit(f"{n}.{writer.next_seq}".encode() * 20)
        await writer.durable(ticket)
        os.write(1, f"{n} {ticket}\\n".encode())  # one write: whole, or not at all
        await asyncio.sleep(0)

async def main():
    async with GroupCommitter(SQLiteStore(sys.argv[1], durability=sys.argv[2]), window=0.001) as committer:
        async with asyncio.TaskGroup() as group:
            for n in range(8):
                group.create_task(session(committer, n))

asyncio.run(main())
"""


@pytest.mark.parametrize("durability", ["process", "machine"])
@pytest.mark.parametrize("lines", [40, 333])
def test_sigkill_loses_nothing_that_was_acknowledged(tmp_path: Path, lines: int, durability: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "s.db", durability], stdout=subprocess.PIPE)
    assert child.stdout is not None
    acknowledged: dict[int, int] = {}

    def note(line: bytes) -> None:
        n, ticket = line.split()
        assert int(ticket) == acknowledged.get(int(n), -1) + 3
        acknowledged[int(n)] = int(ticket)

    for _ in range(lines):
        note(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    for line in child.stdout:
        note(line)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()

    store = SQLiteStore(tmp_path / "s.db")
    for n, ticket in acknowledged.items():
        records = list(store.read("t", f"s{n}"))
        assert len(records) > ticket
        assert [record.data for record in records] == [f"{n}.{seq}".encode() * 20 for seq in range(len(records))]
        journal = store.journal("t", f"s{n}")
        assert journal is not None
        assert journal.next_seq == len(records)
        assert store.claim("t", f"s{n}", 1).next_seq == len(records)
    store.close()
    assert sum(acknowledged.values()) >= lines
