"""The rows of the directory. Each carries its tenant and the schema version it was written with."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..types import SCHEMA, VersionSpec

VersionState = Literal["preparing", "ready", "failed", "deleted"]
SessionState = Literal["starting", "live", "draining", "stopping", "ended"]


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """A deployed agent. `latest` is the highest version number that was given out. Times are Unix seconds."""

    tenant: str
    id: str
    name: str
    latest: int = 0
    description: str = ""
    created: float = 0.0
    updated: float = 0.0
    schema: int = SCHEMA


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version, and how it fared when it was probed.

    `tier` is the one that it really runs in and `notice` why not in the one that was asked for; `reason` is why it failed.
    `by` is the principal that deployed it; `packages` what was installed for it, as name, version and hash.
    """

    spec: VersionSpec
    state: VersionState
    created: float
    by: str = ""
    tier: str = ""
    notice: str = ""
    reason: str = ""
    probe_ms: float = 0.0
    packages: tuple[str, ...] = ()
    schema: int = SCHEMA

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.spec.tenant


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A name that clients use for a version. `past` are the versions it had before, the last one last (bounded).

    `target` is the version it is being moved to, equal to `live` when it rests.
    """

    tenant: str
    runtime: str
    name: str
    live: int
    target: int
    past: tuple[int, ...] = ()
    created: float = 0.0
    updated: float = 0.0
    schema: int = SCHEMA


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A session and its owner. `epoch` counts its owners over all its lives; the row stays when it has ended.

    `storage` names its files on the disk, "" if it has none.
    """

    tenant: str
    runtime: str
    version: int
    session: str
    epoch: int
    principal: str
    worker: str
    state: SessionState
    created: float
    updated: float
    reason: str = ""
    channel: str = "websocket"
    metadata: dict[str, Any] = {}
    storage: str = ""
    schema: int = SCHEMA
