"""Placement: which worker has a session, and until when.

A session is a small state machine::

    (none) ── assign ──> starting ──> live ──> stopping ──> ended
                            │           └─ drain ─> draining ─┘
                            └──────────── could not start ────┘

Concurrent first uses join one start. The principal that opened a session keeps it, also over the ends of its workers: the
row stays when a session has ended, and its next start gets the next epoch. All of this happens on one event loop, and the
only awaits are starts, stops and the disk, so that each transition is a plain assignment; the rows follow by
compare-and-set, which is what will fence another host.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from ..types import Assignment, AssignRequest, HostError, Kind, VersionSpec
from .arn import check_session_id, conflict, missing
from .directory import Aside, Directory
from .live import FleetLike, Live, PlacementOptions, SecretsOf, WorkerLike
from .rows import Session

logger = logging.getLogger("duologue.host.control")

#: ends of workers that are no ends of their sessions: whoever comes within so many seconds has the session back
_LOST, _COMES_BACK_S = ("killed", "crashed", "hung", "memory"), 60.0


class LocalPlacement[W: WorkerLike]:
    """Control's own `Placement` (see `duologue.host.types`). Used on one event loop; :meth:`running` drives its clock.

    Args:
        journal: the file that a tenant's workers append journals to.
        secrets: values of secrets, handed to the worker after it was assigned and kept nowhere here.
        clock: monotonic seconds. wall: Unix seconds.
    """

    def __init__(
        self,
        directory: Directory,
        fleet: FleetLike[W],
        aside: Aside,
        *,
        journal: Callable[[str], str],
        secrets: SecretsOf,
        options: PlacementOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.options = options or PlacementOptions()
        self._directory = directory
        self._fleet = fleet
        self._aside = aside
        self._journal = journal
        self._secrets = secrets
        self._clock = clock
        self._wall = wall
        self._live: dict[tuple[str, str, str], Live[W]] = {}
        self._handles: dict[str, Live[W]] = {}
        #: held by who looks for a place in the shared processes of a version, by its id
        self._sharing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._opened = 0
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._forgotten = float("-inf")
        #: why no new session is taken; "": they are
        self.draining = ""
        self.counts: Counter[str] = Counter()

    # -- Placement -----------------------------------------------------------------------------------------------------

    async def version(self, tenant: str, runtime: str, qualifier: str) -> VersionSpec:
        """See Placement. `runtime` may be an id or a name; the id is in what is returned."""
        return (await self._aside(self._directory.resolve, tenant, runtime, qualifier)).spec

    async def assign(self, request: AssignRequest) -> Assignment:
        """See Placement."""
        if not request.session:
            request = msgspec.structs.replace(request, session=str(uuid.uuid4()))
        check_session_id(request.session)
        key = (request.tenant, request.runtime, request.session)
        live = await self._present(key)
        if live is None:
            spec = await self.version(request.tenant, request.runtime, request.qualifier)
            key = (request.tenant, spec.runtime, request.session)  # by its name until here, perhaps
            live = await self._present(key)  # and somebody may have been quicker
        new = live is None
        if live is None:
            self._admit(request, spec.runtime)
            live = Live[W](spec, request, self._clock())
            self._live[key] = live
            live.started = self._spawn(self._start(live), live)
        elif live.principal != request.principal:
            self.counts["refused.principal"] += 1
            raise _others()
        elif live.state == "starting" and self.options.strict:
            raise conflict("Session operation in progress, please retry.", retry=True)
        self._check_open(live)
        assert live.started is not None
        # Shielded: the one who came first may hang up; those who joined still want the session.
        await asyncio.shield(live.started)
        self._check_open(live)
        worker = live.worker
        assert worker is not None
        return Assignment(
            tenant=live.spec.tenant,
            runtime=live.spec.runtime,
            version=live.spec.version,
            session=live.session,
            epoch=live.epoch,
            worker=worker.id,
            link=worker.link,
            http=worker.http,
            new=new,
            lifetime_left_s=max(0.0, live.begun + live.spec.lifecycle.lifetime_s - self._clock()),
            headers=live.spec.headers,
            metadata=live.request.metadata if live.spec.kind != "agent" else {},
        )

    async def _present(self, key: tuple[str, str, str]) -> Live[W] | None:
        """The session of that id, if there is one. One whose worker has died is waited for: its row is being written."""
        while (live := self._live.get(key)) is not None and live.state == "ended":
            await live.gone.wait()
        return live

    async def opened(self, assignment: Assignment, kind: Kind) -> str:
        """See Placement. Raises HostError 409 if that owner of the session has ended."""
        live = self._live.get((assignment.tenant, assignment.runtime, assignment.session))
        if live is None or live.epoch != assignment.epoch or live.worker is None:
            raise conflict("The session has ended.", retry=True)
        self._check_open(live)
        self._opened += 1
        handle = f"{kind}-{self._opened}"
        self._handles[handle] = live
        live.handles += 1
        live.worker.opened()
        return handle

    async def closed(self, handle: str) -> None:
        """See Placement. What is not open is not an error: the session may have ended first."""
        live = self._handles.pop(handle, None)
        if live is not None:
            live.handles -= 1
            live.idle_since = live.asked = self._clock()
            if live.worker is not None:
                live.worker.closed()
            if live.state == "draining" and live.handles == 0:
                self._spawn(self._reap(live), live)
            self._changed.set()

    async def stop(self, tenant: str, runtime: str, session: str, principal: str, *, reason: str = "stopped") -> bool:
        """See Placement. Returns when it has ended."""
        found = await self._aside(self._directory.runtime, tenant, runtime)
        live = self._live.get((tenant, found.id, session))
        if live is not None and live.principal != principal:
            self.counts["refused.principal"] += 1
            raise _others()
        if live is None:
            row = await self._aside(self._directory.session, tenant, found.id, session)
            if row is not None and row[1].principal != principal:
                raise _others()
            return row is not None
        await self._end(live, reason)
        return True

    # -- for control itself --------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Sessions that are not ended."""
        return len(self._live)

    def counts_by(self, tenant: str) -> dict[str, dict[str, int]]:
        """Sessions of a tenant by runtime and state."""
        found: dict[str, dict[str, int]] = {}
        for live in self._live.values():
            if live.spec.tenant == tenant:
                states = found.setdefault(live.spec.runtime, {})
                states[live.state] = states.get(live.state, 0) + 1
        return found

    def open_handles(self, tenant: str, runtime: str, session: str) -> int:
        """Sockets and requests that a session has open."""
        live = self._live.get((tenant, runtime, session))
        return live.handles if live is not None else 0

    def is_open(self, tenant: str, runtime: str, session: str) -> bool:
        """Whether a session is not ended."""
        return (tenant, runtime, session) in self._live

    async def end(self, tenant: str, runtime: str, session: str, *, reason: str) -> bool:
        """End a session, whoever's it is; False if there is none. For the host and those who may."""
        live = self._live.get((tenant, runtime, session))
        if live is None:
            return False
        await self._end(live, reason)
        return True

    async def erase(self, tenant: str, runtime: str, session: str) -> bool:
        """Remove the storage of a session that has ended; False if it has none. Raises HostError 404, 409."""
        found = await self._aside(self._directory.session, tenant, runtime, session)
        if found is None:
            raise missing(f"There is no session {session[:80]!r}.")
        version, row = found
        if row.state != "ended" or self.is_open(tenant, runtime, session):
            raise conflict("The session uses its storage.", "End it first.")
        if not row.storage:
            return False
        # Whoever opens the session from now on gets another one.
        without = msgspec.structs.replace(row, storage="")
        if await self._aside(self._directory.put_session, version, without) is None:
            raise conflict("The session is being opened.", retry=True)
        await self._fleet.erase(tenant, runtime, row.storage)
        return True

    def drain(self, tenant: str, runtime: str = "", session: str = "") -> int:
        """Take nothing new on these sessions, and end each once nothing of it is open or busy; how many."""
        count = 0
        for live in list(self._live.values()):
            mine = live.spec.tenant == tenant and runtime in ("", live.spec.runtime) and session in ("", live.session)
            if mine and live.state in ("starting", "live"):
                count += 1
                live.drain = True
                if live.state == "live":
                    live.state = "draining"
                    self._spawn(self._drained(live), live)
        return count

    async def _drained(self, live: Live[W]) -> None:
        await self._write(live)
        if live.handles == 0:
            await self._reap(live)

    async def shut_down(self, *, wait_s: float, reason: str = "drained") -> None:
        """Refuse new sessions, let those there end by themselves for `wait_s`, then end the rest, all at once."""
        self.draining = self.draining or "This host is shutting down."
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self._live:
                    await self.tick()
                    for live in list(self._live.values()):
                        if live.state == "live" and live.handles == 0 and not await self._is_busy(live):
                            self._spawn(self._end(live, reason), live)
                    self._changed.clear()
                    if self._live:
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(self._changed.wait(), self.options.busy_every_s)
        await asyncio.gather(*(self._end(live, reason) for live in list(self._live.values())), return_exceptions=True)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Drive idle and lifetime limits; at the end cancel what is under way."""
        ticking = asyncio.create_task(self._tick_on())
        try:
            yield
        finally:
            ticking.cancel()
            tasks = {ticking, *self._tasks}
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def tick(self) -> None:
        """Look at every session: end those whose lifetime is over, and those that were idle for too long."""
        now = self._clock()
        asking = []
        for live in list(self._live.values()):
            if live.state not in ("live", "draining"):
                continue
            life = live.spec.lifecycle
            if now >= live.begun + life.lifetime_s:
                self._spawn(self._end(live, "lifetime"), live)
            elif live.handles == 0 and now - live.asked >= min(self.options.busy_every_s, life.idle_s):
                live.asked = now
                asking.append(live)
        await asyncio.gather(*(self._reap(live) for live in asking))
        if now - self._forgotten >= 3600.0:
            self._forgotten = now
            await self._aside(self._directory.forget_sessions, self._wall() - self.options.keep_ended_s)
            # A storage that is new has its row before it is made.
            swept = await self._fleet.sweep(await self._aside(self._directory.storages))
            self.counts["storages_removed"] += swept

    # -- starting ------------------------------------------------------------------------------------------------------

    def _admit(self, request: AssignRequest, runtime: str) -> None:
        """Refuse early, with the reason. Raises HostError 429, 503."""
        retry = (("Retry-After", str(self.options.retry_after_s)),)
        if self.draining:
            self.counts["refused.draining"] += 1
            raise HostError(503, "ServiceUnavailableException", self.draining, headers=retry)
        for what, limit, count in (
            ("principal", self.options.per_principal, lambda live: live.principal == request.principal),
            ("runtime", self.options.per_runtime, lambda live: live.key[:2] == (request.tenant, runtime)),
        ):
            if limit and sum(map(count, self._live.values())) >= limit:
                self.counts[f"refused.per_{what}"] += 1
                raise HostError(
                    429, "ThrottlingException", f"This {what} has {limit} sessions, which is its limit.", headers=retry
                )
        reason = self._fleet.capacity().reason
        if reason:
            self.counts["refused.capacity"] += 1
            raise HostError(429, "ThrottlingException", reason, headers=retry)

    async def _start(self, live: Live[W]) -> None:
        try:
            await self._claim(live)
            worker = await self._worker(live)
        except BaseException as error:
            said = str(error.whole()) if isinstance(error, HostError) else "the host failed"
            await self._over(live, f"failed: {said}"[:300])
            self.counts["failed"] += 1
            raise
        live.worker = worker
        live.state = "draining" if live.drain else "live"
        live.idle_since = live.asked = self._clock()
        self._watch(worker, live)
        await self._write(live)
        self.counts["started"] += 1
        logger.debug("session %s/%s/%s: epoch %d in worker %s", *live.key, live.epoch, worker.id)

    async def _claim(self, live: Live[W]) -> None:
        """Become the owner: the next epoch, unless the id belongs to another principal."""
        found = await self._aside(self._directory.session, *live.key)
        if found is not None:
            live.row_version, before = found
            live.epoch = before.epoch
            if before.principal != live.principal:
                self.counts["refused.principal"] += 1
                raise _others()
            if before.state != "ended":
                raise conflict("Another host has this session.", retry=True)
            await self._stay(live, before)
        live.epoch += 1
        now = self._wall()
        storage = before.storage if found is not None else ""
        if live.spec.storage.path and not storage:
            storage = uuid.uuid4().hex
        live.row = Session(
            tenant=live.spec.tenant,
            runtime=live.spec.runtime,
            version=live.spec.version,
            session=live.session,
            epoch=live.epoch,
            principal=live.principal,
            worker="",
            state="starting",
            created=now,
            updated=now,
            channel=live.request.channel,
            metadata=live.request.metadata,
            storage=storage,
        )
        written = await self._aside(self._directory.put_session, live.row_version, live.row)
        if written is None:
            live.row = None
            raise conflict("Another host has this session.", retry=True)
        live.row_version = written

    async def _stay(self, live: Live[W], before: Session) -> None:
        """A session that has just lost its worker stays what it was, and on its version, whatever its endpoint means by now."""
        if before.reason not in _LOST or self._wall() - before.updated >= _COMES_BACK_S:
            return
        self.counts["came_back"] += 1
        live.request = msgspec.structs.replace(live.request, channel=before.channel, metadata=before.metadata)
        if before.version != live.spec.version:
            with contextlib.suppress(HostError):  # it was deleted
                version = await self._aside(self._directory.version, *live.key[:2], before.version)
                if version.state == "ready":
                    live.spec = version.spec

    async def _worker(self, live: Live[W]) -> W:
        if live.spec.tier != "shared":
            return await self._process(live)
        # One at a time: those who come together share the process that the first of them has to start.
        async with self._sharing.setdefault(live.spec.id, asyncio.Lock()):
            return await self._join(live) or await self._process(live)

    async def _join(self, live: Live[W]) -> W | None:
        """A process of the version that takes the session in; None if there is none."""
        shared = {
            other.worker.id: other.worker
            for other in self._live.values()
            if other.worker is not None and other.spec.id == live.spec.id and other.state == "live"
        }
        for worker in shared.values():
            if worker.ended.is_set() or len(worker.sessions) >= self._fleet.shared_sessions:
                continue
            try:
                await self._fleet.join(worker, session=live.session, epoch=live.epoch, metadata=live.request.metadata)
            except HostError as error:
                logger.debug("worker %s of %s takes no more: %s", worker.id, live.spec.id, error.message)
            else:
                return worker
        return None

    async def _process(self, live: Live[W]) -> W:
        values = await self._secrets(live.spec.tenant, live.spec.secrets) if live.spec.secrets else {}
        return await self._fleet.start(
            live.spec,
            session=live.session,
            epoch=live.epoch,
            secrets=values,
            journal=self._journal(live.spec.tenant),
            storage=live.row.storage if live.row is not None else "",
            metadata=live.request.metadata,
        )

    def _watch(self, worker: W, live: Live[W]) -> None:
        if worker.id not in self._watched:
            self._watched[worker.id] = self._spawn(self._mourn(worker), f"worker {worker.id} of {live.spec.id}")

    async def _mourn(self, worker: W) -> None:
        """When a worker ends, its sessions have ended."""
        await worker.ended.wait()
        self._watched.pop(worker.id, None)
        exit = getattr(worker, "exit", None)
        for live in [live for live in self._live.values() if live.worker is worker]:
            if live.state not in ("stopping", "ended"):
                reason = getattr(exit, "reason", "crashed")
                self.counts[f"died.{reason}"] += 1
                await self._over(live, reason)

    # -- ending --------------------------------------------------------------------------------------------------------

    async def _reap(self, live: Live[W]) -> None:
        busy = await self._is_busy(live)
        now = self._clock()
        if live.handles or live.state not in ("live", "draining"):
            return
        if busy:
            live.idle_since = now
        elif live.state == "draining":
            self._spawn(self._end(live, "drained"), live)
        elif now - live.idle_since >= live.spec.lifecycle.idle_s:
            self.counts["reaped"] += 1
            self._spawn(self._end(live, "idle"), live)

    async def _is_busy(self, live: Live[W]) -> bool:
        worker = live.worker
        return worker is not None and not worker.ended.is_set() and await worker.busy(live.session)

    async def _end(self, live: Live[W], reason: str) -> None:
        """End a session and wait until it has; several who ask for it wait for the same end."""
        if live.ending is None:
            live.ending = self._spawn(self._finish(live, reason), live)
        await asyncio.shield(live.ending)

    async def _finish(self, live: Live[W], reason: str) -> None:
        if live.state == "starting":
            assert live.started is not None
            await asyncio.wait({live.started})
        if live.state == "ended":
            return
        live.state, live.reason = "stopping", reason
        await self._write(live)
        worker = live.worker
        assert worker is not None
        try:
            if not worker.ended.is_set():
                await self._fleet.stop(worker, session=live.session, reason=reason, grace_s=live.spec.lifecycle.grace_s)
        finally:
            await self._over(live, reason)

    async def _over(self, live: Live[W], reason: str) -> None:
        live.state, live.reason = "ended", reason
        for handle in [handle for handle, owner in self._handles.items() if owner is live]:
            del self._handles[handle]
        try:
            if live.row is not None:
                await self._write(live)
        finally:
            # Only now: whoever uses the id next must find the row as it was left.
            if self._live.get(live.key) is live:
                del self._live[live.key]
            live.gone.set()
            self._changed.set()
        logger.debug("session %s/%s/%s: %s", *live.key, reason)

    def _check_open(self, live: Live[W]) -> None:
        if live.state in ("stopping", "draining", "ended"):
            what = "is being drained" if live.state == "draining" else "is ending"
            raise conflict(f"The session {what}, please retry.", retry=True)

    async def _write(self, live: Live[W]) -> None:
        """Bring the row up to date; once at a time for each session, by the row's version."""
        if live.row is None:
            return
        async with live.writing:
            worker = live.worker.id if live.worker is not None else ""
            live.row = msgspec.structs.replace(live.row, state=live.state, worker=worker, reason=live.reason)
            written = await self._aside(self._directory.put_session, live.row_version, live.row)
            if written is not None:
                live.row_version = written
            else:
                self.counts["fenced"] += 1
                logger.warning("session %s/%s/%s: another host wrote its row", *live.key)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None], of: object) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(done, of))
        return task

    def _done(self, task: asyncio.Task[None], of: object) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, HostError):
            logger.error("%s: %s", of, type(error).__name__, exc_info=error)

    async def _tick_on(self) -> None:
        while True:
            try:
                await self.tick()
            except Exception:
                self.counts["tick_failed"] += 1
                logger.exception("looking after the sessions failed; it is tried again")
            await asyncio.sleep(min(1.0, self.options.busy_every_s))


def _others() -> HostError:
    return HostError(403, "AccessDeniedException", "The session belongs to another principal.")
