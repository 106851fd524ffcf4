"""Deploys: from an archive to a version that its endpoint means.

1. A builder unpacks the archive and says its digest; the source goes to ``versions/{tenant}/{digest}``, read-only, once.
2. Another installs ``requirements.txt`` beside it, and what came is kept with its hashes.
3. The version gets the runtime's next number. What it is made of never changes from here.
4. The fleet prepares it: a warm template, or cold, or the reason why it cannot run. Only then does ``DEFAULT`` move;
   live sessions stay on the version they have.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from ..headers import restricted
from ..types import HostError, Lifecycle, Limits, Network, Storage, Tier, VersionSpec
from .archive import freeze
from .arn import DEFAULT, check_endpoint_name, check_runtime_name, invalid, missing
from .builder import BuildOptions, Job, build
from .directory import Aside, Directory
from .rows import Runtime, Version

logger = logging.getLogger("duologue.host.control")

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_SECRET_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}\Z")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,255}\Z")
#: the managed service's form of it
_STORAGE = re.compile(r"/mnt/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,199}\Z")
#: the managed service's limits: environment variables, their bytes in all, listed headers
_MAX_VARIABLES, _MAX_ENVIRONMENT, _MAX_HEADERS = 50, 4096, 20
#: set by the host, or able to replace the code that it trusts
_OWN_VARIABLES = re.compile(r"(DUOLOGUE_|PYTHON|LD_|PATH$|HOME$)")


class LifecycleRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long sessions may live, in seconds; see `Lifecycle`.

    As at the managed service: unless an idle time is given it is 900 s, or the lifetime if that is shorter.
    """

    idle_s: float | None = None
    lifetime_s: float = Lifecycle().lifetime_s
    grace_s: float = Lifecycle().grace_s

    def settled(self) -> Lifecycle:
        """With what was left out."""
        idle = min(Lifecycle().idle_s, self.lifetime_s) if self.idle_s is None else self.idle_s
        return Lifecycle(idle_s=idle, lifetime_s=self.lifetime_s, grace_s=self.grace_s)


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for. `archive` is the SHA-256, in hex, of an archive sent before.

    Attributes:
        name: of the runtime; made if there is none.
        kind: ``agent`` and ``asgi`` have an `entry` (``app.py:name``), ``command`` a `command` and perhaps a `network`.
        endpoint: which endpoint moves; `move=False` deploys without moving any.
    """

    name: str
    archive: str
    kind: Literal["agent", "asgi", "command"] = "agent"
    entry: str = ""
    command: tuple[str, ...] = ()
    network: Network = "auto"
    tier: Tier = "process"
    isolation: Literal["strict", "best-effort"] = "best-effort"
    limits: Limits = Limits()
    lifecycle: LifecycleRequest = LifecycleRequest()
    storage: Storage = Storage()
    environment: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    auth: dict[str, Any] = {}
    description: str = ""
    endpoint: str = DEFAULT
    move: bool = True


class ProbeReport(Protocol):
    """What preparing a version found (`Probe` of the workers)."""

    @property
    def tier_used(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def ms(self) -> float: ...
    @property
    def degraded(self) -> tuple[str, ...]: ...


class Preparing(Protocol):
    """The part of the fleet that deploys need."""

    async def prepare(self, spec: VersionSpec, /) -> ProbeReport: ...
    async def retire(self, spec: VersionSpec, /) -> None: ...


class Deployer:
    """Makes versions.

    Args:
        data: the host's data directory; ``archives``, ``build`` and ``versions`` are made in it.
        check_auth: raises HostError 400 for an authorizer's configuration that could not be used.
        absent: which of some secrets a tenant does not have; blocking.
    """

    def __init__(
        self,
        data: Path,
        directory: Directory,
        fleet: Preparing,
        aside: Aside,
        options: BuildOptions | None = None,
        *,
        check_auth: Callable[[dict[str, Any]], object],
        absent: Callable[[str, Iterable[str]], list[str]],
    ) -> None:
        self._absent = absent
        self._check_auth = check_auth
        self._directory = directory
        self._fleet = fleet
        self._aside = aside
        self._options = options or BuildOptions()
        self._archives, self._builds, self._versions = data / "archives", data / "build", data / "versions"
        self._archives.mkdir(mode=0o700, parents=True, exist_ok=True)
        for open_to_workers in (self._builds, self._versions):
            open_to_workers.mkdir(mode=0o711, exist_ok=True)
        for left in self._builds.iterdir():  # of a host that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._building = asyncio.Semaphore(1)

    # -- archives ------------------------------------------------------------------------------------------------------

    @property
    def archive_limit(self) -> int:
        """Bytes that an archive may have."""
        return self._options.archive.packed

    def spool(self, tenant: str) -> Path:
        """A new file for an archive that is being received."""
        folder = self._archives / tenant
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f".{secrets.token_hex(8)}"

    def keep(self, tenant: str, spooled: Path, digest: str) -> None:
        """Take a received archive whose SHA-256 was verified."""
        os.replace(spooled, self._archives / tenant / digest)

    # -- deploying -----------------------------------------------------------------------------------------------------

    async def deploy(self, tenant: str, wanted: Deployment, *, by: str) -> Version:
        """Make a version of an archive that was kept, probe it, and move the endpoint.

        Raises HostError: 400 for what cannot be meant, 404 for an archive that is not there, 413 for one too large, 424
        if it cannot be installed or its probe fails (the version is then kept as ``failed``, and no endpoint moved).
        """
        check(wanted)
        self._check_auth(wanted.auth)
        archive = self._archives / tenant / wanted.archive
        if not archive.is_file():
            raise missing("That archive was not received.", "Send it first: PUT /archives/{sha256}.")
        async with self._building:
            digest, packages = await self._source(tenant, archive)
        place = self._versions / tenant / digest
        if wanted.kind != "command":
            _check_entry(place / "source", wanted.entry)
        runtime = await self._aside(self._directory.create, tenant, wanted.name, wanted.description)
        version = await self._aside(self._add, runtime, wanted, digest, place, packages, by)
        archive.unlink(missing_ok=True)
        version = await self.probe(version)
        if wanted.move:
            await self.move(tenant, runtime.id, wanted.endpoint, version.spec.version, only_newer=True)
        return version

    def _add(
        self, runtime: Runtime, wanted: Deployment, digest: str, place: Path, packages: tuple[str, ...], by: str
    ) -> Version:
        def make(number: int) -> VersionSpec:
            return VersionSpec(
                tenant=runtime.tenant,
                runtime=runtime.id,
                version=number,
                digest=digest,
                kind=wanted.kind,
                source=str(place / "source"),
                entry=wanted.entry,
                command=wanted.command,
                network=wanted.network,
                tier=wanted.tier,
                isolation=wanted.isolation,
                limits=wanted.limits,
                lifecycle=wanted.lifecycle.settled(),
                storage=wanted.storage,
                environment=wanted.environment,
                secrets=tuple(name.removeprefix("secret://") for name in wanted.secrets),
                headers=tuple(name.lower() for name in wanted.headers),
                origins=wanted.origins,
                auth=wanted.auth,
                packages=str(place / "packages") if (place / "packages").is_dir() else "",
            )

        return self._directory.add_version(runtime, make, by=by, packages=packages)

    async def probe(self, version: Version) -> Version:
        """Let the fleet prepare a version, and note how it went. Raises HostError 424."""
        try:
            report = await self._fleet.prepare(version.spec)
        except HostError as error:
            await self._aside(self._directory.set_version, version, "failed", reason=str(error))
            raise
        absent = await self._aside(self._absent, version.spec.tenant, version.spec.secrets)
        missed = [f"No session can start: there is no secret {name!r} (`duologue keys secret`)." for name in absent]
        notice = " ".join([*missed, report.reason, *report.degraded]).strip()
        return await self._aside(
            self._directory.set_version,
            version,
            "ready",
            tier=report.tier_used,
            notice=notice,
            reason="",
            probe_ms=report.ms,
        )

    async def move(self, tenant: str, runtime: str, endpoint: str, number: int, *, only_newer: bool = False) -> int:
        """Let `endpoint` mean version `number`; returns the one it means now. Others that nobody means are retired.

        Raises HostError 400, 404, 409.
        """
        row = await self._aside(self._directory.point, tenant, runtime, endpoint, number, only_newer=only_newer)
        await self.retire_unused(tenant, runtime)
        return row.live

    async def retire_unused(self, tenant: str, runtime: str) -> None:
        """Take the templates of versions that no endpoint means; their live sessions go on."""

        def unused() -> list[VersionSpec]:
            meant = {row.live for row in self._directory.endpoints(tenant, runtime)}
            rows = self._directory.versions(tenant, runtime)
            return [row.spec for row in rows if row.state == "ready" and row.spec.version not in meant]

        for spec in await self._aside(unused):
            await self._fleet.retire(spec)

    async def forget(self, spec: VersionSpec) -> None:
        """Take the template of a version whose runtime was deleted."""
        await self._fleet.retire(spec)

    async def rollback(self, tenant: str, runtime: str, endpoint: str = DEFAULT, to: int = 0) -> Version:
        """Let `endpoint` mean an earlier version again, once it has been probed anew: `to`, or the one it had before.

        Raises HostError 400, 404, 409 (there is none), 424 (it does not work any more; nothing moves).
        """

        def choose() -> Version:
            row = self._directory.endpoint(tenant, runtime, endpoint)
            earlier = [number for number in row.past if number != row.live]
            number = to or (earlier[-1] if earlier else 0)
            if not number:
                raise HostError(
                    409, "ConflictException", f"{endpoint} never had another version.", hint="Name one with --to."
                )
            return self._directory.version(tenant, runtime, number)

        version = await self.probe(await self._aside(choose))
        await self.move(tenant, runtime, endpoint, version.spec.version)
        return version

    # -- sources -------------------------------------------------------------------------------------------------------

    async def _source(self, tenant: str, archive: Path) -> tuple[str, tuple[str, ...]]:
        """Unpack and install, unless this source is here already; its digest and what was installed."""
        work = self._builds / secrets.token_hex(8)
        work.mkdir(mode=0o700)
        try:
            await asyncio.to_thread(shutil.copyfile, archive, work / "archive")
            digest = (await build(Job(kind="unpack", work=str(work), options=self._options))).digest
            place = self._versions / tenant / digest
            if not place.is_dir():
                packages: tuple[str, ...] = ()
                if (work / "source" / "requirements.txt").is_file():
                    packages = (await build(Job(kind="install", work=str(work), options=self._options))).packages
                await asyncio.to_thread(self._adopt, work, place, packages)
            return digest, tuple(msgspec.json.decode((place / "packages.json").read_bytes(), type=list[str]))
        finally:
            await asyncio.to_thread(shutil.rmtree, work, True)

    def _adopt(self, work: Path, place: Path, packages: tuple[str, ...]) -> None:
        """Make what was built the host's own, read-only, and put it in its place in one step."""
        kept = work / "kept"
        kept.mkdir(mode=0o755)
        for name in ("source", "packages"):
            if (work / name).is_dir():
                _own(work / name)
                (work / name).rename(kept / name)
                freeze(kept / name)
        (kept / "packages.json").write_bytes(msgspec.json.encode(packages))
        place.parent.mkdir(mode=0o711, exist_ok=True)
        _own(kept, deep=False)
        with contextlib.suppress(FileExistsError):
            kept.rename(place)


