"""Tools that most agents want: a calculator without `eval`, a clock, and hanging up."""

from __future__ import annotations

import datetime
import zoneinfo
from typing import Annotated

import msgspec

from duologue.errors import ToolError
from duologue.tools.arithmetic import calculate, plain
from duologue.tools.decorator import tool
from duologue.tools.numbers import TENS, UNITS

#: an expression has a number in it, as digits or as a word; so "what is my next stop" is none
_HAS_NUMBER = rf"\d|\b(?:pi|tau|{'|'.join([*UNITS, *TENS])})\b"


@tool(
    examples=["what is {expression}", "what's {expression}", "calculate {expression}", "how much is {expression}"],
    side_effects=False,
    on_takeover="rerun",
)
def calculator(expression: Annotated[str, msgspec.Meta(pattern=_HAS_NUMBER)]) -> str:
    """Work out an arithmetic expression.

    Args:
        expression: numbers with + - * / ** % and parentheses, functions such as sqrt, or words, such as "15% of 80".
    """
    return plain(calculate(expression))


@tool(
    examples=[
        "what time is it",
        "what's the time",
        "what time is it in {place}",
        "what's the time in {place}",
        "what day is it",
        "what's the date",
        "what is the date today",
    ],
    side_effects=False,
    on_takeover="rerun",
)
def clock(place: str | None = None) -> str:
    """The current time and date.

    Args:
        place: a city ("Oslo") or time zone ("Europe/Oslo"); left out, where the agent runs.
    """
    if place is None or place.strip().lower() in ("", "here"):
        return spoken_time(datetime.datetime.now().astimezone())
    zone = find_zone(place)
    city = zone.key.rpartition("/")[2].replace("_", " ")
    return spoken_time(datetime.datetime.now(zone), city)


@tool(
    examples=["goodbye", "bye", "bye bye", "hang up", "end the call", "that's all", "that will be all", "i'm done"],
    ends_call=True,
    side_effects=False,
)
def end_call() -> str:
    """End the call when the caller says goodbye or asks to hang up. Answer with a short goodbye; the call ends after
    it.
    """
    return "Say a short goodbye now. The call ends when it has been heard."


def spoken_time(moment: datetime.datetime, city: str = "") -> str:
    """A moment as a sentence to be spoken: "It's 3:05 PM in Oslo, on Saturday, November 21." """
    hour = moment.hour % 12 or 12
    half = "AM" if moment.hour < 12 else "PM"
    where = f" in {city}" if city else ""
    return f"It's {hour}:{moment.minute:02d} {half}{where}, on {moment:%A}, {moment:%B} {moment.day}."


def find_zone(place: str) -> zoneinfo.ZoneInfo:
    """The time zone of a zone name or of a city that names one, in any case.

    Raises:
        ToolError: there is none of that name.
    """
    wanted = place.strip().casefold().replace(" ", "_")
    zones = sorted(zoneinfo.available_timezones())
    for zone in zones:
        if zone.casefold() == wanted:
            return zoneinfo.ZoneInfo(zone)
    for zone in zones:
        if "/" in zone and zone.rpartition("/")[2].casefold() == wanted and not zone.startswith("Etc/"):
            return zoneinfo.ZoneInfo(zone)
    raise ToolError("clock", f"no time zone is known for {place!r}.", hint="Name a large city nearby.")
