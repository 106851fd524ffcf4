"""Deploys with the real builder process: digests, dependencies, probes, endpoints, rollback."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import os
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Awaitable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from duologue.host.control import builder
from duologue.host.control.deploy import Deployment, LifecycleRequest
from duologue.host.control.rows import Version
from duologue.host.types import HostError, Storage

from .parts import OTHER, TENANT, Plane, plane

pytestmark = pytest.mark.anyio


def source(tmp_path: Path, text: str = "agent = 1\n", **files: str) -> Path:
    folder = tmp_path / "source"
    folder.mkdir(exist_ok=True)
    for name, content in {
        "app.py": text,
        **{name.replace("_txt", ".txt"): text for name, text in files.items()},
    }.items():
        (folder / name).write_text(content)
    return folder


def wheel(folder: Path, code: str = "WORD = 'hello'\n") -> Path:
    """A package of one module, as a wheel."""

    def record(name: str, content: bytes) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        return f"{name},sha256={digest},{len(content)}\n"

    info = "tiny_thing-1.0.dist-info"
    files = {
        "tiny_thing.py": code.encode(),
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir(exist_ok=True)
    path = folder / "tiny_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as out:
        for name, content in files.items():
            out.writestr(name, content)
        rows = "".join(record(name, content) for name, content in files.items()) + f"{info}/RECORD,,\n"
        out.writestr(f"{info}/RECORD", rows)
    return path


async def deploy(made: Plane, folder: Path, **more: Any) -> Version:
    given: dict[str, Any] = {"name": "delivery", "entry": "app.py", **more}
    return await made.deployer.deploy(TENANT, Deployment(archive=made.archived(folder), **given), by="test")


async def refused(work: Awaitable[Any], status: int) -> HostError:
    with pytest.raises(HostError) as caught:
        await work
    assert caught.value.status == status
    return caught.value


def live(made: Plane, endpoint: str = "DEFAULT") -> int:
    return made.directory.endpoint(TENANT, "delivery", endpoint).live


async def test_versions_count_up_and_are_addressed_by_their_content(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        one = await deploy(made, source(tmp_path))
        two = await deploy(made, source(tmp_path, "agent = 2\n"))
        three = await deploy(made, source(tmp_path))
        assert [row.spec.version for row in (one, two, three)] == [1, 2, 3]
        assert one.spec.digest == three.spec.digest != two.spec.digest
        assert one.spec.source == three.spec.source
        assert (Path(one.spec.source) / "app.py").read_text() == "agent = 1\n"
        assert not os.stat(one.spec.source).st_mode & 0o222
        assert live(made) == 3
        assert made.fleet.retired[-2:] == [1, 2]
        assert one.spec.runtime.startswith("delivery-")
        assert made.directory.runtime(TENANT, "delivery").id == one.spec.runtime


async def test_a_version_that_fails_its_probe_moves_nothing(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        await deploy(made, source(tmp_path))
        made.fleet.unfit.add("app.py:broken")
        error = await refused(deploy(made, source(tmp_path, "import no\n"), entry="app.py:broken"), 424)
        assert "ImportError" in error.message
        assert live(made) == 1
        assert [row.state for row in made.directory.versions(TENANT, "delivery")] == ["ready", "failed"]
        error = await refused(made.deployer.move(TENANT, "delivery", "DEFAULT", 2), 409)
        assert "failed" in error.message


async def test_rollback_probes_again_and_pinned_endpoints_stay(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        await deploy(made, source(tmp_path), endpoint="DEFAULT")
        await made.deployer.move(TENANT, "delivery", "pinned", 1)
        await deploy(made, source(tmp_path, "agent = 2\n"), entry="app.py:agent")
        assert (live(made), live(made, "pinned")) == (2, 1)
        assert (await made.deployer.rollback(TENANT, "delivery")).spec.version == 1
        assert live(made) == 1
        made.fleet.unfit.add("app.py:agent")
        await refused(made.deployer.rollback(TENANT, "delivery", to=2), 424)
        assert live(made) == 1
        await refused(made.deployer.rollback(TENANT, "delivery", "pinned"), 409)
        await refused(made.deployer.rollback(TENANT, "delivery", to=9), 404)


async def test_of_two_deploys_the_one_begun_last_wins(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        newer = made.deployed()
        await made.deployer.move(TENANT, "delivery", "DEFAULT", 1, only_newer=True)
        assert live(made) == newer.spec.version == 2


async def test_dependencies_are_installed_by_the_builder_and_kept_with_their_hashes(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        folder = source(tmp_path, requirements_txt="./wheels/tiny_thing-1.0-py3-none-any.whl\n")
        path = await asyncio.to_thread(wheel, folder / "wheels")
        row = await deploy(made, folder)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert row.packages == (f"tiny-thing==1.0 --hash=sha256:{digest}",)
        assert (Path(row.spec.packages) / "tiny_thing.py").is_file()
        assert not os.stat(row.spec.packages).st_mode & 0o222
        assert (await deploy(made, folder)).packages == row.packages  # the same content is not built again


def installers() -> list[Any]:
    """Those that work here: pip, uv or both."""
    found: list[Any] = [builder.by_pip] if find_spec("pip") else []
    uv = shutil.which("uv")
    if uv is not None and subprocess.run([uv, "--version"], capture_output=True, check=False).returncode == 0:
        found.append(functools.partial(builder.by_uv, uv))
    return found


@pytest.mark.parametrize("install", installers())
def test_each_installer_there_is_says_the_same(tmp_path: Path, install: Any) -> None:
    folder = source(tmp_path, requirements_txt="./wheels/tiny_thing-1.0-py3-none-any.whl\n")
    digest = hashlib.sha256(wheel(folder / "wheels").read_bytes()).hexdigest()
    assert install(tmp_path, builder.BuildOptions()) == (f"tiny-thing==1.0 --hash=sha256:{digest}",)
    assert (tmp_path / "packages" / "tiny_thing.py").is_file()


def test_what_installers_write_of_what_came_is_read(tmp_path: Path) -> None:
    """The forms of what came from an index, from a file, and from a folder or a repository, which has no hash."""
    kinds: dict[str, Any] = {
        "Indexed_One": {"hashes": {"sha256": "aa"}},
        "filed": {"hashes": {"sha256": "bb"}},
        "made": {},
    }
    report = {
        "install": [
            {"metadata": {"name": name, "version": "1.0"}, "download_info": {"archive_info": info} if info else {}}
            for name, info in kinds.items()
        ]
    }
    lock = """
        lock-version = "1.0"
        [[packages]]
        name = "indexed-one"
        version = "1.0"
        sdist = { url = "https://x/indexed_one-1.0.tar.gz", hashes = { sha256 = "cc" } }
        wheels = [{ url = "https://x/indexed_one-1.0-py3-none-any.whl", hashes = { sha256 = "aa" } }]
        [[packages]]
        name = "filed"
        version = "1.0"
        archive = { path = "source/wheels/filed-1.0-py3-none-any.whl", hashes = { sha256 = "bb" } }
        [[packages]]
        name = "made"
        directory = { path = "source/made" }
    """
    for name in kinds:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    expected = ("filed==1.0 --hash=sha256:bb", "Indexed_One==1.0 --hash=sha256:aa", "made==1.0")
    assert builder.reported(report) == expected
    assert builder.locked(tomllib.loads(lock), tmp_path) == expected


async def test_what_cannot_be_installed_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        folder = source(tmp_path, requirements_txt="./wheels/absent-1.0-py3-none-any.whl\n")
        error = await refused(deploy(made, folder), 424)
        assert "absent" in error.message
        assert not list((tmp_path / "build").iterdir())
        assert made.directory.find(TENANT, "delivery") is None


async def test_what_the_builder_is_given_shows_nothing_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUOLOGUE_HOST_KEY_TEST", "secret-of-the-host")
    folder = source(tmp_path, requirements_txt="${DUOLOGUE_HOST_KEY_TEST}\n")
    async with plane(tmp_path) as made:
        error = await refused(deploy(made, folder), 424)
        assert "secret-of-the-host" not in str(error)


async def test_archives_with_links_do_not_pass_the_builder(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        path = made.deployer.spool(TENANT)
        with tarfile.open(path, "w:gz") as out:
            info = tarfile.TarInfo("app.py")
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            out.addfile(info)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        made.deployer.keep(TENANT, path, digest)
        wanted = Deployment(name="delivery", archive=digest, entry="app.py")
        error = await refused(made.deployer.deploy(TENANT, wanted, by="test"), 400)
        assert "link" in error.message
        assert not list((tmp_path / "versions").rglob("*.py"))


async def test_an_archive_of_another_tenant_is_not_there(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        digest = made.archived(source(tmp_path), OTHER)
        wanted = Deployment(name="delivery", archive=digest, entry="app.py")
        await refused(made.deployer.deploy(TENANT, wanted, by="test"), 404)


@pytest.mark.parametrize(
    ("given", "settled"),
    [
        ({}, (900, 28_800)),
        ({"lifetime_s": 600}, (600, 600)),
        ({"lifetime_s": 1000}, (900, 1000)),
        ({"idle_s": 60}, (60, 28_800)),
        ({"idle_s": 60, "lifetime_s": 600}, (60, 600)),
    ],
)
async def test_an_idle_time_that_is_not_given_is_no_longer_than_the_lifetime(
    tmp_path: Path, given: dict[str, float], settled: tuple[float, float]
) -> None:
    async with plane(tmp_path) as made:
        version = await deploy(made, source(tmp_path), lifecycle=LifecycleRequest(**given))
        assert (version.spec.lifecycle.idle_s, version.spec.lifecycle.lifetime_s) == settled


async def test_headers_that_may_be_listed_are(tmp_path: Path) -> None:
    listed = ("X-Twilio-Signature", "Authorization", "X-Amzn-Bedrock-AgentCore-Runtime-Custom-Desk")
    async with plane(tmp_path) as made:
        version = await deploy(made, source(tmp_path), headers=listed)
        assert version.spec.headers == tuple(name.lower() for name in listed)


async def test_a_secret_that_is_not_there_is_said_when_the_version_is_made(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.secrets.put(TENANT, "crm", "hush")
        version = await deploy(made, source(tmp_path), secrets=("crm", "secret://mail"))
        assert version.notice == "No session can start: there is no secret 'mail' (`duologue keys secret`)."
        made.secrets.put(TENANT, "mail", "hush")
        assert (await made.deployer.probe(version)).notice == ""


WRONG: dict[str, dict[str, Any]] = {
    "name": {"name": "1st"},
    "long name": {"name": "n" * 49},
    "path as a name": {"name": "../up"},
    "digest": {"archive": "../../etc/passwd"},
    "no entry": {"entry": ""},
    "entry outside": {"entry": "../app.py"},
    "absolute entry": {"entry": "/etc/passwd"},
    "entry that is not there": {"entry": "other.py"},
    "name in the entry": {"entry": "app.py:a b"},
    "command and entry": {"kind": "command", "command": ("run",)},
    "command for an agent": {"command": ("run",)},
    "no command": {"kind": "command", "entry": ""},
    "shared app": {"kind": "asgi", "tier": "shared"},
    "idle above lifetime": {"lifecycle": LifecycleRequest(idle_s=10, lifetime_s=5)},
    "no lifetime": {"lifecycle": LifecycleRequest(idle_s=0, lifetime_s=0)},
    "loader in the environment": {"environment": {"LD_PRELOAD": "x"}},
    "path in the environment": {"environment": {"PYTHONPATH": "x"}},
    "secret in the environment": {"environment": {"KEY": "secret://key"}},
    "too much environment": {"environment": {"A": "x" * 5000}},
    "secret's name": {"secrets": ("../x",)},
    "header": {"headers": ("x y",)},
    "too many headers": {"headers": tuple(f"h{n}" for n in range(21))},
    "header of the connection": {"headers": ("Cookie",)},
    "header of the host": {"headers": ("X-Amzn-Trace",)},
    "network of an agent": {"network": "own"},
    "endpoint": {"endpoint": "a/b"},
    "storage elsewhere": {"storage": Storage(path="/etc/work")},
    "storage above": {"storage": Storage(path="/mnt/..")},
    "storage below": {"storage": Storage(path="/mnt/a/b")},
    "storage of nothing": {"storage": Storage(path="/mnt/work", bytes=0)},
    "shared storage": {"storage": Storage(path="/mnt/work"), "tier": "shared"},
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_deployments_that_cannot_be_meant(tmp_path: Path, wrong: str) -> None:
    async with plane(tmp_path) as made:
        digest = made.archived(source(tmp_path))
        given: dict[str, Any] = {"name": "delivery", "archive": digest, "entry": "app.py", **WRONG[wrong]}
        await refused(made.deployer.deploy(TENANT, Deployment(**given), by="test"), 400)
        assert not list(made.directory.runtimes(TENANT))
