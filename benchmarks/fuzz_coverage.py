"""Coverage of a share of the fuzzing, in a process that has not imported the codecs yet."""

from __future__ import annotations

import coverage

_SOURCE = ["duologue.wire", "duologue.host.auth", "duologue.host.gateway"]


def main(seeds: str, seed: int, report: str) -> None:
    """Play the seeds under coverage.py from before the codecs are imported, and write its JSON report."""
    measured = coverage.Coverage(branch=True, data_file=None, source=_SOURCE, config_file="pyproject.toml")
    measured.start()
    from pathlib import Path

    from benchmarks.fuzz import Found, load, run
    from benchmarks.fuzz_host import parsers
    from benchmarks.fuzz_seeds import play

    traces = load(Path(seeds))
    for trace in traces:
        for _ in play(trace.calls):
            pass
    run(traces, parsers(seed), 0, seed, Found(), rounds=True)
    measured.stop()
    measured.json_report(outfile=report, ignore_errors=True)
