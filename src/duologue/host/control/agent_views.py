"""What the control API shows of agents, versions and endpoints, and takes to change them."""

from __future__ import annotations

import msgspec

from ..types import Lifecycle, Limits, Storage
from .arn import DEFAULT
from .context import Context
from .rows import Endpoint, Runtime, Version


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. `endpoints` are the versions that its endpoints mean; `sessions` how many are in which state."""

    id: str
    name: str
    arn: str
    description: str
    latest: int
    endpoints: dict[str, int]
    sessions: dict[str, int]
    created: float
    updated: float


class Agents(msgspec.Struct, frozen=True, kw_only=True):
    """Agents by id."""

    agents: list[AgentView]


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """A version. Of its environment only the names are shown; `tier_used` may differ from `tier`, `notice` says why."""

    agent: str
    name: str
    version: int
    digest: str
    kind: str
    entry: str
    command: tuple[str, ...]
    state: str
    reason: str
    tier: str
    tier_used: str
    notice: str
    isolation: str
    probe_ms: float
    limits: Limits
    lifecycle: Lifecycle
    storage: Storage
    environment: list[str]
    secrets: tuple[str, ...]
    headers: tuple[str, ...]
    origins: tuple[str, ...]
    packages: tuple[str, ...]
    endpoints: list[str]
    by: str
    created: float


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """Versions, the first one first."""

    versions: list[VersionView]


class EndpointView(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint and the version that it means; `past` are those it meant before."""

    name: str
    version: int
    past: tuple[int, ...]
    arn: str
    created: float
    updated: float


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoints by name."""

    endpoints: list[EndpointView]


class Pointing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version an endpoint is to mean."""

    version: int


class Rollback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Back to version `to`; 0: to the one that the endpoint meant before."""

    to: int = 0
    endpoint: str = DEFAULT


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """An archive that was received."""

    sha256: str
    bytes: int


def agent_view(context: Context, runtime: Runtime, endpoints: list[Endpoint]) -> AgentView:
    """What is shown of an agent."""
    counts = context.control.placement.counts_by(runtime.tenant).get(runtime.id, {})
    return AgentView(
        id=runtime.id,
        name=runtime.name,
        arn=context.control.arn(runtime),
        description=runtime.description,
        latest=runtime.latest,
        endpoints={row.name: row.live for row in endpoints},
        sessions=counts,
        created=runtime.created,
        updated=runtime.updated,
    )


def version_view(runtime: Runtime, row: Version, endpoints: list[Endpoint]) -> VersionView:
    """What is shown of a version."""
    spec = row.spec
    return VersionView(
        agent=runtime.id,
        name=runtime.name,
        version=spec.version,
        digest=spec.digest,
        kind=spec.kind,
        entry=spec.entry,
        command=spec.command,
        state=row.state,
        reason=row.reason,
        tier=spec.tier,
        tier_used=row.tier,
        notice=row.notice,
        isolation=spec.isolation,
        probe_ms=row.probe_ms,
        limits=spec.limits,
        lifecycle=spec.lifecycle,
        storage=spec.storage,
        environment=sorted(spec.environment),
        secrets=spec.secrets,
        headers=spec.headers,
        origins=spec.origins,
        packages=row.packages,
        endpoints=[endpoint.name for endpoint in endpoints if endpoint.live == spec.version],
        by=row.by,
        created=row.created,
    )


def endpoint_view(context: Context, runtime: Runtime, row: Endpoint) -> EndpointView:
    """What is shown of an endpoint."""
    arn = context.control.arn(runtime, row.name)
    return EndpointView(
        name=row.name, version=row.live, past=row.past, arn=arn, created=row.created, updated=row.updated
    )
