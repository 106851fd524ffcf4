"""What calls notice of the hostile: clients that forge, flood, drip or do not read, agents that compute, fork or eat memory.

A real host (`duologue host`: control, a gateway process a core, workers) and callers that are spoken to all the time, on the same
cores (see `density` for what a call is). One after the other they are attacked, by clients in a process of their own
(`hosted/attackers.py`) or by an app that was deployed beside them (`hosted/hostile.py`, with the host's default limits: a
core, 512 MB, 64 processes); before and after it all they are not.
Counted is how late their frames came, and what was lost.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from benchmarks.density import ASK_S, LATE_S, LONG_S, rounds
from benchmarks.harness import Options, Result, cores, main
from benchmarks.hosted.callers import Callers
from benchmarks.hosted.host import Host, hosting
from benchmarks.hosted.stalls import watching
from benchmarks.hosted.tally import Tally
from duologue.host.workers.isolation import new_loop

_HOSTILE = Path(__file__).parent / "hosted" / "hostile.py"
_CLIENTS = {
    "forged keys, 400 a second": "forged",
    "garbage, 400 a second": "garbage",
    "300 heads, a byte a second each": "slow",
    "40 callers that do not read": "deaf",
}
_AGENT = {"an agent that computes": "spin", "an agent that forks": "fork", "an agent that eats memory": "eat"}


@dataclass
class Found:
    """How calls fared under an attack, and what came of it."""

    name: str
    tally: Tally
    seen: str
    stalls: tuple[float, ...]


async def under(callers: Callers, seconds: float) -> Tally:
    """What callers count in a while."""
    callers.look()
    await asyncio.sleep(seconds)
    return callers.look()


async def by_clients(kind: str, host: Host, url: str, callers: Callers, seconds: float) -> tuple[Tally, str]:
    """Clients of that kind."""
    place = urlsplit(url)
    command = [sys.executable, "-m", "benchmarks.hosted.attackers", kind, str(place.hostname), str(place.port)]
    command += [place.path, host.key, f"{seconds + 1:g}"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        await asyncio.sleep(1.0)
        tally = await under(callers, seconds)
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    seen = json.loads(said)
    return tally, ", ".join(f"{count} x {what}" for what, count in seen.items())


async def by_agent(do: str, host: Host, url: str, callers: Callers, seconds: float) -> tuple[Tally, str]:
    """The hostile agent, in two sessions."""
    address = url.replace("ws", "http", 1).removesuffix("/ws") + "/invocations"

    async def invoke(number: int) -> str:
        headers = {
            "Authorization": f"Bearer {host.key}",
            "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": f"hostile-{do}-{number}-{'0' * 33}",
        }
        async with httpx.AsyncClient(timeout=seconds + 30) as client:
            answer = await client.post(address, headers=headers, json={"do": do, "seconds": seconds + 2})
        return str(answer.status_code)

    tasks = [asyncio.create_task(invoke(number)) for number in range(2)]
    await asyncio.sleep(1.0)
    tally = await under(callers, seconds)
    return tally, "answered " + ", ".join(await asyncio.gather(*tasks))


async def run(options: Options) -> list[Found]:
    sessions, seconds = (20, 3.0) if options.quick else (50, 15.0)
    found: list[Found] = []
    usable = cores()
    async with watching(usable) as watch, hosting(usable, tls=False, gateways=len(usable)) as host:
        url = await host.deploy("calls", tier="shared", environment={"LONG_S": f"{LONG_S:g}"})
        beside = await host.deploy("hostile", tier="process", source=_HOSTILE, kind="asgi")
        frames, first = rounds(ASK_S)
        callers = Callers(url, host.key, host.trust, frames, first=first)
        try:
            await callers.grow(sessions)
            await asyncio.sleep(6.0)

            def enter(name: str, tally: Tally, seen: str = "") -> None:
                found.append(Found(name, tally, seen, tuple(watch.stalls)))
                watch.stalls.clear()

            watch.stalls.clear()
            enter("nobody", await under(callers, seconds))
            for name, kind in _CLIENTS.items():
                enter(name, *await by_clients(kind, host, url, callers, seconds))
            for name, kind in _AGENT.items():
                enter(name, *await by_agent(kind, host, beside, callers, seconds))
            enter("nobody again", await under(callers, seconds))
        finally:
            await callers.hang_up()
    return found


def measure(options: Options) -> Result:
    """See the module."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        found = runner.run(run(options))
    worst = max(one.tally.late.percentile(99) for one in found[1:-1])
    losses = sum(one.tally.losses for one in found)
    return Result(
        figure={"late_p99": 1000 * worst, "alone_p99": found[0].tally.late.ms["p99"], "losses": losses},
        unit="ms, ms, frames and events",
        reach=f"late by at most {1000 * LATE_S:g} ms (p99) under each attack, nothing lost",
        holds=None if options.quick else worst <= LATE_S and not losses,
        n=sum(one.tally.received for one in found),
        columns=(
            "attack",
            "frames",
            "late ms p50",
            "p95",
            "p99",
            "losses",
            "dry",
            "machine stood still, ms",
            "what came of it",
        ),
        rows=[
            [
                one.name,
                one.tally.received,
                *(one.tally.late.ms[name] for name in ("p50", "p95", "p99")),
                one.tally.losses,
                one.tally.dry,
                " ".join(f"{1000 * stall:.0f}" for stall in one.stalls),
                one.seen,
            ]
            for one in found
        ],
        notes=(
            "Callers, attackers and host share the same cores. When the machine itself stood still: `hosted/stalls.py`.",
        ),
        packages=("picows", "uvloop"),
        details={
            one.name: {"late_ms": one.tally.late.ms, "losses": one.tally.losses, "dry": one.tally.dry, "seen": one.seen}
            for one in found
        },
    )


if __name__ == "__main__":
    main("neighbours", __doc__, measure)
