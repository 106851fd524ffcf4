"""A worker's own process, once its code is loaded: it waits to be assigned, serves, and ends when it is told to.

The same in a forked child and in a process that was started cold. Everything that forks must not share (event loop, threads,
stores, sockets, randomness, secrets) comes into being here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from typing import Any

import msgspec

from ... import secrets
from ...agent import Agent
from ...serve.sessions import Sessions
from ...store import Committer, GroupCommitter, MemoryStore, SQLiteStore, Store, Writer
from ...wire.hostlink import Open
from . import kernel
from . import messages as m
from .inference_client import InferenceClient
from .isolation import new_loop
from .link import LinkListener, Refusal
from .loading import Code

logger = logging.getLogger("duologue.host.workers")

#: what open requests get after the notice, when a worker stops, seconds
_PATIENCE_S = 2.0
#: freed memory that a process of many sessions keeps for what they need next, bytes
_KEPT = 16 << 20


def run(control: socket.socket, boot: m.Boot, code: Code) -> int:
    """Be a worker until the end; the process's exit code."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_Child(control, boot, code).run())


class _TenantCommitter(GroupCommitter):
    """Writes a tenant's journals, whatever those who serve a single agent take for the tenant.

    A session that is opened again after its call has ended goes on in its journal: the host has made this process its owner.
    """

    def __init__(self, store: Store, tenant: str) -> None:
        super().__init__(store)
        self._tenant = tenant

    async def claim(self, tenant: str, key: str, expected_epoch: int = 0) -> Writer:
        """See Committer."""

        def present(store: Store) -> int:
            journal = store.journal(self._tenant, key)
            return journal.epoch if journal is not None else 0

        return await super().claim(self._tenant, key, expected_epoch or await self.run(present))

    async def read(self, tenant: str, key: str) -> tuple[int, list[bytes]]:
        """See Committer."""
        return await super().read(self._tenant, key)


