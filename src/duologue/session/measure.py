"""Fills the record of each turn as it happens, and tells it when the turn has been answered."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from ..events import Event, ResponseFinished, ResponseStarted, ToolFinished, ToolStarted, TurnMeasured
from ..telemetry import POINTS, BargeIn, Exporter, Reason, TurnBuilder

logger = logging.getLogger("duologue.session")

#: records kept open at once; older ones are told as they are
_OPEN = 8
#: steps of the floor kept in one record
_REASONS = 64
_STAGES = {name: stage for stage, name in POINTS.items()}


class Measures:
    """The open turn records of one session. Times are monotonic seconds, `*_ms` of media time where it says so.

    Args:
        emit: tells an event.
        begin: makes an empty record for a turn.
        base: the session's zero on the clock; records count from it.
        losses: what has been dropped since the session began where nobody reports it as it happens, by kind.
        export: where finished records go besides; its calls do not block.
    """

    def __init__(
        self,
        emit: Callable[[Event], None],
        begin: Callable[[str], TurnBuilder],
        *,
        base: float,
        losses: Callable[[], Mapping[str, int]],
        export: Exporter | None = None,
    ) -> None:
        self._emit = emit
        self._begin = begin
        self._base = base
        self._losses = losses
        self._export = export
        self._turns: dict[str, TurnBuilder] = {}
        self._onsets: dict[str, float] = {}
        self._drops: dict[str, int] = {}
        self._told_losses: dict[str, int] = {}
        # of no open record, or of a turn that was none: they go into the next one
        self._steps: deque[Reason] = deque(maxlen=_REASONS)
        self._false: deque[BargeIn] = deque(maxlen=_OPEN)
        self._turn_of: dict[str, str] = {}  # of unfinished responses
        #: how far media time of the user's track lags behind the clock: `now - media` of the newest audio, seconds
        self.media_base = 0.0

    def _open(self, turn: str) -> TurnBuilder:
        record = self._turns.get(turn)
        if record is None:
            while len(self._turns) >= _OPEN:
                self._tell(next(iter(self._turns)))
            record = self._turns[turn] = self._begin(turn)
            record.reasons.extend(self._steps)
            self._steps.clear()
        return record

    def _at(self, now: float) -> float:
        return round(now - self._base, 4)

    def clock(self, media_ms: float) -> float:
        """The time on the monotonic clock at which a point of the user's track was captured, as near as we know."""
        return self.media_base + media_ms / 1000

    # ------------------------------------------------------------------ the user

    def stepped(self, turn: str, at: float, source: str, target: str, reason: str) -> None:
        """The floor took a step; `at` is seconds since the session began."""
        step = Reason(at=round(at, 4), transition=f"{source}>{target}", reason=reason)
        record = self._turns.get(turn)
        if record is None:
            self._steps.append(step)
        elif len(record.reasons) < _REASONS:
            record.reasons.append(step)

    def speech_started(self, turn: str, at_ms: float) -> None:
        """The user began to speak, or to speak again."""
        self._onsets[turn] = self.clock(at_ms)
        self._open(turn).mark("speech_start", self._at(self.clock(at_ms)))

    def speech_stopped(self, turn: str, at_ms: float) -> None:
        """The user fell silent."""
        self._open(turn).mark("speech_end", self._at(self.clock(at_ms)), again=True)

    def probability(self, turn: str, p: float) -> None:
        """How sure the detector is that the turn is over."""
        if turn in self._turns:
            self._turns[turn].turn_probability = round(p, 3)

    def committed(self, turn: str, end_ms: float, now: float, reason: str, text: str) -> None:
        """The turn is over. Earlier ones that nothing more is to come of are told."""
        for other, earlier in list(self._turns.items()):
            if other != turn and earlier.at("endpoint") is not None and not earlier.running:
                self._tell(other)
        record = self._open(turn)
        if end_ms:
            record.mark("speech_end", self._at(self.clock(end_ms)), again=True)
        record.mark("endpoint", self._at(now), again=True)
        record.reason = reason
        record.user_text = text

    def reopened(self, turn: str) -> None:
        """The user went on with the committed turn."""
        self._open(turn).reopened += 1

    def discarded(self, turn: str) -> None:
        """It was no turn. What was learned of it is told with the next one."""
        self._onsets.pop(turn, None)
        if (record := self._turns.pop(turn, None)) is not None:
            self._steps.extend(record.reasons)
            self._false.extend(msgspec.structs.replace(entry, false=True) for entry in record.barge_ins)

    def silenced(self, turn: str, response: str, decided: float, silenced: float, reason: str) -> None:
        """A barge-in silenced a response. Until the turn is discarded it counts as a true one; the first time counts."""
        record = self._open(turn)
        if not record.barge_ins:
            record.barge_ins.append(
                BargeIn(
                    response=response,
                    onset=self._at(self._onsets.get(turn, decided)),
                    decided=self._at(decided),
                    cleared=self._at(silenced),
                    silent=self._at(silenced),
                    reason=reason,
                )
            )

    # ------------------------------------------------------------------ the agent

    def point(self, turn: str, name: str, now: float) -> None:
        """A point of the waterfall (see `telemetry.POINTS`); the last one of a name counts: speculation may begin anew."""
        stage = _STAGES.get(name)
        if stage is None:
            logger.debug("a model measures %r, which no record holds", name)
        elif turn in self._turns:
            self._turns[turn].mark(stage, self._at(now), again=True)

    def first(self, turn: str, name: str, now: float) -> None:
        """A point of which the first counts."""
        if turn in self._turns:
            self._turns[turn].mark(_STAGES[name], self._at(now))

    def usage(self, turn: str, input_tokens: int, output_tokens: int) -> None:
        """Tokens that were counted for a turn."""
        if (record := self._turns.get(turn)) is not None:
            record.input_tokens += input_tokens
            record.output_tokens += output_tokens

    def observe(self, event: Event, committed: str, now: float) -> None:
        """What the events of a session say about its turns; `committed` is the turn that is being answered."""
        match event:
            case ResponseStarted():
                turn = self._turn_of[event.response] = event.turn or committed
                if turn in self._turns:
                    self._turns[turn].responses.append(event.response)
            case ResponseFinished():
                record = self._turns.get(self._turn_of.pop(event.response, ""))
                if record is not None:
                    record.agent_text = f"{record.agent_text} {event.text}".strip()
                    record.heard_text = f"{record.heard_text} {event.heard}".strip()
                    record.interruptions += event.status == "interrupted"
            case ToolStarted():
                record = self._turns.get(self._turn_of.get(event.response) or committed)
                if record is not None:
                    record.tool_started(event.call, event.name, self._at(now))
            case ToolFinished():
                for record in self._turns.values():
                    record.tool_finished(event.call, event.status, self._at(now))

    def dropped(self, kind: str, count: int = 1) -> None:
        """Something was dropped; told in the next record."""
        if count:
            self._drops[kind] = self._drops.get(kind, 0) + count

    # ------------------------------------------------------------------ telling

    def answered(self, turn: str, status: str, heard_ms: int, now: float) -> None:
        """The turn's answer is over."""
        if (record := self._turns.get(turn)) is not None:
            record.status = status
            record.heard_ms = heard_ms
            record.mark("finished", self._at(now), again=True)
            if not record.running:  # else its result is still to be told, as part of the same turn
                self._tell(turn)

    def unanswered(self, turn: str) -> None:
        """Nothing (more) is to come for the committed turn."""
        record = self._turns.get(turn)
        if record is not None and record.at("endpoint") is not None and not record.running:
            self._tell(turn)

    def finish(self) -> None:
        """Tell what is left."""
        for turn in list(self._turns):
            self._tell(turn)

    def _tell(self, turn: str) -> None:
        builder = self._turns.pop(turn)
        self._onsets.pop(turn, None)
        if builder.at("endpoint") is None:
            self._steps.extend(builder.reasons)
            return
        losses = dict(self._losses())
        for kind, count in losses.items():
            self.dropped(kind, count - self._told_losses.get(kind, 0))
        self._told_losses = losses
        builder.underruns = self._drops.pop("underruns", 0)
        builder.unacknowledged = self._drops.pop("unacknowledged", 0)
        builder.drops, self._drops = self._drops, {}
        builder.barge_ins.extend(self._false)
        self._false.clear()
        record = builder.build()
        self._emit(TurnMeasured(turn=turn, record=record.to_mapping()))
        if self._export is not None:
            self._export.turn(record)
