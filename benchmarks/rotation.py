"""Connections to providers change a thousand times, at random points of calls; how many samples of the caller are lost.

Calls run through our models over real sockets (the `openai` SDK, the AWS SDK over HTTP/2 and TLS, our own socket for Gemini) to
our servers of the three wires. A door before each takes 150-800 ms to open, and the provider behind it 300-700 ms to speak.
Connections are told to live for seconds, so that each is replaced according to plan, in a pause or, where the caller does not
pause, in the middle of a word; in half of the calls they are reset at random besides.

Every sample of a caller says where on the track it stands. What counts is what the providers really received: a sample is lost
if no connection that answers its turn (and whose answer the caller heard) received it, doubled if one connection received it
twice, or if two answered it. A turn whose words were known when its connection was lost is put to the next one by its words;
its samples count as received where those words came from. An answer whose connection is lost as it begins to sound,
before a word of it came, cannot be gone on with, and is begun again: it is counted apart, and is no second answer.

Each wire has a process of its own, with its callers, doors and provider, and two run at a time: where all shared one, turns
without a change were answered late too, by what the other wires did just then.

The silence that a planned change adds is what the caller waited longer for the answer than in turns without a change (beside the
provider's own thinking), or the hole in an answer that sounded meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from statistics import median

from benchmarks.callers import Change, MarkedCaller, Turn
from benchmarks.harness import Options, Result, main, percentile
from benchmarks.marks import Account, Received, length, settle, within
from benchmarks.providers import RATES, WIRES, Door, Stand, Wire, client, provider, use_local_credentials
from duologue.agent import Agent

REACH_S = 0.05
#: lives of connections, as their models are told them
_LIFE_S = (12.0, 20.0)
#: from one reset to the next, in the calls that have them
_RESET_S = (8.0, 16.0)
#: how long after a turn a change of connection can still have to do with its not being answered
_AFTER_S = 2.0
#: calls of a wire at a time, and its share of the changes. The AWS SDK signs each frame in Python, which costs a lot
_CALLS: dict[Wire, int] = {"nova": 8, "openai": 12, "gemini": 12}
_SHARE: dict[Wire, float] = {"nova": 0.24, "openai": 0.38, "gemini": 0.38}
#: turns of most callers, and of every fourth, who does not pause before a connection must be changed
_SHORT, _LONG = (0.6, 4.0), (8.0, 14.0)


@dataclass
class Found:
    """All calls of a wire together."""

    goal: int
    changes: list[Change] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    waits: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    counted: int = 0
    ignored: int = 0
    wordless: int = 0

    @property
    def enough(self) -> bool:
        return self.counted >= self.goal


async def hold_call(name: str, wire: Wire, port: int, stand: Stand, number: int, seed: int, found: Found) -> None:
    """One call, until there were enough changes in all calls."""
    chance = random.Random(seed)
    door = Door(port, stand)
    model = client(wire, await door.start(), life_s=chance.uniform(*_LIFE_S))
    caller = MarkedCaller(stand, RATES[wire], seed, turn_s=_LONG if number % 4 == 3 else _SHORT)
    agent = Agent(model=model, instructions=name, idle_prompt="", apology="", farewell="")

    async def disturb() -> None:
        counted = 0
        reset_at = asyncio.get_running_loop().time() + chance.uniform(*_RESET_S)
        while not found.enough:
            await asyncio.sleep(0.02)
            found.counted += len(caller.changes) - counted
            counted = len(caller.changes)
            if number % 2 == 0 and asyncio.get_running_loop().time() >= reset_at:
                door.reset()
                reset_at += chance.uniform(*_RESET_S)
        caller.stop = True

    try:
        async with agent.session(caller, tool_runner="inline", id=name.replace(" ", "-")) as session:
            task = asyncio.create_task(disturb())
            try:
                await session.wait()
            finally:
                task.cancel()
    except Exception as error:  # one call that fails must not hide what the others found
        found.failed.append(f"{name}: {error!r}")
    finally:
        await door.close()
    await asyncio.sleep(0.2)
    turns = [turn for turn in caller.turns if turn.ended is not None and not _ignored(turn, caller, stand.of(name))]
    found.wordless += caller.wordless
    found.ignored += sum(turn.ended is not None for turn in caller.turns) - len(turns)
    heard = [stand.answers[number] for number in caller.heard()]
    wrong = settle([(turn.start, turn.end) for turn in turns], heard, stand.of(name), found.account)
    found.wrong += [f"{name}: {what}" for what in wrong]
    found.changes += caller.changes
    _silences(caller, stand, found.waits)


def _ignored(turn: Turn, caller: MarkedCaller, received: list[Received]) -> bool:
    """Whether the provider took it for no turn, and no change of connection had a part in that."""
    if turn.answered is not None or turn.ended is None:
        return False
    whole = any(length(within(one.runs, turn.start, turn.end)) == turn.end - turn.start for one in received)
    return whole and not any(turn.began <= change.at <= turn.ended + _AFTER_S for change in caller.changes)


def _silences(caller: MarkedCaller, stand: Stand, waits: list[float]) -> None:
    """Enter the waits for answers without a change, and for each planned change the silence that it added."""
    changed: list[tuple[list[Change], float]] = []
    for turn in caller.turns:
        if turn.ended is None or turn.answered is None:
            continue
        numbers = [number for number in caller.numbers[turn.response] if number in stand.answers]
        wait = turn.answered - turn.ended - sum(stand.answers[number].think_s for number in numbers[:1])
        during = [change for change in caller.changes if turn.began <= change.at <= turn.answered]
        if not during:
            waits.append(wait)
        elif all(change.planned for change in during):
            changed.append((during, wait))
    usual = median(waits) if waits else 0.0
    for during, wait in changed:
        for change in during:
            change.added_s = max(change.added_s, wait - usual)
    for seams in caller.sounded.values():
        for (_, end), (start, _) in pairwise(seams):
            for change in caller.changes:
                if end - 0.1 <= change.at <= start:
                    change.added_s = max(change.added_s, start - end - 0.02)


async def hold_calls(wire: Wire, goal: int, seed: int) -> Found:
    """The calls of one wire, until there were so many changes in them."""
    found, chance, stand = Found(goal), random.Random(f"{wire} {seed}"), Stand(seed)
    with tempfile.TemporaryDirectory() as directory:
        use_local_credentials(directory)
        async with provider(wire, stand, directory) as port:
            await asyncio.gather(
                *(
                    hold_call(f"{wire} {n}", wire, port, stand, n, chance.randrange(1 << 30), found)
                    for n in range(_CALLS[wire])
                )
            )
    return found


def run_wire(wire: Wire, goal: int, seed: int) -> Found:
    """In a process of its own. See the module."""
    return asyncio.run(hold_calls(wire, goal, seed))


def run(options: Options) -> dict[Wire, Found]:
    """All wires."""
    goal = 50 if options.quick else 1000
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        futures = {
            wire: processes.submit(run_wire, wire, round(goal * share), options.seed) for wire, share in _SHARE.items()
        }
        return {wire: future.result() for wire, future in futures.items()}


def measure(options: Options) -> Result:
    found = run(options)
    changes = [change for one in found.values() for change in one.changes]
    lost = sum(one.account.lost for one in found.values())
    doubled = sum(one.account.doubled for one in found.values())
    failed = [what for one in found.values() for what in one.failed]
    added = [change.added_s for change in changes if change.planned]
    in_speech = sum(change.in_speech for change in changes)
    silence = percentile(added, 99) * 1000
    clean = not lost and not doubled and not failed
    rows: list[list[object]] = []
    for wire in WIRES:
        account, mine = found[wire].account, found[wire].changes
        usual = percentile(found[wire].waits, 50)
        kinds = Counter("forced" if change.forced else "planned" if change.planned else "reset" for change in mine)
        planned = [change.added_s * 1000 for change in mine if change.planned]
        rows.append(
            [
                wire,
                f"{kinds['planned']} + {kinds['forced']} + {kinds['reset']}",
                sum(change.in_speech for change in mine),
                account.turns,
                account.samples,
                account.lost,
                account.doubled,
                percentile(planned, 50),
                percentile(planned, 99),
                percentile([(wait - usual) * 1000 for wait in found[wire].waits], 99),
            ]
        )
    n = len(changes)
    return Result(
        figure={"lost": lost, "doubled": doubled, "silence_p99": silence},
        unit="samples, samples, ms",
        reach="1,000 changes, 200 of them in speech: lost 0, doubled 0; a planned one adds at most 50 ms (p99)",
        holds=None
        if options.quick and clean
        else clean and silence <= REACH_S * 1000 and n >= 1000 and in_speech >= 200,
        n=n,
        columns=[
            "",
            "planned + forced + reset",
            "in speech",
            "turns",
            "samples",
            "lost",
            "doubled",
            "added ms, median",
            "p99",
            "without a change, p99",
        ],
        rows=rows,
        notes=[
            "Turns without a change are late, against their median, by what the last column says (ms, p99).",
            f"{sum(one.account.by_words for one in found.values())} turns were put to a next connection in words.",
            f"{sum(one.wordless for one in found.values())} answers broke off before a word had come, and were begun again.",
            f"{sum(one.ignored for one in found.values())} turns that a connection received whole were taken for none by the "
            "provider behind it.",
            *failed[:10],
            *[what for one in found.values() for what in one.wrong][:10],
        ],
        packages=["openai", "aws-sdk-bedrock-runtime", "websockets", "uvicorn"],
        details={
            "in_speech": in_speech,
            "unanswered": sum(one.account.unanswered for one in found.values()),
            "replayed_ms_p95": percentile([change.replayed_ms for change in changes], 95),
            "calls_failed": len(failed),
            "begun_again": sum(one.wordless for one in found.values()),
        },
    )


if __name__ == "__main__":
    main("rotation", __doc__, measure)
