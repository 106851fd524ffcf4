"""What happened in a call, on the recording's clock: the journal laid beside the tape, for whoever wants to look at it.

The journal counts seconds from the session's beginning, the tape samples from the microphone's. The two meet in the voice
activity windows: each has its place on the caller's track and the time at which it was judged, and the one that was judged
soonest says how the clocks lie to each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from ..engine.replay import TICK_S, Fact, Windows, replay
from ..events import (
    Event,
    Interruption,
    ResponseFinished,
    ResponseStarted,
    ResponseText,
    SessionStarted,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    TurnMeasured,
    UserSpeechStarted,
    UserSpeechStopped,
    UserTranscript,
)
from ..session.journal import Emitted, JournalRecord, floor_records
from .tape import Run

_WORD = re.compile(r"\s*\S+")
#: how much longer than a letter the pause after such a character takes
_PAUSES = {",": 2.0, ";": 2.5, ":": 2.5, ".": 3.5, "!": 3.5, "?": 3.5}
#: characters a second, where only the text of some speech is known
_PACE = 15.0
#: a tool that takes longer keeps its answer waiting, which says nothing of the agent's quickness (seconds)
_SLOW_S = 1.0


class Said(NamedTuple):
    """A word at its time, seconds on the tape; `heard` is False for what the agent did not come to say."""

    text: str
    start: float
    end: float
    heard: bool = True


class Utterance(msgspec.Struct, kw_only=True):
    """Something that the caller said: a turn, or a sound that was none. Times are seconds on the tape."""

    turn: str
    text: str
    spans: list[tuple[float, float]]
    kind: Literal["turn", "discarded"]
    reason: str
    words: list[Said] = []
    #: the first answer's first sample, and what it took from the end of the speech
    answer_at: float | None = None
    latency_ms: float | None = None
    waited_for_tool: bool = False
    points_ms: Mapping[str, float] = {}

    @property
    def start(self) -> float:
        return self.spans[0][0]

    @property
    def end(self) -> float:
        return self.spans[-1][1]


class Answer(msgspec.Struct, kw_only=True):
    """A response that had sound. `runs` are its stretches on the tape: (start, end) in seconds, first sample in the response."""

    response: str
    origin: str
    turn: str
    text: str
    heard: str
    status: str
    reason: str
    runs: list[tuple[float, float, float]]
    words: list[Said] = []

    @property
    def start(self) -> float:
        return self.runs[0][0]

    @property
    def end(self) -> float:
        return self.runs[-1][1]


class BargeIn(NamedTuple):
    """The caller spoke over the agent. `silent` is the last sample of the agent that they heard; `false`: it went on,
    at `resumed`.
    """

    response: str
    onset: float
    decided: float
    silent: float
    false: bool
    resumed: float
    reason: str


class Tool(NamedTuple):
    """A run of a tool."""

    name: str
    arguments: Mapping[str, object]
    start: float
    end: float
    status: str
    output: str


class Phase(NamedTuple):
    """A state of the floor; `reason` is why it was entered."""

    state: str
    start: float
    end: float
    reason: str


class Story(msgspec.Struct, kw_only=True):
    """A whole call, in order of time."""

    session: str
    agent: str
    model: str
    notice: str
    length: float
    utterances: list[Utterance]
    answers: list[Answer]
    barge_ins: list[BargeIn]
    tools: list[Tool]
    phases: list[Phase]

    @property
    def latencies(self) -> list[float]:
        """Voice to voice of the turns whose answer did not wait for a slow tool, ms."""
        return [turn.latency_ms for turn in self.utterances if turn.latency_ms is not None and not turn.waited_for_tool]

    @property
    def cuts(self) -> list[float]:
        """From the caller's first sound to the agent's silence, for each barge-in that took the floor, ms."""
        return [(entry.silent - entry.onset) * 1000 for entry in self.barge_ins if not entry.false]


def tell(records: Sequence[JournalRecord], runs: Sequence[Run], rate: int, length: float) -> Story:
    """The story of a journal and what its listener heard of it.

    Args:
        records: the whole journal.
        runs: what was heard, in samples at `rate`.
        length: of the tape, seconds.
    """
    delta = clock_offset(records)
    events = [
        msgspec.structs.replace(record.event, at=record.event.at - delta)
        for record in records
        if isinstance(record, Emitted)
    ]
    started = next(event for event in events if isinstance(event, SessionStarted))
    answers = _answers(events, runs, rate, started.output_rate)
    tools = _tools(events)
    utterances = _utterances(events, started.input_rate)
    _answered(utterances, answers, tools)
    return Story(
        session=started.session,
        agent=started.agent,
        model=started.model,
        notice=started.notice,
        length=length,
        utterances=utterances,
        answers=answers,
        barge_ins=_barge_ins(events, utterances, answers),
        tools=tools,
        phases=_phases(records, delta, length),
    )


def clock_offset(records: Iterable[JournalRecord]) -> float:
    """Seconds by which the session's clock is ahead of the caller's track; 0 without voice activity."""
    offsets: list[float] = []
    for record in records:
        if isinstance(record, Windows):
            ticks = 0
            for index, step in enumerate(record.now):
                ticks += step
                offsets.append(ticks * TICK_S - (record.start + (index + 1) * record.step) / 1000)
        elif isinstance(record, Fact) and record.name == "window":
            offsets.append(record.now * TICK_S - record.args[1] / 1000)
    return min(offsets, default=0.0)


def spread(text: str, start: float, end: float) -> list[Said]:
    """The words of some text over the time in which it was said, longer words and pauses taking more of it."""
    texts = _WORD.findall(text)
    weights = [len(word) + sum(_PAUSES.get(character, 0.0) for character in word) for word in texts]
    total, at = sum(weights) or 1.0, start
    words: list[Said] = []
    for word, weight in zip(texts, weights, strict=True):
        until = at + (end - start) * weight / total
        words.append(Said(word.strip(), at, until))
        at = until
    return words


def _utterances(events: Sequence[Event], rate: int) -> list[Utterance]:
    found: list[Utterance] = []
    spans: list[tuple[float, float]] = []
    began: float | None = None
    measured = {event.turn: event.record for event in events if isinstance(event, TurnMeasured)}
    # A turn that had to be committed before recognition was through gets its words afterwards.
    settled = {event.turn: event.text for event in events if isinstance(event, UserTranscript) and event.final}
    for event in events:
        match event:
            case UserSpeechStarted():
                began = event.position / rate
            case UserSpeechStopped():
                if began is not None:
                    spans.append((began, event.position / rate))
                began = None
            case TurnCommitted() | TurnDiscarded():
                if spans:
                    committed = isinstance(event, TurnCommitted)
                    text = settled.get(event.turn, event.text) if committed else event.text
                    utterance = Utterance(
                        turn=event.turn,
                        text=text,
                        spans=spans,
                        kind="turn" if committed else "discarded",
                        reason=event.reason,
                        points_ms=measured.get(event.turn, {}).get("points_ms", {}),
                    )
                    utterance.words = _over_spans(text, spans)
                    found.append(utterance)
                spans = []
            case _:
                pass
    return found


def _over_spans(text: str, spans: Sequence[tuple[float, float]]) -> list[Said]:
    """Words over several stretches of speech: nobody says anything in between."""
    voiced = sum(end - start for start, end in spans)

    def place(at: float, *, begins: bool) -> float:
        for start, end in spans:
            if at < end - start or (not begins and at <= end - start + 1e-9):
                return start + at
            at -= end - start
        return spans[-1][1]

    return [
        Said(word.text, place(word.start, begins=True), place(word.end, begins=False))
        for word in spread(text, 0.0, voiced)
    ]


def _answers(events: Sequence[Event], runs: Sequence[Run], rate: int, model_rate: int) -> list[Answer]:
    origins = {event.response: event for event in events if isinstance(event, ResponseStarted)}
    texts: dict[str, list[ResponseText]] = {}
    for event in events:
        if isinstance(event, ResponseText):
            texts.setdefault(event.response, []).append(event)
    found: list[Answer] = []
    for event in events:
        if not isinstance(event, ResponseFinished) or event.response not in origins:
            continue
        own = [
            (run.start / rate, (run.start + run.samples) / rate, run.offset / rate)
            for run in runs
            if run.response == event.response
        ]
        if not own:
            continue
        begun = origins[event.response]
        answer = Answer(
            response=event.response,
            origin=begun.origin,
            turn=begun.turn,
            text=event.text.strip(),
            heard=event.heard.strip(),
            status=event.status,
            reason=event.reason,
            runs=own,
        )
        answer.words = _spoken(texts.get(event.response, []), len(event.heard), event.heard_ms, answer, model_rate)
        found.append(answer)
    return sorted(found, key=lambda answer: answer.start)


def _spoken(pieces: Sequence[ResponseText], heard: int, heard_ms: int, answer: Answer, rate: int) -> list[Said]:
    """The words of an answer where they sounded; those that did not follow the cut at the same pace."""
    words: list[Said] = []
    characters = 0
    for index, piece in enumerate(pieces):
        start = (piece.offset or 0) / rate
        after = pieces[index + 1].offset if index + 1 < len(pieces) else None
        complete = heard_ms / 1000 if answer.status == "completed" else 0.0
        end = after / rate if after is not None else max(complete, start + len(piece.text) / _PACE)
        for word in spread(piece.text, start, end):
            at = piece.text.find(word.text, max(0, characters - sum(len(p.text) for p in pieces[:index])))
            characters = sum(len(p.text) for p in pieces[:index]) + at + len(word.text)
            is_heard = characters <= heard
            begins, ends = _on_tape(word.start, answer.runs), _on_tape(word.end, answer.runs)
            words.append(Said(word.text, begins, max(ends, begins), is_heard))
    return words


def _on_tape(offset: float, runs: Sequence[tuple[float, float, float]]) -> float:
    """Where second `offset` of a response sounded: the last time, if it was said again after a false barge-in."""
    for start, end, first in reversed(runs):
        if first <= offset <= first + (end - start):
            return start + offset - first
    start, end, first = runs[-1]
    return end + max(0.0, offset - first - (end - start))


def _tools(events: Sequence[Event]) -> list[Tool]:
    begun = {event.call: event for event in events if isinstance(event, ToolStarted)}
    return [
        Tool(
            name=event.name,
            arguments=begun[event.call].arguments,
            start=begun[event.call].at,
            end=event.at,
            status=event.status,
            output=str(event.output) if event.output is not None else event.error,
        )
        for event in events
        if isinstance(event, ToolFinished) and event.call in begun
    ]


def _answered(utterances: Sequence[Utterance], answers: Sequence[Answer], tools: Sequence[Tool]) -> None:
    """Find each turn's first answer on the tape."""
    turns = [utterance for utterance in utterances if utterance.kind == "turn"]
    for index, turn in enumerate(turns):
        until = turns[index + 1].start if index + 1 < len(turns) else float("inf")
        first = next((answer for answer in answers if turn.end <= answer.start < until), None)
        if first is not None:
            turn.answer_at = first.start
            turn.latency_ms = (first.start - turn.end) * 1000
        turn.waited_for_tool = first is None or any(
            turn.end <= tool.start < until and tool.end - tool.start > _SLOW_S for tool in tools
        )


