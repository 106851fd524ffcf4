"""The shared inference service: ``python -m duologue.host.workers.inference FD``.

One process recognises and speaks for all workers, so that none of them holds a model. The host hands it a connection for each
worker; a worker that asks too much is read no further until it has its answers, and its calls wait in the model's bounded queue
beside everybody else's. Models are those that packages carry, and files in the directories that the host allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec

from ...compute import Handle, Priority, ThreadCompute
from ...errors import ConfigurationError, DuologueError, LimitExceededError
from ...speech.base import SpeechChunk
from ...speech.moonshine import open_reader
from ...speech.piper import PiperVoice, open_voice
from . import inference_messages as im
from . import kernel
from .isolation import leave, new_loop

logger = logging.getLogger("duologue.host.inference")

#: longest text of one call, characters
_LONGEST_TEXT = 4000
_FDS = 1


def main(fd: int) -> NoReturn:
    """Be the service. `fd`: the control socket."""
    control = socket.socket(fileno=fd)
    first, _, _, _ = socket.recv_fds(control, 64 << 10, 0)
    if not first:
        sys.exit(0)
    begin = msgspec.json.decode(first, type=im.Control)
    kernel.restrict(memory=0, processes=0, file_bytes=0)
    kernel.drop(begin.uid)
    kernel.outlive_nobody()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        leave(runner.run(_Service(control, begin).run()))


class _Service:
    def __init__(self, control: socket.socket, begin: im.Control) -> None:
        self.compute = ThreadCompute(linger=3600.0)
        self._control = control
        self._directories = [Path(directory).resolve() for directory in begin.directories]
        self._handles: dict[tuple[object, ...], Handle[Any]] = {}
        self._opening = asyncio.Lock()
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> int:
        """Serve until the host hangs up."""
        self._control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._readable)
        self._control.send(b"{}")
        await self._over.wait()
        return 0

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 64 << 10, _FDS)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._over.set()
            return
        tenant = msgspec.json.decode(data, type=im.Control).tenant
        for fd in fds:
            self.spawn(self._join(_Connection(self, tenant), socket.socket(fileno=fd)))

    async def _join(self, connection: _Connection, joined: socket.socket) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=joined)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Run a task."""
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def reader(self, model: str | None, architecture: str) -> Handle[Any]:
        """A recogniser. Raises typed errors."""
        self._allow(model)
        return await self._acquire(("stt:moonshine", model, architecture), lambda: open_reader(model, architecture))

    async def voice(self, voice: PiperVoice, threads: int) -> Handle[Any]:
        """A voice. Raises typed errors."""
        self._allow(voice.model, voice.config)
        if not 1 <= threads <= 8:
            raise ConfigurationError("A voice uses 1 to 8 threads.")
        key = ("tts:piper", voice.model, voice.config, threads)
        return await self._acquire(key, lambda: open_voice(voice, threads))

    async def _acquire(self, key: tuple[object, ...], open: Any) -> Handle[Any]:
        async with self._opening:
            handle = self._handles.get(key)
            if handle is None:
                handle = self._handles[key] = await self.compute.acquire(key, open, capacity=256)
            return handle

    def _allow(self, *paths: str | None) -> None:
        for path in paths:
            if path is not None and not any(Path(path).resolve().is_relative_to(root) for root in self._directories):
                raise ConfigurationError(
                    f"The shared inference service may not load {path}.",
                    hint="Put it into one of FleetOptions.model_directories.",
                )


class _Connection(asyncio.Protocol):
    """One worker."""

    def __init__(self, service: _Service, tenant: str) -> None:
        self._service = service
        self._tenant = tenant
        self._frames: im.Frames[im.ToService] = im.Frames(msgspec.msgpack.Decoder(im.ToService))
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._room: dict[int, asyncio.Semaphore] = {}
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._writable.set()
        for call in self._calls.values():
            call.cancel()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        assert self._transport is not None
        try:
            messages = self._frames.feed(data)
        except ValueError as error:
            logger.warning("a worker of %s breaks the protocol: %s", self._tenant, type(error).__name__)
            self._transport.abort()
            return
        for message in messages:
            if isinstance(message, im.Taken):
                if (room := self._room.get(message.n)) is not None:
                    room.release()
            elif isinstance(message, im.Cancel):
                if (call := self._calls.get(message.n)) is not None:
                    call.cancel()
            elif message.n in self._calls:
                self._transport.abort()
                return
            else:
                self._begin(message)

    def _begin(self, message: im.Read | im.Speak | im.Open) -> None:
        if len(self._calls) >= 4 * im.MOST_CALLS:  # its own client stops at half of that
            self._send(im.Failure(n=message.n, error="OverloadedError", message="Too many calls of one worker."))
            return
        call = self._calls[message.n] = self._service.spawn(self._answer(message))
        call.add_done_callback(lambda _: self._ended(message.n))

    def _ended(self, n: int) -> None:
        self._calls.pop(n, None)
        self._room.pop(n, None)

    async def _answer(self, message: im.Read | im.Speak | im.Open) -> None:
        try:
            match message:
                case im.Read():
                    self._send(im.Text(n=message.n, text=await self._read(message)))
                case im.Speak():
                    await self._speak(message)
                    self._send(im.Done(n=message.n))
                case im.Open():
                    if message.architecture:
                        await self._service.reader(message.model, message.architecture)
                    else:
                        voice = PiperVoice(model=message.model, config=message.config)
                        await self._service.voice(voice, message.threads)
                    self._send(im.Done(n=message.n))
        except DuologueError as error:
            self._send(im.Failure(n=message.n, error=type(error).__name__, message=str(error)))
        except Exception as error:
            logger.exception("a call of %s fails", self._tenant)
            self._send(
                im.Failure(n=message.n, error="ModelError", message=f"The model failed: {type(error).__name__}.")
            )

    async def _read(self, message: im.Read) -> str:
        handle = await self._service.reader(message.model, message.architecture)
        key = (id(self), message.key) if message.key is not None else None
        pcm = message.pcm
        text: str = await handle.run(lambda reader: reader.read(pcm), priority=_priority(message.priority), key=key)
        return text

    async def _speak(self, message: im.Speak) -> None:
        if len(message.text) > _LONGEST_TEXT:
            raise LimitExceededError(f"A clause has at most {_LONGEST_TEXT} characters.")
        voice = message.voice.check()
        handle = await self._service.voice(voice, message.threads)
        room = self._room[message.n] = asyncio.Semaphore(max(1, min(message.backlog, 32)))
        speech: AsyncIterator[SpeechChunk] = handle.stream(
            lambda speaker: speaker.speak(message.text, voice, message.speed, message.rate, message.pauses),
            priority=_priority(message.priority),
            backlog=1,
        )
        async with aclosing(speech):  # type: ignore[type-var]
            async for chunk in speech:
                await room.acquire()
                self._send(im.Chunk(n=message.n, chunk=chunk))
                await self._writable.wait()

    def _send(self, message: im.ToWorker) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        with contextlib.suppress(ValueError):
            self._transport.write(im.frame(message))


def _priority(number: int) -> Priority:
    return Priority(min(max(number, Priority.URGENT), Priority.BACKGROUND))


if __name__ == "__main__":
    main(int(sys.argv[1]))
