"""How long calls are gone when their worker is killed, and whether they know afterwards what they knew before.

A real host (`duologue host`: control, a gateway process a core, workers; SQLite journal) serves calls that share one worker
(tier ``shared``), and then calls with a worker each (``process``). Each caller is the Python client, in a process beside the
host, and sends a frame of 20 ms each 20 ms. Each has told the agent its number; the agent is speaking to it; in each tenth a
tool runs, which has begun and not answered. Then all workers get SIGKILL at the same moment.

A call counts as back when its client has been told that another owner has the session (``session.taken_over``): from then on it
is listened to. Afterwards each is asked: the agent must know the number, and in each tenth that nobody knows how the tool
ended. The events that each client was told are compared with the journal: none may be missing, doubled or out of order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import Options, Result, cores, main, percentile
from benchmarks.hosted.host import Host, hosting
from duologue.client import Call, connect
from duologue.events import (
    AnyEvent,
    ErrorEvent,
    ResponseFinished,
    ResponseStarted,
    SessionTakenOver,
    ToolStarted,
    encode,
)
from duologue.session.journal import Emitted, decode_record
from duologue.store import SQLiteStore

_AGENT = Path(__file__).parent / "hosted" / "tough.py"
LATEST_S = 1.0
_FRAME = bytes(640)
_TENANT = "000000000000"
_PATIENCE_S = 30.0
_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"


@dataclass
class Caller:
    """One call, and what it was told."""

    number: int
    session: str
    call: Call
    events: list[AnyEvent] = field(default_factory=list)
    back_at: float | None = None
    more: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self) -> None:
        """Listen, and open the microphone."""
        self.tasks = [asyncio.ensure_future(self._listen()), asyncio.ensure_future(self._speak())]

    async def _listen(self) -> None:
        async for event in self.call:
            if isinstance(event, SessionTakenOver) and self.back_at is None:
                self.back_at = time.monotonic()
            self.events.append(event)
            self.more.set()

    async def _speak(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self.number % 20 / 1000
        while True:
            await self.call.send_audio(_FRAME)
            due += 0.02
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def until(self, kind: type[AnyEvent], text: str = "") -> AnyEvent | None:
        """The first event of a kind (with a text); None if it does not come."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while True:
                    for event in self.events:
                        if isinstance(event, kind) and text in getattr(event, "text", ""):
                            return event
                    self.more.clear()
                    await self.more.wait()
        except TimeoutError:
            return None

    async def end(self) -> None:
        """Hang up."""
        await self.call.hang_up()
        for task in self.tasks:
            task.cancel()


@dataclass
class Found:
    """What became of the calls of a tier."""

    tier: str
    calls: int
    tools: int
    back_s: list[float]
    knew: int
    told_of_tools: int
    wrong_events: int

    @property
    def holds(self) -> bool:
        """Whether all came back in time, with what they knew."""
        whole = len(self.back_s) == self.calls == self.knew and self.tools == self.told_of_tools
        return whole and not self.wrong_events and max(self.back_s) <= LATEST_S


async def take_over(host: Host, tier: str, calls: int) -> Found:
    """Kill all workers of so many calls."""
    name = f"tough_{tier}"
    url = await host.deploy(name, tier=tier, source=_AGENT)
    callers: list[Caller] = []
    try:
        for number in range(calls):
            session = f"takeover-{tier}-{number:03d}-{'0' * 20}"
            call = connect(
                url,
                token=host.key,
                headers={_HEADER: session},
                input_rate=16_000,
                output_rate=24_000,
                event_buffer=10_000,
            )
            await call.__aenter__()
            callers.append(Caller(number, session, call))
            callers[-1].begin()
        await asyncio.gather(*(_prepare(caller) for caller in callers))
        await asyncio.sleep(1.0)
        workers = [pid for pid, role in host.processes().items() if role == "worker"]
        killed_at = time.monotonic()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*(caller.until(SessionTakenOver) for caller in callers))
        knew = await asyncio.gather(*(_asked(caller) for caller in callers))
    finally:
        await asyncio.gather(*(caller.end() for caller in callers))
    return Found(
        tier=tier,
        calls=calls,
        tools=sum(caller.number % 10 == 0 for caller in callers),
        back_s=sorted(caller.back_at - killed_at for caller in callers if caller.back_at is not None),
        knew=sum(f"number {caller.number}," in said for caller, said in zip(callers, knew, strict=True)),
        told_of_tools=sum("1 unknown" in said for said in knew),
        wrong_events=sum(_wrong(host.data, caller) for caller in callers),
    )


async def _prepare(caller: Caller) -> None:
    await caller.call.send_text(f"number {caller.number}")
    await caller.until(ResponseStarted)
    if caller.number % 10 == 0:
        await caller.call.interrupt()
        await caller.call.send_text("run")
        await caller.until(ToolStarted)


async def _asked(caller: Caller) -> str:
    """What the agent says that it knows."""
    await caller.call.interrupt()
    await caller.call.send_text("recall")
    event = await caller.until(ResponseFinished, "Known:")
    return event.text if isinstance(event, ResponseFinished) else ""


def _wrong(data: Path, caller: Caller) -> int:
    """How many of a caller's events are not those of the journal, in its order."""
    store = SQLiteStore(data / "journals" / _TENANT / "journal.db")
    try:
        records = [decode_record(record.data) for record in store.read(_TENANT, caller.session)]
    finally:
        store.close()
    journaled = [encode(record.event) for record in records if isinstance(record, Emitted)]
    told = [encode(event) for event in caller.events if not (isinstance(event, ErrorEvent) and event.code == "gap")]
    return sum(one != other for one, other in zip(told, journaled, strict=False)) + max(0, len(told) - len(journaled))


async def run(options: Options) -> list[Found]:
    many, few = (20, 5) if options.quick else (100, 30)
    usable = cores()
    found: list[Found] = []
    for tier, calls in (("shared", many), ("process", few)):
        async with hosting(usable, tls=False, gateways=len(usable)) as host:
            found.append(await take_over(host, tier, calls))
    return found


def measure(options: Options) -> Result:
    """See the module."""
    found = asyncio.run(run(options))
    shared = found[0]
    return Result(
        figure={
            "calls": shared.calls,
            "back": len(shared.back_s),
            "knew": shared.knew,
            "max_s": max(shared.back_s, default=0.0),
        },
        unit="calls, calls, calls, s",
        reach=f"SIGKILL of a worker with >= 100 calls, a tool in each tenth: all listen again, with context, <= {LATEST_S:g} s",
        holds=None if options.quick else all(one.holds for one in found),
        n=sum(one.calls for one in found),
        columns=("tier", "calls", "back", "p50 s", "p95 s", "max s", "knew", "tools", "known lost", "wrong events"),
        rows=[
            [
                one.tier,
                one.calls,
                len(one.back_s),
                *(round(percentile(one.back_s, share), 3) if one.back_s else None for share in (50, 95, 100)),
                one.knew,
                one.tools,
                one.told_of_tools,
                one.wrong_events,
            ]
            for one in found
        ],
        notes=("Callers and host share the same cores.",),
        packages=("picows", "uvloop"),
        details={one.tier: {"back_s": one.back_s} for one in found},
    )


if __name__ == "__main__":
    main("takeover", __doc__, measure)
