"""The fleet: every worker process of this host, started, watched and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

from ...errors import ConfigurationError, OverloadedError
from ..types import HostError, VersionSpec
from . import messages as m
from .capacity import Admission, Capacity
from .inference_host import InferenceHost
from .limits import PREFIX, Cgroups
from .options import FleetOptions
from .process import describe
from .storage import Meter, Storages, measure
from .supervisor import supervise
from .uids import Uids
from .version import Surroundings, Version
from .worker import Probe, Worker

logger = logging.getLogger("duologue.host.workers")

#: names the session of the throw-away child that a version is probed with
_PROBE = "probe"
#: how long the end of a process that answers nothing is waited for, seconds
_LAST_WORDS_S = 1.0
#: longest path of a Unix socket, bytes
_LONGEST_PATH = 107


class Fleet:
    """Starts and watches workers. An asynchronous context manager; leaving it ends every worker.

    Args:
        directory: runtime directory for sockets and homes; made 0700. Keep its path short: those of Unix sockets are.
        options: see FleetOptions.

    Attributes:
        workers: those that live, by id.
    """

    def __init__(self, directory: Path, *, options: FleetOptions | None = None) -> None:
        self.directory = directory
        self.options = options or FleetOptions()
        self.workers: dict[str, Worker] = {}
        self._admission = Admission(self.options)
        self._journals = Path(self.options.journals) if self.options.journals else directory / "journals"
        self._storages = Storages(
            Path(self.options.storages) if self.options.storages else directory / "storages",
            reserve=self.options.disk_reserve,
        )
        self._versions: dict[str, Version] = {}
        self._probes: dict[str, asyncio.Task[Probe]] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._retired: list[Version] = []
        self._cgroups = Cgroups("", use=False)
        self._uids: Uids | None = None
        self._inference: InferenceHost | None = None
        self._around = Surroundings(directory, self.options, self._cgroups)

    async def __aenter__(self) -> Self:
        longest = len(os.fsencode(self.directory / "w999999.http"))
        if longest > _LONGEST_PATH:
            raise ConfigurationError(
                f"{self.directory} is too long for Unix sockets.", hint="Use a runtime directory such as /run/duologue."
            )
        own = self.options.own_uids
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        _clear(self.directory)
        self._journals.mkdir(parents=True, exist_ok=True)
        if own:
            self._uids = Uids(self._journals / "uids.json", *self.options.uids)
        self._cgroups = Cgroups(f"{PREFIX}{os.getpid()}-{id(self):x}", use=self.options.cgroups == "auto")
        self._cgroups.sweep()
        self._around = Surroundings(self.directory, self.options, self._cgroups)
        if self.options.inference == "shared":
            self._inference = InferenceHost(self.directory, self.options)
        self._admission.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._probes.values():
            task.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)
        versions = [*self._versions.values(), *self._retired]
        for version in versions:
            await version.retire()
        live = list(self.workers.values())
        await asyncio.gather(*(self.stop(worker, reason="shutdown") for worker in live))
        await asyncio.gather(*self._watches, return_exceptions=True)
        for version in versions:
            await version.close()
        if self._inference is not None:
            await self._inference.close()
        await self._admission.stop()
        await self._cgroups.close()

    def journals(self, tenant: str) -> Path:
        """The tenant's directory for journals, made if need be, its alone: pass files in it as `journal`."""
        if not tenant or "/" in tenant or tenant.startswith("."):
            raise ConfigurationError(f"{tenant!r} is no name of a tenant.")
        directory = self._journals / tenant
        directory.mkdir(mode=0o700, exist_ok=True)
        if uid := self._uid(tenant):
            os.chown(directory, uid, uid)
            for file in directory.iterdir():
                os.chown(file, uid, uid, follow_symlinks=False)
        return directory

    # ------------------------------------------------------------------ versions

    async def prepare(self, spec: VersionSpec) -> Probe:
        """Make the version ready: a warm template and its pool, or the reason why it starts cold. Idempotent.

        A throw-away child serves `/ping` before anybody else is served.
        Raises HostError 424 if it cannot run at all, or not in the isolation that it asks for.
        """
        try:
            return await self._prepared(spec)
        except HostError as error:
            raise error.whole() from error

    async def _prepared(self, spec: VersionSpec) -> Probe:
        task = self._probes.get(spec.id)
        if task is None:
            task = self._probes[spec.id] = asyncio.ensure_future(self._prepare(spec))
        try:
            return await asyncio.shield(task)
        except HostError:
            self._probes.pop(spec.id, None)
            raise

    async def _prepare(self, spec: VersionSpec) -> Probe:
        began = asyncio.get_running_loop().time()
        self._check(spec)
        version = Version(
            spec,
            self._around,
            uid=self._uid(spec.tenant),
            journals=self.journals(spec.tenant),
            max_sessions=self.options.shared_sessions if spec.tier == "shared" else 8,
        )
        version.degraded = self._missing()
        try:
            if spec.kind == "command":
                version.reason = "Commands start cold." if spec.tier != "cold" else ""
            elif spec.storage.path:
                # What is mounted for one session must not be there for another, and a template's children share its mounts.
                version.reason = "Sessions with a storage start cold." if spec.tier != "cold" else ""
            elif spec.tier != "cold":
                await version.warm()
            if version.template is not None:
                try:
                    await self._try(version)
                except HostError as error:
                    version.cool(f"A child of the template did not serve: {error.message}")
            if version.template is None:
                await self._try(version)
            if spec.isolation == "strict" and version.degraded:
                raise _not_isolated(version.degraded)
        except BaseException:
            await version.retire()
            await version.close()
            raise
        self._versions[spec.id] = version
        ms = 1000 * (asyncio.get_running_loop().time() - began)
        await version.fill()
        warm = version.template is not None
        return Probe(
            tier_used=("shared" if spec.tier == "shared" else "process") if warm else "cold",
            reason=version.reason,
            ms=ms,
            degraded=version.degraded,
        )

    def _check(self, spec: VersionSpec) -> None:
        if spec.tier == "shared" and spec.kind != "agent":
            raise HostError(424, "RuntimeClientError", "Only Duologue agents share a process.")
        if spec.storage.path and spec.tier == "shared":
            raise HostError(424, "RuntimeClientError", "Sessions that share a process have no storages.")
        if spec.kind == "command" and not spec.command:
            raise HostError(424, "RuntimeClientError", "There is no command.")
        if spec.isolation == "strict" and (missing := self._missing()):
            raise _not_isolated(missing)

    def _missing(self) -> tuple[str, ...]:
        """What this machine does not give, a sentence each."""
        found = []
        if self._uids is None:
            found.append("Workers run as the host's own user: the host is not root, or was given no user ids.")
        for controller in self._cgroups.missing:
            what = {"memory": "memory (rlimits stand in)", "cpu": "CPU time", "pids": "number of processes"}[controller]
            found.append(f"No control group limits a worker's {what}.")
        return tuple(found)

    async def _try(self, version: Version) -> None:
        """Have a throw-away child serve a request. Raises HostError 424."""
        shared = self._inference is not None and version.spec.kind == "agent"
        storage = version.throwaway() if version.spec.storage.path else None
        worker = await self._launch(
            version,
            session=_PROBE,
            epoch=0,
            secrets={},
            journal="",
            storage=storage,
            inference=shared,
            metadata={},
        )
        try:
            if (wrong := await self._first_ping(worker)) is not None:
                raise HostError(424, "RuntimeClientError", wrong, detail=worker.process.last_words)
        finally:
            worker.intent = "stopped"
            worker.process.kill()
            await worker.ended.wait()

    async def retire(self, spec: VersionSpec) -> None:
        """No new sessions of the version: its pool ends, its template when its last child does; live sessions go on."""
        self._probes.pop(spec.id, None)
        version = self._versions.pop(spec.id, None)
        if version is not None:
            self._retired.append(version)
            await version.retire()

    # ------------------------------------------------------------------ sessions

    async def start(
        self,
        spec: VersionSpec,
        *,
        session: str,
        epoch: int,
        secrets: Mapping[str, str],
        journal: str,
        storage: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Worker:
        """A worker for a new session, ready to serve. Prepares the version if nobody did.

        Args:
            secrets: by name; delivered to the process, in memory.
            journal: SQLite file in `journals(tenant)`; "": the session's journal is kept in memory.
            storage: name of the session's storage, for a version that has storages.
            metadata: what a Duologue agent is told of the call, as `session.call.metadata`.

        Raises HostError 429 (no capacity; `Retry-After`), 424 (it did not start, or its storage is full; the message says why).
        """
        self._admission.take()
        try:
            await self._prepared(spec)
            version = self._versions.get(spec.id)
            if version is None:
                raise HostError(424, "RuntimeClientError", f"{spec.id} is retired.")
            shared = self._inference is not None and spec.kind == "agent"
            place = await self._storage(version, storage) if spec.storage.path else None
            worker = await self._launch(
                version,
                session=session,
                epoch=epoch,
                secrets=secrets,
                journal=journal,
                storage=place,
                inference=shared,
                metadata=metadata or {},
            )
            if worker.foreign and (wrong := await self._first_ping(worker)) is not None:
                worker.intent = "failed"
                worker.process.kill()
                raise HostError(424, "RuntimeClientError", wrong, detail=worker.process.last_words)
        except BaseException:
            self._admission.give_back()
            raise
        version.refill()
        meters = {"disk": Meter(worker.process.home, spec.limits.disk_bytes)} if spec.limits.disk_bytes else {}
        if place is not None:
            meters["storage"] = Meter(place, spec.storage.bytes)
        watch = asyncio.ensure_future(supervise(worker, self.options, self._end, meters))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        return worker

    async def _storage(self, version: Version, name: str) -> Path:
        """Where a session's storage is. Raises HostError 424, 429."""
        spec = version.spec
        place = await asyncio.to_thread(self._storages.place, spec.tenant, spec.runtime, name, version.uid)
        if await asyncio.to_thread(measure, place, most=spec.storage.bytes) > spec.storage.bytes:
            raise HostError(
                424,
                "RuntimeClientError",
                f"The session's storage holds more than its {spec.storage.bytes >> 20} MB.",
                hint="Erase it (`duologue sessions erase`), or use another session.",
            )
        return place

    async def erase(self, tenant: str, runtime: str, storage: str) -> None:
        """Remove a storage that no session uses. Raises OSError."""
        await asyncio.to_thread(self._storages.erase, tenant, runtime, storage)

    async def sweep(self, kept: Collection[tuple[str, str, str]]) -> int:
        """Remove every storage but those (tenant, runtime, name); how many were. Raises OSError."""
        return await asyncio.to_thread(self._storages.sweep, kept)

    async def join(
        self, worker: Worker, *, session: str, epoch: int, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Another session in a worker of tier "shared". Raises HostError 429 (it is full), 424 (it has ended)."""
        if worker.spec.tier != "shared" or worker.intent or worker.ended.is_set():
            raise HostError(424, "RuntimeClientError", "This worker takes no other sessions.")
        if len(worker.epochs) >= self.options.shared_sessions:
            raise HostError(429, "ThrottlingException", "This worker is full.", headers=(("retry-after", "1"),))
        self._admission.take()
        worker.join(session, epoch)
        try:
            await worker.process.request(
                session, m.Join(session=session, epoch=epoch, metadata=dict(metadata or {})), self.options.lease_s
            )
        except BaseException as error:
            if worker.epochs.pop(session, None) is not None:
                self._admission.give_back()
            if isinstance(error, TimeoutError | asyncio.CancelledError) and worker.ended.is_set():
                raise HostError(424, "RuntimeClientError", "The worker has ended.") from None
            if isinstance(error, TimeoutError):
                raise HostError(424, "RuntimeClientError", "The worker does not answer.") from None
            raise

    async def stop(
        self,
        worker: Worker,
        *,
        session: str | None = None,
        reason: str = "stopped",
        grace_s: float | None = None,
    ) -> None:
        """End one session of a worker, or (None, or its last one) the worker: notice, SIGTERM, after the grace SIGKILL.

        Returns when it has ended. Idempotent. `grace_s` None: the version's.
        """
        grace = worker.spec.lifecycle.grace_s if grace_s is None else grace_s
        notice = min(self.options.notice_s, grace / 2)
        if session is not None and session not in worker.epochs:
            return
        if session is None or len(worker.epochs) == 1:
            await self._end(worker, reason, notice, grace)
            return
        with contextlib.suppress(TimeoutError):
            stopping = m.Stopping(session=session, reason=reason, notice_s=notice)
            await worker.process.request(session, stopping, grace + notice)
        if worker.epochs.pop(session, None) is not None:
            self._admission.give_back()
        if not worker.epochs:  # the others were ending at the same time
            await self._end(worker, reason, notice, grace)

    async def _end(self, worker: Worker, reason: str, notice_s: float, grace_s: float | None = None) -> None:
        grace = worker.spec.lifecycle.grace_s if grace_s is None else grace_s
        if not worker.intent and not worker.ended.is_set():
            worker.intent = reason
            worker.process.send(m.Stopping(reason=reason, notice_s=notice_s))
            if worker.spec.kind == "command":
                notice_s = 0.0  # the signal is its notice
        if not await _within(worker, notice_s):
            worker.process.signal(signal.SIGTERM)
            if not await _within(worker, grace):
                logger.info("worker %s of %s does not end within its grace", worker.id, worker.spec.id)
                worker.process.kill()
                await worker.ended.wait()

    @property
    def shared_sessions(self) -> int:
        """Most sessions of one process of tier "shared"."""
        return self.options.shared_sessions

    def capacity(self) -> Capacity:
        """What is left; never waits."""
        return self._admission.state()

    # ------------------------------------------------------------------ processes

    async def _launch(
        self,
        version: Version,
        *,
        session: str,
        epoch: int,
        secrets: Mapping[str, str],
        journal: str,
        storage: Path | None,
        inference: bool,
        metadata: Mapping[str, Any],
    ) -> Worker:
        process = await version.take(storage)
        spec = version.spec
        agent = spec.kind == "agent"
        http = str(self.directory / f"{process.id}.http")
        link = str(self.directory / f"{process.id}.link") if agent else ""
        worker = Worker(process.id, spec, process, link=link, http=http)
        worker.epochs[session] = epoch
        sockets = [_listen(path) for path in (http, link) if path]
        if inference and self._inference is not None:
            sockets.append(await self._inference.connect(spec.tenant))
        assign = m.Assign(
            worker=process.id,
            session=session,
            epoch=epoch,
            secrets=dict(secrets),
            metadata=dict(metadata),
            journal=journal,
            # Without mounts of its own it finds it where it lies.
            storage="" if storage is None else spec.storage.path if version.uid else str(storage),
            link=agent,
            inference=inference,
            warm=inference and session == _PROBE,
        )
        try:
            sent = process.send(assign, [entry.fileno() for entry in sockets])
        except ValueError as error:
            process.kill()
            raise HostError(424, "RuntimeClientError", f"The secrets are too long: {error}.") from None
        finally:
            for entry in sockets:
                entry.close()
        watch = asyncio.ensure_future(self._bury(worker, probe=session == _PROBE))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        if sent:
            await self._until_ready(worker)
        else:
            process.kill()
            raise HostError(424, "RuntimeClientError", "The process ended before it was assigned.")
        self.workers[worker.id] = worker
        return worker

    async def _until_ready(self, worker: Worker) -> None:
        process = worker.process
        try:
            async with asyncio.timeout(self.options.first_ping_s):
                await asyncio.shield(process.ready)
        except BaseException as error:
            worker.intent = "failed"
            process.kill()
            if isinstance(error, TimeoutError):
                raise HostError(424, "RuntimeClientError", "The worker does not become ready.") from None
            raise

    async def _first_ping(self, worker: Worker) -> str | None:
        """An app must answer before it is served: what it did instead, None if it did."""
        answer = await worker.pong(self.options.first_ping_s)
        if answer is not None:
            return None if answer.status == 200 else f"The agent's first /ping answers status {answer.status}."
        if await _within(worker, _LAST_WORDS_S):
            return f"The agent's process ended before it answered /ping: {describe(worker.process.status)}."
        seconds = f"{self.options.first_ping_s:g} s"
        if worker.spec.kind != "command":
            return f"The agent answers no /ping within {seconds}."
        where = "port 8080 or $DUOLOGUE_SOCKET" if m.own_network(worker.spec) else "$DUOLOGUE_SOCKET"
        return f"The command answers no /ping on {where} within {seconds}."

    async def _bury(self, worker: Worker, *, probe: bool) -> None:
        """When its process has ended: say how, give back what it had."""
        await worker.process.ended.wait()
        served = self.workers.pop(worker.id, None) is not None
        _unlink(worker.http, worker.link)
        exit = worker.finish()
        logger.debug("worker %s of %s ended: %s", worker.id, worker.spec.id, exit.reason)
        if served and not probe and worker.intent != "failed":
            for _ in worker.epochs:
                self._admission.give_back()

    def _uid(self, tenant: str) -> int:
        if self._uids is None:
            return 0
        try:
            return self._uids.of(tenant)
        except OverloadedError as error:
            raise HostError(429, "ServiceQuotaExceededException", error.message) from None


async def _within(worker: Worker, seconds: float) -> bool:
    """Whether it ends within that time."""
    try:
        async with asyncio.timeout(seconds):
            await worker.ended.wait()
    except TimeoutError:
        return worker.ended.is_set()
    return True


def _clear(directory: Path) -> None:
    """What a host that was killed has left."""
    shutil.rmtree(directory / "homes", ignore_errors=True)
    for pattern in ("w*.http", "w*.link"):
        for path in directory.glob(pattern):
            path.unlink()


def _unlink(*paths: str) -> None:
    for path in paths:
        if path:
            Path(path).unlink(missing_ok=True)


def _listen(path: str) -> socket.socket:
    """A listening socket that only the host's user can connect to, whoever accepts."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(1024)
    return listener


def _not_isolated(missing: tuple[str, ...]) -> HostError:
    return HostError(
        424,
        "RuntimeClientError",
        "This machine does not give the isolation that was asked for. " + " ".join(missing),
        hint='Deploy with isolation="best-effort" to run without.',
    )
