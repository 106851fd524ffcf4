"""Archives of source code: packed where it is deployed from, unpacked where nothing of it is trusted.

Zip and (gzipped) tar. What leaves the folder is refused, never mended: absolute names, ``..``, links of both kinds,
devices, two entries of one name. Sizes are counted as they are read, so that a header may claim what it likes.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import lzma
import os
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

import msgspec

from duologue.errors import ConfigurationError

from ..types import HostError
from .arn import invalid

_CHUNK = 1 << 16
#: never packed: caches, environments, version control, and files that commonly hold secrets
_LEFT_OUT = frozenset(
    (".git", ".hg", ".svn", ".idea", ".vscode", ".DS_Store", ".env", ".venv", "venv", "node_modules", ".tox")
) | frozenset(("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"))


class ArchiveLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one archive. The managed service's are 250 MB packed and 750 MB unpacked.

    `ratio` is unpacked over packed bytes, looked at once a megabyte is out; `depth` and `name` are those of a path.
    """

    packed: int = 250 << 20
    unpacked: int = 750 << 20
    files: int = 20_000
    ratio: float = 200.0
    depth: int = 32
    name: int = 512


# --------------------------------------------------------------------------- unpacking


def unpack(archive: Path, target: Path, limits: ArchiveLimits | None = None) -> str:
    """Unpack `archive` into the new folder `target`; returns the digest of what is there (see :func:`digest_of`).

    Files become 0644 or 0755, whatever the archive says. On an error part of it may be there: the caller removes it.

    Raises HostError 400 for an archive that is none, is damaged, or holds what it may not; 413 for one over the limits.
    """
    limits = limits or ArchiveLimits()
    size = archive.stat().st_size
    if size > limits.packed:
        raise _too_large(f"The archive has {size} bytes", limits.packed)
    target.mkdir(mode=0o755)
    sink = _Sink(target, limits, size)
    try:
        with archive.open("rb") as file:
            if zipfile.is_zipfile(file):
                file.seek(0)
                _unzip(file, sink)
            else:
                file.seek(0)
                _untar(file, sink)
    except HostError:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # gzip's own have no number; offsets out of range have this one
            raise
        raise _unreadable(error) from error
    except (*_UNREADABLE, ValueError) as error:
        raise _unreadable(error) from error
    except MemoryError as error:
        raise _too_large("Reading the archive needs too much memory", limits.unpacked) from error
    if not sink.files:
        raise invalid("The archive is empty.", "Name a file or a folder with code in it.")
    return digest_of(target)


#: what the readers raise for archives that are none, or were damaged
_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    LookupError,
    RuntimeError,
    ArithmeticError,
)


def _unreadable(error: Exception) -> HostError:
    return invalid(f"The archive cannot be read: {error}.", "Send a zip, a tar or a tar.gz.")


class _Sink:
    """Where entries go: names are checked, bytes are counted."""

    def __init__(self, target: Path, limits: ArchiveLimits, packed: int) -> None:
        self._target = target
        self._limits = limits
        self._packed = max(packed, 1)
        self._seen: dict[str, str] = {}
        self._written: set[str] = set()
        self.entries = 0
        self.files = 0
        self.written = 0

    def _place(self, name: str, kind: str) -> Path:
        limits = self._limits
        self.entries += 1
        if self.entries > limits.files:
            raise _too_large("The archive has more entries", limits.files)
        parts = PurePosixPath(name).parts
        if (
            not parts
            or name.startswith("/")
            or "\\" in name
            or ".." in parts
            or any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in name)
            or (len(parts[0]) > 1 and parts[0][1] == ":")
        ):
            raise invalid(f"The archive has an entry {name[:80]!r}.", "Names stay inside the folder.")
        if len(parts) > limits.depth or len(name.encode()) > limits.name or any(len(p.encode()) > 255 for p in parts):
            raise invalid(f"The archive has an entry {name[:60]!r}… with a name that is too long.")
        # Two names that some file system takes for one could hide what was reviewed.
        folded = [unicodedata.normalize("NFC", part).casefold() for part in parts]
        for depth in range(1, len(parts)):
            if self._seen.setdefault("/".join(folded[:depth]), "folder") != "folder":
                raise invalid(f"The archive has {name[:80]!r} inside a file.")
        whole = "/".join(folded)
        if self._seen.setdefault(whole, kind) != kind or (kind == "file" and whole in self._written):
            raise invalid(f"The archive has {name[:80]!r} twice.")
        if kind == "file":
            self._written.add(whole)
        return self._target.joinpath(*parts)

    def folder(self, name: str) -> None:
        """A folder."""
        if name.strip("/") in ("", "."):
            return
        self._place(name.rstrip("/"), "folder").mkdir(mode=0o755, parents=True, exist_ok=True)

    def file(self, name: str, source: IO[bytes], executable: bool) -> None:
        """A file with what `source` gives."""
        path = self._place(name, "file")
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        mode = 0o755 if executable else 0o644
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as out:
            os.fchmod(descriptor, mode)
            while chunk := source.read(_CHUNK):
                self.written += len(chunk)
                if self.written > self._limits.unpacked:
                    raise _too_large("Unpacked, the archive has more bytes", self._limits.unpacked)
                if self.written > 1 << 20 and self.written / self._packed > self._limits.ratio:
                    raise _too_large("The archive unpacks to more times its size", int(self._limits.ratio))
                out.write(chunk)
        self.files += 1