def _own(folder: Path, *, deep: bool = True) -> None:
    """Give `folder` to the host's user. Raises HostError 424 for links: what they lead to was not built."""
    user, group = os.geteuid(), os.getegid()
    for base, folders, files in os.walk(folder) if deep else ():
        for name in (*folders, *files):
            path = Path(base) / name
            if path.is_symlink():
                raise HostError(
                    424, "RuntimeClientError", f"A package installs a link, {name!r}.", hint="Leave it out."
                )
            os.chown(path, user, group)
    os.chown(folder, user, group)


def check(wanted: Deployment) -> None:
    """Refuse a deployment that cannot be meant. Raises HostError 400."""
    check_runtime_name(wanted.name)
    check_endpoint_name(wanted.endpoint)
    if not _DIGEST.match(wanted.archive):
        raise invalid("`archive` is no SHA-256 in lower-case hex.")
    if (wanted.kind == "command") != bool(wanted.command) or (wanted.kind == "command" and wanted.entry):
        raise invalid("A command, and only a command, has `command` instead of `entry`.")
    if any("\0" in part for part in wanted.command):
        raise invalid("The command has a zero byte.")
    if wanted.network != "auto" and wanted.kind != "command":
        raise invalid("Only a command chooses its network.", "Agents and ASGI apps are in the host's.")
    if wanted.tier == "shared" and wanted.kind != "agent":
        raise invalid("Only Duologue agents share a process.", "Use tier 'process' or 'cold'.")
    life = wanted.lifecycle.settled()
    if not (0 < life.idle_s <= life.lifetime_s and 0 <= life.grace_s <= 300):
        raise invalid("The idle time is at most the lifetime, both above 0; grace at most 300 s.")
    limits = wanted.limits
    if limits.memory_bytes < 0 or limits.cpu < 0 or limits.processes < 0 or limits.disk_bytes < 0:
        raise invalid("A limit is 0 (none) or more.")
    if wanted.storage.path:
        if not _STORAGE.match(wanted.storage.path) or wanted.storage.bytes < 1 << 20:
            raise invalid("A storage is at /mnt/NAME (letters, digits, . _ -) and has 1 MB or more.")
        if wanted.tier == "shared":
            raise invalid("Sessions that share a process have no storages.", "Use tier 'process' or 'cold'.")
    size = sum(len(name) + len(value.encode()) for name, value in wanted.environment.items())
    if len(wanted.environment) > _MAX_VARIABLES or size > _MAX_ENVIRONMENT:
        raise invalid(f"The environment has at most {_MAX_VARIABLES} variables and {_MAX_ENVIRONMENT} bytes.")
    for name, value in wanted.environment.items():
        if not _VARIABLE.match(name) or "\0" in value or _OWN_VARIABLES.match(name):
            raise invalid(f"The variable {name[:60]!r} cannot be set.", "It is the host's own, or no name.")
        if "secret://" in value:
            raise invalid(
                f"{name} holds a secret.", "Secrets are listed in `secrets`; they never enter an environment."
            )
    for name in wanted.secrets:
        if not _SECRET_NAME.match(name.removeprefix("secret://")):
            raise invalid(f"{name[:60]!r} is no name for a secret.")
    if len(wanted.headers) > _MAX_HEADERS:
        raise invalid(f"At most {_MAX_HEADERS} headers can be listed.")
    for name in wanted.headers:
        if not _HEADER.match(name):
            raise invalid(f"{name[:60]!r} is no header that can be listed.")
        if restricted(name.lower()):
            raise invalid(f"The header {name[:60]!r} cannot be listed.", "It is the connection's, or the host's own.")


def _check_entry(source: Path, entry: str) -> None:
    where, _, name = entry.partition(":")
    parts = Path(where).parts
    if not where or ".." in parts or where.startswith("/") or (name and not name.replace(".", "_").isidentifier()):
        raise invalid(f"{entry[:80]!r} is no entry.", "Write app.py or app.py:name, inside of the archive.")
    if not (source / where).is_file():
        here = sorted(path.name for path in source.glob("*.py"))[:5]
        raise invalid(f"The archive has no {where!r}.", f"It has {', '.join(here)}." if here else "Write app.py:name.")
