"""What all benchmarks share: options, statistics, the table for people and the JSON line for programs.

A benchmark is a module with a function `main`::

    def measure(options: Options) -> Result: ...

    if __name__ == "__main__":
        main("name", __doc__, measure)

It prints a table with everything it measured and, as its last line, one JSON object: `name`; `figure` (the number or
numbers that the reach is about), `unit`, `reach` (what was promised), `holds` (true, false, or null where a quick run
is too small to tell), `n` (how many samples the figure rests on), `quick`, `machine`, `versions`, and whatever more the
benchmark reports under `details`. The exit code is 0 whether or not the reach holds: a benchmark reports.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import NormalDist

from rich.console import Console
from rich.table import Table

type Number = float | int
type Figure = Number | Mapping[str, Number | None] | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run: `quick` shrinks the work to under 50 s; `seed` makes a run repeatable; `peers` is the Python interpreter
    of an environment with the peer that a benchmark compares with.
    """

    quick: bool = False
    seed: int = 1
    peers: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a benchmark found.

    Attributes:
        figure: what the reach speaks of: a number, or several by name; None where nothing could be measured.
        unit: of the figure; with several units, by name, as "ms, dB".
        reach: the promise, in words a reader can check the figure against.
        holds: whether it is kept; None where a quick run cannot tell.
        n: how many samples the figure rests on.
        columns, rows: the table for people; cells are shown by `str`, floats with three significant digits.
        notes: lines under the table: how it was measured, what the figure leaves out.
        packages: distributions whose versions belong to the result.
        details: more figures for programs, JSON values only.
    """

    figure: Figure
    unit: str
    reach: str
    holds: bool | None
    n: int
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    notes: Sequence[str] = ()
    packages: Sequence[str] = ()
    details: Mapping[str, object] = field(default_factory=dict)


def main(name: str, about: str | None, measure: Callable[[Options], Result], argv: Sequence[str] | None = None) -> None:
    """Run one benchmark from the command line: parse options, measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under 50 s, with a smaller n")
    parser.add_argument("--seed", type=int, default=Options.seed, help="of everything drawn by chance")
    parser.add_argument(
        "--peers", default="", metavar="PYTHON", help="compare with the peer installed there, where there is one"
    )
    given = parser.parse_args(argv)
    options = Options(quick=given.quick, seed=given.seed, peers=given.peers)
    report(name, measure(options), options)


def report(name: str, result: Result, options: Options) -> None:
    """Print the table for people, then the JSON line."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    verdict = {True: "holds", False: "falls short", None: "a quick run cannot tell"}[result.holds]
    console.print(f"{name}: {verdict} (reach: {result.reach})")
    table = Table()
    for index, column in enumerate(result.columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in result.rows:
        table.add_row(*(show(cell) for cell in row))
    console.print(table)
    for note in result.notes:
        console.print(note)
    line = {
        "name": name,
        "figure": result.figure,
        "unit": result.unit,
        "reach": result.reach,
        "holds": result.holds,
        "n": result.n,
        "quick": options.quick,
        "machine": machine(),
        "versions": versions(*result.packages),
        "details": result.details,
    }
    print(json.dumps(_finite(line), allow_nan=False), flush=True)


def show(cell: object) -> str:
    """A table cell: floats with three significant digits, None as a dash."""
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return str(cell)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of `values` lie, interpolated between neighbours; NaN for no values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    if ordered[low] == ordered[high]:
        return ordered[low]  # both may be infinite
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def percentile_interval(
    values: Sequence[float], percent: float, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """A percentile with a confidence interval: (low, value, high).

    Distribution-free: the bounds are order statistics whose ranks come from the binomial distribution of how many
    samples lie below the true percentile (in its normal approximation). They are minus or plus infinity where the
    sample is too small to bound that side.
    """
    ordered, share = sorted(values), percent / 100
    count = len(ordered)
    z = _normal_quantile(0.5 + confidence / 2)
    spread = z * math.sqrt(count * share * (1 - share))
    low, high = math.floor(count * share - spread) - 1, math.ceil(count * share + spread)
    return (
        ordered[low] if low >= 0 else -math.inf,
        percentile(ordered, percent),
        ordered[high] if high < count else math.inf,
    )


def proportion_interval(hits: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """A share with its Wilson score interval: (low, share, high); (0, NaN, 1) for no trials."""
    if not trials:
        return 0.0, math.nan, 1.0
    z = _normal_quantile(0.5 + confidence / 2)
    share = hits / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    spread = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - spread), share, min(1.0, centre + spread)


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[[Sequence[float]], float],
    *,
    confidence: float = 0.95,
    rounds: int = 1000,
    seed: int = 1,
) -> tuple[float, float, float]:
    """Any statistic with its bootstrap percentile interval: (low, value, high)."""
    chance = random.Random(seed)
    found = [statistic(chance.choices(values, k=len(values))) for _ in range(rounds)]
    tail = 50 * (1 - confidence)
    return percentile(found, tail), statistic(values), percentile(found, 100 - tail)


def cores() -> list[int]:
    """The cores that this process may run on, in order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def split_cores() -> tuple[list[int], list[int]]:
    """(cores for what is measured, cores for the load generator): apart where there is more than one."""
    usable = cores()
    return (usable[:1], usable[1:]) if len(usable) > 1 else (usable, usable)


def pin(to: Sequence[int], pid: int = 0) -> bool:
    """Keep a process (default: this one) on the given cores; return whether this system can do so.

    A child that this process starts later inherits the setting: pin the load generator by its pid, or in its own main.
    """
    if not hasattr(os, "sched_setaffinity"):
        return False
    os.sched_setaffinity(pid, to)
    return True


def keep(to: Sequence[int], pid: int) -> int:
    """Put every thread of a process on the given cores; how many were elsewhere.

    Libraries for inference choose cores for their threads by themselves, whatever the process was given: call it again.
    """
    moved = 0
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(ProcessLookupError):
            if os.sched_getaffinity(int(thread.name)) != set(to):
                os.sched_setaffinity(int(thread.name), to)
                moved += 1
    return moved


@contextmanager
def pinned(to: Sequence[int]) -> Iterator[bool]:
    """Keep this process on the given cores within the block, then where it was."""
    before = cores()
    done = pin(to)
    try:
        yield done
    finally:
        if done:
            pin(before)


def machine() -> dict[str, str | float]:
    """What this runs on, as far as it bears on speed."""
    memory = 0
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(cores()),
        "memory_gb": round(memory / 2**30),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0,
    }


def versions(*packages: str) -> dict[str, str | None]:
    """Versions of Python, Duologue and the named distributions; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("duologue", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _normal_quantile(share: float) -> float:
    return NormalDist().inv_cdf(share)


def _finite(value: object) -> object:
    """JSON has no infinities: they become null; floats are cut to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
