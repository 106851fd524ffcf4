"""How a fleet runs its workers."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from ...errors import ConfigurationError


class FleetOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a fleet. Times in seconds, sizes in bytes.

    Attributes:
        pool: unassigned children kept ready for each version that has a warm template.
        sessions: capacity tokens, one for each session that runs at the same time.
        shared_sessions: most sessions of one process of tier "shared".
        memory_reserve: memory that must stay available on the machine; a start that would leave less is refused.
        max_lag_s: the host's event loop may be this late (95th percentile of the last seconds) before starts are refused.
        inference: "shared": one process recognises and speaks for all workers; "own": each worker loads its own models.
        model_directories: directories whose models the shared service may load beside those that packages carry.
        uids: first user id and how many; tenants get one each, where the host is root. (0, 0): none.
        journals: directory with a subdirectory per tenant (see `Fleet.journals`), the only one of the host's that a tenant's
            workers can write; "": `journals` in the fleet's own directory.
        storages: directory for storages of sessions; "": `storages` in the fleet's own directory.
        disk_reserve: bytes of its disk that stay free; with less no session with a storage starts.
        cgroups: "auto" uses version 2 or 1 where they can be written; "off" leaves only rlimits.
        beat_s, lease_s: a worker gives a sign of life every `beat_s`; without one for `lease_s` it hangs and is killed.
        foreign_lease_s: the same for foreign apps, which may block their loop without meaning harm.
        ping_s: how often a foreign session's `/ping` is asked.
        first_ping_s: within this a foreign session must answer its first `/ping`, and any worker be ready.
        notice_s: how long before a stop clients and app are told, at most half of the grace.
        lifetime_notice_s: the same before the end of a lifetime, at most a tenth of it.
        probe_s: longest preparation of a version.
    """

    pool: int = 2
    sessions: int = 400
    shared_sessions: int = 100
    memory_reserve: int = 512 << 20
    max_lag_s: float = 0.25
    inference: Literal["shared", "own"] = "shared"
    model_directories: tuple[str, ...] = ()
    uids: tuple[int, int] = (200_000, 10_000)
    journals: str = ""
    storages: str = ""
    disk_reserve: int = 1 << 30
    cgroups: Literal["auto", "off"] = "auto"
    beat_s: float = 1.0
    lease_s: float = 10.0
    foreign_lease_s: float = 120.0
    ping_s: float = 2.0
    first_ping_s: float = 120.0
    notice_s: float = 2.0
    lifetime_notice_s: float = 30.0
    probe_s: float = 120.0

    def __post_init__(self) -> None:
        if self.pool < 0 or self.sessions < 1 or self.shared_sessions < 1:
            raise ConfigurationError("FleetOptions: pool must be 0 or more, sessions and shared_sessions 1 or more.")
        if not 0 < self.beat_s * 2 <= self.lease_s <= self.foreign_lease_s:
            raise ConfigurationError(
                "FleetOptions: lease_s must be at least two beats, foreign_lease_s at least lease_s."
            )

    @property
    def own_uids(self) -> bool:
        """Whether tenants get user ids of their own."""
        return os.geteuid() == 0 and self.uids[1] > 0
