"""Coverage of a share of the fuzzing, in a process that has not imported the codecs yet."""

from __future__ import annotations

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
