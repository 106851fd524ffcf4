"""Archives: what is refused, what is counted, what a digest says."""

from __future__ import annotations

import contextlib
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duologue.errors import ConfigurationError
from duologue.host.control.archive import ArchiveLimits, digest_of, freeze, pack, unpack
from duologue.host.types import HostError

SMALL = ArchiveLimits(packed=1 << 20, unpacked=4 << 20, files=20, ratio=50.0, depth=5, name=100)


def tarred(*entries: tarfile.TarInfo | tuple[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as file:  # type: ignore[call-overload]
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                file.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                file.addfile(info, io.BytesIO(entry[1]))
    return out.getvalue()


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return out.getvalue()


def unpacked(tmp_path: Path, content: bytes, limits: ArchiveLimits = SMALL) -> str:
    (tmp_path / "archive").write_bytes(content)
    return unpack(tmp_path / "archive", tmp_path / "out", limits)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def linked(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


ESCAPES = ["../evil", "/etc/evil", "a/../../evil", "a/..", "..\\evil", "C:\\evil", "C:/evil", "a\nb", "a\x7f"]
ATTACKS: dict[str, Callable[[], bytes]] = {
    **{f"tar {name!r}": lambda name=name: tarred((name, b"x")) for name in ESCAPES},  # type: ignore[misc]
    **{f"zip {name!r}": lambda name=name: zipped((name, b"x")) for name in ESCAPES if name != "a/.."},  # type: ignore[misc]
    "symlink": lambda: tarred(special("a", tarfile.SYMTYPE, "/etc/passwd")),
    "symlink inside": lambda: tarred(("b", b"x"), special("a", tarfile.SYMTYPE, "b")),
    "hard link": lambda: tarred(("b", b"x"), special("a", tarfile.LNKTYPE, "b")),
    "device": lambda: tarred(special("a", tarfile.CHRTYPE)),
    "fifo": lambda: tarred(special("a", tarfile.FIFOTYPE)),
    "link in a zip": lambda: zipped((linked("a"), b"/etc/passwd")),
    "file through a link": lambda: tarred(special("a", tarfile.SYMTYPE, "/tmp"), ("a/evil", b"x")),
    "twice": lambda: tarred(("a", b"x"), ("a", b"y")),
    "twice by case": lambda: tarred(("App.py", b"x"), ("app.py", b"y")),
    "file in a file": lambda: tarred(("a", b"x"), ("a/b", b"y")),
    "folder over a file": lambda: tarred(("a", b"x"), special("a", tarfile.DIRTYPE)),
    "too deep": lambda: tarred(("a/b/c/d/e/f", b"x")),
    "long name": lambda: tarred(("n" * 101, b"x")),
    "empty": lambda: tarred(),
    "no archive": lambda: b"print('hello')",
    "nothing": lambda: b"",
    "cut short": lambda: tarred(("a", b"x" * 100_000))[:150],
    "wrong checksum": lambda: zipped(("a", b"hello" * 100))[:40] + b"\0" + zipped(("a", b"hello" * 100))[41:],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_may_not_be_is_refused_and_nothing_leaves_the_folder(tmp_path: Path, attack: str) -> None:
    with pytest.raises(HostError) as caught:
        unpacked(tmp_path, ATTACKS[attack]())
    assert (caught.value.status, caught.value.type) == (400, "ValidationException")
    assert {path.name for path in tmp_path.iterdir()} <= {"archive", "out"}
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def lying_zip() -> bytes:
    """A zip whose header says that its entry is small."""
    made = zipped(("a", b"\0" * (8 << 20)))
    size = (8 << 20).to_bytes(4, "little")
    return made.replace(size, (10).to_bytes(4, "little"))


BOMBS: dict[str, Callable[[], bytes]] = {
    "zeros in a tar.gz": lambda: tarred(("a", b"\0" * (5 << 20))),
    "zeros in a zip": lambda: zipped(("a", b"\0" * (5 << 20))),
    "many small ones": lambda: tarred(*((f"f{n}", b"") for n in range(21))),
    "many folders": lambda: tarred(*(special(f"f{n}", tarfile.DIRTYPE) for n in range(21))),
    "a ratio": lambda: tarred(("a", b"\0" * (2 << 20))),
    "too large as it is": lambda: bytes(range(256)) * 4097,
    "a sparse claim": lambda: gzip.compress(_sparse()),
}


def _sparse() -> bytes:
    info = tarfile.TarInfo("a")
    info.size = 1 << 40
    return info.tobuf()


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_stopped_by_what_comes_out_not_by_what_they_claim(tmp_path: Path, bomb: str) -> None:
    with pytest.raises(HostError) as caught:
        unpacked(tmp_path, BOMBS[bomb]())
    assert caught.value.status in (400, 413)
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file()) <= SMALL.unpacked + (
        1 << 16
    )


def test_a_zip_that_lies_about_sizes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        unpacked(tmp_path, lying_zip())


def test_modes_owners_and_times_of_the_archive_do_not_count(tmp_path: Path) -> None:
    def entry(mode: int, mtime: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo("run.sh")
        info.mode, info.mtime, info.uid = mode, mtime, 1234
        return info

    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = unpacked(tmp_path / "one", tarred(entry(0o4755, 1)))
    two = unpacked(tmp_path / "two", tarred(entry(0o700, 2)))
    assert one == two
    found = (tmp_path / "one" / "out" / "run.sh").stat()
    assert stat.S_IMODE(found.st_mode) == 0o755
    assert found.st_uid != 1234


names = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}\.py", fullmatch=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.dictionaries(names, st.binary(max_size=200), min_size=1, max_size=8))
def test_packed_and_unpacked_is_the_same_and_so_is_its_digest(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    tmp_path = tmp_path_factory.mktemp("pack")
    for name, content in files.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    archive = pack(tmp_path / "source")
    assert archive == pack(tmp_path / "source")
    assert unpacked(tmp_path, archive) == digest_of(tmp_path / "source") == digest_of(tmp_path / "out")
    changed = next(path for path in (tmp_path / "out").rglob("*.py"))
    changed.write_bytes(changed.read_bytes() + b"#")
    assert digest_of(tmp_path / "out") != digest_of(tmp_path / "source")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_archives_are_typed_errors(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = bytearray(
        data.draw(
            st.sampled_from(
                [tarred(("a.py", b"x" * 600)), tarred(("a.py", b"x"), mode="w"), zipped(("a.py", b"x" * 600))]
            )
        )
    )
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(HostError):  # whatever else it raises fails here
        unpacked(tmp_path_factory.mktemp("damaged"), bytes(whole))


def test_secrets_and_caches_are_not_packed_and_links_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in (".env", "app.py", ".git/config", "__pycache__/app.pyc", "lib/util.py"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("x")
    unpacked(tmp_path, pack(source))
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")} == {
        "app.py",
        "lib/util.py",
    }
    (source / "link.py").symlink_to("/etc/passwd")
    with pytest.raises(ConfigurationError, match="link"):
        pack(source)
    with pytest.raises(ConfigurationError, match="no file or folder"):
        pack(tmp_path / "absent")


def test_what_is_frozen_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.py").write_text("x")
    freeze(folder)
    assert all(not path.stat().st_mode & 0o222 for path in (folder, *folder.rglob("*")))
