"""What one 20 ms frame each way costs a live session, in CPU time.

A client talks protocol v1 over a socket in memory; everything behind it is the real thing: link, decoding, the ring that keeps
unanswered audio, floor, ledger, pacing, journal, turn records, encoding. The socket is direct, as those of the host are
(`duologue/channels/link.py`); what the two tasks add that drive any other socket is listed apart. It sends a frame each 20 ms,
acknowledges what it got four times and playout ten times a second, and answers pings; every twenty seconds it asks something
and is answered for seventeen. All of it runs on virtual time, so that nothing waits; CPU time is that of the process, the
journal's thread included.

The cost of a user frame is that of a call in which the agent is silent; the cost of an agent frame is what a call with
answers takes beyond it, turns, events and records included. What the client and its queue cost, and the scripted model that
stands in for voice activity detection, is measured without a session, and taken off: sockets, resampling and detection are
no part of the figure.
"""

from __future__ import annotations

import asyncio
import gc
import struct
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec

from benchmarks.harness import Options, Result, main
from duologue.audio import Resampler
from duologue.channels.link import End, SocketClosedError, new_token, run_link
from duologue.channels.websocket import WebSocketChannel
from duologue.engine.limits import LimitOptions
from duologue.models.base import Context
from duologue.session.definition import Definition
from duologue.session.session import Session
from duologue.store import Committer, GroupCommitter, InlineCommitter, MemoryStore, SQLiteStore
from duologue.testing.clock import run_virtual
from duologue.testing.scripted import (
    INPUT_RATE,
    OUTPUT_RATE,
    Reply,
    ScriptedConnection,
    ScriptedModel,
    Utterance,
)
from duologue.wire.duologue import ServerDelivery, ServerProtocol
from duologue.wire.duologue.frames import encode_agent_audio, encode_user_audio

REACH_US = 30.0
_FRAME_S = 0.02
_SAMPLES = int(INPUT_RATE * _FRAME_S)
_ROUND_S = 20.0
_PLACE = struct.Struct("<QQ")
_PLACE_AT = 8  # of n and position in the header of a frame
_HELLO = msgspec.json.encode(
    {
        "type": "hello",
        "versions": [1],
        "input": {"rate": INPUT_RATE},
        "output": {"rate": OUTPUT_RATE},
        "capabilities": {"acks": True, "duck": True},
    }
).decode()


