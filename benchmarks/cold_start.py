"""A new session in a process of its own: how long until it takes its first frame, and how much memory is its alone.

A host's fleet prepares `examples/delivery.py` (recognition, synthesis and voice activity detection of this machine; the first
two in the shared inference service). Then, one session after the other, as a gateway does it: the upgrade request has arrived;
the fleet is asked for a worker, a link to it is opened, a stream on it, and the client's first frame is sent. The clock stops
when the session has taken it, which its welcome says: it has its journal, its model connection and its floor.

pooled   a child of the warm template, forked before
forked   the pool is empty: forked on request
cold     no template: a new Python, which imports everything

The memory is the worker's own, shared with no other process (private pages of /proc/PID/smaps_rollup): when it is assigned and
ready, and after a spoken turn was recognised and answered aloud.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.harness import Options, Result, main, percentile
from duologue.audio import resample
from duologue.events import ResponseFinished, TurnCommitted
from duologue.host.types import SCHEMA, Tier, VersionSpec
from duologue.host.workers import Fleet, FleetOptions, Worker
from duologue.speech.piper import PiperTTS
from duologue.wire.duologue import AudioSpec, ClientProtocol, EventReceived
from duologue.wire.hostlink import Accepted, Closed, Connected, LinkClient, Message, Open, Rejected

RATE, FRAME = 16_000, 320
SAID = "Where do I go next?"
POOLED_MS, FORKED_MS, BEFORE_MB, AFTER_MB = 30.0, 60.0, 8.0, 15.0
#: longest wait for a turn to be answered, seconds
_TURN_S = 30.0
TENANT = "111122223333"


class Call:
    """A client behind a gateway's link, by its two codecs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._link = LinkClient(peer="gateway", schema=SCHEMA, now=self._loop.time())
        self._client = ClientProtocol(input=AudioSpec(rate=RATE), output=AudioSpec(rate=24_000))
        self.committed = self.answered = False
        self.welcomed = False

    async def begin(self, session: str) -> None:
        """Open the stream, say hello, be welcomed."""
        while not self.welcomed:
            await self.step(session)

    async def step(self, session: str = "") -> None:
        """Send what is due, take what comes."""
        self._flush()
        data = await self._reader.read(1 << 18)
        if not data:
            raise ConnectionError("the worker has closed the link")
        now = self._loop.time()
        for event in self._link.receive(data, now):
            match event:
                case Connected():
                    self._link.open(Open(session=session, epoch=1, headers=(("host", "worker"),)))
                case Accepted():
                    self._client.connect(now)
                case Message():
                    self._take(event, now)
                    self._link.consumed(event.stream, event.cost)
                case Rejected() | Closed():
                    raise ConnectionError(f"the worker refuses: {event}")
        self._flush()

    def _take(self, message: Message, now: float) -> None:
        value = message.value
        found = (
            self._client.receive_text(value, now) if isinstance(value, str) else self._client.receive_bytes(value, now)
        )
        self.welcomed = self.welcomed or bool(self._client.session)
        for item in found:
            if isinstance(item, EventReceived):
                if isinstance(item.event, TurnCommitted):
                    self.committed = True
                elif isinstance(item.event, ResponseFinished) and item.event.text and self.committed:
                    self.answered = True

    def _flush(self) -> None:
        while (frame := self._client.next_frame(self._loop.time())) is not None:
            self._link.send(1, frame)
        while data := self._link.data_to_send():
            self._writer.write(data)

    async def speak(self, pcm: bytes) -> None:
        """A caller with a microphone: speech, then silence, 20 ms at a time, until an answer has been given."""
        frames = [pcm[at : at + 2 * FRAME] for at in range(0, len(pcm), 2 * FRAME)]
        begun = self._loop.time()
        number = 0
        reading = asyncio.ensure_future(self._read())
        try:
            while not self.answered:
                if reading.done():
                    reading.result()
                if self._loop.time() > begun + _TURN_S:
                    raise TimeoutError("the turn was not answered")
                frame = frames[number] if number < len(frames) else b""
                self._client.send_audio(frame.ljust(2 * FRAME, b"\0"))
                self._flush()
                number += 1
                await asyncio.sleep(max(0.0, begun + number * FRAME / RATE - self._loop.time()))
        finally:
            reading.cancel()

    async def _read(self) -> None:
        while True:
            await self.step()


@asynccontextmanager
async def calling(worker: Worker) -> AsyncIterator[Call]:
    """A link to a worker."""
    reader, writer = await asyncio.open_unix_connection(worker.link)
    try:
        yield Call(reader, writer)
    finally:
        writer.close()


