"""A journal as a file: one JSON object a line, to look at, to keep, to replay.

Each line is ``{"seq":0,"epoch":1,"record":…}``. A record that is JSON stands there as it is; any other (and JSON that
would not come back byte for byte, such as one with line breaks) as ``"base64"``.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

import msgspec

from duologue.errors import StoreError
from duologue.store.base import Record, Store


class _Line(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    seq: int
    epoch: int
    record: msgspec.Raw = msgspec.Raw()
    base64: str | None = None


def export_jsonl(store: Store, tenant: str, key: str, path: str | os.PathLike[str]) -> int:
    """Write a journal to the file `path`, which appears whole or not at all. Returns the number of records.

    Raises:
        StoreError: there is no such journal, or the file cannot be written.
    """
    if store.journal(tenant, key) is None:
        raise StoreError(f"Journal {key!r} does not exist.", hint="List the journals of the tenant.")
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    count = 0
    try:
        with open(partial, "wb") as file:
            for record in store.read(tenant, key):
                file.write(msgspec.json.encode(_line(record)) + b"\n")
                count += 1
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"Cannot write {target}: {error}.", hint="Check the folder and the disk.") from error
    return count


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of an exported journal.

    Raises:
        StoreError: the file cannot be read, or a line is not one that `export_jsonl` writes; it names the line.
    """
    try:
        with open(path, "rb") as file:
            for number, text in enumerate(file, 1):
                try:
                    record = _record(text)
                except ValueError as error:
                    raise StoreError(
                        f"{path}, line {number}: {error}.", hint="Export the journal again, or cut the file there."
                    ) from error
                yield record
    except OSError as error:
        raise StoreError(f"Cannot read {path}: {error}.", hint="Name an exported journal.") from error


def _line(record: Record) -> _Line:
    if b"\n" not in record.data and b"\r" not in record.data:
        try:
            msgspec.json.decode(record.data)
            if bytes(msgspec.json.decode(record.data, type=msgspec.Raw)) == record.data:
                return _Line(seq=record.seq, epoch=record.epoch, record=msgspec.Raw(record.data))
        except (ValueError, RecursionError):
            pass  # not JSON, then; it goes as base64
    return _Line(seq=record.seq, epoch=record.epoch, base64=b64encode(record.data).decode())


def _record(text: bytes) -> Record:
    line = msgspec.json.decode(text, type=_Line)
    data = bytes(line.record)
    if bool(data) == (line.base64 is not None):
        raise ValueError("needs either record or base64")
    if line.base64 is not None:
        data = b64decode(line.base64, validate=True)
    return Record(seq=line.seq, epoch=line.epoch, data=data)