def _barge_ins(events: Sequence[Event], utterances: Sequence[Utterance], answers: Sequence[Answer]) -> list[BargeIn]:
    by_id = {answer.response: answer for answer in answers}
    found: list[BargeIn] = []
    held: float | None = None
    for event in events:
        if not isinstance(event, Interruption) or event.response not in by_id:
            continue
        answer = by_id[event.response]
        if event.stage in ("duck", "pause"):
            held = event.at if held is None else held
            continue
        decided = event.at if held is None else held
        before = [utterance.start for utterance in utterances if utterance.start <= decided + 0.3]
        onset = before[-1] if before else decided
        if event.stage == "yield" and found and found[-1].false and found[-1].response == event.response:
            last = found[-1]
            if not any(last.decided < start < event.at for start, _, _ in answer.runs):
                # It was given back, and taken for good before the agent could go on: one barge-in.
                found.pop()
                onset, decided = last.onset, last.decided
        runs = [end for start, end, _ in answer.runs if start < event.at]
        silent = min(runs[-1], event.at) if runs else event.at
        resumed = next((start for start, _, _ in answer.runs if start >= event.at), event.at)
        found.append(BargeIn(event.response, onset, decided, silent, event.stage == "resume", resumed, event.reason))
        held = None
    return found


def _phases(records: Sequence[JournalRecord], delta: float, length: float) -> list[Phase]:
    """The floor's states, by giving a floor of the same options the same facts."""
    options, facts = floor_records(records)
    floor, _ = replay(facts, options)
    steps = list(floor.transitions)
    phases: list[Phase] = []
    state, since, reason = "idle", 0.0, ""
    for step in steps:
        at = max(0.0, step.now - delta)
        if at > since:
            phases.append(Phase(state, since, at, reason))
        state, since, reason = step.target.value, at, step.reason
    if since < length:
        phases.append(Phase(state, since, length, reason))
    return phases
