"""Measures of a session: one record a turn, gathered as it happens and told when the turn has been answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..events import Event, TurnMeasured

#: records kept open at once; older ones are told as they are
_OPEN = 8
#: steps of the floor kept in one record
_REASONS = 64


class Measures:
    """Gathers the points of each turn's waterfall. Times are monotonic seconds, `*_ms` of media time where it says so."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._turns: dict[str, dict[str, Any]] = {}
        self._drops: dict[str, int] = {}
        #: how far media time of the user's track lags behind the clock: `now - media` of the newest audio, seconds
        self.media_base = 0.0

    def _turn(self, turn: str) -> dict[str, Any]:
        record = self._turns.get(turn)
        if record is None:
            while len(self._turns) >= _OPEN:
                self._tell(next(iter(self._turns)))
            record = self._turns[turn] = {"turn": turn, "points": {}}
        return record

    def clock(self, media_ms: float) -> float:
        """The time on the monotonic clock at which a point of the user's track was captured, as near as we know."""
        return self.media_base + media_ms / 1000

    def stepped(self, turn: str, at: float, source: str, target: str, reason: str) -> None:
        """The floor took a step; `at` is seconds since the session began."""
        if turn in self._turns:
            reasons = self._turns[turn].setdefault("reasons", [])
            if len(reasons) < _REASONS:
                reasons.append({"at": round(at, 4), "transition": f"{source}>{target}", "reason": reason})

    def speech_started(self, turn: str, at_ms: float, now: float) -> None:
        record = self._turn(turn)
        record.setdefault("onset_ms", at_ms)
        record["points"].setdefault("user_speech_start", self.clock(at_ms))
        record["onset"] = self.clock(at_ms)

    def speech_stopped(self, turn: str, at_ms: float, now: float) -> None:
        self._turn(turn)["points"]["user_speech_end"] = self.clock(at_ms)

    def probability(self, turn: str, p: float) -> None:
        if turn in self._turns:
            self._turns[turn]["turn_probability"] = round(p, 3)

    def committed(self, turn: str, end_ms: float, now: float, reason: str, text: str) -> None:
        record = self._turn(turn)
        points = record["points"]
        if end_ms:
            points["user_speech_end"] = self.clock(end_ms)
        points["committed"] = now
        record["reason"] = reason
        record["words"] = len(text.split())

    def reopened(self, turn: str) -> None:
        record = self._turn(turn)
        record["reopened"] = record.get("reopened", 0) + 1

    def point(self, turn: str, name: str, now: float) -> None:
        """A point of the waterfall; the last one of a name counts (speculation may be begun anew)."""
        if turn in self._turns:
            self._turns[turn]["points"][name] = now

    def first_sample(self, turn: str, now: float) -> None:
        record = self._turns.get(turn)
        if record is None or "first_sample" in record["points"]:
            return
        record["points"]["first_sample"] = now

    def silenced(self, turn: str, decided: float, silenced: float) -> None:
        """A barge-in: from the onset of speech, and from the decision, to silence at the listener. The first time counts."""
        record = self._turn(turn)
        if "barge_in_decision_ms" not in record:
            record["barge_in_decision_ms"] = round((silenced - decided) * 1000, 1)
            if "onset" in record:
                record["barge_in_onset_ms"] = round((silenced - record["onset"]) * 1000, 1)

    def usage(self, turn: str, input_tokens: int, output_tokens: int) -> None:
        if turn in self._turns:
            record = self._turns[turn]
            record["input_tokens"] = record.get("input_tokens", 0) + input_tokens
            record["output_tokens"] = record.get("output_tokens", 0) + output_tokens

    def dropped(self, kind: str, count: int = 1) -> None:
        """Something was dropped; told in the next turn's record."""
        if count:
            self._drops[kind] = self._drops.get(kind, 0) + count

    def discarded(self, turn: str, reason: str) -> None:
        self._turns.pop(turn, None)

    def answered(self, turn: str, status: str, heard_ms: int) -> None:
        if turn in self._turns:
            self._turns[turn]["status"] = status
            self._turns[turn]["heard_ms"] = heard_ms
            self._tell(turn)

    def finish(self) -> None:
        """Tell what is left."""
        for turn in list(self._turns):
            self._tell(turn)

    def _tell(self, turn: str) -> None:
        record = self._turns.pop(turn)
        record.pop("onset", None)
        points: dict[str, float] = record.pop("points")
        if "committed" not in points:
            return
        end = points.get("user_speech_end", points["committed"])
        # The waterfall counts from the end of the user's speech.
        record["points_ms"] = {
            name: round((when - end) * 1000, 1) for name, when in sorted(points.items(), key=lambda entry: entry[1])
        }
        if "first_sample" in points:
            record["voice_to_voice_ms"] = round((points["first_sample"] - end) * 1000, 1)
        if self._drops:
            record["drops"], self._drops = self._drops, {}
        self._emit(TurnMeasured(turn=turn, record=record))
