"""A version as the fleet runs it: its warm template, its pool of unassigned children, or the reason why it starts cold."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
from collections import deque
from pathlib import Path

from ..types import HostError, VersionSpec
from . import messages as m
from .limits import Cgroups, Group
from .options import FleetOptions
from .process import Process, environment, launch

logger = logging.getLogger("duologue.host.workers")

#: the pool is filled again this long after a start, which has the machine to itself first
_REFILL_S = 0.1
#: longest wait for a process that nobody uses to end
_END_S = 10.0


class Surroundings:
    """What all versions of a fleet share.

    Attributes:
        homes: directory with one for each version.
        cgroups: where groups are made.
        reach: directories that every worker needs.
    """

    def __init__(self, directory: Path, options: FleetOptions, cgroups: Cgroups) -> None:
        self.directory = directory
        self.options = options
        self.cgroups = cgroups
        self._numbers = 0

    def number(self) -> int:
        """The next number: short names, because the paths of Unix sockets are."""
        self._numbers += 1
        return self._numbers

    @property
    def reach(self) -> list[m.Reach]:
        """Python, its packages and Duologue. Not the host's `sys.path`: the directory of a script may hold anything."""
        own = Path(__file__).resolve().parents[3]
        places = [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), own]
        return [m.Reach(path=str(place)) for place in places if not any(other in place.parents for other in places)]


