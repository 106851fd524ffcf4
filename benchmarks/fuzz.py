"""Damaged traffic through every codec: a million inputs and more, no crash, no hang, a typed error each.

Seeds are what the tests of `tests/wire` put through the codecs: each object of a codec is watched while they run, and every
call that is made on it is written down (recorded messages of independent clients among them). A seed is played again on new
objects, with its messages damaged: fields changed, removed, renamed or taken from elsewhere, messages cut, doubled, swapped or
dropped, bytes scrambled; frames of event streams are mostly closed again with the right checksums, so that what lies behind the
framing is reached. What a test finds later becomes a seed by being written.

An input is one message or piece of a stream that came from the other side. It has passed the framing if it is JSON, or, of an
event stream or of binary frames, if the codec took it. A find is an error that is not of the codec's own kinds, or an input that
takes longer than a second.

Coverage is that of a share of the run, with the seeds as they are among it, measured by coverage.py in a process of its own.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fuzz_damage import Damage, framed
from benchmarks.fuzz_seeds import CODECS, Trace, play, record
from benchmarks.harness import Options, Result, main

_ROOT = Path(__file__).parent.parent
_GOAL, _QUICK = 1_000_000, 60_000
_REACH = 0.95
#: longest that one input may take, seconds
_HANG_S = 1.0
#: share of the calls of a seed that are damaged in one playing of it
_RATES = (0.05, 0.2, 0.5)
#: longest seed that is damaged, in calls: others are floods of the same, and are only played as they are
_LONGEST = 400
#: playings whose coverage is measured, a seed
_COVERED = 12


@dataclass
class Found:
    """What a run came to. `finds`: by description, how often, and how to see it again."""

    inputs: Counter[str] = field(default_factory=Counter)
    framed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    finds: dict[str, tuple[int, str]] = field(default_factory=dict)
    slowest_s: float = 0.0


def run(traces: list[Trace], goal: int, seed: int, found: Found, *, playings: int = 1 << 40) -> None:
    """Play damaged seeds until `goal` inputs were made, or so many playings."""
    chance = random.Random(seed)
    damage = Damage(chance, [call for trace in traces for call in trace.calls])
    of: dict[str, list[Trace]] = {}
    for trace in traces:
        if trace.codec and len(trace.calls) <= _LONGEST:
            of.setdefault(trace.codec, []).append(trace)
    # Codecs with more states have more seeds, and are given more of the inputs; but each is given some.
    weights = [len(seeds) ** 0.5 for seeds in of.values()]
    pools: dict[str, list[Trace]] = {codec: [] for codec in of}
    total = 0
    while total < goal and playings > 0:
        playings -= 1
        (codec,) = chance.choices(list(of), weights)
        pool = pools[codec]
        if not pool:
            pool += of[codec]
            chance.shuffle(pool)
        trace = pool.pop()
        calls = damage.sequence(trace.calls, chance.choice(_RATES))
        for step in play(calls):
            if step.data is None:
                continue
            total += 1
            codec = step.codec
            found.inputs[codec] += 1
            found.slowest_s = max(found.slowest_s, step.took_s)
            if framed(step):
                found.framed[codec] += 1
            if step.error is not None:
                found.refused[codec] += 1
            what = ""
            if step.error is not None and not step.typed:
                what = f"{codec}: {step.method}: {type(step.error).__name__}: {str(step.error)[:120]}"
            elif step.took_s > _HANG_S:
                what = f"{codec}: {step.method}: {step.took_s:.1f} s"
            if what:
                count, example = found.finds.get(what, (0, f"{trace.name}: {step.data[:300]!r}"))
                found.finds[what] = (count + 1, example)


def covered(traces: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Coverage by codec: branches, and those that were not taken."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        code = f"from benchmarks.fuzz_coverage import main; main({str(traces)!r}, {seed}, {_COVERED}, {str(report)!r})"
        command = [sys.executable, "-c", code]
        subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.DEVNULL)
        files: dict[str, Any] = json.loads(report.read_text())["files"]
    out: dict[str, dict[str, Any]] = {
        codec: {"branches": 0, "taken": 0, "statements": 0, "run": 0, "missing": []} for codec in CODECS
    }
    for name, entry in files.items():
        codec = next((codec for codec, part in CODECS.items() if part in name), None)
        if codec is None:
            continue
        mine, summary = out[codec], entry["summary"]
        mine["branches"] += summary["num_branches"]
        mine["taken"] += summary["covered_branches"]
        mine["statements"] += summary["num_statements"]
        mine["run"] += summary["covered_lines"]
        mine["missing"] += [f"{Path(name).name}:{start}->{end}" for start, end in entry["missing_branches"]]
    return out


def measure(options: Options) -> Result:
    os.environ["PYTHONHASHSEED"] = "0"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "seeds"
        traces = record(path)
        found = Found()
        began = time.perf_counter()
        run(traces, _QUICK if options.quick else _GOAL, options.seed, found)
        took = time.perf_counter() - began
        coverage = covered(path, options.seed)
    inputs, passed = sum(found.inputs.values()), sum(found.framed.values())
    shares = {codec: mine["taken"] / mine["branches"] for codec, mine in coverage.items() if mine["branches"]}
    clean = not found.finds and passed >= inputs / 2
    fine = clean and inputs >= _GOAL and min(shares.values()) >= _REACH
    return Result(
        figure={"inputs": inputs, "finds": len(found.finds), "branches": min(shares.values())},
        unit="inputs, kinds of finds, least share of a codec's branches",
        reach="1,000,000 inputs, half of them past the framing; no finds; 95 % of the branches of each codec",
        holds=None if options.quick and clean else fine,
        n=inputs,
        columns=["codec", "inputs", "past framing", "refused by an error", "branches", "taken", "lines run"],
        rows=[
            [
                codec,
                found.inputs[codec],
                f"{found.framed[codec] / max(1, found.inputs[codec]):.0%}",
                found.refused[codec],
                mine["branches"],
                f"{shares.get(codec, 0):.1%}",
                f"{mine['run'] / max(1, mine['statements']):.1%}",
            ]
            for codec, mine in coverage.items()
        ],
        notes=[
            f"{len(traces)} seeds; {inputs / took:,.0f} inputs a second; the slowest took {found.slowest_s * 1000:.0f} ms.",
            *(f"find ({count}): {what}: {example}" for what, (count, example) in list(found.finds.items())[:20]),
        ],
        packages=["msgspec", "coverage"],
        details={"not_taken": {codec: mine["missing"][:60] for codec, mine in coverage.items()}},
    )


def load(path: Path) -> list[Trace]:
    """Seeds that were recorded."""
    with path.open("rb") as file:
        traces: list[Trace] = pickle.load(file)
    return traces


if __name__ == "__main__":
    main("fuzz", __doc__, measure)
