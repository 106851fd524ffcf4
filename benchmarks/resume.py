"""Cuts in the middle of calls: is anything lost, doubled or out of order once the client has resumed?

Calls run over a TCP proxy on loopback that cuts their links at random points, also while a resume is under way:

reset       both ends are told at once
black hole  nothing passes any more in either direction, and nobody is told
half-open   the server is told, the client is not; or the other way round

Everything that passes is numbered and checked at its end. Down: events (the model's partial transcripts), and the samples of
one endless answer as the playback device renders them. Up: sensor inputs and the microphone's samples as the model receives
them; the samples carry their own positions.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from benchmarks.harness import Options, Result, cores, main, percentile, pinned, split_cores
from benchmarks.rig import MIC_RATE, Rig, rig
from duologue.agent import Agent, AgentFactory
from duologue.client import Call, connect
from duologue.engine.conversation import Item
from duologue.engine.limits import LimitOptions
from duologue.events import ErrorEvent, ListenerBack, ResponseOrigin, SensorInput, UserTranscript
from duologue.models.base import Began, Capabilities, Connection, Context, Model, Recognised, Said, Spoke
from duologue.serve.app import Server
from duologue.session.definition import CallInfo

type Kind = Literal["reset", "black hole", "half-open"]
KINDS: tuple[Kind, ...] = ("reset", "black hole", "half-open")

RATE = 24_000
EVENT_S, INPUT_S, FRAME_S = 0.02, 0.05, 0.02
#: the longest time from a cut to the next
_APART_S = 1.0
#: longest wait for a link to be up again, and for the rest to arrive at the end
_UP_S = 25.0
#: how far cuts may throw a call back before it is let catch up: it keeps 30 s of audio, and its grace period is 30 s
_AWAY_S, _CAUGHT_UP_S = 8.0, 1.0
_WRAP = 30_000


class CountingConnection(Connection):
    """Counts aloud, in events and in samples, and checks the samples it receives."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.told = 0
        self.expected = 0
        self.inputs: list[int] = []
        self.faults = Counter[str]()
        self.stop = False

    def begin(self, history: Sequence[Item]) -> None:
        """See Connection."""
        self._context.spawn(self._count, "counting")
        self._context.spawn(self._speak, "speaking")

    async def _count(self) -> None:
        while not self.stop:
            self.told += 1
            self._context.report(Recognised(text=str(self.told)))
            await asyncio.sleep(EVENT_S)

    async def _speak(self) -> None:
        response, made = self._context.next_response(), 0
        self._context.report(Began(response=response, origin="respond"))
        self._context.report(Said(response=response, text="La"))
        while not self.stop:
            pcm = (np.arange(made, made + RATE // 5) % _WRAP + 1).astype("<i2").tobytes()
            made += RATE // 5
            self._context.report(Spoke(response=response, pcm=pcm))
            await self._context.room(response)
            await asyncio.sleep(0.02)

    def audio(self, pcm: bytes, position: int) -> None:
        """See Connection. Each sample says where it was captured."""
        first = struct.unpack_from("<h", pcm)[0] - 1
        samples = np.frombuffer(pcm, "<i2").astype(np.int64) - 1
        if position > self.expected:
            self.faults["lost"] += position - self.expected
        elif position < self.expected:
            self.faults["doubled"] += self.expected - position
        if first != position % _WRAP or np.any(np.diff(samples) % _WRAP != 1):
            self.faults["out of order"] += 1
        self.expected = position + len(samples)

    def item(self, item: Item) -> None:
        """See Connection. The numbers of the inputs, as they come."""
        self.inputs.append(int(item.text.removeprefix("n:")))

    def text(self, turn: str, text: str) -> None:
        """See Connection."""

    def commit(self, turn: str) -> None:
        """See Connection."""

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection."""

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection."""

    def cancel(self, response: str) -> None:
        """See Connection."""

    async def close(self) -> None:
        """See Connection."""
        self.stop = True


class Counting(Model):
    """See CountingConnection."""

    name = "counting"

    def __init__(self, session: str) -> None:
        self._session = session

    @property
    def capabilities(self) -> Capabilities:
        """See Model."""
        return Capabilities(
            authority="engine", input_rate=MIC_RATE, output_rate=RATE, inputs=frozenset({"audio", "sensor"})
        )

    async def open(self, context: Context) -> Connection:
        """See Model."""
        connection = connections[self._session] = CountingConnection(context)
        return connection


#: by session, in the server's process
connections: dict[str, CountingConnection] = {}


def counting_agents() -> AgentFactory:
    """Agents that count for as long as anybody listens."""

    async def make(call: CallInfo) -> Agent:
        limits = LimitOptions(idle_s=0, max_response_s=3600, queued_s=2)
        return Agent(model=Counting(call.session), idle_prompt="", limits=limits)

    return make


@dataclass
class Received:
    """What the server has of one call: events told, samples and their faults, numbers of inputs."""

    told: int
    samples: int
    faults: dict[str, int]
    inputs: list[int]


def _received(server: Server, session: str) -> Received:
    """End the counting of a session, and report it."""
    call = server.sessions.find(session)
    if call is None:
        raise LookupError(f"session {session} is gone")
    connection = connections[session]
    connection.stop = True
    return Received(connection.told, connection.expected, dict(connection.faults), connection.inputs)


class Proxy:
    """A TCP proxy on loopback for one call; its present link can be cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter] | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._deaf: list[asyncio.StreamWriter] = []
        self.linked = asyncio.Event()  # there is a link to cut

    async def start(self) -> int:
        """Listen; returns the port."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._pair = (writer, far_writer)
        self.linked.set()
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                if sink in self._deaf:
                    continue
                sink.write(data)
                await sink.drain()
            if sink not in self._deaf:
                sink.close()
        except OSError:
            if sink not in self._deaf:
                sink.transport.abort()

    def cut(self, kind: Kind, chance: random.Random) -> None:
        """Cut the present link; there must be one."""
        assert self._pair is not None
        near, far = self._pair
        self._pair = None
        self.linked.clear()
        self._deaf += [near, far]
        if kind == "reset":
            _reset(near)
            _reset(far)
        elif kind == "half-open":
            _reset(chance.choice((near, far)))

    async def close(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.close()
        for pump in list(self._pumps):
            pump.cancel()
        for writer in self._deaf:
            writer.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset, not with an orderly end."""
    raw: socket.socket = writer.get_extra_info("socket")
    if raw.fileno() < 0:
        return  # the other side has ended it at this very moment
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass
class Faults:
    """What was found of one kind of thing."""

    sent: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0

    def add(self, sent: int, received: Sequence[int]) -> None:
        """`received` are numbers from 1 to `sent`."""
        counts = Counter(received)
        self.sent += sent
        self.lost += sum(number not in counts for number in range(1, sent + 1))
        self.doubled += sum(count - 1 for count in counts.values())
        firsts = list(dict.fromkeys(received))
        self.out_of_order += sum(later < earlier for earlier, later in itertools.pairwise(firsts))


@dataclass
class Found:
    """All calls together."""

    cuts: Counter[Kind] = field(default_factory=Counter)
    events: Faults = field(default_factory=Faults)
    inputs: Faults = field(default_factory=Faults)
    samples_down: Faults = field(default_factory=Faults)
    samples_up: Faults = field(default_factory=Faults)
    back_s: dict[Kind, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    gaps: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


async def hold_call(server: Rig, kinds: Sequence[Kind], seed: int, found: Found) -> None:
    """One call, cut once for each of `kinds`."""
    chance, loop = random.Random(seed), asyncio.get_running_loop()
    proxy = Proxy(int(server.url.split(":")[2].split("/")[0]))
    port = await proxy.start()
    numbers: list[int] = []
    arrived = asyncio.Event()
    sent = 0
    async with connect(
        f"ws://127.0.0.1:{port}/ws", input_rate=MIC_RATE, output_rate=RATE, event_buffer=1 << 20, seed=seed
    ) as call:

        async def listen() -> None:
            async for event in call:
                if isinstance(event, UserTranscript):
                    numbers.append(int(event.text))
                    arrived.set()
                elif isinstance(event, ErrorEvent):
                    found.gaps.append(f"{event.code}: {event.message}")
                elif isinstance(event, ListenerBack) and (event.gap_events or event.gap_ms):
                    found.gaps.append(f"{event.gap_events} events, {event.gap_ms} ms")

        async def speak() -> None:
            position, began = 0, loop.time()
            while True:
                await asyncio.sleep(max(0.0, began + position / MIC_RATE - loop.time()))
                samples = np.arange(position, position + int(FRAME_S * MIC_RATE)) % _WRAP + 1
                await call.send_audio(samples.astype("<i2").tobytes())
                position += len(samples)

        async def tell() -> None:
            nonlocal sent
            while True:
                sent += 1
                await call.send(SensorInput(name="n", value=sent))
                await asyncio.sleep(INPUT_S)

        tasks = [asyncio.create_task(work()) for work in (listen, speak, tell)]
        try:
            for kind in kinds:
                if call.unconfirmed_s > _AWAY_S:
                    # More cuts before the call has caught up, and it would rightly say that it lost audio.
                    async with asyncio.timeout(_UP_S):
                        while call.unconfirmed_s > _CAUGHT_UP_S:  # noqa: ASYNC110 - the call tells nobody
                            await asyncio.sleep(0.02)
                # Sometimes at once: in the middle of the handshake of a resume.
                await asyncio.sleep(chance.choice((0.0, chance.uniform(0.0, 0.05), chance.uniform(0.0, _APART_S))))
                await _cut(call, proxy, kind, chance, found)
            await asyncio.sleep(1.0)
            for task in tasks[1:]:
                task.cancel()
            await asyncio.sleep(1.0)
            received = await server.ask(_received, call.session)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UP_S):
                    while not numbers or numbers[-1] < received.told:
                        arrived.clear()
                        await arrived.wait()
            found.events.add(received.told, numbers)
            found.inputs.add(sent, received.inputs)
            found.samples_up.sent += received.samples
            found.samples_up.lost += received.faults.get("lost", 0)
            found.samples_up.doubled += received.faults.get("doubled", 0)
            found.samples_up.out_of_order += received.faults.get("out of order", 0)
            _check_rendered(call, found.samples_down)
        except Exception as error:  # one call that fails must not hide what the others found
            found.failed.append(f"{type(error).__name__}: {error}")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    await proxy.close()


async def _cut(call: Call, proxy: Proxy, kind: Kind, chance: random.Random, found: Found) -> None:
    """Cut, and wait until the proxy sees a new link (not until the resume is through)."""
    loop = asyncio.get_running_loop()
    await proxy.linked.wait()
    began = loop.time()
    proxy.cut(kind, chance)
    found.cuts[kind] += 1
    try:
        await asyncio.wait_for(proxy.linked.wait(), _UP_S)
    except TimeoutError:
        raise TimeoutError(f"no new link {_UP_S:g} s after a {kind}: {list(call.errors)[-2:]}") from None
    found.back_s[kind].append(loop.time() - began)


def _check_rendered(call: Call, faults: Faults) -> None:
    """Every sample of the answer must have been rendered once, in order."""
    assert call.playout is not None
    expected = 0
    for run in call.playout.log:
        if run.offset > expected:
            faults.lost += run.offset - expected
        elif run.offset < expected:
            faults.doubled += expected - run.offset
        expected = max(expected, run.offset + run.samples)
    faults.sent += expected
    faults.lost += call.playout.device.dropped_samples


async def run(options: Options) -> Found:
    calls, each = (20, 3) if options.quick else (20, 50)
    _, load = split_cores()
    found, chance = Found(), random.Random(options.seed)
    async with rig(counting_agents, cores=cores()) as server:
        with pinned(load):
            plans = [[KINDS[(call + number) % 3] for number in range(each)] for call in range(calls)]
            for plan in plans:
                chance.shuffle(plan)
            seeds = [chance.randrange(1 << 30) for _ in plans]
            await asyncio.gather(
                *(hold_call(server, plan, seed, found) for plan, seed in zip(plans, seeds, strict=True))
            )
    return found


def measure(options: Options) -> Result:
    found = asyncio.run(run(options))
    kinds = {
        "events down": found.events,
        "inputs up": found.inputs,
        "samples down": found.samples_down,
        "samples up": found.samples_up,
    }
    faults = {
        "lost": sum(one.lost for one in kinds.values()),
        "doubled": sum(one.doubled for one in kinds.values()),
        "out_of_order": sum(one.out_of_order for one in kinds.values()),
    }
    cuts = sum(found.cuts.values())
    clean = not any(faults.values()) and not found.failed
    rows: list[list[object]] = [
        [name, one.sent, one.lost, one.doubled, one.out_of_order, None] for name, one in kinds.items()
    ]
    rows += [
        [f"{found.cuts[kind]} × {kind}: next link", None, None, None, None, percentile(found.back_s[kind], 50)]
        for kind in KINDS
    ]
    return Result(
        figure=faults,
        unit="events, inputs and samples",
        reach="1,000 cuts: lost 0, doubled 0, out of order 0",
        holds=None if options.quick and clean else clean,
        n=cuts,
        columns=["", "sent", "lost", "doubled", "out of order", "median s"],
        rows=rows,
        notes=[*(f"a call failed: {reason}" for reason in found.failed), *(f"gap: {gap}" for gap in found.gaps[:10])],
        packages=["websockets", "uvicorn"],
        details={"calls_failed": len(found.failed), "gaps": len(found.gaps)},
    )


if __name__ == "__main__":
    main("resume", __doc__, measure)