def _unzip(file: BinaryIO, sink: _Sink) -> None:
    with zipfile.ZipFile(file) as zipped:
        for info in zipped.infolist():
            mode = info.external_attr >> 16
            kind = stat.S_IFMT(mode) if info.create_system == 3 else 0
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise invalid(
                    f"The archive has a link or device {info.filename[:80]!r}.", "Only files and folders are taken."
                )
            if info.flag_bits & 0x1:
                raise invalid("The archive is encrypted.", "Send it in the clear, over TLS.")
            if info.orig_filename != info.filename:  # the reader cuts at a zero byte
                raise invalid(f"The archive has an entry {info.orig_filename[:80]!r}.", "Names stay inside the folder.")
            if info.is_dir():
                sink.folder(info.filename)
            else:
                with zipped.open(info) as source:
                    sink.file(info.filename, source, bool(mode & 0o111))


def _untar(file: BinaryIO, sink: _Sink) -> None:
    # As a stream: no entry is looked at twice, and no table of all of them is built before the first is checked.
    with tarfile.open(fileobj=file, mode="r|*", bufsize=_CHUNK) as tarred:
        for member in tarred:
            if member.isdir():
                sink.folder(member.name)
            elif member.isreg() and not member.issparse():
                source = tarred.extractfile(member)
                assert source is not None
                sink.file(member.name.removeprefix("./"), source, bool(member.mode & 0o111))
            else:
                raise invalid(
                    f"The archive has a link or device {member.name[:80]!r}.", "Only files and folders are taken."
                )


def _too_large(what: str, limit: int) -> HostError:
    return HostError(
        413, "ValidationException", f"{what} than {limit} allow.", hint="Leave out what the agent does not need."
    )


# --------------------------------------------------------------------------- digests


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for base, folders, files in os.walk(folder):
        folders.sort()
        for name in files:
            path = Path(base) / name
            yield path.relative_to(folder).as_posix(), path


def digest_of(folder: Path) -> str:
    """SHA-256, in hex, over every file's name, executable bit and SHA-256, by name. Times and owners do not count."""
    total = hashlib.sha256()
    for name, path in sorted(_walk(folder)):
        with path.open("rb") as file:
            inner = hashlib.file_digest(file, "sha256").hexdigest()
        flag = "x" if path.stat().st_mode & 0o100 else "-"
        total.update(f"{flag} {inner} {name}\n".encode())
    return total.hexdigest()


def freeze(folder: Path) -> None:
    """Take every right to write from `folder` and what is in it."""
    for base, folders, files in os.walk(folder):
        for name in files:
            path = Path(base) / name
            if not path.is_symlink():
                os.chmod(path, 0o555 if path.stat().st_mode & 0o100 else 0o444)
        for name in folders:
            os.chmod(Path(base) / name, 0o555)
    os.chmod(folder, 0o555)


# --------------------------------------------------------------------------- packing


def pack(source: Path, limits: ArchiveLimits | None = None) -> bytes:
    """A tar.gz of a file or a folder, the same bytes for the same content.

    Left out are caches, environments, version control and ``.env``. Raises ConfigurationError for what is not there, holds
    links, or is over the limits.
    """
    limits = limits or ArchiveLimits()
    if source.is_file():
        entries = [(source.name, source)]
    elif source.is_dir():
        entries = sorted(_sources(source, source))
    else:
        raise ConfigurationError(f"There is no file or folder {source}.", hint="Name what holds the agent.")
    total, out = 0, io.BytesIO()
    # mtime=0: the same archive, and so the same digest, whenever it is made
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w|") as tarred:
        for name, path in entries:
            info = tarfile.TarInfo(name)
            info.size = path.stat().st_size
            info.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            total += info.size
            if total > limits.unpacked or len(entries) > limits.files:
                raise ConfigurationError(
                    f"{source} holds more than {limits.unpacked >> 20} MB or {limits.files} files.",
                    hint="Deploy the folder that holds the agent alone.",
                )
            with path.open("rb") as file:
                tarred.addfile(info, file)
    if out.tell() > limits.packed:
        raise ConfigurationError(
            f"Packed, {source} has {out.tell()} bytes.", hint=f"At most {limits.packed} are taken."
        )
    return out.getvalue()


def _sources(folder: Path, root: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.iterdir():
        if path.name in _LEFT_OUT or path.name.endswith((".pyc", ".egg-info")):
            continue
        if path.is_symlink():
            raise ConfigurationError(f"{path} is a link.", hint="Put the file itself there: links are not deployed.")
        if path.is_dir():
            yield from _sources(path, root)
        elif path.is_file():
            yield path.relative_to(root).as_posix(), path
