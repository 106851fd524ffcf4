from __future__ import annotations

import datetime

import pytest

from duologue.errors import ToolError
from duologue.tools import ToolArgumentsError, calculator, clock, end_call
from duologue.tools.ready import find_zone, spoken_time


def test_calculator() -> None:
    assert calculator.prepare({"expression": "15% of 80"})() == "12"
    assert not calculator.side_effects
    with pytest.raises(ToolArgumentsError, match="expression"):
        calculator.prepare({"expression": "my next stop"})


@pytest.mark.parametrize(
    ("hour", "minute", "city", "said"),
    [
        (0, 5, "", "It's 12:05 AM, on Saturday, November 21."),
        (12, 0, "Oslo", "It's 12:00 PM in Oslo, on Saturday, November 21."),
        (15, 30, "New York", "It's 3:30 PM in New York, on Saturday, November 21."),
    ],
)
def test_time_is_said_as_people_say_it(hour: int, minute: int, city: str, said: str) -> None:
    assert spoken_time(datetime.datetime(2026, 11, 21, hour, minute), city) == said


def test_clock() -> None:
    assert " in Oslo, on " in clock.prepare({"place": "oslo"})()
    assert clock.prepare({})().startswith("It's ")
    assert find_zone("new york").key == "America/New_York"
    assert find_zone("europe/oslo").key == "Europe/Oslo"
    with pytest.raises(ToolError, match="no time zone is known for 'Atlantis'"):
        clock.prepare({"place": "Atlantis"})()


def test_end_call() -> None:
    assert end_call.spec.ends_call
    assert "goodbye" in end_call.prepare({})()