class Client:
    """A client and its socket in one: the far end of a call. See `DirectClient` for the one that is measured."""

    def __init__(self) -> None:
        self._inbox: deque[str | bytes] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._closed = False
        self._silence, self._speech = bytes(2 * _SAMPLES), struct.pack("<h", 1) * _SAMPLES
        self.asks = False
        self.sent = 0
        self.received = 0
        self._end = 0  # end of the agent's track as received
        self._playing_since = 0.0
        self._playing_from = 0
        self._acknowledged = 0
        self._n = self._taken = 0

    # the socket, as the link sees it

    async def receive(self) -> str | bytes:
        while not self._inbox:
            if self._closed:
                raise SocketClosedError(1000)
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._inbox.popleft()

    async def send(self, message: str | bytes) -> None:
        self._got(message)

    def _got(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self.received += 1
            self._n, position = _PLACE.unpack_from(message, _PLACE_AT)
            self._plays(position, len(message))
        elif message.startswith('{"type":"ping"'):
            ping = msgspec.json.decode(message)
            self._tell(type="pong", t=ping["t"], r=asyncio.get_running_loop().time())
        elif message.startswith('{"type":"clear"'):
            clear = msgspec.json.decode(message)
            self._end = self._playing_from = clear["before"]
            self._tell(type="cleared", c=clear["c"], e=1, played=self._acknowledged)

    async def close(self, code: int, reason: str = "") -> None:
        self._closed = True

    # the client

    def _push(self, message: str | bytes) -> None:
        self._inbox.append(message)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _tell(self, **message: object) -> None:
        self._push(msgspec.json.encode(message).decode())

    def _plays(self, position: int, size: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._position(now) >= self._end:
            self._playing_since, self._playing_from = now + 0.04, position
        self._end = position + (size - 40) // 2

    def _position(self, now: float) -> int:
        played = self._playing_from + int(max(0.0, now - self._playing_since) * OUTPUT_RATE)
        return min(self._end, played)

    async def talk(self, seconds: float) -> None:
        """Send a frame each 20 ms."""
        loop = asyncio.get_running_loop()
        begin, last, first = loop.time(), int(seconds / _FRAME_S), self.sent
        done: asyncio.Future[None] = loop.create_future()

        def frame(index: int) -> None:
            if index == last:
                done.set_result(None)
                return
            speaks = self.asks and 1.0 <= (index * _FRAME_S) % _ROUND_S < 2.0
            n = first + index
            self._push(encode_user_audio(1, n + 1, n * _SAMPLES, self._speech if speaks else self._silence))
            if not index % 5 and (played := self._position(loop.time())) > self._acknowledged:
                self._acknowledged = played
                self._tell(type="played", e=1, position=played, at=loop.time())
            if not index % 12 and self._n > self._taken:
                self._taken = self._n
                self._tell(type="ack", e=1, n=self._n)
            loop.call_at(begin + (index + 1) * _FRAME_S, frame, index + 1)

        frame(0)
        await done
        self.sent = first + last

    def hang_up(self) -> None:
        self._push('{"type":"bye","code":"done"}')


class DirectClient(Client):
    """The same over a direct socket."""

    def __init__(self) -> None:
        super().__init__()
        self._to: End | None = None
        self._asked = False

    def attach(self, end: End) -> None:
        self._to = end

    def detach(self) -> None:
        self._to = None

    def ready(self) -> None:
        if not self._asked:
            self._asked = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self._asked = False
        if self._to is not None:
            self._to.fill()

    def post(self, message: str | bytes) -> bool:
        self._got(message)
        return True

    def _push(self, message: str | bytes) -> None:
        if self._to is not None:
            self._to.take(message)


class Nobody:
    """Takes what a client says; with `answers` it is sent as much audio as it sends."""

    def __init__(self, client: DirectClient, answers: bool) -> None:
        self._client = client
        self._answers = answers
        self._position = 0
        self._pcm = bytes(int(2 * OUTPUT_RATE * _FRAME_S))

    def take(self, message: str | bytes) -> None:
        if self._answers and isinstance(message, bytes):
            position = self._position
            self._client.post(encode_agent_audio(1, position + 1, position, 1, position, self._pcm))
            self._position += len(self._pcm) // 2

    def gone(self, code: int) -> None: ...

    def fill(self) -> None: ...


class Opener:
    """Gives the client a session of its own."""

    def __init__(self, committer: Committer | None) -> None:
        self._committer = committer
        self.session: Session | None = None

    async def open(self, link: ServerProtocol) -> WebSocketChannel:
        assert link.hello is not None
        hello = link.hello
        delivery = ServerDelivery(
            session="bench", token=new_token(), input=hello.input, output=hello.output, capabilities=hello.capabilities
        )
        channel = WebSocketChannel(delivery)
        answer = "There are a number of things that can be said of this, one after another. " * 4

        def reply(text: str | None, context: Context) -> Reply:
            return Reply(text=answer, characters_per_s=len(answer) / 17.0)

        model = ScriptedModel([Utterance(text="what of this")], reply)
        definition = Definition(name="bench", model=model, limits=LimitOptions(idle_s=0))
        self.session = Session(definition, [channel], committer=self._committer, tool_runner="inline", id="bench")
        await self.session.start()
        return channel


@asynccontextmanager
async def journal(kind: str) -> AsyncIterator[Committer | None]:
    """Where the session writes."""
    if kind == "none":
        yield None
    elif kind == "memory":
        async with InlineCommitter(MemoryStore(), latency=0.002, window=0.004) as committer:
            yield committer
    else:
        with tempfile.TemporaryDirectory() as folder:
            store = SQLiteStore(Path(folder) / "journal.db")
            async with GroupCommitter(store) as committer:
                yield committer
            store.close()


async def _call(seconds: float, *, asks: bool, kind: str, direct: bool = True) -> tuple[float, int, int]:
    """CPU seconds, user frames and agent frames of a call, its beginning and end left out."""
    client = DirectClient() if direct else Client()
    async with journal(kind) as committer:
        opener = Opener(committer)
        link = asyncio.create_task(run_link(client, _HELLO, opener, notice=lambda channel: ""))
        await asyncio.sleep(1.0)
        client.asks = asks
        await client.talk(2 * _ROUND_S)
        gc.collect()
        before = (client.sent, client.received)
        began = time.process_time()
        await client.talk(seconds)
        cpu = time.process_time() - began
        counted = (client.sent - before[0], client.received - before[1])
        client.hang_up()
        assert opener.session is not None
        ended = await opener.session.wait()
        assert ended.reason == "hangup", ended
        await link
    return cpu, *counted


async def _nobody(seconds: float, *, answers: bool) -> tuple[float, int, int]:
    """The same of the client alone."""
    client = DirectClient()
    client.attach(Nobody(client, answers))
    await client.talk(2 * _ROUND_S)
    gc.collect()
    before = (client.sent, client.received)
    began = time.process_time()
    await client.talk(seconds)
    return time.process_time() - began, client.sent - before[0], client.received - before[1]


def _stand_in() -> float:
    """CPU microseconds of the scripted model for a frame of user audio, reporting to nobody."""

    class Silent:
        def report(self, evidence: object) -> None: ...

    connection = ScriptedConnection(ScriptedModel([], lambda text, context: Reply()), cast(Context, Silent()))
    pcm, count = bytes(2 * _SAMPLES), 20_000
    began = time.process_time()
    for index in range(count):
        connection.audio(pcm, index * _SAMPLES)
    return (time.process_time() - began) / count * 1e6


def measure(options: Options) -> Result:
    """The cost of a frame each way; the least of several runs, since others only ever add to it."""
    seconds, rounds = (100.0, 4) if options.quick else (400.0, 8)

    def least(run: Callable[[], Coroutine[Any, Any, tuple[float, int, int]]]) -> tuple[float, int, int]:
        return min(run_virtual(run()) for _ in range(rounds))

    heard = least(lambda: _nobody(seconds, answers=False))
    spoken = least(lambda: _nobody(seconds, answers=True))
    client_user = heard[0] / heard[1] * 1e6
    client_agent = (spoken[0] - heard[0]) / spoken[2] * 1e6
    model = min(_stand_in() for _ in range(rounds))
    rows: list[tuple[object, ...]] = []
    users: dict[str, float] = {}
    agents: dict[str, float] = {}
    pairs: dict[str, float] = {}
    frames = 0
    for kind in ("none", "memory", "sqlite"):
        silent = least(partial(_call, seconds, asks=False, kind=kind))
        talking = least(partial(_call, seconds, asks=True, kind=kind))
        user = silent[0] / silent[1] * 1e6 - client_user - model
        agent = (talking[0] - silent[0]) / talking[2] * 1e6 - client_agent
        users[kind], agents[kind], pairs[kind] = user, agent, user + agent
        frames = talking[2]
        rows.append((f"session, journal: {kind}", user, agent, user + agent))
    silent_tasks = least(partial(_call, seconds, asks=False, kind="none", direct=False))
    talking_tasks = least(partial(_call, seconds, asks=True, kind="none", direct=False))
    user_tasks = silent_tasks[0] / silent_tasks[1] * 1e6 - client_user - model - users["none"]
    agent_tasks = (talking_tasks[0] - silent_tasks[0]) / talking_tasks[2] * 1e6 - client_agent - agents["none"]
    rows.append(("apart: two tasks for a socket that is not direct", user_tasks, agent_tasks, user_tasks + agent_tasks))
    rows.append(("apart: client", client_user, client_agent, client_user + client_agent))
    rows.append(("apart: scripted model", model, None, None))
    rows.append(
        ("apart: resampling, where rates differ", _resampling(16_000, 24_000), _resampling(24_000, 48_000), None)
    )
    figure = pairs["sqlite"]
    return Result(
        figure=figure,
        unit="us",
        reach=f"<= {REACH_US:g} us for the pair",
        holds=None if options.quick else figure <= REACH_US,
        n=frames,
        columns=("CPU time in us", "user frame", "agent frame", "pair"),
        rows=rows,
        notes=(
            "The figure is with the journal in SQLite, group-committed for this one session alone.",
            f"Least of {rounds} runs of {seconds:g} s of call; standard event loop on virtual time, {sys.implementation.name}.",
        ),
        details={f"pair_{kind}_us": value for kind, value in pairs.items()} | {"tasks_us": user_tasks + agent_tasks},
    )


def _resampling(source: int, target: int) -> float:
    resampler, pcm = Resampler(source, target), bytes(2 * int(source * _FRAME_S))
    for _ in range(100):
        resampler.feed(pcm)
    began = time.process_time()
    for _ in range(2000):
        resampler.feed(pcm)
    return (time.process_time() - began) / 2000 * 1e6


if __name__ == "__main__":
    main("frame_cost", __doc__, measure)
