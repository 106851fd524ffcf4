"""The stand on which calls are measured: the server in a process of its own, and a caller with a microphone and an ear.

Both processes read the same monotonic clock of the machine, so times from the server and times at the listener's output can
be subtracted from each other.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from benchmarks.harness import keep, pin
from duologue.agent import Agent, AgentFactory
from duologue.audio import voiced_spans
from duologue.errors import DuologueError
from duologue.events import AnyEvent
from duologue.serve import ServeOptions, serving
from duologue.serve.app import Server
from duologue.wire.duologue import ServerOptions

#: rate of the caller's microphone, Hz; what the local recogniser takes
MIC_RATE = 16_000
#: length of a frame of the microphone in samples: 20 ms
FRAME = MIC_RATE // 50
#: level at or above which 10 ms of a recording are sound
SOUND_DBFS = -45.0
#: RMS of the noise of the caller's room
ROOM_DBFS = -66.0

_START_S = 120.0
#: how often threads that chose another core are sent back
_KEEP_S = 0.25
_CPU_TICKS = 100.0


class Rig:
    """A server that runs in another process. `url` is the address of its WebSocket."""

    def __init__(self, url: str, control: Connection, process: multiprocessing.process.BaseProcess) -> None:
        self.url = url
        self.pid = process.pid
        self._control = control
        self._lock = asyncio.Lock()

    async def ask[T](self, question: Callable[..., T], *arguments: object) -> T:
        """Call `question(server, *arguments)` on the server's event loop. All of it must be picklable.

        Raises RuntimeError with what it raised.
        """
        async with self._lock:
            self._control.send((question, arguments))
            fine, answer = await asyncio.to_thread(self._control.recv)
        if not fine:
            raise RuntimeError(answer)
        return answer  # type: ignore[no-any-return]

    async def clock_base(self, session: str) -> float:
        """When a session began, on the monotonic clock: its events count their `at` from there."""
        return await self.ask(_clock_base, session)


def _clock_base(server: Server, session: str) -> float:
    call = server.sessions.find(session)
    if call is None:
        raise LookupError(f"there is no session {session}")
    return call.session.conductor.base


@asynccontextmanager
async def rig(
    make: Callable[..., Agent | AgentFactory],
    *arguments: object,
    cores: Sequence[int],
    wire: ServerOptions | None = None,
    journal: str = "",
) -> AsyncIterator[Rig]:
    """Serve what `make(*arguments)` makes, on `cores`, in a process of its own, until the block ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(theirs, make, arguments, list(cores), wire, journal), daemon=True)
    process.start()
    theirs.close()
    try:
        started = await asyncio.to_thread(ours.poll, _START_S)
        if not started:
            raise TimeoutError("the server did not start")
        url = ours.recv()
        if isinstance(url, Exception):
            raise url
        assert process.pid is not None
        keeping = asyncio.create_task(_keep(cores, process.pid))
        try:
            yield Rig(url, ours, process)
        finally:
            keeping.cancel()
    finally:
        ours.close()
        await asyncio.to_thread(process.join, 15.0)
        if process.is_alive():
            process.kill()


async def _keep(cores: Sequence[int], pid: int) -> None:
    """Have all threads of the server stay on its cores, also those that come later."""
    while True:
        keep(cores, pid)
        await asyncio.sleep(_KEEP_S)


def _main(
    control: Connection,
    make: Callable[..., Agent | AgentFactory],
    arguments: tuple[object, ...],
    cores: list[int],
    wire: ServerOptions | None,
    journal: str,
) -> None:
    pin(cores)
    try:
        asyncio.run(_serve(control, make(*arguments), wire, journal))
    except DuologueError as error:
        control.send(RuntimeError(str(error)))


async def _serve(control: Connection, agent: Agent | AgentFactory, wire: ServerOptions | None, journal: str) -> None:
    options = ServeOptions(port=0, max_sessions=1000, journal=journal, wire=wire or ServerOptions(), studio=False)
    async with serving(agent, options) as running:
        app: Any = running.app
        over = asyncio.Event()
        loop = asyncio.get_running_loop()

        def answer() -> None:
            try:
                question, arguments = control.recv()
            except EOFError:
                loop.remove_reader(control.fileno())
                over.set()
                return
            try:
                control.send((True, question(app.state.server, *arguments)))
            except Exception as error:
                control.send((False, f"{type(error).__name__}: {error}"))

        loop.add_reader(control.fileno(), answer)
        control.send(running.ws_url)
        await over.wait()


