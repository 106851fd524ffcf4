"""The record of one turn: what was said (in numbers), when each stage was through, what went wrong.

A turn begins with the user's speech, or with the agent's own start (a greeting, a tool's result), and ends when its
last response is over. Times are seconds since the session began, on its monotonic clock; what is known in media time
(where speech begins and ends in the audio) is given as the moment at which that sample was captured.

Texts are kept only if the session allows it; lengths always are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from duologue.errors import check_options

Stage = Literal[
    "speech_start",
    "speech_end",
    "stt_final",
    "endpoint",
    "llm_start",
    "llm_first_token",
    "tts_first_audio",
    "first_sent",
    "first_played",
    "finished",
]


class Waterfall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When each stage of a turn was reached; None where it was not, or is not known.

    `speech_start` and `speech_end` are capture times of the user's audio. `endpoint` is the decision that the turn is
    over; a stage of a speculative reply may lie before it. `first_sent` is the first sample transmitted, `first_played`
    the first that the addressee's playout acknowledged (its playout time, not the acknowledgement's arrival).
    """

    speech_start: float | None = None
    speech_end: float | None = None
    stt_final: float | None = None
    endpoint: float | None = None
    llm_start: float | None = None
    llm_first_token: float | None = None
    tts_first_audio: float | None = None
    first_sent: float | None = None
    first_played: float | None = None
    finished: float | None = None


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One transition of the floor, and why."""

    at: float
    transition: str
    reason: str


class BargeIn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The user spoke while the agent did.

    `onset` is where their speech begins in the audio, `decided` the floor's decision, `cleared` the listener's answer
    to `clear`, `silent` the last sample of the response that the listener played. A false one was given back.
    """

    response: str
    onset: float
    decided: float | None = None
    cleared: float | None = None
    silent: float | None = None
    false: bool = False
    reason: str = ""

    @property
    def onset_to_silence_ms(self) -> float | None:
        """From the user's first sound to silence at the listener's output; None for a false one."""
        return None if self.false else _ms(self.onset, self.silent)

    @property
    def decision_to_cleared_ms(self) -> float | None:
        """From the decision until the listener had nothing more to play."""
        return None if self.false else _ms(self.decided, self.cleared)


class ToolRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool that ran in the turn. `ended` is None while it goes on after the turn; `status` as in `ToolFinished`."""

    call: str
    name: str
    started: float
    ended: float | None = None
    status: str = ""


class TurnRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of one session. `drops` counts what was thrown away, by kind (:class:`~duologue.telemetry.Counters`)."""

    session: str
    turn: str
    tenant: str = ""
    agent: str = ""
    model: str = ""
    generation: int = 0
    origin: str = "turn"
    responses: tuple[str, ...] = ()
    times: Waterfall = Waterfall()
    reasons: tuple[Reason, ...] = ()
    barge_ins: tuple[BargeIn, ...] = ()
    tools: tuple[ToolRun, ...] = ()
    drops: dict[str, int] = {}
    underruns: int = 0
    interruptions: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    user_chars: int = 0
    agent_chars: int = 0
    heard_chars: int = 0
    user_text: str = ""
    agent_text: str = ""
    heard_text: str = ""
    voice_to_voice_ms: float | None = None
    #: what `voice_to_voice_ms` ends with: the sample played, as acknowledged, or for want of that the sample sent
    voice_to_voice_to: Literal["", "played", "sent"] = ""

    def to_mapping(self) -> dict[str, object]:
        """As `events.TurnMeasured.record` carries it."""
        mapping: dict[str, object] = msgspec.to_builtins(self)
        return mapping

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> TurnRecord:
        """The inverse of `to_mapping`. Raises `msgspec.ValidationError`."""
        return msgspec.convert(mapping, cls)


class TurnBuilder:
    """Collects a turn's record while it happens; plain attributes, for the session to set.

    Args:
        session: the session's id.
        turn: the turn's id.
        keep_text: whether transcripts may be kept in the record.
    """

    __slots__ = (
        "_keep_text",
        "_times",
        "_tools",
        "agent",
        "agent_text",
        "barge_ins",
        "drops",
        "generation",
        "heard_text",
        "input_tokens",
        "interruptions",
        "model",
        "origin",
        "output_tokens",
        "reasons",
        "responses",
        "session",
        "tenant",
        "turn",
        "underruns",
        "user_text",
    )

    def __init__(self, session: str, turn: str, *, keep_text: bool = False) -> None:
        self.session = session
        self.turn = turn
        self.tenant = ""
        self.agent = ""
        self.model = ""
        self.generation = 0
        self.origin = "turn"
        self.responses: list[str] = []
        self.reasons: list[Reason] = []
        self.barge_ins: list[BargeIn] = []
        self.drops: dict[str, int] = {}
        self.underruns = 0
        self.interruptions = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.user_text = ""
        self.agent_text = ""
        self.heard_text = ""
        self._keep_text = keep_text
        self._times: dict[str, float] = {}
        self._tools: dict[str, ToolRun] = {}

    def mark(self, stage: Stage, at: float, *, again: bool = False) -> None:
        """Note that `stage` was reached. The first mark counts; with `again` the latest does (a turn that was
        reopened).

        Raises:
            UnknownOptionError: there is no such stage.
        """
        if stage not in Waterfall.__struct_fields__:
            check_options("A turn's waterfall", [stage], Waterfall.__struct_fields__)
        if again or stage not in self._times:
            self._times[stage] = at

    def at(self, stage: Stage) -> float | None:
        """When `stage` was reached, if it was."""
        return self._times.get(stage)

    def transition(self, at: float, transition: str, reason: str) -> None:
        """Note a transition of the floor."""
        self.reasons.append(Reason(at=at, transition=transition, reason=reason))

    def drop(self, kind: str, count: int = 1) -> None:
        """Count what was thrown away."""
        if count:
            self.drops[kind] = self.drops.get(kind, 0) + count

    def tool_started(self, call: str, name: str, at: float) -> None:
        """A tool began to run."""
        self._tools[call] = ToolRun(call=call, name=name, started=at)

    def tool_finished(self, call: str, status: str, at: float) -> None:
        """A tool's run is over; one that began in an earlier turn is left to that turn's record."""
        if (run := self._tools.get(call)) is not None:
            self._tools[call] = msgspec.structs.replace(run, ended=at, status=status)

    def build(self) -> TurnRecord:
        """The record as it stands."""
        times = Waterfall(**self._times)
        voice_to_voice, to = _ms(times.speech_end, times.first_played), "played"
        if voice_to_voice is None:
            voice_to_voice, to = _ms(times.speech_end, times.first_sent), "sent"
        return TurnRecord(
            session=self.session,
            turn=self.turn,
            tenant=self.tenant,
            agent=self.agent,
            model=self.model,
            generation=self.generation,
            origin=self.origin,
            responses=tuple(self.responses),
            times=times,
            reasons=tuple(self.reasons),
            barge_ins=tuple(self.barge_ins),
            tools=tuple(self._tools.values()),
            drops=dict(self.drops),
            underruns=self.underruns,
            interruptions=self.interruptions,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            user_chars=len(self.user_text),
            agent_chars=len(self.agent_text),
            heard_chars=len(self.heard_text),
            user_text=self.user_text if self._keep_text else "",
            agent_text=self.agent_text if self._keep_text else "",
            heard_text=self.heard_text if self._keep_text else "",
            voice_to_voice_ms=voice_to_voice,
            voice_to_voice_to="" if voice_to_voice is None else "played" if to == "played" else "sent",
        )


def _ms(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else (end - start) * 1e3