def private_mb(pid: int) -> float:
    """Memory that is a process's alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) / 1024


def version(number: int, tier: Tier) -> VersionSpec:
    """The example, as it would be deployed."""
    source = Path(__file__).resolve().parent.parent / "examples"
    return VersionSpec(
        tenant=TENANT,
        runtime="delivery-0123456789",
        version=number,
        digest="0" * 64,
        kind="agent",
        source=str(source),
        entry="delivery.py:agent",
        tier=tier,
    )


class Rounds:
    """Measures one way of starting."""

    def __init__(self, pool: int, tier: Tier, rounds: int, turns: int, speech: bytes) -> None:
        self._options = FleetOptions(pool=pool)
        self._tier = tier
        self._rounds = rounds
        self._turns = turns
        self._speech = speech
        self.ms: list[float] = []
        self.before: list[float] = []
        self.welcomed: list[float] = []
        self.after: list[float] = []
        self.reason = ""

    async def run(self) -> None:
        """Start session after session; speak with the first few."""
        with tempfile.TemporaryDirectory(prefix="cs") as directory:
            async with Fleet(Path(directory) / "r", options=self._options) as fleet:
                spec = version(1, self._tier)
                probe = await fleet.prepare(spec)
                self.reason = probe.reason
                journal = str(fleet.journals(TENANT) / "calls.sqlite")
                for number in range(self._rounds):
                    await self._once(fleet, spec, f"session-{number}", journal, number < self._turns)

    async def _once(self, fleet: Fleet, spec: VersionSpec, session: str, journal: str, turn: bool) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        worker = await fleet.start(spec, session=session, epoch=1, secrets={}, journal=journal)
        started = loop.time()
        before = private_mb(worker.pid)  # reading it takes milliseconds, which are not the session's
        begun += loop.time() - started
        async with calling(worker) as call:
            await call.begin(session)
            self.ms.append(1000 * (loop.time() - begun))
            self.before.append(before)
            self.welcomed.append(private_mb(worker.pid))
            if turn:
                await call.speak(self._speech)
                self.after.append(private_mb(worker.pid))
        await fleet.stop(worker, grace_s=0.5)
        await asyncio.sleep(0.3)  # the pool is filled again


async def _speech() -> bytes:
    tts = PiperTTS()
    try:
        pcm = b"".join([chunk.pcm async for chunk in tts.synthesize(SAID)])
        return resample(pcm, tts.rate, RATE)
    finally:
        await tts.close()


async def _measure(options: Options) -> Result:
    speech = await _speech()
    rounds, turns = (15, 3) if options.quick else (100, 10)
    ways = {
        "pooled": Rounds(2, "process", rounds, turns, speech),
        "forked": Rounds(0, "process", rounds, turns, speech),
        "cold": Rounds(0, "cold", max(3, rounds // 20), 0, speech),
    }
    for way in ways.values():
        await way.run()
    pooled, forked = ways["pooled"], ways["forked"]
    figure = {
        "pooled_p50_ms": percentile(pooled.ms, 50),
        "forked_p50_ms": percentile(forked.ms, 50),
        "before_mb": percentile(pooled.before + forked.before, 50),
        "after_mb": percentile(pooled.after + forked.after, 50),
    }
    limits = (POOLED_MS, FORKED_MS, BEFORE_MB, AFTER_MB)
    rows = [
        (
            name,
            len(way.ms),
            percentile(way.ms, 50),
            percentile(way.ms, 95),
            max(way.ms),
            percentile(way.before, 50),
            percentile(way.welcomed, 50),
            percentile(way.after, 50) if way.after else None,
        )
        for name, way in ways.items()
    ]
    return Result(
        figure=figure,
        unit="ms, ms, MB, MB",
        reach="upgrade request to first frame taken <= 30 ms pooled, <= 60 ms not; private memory <= 8 / <= 15 MB",
        holds=all(value <= limit for value, limit in zip(figure.values(), limits, strict=True)),
        n=len(pooled.ms) + len(forked.ms),
        columns=("start", "n", "p50 ms", "p95 ms", "max ms", "MB ready", "MB welcomed", "MB after a turn"),
        rows=rows,
        notes=(
            f"The spoken turn: {SAID!r}, recognised and answered through the shared inference service.",
            "Medians count; authentication and the gateway's own hop are not in the figures.",
            *(f"{name}: no template: {way.reason}" for name, way in ways.items() if way.reason),
        ),
        packages=("uvloop", "onnxruntime"),
        details={
            name: {"ms": way.ms, "before_mb": way.before, "welcomed_mb": way.welcomed, "after_mb": way.after}
            for name, way in ways.items()
        },
    )


def measure(options: Options) -> Result:
    """See the module."""
    return asyncio.run(_measure(options))


if __name__ == "__main__":
    main("cold_start", __doc__, measure)