class Version:
    """One prepared version.

    Args:
        uid: user that it runs as, 0: the host's.
        journals: directory of the tenant's journals.
    """

    def __init__(self, spec: VersionSpec, around: Surroundings, *, uid: int, journals: Path, max_sessions: int) -> None:
        self.spec = spec
        self.uid = uid
        self.template: Process | None = None
        #: why there is no template
        self.reason = ""
        self.degraded: tuple[str, ...] = ()
        self.retired = False
        self._around = around
        self._journals = journals
        self._max_sessions = max_sessions
        self._pool: deque[Process] = deque()
        self._children: dict[int, Process] = {}
        self._leaving: list[Process] = []
        self._filling: asyncio.Task[None] | None = None
        self.homes = around.directory / "homes" / str(around.number())
        self.homes.mkdir(parents=True)
        self.homes.chmod(0o711)

    @property
    def pooled(self) -> int:
        """Unassigned children that are ready."""
        return len(self._pool)

    # ------------------------------------------------------------------ template

    async def warm(self) -> None:
        """Start the template, or set `reason`. Raises HostError 424 if the code cannot be loaded at all."""
        process = self._launch("duologue.host.workers.boot", fork=True)
        try:
            async with asyncio.timeout(self._around.options.probe_s):
                loaded = await process.loaded
        except TimeoutError:
            process.kill()
            seconds = self._around.options.probe_s
            raise HostError(424, "RuntimeClientError", f"Loading the code takes more than {seconds:g} s.") from None
        self._degrade(loaded.degraded)
        if loaded.unfit:
            self.reason = loaded.unfit
            self._leave(process)
            return
        self.template = process
        process.exited = self._exited

    def cool(self, reason: str) -> None:
        """Give the template up: the throw-away child did not do."""
        self.reason = reason
        if self.template is not None:
            self.template.kill()  # nobody's session is its child
        self._drop_template()

    def _drop_template(self) -> None:
        template, self.template = self.template, None
        while self._pool:
            self._leave(self._pool.popleft())
        if template is not None:
            self._leaving.append(template)
            template.send(m.Rest())

    def _leave(self, process: Process) -> None:
        self._leaving.append(process)
        process.close()

    def _exited(self, message: m.Exited) -> None:
        if (child := self._children.pop(message.pid, None)) is not None:
            child.reaped(message.status)

    # ------------------------------------------------------------------ processes

    async def take(self, storage: Path | None = None) -> Process:
        """An unassigned process: of the pool, a fresh child of the template, or a cold one. Raises HostError 424.

        `storage`: what it is to find at the path of its version's storage.
        """
        while self._pool:
            process = self._pool.popleft()
            if not process.ended.is_set():
                return process
        if self.template is not None and not self.template.ended.is_set():
            return await self._fork()
        return await self._cold(storage)

    def refill(self) -> None:
        """Fill the pool again, in a moment."""
        if not self.retired and self.template is not None and (self._filling is None or self._filling.done()):
            self._filling = asyncio.ensure_future(self._fill(_REFILL_S))

    async def fill(self) -> None:
        """Fill the pool now."""
        await self._fill(0.0)

    async def _fill(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while self._wants_more():
            try:
                process = await self._fork()
            except HostError as error:
                logger.warning("%s: no child for the pool: %s", self.spec.id, error.whole())
                return
            self._pool.append(process)
            if self.retired:
                self._drop_template()

    def _wants_more(self) -> bool:
        return not self.retired and self.template is not None and len(self._pool) < self._around.options.pool

    async def _fork(self) -> Process:
        assert self.template is not None
        id = f"w{self._around.number()}"
        home, group = self._place(id)
        ours, theirs = m.pair()
        read, write = os.pipe()
        process = Process(id, of=self.spec.id, home=home, group=group, control=ours, output=read)
        sent = self.template.send(m.Fork(worker=id, home=str(home)), [theirs.fileno(), write])
        theirs.close()
        os.close(write)
        if not sent:
            process.close()
            raise HostError(424, "RuntimeClientError", "The template of this version is gone.")
        await self._until(process.hello, process)
        self._children[process.pid] = process
        return process

    async def _cold(self, storage: Path | None) -> Process:
        module = "command" if self.spec.kind == "command" else "boot"
        process = self._launch(f"duologue.host.workers.{module}", fork=False, storage=storage)
        await self._until(process.hello, process)
        self._degrade(process.loaded.result().degraded)
        return process

    async def _until(self, future: asyncio.Future[None], process: Process) -> None:
        try:
            async with asyncio.timeout(self._around.options.first_ping_s):
                await asyncio.shield(future)
        except (TimeoutError, asyncio.CancelledError) as error:
            process.kill()
            if isinstance(error, TimeoutError):
                raise HostError(424, "RuntimeClientError", "The process does not become ready.") from None
            raise

    def _launch(self, module: str, *, fork: bool, storage: Path | None = None) -> Process:
        around = self._around
        id = f"{'t' if fork else 'w'}{around.number()}"
        home, group = self._place(id)
        spec = self.spec
        process = launch(module, id, of=spec.id, home=home, group=group, environment=environment(spec.environment))
        grouped = group is not None
        boot = m.Boot(
            spec=spec,
            uid=self.uid,
            reach=tuple(self._reach(storage)) if self.uid else (),
            home=str(home),
            network=m.own_network(spec),
            memory=0 if grouped and "memory" not in around.cgroups.missing else spec.limits.memory_bytes,
            processes=4096 if self.uid and "pids" in around.cgroups.missing and spec.limits.processes else 0,
            # not of an agent's process, which writes its tenant's journals too
            file_bytes=spec.storage.bytes if storage is not None and spec.kind != "agent" else 0,
            fork=fork,
            beat_s=around.options.beat_s,
            max_sessions=self._max_sessions,
        )
        process.send(boot)
        return process

    def _reach(self, storage: Path | None) -> list[m.Reach]:
        places = [*self._around.reach, m.Reach(path=self.spec.source)]
        if self.spec.packages:
            places.append(m.Reach(path=self.spec.packages))
        if self._around.options.inference == "own":
            places += [m.Reach(path=directory) for directory in self._around.options.model_directories]
        places.append(m.Reach(path=str(self.homes), writable=True))
        places.append(m.Reach(path=str(self._journals), writable=True))
        if storage is not None:
            places.append(m.Reach(path=str(storage), writable=True, at=self.spec.storage.path))
        return places

    def throwaway(self) -> Path:
        """A storage for a process that is only tried."""
        place = self.homes / "storage"
        place.mkdir(mode=0o700, exist_ok=True)
        if self.uid:
            os.chown(place, self.uid, self.uid)
        return place

    def _place(self, id: str) -> tuple[Path, Group | None]:
        home = self.homes / id
        home.mkdir(mode=0o700)
        if self.uid:
            os.chown(home, self.uid, self.uid)
        try:
            return home, self._around.cgroups.create(id, self.spec.limits)
        except OSError as error:
            self._degrade((f"No limits: control groups cannot be made ({error.strerror}).",))
            return home, None

    def _degrade(self, found: tuple[str, ...]) -> None:
        self.degraded = tuple(dict.fromkeys((*self.degraded, *found)))

    async def retire(self) -> None:
        """No new processes; those that serve go on."""
        self.retired = True
        if self._filling is not None:
            self._filling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._filling
        self._drop_template()

    async def close(self) -> None:
        """Wait until its unassigned processes have ended, and remove its directory. Its workers must have ended."""
        for process in self._leaving:
            try:
                async with asyncio.timeout(_END_S):
                    await process.ended.wait()
            except TimeoutError:
                process.kill()
                await process.ended.wait()
        shutil.rmtree(self.homes, ignore_errors=True)
