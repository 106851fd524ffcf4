"""When a process is ended for being idle or old, as several sessions come to share it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from duologue.host.types import Lifecycle
from duologue.host.workers import FleetOptions, Worker
from duologue.host.workers.supervisor import _Watch
from tests.host.workers.parts import spec

pytestmark = pytest.mark.anyio


class Still:
    """A process that does nothing; `asked` is called when it is asked whether it is busy."""

    def __init__(self) -> None:
        self.beat_at = 1e9  # it lives
        self.busy = False
        self.asked: Callable[[], object] = lambda: None

    async def ask(self, session: str = "") -> bool:
        """Not busy."""
        self.asked()
        return False


class Shared:
    """A worker of tier "shared" with an idle limit of 60 s and a lifetime of 1000 s, and a clock that is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)
        self.process = Still()
        of = spec(Path("/nowhere"), "agent", tier="shared", lifecycle=Lifecycle(idle_s=60.0, lifetime_s=1000.0))
        self.worker = Worker("w1", of, cast(Any, self.process), link="", http="")
        self.watch = _Watch(self.worker, FleetOptions(lifetime_notice_s=30.0), {})

    async def at(self, now: float) -> str:
        """Why it has to end then; "": it has not."""
        self.now = now
        return (await self.watch.verdict(now, True))[0]


async def test_who_joins_an_idle_process_does_not_inherit_its_idleness(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(monkeypatch)
    assert await shared.at(59.0) == ""
    shared.worker.join("second", 1)
    assert await shared.at(118.0) == ""
    assert await shared.at(119.0) == "idle"


async def test_who_joins_while_the_process_is_asked_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(monkeypatch)
    shared.process.asked = lambda: shared.worker.join("second", 1)
    assert await shared.at(60.0) == ""


async def test_the_last_one_who_joined_has_its_whole_lifetime(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(monkeypatch)
    shared.worker.opened()
    shared.now = 900.0
    shared.worker.join("second", 1)
    assert await shared.at(1000.0) == ""  # the first one's end is placement's business
    assert await shared.at(1869.0) == ""
    assert await shared.at(1870.0) == "lifetime"
