"""A worker as the rest of the host sees it."""

from __future__ import annotations

import asyncio
import os

import msgspec

from ..types import Tier, VersionSpec
from .ping import Pong, ping
from .process import Process, describe


class WorkerExit(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker ended.

    Attributes:
        reason: what `stop` was given ("stopped", "drained", …), or "idle", "lifetime" by its limits; "crashed": it exited by
            itself; "killed": by a signal that the host did not send; "memory", "disk", "storage": it passed that limit; "hung":
            no sign of life; "unhealthy": its `/ping` said so; "failed": it never became ready.
        code, signal: exit code, or the signal's number; None where the other holds, or nobody could tell.
        detail: for the owner of the agent: the end of its output.
    """

    reason: str
    code: int | None = None
    signal: int | None = None
    detail: str = ""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What preparing a version found.

    Attributes:
        tier_used: "process" or "shared" with a warm template, else "cold".
        reason: why there is no warm template; "" if there is one, or none was wanted.
        ms: milliseconds from the start of the preparation to an answer of the throw-away child.
        degraded: what isolation this machine does not give, a sentence each.
    """

    tier_used: Tier
    reason: str = ""
    ms: float = 0.0
    degraded: tuple[str, ...] = ()


class Worker:
    """A process, and the sessions in it.

    Attributes:
        id: names it on this host.
        pid: of the process.
        link: Unix socket of the multiplexed link, "" for a foreign app.
        http: Unix socket of the container contract.
        sessions: those assigned to it, with their epochs.
        ended, exit: set when it has ended, and how.
    """

    def __init__(self, id: str, spec: VersionSpec, process: Process, *, link: str, http: str) -> None:
        self.id = id
        self.spec = spec
        self.process = process
        self.link = link
        self.http = http
        self.epochs: dict[str, int] = {}
        self.ended = asyncio.Event()
        self.exit: WorkerExit | None = None
        #: why it is being ended, once it is
        self.intent = ""
        self.retired = False
        self._open = 0
        self._used_at = asyncio.get_running_loop().time()
        #: loop time when the last of its sessions came
        self.joined_at = self._used_at

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    @property
    def sessions(self) -> set[str]:
        """Ids of its sessions."""
        return set(self.epochs)

    @property
    def foreign(self) -> bool:
        """Whether it runs somebody else's application, which tells whether it is busy only when asked."""
        return self.spec.kind != "agent"

    @property
    def in_use(self) -> int:
        """Sockets and requests that the gateway has open."""
        return self._open

    @property
    def used_at(self) -> float:
        """Loop time of the last use that is known."""
        return asyncio.get_running_loop().time() if self._open else self._used_at

    def join(self, session: str, epoch: int) -> None:
        """Another session comes: neither the idleness nor the age of the others is its own."""
        self.epochs[session] = epoch
        self.touch()
        self.joined_at = self._used_at

    def opened(self) -> None:
        """A socket or request of one of its sessions begins: it is not idle. Its own pings are no use."""
        self._open += 1

    def closed(self) -> None:
        """One of them ended."""
        self._open = max(0, self._open - 1)
        self.touch()

    def touch(self) -> None:
        """It is being used now."""
        self._used_at = asyncio.get_running_loop().time()

    async def pong(self, timeout_s: float) -> Pong | None:
        """What a foreign app's `/ping` answers; None in case of none."""
        return await ping(self.http, timeout_s)

    async def busy(self, session: str = "") -> bool:
        """Whether it may not be reaped as idle: told by a Duologue worker, asked of a foreign app's `/ping`.

        `session`: of a worker that several share, whether that one is, for which what its caller has open does not count.
        One that does not answer counts as busy; whether it hangs is decided by its signs of life.
        """
        one = session if self.spec.tier == "shared" else ""
        if self._open and not one:
            return True
        if self.ended.is_set():
            return False
        if self.foreign:
            answer = await self.pong(2.0)
            return answer is None or answer.busy
        try:
            return await self.process.ask(one)
        except (TimeoutError, asyncio.CancelledError):
            return not self.ended.is_set()

    def finish(self) -> WorkerExit:
        """Its process has ended: say how."""
        status = self.process.status
        code = signal = None
        if status is not None:
            code, signal = (
                (None, os.WTERMSIG(status)) if os.WIFSIGNALED(status) else (os.waitstatus_to_exitcode(status), None)
            )
        reason = self.intent
        if not reason:
            died = "killed" if signal is not None else "crashed"
            reason = "memory" if self.process.starved else died
        self.exit = WorkerExit(reason=reason, code=code, signal=signal, detail=self.process.tail)
        self.ended.set()
        return self.exit

    def __repr__(self) -> str:
        how = describe(self.process.status) if self.ended.is_set() else f"pid {self.pid}"
        return f"<Worker {self.id} of {self.spec.id}, {how}>"