class _Child:
    def __init__(self, control: socket.socket, boot: m.Boot, code: Code) -> None:
        self._control = control
        self._boot = boot
        self._code = code
        self._http = code.http
        self._link: LinkListener | None = None
        self._inference: InferenceClient | None = None
        self._store: Store | None = None
        self._committer: Committer | None = None
        self._sessions: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._assigned = asyncio.Event()
        self._stop = asyncio.Event()
        self._stopping = m.Stopping()
        self._assignment: tuple[m.Assign, list[int]] | None = None

    async def run(self) -> int:
        """See `run`."""
        loop = asyncio.get_running_loop()
        self._control.setblocking(False)
        loop.add_reader(self._control.fileno(), self._readable)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        self._tell(m.Hello())
        waits = {asyncio.ensure_future(event.wait()) for event in (self._assigned, self._stop)}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self._assignment is None:
            return 0
        try:
            await self._begin(*self._assignment)
        except Exception as error:
            logger.exception("a worker of %s cannot begin", self._boot.spec.id)
            self._tell(m.Failed(message=f"{type(error).__name__}: {error}"))
            return 1
        self._tell(m.Ready())
        beat = asyncio.ensure_future(self._beat())
        await self._stop.wait()
        await self._end()
        beat.cancel()
        return 0

    # --- the control socket

    def _readable(self) -> None:
        try:
            received = m.receive_in_process(self._control)
        except BlockingIOError:
            return
        except (OSError, msgspec.DecodeError):
            received = None
        if received is None:  # the host is gone, and nobody would look after this process
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._stopping = m.Stopping(reason="shutdown")
            self._stop.set()
            return
        message, fds = received
        match message:
            case m.Assign() if self._assignment is None:
                self._assignment = message, fds
                self._assigned.set()
            case m.Join():
                self._sessions[message.session] = message.epoch
                if message.metadata and self._code.server is not None:
                    self._code.server.sessions.metadata[message.session] = message.metadata
                self._tell(m.Joined(session=message.session))
            case m.Stopping(session=None):
                self._stopping = message
                self._stop.set()
            case m.Stopping():
                self._spawn(self._end_session(message))
            case m.Ask():
                busy = self._works(message.session) if message.session else self._busy
                self._tell(m.State(n=message.n, busy=busy))
            case _:
                logger.debug("a worker of %s is told the unexpected: %s", self._boot.spec.id, type(message).__name__)

    def _tell(self, message: m.FromProcess) -> None:
        with contextlib.suppress(OSError):
            m.send(self._control, message)

    async def _beat(self) -> None:
        while True:
            self._tell(m.Beat(busy=self._busy))
            await asyncio.sleep(self._boot.beat_s)

    @property
    def _busy(self) -> bool:
        if self._http.busy or (self._link is not None and self._link.busy):
            return True
        return self._code.server is not None and self._code.server.sessions.busy

    def _works(self, session: str) -> bool:
        """Whether one session is busy. Its requests are not seen here: who passes them on has counted them."""
        if self._link is not None and self._link.serves(session):
            return True
        call = self._code.server.sessions.find(session) if self._code.server is not None else None
        return call is not None and call.busy

    # --- the life of a worker

    async def _begin(self, assign: m.Assign, fds: list[int]) -> None:
        if self._boot.spec.tier == "shared":
            kernel.keep_freed(_KEPT)
        inherited = iter(fds)
        http = socket.socket(fileno=next(inherited))
        link = socket.socket(fileno=next(inherited)) if assign.link else None
        if assign.inference:
            self._inference = InferenceClient(socket.socket(fileno=next(inherited)))
            await self._inference.start()
        secrets.deliver(assign.secrets)
        if assign.storage:
            os.environ["DUOLOGUE_STORAGE"] = assign.storage
        self._sessions[assign.session] = assign.epoch
        server = self._code.server
        if server is not None:
            self._store = SQLiteStore(assign.journal) if assign.journal else MemoryStore()
            self._committer = _TenantCommitter(self._store, self._boot.spec.tenant)
            server.sessions = Sessions(server.agent, server.options, self._committer)
            server.sessions.metadata[assign.session] = assign.metadata
        await self._http.start(http, of=self._boot.spec.id)
        if server is not None and link is not None:
            self._link = LinkListener(assign.worker, server, self._code.app, self._admit, of=self._boot.spec.id)
            self._link.start(link)
        if server is not None and isinstance(server.agent, Agent):
            if assign.warm:
                await self._warm_up(server.agent)
            elif self._inference is None:
                self._spawn(self._warm_up(server.agent))

    async def _warm_up(self, agent: Agent) -> None:
        """Load the agent's models: its own while the first caller says hello, those of the service before it is needed."""
        try:
            await agent.model.warm_up()
        except Exception:
            logger.exception("the model of %s does not warm up", self._boot.spec.id)

    def _admit(self, request: Open) -> None:
        """Raises Refusal unless the session is here, in this epoch."""
        if self._stop.is_set():
            raise Refusal(503, "This session is about to stop.")
        if self._sessions.get(request.session) != request.epoch:
            raise Refusal(409, "This worker does not have that session.")

    async def _end_session(self, stopping: m.Stopping) -> None:
        """End one session among several."""
        assert stopping.session is not None
        self._sessions.pop(stopping.session, None)
        server = self._code.server
        call = server.sessions.find(stopping.session) if server is not None else None
        if server is not None:
            server.sessions.metadata.pop(stopping.session, None)
        if stopping.notice_s and self._works(stopping.session):
            if call is not None and call.channel is not None:
                call.channel.going_away(stopping.notice_s, stopping.reason)
            await asyncio.sleep(stopping.notice_s)
        if call is not None:
            await call.session.stop("shutdown", stopping.reason)
        if self._link is not None:
            # A provider's wire has its own ids: its sessions are known by their streams alone.
            await self._link.end(stopping.session, _PATIENCE_S if call is not None else 0.0)
        self._tell(m.Gone(session=stopping.session))

    async def _end(self) -> None:
        stopping = self._stopping
        notice = stopping.notice_s if self._busy else 0.0
        if self._link is not None:
            self._link.go_away(stopping.reason, notice)
        server = self._code.server
        if server is not None:
            await server.sessions.close(stopping.reason, notice)
        elif notice:
            await asyncio.sleep(notice)
        if self._link is not None:
            await self._link.stop(_PATIENCE_S)
        await self._http.stop(_PATIENCE_S)
        if self._committer is not None:
            await self._committer.close()
        if self._store is not None:
            self._store.close()
        if server is not None and isinstance(server.agent, Agent):
            await server.agent.model.aclose()
        if self._inference is not None:
            await self._inference.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
