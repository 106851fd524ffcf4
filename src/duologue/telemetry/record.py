"""The record of one turn: what was said (in numbers), when each stage was through, what went wrong.

A turn begins with the user's speech, or with the agent's own start (a greeting, a tool's result), and ends when its
last response is over. Times are seconds since the session began, on its monotonic clock; what is known in media time
(where speech begins and ends in the audio) is given as the moment at which that sample was captured.

A step of the floor belongs to the turn whose record is open when it is taken, else to the next one; so do drops, and
barge-ins that turned out to be none.

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

#: names under which `TurnRecord.to_mapping` tells the stages, in milliseconds from the end of the user's speech
POINTS: dict[Stage, str] = {
    "speech_start": "user_speech_start",
    "speech_end": "user_speech_end",
    "stt_final": "stt_final",
    "endpoint": "committed",
    "llm_start": "llm_start",
    "llm_first_token": "llm_first_token",
    "tts_first_audio": "tts_first_audio",
    "first_sent": "first_sample",
    "first_played": "first_played",
    "finished": "finished",
}


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
    """One turn of one session.

    Attributes:
        origin: what began it: `turn` of the user, or the origin of a response.
        reason: why the turn was taken to be over, `turn_probability` how sure the detector was at last, `reopened` how often
            the user went on after all.
        status, heard_ms: how the last response that answers it ended, and how much of it was heard; a status of "" has none.
        words: words of the user's turn, as recognised; the `*_chars` are lengths of what was said and heard.
        drops: what was thrown away since the last record, by kind: `user_audio_samples` (faster than real time),
            `user_gap_ms` (never came), `user_late_samples` (came twice, or too late), `stale_audio_samples` (of an answer that
            was over), `output_samples:CHANNEL`, `events:CHANNEL` (their queue was full), `hooks`.
        underruns: times that the addressee ran dry in mid-answer; `unacknowledged` times that they stopped to say what
            they have heard, so that estimates took the place of acknowledgements.
    """

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
    unacknowledged: int = 0
    interruptions: int = 0
    reason: str = ""
    turn_probability: float | None = None
    reopened: int = 0
    status: str = ""
    heard_ms: int = 0
    words: int = 0
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
        """As `events.TurnMeasured.record` carries it: the fields, and what is derived from them for whoever shows it.

        Those are `points_ms`, the stages by the names of :data:`POINTS` in the order in which they were reached, counted from
        the end of the user's speech (else from the commit), and `barge_in_onset_ms` and `barge_in_decision_ms` of the first
        barge-in of the turn.
        """
        mapping: dict[str, object] = msgspec.json.decode(msgspec.json.encode(self))
        known = [(name, at) for stage, name in POINTS.items() if (at := getattr(self.times, stage)) is not None]
        end = self.times.speech_end if self.times.speech_end is not None else self.times.endpoint
        if end is not None:
            known.sort(key=lambda entry: entry[1])
            mapping["points_ms"] = {name: round((at - end) * 1e3, 1) for name, at in known}
        barge_in = next((entry for entry in self.barge_ins if not entry.false), None)
        if barge_in is not None:
            for name, ms in (
                ("barge_in_onset_ms", barge_in.onset_to_silence_ms),
                ("barge_in_decision_ms", barge_in.decision_to_cleared_ms),
            ):
                if ms is not None:
                    mapping[name] = round(ms, 1)
        return mapping

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> TurnRecord:
        """The inverse of `to_mapping` (what is derived is derived again). Raises `msgspec.ValidationError`."""
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
        "heard_ms",
        "heard_text",
        "input_tokens",
        "interruptions",
        "model",
        "origin",
        "output_tokens",
        "reason",
        "reasons",
        "reopened",
        "responses",
        "session",
        "status",
        "tenant",
        "turn",
        "turn_probability",
        "unacknowledged",
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
        self.unacknowledged = 0
        self.interruptions = 0
        self.reason = ""
        self.turn_probability: float | None = None
        self.reopened = 0
        self.status = ""
        self.heard_ms = 0
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

    @property
    def running(self) -> bool:
        """Whether a tool of the turn still runs."""
        return any(run.ended is None for run in self._tools.values())

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
            unacknowledged=self.unacknowledged,
            interruptions=self.interruptions,
            reason=self.reason,
            turn_probability=self.turn_probability,
            reopened=self.reopened,
            status=self.status,
            heard_ms=self.heard_ms,
            words=len(self.user_text.split()),
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
    return None if start is None or end is None else round((end - start) * 1e3, 3)
