"""An hour of conversation on virtual time: how fast it runs, and that it decides as it would in real time.

A scripted caller speaks on a schedule (questions, listening noises, barge-ins, sentences with a pause in the middle, orders
that need a slow tool) and plays what it is sent, frame by frame; a scripted model answers. Everything between them is the
real session: floor, ledger, pacing, tools, history, journal. Counted is the time on the wall from the first to the last
frame, journal and its replay apart.

The same beginning of the call then runs in real time on a standard event loop. Both must take the same decisions: every order
of the floor with its turn and its reason, and the same words heard.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Options, Result, main
from duologue.engine.conversation import Item
from duologue.engine.replay import recorded, replay
from duologue.events import Interruption, ResponseFinished, ToolFinished, TurnCommitted
from duologue.models.base import Context
from duologue.session.definition import Definition
from duologue.session.journal import decode_record, floor_records
from duologue.session.session import Session
from duologue.store import InlineCommitter, MemoryStore
from duologue.testing.clock import run_virtual
from duologue.testing.scripted import Line, Reply, ScriptedCaller, ScriptedModel, Utterance
from duologue.tools import tool

REACH_S = 20.0
LEAST_TURNS = 300
FRAMES = 180_000
_FRAME_S = 0.02

_UTTERANCES = (
    Utterance(text="what is my next stop"),
    Utterance(text="uh-huh"),
    Utterance(text="no stop and tell me the one after"),
    Utterance(text="mark the | last one complete"),
    Utterance(text="and what is the weather"),
)
_QUESTION, _NOISE, _BARGE_IN, _ORDER, _ASIDE = range(1, 6)
_LONG = (
    "Your next stop is twelve Harbour Street, in Oslo, and after that there are nine more, "
    "which I could list for you one by one, with their opening hours."
)


@tool
async def mark_complete() -> str:
    """Mark the last delivery complete."""
    await asyncio.sleep(3)
    return "marked"


def _answer(text: str | None, context: Context) -> Reply:
    if text is None:
        return Reply(text="The last one is marked complete.")
    if "mark" in text:
        return Reply(text="Of course. ", tools=(("mark_complete", {}),))
    return Reply(text=_LONG if "next" in text else "It is the red house on the corner.")


def script(seconds: float, seed: int) -> list[Line]:
    """What the caller says, in rounds of half a minute; when exactly is drawn by chance."""
    chance = random.Random(seed)
    lines: list[Line] = []

    def say(at: float, utterance: int, length: float) -> None:
        # on the grid of frames, so that both clocks see the same audio
        lines.append(Line(at_s=round(at / _FRAME_S) * _FRAME_S, utterance=utterance, seconds=length))

    start = 1.0
    while start + 30 < seconds:
        say(start, _QUESTION, 1.2)
        say(start + 4 + chance.random(), _NOISE, 0.36)
        say(start + 8 + chance.random(), _BARGE_IN, 1.4)
        order = start + 15 + chance.random()
        say(order, _ORDER, 0.6)
        say(order + 0.6 + 0.7 + chance.random() * 0.5, _ORDER, 0.8)
        if chance.random() < 0.5:
            say(order + 4.5, _ASIDE, 1.0)
        start += 30
    return lines


@dataclass
class Run:
    """One call, and what it took."""

    wall_s: float
    caller: ScriptedCaller
    items: tuple[Item, ...]
    records: list[Any]

    def count(self, kind: type, **wanted: object) -> int:
        events = self.caller.of(kind)
        return sum(all(getattr(event, name) == value for name, value in wanted.items()) for event in events)

    @property
    def decisions(self) -> list[tuple[str, str, str]]:
        """Every order of the floor: what, for which turn, why."""
        _, facts = floor_records(self.records)
        return [
            (type(action).__name__, getattr(action, "turn", ""), action.reason)
            for _, batch in recorded(facts)
            for action in batch
        ]


async def call(lines: list[Line], seconds: float) -> Run:
    """One call of this length on the running loop."""
    store = MemoryStore()
    async with InlineCommitter(store, latency=0.003, window=0.004) as committer:
        caller = ScriptedCaller(lines, until_s=seconds)
        model = ScriptedModel(_UTTERANCES, _answer)
        definition = Definition(name="virtual_hour", model=model, tools=(mark_complete,), greeting="Hi, I am ready.")
        session = Session(definition, [caller], committer=committer, tool_runner="inline", id="hour")
        began = time.perf_counter()
        async with session:
            await session.wait()
        wall = time.perf_counter() - began
        records = [decode_record(record.data) for record in store.read("local", "hour")]
    return Run(wall, caller, session.history, records)


def measure(options: Options) -> Result:
    """Run the hour, replay its journal, and hold its beginning against real time."""
    seconds = 600.0 if options.quick else FRAMES * _FRAME_S
    lines = script(seconds, options.seed)
    hour = run_virtual(call(lines, seconds))
    rendered = sum(samples for *_, samples in hour.caller.rendered) / 480
    floor_options, facts = floor_records(hour.records)
    began = time.perf_counter()
    _, caused = replay(facts, floor_options)
    replay_s = time.perf_counter() - began
    replayed = caused == recorded(facts)

    excerpt_s = 24.0 if options.quick else 31.0
    virtual = run_virtual(call(script(31.5, options.seed), excerpt_s))
    real = asyncio.run(call(script(31.5, options.seed), excerpt_s))
    same = (
        virtual.decisions == real.decisions
        and [event.heard for event in virtual.caller.of(ResponseFinished)][:-1]
        == [event.heard for event in real.caller.of(ResponseFinished)][:-1]
    )

    turns = hour.count(TurnCommitted)
    counts: Mapping[str, int] = {
        "user frames": int(seconds / _FRAME_S),
        "audible agent frames": round(rendered),
        "turns": turns,
        "barge-ins": hour.count(Interruption, stage="yield"),
        "false barge-ins resumed": hour.count(Interruption, stage="resume"),
        "tools": hour.count(ToolFinished, status="ok"),
        "answers heard whole": hour.count(ResponseFinished, status="completed"),
        "answers cut": hour.count(ResponseFinished, status="interrupted"),
        "entries of history": len(hour.items),
        "journal records": len(hour.records),
        "orders of the floor": len(hour.decisions),
    }
    holds = hour.wall_s <= REACH_S and turns >= LEAST_TURNS and same and replayed
    return Result(
        figure=hour.wall_s,
        unit="s",
        reach=f"<= {REACH_S:g} s for {FRAMES:,} frames each way, >= {LEAST_TURNS} turns, same decisions as in real time",
        holds=None if options.quick and same and replayed else holds,
        n=int(seconds / _FRAME_S),
        columns=("what", "value"),
        rows=[
            ("wall time, s", hour.wall_s),
            ("times faster than real time", seconds / hour.wall_s),
            *counts.items(),
            ("replay of the journal, s", replay_s),
            ("replay gives the same orders", "yes" if replayed else "NO"),
            (f"same {len(real.decisions)} orders in {excerpt_s:g} s of real time", "yes" if same else "NO"),
        ],
        notes=(
            "Scripted model and caller; no speech engine, no socket. The caller's device renders a frame each 20 ms, too.",
        ),
        details={**counts, "replay_s": replay_s, "replayed": replayed, "same_as_real_time": same},
    )


if __name__ == "__main__":
    main("virtual_hour", __doc__, measure)
