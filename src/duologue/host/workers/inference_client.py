"""The worker's side of the shared inference: a Compute whose models live in the service.

Components hand a lane jobs that call a model. For a model of the service, the job is run here with a stand-in whose methods
only note what is wanted; the note is sent. So a job may do what it likes before its one call, whose result is the job's.
Models that the service does not have are opened in this process, as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, cast

import msgspec

from ... import errors
from ...compute import Compute, Cost, Handle, ItemStream, LaneStats, Priority, SupersededError, ThreadCompute
from ...compute.threads import provide
from ...errors import DuologueError, ModelError, OverloadedError, SessionClosedError
from ...speech.base import SpeechChunk
from ...speech.piper import PiperVoice
from . import inference_messages as im


class _Reader:
    """Stands in for Moonshine's handle."""

    def __init__(self, model: str | None, architecture: str) -> None:
        self._model = model
        self._architecture = architecture

    def read(self, pcm: bytes) -> im.Read:
        """What is to be recognised."""
        return im.Read(n=0, model=self._model, architecture=self._architecture, pcm=pcm)


class _Speaker:
    """Stands in for Piper's handle."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def speak(self, text: str, voice: PiperVoice, speed: float, rate: int, pauses: tuple[float, float]) -> im.Speak:
        """What is to be said."""
        return im.Speak(n=0, voice=voice, threads=self._threads, text=text, speed=speed, rate=rate, pauses=pauses)


class InferenceClient(asyncio.Protocol):
    """The connection to the service.

    Args:
        socket_: connected by the host.
    """

    def __init__(self, socket_: socket.socket) -> None:
        self._socket = socket_
        self._transport: asyncio.Transport | None = None
        self._frames: im.Frames[im.ToWorker] = im.Frames(msgspec.msgpack.Decoder(im.ToWorker))
        self._calls: dict[int, asyncio.Future[str] | _Stream] = {}
        self._n = 0
        self.compute = _RemoteCompute(self)

    async def start(self) -> None:
        """Connect, and have this process's components use it."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=self._socket)
        provide(self.compute)

    async def close(self) -> None:
        """Disconnect."""
        provide(None)
        if self._transport is not None:
            self._transport.close()
        await self.compute.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol. Who waits gets ModelError; later calls, too."""
        self._transport = None
        calls, self._calls = self._calls, {}
        for call in calls.values():
            _fail(call, _gone())

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        for message in self._frames.feed(data):
            call = self._calls.get(message.n)
            if call is None:
                continue
            if isinstance(message, im.Chunk):
                if isinstance(call, _Stream):
                    call.arrive(message.chunk)
                continue
            del self._calls[message.n]
            if isinstance(message, im.Failure):
                _fail(call, _error(message))
            elif isinstance(call, _Stream):
                call.end(None)
            elif not call.done():
                call.set_result(message.text if isinstance(message, im.Text) else "")

    async def call(self, message: im.Read | im.Open) -> str:
        """Send a call and wait for its answer. Raises what the service says, ModelError if it is gone, OverloadedError."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        n = self.send(message, future)
        try:
            return await future
        except asyncio.CancelledError:
            self.cancel(n)
            raise

    def send(self, message: im.Read | im.Open | im.Speak, call: asyncio.Future[str] | _Stream) -> int:
        """Send a call; its number. Raises ModelError, OverloadedError."""
        if self._transport is None:
            raise _gone()
        if len(self._calls) >= 2 * im.MOST_CALLS:
            raise OverloadedError("This worker waits for too many answers of the inference service.")
        self._n += 1
        self._calls[self._n] = call
        self._transport.write(im.frame(msgspec.structs.replace(message, n=self._n)))
        return self._n

    def cancel(self, n: int) -> None:
        """Nobody waits for it any more."""
        if self._calls.pop(n, None) is not None and self._transport is not None:
            self._transport.write(im.frame(im.Cancel(n=n)))

    def taken(self, n: int) -> None:
        """A chunk was consumed."""
        if n in self._calls and self._transport is not None:
            self._transport.write(im.frame(im.Taken(n=n)))


class _RemoteCompute(Compute):
    def __init__(self, client: InferenceClient) -> None:
        self._client = client
        self._own = ThreadCompute()

    async def acquire[H](
        self, key: Hashable, open: Callable[[], H], *, close: Callable[[H], None] | None = None, capacity: int = 64
    ) -> Handle[H]:
        """See Compute."""
        match key:
            case ("stt:moonshine", str() | None as model, str(architecture)):
                stand_in: Any = _Reader(model, architecture)
                await self._client.call(im.Open(n=0, model=model, architecture=architecture))
            case ("tts:piper", str() | None as model, str() | None as config, int(threads)):
                stand_in = _Speaker(threads)
                await self._client.call(im.Open(n=0, model=model, config=config, threads=threads))
            case _:
                return await self._own.acquire(key, open, close=close, capacity=capacity)
        return _RemoteHandle(self._client, str(key[0]), stand_in, capacity)

    def stats(self) -> list[LaneStats]:
        """See Compute: of models in this process; the service has its own."""
        return self._own.stats()

    async def close(self) -> None:
        """See Compute."""
        await self._own.close()


