"""A control plane without processes: the real directory, placement, authority and API over a fleet that pretends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping, Set
from pathlib import Path
from typing import Any

import httpx

from duologue.host.auth import Audit, AuthOptions, HostAuthority, HostKeys, Keys, Secrets, Vault
from duologue.host.control.api import ControlAPI
from duologue.host.control.archive import pack
from duologue.host.control.channels import Channels, Join, WebSocketOut
from duologue.host.control.context import Control
from duologue.host.control.deploy import Deployer
from duologue.host.control.directory import Aside, Directory
from duologue.host.control.live import PlacementOptions
from duologue.host.control.placement import LocalPlacement
from duologue.host.control.rows import Version
from duologue.host.types import Grant, HostError, Lifecycle, Role, VersionSpec
from duologue.host.workers import Capacity, Probe
from duologue.store import SQLiteStore

TENANT, OTHER = "111122223333", "444455556666"
SESSION = "s" * 33


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeWorker:
    """A worker that is told what it does."""

    def __init__(self, id: str, spec: VersionSpec, http: str = "") -> None:
        self.id, self.spec, self.http = id, spec, http
        self.link = f"/run/{id}.link"
        self.sessions: set[str] = set()
        self.ended = asyncio.Event()
        self.exit: Any = None
        self.working: set[str] = set()
        self.in_use = 0

    def opened(self) -> None:
        self.in_use += 1

    def closed(self) -> None:
        self.in_use -= 1

    async def busy(self, session: str = "") -> bool:
        return session in self.working


class FakeFleet:
    """A fleet without processes."""

    def __init__(self) -> None:
        self.workers: list[FakeWorker] = []
        self.starts: list[tuple[str, int]] = []
        self.stops: list[tuple[str, str | None, str]] = []
        self.retired: list[int] = []
        self.secrets: list[Mapping[str, str]] = []
        self.metadata: list[Mapping[str, Any]] = []
        self.storages: list[str] = []
        self.erased: list[str] = []
        self.kept: Set[tuple[str, str, str]] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.stop_gate = asyncio.Event()
        self.stop_gate.set()
        self.refuse = ""
        self.unfit: set[str] = set()
        self.fail = False
        self.http = ""
        self.shared_sessions = 100

    async def prepare(self, spec: VersionSpec) -> Probe:
        if spec.entry in self.unfit:
            raise HostError(424, "RuntimeClientError", "app.py, line 1: ImportError: no such thing")
        return Probe(tier_used=spec.tier, ms=1.0)

    async def retire(self, spec: VersionSpec) -> None:
        self.retired.append(spec.version)

    async def start(
        self,
        spec: VersionSpec,
        *,
        session: str,
        epoch: int,
        secrets: Mapping[str, str],
        journal: str,
        storage: str,
        metadata: Mapping[str, Any],
    ) -> FakeWorker:
        self.starts.append((session, epoch))
        self.storages.append(storage)
        self.metadata.append(metadata)
        self.secrets.append(secrets)
        await self.gate.wait()
        if self.fail:
            raise HostError(424, "RuntimeClientError", "The worker did not start.")
        worker = FakeWorker(f"w{len(self.workers)}", spec, self.http)
        worker.sessions.add(session)
        self.workers.append(worker)
        return worker

    async def erase(self, tenant: str, runtime: str, storage: str) -> None:
        self.erased.append(storage)

    async def sweep(self, kept: Set[tuple[str, str, str]]) -> int:
        self.kept = kept
        return 0

    async def join(self, worker: FakeWorker, *, session: str, epoch: int, metadata: Mapping[str, Any]) -> None:
        self.metadata.append(metadata)
        worker.sessions.add(session)

    async def stop(
        self, worker: FakeWorker, *, session: str | None = None, reason: str = "stopped", grace_s: float | None = None
    ) -> None:
        self.stops.append((worker.id, session, reason))
        await self.stop_gate.wait()
        worker.sessions.discard(session or "")
        if not worker.sessions:
            worker.ended.set()

    def capacity(self) -> Capacity:
        return Capacity(sessions=0, tokens=9, loop_lag_s=0.0, memory_available=1 << 30, reason=self.refuse)


class Plane:
    """All of it."""

    def __init__(self, data: Path, *, clock: Clock, options: PlacementOptions | None = None) -> None:
        self.data = data
        self.clock = clock
        self.store = SQLiteStore(data / "host.db")
        self.audit = Audit(self.store)
        vault = Vault(HostKeys({"k": b"k" * 32}, "k"))
        self.keys = Keys(self.store, vault, self.audit)
        self.secrets = Secrets(self.store, vault, self.audit)
        self.directory = Directory(self.store)
        self.aside = Aside()
        self.fleet = FakeFleet()
        self.placement: LocalPlacement[FakeWorker] = LocalPlacement(
            self.directory,
            self.fleet,
            self.aside,
            journal=lambda tenant: str(data / f"{tenant}.db"),
            secrets=self._secrets,
            options=options,
            clock=clock,
        )
        self.authority = HostAuthority(
            self.store,
            vault,
            self.audit,
            versions=self.placement.version,
            options=AuthOptions(default_tenant=TENANT),
        )
        self.deployer = Deployer(
            data, self.directory, self.fleet, self.aside, check_auth=lambda auth: None, absent=self.secrets.absent
        )
        self.channels = Channels(
            {"join": Join(), "websocket": WebSocketOut(self.placement, dial_to=["localhost", "*.example.com"])}
        )
        self.drains = 0
        self.control = Control(
            account=TENANT,
            region="us-east-1",
            directory=self.directory,
            aside=self.aside,
            deployer=self.deployer,
            placement=self.placement,
            authority=self.authority,
            audit=self.audit,
            keys=self.keys,
            secrets=self.secrets,
            channels=self.channels,
            journal=lambda tenant: str(data / f"{tenant}.db"),
            status=lambda: {"part": 1},
            drain=self._drain,
            url="https://agents.example.com",
        )

    def _drain(self) -> None:
        self.drains += 1

    async def _secrets(self, tenant: str, names: tuple[str, ...]) -> Mapping[str, str]:
        found = await self.aside(self.secrets.resolve, tenant, names)
        return {name: secret.reveal() for name, secret in found.items()}

    def deployed(
        self, name: str = "delivery", *, tenant: str = TENANT, endpoint: str = "DEFAULT", **changes: Any
    ) -> Version:
        """A version that is ready and meant by an endpoint, without a source."""
        runtime = self.directory.create(tenant, name)

        def make(number: int) -> VersionSpec:
            given: dict[str, Any] = {"kind": "agent", "entry": "app.py", **changes}
            return VersionSpec(
                tenant=tenant, runtime=runtime.id, version=number, digest="0" * 64, source="/nowhere", **given
            )

        row = self.directory.set_version(self.directory.add_version(runtime, make, by="test"), "ready", tier="process")
        self.directory.point(tenant, runtime.id, endpoint, row.spec.version)
        return row

    def archived(self, folder: Path, tenant: str = TENANT) -> str:
        """The SHA-256 of an archive of `folder` that was received."""
        archive = pack(folder)
        digest = hashlib.sha256(archive).hexdigest()
        spooled = self.deployer.spool(tenant)
        spooled.write_bytes(archive)
        self.deployer.keep(tenant, spooled, digest)
        return digest

    def key(self, *roles: Role, tenant: str = TENANT, runtime: str = "*", subject: str = "") -> str:
        """An API key."""
        grants = tuple(Grant(role=role, runtime=runtime) for role in roles)
        return self.keys.create("api", tenant, subject=subject, grants=grants).secret.reveal()

    def client(self, key: str = "", *, uid: int | None = None) -> httpx.AsyncClient:
        """Over TLS with a key, or over the Unix socket as user `uid`; no network."""
        api = ControlAPI(self.control, peers=uid is not None, tls=uid is None)
        client = ("127.0.0.1", 5) if uid is None else (f"uid:{uid}", 5)
        transport = httpx.ASGITransport(app=api, client=client, raise_app_exceptions=True)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(transport=transport, base_url="https://localhost", headers=headers)


@contextlib.asynccontextmanager
async def plane(data: Path, *, options: PlacementOptions | None = None) -> AsyncIterator[Plane]:
    """A control plane in `data`; its sessions' clock stands still unless it is moved."""
    made = Plane(data, clock=Clock(), options=options)
    try:
        async with made.placement.running():
            yield made
    finally:
        await made.channels.close()
        await made.authority.aclose()
        made.aside.close()
        made.audit.close()
        made.store.close()


def life(**seconds: float) -> dict[str, Any]:
    """A version's lifecycle, for `deployed`."""
    return {"lifecycle": Lifecycle(**seconds)}
