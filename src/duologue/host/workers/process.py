"""A worker process as its parent sees it: its control socket, its pidfd, the end of its output, its control group."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..types import HostError
from . import messages as m
from .limits import Group

logger = logging.getLogger("duologue.host.workers")

#: what is kept of a process's output, bytes
_TAIL = 8 << 10
_CHUNK = 64 << 10
#: a process that writes without end is read no faster than a chunk in this time; then its writes wait
_BREATH_S = 0.05
#: a process that closes its control socket has this long to end
_FAREWELL_S = 1.0
#: how long the exit code of a template's child is waited for when its pidfd has told that it is gone
_STATUS_S = 0.5
#: how often the removal of an emptied control group is tried
_REMOVALS = 50


class Process:
    """A template, a worker or a worker to be.

    Args:
        id: names it, its sockets and its control group.
        of: the version that it runs, tenant first; for the log.
        home: its own directory, removed with it.
        group: its control group.
        take: what is done with messages that are not waited for here.
    """

    def __init__(
        self, id: str, *, of: str, home: Path, group: Group | None, control: socket.socket, output: int
    ) -> None:
        loop = asyncio.get_running_loop()
        self.id = id
        self.of = of
        self.home = home
        self.group = group
        self.pid = 0
        self.ended = asyncio.Event()
        #: as of waitpid; None while it lives, and if nobody could tell
        self.status: int | None = None
        self.beat_at = loop.time()
        self.busy = False
        self.starved = False
        self.loaded: asyncio.Future[m.Loaded] = loop.create_future()
        self.hello: asyncio.Future[None] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()
        #: takes Exited of a template's children
        self.exited: Callable[[m.Exited], None] = lambda message: None
        self._answers: dict[str | int, asyncio.Future[bool]] = {}
        self._asked = 0
        self._loop = loop
        self._control: socket.socket | None = control
        self._output = output
        self._pidfd = -1
        self._own = False  # whether this process is its parent
        self._tail = bytearray()
        self._gone = False
        os.set_blocking(output, False)
        loop.add_reader(control.fileno(), self._readable)
        loop.add_reader(output, self._read_output)
        for future in (self.loaded, self.hello, self.ready):
            future.add_done_callback(_retrieve)

    @property
    def tail(self) -> str:
        """The end of what it wrote to standard output and error."""
        return self._tail.decode("utf-8", "replace").strip()

    @property
    def last_words(self) -> str:
        """The same as a sentence; "" if it wrote nothing."""
        return f"Its output ends with: {self.tail[-1000:]}" if self.tail else ""

    # ------------------------------------------------------------------ talking

    def send(self, message: m.ToProcess, fds: Sequence[int] = ()) -> bool:
        """Send a message; False if it cannot be (the process is gone, or does not read)."""
        if self._control is None:
            return False
        try:
            m.send(self._control, message, fds)
        except OSError:
            return False
        return True

    async def ask(self, session: str = "") -> bool:
        """Whether a session of it ("": any) is busy right now. Raises TimeoutError without an answer within a second."""
        self._asked += 1
        return await self._answer(self._asked, m.Ask(n=self._asked, session=session), 1.0)

    async def request(self, session: str, message: m.Join | m.Stopping, timeout_s: float) -> None:
        """Send what is answered by Joined or Gone. Raises TimeoutError."""
        await self._answer(session, message, timeout_s)

    async def _answer(self, key: str | int, message: m.ToProcess, timeout_s: float) -> bool:
        answer = self._answers[key] = self._loop.create_future()
        try:
            if not self.send(message):
                raise TimeoutError
            return await asyncio.wait_for(answer, timeout_s)
        finally:
            self._answers.pop(key, None)

    def _readable(self) -> None:
        assert self._control is not None
        for _ in range(32):  # then others have their turn
            try:
                received = m.receive_in_host(self._control)
            except BlockingIOError:
                return
            except ConnectionError:
                received = None
            except (OSError, ValueError) as error:
                logger.warning(
                    "worker %s of %s breaks its control protocol: %s", self.id, self.of, type(error).__name__
                )
                received = None
            if received is None:
                self._hang_up()
                if not self._gone:  # it ends by itself, or does not deserve to live
                    self._loop.call_later(_FAREWELL_S, self._end_silent)
                return
            self._take(*received)

    def _take(self, message: m.FromProcess, pid: int) -> None:
        match message:
            case m.Beat():
                self.beat_at = self._loop.time()
                self.busy = message.busy
            case m.State():
                self._resolve(message.n, message.busy)
            case m.Hello():
                if not self.pid:
                    self.watch(pid, own=False)
                _set(self.hello, None)
            case m.Loaded():
                _set(self.loaded, message)
            case m.Ready():
                self.beat_at = self._loop.time()
                _set(self.ready, None)
            case m.Failed():
                self._fail(message.message)
            case m.Joined() | m.Gone():
                self._resolve(message.session, True)
            case m.Exited():
                self.exited(message)

    def _resolve(self, key: str | int, value: bool) -> None:
        if (answer := self._answers.get(key)) is not None and not answer.done():
            answer.set_result(value)

    def _fail(self, message: str, detail: str = "") -> None:
        for future in (self.loaded, self.hello, self.ready):
            if not future.done():
                future.set_exception(HostError(424, "RuntimeClientError", message, detail=detail))

    # ------------------------------------------------------------------ its life

    def watch(self, pid: int, *, own: bool) -> None:
        """See the end of `pid`. `own`: it is this process's child, to be reaped here."""
        self.pid = pid
        self._own = own
        try:
            if self.group is not None:
                self.group.add(pid)
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            self._finish()
            return
        self._loop.add_reader(self._pidfd, self._dead)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        if self._pidfd >= 0 and not self._gone:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """SIGKILL it and everything that it started."""
        self.signal(signal.SIGKILL)
        if self.group is not None:
            self.group.kill()
        elif self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _end_silent(self) -> None:
        if not self.ended.is_set():
            self.kill()

    def reaped(self, status: int) -> None:
        """Its parent, a template, says how it ended."""
        self.status = status
        if self._gone:
            self._finish()

    def _dead(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._gone = True
        os_status = self._wait() if self._own else None
        if os_status is not None or self.status is not None:
            self.status = os_status if os_status is not None else self.status
            self._finish()
        else:
            self._loop.call_later(_STATUS_S, self._finish)

    def _wait(self) -> int | None:
        try:
            _, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return None
        return status

    def _finish(self) -> None:
        if self.ended.is_set():
            return
        self._gone = True
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._drain_control()
        self._read_output()
        self._close_output()
        if self.group is not None:
            self.starved = self.group.starved()
            self.group.kill()  # what it started and left behind
            self._remove_group(self.group, _REMOVALS)
        self._fail("The process ended before it was ready.", self.last_words)
        for answer in self._answers.values():
            if not answer.done():
                answer.cancel()
        self.ended.set()
        self._loop.run_in_executor(None, shutil.rmtree, self.home, True)

    def _remove_group(self, group: Group, tries: int) -> None:
        if not group.remove() and tries:
            group.kill()
            self._loop.call_later(0.02, self._remove_group, group, tries - 1)

    def _drain_control(self) -> None:
        """Its last words may say why it failed."""
        if self._control is not None:
            self._readable()
            self._hang_up()

    def _hang_up(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            self._loop.remove_reader(control.fileno())
            control.close()

    def close(self) -> None:
        """Close the control socket: a template forks no more, a worker ends."""
        self._hang_up()

    # ------------------------------------------------------------------ its output

    def _read_output(self) -> None:
        if self._output < 0:
            return
        try:
            data = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._close_output()
            return
        self._tail += data
        del self._tail[:-_TAIL]
        if len(data) == _CHUNK:
            self._loop.remove_reader(self._output)
            self._loop.call_later(_BREATH_S, self._listen_again)

    def _listen_again(self) -> None:
        if self._output >= 0:
            self._loop.add_reader(self._output, self._read_output)

    def _close_output(self) -> None:
        if self._output >= 0:
            self._loop.remove_reader(self._output)
            os.close(self._output)
            self._output = -1


def launch(
    module: str, id: str, *, of: str, home: Path, group: Group | None, environment: Mapping[str, str]
) -> Process:
    """Start ``python -m module FD`` with a control socket, in a session of its own and nothing of the host's environment."""
    ours, theirs = m.pair()
    read, write = os.pipe()
    with theirs:
        try:
            started = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                start_new_session=True,
                close_fds=True,
            )
        finally:
            os.close(write)
    # It is reaped here, by its pidfd: the object must not do so as well.
    started.returncode = 0
    process = Process(id, of=of, home=home, group=group, control=ours, output=read)
    process.watch(started.pid, own=True)
    return process


def environment(values: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: nothing of the host's, what the deployment says, what Python needs to fork safely."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # else importing numpy and onnxruntime starts threads, which a fork would lose
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        # what a session needed for a moment goes back to the machine, which has hundreds of them
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "131072",
        **values,
    }


def describe(status: int | None) -> str:
    """Exit code or signal, in words."""
    if status is None:
        return "it ended"
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.waitstatus_to_exitcode(status)}"


def _set[T](future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Not everybody waits for every step."""
    if not future.cancelled():
        future.exception()
