"""Weights of models: what is known by name, where it comes from, and getting it verified onto this machine.

A file is taken only if its SHA-256 is the one stated here. A mirror, a company's own for example, serves the same paths
under another beginning; a file that is there already needs no network at all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec

from duologue.errors import ConfigurationError, DuologueError, UnknownOptionError

_CHUNK = 1 << 20
_MIRROR_VARIABLE = "DUOLOGUE_WEIGHTS_MIRROR"
_CACHE_VARIABLE = "DUOLOGUE_CACHE"


class DownloadError(DuologueError):
    """A file of weights could not be fetched."""

    code = "download"
    retryable = True


class ChecksumError(DuologueError):
    """A file of weights is not the one it should be; it was not kept."""

    code = "checksum"


class WeightFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file: its name in the cache, where it comes from, and what it must be."""

    name: str
    url: str
    sha256: str
    size: int


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a model."""

    about: str
    licence: str
    files: tuple[WeightFile, ...]


_HUB = "https://huggingface.co"

KNOWN: dict[str, Weights] = {
    "smart-turn-v3": Weights(
        about="End of turn from the sound (Smart Turn v3.2, 8 MB)",
        licence="BSD-2-Clause",
        files=(
            WeightFile(
                name="smart-turn-v3.2-cpu.onnx",
                url=f"{_HUB}/pipecat-ai/smart-turn-v3/resolve/main/smart-turn-v3.2-cpu.onnx",
                sha256="2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
                size=8_679_182,
            ),
        ),
    ),
    "piper-en-us-joe": Weights(
        about="English voice for Piper (joe, medium, 63 MB)",
        licence="CC0-1.0 (data set)",
        files=(
            WeightFile(
                name="en_US-joe-medium.onnx",
                url=f"{_HUB}/rhasspy/piper-voices/resolve/main/en/en_US/joe/medium/en_US-joe-medium.onnx",
                sha256="58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
                size=63_201_294,
            ),
            WeightFile(
                name="en_US-joe-medium.onnx.json",
                url=f"{_HUB}/rhasspy/piper-voices/resolve/main/en/en_US/joe/medium/en_US-joe-medium.onnx.json",
                sha256="3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
                size=4_794,
            ),
        ),
    ),
}
"""Weights that can be pulled by name. Anything else is used by its local path."""


def cache_dir() -> Path:
    """Where weights are kept: ``$DUOLOGUE_CACHE``, else ``$XDG_CACHE_HOME/duologue``, else ``~/.cache/duologue``."""
    if chosen := os.environ.get(_CACHE_VARIABLE):
        return Path(chosen) / "weights"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "duologue" / "weights"


def find(name: str, file: str) -> Path | None:
    """The path of a pulled file, or None if it was not pulled. Raises UnknownOptionError for an unknown `name`."""
    _known(name)
    path = cache_dir() / name / file
    return path if path.is_file() else None


async def pull(
    name: str,
    *,
    mirror: str | None = None,
    source: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    client: httpx.AsyncClient | None = None,
) -> Path:
    """Get the weights `name` into the cache and return their directory. Files that are there and right are kept.

    Args:
        mirror: address that takes the place of the host of each URL (default: ``$DUOLOGUE_WEIGHTS_MIRROR``).
        source: directory that holds the files already; they are copied from there, and nothing is fetched.
        progress: called with a file's name, the bytes that are here and the bytes in all.
        client: HTTP client to use.

    Raises:
        UnknownOptionError: `name` is not known.
        ConfigurationError: `mirror` is no address.
        DownloadError: a file could not be fetched, or `source` does not have it.
        ChecksumError: a file is not the one it should be.
    """
    weights = _known(name)
    mirror = mirror or os.environ.get(_MIRROR_VARIABLE) or None
    if mirror is not None and urlsplit(mirror).scheme not in ("http", "https"):
        raise ConfigurationError(
            f"The mirror {mirror!r} is no address.", hint="It must start with https:// or http://."
        )
    directory = cache_dir() / name
    directory.mkdir(parents=True, exist_ok=True)
    report = progress or (lambda _name, _done, _size: None)
    for file in weights.files:
        target = directory / file.name
        if target.is_file() and _sha256(target) == file.sha256:
            report(file.name, file.size, file.size)
            continue
        # Unique, and in the same directory: two processes may pull at once, and the rename must be atomic.
        partial = directory / f".{file.name}.{os.getpid()}.partial"
        try:
            if source is not None:
                _copy(Path(source) / file.name, partial)
            else:
                await _download(file, partial, mirror, report, client)
            _verify(partial, file)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        report(file.name, file.size, file.size)
    return directory


def _known(name: str) -> Weights:
    if name not in KNOWN:
        raise UnknownOptionError("The list of weights", name, KNOWN)
    return KNOWN[name]


async def _download(
    file: WeightFile,
    target: Path,
    mirror: str | None,
    report: Callable[[str, int, int], None],
    client: httpx.AsyncClient | None,
) -> None:
    url = file.url if mirror is None else mirror.rstrip("/") + urlsplit(file.url).path
    own = client is None
    client = client or httpx.AsyncClient(follow_redirects=True, timeout=httpx.Timeout(30.0))
    done = 0
    try:
        async with client.stream("GET", url) as response:
            response.raise_for_status()
            with target.open("wb") as out:
                async for chunk in response.aiter_bytes(_CHUNK):
                    done += len(chunk)
                    if done > file.size:
                        raise ChecksumError(f"{url} is longer than the {file.size} bytes that {file.name} has.")
                    out.write(chunk)
                    report(file.name, done, file.size)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(
            f"{url} could not be fetched: {error or type(error).__name__}.",
            hint=f"Try again, name a mirror (--mirror or ${_MIRROR_VARIABLE}), or give a directory that has the files.",
        ) from error
    finally:
        if own:
            await client.aclose()


def _copy(source: Path, target: Path) -> None:
    try:
        target.write_bytes(source.read_bytes())
    except OSError as error:
        raise DownloadError(f"{source} could not be read: {error.strerror}.", hint="Is the directory right?") from error


def _verify(path: Path, file: WeightFile) -> None:
    found = _sha256(path)
    if found != file.sha256:
        raise ChecksumError(
            f"{file.name} has the SHA-256 {found}, not {file.sha256}.",
            hint="The source serves another version, or the file was changed on the way; it was not kept.",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
