"""The gateway processes of a host: started, watched, started again, and ended.

Each is ``python -m duologue.host.gateways NAME`` with its job on standard input. It ends when control tells it to (SIGTERM)
or is gone (its line to control breaks).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import msgspec

from ..errors import ConfigurationError, DuologueError
from ..serve.certificate import Certificate
from ..store import SQLiteStore
from .auth import Audit, AuthOptions, HostAuthority, HostKeys, Vault
from .control.rpc import rpc_placement
from .gateway import Gateway, GatewayLimits, GatewayOptions
from .types import HostError
from .workers.isolation import new_loop

logger = logging.getLogger("duologue.host")

_REPORT_S = 5.0
_START_S = 60.0
_END_S = 10.0
#: pauses before a gateway that ended is started again; the last one repeats
_BACKOFF_S = (0.0, 0.5, 2.0, 10.0)


class GatewayJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a gateway process needs. `host_key`: file of the host key; "": it is in ``$DUOLOGUE_HOST_KEY``."""

    rpc: str
    store: str
    host_key: str
    listen: GatewayOptions
    limits: GatewayLimits
    auth: AuthOptions
    certificate: str = ""
    certificate_key: str = ""


def public_port(host: str, port: int) -> tuple[socket.socket, int]:
    """Reserve the port that gateways share; keep the socket until they have ended. Raises ConfigurationError.

    Without SO_REUSEPORT first, which tells whether somebody else listens there; then with it, and never listening.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            port = probe.getsockname()[1]
        reserved = socket.socket(family, socket.SOCK_STREAM)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            hint="Another program may have the port; choose one with --port.",
        ) from None
    return reserved, port


class Gateways:
    """The processes. An asynchronous context manager: entered when all listen.

    Attributes:
        told: what each reported last.
    """

    def __init__(self, job: GatewayJob, count: int) -> None:
        self._job = job
        self._names = [f"gateway-{number}" for number in range(count)]
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._watches: list[asyncio.Task[None]] = []
        self._ready: dict[str, asyncio.Event] = {name: asyncio.Event() for name in self._names}
        self.told: dict[str, dict[str, Any]] = {}
        self.restarts = 0

    def report(self, name: str, counts: dict[str, Any]) -> None:
        """Take a gateway's report; its first says that it listens."""
        if name in self._ready:
            self.told[name] = counts
            self._ready[name].set()

    async def __aenter__(self) -> Self:
        self._watches = [asyncio.create_task(self._keep(name)) for name in self._names]
        ready = asyncio.create_task(self._all_ready())
        await asyncio.wait({ready, *self._watches}, timeout=_START_S, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await self.__aexit__()
            raise ConfigurationError("The gateways do not start.", hint="Run with --single to see why.")
        return self

    async def _all_ready(self) -> None:
        for event in self._ready.values():
            await event.wait()

    async def __aexit__(self, *exc: object) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def _keep(self, name: str) -> None:
        failures = 0
        while True:
            process = await self._start(name)
            try:
                code = await process.wait()
            finally:
                await self._end(process)
            failures = failures + 1 if not self._ready[name].is_set() else 0
            if failures >= len(_BACKOFF_S):
                raise ConfigurationError(f"{name} does not start: it ended with {code}.")
            self._ready[name].clear()
            self.restarts += 1
            logger.error("%s ended with %s; it is started again", name, code)
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])

    async def _start(self, name: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "duologue.host.gateways", name),
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl+C is for control, which ends them in order
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(self._job))
        process.stdin.close()
        return process

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


# --------------------------------------------------------------------------- in the process


async def serve(job: GatewayJob, name: str) -> None:
    """Be a gateway until SIGTERM, or until control is gone."""
    from .run import tls_context

    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with contextlib.AsyncExitStack() as stack:
        store = SQLiteStore(job.store)
        stack.callback(store.close)
        audit = Audit(store)
        stack.callback(audit.close)
        keys = HostKeys.load(job.host_key) if job.host_key else HostKeys.given(os.environ["DUOLOGUE_HOST_KEY"])
        placement = await stack.enter_async_context(rpc_placement(Path(job.rpc), name))
        authority = HostAuthority(store, Vault(keys), audit, versions=placement.version, options=job.auth)
        stack.push_async_callback(authority.aclose)
        tls = None
        if job.certificate:
            tls = tls_context(Certificate(cert_file=Path(job.certificate), key_file=Path(job.certificate_key)))
        listen = msgspec.structs.replace(job.listen, id=name)
        gateway = await stack.enter_async_context(
            Gateway(authority, placement, options=listen, limits=job.limits, tls=tls)
        )
        ends = {asyncio.create_task(stopping.wait()), asyncio.create_task(placement.lost.wait())}
        stack.callback(lambda: [end.cancel() for end in ends])
        while not any(end.done() for end in ends):
            with contextlib.suppress(HostError):
                await placement.report({**gateway.counters.snapshot(), "process": os.getpid()})
            await asyncio.wait(ends, timeout=_REPORT_S, return_when=asyncio.FIRST_COMPLETED)


def main() -> int:
    """Read the job from standard input and serve."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=GatewayJob)
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(serve(job, sys.argv[1]))
    except DuologueError as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
