"""The terminal as a participant: typed lines go to the agent, what happens is shown."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TextIO

from ..errors import DuologueError, check_options
from ..events import ApprovalInput, Event, TextInput
from .base import Channel, Port, Traits
from .settling import Settling, settled
from .transcript import Transcript

_OPTIONS = ("lines", "out", "read", "spoken", "latency", "essential")
#: lines that wait for the agent; a reader beyond that is held up
_WAITING = 64
_LONGEST = 1 << 16
#: after the last line of a pipe: how long nothing must be owed, and how long nothing at all may happen, seconds
_SETTLE_S = 0.5
_GIVE_UP_S = 60.0
_YES = ("yes", "y", "ok", "approve")
_NO = ("no", "n", "deny")


class Console(Channel):
    """Reads typed turns and shows the conversation.

    From a terminal a line is sent as it is typed, and interrupts the agent as a voice would. From a pipe or a file each line
    waits until the one before is answered, and the call ends when the last one is. While a tool waits for approval, "yes"
    and "no" decide about it. Ctrl+D ends the call.

    Args:
        lines: where typed lines come from: a text stream with a file descriptor (None: standard input), or an
            asynchronous iterator of lines.
        out: where to show the conversation; None: standard output.
        read: False only shows.
        spoken: the agent is heard over another channel; False: it answers in text.
        latency: show what each turn took.
        essential: the call ends when the lines do; None: if it reads.
    """

    name = "console"

    def __init__(
        self,
        *,
        lines: TextIO | AsyncIterator[str] | None = None,
        out: TextIO | None = None,
        read: bool = True,
        spoken: bool = True,
        latency: bool = True,
        essential: bool | None = None,
        **unknown: object,
    ) -> None:
        check_options("Console", unknown, _OPTIONS)
        self._lines = lines
        self._read = read
        self._essential = read if essential is None else essential
        stream = lines if lines is not None else sys.stdin
        # sys.stdin is None in a process without one
        self._interactive = bool(read and hasattr(stream, "isatty") and stream.isatty())
        self.transcript = Transcript(out or sys.stdout, spoken=spoken, latency=latency, typed=self._interactive)
        self._settling = Settling(0.0)

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(essential=self._essential)

    async def start(self, port: Port) -> None:
        """See Channel."""
        await super().start(port)
        self._settling = Settling(asyncio.get_running_loop().time())

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""
        self._settling.take(event, asyncio.get_running_loop().time())
        self.transcript.take(event)

    async def run(self) -> None:
        """See Channel."""
        if not self._read:
            return
        async with contextlib.aclosing(self._source()) as source:
            async for line in source:
                if not self._interactive:
                    await settled(self._settling, _SETTLE_S, _GIVE_UP_S)
                if line.strip():
                    self._send(line.strip())
        if not self._interactive:
            await settled(self._settling, _SETTLE_S, _GIVE_UP_S)
        self.port.ended("hangup")

    def _send(self, line: str) -> None:
        try:
            now = asyncio.get_running_loop().time()
            if self._settling.approvals and line.lower() in (*_YES, *_NO):
                self.port.input(ApprovalInput(call=self._settling.approve(now), approved=line.lower() in _YES))
                return
            self._settling.asked(now)
            self.port.input(TextInput(text=line))
        except DuologueError as error:
            self._settling.undecided = False
            self.transcript.note(str(error))

    async def _source(self) -> AsyncGenerator[str]:
        if isinstance(self._lines, AsyncIterator):
            async for line in self._lines:
                yield line
            return
        stream = self._lines or sys.stdin
        if stream is None:
            return
        reader = LineReader(stream.fileno(), stream.encoding or "utf-8")
        try:
            async for line in reader:
                yield line
        finally:
            reader.close()


class LineReader:
    """Lines from a file descriptor, on the event loop: reading can be cancelled, and leaves the descriptor as it was.

    A terminal stays in its own line mode, so there is nothing to restore. Where the loop cannot watch the descriptor (a
    plain file, or Windows) a thread reads.
    """

    def __init__(self, fd: int, encoding: str = "utf-8") -> None:
        self._fd = fd
        self._encoding = encoding
        self._buffer = b""
        self._lines: deque[str] = deque()
        self._ready = asyncio.Event()
        self._ended = False
        self._closed = False
        self._room = threading.Event()
        self._room.set()
        self._loop = asyncio.get_running_loop()
        self._watched = False
        self._watch(True)
        if not self._watched:
            threading.Thread(target=self._read_in_thread, name="duologue-console", daemon=True).start()

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        while not self._lines:
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        line = self._lines.popleft()
        if len(self._lines) < _WAITING and not self._room.is_set():
            self._room.set()
            if self._watched and not self._ended:
                self._watch(True)
        return line

    def close(self) -> None:
        """Stop reading. A thread that waits in a read ends with the process."""
        self._closed = True
        self._room.set()
        if self._watched:
            self._watch(False)

    def _watch(self, on: bool) -> None:
        try:
            if on:
                self._loop.add_reader(self._fd, self._readable)
                self._watched = True
            else:
                self._loop.remove_reader(self._fd)
        except (NotImplementedError, PermissionError, ValueError):
            self._watched = False  # a plain file, or a loop without readers

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a false alarm on a descriptor that does not block
            self._take(self._read_some())
        if self._ended or not self._room.is_set():
            self._watch(False)

    def _read_some(self) -> bytes:
        try:
            return os.read(self._fd, 4096)
        except BlockingIOError:
            raise
        except OSError:
            return b""  # a terminal that went away is the end of its lines

    def _take(self, data: bytes) -> None:
        if self._closed:
            return
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > _LONGEST:
            lines.append(self._buffer)
            self._buffer = b""
        if not data:
            if self._buffer:
                lines.append(self._buffer)
                self._buffer = b""
            self._ended = True
        self._lines.extend(line.decode(self._encoding, "replace") for line in lines)
        if len(self._lines) >= _WAITING:
            self._room.clear()
        self._ready.set()

    def _read_in_thread(self) -> None:
        while not self._closed:
            self._room.wait()
            data = self._read_some()
            try:
                self._loop.call_soon_threadsafe(self._take, data)
            except RuntimeError:
                return  # the loop is closed
            if not data:
                return
