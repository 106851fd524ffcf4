"""Journals as JSON Lines."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from duologue.errors import StoreError
from duologue.store import MemoryStore, export_jsonl, read_jsonl


def json_text(value: object) -> bytes:
    return json.dumps(value).encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.binary(max_size=30) | JSON.map(json_text), max_size=8))
@example([b"", b" 1", b"1 ", b'{"a":\n1}', b"null", b'"\xff"', b"1" * 400, b"NaN"])
def test_every_record_comes_back_byte_for_byte(records: list[bytes]) -> None:
    store = MemoryStore()
    store.claim("t", "k")
    store.append("t", "k", 1, records)
    store.claim("t", "k", 1)
    store.append("t", "k", 2, records)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "k.jsonl"
        assert export_jsonl(store, "t", "k", path) == 2 * len(records)
        assert list(read_jsonl(path)) == list(store.read("t", "k"))
        assert len(path.read_bytes().splitlines()) == 2 * len(records)
        for line in path.read_bytes().split(b"\n")[:-1]:
            assert set(json.loads(line)) <= {"seq", "epoch", "record", "base64"}
        assert [entry.name for entry in Path(folder).iterdir()] == ["k.jsonl"]


def test_json_stands_there_to_be_read(tmp_path: Path) -> None:
    store = MemoryStore()
    store.claim("t", "k")
    store.append("t", "k", 1, [b'{"type":"turn.committed","text":"hi"}', b"\x00"])
    export_jsonl(store, "t", "k", tmp_path / "k.jsonl")
    assert (tmp_path / "k.jsonl").read_text().splitlines() == [
        '{"seq":0,"epoch":1,"record":{"type":"turn.committed","text":"hi"}}',
        '{"seq":1,"epoch":1,"base64":"AA=="}',
    ]


def test_a_missing_journal_and_an_impossible_path(tmp_path: Path) -> None:
    store = MemoryStore()
    with pytest.raises(StoreError, match="does not exist"):
        export_jsonl(store, "t", "k", tmp_path / "k")
    store.claim("t", "k")
    with pytest.raises(StoreError, match="Cannot write"):
        export_jsonl(store, "t", "k", tmp_path / "no" / "k")
    with pytest.raises(StoreError, match="Cannot read"):
        list(read_jsonl(tmp_path / "no"))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        '{"seq":0,"epoch":1}',
        '{"seq":0,"epoch":1,"base64":"*"}',
        '{"seq":0,"epoch":1,"base64":"","record":1}',
        '{"seq":0,"epoch":1,"recrod":1}',
        '{"seq":0,"epo',
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "k.jsonl"
    path.write_text('{"seq":0,"epoch":1,"record":1}\n' + line + "\n")
    records = read_jsonl(path)
    assert next(records).data == b"1"
    with pytest.raises(StoreError, match="line 2"):
        next(records)
