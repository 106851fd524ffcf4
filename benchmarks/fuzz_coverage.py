"""Coverage of a share of the fuzzing: `python -m benchmarks.fuzz_coverage SEEDS SEED PLAYINGS REPORT` (a seed's playings)."""

from __future__ import annotations

import sys

import coverage


def main(seeds: str, seed: int, playings: int, report: str) -> None:
    """Play the seeds under coverage.py from before the codecs are imported, and write its JSON report."""
    measured = coverage.Coverage(branch=True, data_file=None, source=["duologue.wire"], config_file="pyproject.toml")
    measured.start()
    from pathlib import Path

    from benchmarks.fuzz import Found, load, run
    from benchmarks.fuzz_seeds import play

    traces = load(Path(seeds))
    for trace in traces:
        for _ in play(trace.calls):
            pass
    run(traces, 1 << 40, seed, Found(), playings=playings * len(traces))
    measured.stop()
    measured.json_report(outfile=report, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
