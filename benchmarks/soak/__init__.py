"""Calls of an hour over each vendor's transport, with connections of 30 s: `python -m benchmarks.soak --minutes 60`.

One call on each wire at the same time (the `openai` SDK, the AWS SDK over HTTP/2 and TLS, our own socket for Gemini), against our
servers of the protocols on this machine. What the providers received is held against what the callers said, sample by sample.
Not one of the benchmarks that `python -m benchmarks` runs: it takes as long as it is told to. Each minute it prints a line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.callers import MarkedCaller
from benchmarks.marks import Account, settle
from benchmarks.providers import RATES, WIRES, Stand, Wire, client, provider, use_local_credentials
from duologue.agent import Agent
from duologue.engine.limits import LimitOptions

LIMIT_S = 30.0


class Caller(MarkedCaller):
    """A caller who lets go of what nobody will ask for."""

    def thin(self) -> None:
        """Forget what was rendered, and events."""
        del self.rendered[:]
        self._seen = 0
        self.events.clear()


async def hold_call(
    wire: Wire, port: int, stand: Stand, seconds: float, calls: dict[Wire, Caller], errors: list[str]
) -> None:
    """One call, for so long."""
    model = client(wire, port, life_s=LIMIT_S)
    caller = calls[wire] = Caller(stand, RATES[wire], 1, turn_s=(0.8, 4.0), pause_s=(1.0, 12.0), frames=5)
    agent = Agent(
        model=model,
        instructions=wire,
        idle_prompt="",
        apology="",
        farewell="",
        limits=LimitOptions(max_call_s=seconds + 600),
    )
    try:
        async with agent.session(caller, tool_runner="inline", id=wire) as session:
            timer = asyncio.get_running_loop().call_later(seconds, setattr, caller, "stop", True)
            await session.wait()
            timer.cancel()
    except Exception as error:
        errors.append(f"{wire}: {error!r}")


def memory_mb() -> float:
    """What this process has resident; 0 where the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 / 1e6 if status.exists() else 0.0


async def run(minutes: float) -> bool:
    """Hold the calls; whether nothing was wrong."""
    stand = Stand(1)
    stand.keeps_history = False
    calls: dict[Wire, Caller] = {}
    errors: list[str] = []
    began, cpu = time.monotonic(), time.process_time()
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        use_local_credentials(directory)
        # Servers end connections at 30 s; models are told so, and change before.
        ports = {
            wire: await stack.enter_async_context(provider(wire, stand, directory, limit_s=LIMIT_S)) for wire in WIRES
        }
        held = [asyncio.create_task(hold_call(wire, ports[wire], stand, minutes * 60, calls, errors)) for wire in WIRES]

        def say(minute: float) -> None:
            spent = (time.process_time() - cpu) / max(1e-9, time.monotonic() - began)
            state = {wire: f"{len(one.turns)} turns, {len(one.changes)} changes" for wire, one in calls.items()}
            print(
                json.dumps({"minute": round(minute, 1), "cpu": round(spent, 3), "mb": round(memory_mb()), **state}),
                flush=True,
            )

        while (await asyncio.wait(held, timeout=60.0))[1]:
            say((time.monotonic() - began) / 60)
            for one in calls.values():
                one.thin()
        say((time.monotonic() - began) / 60)
    fine = not errors
    for wire, caller in calls.items():
        account = Account()
        turns = [(turn.start, turn.end) for turn in caller.turns if turn.ended is not None]
        wrong = settle(turns, [stand.answers[number] for number in caller.heard()], stand.of(wire), account)
        kinds = {"planned": 0, "forced": 0, "lost": 0}
        for change in caller.changes:
            kinds["forced" if change.forced else "planned" if change.planned else "lost"] += 1
        lived = caller.turns[-1].began - caller.begin if caller.turns else 0.0
        whole = lived >= minutes * 60 - 60
        fine = fine and whole and not account.lost and not account.doubled
        line = {
            "wire": wire,
            "minutes": round(lived / 60, 1),
            "turns": account.turns,
            "unanswered": account.unanswered,
            "samples": account.samples,
            "lost": account.lost,
            "doubled": account.doubled,
            "changes": kinds,
            "wrong": wrong[:10],
        }
        print(json.dumps(line), flush=True)
    print(
        json.dumps({"name": "soak", "minutes": minutes, "limit_s": LIMIT_S, "holds": fine, "errors": errors}),
        flush=True,
    )
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long")
    return 0 if asyncio.run(run(parser.parse_args().minutes)) else 1
