"""The builder: a process that unpacks an archive, and one that installs its dependencies.

Both read what strangers wrote (archives, requirement files, packages), so neither is the control process: each is started
anew with limits on memory, time and file size, in a session of its own, without the host's environment, and as the user
``nobody`` where the host is root and the interpreter can be reached by others.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..types import HostError
from .archive import ArchiveLimits, unpack

#: passed on to the installer: where packages come from. Everything else of the host's environment stays behind.
_PASSED = re.compile(r"(PIP_|UV_(?!CACHE)|(HTTPS?|NO|ALL)_PROXY$|SSL_CERT_(FILE|DIR)$|LANG$|LC_)", re.IGNORECASE)
_NOBODY = 65534
_MAX_SAID = 1 << 20
_SECRET = re.compile(r"://[^/@\s]+@")


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the builder.

    `timeout_s` is for unpacking and for installing apart; `memory_bytes` of address space, for the installer four times
    that. `source_builds` lets packages be built on installation, which runs their code in the builder.
    """

    archive: ArchiveLimits = ArchiveLimits()
    timeout_s: float = 600.0
    memory_bytes: int = 1 << 30
    source_builds: bool = False


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one builder process is to do; `work` is its folder: ``archive`` in, ``source`` and ``packages`` out."""

    kind: Literal["unpack", "install"]
    work: str
    options: BuildOptions


class Built(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it made: the digest of the source, or what was installed, as ``name==version --hash=sha256:…``."""

    digest: str = ""
    packages: tuple[str, ...] = ()


class _Failure(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    type: str
    message: str
    hint: str = ""


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    built: Built | None = None
    failure: _Failure | None = None


# --------------------------------------------------------------------------- the host's side


def builder_user() -> int | None:
    """The user that builders run as; None: the host's own, because it is not root or its interpreter is out of reach."""
    if os.geteuid() != 0:
        return None
    package = Path(__file__).resolve()
    paths = (Path(sys.executable), Path(os.path.realpath(sys.executable)), Path(os.__file__), package)
    return _NOBODY if all(_open_to_all(path) for path in paths) else None


def _open_to_all(path: Path) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH) and all(
            os.stat(folder).st_mode & stat.S_IXOTH for folder in path.parents
        )
    except OSError:
        return False


def _give(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)


async def build(job: Job) -> Built:
    """Run `job` in a process of its own. Raises HostError: 400 and 413 for the archive, 424 for what cannot be installed."""
    user = builder_user()
    work = Path(job.work)
    temporary = work / "tmp"
    temporary.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        await asyncio.to_thread(_give, work, user)
    environment = {name: value for name, value in os.environ.items() if _PASSED.match(name)}
    environment |= {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(temporary), "TMPDIR": str(temporary)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", "duologue.host.control.builder"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=work,
        env=environment,
        start_new_session=True,
        user=user,
        group=user,
        extra_groups=() if user is not None else None,
        limit=_MAX_SAID,
    )
    try:
        async with asyncio.timeout(job.options.timeout_s):
            out, said = await process.communicate(msgspec.json.encode(job))
    except TimeoutError:
        raise HostError(
            424,
            "RuntimeClientError",
            f"Building took longer than {job.options.timeout_s:.0f} s.",
            hint="Pin and reduce the dependencies.",
        ) from None
    finally:
        # The whole session: installers start processes of their own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        shutil.rmtree(temporary, ignore_errors=True)
    try:
        answer = msgspec.json.decode(out, type=_Answer)
    except msgspec.DecodeError:
        last = said.decode(errors="replace").strip().splitlines()[-1:] or [f"it ended with {process.returncode}"]
        raise HostError(424, "RuntimeClientError", f"The builder failed: {last[0][:300]}.") from None
    if answer.failure is not None:
        failure = answer.failure
        raise HostError(failure.status, failure.type, failure.message, hint=failure.hint)
    assert answer.built is not None
    return answer.built


# --------------------------------------------------------------------------- the builder's side


def _limit(options: BuildOptions, kind: str) -> None:
    memory = options.memory_bytes * (4 if kind == "install" else 1)
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, int(options.timeout_s) + 1),
        (resource.RLIMIT_FSIZE, options.archive.unpacked),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 1024),
    ):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard),) * 2)
    os.umask(0o022)


