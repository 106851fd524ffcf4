"""A provider fails in the middle of an answer: how long until the next provider is heard, and whether it knows the call.

A call runs over `Fallback` of two of the three wires, on real sockets. After some turns, while the first provider's answer
sounds, it fails in one of three ways: its connections are reset and new ones refused; they are reset, and new ones hang; or
everything stays open and nothing comes any more. Measured is the time from then to the first sample of the second provider at
the caller's output, and from it taken what the second takes by itself: until its session is open, and until it has thought.
It must have been given what was said before.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import permutations
from typing import Literal

from benchmarks.callers import MarkedCaller
from benchmarks.harness import Options, Result, main, percentile
from benchmarks.marks import Answer
from benchmarks.providers import RATES, WIRES, Door, Stand, Wire, client, provider, use_local_credentials
from duologue.agent import Agent
from duologue.models import Fallback

type Failure = Literal["refused", "hanging", "stalled"]
FAILURES: tuple[Failure, ...] = ("refused", "hanging", "stalled")
REACH_S = 1.5
#: turns before the failure
_TURNS = 2
_PATIENCE_S = 30.0
#: calls at a time
_TOGETHER = 8


@dataclass
class Found:
    """All calls together, by failure: seconds over the second provider's own, seconds in all, and calls with context."""

    over: dict[Failure, list[float]] = field(default_factory=lambda: defaultdict(list))
    whole: dict[Failure, list[float]] = field(default_factory=lambda: defaultdict(list))
    with_context: dict[Failure, int] = field(default_factory=lambda: defaultdict(int))
    failed: list[str] = field(default_factory=list)


async def hold_call(
    name: str, pair: tuple[Wire, Wire], ports: dict[Wire, int], stand: Stand, failure: Failure, seed: int, found: Found
) -> None:
    """One call, and one failure in it."""
    loop, chance = asyncio.get_running_loop(), random.Random(seed)
    first, second = (Door(ports[wire], stand) for wire in pair)
    models = [client(wire, await door.start()) for wire, door in zip(pair, (first, second), strict=True)]
    caller = MarkedCaller(stand, RATES[pair[0]], seed, turn_s=(0.6, 1.5), barge_in=0.0)
    fallback = Fallback(models)
    await fallback.warm_up()  # as a server does before it takes calls
    agent = Agent(model=fallback, instructions=name, idle_prompt="", apology="", farewell="")

    async def until(what: str, condition: object) -> None:
        end = loop.time() + _PATIENCE_S
        while not condition():  # type: ignore[operator]
            if loop.time() > end:
                raise TimeoutError(f"{what}: not within {_PATIENCE_S:g} s")
            await asyncio.sleep(0.005)

    def sounding() -> bool:
        """Whether the answer to the last turn has begun to sound, and is not over."""
        turn = caller.turns[-1] if len(caller.turns) > _TURNS else None
        return turn is not None and turn.answered is not None and loop.time() - turn.answered < 0.3

    def mine() -> list[Answer]:
        """The answers of this call, of all providers."""
        links = {one.link for one in stand.of(name)}
        return [answer for answer in stand.answers.values() if answer.link in links]

    async def fail() -> None:
        await until("an answer to break off", sounding)
        await asyncio.sleep(chance.uniform(0.1, 0.3))
        before, heard = len(mine()), set(caller.sounded)
        failed_at = loop.time()
        if failure == "stalled":
            first.stall()
        else:
            first.state = "down" if failure == "refused" else "dead"
            first.reset()
        caller.mute = True  # what sounds from now on goes on with the answer
        await until("the next provider's answer", lambda: len(mine()) > before)
        await until("its sound", lambda: set(caller.sounded) - heard)
        at = min(caller.sounded[response][0][0] for response in set(caller.sounded) - heard)
        answer = mine()[-1]
        whole = at - failed_at
        found.whole[failure].append(whole)
        link = next(one for one in stand.of(name) if one.link == answer.link)
        found.over[failure].append(whole - answer.think_s - (link.opened - second.came[-1]))
        context = " ".join(answer.history)
        asked = [turn for turn in caller.turns if turn.ended is not None]
        known = [f"samples {turn.start} to {turn.end}" in context for turn in asked]
        found.with_context[failure] += all(known) and len(known) > _TURNS

    try:
        async with agent.session(caller, tool_runner="inline", id=name.replace(" ", "-").replace(">", "-")):
            await fail()
    except Exception as error:  # one call that fails must not hide what the others found
        found.failed.append(f"{name}: {error!r}")
    finally:
        await first.close()
        await second.close()


async def run(options: Options) -> Found:
    rounds = 1 if options.quick else 8
    found, chance, stand = Found(), random.Random(options.seed), Stand(options.seed)
    stand.answer_s = (2.0, 3.0)
    with tempfile.TemporaryDirectory() as directory:
        use_local_credentials(directory)
        async with (
            provider("openai", stand, directory) as openai,
            provider("gemini", stand, directory) as gemini,
            provider("nova", stand, directory) as nova,
        ):
            ports: dict[Wire, int] = {"openai": openai, "gemini": gemini, "nova": nova}
            room = asyncio.Semaphore(_TOGETHER)

            async def one(name: str, pair: tuple[Wire, Wire], failure: Failure, seed: int) -> None:
                async with room:
                    await hold_call(name, pair, ports, stand, failure, seed, found)

            await asyncio.gather(
                *(
                    one(f"{'>'.join(pair)} {failure} {n}", pair, failure, chance.randrange(1 << 30))
                    for n in range(rounds)
                    for failure in FAILURES
                    for pair in permutations(WIRES, 2)
                )
            )
    return found


def measure(options: Options) -> Result:
    found = asyncio.run(run(options))
    figure: dict[str, float] = {failure: percentile(found.over[failure], 95) for failure in FAILURES}
    n = sum(len(values) for values in found.over.values())
    context = sum(found.with_context.values())
    fine = max(figure.values()) <= REACH_S and context == n and not found.failed
    return Result(
        figure=figure,
        unit="s",
        reach=f"at most {REACH_S:g} s over the next provider's own latency (p95), with the context",
        holds=None if options.quick and fine else fine,
        n=n,
        columns=["the provider", "calls", "over its own: median", "p95", "in all: median", "p95", "with context"],
        rows=[
            [
                {"refused": "resets, then refuses", "hanging": "resets, then hangs", "stalled": "stalls"}[failure],
                len(found.over[failure]),
                percentile(found.over[failure], 50),
                figure[failure],
                percentile(found.whole[failure], 50),
                percentile(found.whole[failure], 95),
                found.with_context[failure],
            ]
            for failure in FAILURES
        ],
        notes=found.failed[:10],
        packages=["openai", "aws-sdk-bedrock-runtime", "websockets", "uvicorn"],
        details={"calls_failed": len(found.failed)},
    )


if __name__ == "__main__":
    main("failover", __doc__, measure)
