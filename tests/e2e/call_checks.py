"""What a recording of the demo must hold, judged by ear: by energy and by recognition, without a look at the journal.

Then the journal's claims, judged by the recording. Times are seconds on the recording. The script of the seed says what the
caller meant to say; where they said it is found by laying their own voice over the left channel.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from duologue.audio import read_wav, resample, split_stereo
from duologue.demo.run import read_records
from duologue.demo.script import Script
from duologue.demo.story import clock_offset
from duologue.demo.voice import MIC_RATE, speak_lines
from duologue.engine.replay import recorded, replay
from duologue.events import (
    Interruption,
    ResponseFinished,
    ResponseStarted,
    SessionEnded,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    UserSpeechStarted,
    UserTranscript,
)
from duologue.session.journal import Emitted, floor_records
from duologue.testing.audio import align, assert_silent, recognise, speech_spans
from duologue.testing.words import wer

#: from the caller's first sound until the agent must be silent; generous, for a machine that does other things too
SILENT_WITHIN_S = 1.0
#: how much of the agent may be heard in all while the caller barges in: a first word may be taken for a backchannel
TALK_OVER_S = 1.5
#: word error rate of a local recogniser on synthetic speech, at most: of one line, of all lines, of all answers (which hold
#: telephone numbers, and a word said again after a false barge-in)
LINE_WER, ALL_WER, AGENT_WER = 0.5, 0.2, 0.3
_TOOLS = {
    "next_stop": "next_stop",
    "route": "directions",
    "barge_in": "customer",
    "complete": "mark_complete",
    "meanwhile": "stops_left",
    "correction": "mark_complete",
    "pause": "customer",
    "note": "add_note",
    "goodbye": "end_call",
}


class Place(NamedTuple):
    """Where a line of the caller's is on the recording."""

    line: str
    text: str
    start: float
    end: float


class Heard(NamedTuple):
    """A recording that was listened to."""

    rate: int
    left: bytes
    right: bytes
    places: dict[str, Place]

    @property
    def length(self) -> float:
        return len(self.right) / 2 / self.rate

    def cut(self, channel: bytes, start: float, end: float) -> bytes:
        return channel[2 * round(max(start, 0) * self.rate) : 2 * round(end * self.rate)]

    def agent_says(self, start: float, end: float) -> str:
        return spoken(recognise(self.cut(self.right, start, end), self.rate))

    def hearings(self, start: float, end: float) -> tuple[str, str]:
        """What the agent says, listened to as a whole and sentence by sentence: a small recogniser sometimes loses its
        way in several sentences at once, and sometimes in one alone, which says nothing about who spoke them."""
        pcm = self.cut(self.right, start, end)
        pad = round(0.1 * self.rate)
        sentences = speech_spans(pcm, self.rate, min_gap_s=0.35)
        cuts = (pcm[2 * max(0, span.start - pad) : 2 * (span.end + pad)] for span in sentences)
        return self.agent_says(start, end), " ".join(spoken(recognise(cut, self.rate)) for cut in cuts)

    def agent_talks(self, start: float, end: float) -> float:
        """Seconds of the agent's voice between two times."""
        pcm = self.cut(self.right, start, end)
        return sum(span.samples for span in speech_spans(pcm, self.rate, min_gap_s=0.05)) / self.rate


def spoken(text: str) -> str:
    """Text with digits as they are read out one by one, which is how the example says telephone numbers."""
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    text = re.sub(r"\d(?:[\d ,-]*\d)?", lambda run: "".join(f" {digits[int(c)]} " for c in run[0] if c.isdigit()), text)
    return re.sub(r"\boh\b", "zero", text, flags=re.IGNORECASE)


def listen(wav: Path, script: Script) -> Heard:
    """Read a recording and find the caller's lines on it; each must be there whole, and in the order of the script."""
    recording = read_wav(wav)
    assert recording.channels == 2
    left, right = split_stereo(recording.pcm)
    texts = dict(script.lines)
    texts["pause"] = f"{texts['pause']} {texts.pop('after_pause')}"
    # Everything that was said, so that a line of which another is a part is not taken for it.
    lines = asyncio.run(speak_lines(script))
    places: dict[str, Place] = {}
    at = 0
    for line, text in texts.items():
        clip = resample(lines[line], MIC_RATE, recording.rate)
        found = align(clip, left[2 * at :])
        assert found.score > 0.9, f"“{text}” is not on the caller's channel (best likeness {found.score:.2f})."
        start = at + found.position
        at = start + len(clip) // 2
        places[line] = Place(line, text, start / recording.rate, at / recording.rate)
    return Heard(recording.rate, left, right, places)


