"""What placement works with: the fleet and its workers as it sees them, its options, and a session that is not ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Set
from typing import Any, Protocol

import msgspec

from duologue.errors import ConfigurationError

from ..types import AssignRequest, VersionSpec
from .rows import Session, SessionState


class WorkerLike(Protocol):
    """What placement needs of a worker; see `duologue.host.workers.Worker`."""

    id: str
    link: str
    http: str
    ended: asyncio.Event

    @property
    def sessions(self) -> Set[str]: ...
    def opened(self) -> None: ...
    def closed(self) -> None: ...
    async def busy(self, session: str = "") -> bool: ...


class CapacityLike(Protocol):
    """What placement needs of the fleet's capacity."""

    @property
    def reason(self) -> str: ...


class FleetLike[W: WorkerLike](Protocol):
    """What placement needs of the fleet; see `duologue.host.workers.Fleet`."""

    @property
    def shared_sessions(self) -> int: ...
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
    ) -> W: ...
    async def erase(self, tenant: str, runtime: str, storage: str) -> None: ...
    async def sweep(self, kept: Set[tuple[str, str, str]]) -> int: ...
    async def join(self, worker: W, *, session: str, epoch: int, metadata: Mapping[str, Any]) -> None: ...
    async def stop(
        self, worker: W, *, session: str | None = None, reason: str = "stopped", grace_s: float | None = None
    ) -> None: ...
    def capacity(self) -> CapacityLike: ...


#: the values of the secrets that a tenant's version names
type SecretsOf = Callable[[str, tuple[str, ...]], Awaitable[Mapping[str, str]]]


class PlacementOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of placement. Times in seconds.

    Attributes:
        per_principal, per_runtime: sessions at the same time; 0: no limit but the fleet's.
        strict: as the managed service does it: a first use while another is starting the session gets 409 instead of joining.
        busy_every_s: how often a session without open sockets is asked whether it is busy.
        retry_after_s: told to those who are refused for want of capacity.
        keep_ended_s: how long the row of an ended session, and with it who owns the id, and its storage are kept.
    """

    per_principal: int = 0
    per_runtime: int = 0
    strict: bool = False
    busy_every_s: float = 2.0
    retry_after_s: int = 1
    keep_ended_s: float = 7 * 86_400.0

    def __post_init__(self) -> None:
        if self.per_principal < 0 or self.per_runtime < 0 or self.busy_every_s <= 0:
            raise ConfigurationError("PlacementOptions: limits are 0 or more, busy_every_s is above 0.")


class Live[W: WorkerLike]:
    """A session that is not ended."""

    def __init__(self, spec: VersionSpec, request: AssignRequest, now: float) -> None:
        self.spec = spec
        self.session = request.session
        self.principal = request.principal
        self.request = request
        self.state: SessionState = "starting"
        self.epoch = 0
        self.row_version = 0
        self.row: Session | None = None
        self.worker: W | None = None
        self.started: asyncio.Task[None] | None = None
        self.ending: asyncio.Task[None] | None = None
        self.reason = ""
        #: set once its row says that it has ended, and the id may be had again
        self.gone = asyncio.Event()
        self.drain = False
        #: one write of the row at a time
        self.writing = asyncio.Lock()
        self.begun = now
        self.handles = 0
        #: since when nothing shows that it is in use
        self.idle_since = now
        self.asked = now

    def __str__(self) -> str:
        """For the log."""
        return "session " + "/".join(self.key)

    @property
    def key(self) -> tuple[str, str, str]:
        """Tenant, runtime, session."""
        return self.spec.tenant, self.spec.runtime, self.session
