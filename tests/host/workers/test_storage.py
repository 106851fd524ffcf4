"""Storages: files of a session that outlive its process, that nobody else sees, and that have an end."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import msgspec
import pytest

from duologue.host.types import HostError, Limits, Storage, Tier, VersionSpec
from duologue.host.workers.storage import Storages, measure
from tests.host.workers.parts import AGENT, ANYTHING, TENANT, begin, deploy, do, fleet, spec

pytestmark = pytest.mark.anyio

_MB = 1 << 20


def _stored(source: Path, *, bytes: int = 64 * _MB, tier: Tier = "process", version: int = 1) -> VersionSpec:
    return msgspec.structs.replace(
        spec(source, tier=tier, version=version), storage=Storage(path="/mnt/work", bytes=bytes)
    )


async def test_the_files_of_a_session_are_there_at_its_next_start_and_nobody_elses(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet() as made:
        of = _stored(source)
        found = await made.prepare(of)
        assert (found.tier_used, found.reason) == ("cold", "Sessions with a storage start cold.")
        one = await begin(made, of, "s-1", storage="one")
        two = await begin(made, of, "s-2", storage="two")
        assert await do(one, "value = os.environ['DUOLOGUE_STORAGE']") == "/mnt/work"
        await do(one, "Path('/mnt/work/notes').write_text('one was here'); os.chmod('/mnt/work/notes', 0o666)")
        assert await do(two, "value = os.listdir('/mnt/work')") == []
        assert await do(two, "value = os.listdir('/mnt')") == ["work"]
        lies = made.directory / "storages" / TENANT / of.runtime / "one" / "notes"
        assert lies.read_text() == "one was here"
        for path in (lies, lies.parent.parent):
            assert (await do(two, f"value = os.stat({str(path)!r})"))["error"] in (
                "PermissionError",
                "FileNotFoundError",
            )
        assert (await do(one, "os.mknod('/mnt/work/disk', 0o60600, os.makedev(8, 0))"))["error"] == "PermissionError"
        await made.stop(one)
        # A new version finds them too: the storage is the session's.
        again = await begin(made, _stored(source, version=2), "s-1", storage="one")
        assert await do(again, "value = Path('/mnt/work/notes').read_text()") == "one was here"
        await made.stop(again)
        await made.erase(TENANT, of.runtime, "one")
        empty = await begin(made, of, "s-1", storage="one")
        assert await do(empty, "value = os.listdir('/mnt/work')") == []


async def test_a_process_that_dies_keeps_its_sessions_files(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet() as made:
        worker = await begin(made, _stored(source), storage="one")
        await do(worker, "Path('/mnt/work/notes').write_text('before')")
        os.kill(worker.pid, 9)
        await worker.ended.wait()
        again = await begin(made, _stored(source), storage="one")
        assert await do(again, "value = Path('/mnt/work/notes').read_text()") == "before"


async def test_a_command_has_one_too_where_it_looks_for_it(tmp_path: Path) -> None:
    source = deploy(
        tmp_path / "src",
        main=ANYTHING,
        serve="import os, uvicorn; uvicorn.run('main:app', uds=os.environ['DUOLOGUE_SOCKET'], log_level='error')",
    )
    of = msgspec.structs.replace(
        spec(source, "command", "", command=("python", "serve.py", "$DUOLOGUE_SOCKET")), storage=Storage(path="/mnt/d")
    )
    async with fleet() as made:
        worker = await begin(made, of, storage="one")
        await do(worker, "Path(os.environ['DUOLOGUE_STORAGE'], 'notes').write_text('before')")
        await made.stop(worker)
        again = await begin(made, of, storage="one")
        assert await do(again, "value = Path('/mnt/d/notes').read_text()") == "before"


async def test_one_who_writes_too_much_is_ended_and_starts_again_once_it_is_erased(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    of = _stored(source, bytes=2 * _MB)
    async with fleet() as made:
        worker = await begin(made, of, storage="one")
        # No single file is larger than the whole: the kernel sees to that at once.
        wrote = await do(worker, "Path('/mnt/work/large').write_bytes(bytes(4 << 20))")
        assert wrote["error"] == "OSError"
        assert "File too large" in wrote["text"]
        await do(worker, "Path('/mnt/work/large').unlink()")
        for name in range(3):
            await do(worker, f"Path('/mnt/work/{name}').write_bytes(random.randbytes(1 << 20))")
        async with asyncio.timeout(10):
            await worker.ended.wait()
        assert worker.exit is not None
        assert worker.exit.reason == "storage"
        with pytest.raises(HostError) as refused:
            await begin(made, of, storage="one")
        assert (refused.value.status, refused.value.message) == (424, "The session's storage holds more than its 2 MB.")
        await made.erase(TENANT, of.runtime, "one")
        await begin(made, of, storage="one")


async def test_one_who_fills_the_disk_elsewhere_is_ended(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet() as made:
        worker = await begin(made, spec(source, limits=Limits(disk_bytes=_MB)))
        await do(worker, "Path(os.environ['TMPDIR'], 'large').write_bytes(random.randbytes(2 << 20))")
        async with asyncio.timeout(10):
            await worker.ended.wait()
        assert worker.exit is not None
        assert worker.exit.reason == "disk"


async def test_sessions_that_share_a_process_have_none(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=AGENT)
    of = msgspec.structs.replace(spec(source, "agent", "main.py", tier="shared"), storage=Storage(path="/mnt/work"))
    async with fleet() as made:
        with pytest.raises(HostError, match="share a process"):
            await made.prepare(of)


async def test_without_mounts_of_its_own_it_is_told_where_its_files_lie(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet(uids=(0, 0)) as made:
        worker = await begin(made, _stored(source), storage="one")
        told = await do(worker, "value = os.environ['DUOLOGUE_STORAGE']")
        assert told == str(made.directory / "storages" / TENANT / worker.spec.runtime / "one")
        modes = [os.stat(path).st_mode & 0o777 for path in (told, os.path.dirname(told))]
        assert modes == [0o700, 0o711]


def test_no_session_starts_when_the_disk_is_nearly_full(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    storages = Storages(tmp_path / "storages", reserve=2 * disk.f_bavail * disk.f_frsize)
    with pytest.raises(HostError) as refused:
        storages.place(TENANT, "agent-1", "one", 0)
    assert (refused.value.status, dict(refused.value.headers)) == (429, {"retry-after": "60"})


def test_what_no_row_names_is_swept(tmp_path: Path) -> None:
    storages = Storages(tmp_path / "storages", reserve=0)
    assert storages.sweep(set()) == 0
    places = [storages.place(TENANT, "agent-1", name, 0) for name in ("kept", "left", "other")]
    (tmp_path / "elsewhere").write_text("not theirs")
    (places[1] / "way out").symlink_to(tmp_path)
    deep = places[2]
    at = os.open(deep, os.O_RDONLY)
    for _ in range(3000):  # deeper than a path is long
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    assert measure(deep, most=1 << 40) > 1 << 40
    assert storages.sweep({(TENANT, "agent-1", "kept")}) == 2
    assert [place.exists() for place in places] == [True, False, False]
    assert (tmp_path / "elsewhere").read_text() == "not theirs"
    storages.erase(TENANT, "agent-1", "left")  # gone already


def test_what_a_storage_holds_is_what_it_takes_on_the_disk(tmp_path: Path) -> None:
    chance = random.Random(4)
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "outside").write_bytes(bytes(9 * _MB))
    folders, written = [place], 0
    for number in range(60):
        folder = chance.choice(folders)
        size = chance.randrange(1, 300_000)
        (folder / f"f{number}").write_bytes(chance.randbytes(size))
        written += size
        if number % 7 == 0:
            folders.append(folder / f"d{number}")
            folders[-1].mkdir()
    (place / "link").symlink_to(tmp_path / "outside")
    (place / "loop").symlink_to(place)
    with (place / "hole").open("wb") as file:
        file.truncate(1 << 40)
    used = measure(place, most=1 << 40)
    rest = (60 + len(folders) + 3) * 8192  # what is not filled of blocks, directories, links
    assert written <= used <= written + rest
    assert measure(place, most=used) == used
    assert measure(place, most=used - 1) > used - 1
    assert measure(place / "nothing", most=100) == 0


def test_many_small_files_are_much(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}").touch()
    assert measure(tmp_path, most=1 << 40) >= 300 * 4096
    assert measure(tmp_path, most=100 * 4096) > 100 * 4096
