"""Recording the facts a floor was given, and giving them to another one.

The recorder stands between the session and its floor. Every fact goes through it: voice activity windows are gathered into
one record (with probabilities as bytes, which is also how the floor sees them, so that a replay is exact), everything else
is a record of its own together with the actions that it caused. Wake-ups are facts like any other.

Tie rule: facts are recorded in the order in which the floor took them, so a fact and a deadline of the same instant replay
in that order too.

Record forms (JSON):

``{"kind":"windows","start":ms,"step":ms,"p":base64,"now":[ticks]}``
    consecutive windows; ``p`` holds one byte each (probability * 255), ``now`` the time of the first in 0.1 ms ticks and
    then differences.
``{"kind":"fact","name":...,"args":[...],"now":ticks,"do":[actions]}``
    any other fact, and any window that caused an action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from .actions import Action, AnyAction
from .floor import Floor, FloorOptions

#: recorded times are counted in ticks of this many seconds
TICK_S = 1e-4
#: recorded media times are whole multiples of 1 / this many milliseconds: a power of two, so that sums of them are exact
_PER_MS = 64
_WINDOWS_A_RECORD = 128


class Windows(msgspec.Struct, frozen=True, tag_field="kind", tag="windows"):
    """Consecutive voice activity windows that caused nothing."""

    start: float
    step: float
    p: bytes
    now: list[int]


class Fact(msgspec.Struct, frozen=True, tag_field="kind", tag="fact"):
    """One fact, and what the floor ordered because of it."""

    name: str
    args: list[Any]
    now: int
    do: list[AnyAction] = []


FloorRecord = Windows | Fact


class Recorder:
    """Feeds a floor and records what it was fed. `write` takes each record; `base` is the clock's zero."""

    __slots__ = ("_base", "_last", "_now", "_p", "_start", "_step", "_write", "floor")

    def __init__(self, floor: Floor, write: Callable[[FloorRecord], object], base: float) -> None:
        self.floor = floor
        self._write = write
        self._base = base
        self._start = 0.0
        self._step = 0.0
        self._last = 0
        self._p = bytearray()
        self._now: list[int] = []

    def ticks(self, now: float) -> int:
        """A clock time as ticks since `base`; what is recorded is what the floor sees."""
        return round((now - self._base) / TICK_S)

    def window(self, start_ms: float, end_ms: float, probability: float, now: float) -> list[Action]:
        """See :meth:`Floor.window`."""
        start_ms = round(start_ms * _PER_MS) / _PER_MS
        end_ms = round(end_ms * _PER_MS) / _PER_MS
        byte = int(probability * 255 + 0.5)
        ticks = round((now - self._base) / TICK_S)
        actions = self.floor.window(start_ms, end_ms, byte / 255, ticks * TICK_S)
        p = self._p
        if actions:
            self.flush()
            self._write(Fact("window", [start_ms, end_ms, byte], ticks, actions))  # type: ignore[arg-type]
            return actions
        step = end_ms - start_ms
        if p and (len(p) >= _WINDOWS_A_RECORD or step != self._step or start_ms != self._start + step * len(p)):
            self.flush()
            p = self._p
        if p:
            self._now.append(ticks - self._last)
        else:
            self._start = start_ms
            self._step = step
            self._now.append(ticks)
        p.append(byte)
        self._last = ticks
        return actions

    def fact(self, name: str, *args: Any, now: float) -> list[Action]:
        """Any other fact: `name` is the floor's method."""
        ticks = round((now - self._base) / TICK_S)
        actions: list[Action] = getattr(self.floor, name)(*args, ticks * TICK_S)
        self.flush()
        self._write(Fact(name, list(args), ticks, actions))  # type: ignore[arg-type]
        return actions

    def flush(self) -> None:
        """Write the windows gathered so far."""
        if self._p:
            self._write(Windows(self._start, self._step, bytes(self._p), self._now))
            self._p = bytearray()
            self._now = []


def replay(
    records: Iterable[FloorRecord], options: FloorOptions, *, turns: int = 0
) -> tuple[Floor, list[tuple[int, list[Action]]]]:
    """Give recorded facts to a new floor, of a session that had had so many `turns`.

    Returns it, and the actions with the tick at which each batch was caused.
    """
    floor = Floor(options, turns=turns)
    out: list[tuple[int, list[Action]]] = []
    for record in records:
        if isinstance(record, Windows):
            now = 0
            for index, byte in enumerate(record.p):
                now += record.now[index]
                start = record.start + index * record.step
                if actions := floor.window(start, start + record.step, byte / 255, now * TICK_S):
                    out.append((now, actions))
        else:
            args = list(record.args)
            if record.name == "window":
                args[2] = args[2] / 255
            if actions := getattr(floor, record.name)(*args, record.now * TICK_S):
                out.append((record.now, actions))
    return floor, out


def recorded(records: Iterable[FloorRecord]) -> list[tuple[int, list[Action]]]:
    """The actions that a record says were caused, in the form of :func:`replay`."""
    return [(record.now, list(record.do)) for record in records if isinstance(record, Fact) and record.do]
