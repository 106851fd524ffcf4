"""Pulling weights from a mirror on this machine: verified, kept, and refused when they are not what they should be."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from duologue.errors import ConfigurationError, UnknownOptionError
from duologue.speech import weights
from duologue.speech.weights import ChecksumError, DownloadError, WeightFile, Weights, cache_dir, find, pull

CONTENT = b"weights " * 100_000


class Handler(http.server.SimpleHTTPRequestHandler):
    served: list[str] = []  # noqa: RUF012

    def log_message(self, format: str, *args: object) -> None:
        self.served.append(self.path)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("DUOLOGUE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DUOLOGUE_WEIGHTS_MIRROR", raising=False)
    files = tuple(
        WeightFile(
            name=name,
            url=f"https://upstream.invalid/some/model/{name}",
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
        )
        for name, content in (("a.onnx", CONTENT), ("a.json", b"{}"))
    )
    monkeypatch.setitem(weights.KNOWN, "a", Weights(about="test", licence="MIT", files=files))
    source = tmp_path / "served" / "m" / "some" / "model"
    source.mkdir(parents=True)
    (source / "a.onnx").write_bytes(CONTENT)
    (source / "a.json").write_bytes(b"{}")
    Handler.served.clear()
    handler = partial(Handler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/m"
        server.shutdown()
        thread.join()


def test_pull_from_a_mirror_verifies_and_keeps(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []
    assert find("a", "a.onnx") is None
    directory = asyncio.run(pull("a", mirror=mirror, progress=lambda *step: seen.append(step)))
    assert directory == cache_dir() / "a"
    assert find("a", "a.onnx") == directory / "a.onnx"
    assert sorted(path.name for path in directory.iterdir()) == ["a.json", "a.onnx"]
    assert (directory / "a.onnx").read_bytes() == CONTENT
    assert seen[-1] == ("a.json", 2, 2)
    assert [done for name, done, _ in seen if name == "a.onnx"][-1] == len(CONTENT)
    asyncio.run(pull("a", mirror=mirror))
    assert len(Handler.served) == 2
    (directory / "a.json").write_text("damaged")
    monkeypatch.setenv("DUOLOGUE_WEIGHTS_MIRROR", mirror)
    asyncio.run(pull("a"))
    assert (directory / "a.json").read_bytes() == b"{}"
    assert len(Handler.served) == 3


@pytest.mark.parametrize("content", [b"x" * len(CONTENT), CONTENT + b"more", CONTENT[:-1]])
def test_what_is_not_the_file_is_not_kept(mirror: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "served/m/some/model/a.onnx").write_bytes(content)
    with pytest.raises(ChecksumError):
        asyncio.run(pull("a", mirror=mirror))
    assert list((cache_dir() / "a").iterdir()) == []


def test_pull_from_a_directory_needs_no_network(mirror: str, tmp_path: Path) -> None:
    source = tmp_path / "served/m/some/model"
    asyncio.run(pull("a", source=source))
    assert find("a", "a.onnx") is not None
    assert Handler.served == []
    (cache_dir() / "a" / "a.onnx").unlink()
    with pytest.raises(DownloadError, match="No such file"):
        asyncio.run(pull("a", source=tmp_path))


def test_what_cannot_be_fetched_says_what_to_do(mirror: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"404.*mirror"):
        asyncio.run(pull("a", mirror=mirror + "/elsewhere"))
    with pytest.raises(DownloadError):
        asyncio.run(pull("a", mirror="http://127.0.0.1:1"))
    with pytest.raises(ConfigurationError, match="no address"):
        asyncio.run(pull("a", mirror="mirror.example"))
    with pytest.raises(UnknownOptionError, match="smart-turn-v3"):
        asyncio.run(pull("smart-turn"))
    with pytest.raises(UnknownOptionError):
        find("nothing", "x")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DUOLOGUE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "duologue" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "duologue" / "weights"


def test_what_is_known_is_complete() -> None:
    for name, entry in weights.KNOWN.items():
        assert name == name.lower()
        assert entry.licence
        for file in entry.files:
            assert file.url.startswith("https://")
            assert len(bytes.fromhex(file.sha256)) == 32
            assert file.size > 0