class Ear:
    """What sounded at the listener's output, as a sink of the playback device: pieces of PCM and when they did."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.pieces: list[tuple[float, bytes]] = []

    def __call__(self, pcm: bytes, at: float) -> None:
        self.pieces.append((at, pcm))

    def first_sound(self, after: float) -> float | None:
        """When, from `after` on, something first sounded (10 ms at or above -45 dBFS); None: nothing did."""
        for at, pcm in self.pieces:
            if at + len(pcm) / 2 / self.rate <= after:
                continue
            for span in voiced_spans(pcm, self.rate, SOUND_DBFS, 0.0):
                if at + span.end / self.rate > after:
                    return max(at + span.start / self.rate, after)
        return None

    def end_of(self, before: float = float("inf")) -> float:
        """When the last sample that began before `before` had been rendered; 0.0 if there is none."""
        ends = [at + len(pcm) / 2 / self.rate for at, pcm in self.pieces if at < before]
        return max(ends, default=0.0)

    def silence_from(self, after: float, quiet: float = 0.25) -> float | None:
        """When the output fell silent: the end of the first run of samples rendered after `after` that `quiet` s follow."""
        end: float | None = None
        for at, pcm in self.pieces:
            stop = at + len(pcm) / 2 / self.rate
            if stop <= after:
                continue
            if end is not None and at - end >= quiet:
                break
            end = stop
        return end


class OnTheLine(Protocol):
    """What a caller needs of a call."""

    async def send_audio(self, pcm: bytes) -> object: ...

    async def interrupt(self) -> None: ...

    def __aiter__(self) -> AsyncIterator[AnyEvent]: ...


class Caller:
    """A caller on the line: a microphone that is always open, an ear, and a notebook for events.

    A frame is sent when its last sample has been captured; sample `p` of the microphone is captured at `time_of(p)`.
    """

    def __init__(self, call: OnTheLine, ear: Ear, *, seed: int = 1, noise_dbfs: float | None = ROOM_DBFS) -> None:
        self.call = call
        self.ear = ear
        self.events: list[AnyEvent] = []
        self.arrived: list[float] = []
        self._pending = b""
        self._position = 0  # of the next sample that has not been put into a frame
        self._began = 0.0
        amplitude = 0.0 if noise_dbfs is None else 32768 * 10 ** (noise_dbfs / 20)
        noise = np.random.default_rng(seed).normal(0.0, 1.0, 4 * MIC_RATE) * amplitude
        self._noise = np.rint(noise).astype("<i2")
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Caller:
        self._began = asyncio.get_running_loop().time()
        self._tasks = [asyncio.create_task(self._speak()), asyncio.create_task(self._listen())]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def time_of(self, position: int) -> float:
        """When a sample of the microphone was, or will be, captured."""
        return self._began + position / MIC_RATE

    def say(self, pcm: bytes, lead: int = 0) -> int:
        """Speak, once what is being said is over; returns the position of the first sample."""
        start = self._position + len(self._pending) // 2
        self._pending += bytes(2 * lead) + pcm
        return start + lead

    @property
    def speaking(self) -> bool:
        """Whether something is still to be said."""
        return bool(self._pending)

    async def until(self, condition: Callable[[], object], timeout: float) -> bool:
        """Wait until `condition()` holds, looked at with each event and each 20 ms; whether it did in time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while not condition():
            if loop.time() >= end:
                return False
            await asyncio.sleep(0.02)
        return True

    def since(self, mark: int) -> list[AnyEvent]:
        """The events from number `mark` on."""
        return self.events[mark:]

    async def _speak(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            frame, self._pending = self._pending[: 2 * FRAME], self._pending[2 * FRAME :]
            first, self._position = self._position, self._position + FRAME
            samples = np.frombuffer(frame.ljust(2 * FRAME, b"\0"), "<i2").astype(np.int32)
            at = first % (len(self._noise) - FRAME)
            samples += self._noise[at : at + FRAME]
            await asyncio.sleep(max(0.0, self.time_of(self._position) - loop.time()))
            await self.call.send_audio(np.clip(samples, -32768, 32767).astype("<i2").tobytes())

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        async for event in self.call:
            self.events.append(event)
            self.arrived.append(loop.time())
