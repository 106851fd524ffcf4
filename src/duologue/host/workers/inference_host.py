"""The host's side of the inference service: started for the first worker that may need it, and again if it dies."""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from ..types import HostError
from .inference_messages import Control
from .options import FleetOptions
from .process import environment

logger = logging.getLogger("duologue.host.workers")

#: longest wait for the service to begin, and to end, seconds
_START_S = 60.0
_END_S = 10.0


class InferenceHost:
    """Starts the service and hands it workers' connections."""

    def __init__(self, directory: Path, options: FleetOptions) -> None:
        self._directory = directory
        self._options = options
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Of the service; 0 if it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    async def ready(self) -> None:
        """Start the service, if it does not run. Raises HostError 424."""
        async with self._starting:
            if not self.pid or self._control is None:
                await self._start()

    async def connect(self, tenant: str) -> socket.socket:
        """A worker's end of a connection to the service. Raises HostError 424 if it does not start."""
        await self.ready()
        assert self._control is not None
        theirs, ours = socket.socketpair()
        with ours:
            packet = msgspec.json.encode(Control(tenant=tenant))
            self._control.sendmsg(
                [packet],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [ours.fileno()]))],
                socket.MSG_NOSIGNAL,
            )
        return theirs

    async def _start(self) -> None:
        self._hang_up()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            self._process = _launch(theirs)
        self._control = ours
        ours.send(msgspec.json.encode(Control(directories=self._options.model_directories)))
        try:
            async with asyncio.timeout(_START_S):
                said = await asyncio.get_running_loop().sock_recv(ours, 64)
        except TimeoutError:
            said = b""
        if not said:
            self._hang_up()
            raise HostError(424, "RuntimeClientError", "The inference service of this host does not start.")
        logger.debug("inference service: pid %d", self._process.pid)

    def _hang_up(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    async def close(self) -> None:
        """End the service."""
        self._hang_up()
        if self._process is not None:
            process, self._process = self._process, None
            pidfd = os.pidfd_open(process.pid) if process.poll() is None else -1
            if pidfd >= 0:
                ended = asyncio.Event()
                loop = asyncio.get_running_loop()
                loop.add_reader(pidfd, ended.set)
                try:
                    async with asyncio.timeout(_END_S):
                        await ended.wait()
                except TimeoutError:
                    process.kill()
                finally:
                    loop.remove_reader(pidfd)
                    os.close(pidfd)
            process.wait()


def _launch(control: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "duologue.host.workers.inference", str(control.fileno())],
        pass_fds=[control.fileno()],
        env=environment({}),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
