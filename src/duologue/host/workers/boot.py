"""Main of every worker process: ``python -m duologue.host.workers.boot FD``.

It reads what it is to become from its control socket, gives up what it must not have, loads the code, and then is a template
(forks children on request, blocking, single-threaded) or a worker itself (cold start). Commands are run by `command`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from typing import NoReturn

from ...errors import DuologueError
from . import kernel
from . import messages as m
from .child import run
from .isolation import isolate, leave, settle
from .loading import Code, load, open_descriptors, unfit
from .reseed import reseed


def main(fd: int) -> NoReturn:
    """Be a template or a cold worker. `fd`: the control socket."""
    began = time.monotonic()
    control = socket.socket(fileno=fd)
    received = m.receive_in_process(control)
    if received is None:
        sys.exit(0)
    boot, _ = received
    assert isinstance(boot, m.Boot)
    try:
        degraded = isolate(boot)
        before = open_descriptors()
        code = load(boot.spec, max_sessions=boot.max_sessions)
    except (DuologueError, OSError) as error:
        m.send(control, m.Failed(message=str(error)))
        sys.exit(1)
    why = unfit(before) if boot.fork else ""
    m.send(control, m.Loaded(ms=1000 * (time.monotonic() - began), unfit=why, degraded=degraded))
    if not boot.fork:
        leave(run(control, boot, code))
    if why:
        sys.exit(0)
    _Template(control, boot, code).serve()
    leave(0)


class _Template:
    def __init__(self, control: socket.socket, boot: m.Boot, code: Code) -> None:
        self._control = control
        self._boot = boot
        self._code = code
        self._children: dict[int, int] = {}  # pidfd → pid

    def serve(self) -> None:
        """Fork until told to rest, or the host is gone; then stay until the last child has ended: it is their parent."""
        reseed()  # what libraries set up for their first random number is shared, too
        # What was made until here is never collected, so that a collection in a child does not copy its pages.
        gc.collect()
        gc.freeze()
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        listening = True
        while listening or self._children:
            for fd, _ in poll.poll():
                if fd != self._control.fileno():
                    poll.unregister(fd)
                    self._reap(fd)
                    continue
                received = m.receive_in_process(self._control)
                if received is None:
                    poll.unregister(self._control)
                    listening = False
                    continue
                message, fds = received
                if isinstance(message, m.Fork):
                    poll.register(self._fork(message, fds), select.POLLIN)
                elif isinstance(message, m.Rest):
                    listening = False

    def _fork(self, message: m.Fork, fds: list[int]) -> int:
        """Fork a child; its pidfd."""
        control, output = fds
        pid = os.fork()
        if pid == 0:
            self._become(message, control, output)
        os.close(control)
        os.close(output)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid
        return pidfd

    def _become(self, message: m.Fork, control: int, output: int) -> NoReturn:
        status = 1
        try:
            os.setsid()
            kernel.outlive_nobody()
            self._control.close()
            for pidfd in self._children:
                os.close(pidfd)
            signal.set_wakeup_fd(-1)
            settle(message.home, output)
            reseed()
            status = run(socket.socket(fileno=control), self._boot, self._code)
        finally:
            leave(status)

    def _reap(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
        with contextlib.suppress(OSError):
            m.send(self._control, m.Exited(pid=pid, status=status))


if __name__ == "__main__":
    main(int(sys.argv[1]))