class _RemoteHandle[H](Handle[H]):
    def __init__(self, client: InferenceClient, name: str, stand_in: H, capacity: int) -> None:
        self._client = client
        self._name = name
        self._stand_in = stand_in
        self._capacity = capacity
        self._waiting = self._done = self._failed = self._superseded = 0
        self._released = False

    @property
    def stats(self) -> LaneStats:
        """See Handle: of this worker's calls."""
        return LaneStats(
            name=self._name,
            depth=self._waiting,
            capacity=self._capacity,
            busy=0.0,
            mean_seconds=0.0,
            done=self._done,
            failed=self._failed,
            superseded=self._superseded,
            dropped=0,
        )

    async def run[T](
        self,
        job: Callable[[H], T],
        *,
        priority: Priority = Priority.NORMAL,
        cost: Cost[T] = 0.0,
        key: Hashable | None = None,
    ) -> T:
        """See Handle."""
        note: Any = self._note(job)
        if not isinstance(note, im.Read):
            raise TypeError(f"a job of the shared {self._name} must return its one call")
        number = hash(key) & 0xFFFF_FFFF if key is not None else None
        self._waiting += 1
        try:
            answer: Any = await self._client.call(msgspec.structs.replace(note, priority=int(priority), key=number))
        except SupersededError:
            self._superseded += 1
            raise
        except DuologueError:
            self._failed += 1
            raise
        finally:
            self._waiting -= 1
        self._done += 1
        result: T = answer
        return result

    def stream[T](
        self,
        job: Callable[[H], Iterator[T]],
        *,
        priority: Priority = Priority.NORMAL,
        cost: Cost[T] = 0.0,
        backlog: int = 8,
    ) -> ItemStream[T]:
        """See Handle."""
        note: Any = self._note(job)
        if not isinstance(note, im.Speak):
            raise TypeError(f"a job of the shared {self._name} must return its one call")
        made: Any = _Stream(self._client, msgspec.structs.replace(note, priority=int(priority), backlog=backlog))
        stream: ItemStream[T] = made
        return stream

    def _note(self, job: Callable[[H], object]) -> object:
        if self._released:
            raise SessionClosedError("This use of the model was released.")
        return job(self._stand_in)

    async def release(self) -> None:
        """See Handle. The service keeps the model for the other workers."""
        self._released = True


class _Stream:
    """Chunks of speech as they come."""

    def __init__(self, client: InferenceClient, message: im.Speak) -> None:
        self._client = client
        self._message = message
        self._n = 0
        self._chunks: deque[SpeechChunk] = deque()
        self._ended = False
        self._error: DuologueError | None = None
        self._arrived = asyncio.Event()

    def arrive(self, chunk: SpeechChunk) -> None:
        """One more."""
        self._chunks.append(chunk)
        self._arrived.set()

    def end(self, error: DuologueError | None) -> None:
        """No more."""
        self._ended, self._error = True, error
        self._arrived.set()

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> SpeechChunk:
        if not self._n and not self._ended:
            self._n = self._client.send(self._message, self)
        while not self._chunks:
            if self._ended:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._arrived.clear()
            try:
                await self._arrived.wait()
            except asyncio.CancelledError:
                await self.aclose()
                raise
        chunk = self._chunks.popleft()
        self._client.taken(self._n)
        return chunk

    async def aclose(self) -> None:
        """Stop."""
        self._chunks.clear()
        if not self._ended:
            self.end(None)
            if self._n:
                self._client.cancel(self._n)


def _fail(call: asyncio.Future[str] | _Stream, error: DuologueError) -> None:
    if isinstance(call, _Stream):
        call.end(error)
    elif not call.done():
        call.set_exception(error)


def _error(message: im.Failure) -> DuologueError:
    if message.error == "SupersededError":
        return SupersededError(message.message)
    kind = getattr(errors, message.error, None)
    if isinstance(kind, type) and issubclass(kind, DuologueError):
        with contextlib.suppress(TypeError):
            return kind(message.message)
    return ModelError(message.message)


def _gone() -> ModelError:
    return ModelError("The inference service of this host is gone.", hint="It is started again for the next session.")
