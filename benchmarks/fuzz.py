"""Damaged traffic through every codec: a million inputs and more, no crash, no hang, a typed error each.

Seeds are what the tests of `tests/wire` put through the codecs: each object of a codec is watched while they run, and every
call that is made on it is written down (recorded messages of independent clients among them). A seed is played again on new
objects, with its messages damaged: fields changed, removed, renamed or taken from elsewhere, messages cut, doubled, swapped or
dropped, bytes scrambled; frames of event streams are mostly closed again with the right checksums, so that what lies behind the
framing is reached. What a test finds later becomes a seed by being written.

The host's parsers (`fuzz_host`) are fuzzed in the same run from seeds of their own: requests that botocore signed, tokens of a
local issuer, two ends of a link. There, what is taken is looked at too: a signature that is good for an altered request is a
find, as is a head that another reader of HTTP reads otherwise.

An input is one message or piece of a stream that came from the other side. It has passed the framing if it is JSON, or, of an
event stream or of binary frames, if the codec took it, or, for the host, if it is a whole head, a token of
three parts with JSON in them, or a frame of the link. A find is an error that is not of the codec's own kinds, or an input that
takes longer than a second.

The inputs are spread by how many seeds a codec has; the host's parsers have an average share each. Inputs a second are those of
one core, damage and second readers included.

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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fuzz_damage import Damage, framed
from benchmarks.fuzz_host import HOST_CODECS, Parser, Tried, parsers
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
#: playings whose coverage is measured, a seed; and rounds, a parser of the host
_COVERED, _ROUNDS = 12, 4000
#: least playings of a codec there
_LEAST = 400
#: where each codec is
_FILES = {**{codec: (part,) for codec, part in CODECS.items()}, **HOST_CODECS}


@dataclass
class Found:
    """What a run came to. `finds`: by description, how often, and how to see it again."""

    inputs: Counter[str] = field(default_factory=Counter)
    framed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    spent_s: Counter[str] = field(default_factory=Counter)
    finds: dict[str, tuple[int, str]] = field(default_factory=dict)
    slowest_s: float = 0.0

    def note(self, tried: Tried, name: str) -> None:
        """One input. `name` says where it came from."""
        codec = tried.codec
        if tried.data:
            self.inputs[codec] += 1
            self.framed[codec] += tried.framed
            self.refused[codec] += tried.refused
            self.slowest_s = max(self.slowest_s, tried.took_s)
        what = tried.find or (f"{tried.took_s:.0f} s" if tried.took_s > _HANG_S else "")
        if what:
            what = f"{codec}: {what}"
            count, example = self.finds.get(what, (0, f"{name}: {tried.data[:900]!r}"))
            self.finds[what] = (count + 1, example)


class Played:
    """The seeds of one codec, damaged and played again."""

    def __init__(self, codec: str, seeds: list[Trace], damage: Damage, chance: random.Random) -> None:
        self.codec = codec
        self.weight = len(seeds) ** 0.5  # codecs with more states have more seeds, and are given more of the inputs
        self._seeds, self._damage, self._chance = seeds, damage, chance
        self._pool: list[Trace] = []

    def round(self) -> Iterator[Tried]:
        """One seed."""
        if not self._pool:
            self._pool = list(self._seeds)
            self._chance.shuffle(self._pool)
        trace = self._pool.pop()
        for step in play(self._damage.sequence(trace.calls, self._chance.choice(_RATES))):
            if step.data is None:
                continue
            find = ""
            if step.error is not None and not step.typed:
                find = f"{step.method}: {type(step.error).__name__}: {str(step.error)[:120]} ({trace.name})"
            # an empty message is an input of a codec too
            data = step.data or " "
            yield Tried(step.codec, data, framed(step), step.error is not None, step.took_s, find)


def run(traces: list[Trace], host: list[Parser], goal: int, seed: int, found: Found, *, rounds: bool = False) -> None:
    """Make `goal` damaged inputs; or, with `rounds`, a fixed number of rounds of each codec."""
    chance = random.Random(seed)
    damage = Damage(chance, [call for trace in traces for call in trace.calls])
    of: dict[str, list[Trace]] = {}
    for trace in traces:
        if trace.codec and len(trace.calls) <= _LONGEST:
            of.setdefault(trace.codec, []).append(trace)
    played = [Played(codec, seeds, damage, chance) for codec, seeds in of.items()]
    average = sum(each.weight for each in played) / len(played)
    shares: list[tuple[Played | Parser, float]] = [(each, each.weight) for each in played]
    shares += [(parser, average) for parser in host]
    for parser in host:
        for tried in parser.valid():
            found.note(tried, "a seed")
    if rounds:
        for source, _ in shares:
            for _ in range(max(_LEAST, _COVERED * len(of[source.codec])) if source.codec in of else _ROUNDS):
                _round(source, found)
        return
    while found.inputs.total() < goal:
        source, _ = min(shares, key=lambda share: found.inputs[share[0].codec] / share[1])
        _round(source, found)


def _round(source: Played | Parser, found: Found) -> None:
    began = time.perf_counter()
    for tried in source.round():
        found.note(tried, source.codec)
    found.spent_s[source.codec] += time.perf_counter() - began


def covered(traces: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Coverage by codec: branches, and those that were not taken."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        code = f"from benchmarks.fuzz_coverage import main; main({str(traces)!r}, {seed}, {str(report)!r})"
        command = [sys.executable, "-c", code]
        subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.DEVNULL)
        files: dict[str, Any] = json.loads(report.read_text())["files"]
    out: dict[str, dict[str, Any]] = {
        codec: {"branches": 0, "taken": 0, "statements": 0, "run": 0, "missing": []} for codec in _FILES
    }
    for name, entry in files.items():
        codec = next((codec for codec, parts in _FILES.items() if any(part in name for part in parts)), None)
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
        run(traces, parsers(options.seed), _QUICK if options.quick else _GOAL, options.seed, found)
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
        columns=["codec", "inputs", "past framing", "refused", "inputs/s", "branches", "taken", "lines run"],
        rows=[
            [
                codec,
                found.inputs[codec],
                f"{found.framed[codec] / max(1, found.inputs[codec]):.0%}",
                found.refused[codec],
                f"{found.inputs[codec] / max(1e-9, found.spent_s[codec]):,.0f}",
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
        packages=["msgspec", "coverage", "botocore", "joserfc", "h11"],
        details={
            "inputs_a_second": {codec: found.inputs[codec] / max(1e-9, found.spent_s[codec]) for codec in _FILES},
            "not_taken": {codec: mine["missing"][:60] for codec, mine in coverage.items()},
        },
    )


def load(path: Path) -> list[Trace]:
    """Seeds that were recorded."""
    with path.open("rb") as file:
        traces: list[Trace] = pickle.load(file)
    return traces


if __name__ == "__main__":
    main("fuzz", __doc__, measure)
