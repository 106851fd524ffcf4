"""Medians and 95th percentiles over the turns of a call, or of many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from duologue.telemetry.record import TurnRecord
from duologue.telemetry.render import stages


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How a measure is spread over `n` turns, milliseconds."""

    n: int
    median: float
    p95: float
    worst: float

    def __str__(self) -> str:
        return f"{self.median:.0f} ms (p95 {self.p95:.0f}, n {self.n})"


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What turn records amount to. A measure that no turn has is None; `stages` is by stage, see `render.stages`."""

    turns: int
    voice_to_voice: Spread | None
    onset_to_silence: Spread | None
    decision_to_cleared: Spread | None
    stages: dict[str, Spread]
    barge_ins: int
    false_barge_ins: int
    interruptions: int
    underruns: int
    tools: int
    failed_tools: int
    drops: dict[str, int]

    def line(self) -> str:
        """The one line that ends a call: voice to voice and barge-in."""
        parts = [f"{self.turns} {'turn' if self.turns == 1 else 'turns'}"]
        if self.voice_to_voice is not None:
            parts.append(f"voice to voice median {self.voice_to_voice}")
        if self.onset_to_silence is not None:
            parts.append(f"barge-in median {self.onset_to_silence}")
        if self.drops:
            parts.append("dropped: " + ", ".join(f"{count} {kind}" for kind, count in sorted(self.drops.items())))
        return " · ".join(parts)


def percentile(values: Sequence[float], q: float) -> float:
    """The `q` quantile (0 to 1) with linear interpolation between the two nearest (type 7 of Hyndman and Fan, 1996).

    Raises:
        ValueError: no values, or `q` outside 0 to 1.
    """
    if not values or not 0 <= q <= 1:
        raise ValueError("A percentile needs values, and q between 0 and 1.")
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summary(records: Iterable[TurnRecord]) -> Summary:
    """Sum up turn records."""
    records = list(records)
    barge_ins = [barge_in for record in records for barge_in in record.barge_ins]
    tools = [tool for record in records for tool in record.tools]
    by_stage: dict[str, list[float]] = {}
    drops: dict[str, int] = {}
    for record in records:
        for name, start, end in stages(record):
            by_stage.setdefault(name, []).append((end - start) * 1e3)
        for kind, count in record.drops.items():
            drops[kind] = drops.get(kind, 0) + count
    return Summary(
        turns=len(records),
        voice_to_voice=_spread(record.voice_to_voice_ms for record in records),
        onset_to_silence=_spread(barge_in.onset_to_silence_ms for barge_in in barge_ins),
        decision_to_cleared=_spread(barge_in.decision_to_cleared_ms for barge_in in barge_ins),
        stages={name: spread for name, values in by_stage.items() if (spread := _spread(values)) is not None},
        barge_ins=sum(not barge_in.false for barge_in in barge_ins),
        false_barge_ins=sum(barge_in.false for barge_in in barge_ins),
        interruptions=sum(record.interruptions for record in records),
        underruns=sum(record.underruns for record in records),
        tools=len(tools),
        failed_tools=sum(tool.status not in ("", "ok") for tool in tools),
        drops=drops,
    )


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(n=len(known), median=percentile(known, 0.5), p95=percentile(known, 0.95), worst=max(known))