def install(work: Path, options: BuildOptions) -> tuple[str, ...]:
    """Install ``source/requirements.txt`` into ``packages``; what came, pinned with its hash.

    Raises HostError 424 with the installer's last words.
    """
    if importlib.util.find_spec("pip") is not None:
        return by_pip(work, options)
    uv = shutil.which("uv")
    if uv is None:
        raise HostError(
            424, "RuntimeClientError", "The host has no installer.", hint="Install pip into its environment, or uv."
        )
    return by_uv(uv, work, options)


def by_pip(work: Path, options: BuildOptions) -> tuple[str, ...]:
    """See `install`."""
    source, report = work / "source", work / "report.json"
    quiet = ("--no-input", "--disable-pip-version-check", "--no-cache-dir", "--no-warn-script-location", "-q")
    wheels = () if options.source_builds else ("--only-binary", ":all:")
    _run(sys.executable, "-I", "-m", "pip", "install", *quiet, *wheels, "--report", str(report),
         "--target", str(work / "packages"), "-r", str(source / "requirements.txt"), cwd=source)  # fmt: skip
    return reported(msgspec.json.decode(report.read_bytes()))


def by_uv(uv: str, work: Path, options: BuildOptions) -> tuple[str, ...]:
    """See `install`. Of the lock file it makes PEP 751's form, which also says what a path or an address held."""
    source, target, lock = work / "source", work / "packages", work / "pylock.toml"
    built = () if options.source_builds else ("--no-build",)
    common = ("--no-cache", "--quiet", "--python", sys.executable)
    _run(uv, "pip", "compile", *common, *built, "-o", str(lock), str(source / "requirements.txt"), cwd=source)
    _run(uv, "pip", "install", *common, *built, "--target", str(target), "-r", str(lock), cwd=source)
    return locked(tomllib.loads(lock.read_text()), target)


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = _SECRET.sub("://…@", " / ".join(lines[-4:]))[-800:]
        raise HostError(424, "RuntimeClientError", f"The dependencies cannot be installed: {said or done.returncode}")


def reported(report: Mapping[str, Any]) -> tuple[str, ...]:
    """What pip's installation report (its format version 1) says was installed."""
    found = []
    for entry in report.get("install", ()):
        about, info = entry["metadata"], entry.get("download_info", {}).get("archive_info", {})
        found.append(_pinned(about["name"], about["version"], [info]))
    return tuple(sorted(found, key=str.lower))


def locked(lock: Mapping[str, Any], target: Path) -> tuple[str, ...]:
    """What is installed in `target`, with the hashes of a ``pylock.toml`` (PEP 751)."""
    files: dict[str, list[Any]] = {}
    for entry in lock.get("packages", ()):
        alone = entry.get("archive") or entry.get("sdist") or {}
        files[_canonical(entry["name"])] = entry.get("wheels") or [alone]
    found = [
        _pinned(here.name, here.version, files.get(_canonical(here.name), ()))
        for here in distributions(path=[str(target)])
    ]
    return tuple(sorted(found, key=str.lower))


def _canonical(name: str) -> str:
    """As PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _pinned(name: str, version: str, files: Iterable[Mapping[str, Any]]) -> str:
    digests = [digest for file in files if (digest := file.get("hashes", {}).get("sha256"))]
    return " ".join((f"{name}=={version}", *(f"--hash=sha256:{digest}" for digest in digests)))


def work(job: Job) -> Built:
    """Do `job` in this process. Raises HostError."""
    place = Path(job.work)
    if job.kind == "unpack":
        return Built(digest=unpack(place / "archive", place / "source", job.options.archive))
    return Built(packages=install(place, job.options))


def main() -> None:
    """Read a job from standard input, do it, write the answer to standard output."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    _limit(job.options, job.kind)
    try:
        answer = _Answer(built=work(job))
    except HostError as error:
        answer = _Answer(failure=_Failure(status=error.status, type=error.type, message=error.message, hint=error.hint))
    except OSError as error:
        said = f"The builder failed: {error.strerror or error}."
        answer = _Answer(failure=_Failure(status=424, type="RuntimeClientError", message=said))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