def check_audio(call: Heard) -> None:
    """The issue's call, by ear alone."""
    places = call.places
    order = list(places.values())

    # The caller is understood.
    for place in order:
        if place.line != "backchannel":
            said = recognise(call.cut(call.left, place.start - 0.2, place.end + 0.2), call.rate)
            assert wer(place.text, said) <= LINE_WER, f"“{place.text}” was recognised as “{said}”."

    # The agent greets first, and says nothing while the caller speaks, but where the script is about that.
    greeting = call.hearings(0.0, order[0].start)
    assert any("assistant" in heard for heard in greeting), greeting
    for place in order:
        if place.line not in ("backchannel", "barge_in"):
            assert_silent(call.right, call.rate, place.start, place.end)

    # It goes on after a backchannel, to the last sentence.
    noise = places["backchannel"]
    assert call.agent_talks(noise.start - 0.7, noise.start) > 0.2
    after = call.hearings(noise.end, places["route"].start)
    assert any(wer("the front is a bus lane", " ".join(heard.split()[-6:])) <= LINE_WER for heard in after), after

    # It stops when barged in on, and does not say the rest.
    cut = places["barge_in"]
    assert call.agent_talks(cut.start - 0.7, cut.start) > 0.2
    _silent_within(call, cut)
    assert call.agent_talks(cut.start, cut.end) <= TALK_OVER_S
    assert "blue door" not in call.agent_says(cut.start, places["complete"].start)

    # Each line gets its answer before the next one; the slow tool's comes after the one in between.
    both = call.hearings(places["meanwhile"].end, places["correction"].start)
    assert any(re.search(r"castle hill.*\bmarked\b.*\bcomplete", heard.lower()) for heard in both), both
    for line, following, words in (
        ("next_stop", "backchannel", "stop"),
        ("route", "barge_in", "street"),
        ("barge_in", "complete", "number"),
        ("correction", "pause", "station"),
        ("pause", "note", "number"),
        ("note", "goodbye", "noted"),
    ):
        answer = call.hearings(places[line].end, places[following].start)
        assert any(words in heard.lower() for heard in answer), (
            f"After “{places[line].text}” the agent said “{answer}”."
        )

    # Goodbye comes last; then the call is over.
    goodbye = places["goodbye"]
    before, last = speech_spans(call.right, call.rate)[-2:]
    assert before.end / call.rate < goodbye.end < last.start / call.rate
    assert call.length - last.end / call.rate < 5.0
    # A recogniser guesses at a word alone; after the sentence before, it knows how it sounds.
    gap = bytes(2 * round(0.2 * call.rate))
    pcm = b"".join(call.right[2 * (span.start - 480) : 2 * (span.end + 480)] + gap for span in (before, last))
    both = f"{call.agent_says(goodbye.end, call.length)} {recognise(pcm, call.rate)}".lower()
    assert re.search(r"\b(?:good)?bye?\b", both), both


def _silent_within(call: Heard, cut: Place) -> None:
    """Some 200 ms of silence begin soon after the caller's first sound."""
    spans = speech_spans(call.cut(call.right, cut.start, cut.end + 1.0), call.rate, min_gap_s=0.2)
    silent = spans[0].end / call.rate if spans and spans[0].start < 0.2 * call.rate else 0.0
    assert silent <= SILENT_WITHIN_S, f"The agent spoke on for {silent:.2f} s."


