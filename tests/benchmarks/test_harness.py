"""The statistics that figures rest on, and the line that programs read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import harness
from benchmarks.__main__ import names
from benchmarks.harness import Options, Result

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@given(numbers, st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert harness.percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)), abs=1e-6)


def test_no_values_have_no_percentile() -> None:
    assert math.isnan(harness.percentile([], 50))


@given(numbers, st.floats(1, 99))
def test_an_interval_holds_its_percentile(values: list[float], percent: float) -> None:
    low, value, high = harness.percentile_interval(values, percent)
    assert low <= value <= high


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    chance = np.random.default_rng(3)
    truth = math.log(20)  # the 95th percentile of the exponential distribution
    draws = (sorted(map(float, chance.exponential(size=400))) for _ in range(400))
    intervals = [harness.percentile_interval(values, 95) for values in draws]
    covered = sum(low <= truth <= high for low, _, high in intervals)
    assert 0.92 <= covered / 400 <= 0.99


def test_too_few_samples_do_not_bound_the_tail() -> None:
    assert harness.percentile_interval([1.0, 2.0, 3.0], 99)[2] == math.inf


def test_shares_are_wilsons() -> None:
    low, share, high = harness.proportion_interval(8, 10)
    assert (round(low, 3), share, round(high, 3)) == (0.490, 0.8, 0.943)
    assert harness.proportion_interval(0, 50)[2] == pytest.approx(0.0713, abs=1e-4)
    assert math.isnan(harness.proportion_interval(0, 0)[1])


def test_a_bootstrap_is_repeatable_and_holds_its_value() -> None:
    values = [float(value) for value in range(100)]

    def mean(sample: Sequence[float]) -> float:
        return sum(sample) / len(sample)

    low, value, high = harness.bootstrap_interval(values, mean)
    assert (low, value, high) == harness.bootstrap_interval(values, mean)
    assert low < value < high
    assert high - low == pytest.approx(4 * 28.87 / 10, rel=0.15)


def result(holds: bool | None, **more: object) -> Result:
    return Result(
        figure={"p95": 1 / 3, "p99": math.inf},
        unit="ms",
        reach="p95 <= 1 ms",
        holds=holds,
        n=3,
        columns=["what", "ms"],
        rows=[["first", 1234.5], ["second", None], ["third", 0.123456]],
        notes=["measured by hand"],
        packages=["numpy", "no-such-package"],
        details=more,
    )


@pytest.mark.parametrize(("holds", "verdict"), [(True, "holds"), (False, "falls short"), (None, "cannot tell")])
def test_the_last_line_is_json_and_the_rest_is_for_people(
    capsys: pytest.CaptureFixture[str], holds: bool | None, verdict: str
) -> None:
    seen: list[Options] = []

    def measure(options: Options) -> Result:
        seen.append(options)
        return result(holds, each=[1.23456789, {"low": -math.inf}])

    harness.main("sample", "About it.", measure, ["--quick", "--seed", "7"])
    assert seen == [Options(quick=True, seed=7)]
    text, _, last = capsys.readouterr().out.rstrip("\n").rpartition("\n")
    assert verdict in text
    for part in ("1,234", "–", "0.123", "measured by hand"):
        assert part in text
    line = json.loads(last)
    assert list(line)[:9] == ["name", "figure", "unit", "reach", "holds", "n", "quick", "machine", "versions"]
    assert line["figure"] == {"p95": 0.333333, "p99": None}
    assert (line["holds"], line["n"], line["quick"]) == (holds, 3, True)
    assert line["versions"]["numpy"] == np.__version__
    assert line["versions"]["no-such-package"] is None
    assert line["machine"]["cores"] == len(harness.cores())
    assert line["details"] == {"each": [1.23457, {"low": None}]}


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        harness.main("sample", "About it.", lambda options: result(True), ["--fast"])
    assert "--fast" in capsys.readouterr().err


def test_pinning_lasts_for_its_block() -> None:
    before = harness.cores()
    measured, load = harness.split_cores()
    assert measured
    assert set(measured) | set(load) == set(before)
    with harness.pinned(measured) as could:
        assert harness.cores() == (measured if could else before)
    assert harness.cores() == before


def test_every_benchmark_is_listed_and_the_harness_is_none() -> None:
    assert "resampling" in names()
    assert not {"harness", "__main__", "__init__"} & set(names())
