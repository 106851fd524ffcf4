"""Runs a command as a hosted agent: ``python -m duologue.host.workers.command FD``.

The command serves the container contract: on the Unix socket whose path is in `$DUOLOGUE_SOCKET` (which may also stand among
its words) or, in a network namespace of its own, which nothing else can reach and from which it reaches nothing else, on port
8080. Which of them has which network see :class:`~duologue.host.types.VersionSpec`. This process stands before it: it takes
connections to its HTTP socket and passes bytes on, unchanged, in both directions.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from typing import NoReturn, cast

import msgspec

from ...errors import DuologueError
from . import messages as m
from .accept import Acceptor
from .isolation import isolate, leave, new_loop

#: the contract's port
_PORT = 8080
_CHUNK = 64 << 10
#: how often a command that does not listen yet is tried again, seconds
_RETRY_S = 0.02


def main(fd: int) -> NoReturn:
    """Be a command's runner. `fd`: the control socket."""
    control = socket.socket(fileno=fd)
    received = m.receive_in_process(control)
    if received is None:
        sys.exit(0)
    boot, _ = received
    assert isinstance(boot, m.Boot)
    try:
        degraded = isolate(boot)
    except (DuologueError, OSError) as error:
        why = (
            f"It gets no network of its own ({error}): let it serve on {m.SOCKET_WORD} in the host's."
            if boot.network
            else error
        )
        m.send(control, m.Failed(message=f"The command cannot be isolated. {why}"))
        sys.exit(1)
    m.send(control, m.Loaded(ms=0.0, degraded=degraded))
    with asyncio.Runner(loop_factory=new_loop) as runner:
        leave(runner.run(_Runner(control, boot).run()))


class _Runner:
    def __init__(self, control: socket.socket, boot: m.Boot) -> None:
        self._control = control
        self._boot = boot
        self._path = f"{boot.home}/command.sock"
        self._stop = asyncio.Event()
        self._assigned: asyncio.Future[tuple[m.Assign, list[int]] | None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Start the command when there is a session, end with it; its exit code, negative for a signal."""
        loop = asyncio.get_running_loop()
        self._assigned = loop.create_future()
        self._control.setblocking(False)
        loop.add_reader(self._control.fileno(), self._readable)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        m.send(self._control, m.Hello())
        assigned = await self._assigned
        if assigned is None:
            return 0
        assign, fds = assigned
        try:
            process = await self._spawn(assign)
        except OSError as error:
            m.send(self._control, m.Failed(message=_not_run(self._boot.spec.command[0], error)))
            return 1
        listener = Acceptor(socket.socket(fileno=fds[0]), lambda: _Front(self), of=self._boot.spec.id)
        m.send(self._control, m.Ready())
        beat = asyncio.ensure_future(self._beat())
        ended, stop = asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()  # the host kills what is left when the grace is over
        code = await ended
        beat.cancel()
        listener.close()
        if self._stop.is_set():
            return 0
        return code if code >= 0 else 128 - code

    async def _spawn(self, assign: m.Assign) -> asyncio.subprocess.Process:
        words = [word.replace(m.SOCKET_WORD, self._path) for word in self._boot.spec.command]
        environment = {**os.environ, "DUOLOGUE_SOCKET": self._path}
        if assign.storage:
            environment["DUOLOGUE_STORAGE"] = assign.storage
        keep: tuple[int, ...] = ()
        if assign.secrets:
            held = os.memfd_create("secrets", 0)
            os.write(held, msgspec.json.encode(assign.secrets))
            environment["DUOLOGUE_SECRETS_FD"] = str(held)
            keep = (held,)
        return await asyncio.create_subprocess_exec(
            *words, env=environment, pass_fds=keep, stdin=asyncio.subprocess.DEVNULL, cwd=self._boot.spec.source or None
        )

    def _readable(self) -> None:
        assert self._assigned is not None
        try:
            received = m.receive_in_process(self._control)
        except BlockingIOError:
            return
        except (OSError, msgspec.DecodeError):
            received = None
        if received is None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._stop.set()
            if not self._assigned.done():
                self._assigned.set_result(None)
            return
        message, fds = received
        if isinstance(message, m.Assign) and not self._assigned.done():
            self._assigned.set_result((message, fds))
        elif isinstance(message, m.Ask):
            with contextlib.suppress(OSError):
                m.send(self._control, m.State(n=message.n, busy=False))

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                m.send(self._control, m.Beat())
            await asyncio.sleep(self._boot.beat_s)

    def join(self, front: _Front) -> None:
        """Connect a client's connection to the command."""
        task = asyncio.ensure_future(self._connect(front))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, front: _Front) -> None:
        """The command may not listen yet: try until it does, or the client gives up.

        In the machine's network nobody is asked on a port: whoever listens there may be anybody.
        """
        loop = asyncio.get_running_loop()
        while front.transport is not None and not front.transport.is_closing():
            with contextlib.suppress(OSError):
                await loop.create_unix_connection(lambda: _Back(front), self._path)
                return
            if self._boot.network:
                with contextlib.suppress(OSError):
                    await loop.create_connection(lambda: _Back(front), "127.0.0.1", _PORT)
                    return
            await asyncio.sleep(_RETRY_S)


def _not_run(program: str, error: OSError) -> str:
    where = (
        "" if "/" in program else f" It is looked for in {os.environ['PATH']}; a file of the archive is ./{program}."
    )
    return f"The command {program!r} cannot be run: {error.strerror}.{where}"


class _Pipe(asyncio.Protocol):
    """One side of a connection that is passed on; each side stops reading while the other cannot write."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: _Pipe | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def close(self) -> None:
        """Close it."""
        if self.transport is not None:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        """See asyncio.Protocol. The other direction goes on."""
        if self.peer is not None and self.peer.transport is not None and self.peer.transport.can_write_eof():
            with contextlib.suppress(OSError):
                self.peer.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self.peer is not None:
            self.peer.close()


class _Front(_Pipe):
    """The client's side."""

    def __init__(self, runner: _Runner) -> None:
        super().__init__()
        self._runner = runner
        self._first = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._runner.join(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. What comes first waits for the command."""
        if self.peer is None:
            assert self.transport is not None
            self.transport.pause_reading()
            self._first += data
        else:
            super().data_received(data)

    def connected(self, back: _Back) -> None:
        """The command listens."""
        assert self.transport is not None
        self.peer = back
        if self.transport.is_closing():
            back.close()
        elif self._first:
            super().data_received(self._first)
            self._first = b""
            self.transport.resume_reading()


class _Back(_Pipe):
    """The command's side."""

    def __init__(self, front: _Front) -> None:
        super().__init__()
        self._front = front

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol. What the client has sent goes before what it sends from now on."""
        super().connection_made(transport)
        self.peer = self._front
        self._front.connected(self)


if __name__ == "__main__":
    main(int(sys.argv[1]))