def check_journal(call: Heard, journal: Path) -> None:
    """What the journal claims, against the recording."""
    records = read_records(journal)
    offset = clock_offset(records)
    events = [record.event for record in records if isinstance(record, Emitted)]

    def at(event_at: float) -> float:
        return event_at - offset

    # Turns: each line once, where it is, with its words.
    places = {line: place for line, place in call.places.items() if line != "backchannel"}
    texts = {event.turn: event.text for event in events if isinstance(event, UserTranscript) and event.final}
    turns = [event for event in events if isinstance(event, TurnCommitted)]
    assert len(turns) == len(places), [turn.text for turn in turns]
    for turn, place in zip(turns, places.values(), strict=True):
        text = texts.get(turn.turn, turn.text)
        assert wer(place.text, text) <= LINE_WER, f"“{place.text}” became “{text}” in the journal."
        assert place.end - 0.1 <= at(turn.at), f"“{place.text}” was committed before it was over."
    said, written = (
        " ".join(words) for words in ([p.text for p in places.values()], [texts.get(t.turn, t.text) for t in turns])
    )
    assert wer(said, written) <= ALL_WER, written
    starts = [event.position / 16_000 for event in events if isinstance(event, UserSpeechStarted)]
    for place in call.places.values():
        assert any(abs(start - place.start) < 0.4 for start in starts), f"No speech noticed at “{place.text}”."
    noises = [event for event in events if isinstance(event, TurnDiscarded)]
    assert any(
        event.reason == "backchannel" and 0 <= at(event.at) - call.places["backchannel"].start < 5 for event in noises
    )

    # Tools: the right ones, in order, each after its line and before the next; the slow one runs on in between.
    runs = [event for event in events if isinstance(event, ToolStarted)]
    results = {event.call: event for event in events if isinstance(event, ToolFinished)}
    assert [run.name for run in runs] == list(_TOOLS.values())
    assert all(results[run.call].status == "ok" for run in runs)
    bounds = [*places.values()]
    for index, (run, line) in enumerate(zip(runs, _TOOLS, strict=True)):
        assert places[line].end - 0.1 <= at(run.at)
        assert index + 1 == len(bounds) or at(run.at) <= bounds[index + 1].start
    slow = results[runs[3].call]
    assert slow.duration_s >= 2.9
    assert at(runs[3].at) < places["meanwhile"].start < at(slow.at)
    assert "before" in str(runs[5].arguments["delivery"])

    _check_answers(call, [event for event in events if isinstance(event, ResponseFinished) and event.heard])
    _check_interruption(call, events, at(0.0))

    # The end, and a replay that decides the same.
    ends = [event for event in events if isinstance(event, SessionEnded)]
    assert [event.reason for event in ends] == ["completed"]
    assert isinstance(events[-1], SessionEnded)
    options, facts = floor_records(records)
    _, decided = replay(facts, options)
    assert decided == recorded(facts)


def _check_answers(call: Heard, answers: Sequence[ResponseFinished]) -> None:
    """What was heard, says the journal, is what can be heard; recognised from one line of the caller's to the next."""
    lines = [place.start for place in call.places.values() if place.line != "backchannel"]
    hearings = zip(*(call.hearings(start, end) for start, end in pairwise([0.0, *lines, call.length])), strict=True)
    claimed = spoken(" ".join(answer.heard.strip() for answer in answers))
    rate, recognised = min((wer(claimed, heard), heard) for heard in map(" ".join, hearings))
    assert rate <= AGENT_WER, f"{rate:.2f}: the journal says “{claimed}”, heard is “{recognised}”."


def _check_interruption(call: Heard, events: Sequence[object], zero: float) -> None:
    """The answer that was cut: its heard words, up to the cut, are on the recording, and the cut is where the journal has it."""
    cut = call.places["barge_in"]
    answer = next(event for event in events if isinstance(event, ResponseFinished) and event.status == "interrupted")
    assert answer.text.startswith(answer.heard)
    assert 0 < len(answer.heard) < len(answer.text)
    begun = next(event for event in events if isinstance(event, ResponseStarted) and event.response == answer.response)
    first = next(
        event.at + zero
        for event in events
        if isinstance(event, Interruption) and event.response == answer.response and event.at + zero > cut.start
    )
    assert cut.start < first < cut.start + SILENT_WITHIN_S
    before = call.agent_says(begun.at + zero, answer.at + zero)
    assert wer(answer.heard, before) <= LINE_WER, f"The journal says “{answer.heard}”, heard is “{before}”."
    heard = call.agent_talks(begun.at + zero, answer.at + zero)
    assert heard <= answer.heard_ms / 1000 + 1.0, "More was heard than the journal says."
    yields = [event for event in events if isinstance(event, Interruption) and event.stage == "yield"]
    assert len(yields) == 1
