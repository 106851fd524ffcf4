"""Where a session stood, out of its journal: what whoever takes it over goes on from.

The conversation is that of the last snapshot with the events after it. What events do not carry (notes, pictures, entries that an
application put in itself) is as recent as that snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from ..engine.conversation import Conversation
from ..engine.replay import Fact, Windows
from ..events import (
    Event,
    ResponseFinished,
    ResponseHeard,
    ResponseOrigin,
    ResponseStarted,
    ResponseText,
    SessionEnded,
    SessionStarted,
    SessionTakenOver,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    UserSpeechStarted,
    UserTranscript,
)
from .journal import Emitted, History, JournalRecord, Options, Reached, State, Taken

#: so much before what is wanted is listened to, too: a word does not begin where it is noticed
_BEFORE_MS = 500.0


class Cut(msgspec.Struct, kw_only=True):
    """An answer that had been begun and not finished: what of it was made known, and how much was known to be heard."""

    response: str
    origin: ResponseOrigin = "turn"
    turn: str = ""
    text: str = ""
    heard: str = ""
    heard_ms: int = 0


class Back(msgspec.Struct, kw_only=True):
    """How a participant is had back: the channel's own record, and how many events they were told of when it was written."""

    state: msgspec.Raw
    told: int
    #: how many events the journal had then
    journaled: int
    #: the last of their inputs that was taken
    taken: tuple[int, int] = (0, 0)


class Rebuilt(msgspec.Struct, kw_only=True):
    """Where a session stood when its journal ended.

    Attributes:
        conversation: its history. Tool calls without a result are open; whoever takes over settles them.
        turn: the last committed turn, "" if there was none.
        turns: the number of the last turn that has a name.
        responses: how many response ids were given out at least.
        untold: results that the model has not spoken of.
        replayed: events that were read beside the snapshot.
        at: time of the last event, seconds from the beginning of the session.
        cuts: answers that were under way, oldest first. `calls`: tool runs that were.
        answered: whether anything has been begun in answer to `turn`.
        ended: whether the session had ended.
        state: the application's, if it was ever recorded.
        events: all that were journaled. `participants`: by name.
        epoch: of the owner who wrote it.
        losses: how often it has changed its owner in the last minute of its time.
        media_ms: how far the user was listened to for certain. `speaking_ms`: where the turn began that is not over, if one is.
    """

    conversation: Conversation
    epoch: int = 0
    turn: str = ""
    turns: int = 0
    responses: int = 0
    untold: list[str] = []
    replayed: int = 0
    at: float = 0.0
    cuts: list[Cut] = []
    calls: list[ToolStarted] = []
    answered: bool = True
    ended: bool = False
    state: msgspec.Raw | None = None
    events: list[Event] = []
    participants: dict[str, Back] = {}
    losses: int = 0
    media_ms: float = 0.0
    speaking_ms: float | None = None
    input_rate: int = 16_000

    @property
    def wanted_ms(self) -> float:
        """From where on the user has to be listened to again."""
        return max(0.0, (self.media_ms if self.speaking_ms is None else self.speaking_ms) - _BEFORE_MS)

    def since(self, participant: str, had: int) -> list[Event]:
        """The events that a participant who has had so many has still to be told."""
        back = self.participants[participant]
        return self.events[max(0, back.journaled + had - back.told) :]


def rebuild(records: Sequence[JournalRecord]) -> Rebuilt:
    """The session as of the end of these records.

    Raises `msgspec.ValidationError` for a snapshot that is none.
    """
    records = _last_life(records)
    made = Rebuilt(conversation=Conversation())
    for event in _since_snapshot(records, made):
        made.replayed += 1
        _apply(event, made)
    cuts: dict[str, Cut] = {}
    calls: dict[str, ToolStarted] = {}
    for record in records:
        match record:
            case Emitted(event=event):
                made.events.append(event)
                made.at = max(made.at, event.at)
                _follow(event, made, cuts, calls)
            case Reached():
                before = made.participants.get(record.participant)
                made.participants[record.participant] = Back(
                    state=record.state,
                    told=record.told,
                    journaled=len(made.events),
                    taken=before.taken if before is not None else (0, 0),
                )
            case Taken() if (back := made.participants.get(record.participant)) is not None:
                back.taken = (record.epoch, record.n)
            case State():
                made.state = record.state
            case Windows():
                made.media_ms = record.start + record.step * len(record.p)
            case Fact(name="window", args=[_, end, _]):
                made.media_ms = end
    made.losses = sum(isinstance(event, SessionTakenOver) and event.at > made.at - 60.0 for event in made.events)
    made.cuts, made.calls = list(cuts.values()), list(calls.values())
    return made


def _last_life(records: Sequence[JournalRecord]) -> Sequence[JournalRecord]:
    """What belongs to the session that began last: an id may have been used before, for a session that had ended."""
    began = options = 0
    for index, record in enumerate(records):
        if isinstance(record, Options):
            options = index
        elif isinstance(record, Emitted) and isinstance(record.event, SessionStarted):
            began = options
    return records[began:]


def _follow(event: Event, made: Rebuilt, cuts: dict[str, Cut], calls: dict[str, ToolStarted]) -> None:
    """What is under way, event by event."""
    match event:
        case SessionStarted():
            made.input_rate = event.input_rate
        case UserSpeechStarted() if made.speaking_ms is None:
            made.speaking_ms = 1000 * event.position / made.input_rate
        case TurnDiscarded():
            made.speaking_ms = None
        case TurnCommitted():
            made.speaking_ms = None
            made.turns = max(made.turns, _number(event.turn))
            made.answered = any(cut.turn == event.turn for cut in cuts.values())
        case ResponseStarted():
            cuts[event.response] = Cut(response=event.response, origin=event.origin, turn=event.turn)
            if event.origin in ("turn", "respond", "tool", "farewell"):
                made.answered = True
        case ResponseText() if (cut := cuts.get(event.response)) is not None:
            cut.text += event.text
        case ResponseHeard() if (cut := cuts.get(event.response)) is not None:
            cut.heard, cut.heard_ms = event.text, event.ms
        case ResponseFinished():
            cuts.pop(event.response, None)
        case ToolStarted():
            calls[event.call] = event
        case ToolFinished():
            calls.pop(event.call, None)
        case SessionEnded():
            made.ended = True


def _number(turn: str) -> int:
    digits = turn.lstrip("t")
    return int(digits) if digits.isdigit() else 0


def _since_snapshot(records: Sequence[JournalRecord], made: Rebuilt) -> Iterator[Event]:
    last = next((index for index in reversed(range(len(records))) if isinstance(records[index], History)), None)
    if last is not None:
        snapshot = records[last]
        assert isinstance(snapshot, History)
        made.conversation.load(bytes(snapshot.state))
        made.turn, made.responses, made.untold = snapshot.turn, snapshot.responses, list(snapshot.untold)
    for record in records[0 if last is None else last + 1 :]:
        if isinstance(record, Emitted):
            yield record.event


def _apply(event: Event, made: Rebuilt) -> None:
    conversation = made.conversation
    match event:
        case TurnCommitted():
            made.turn = event.turn
            conversation.user(event.turn, event.text)
        case UserTranscript(final=True) if _knows(conversation, event.turn):
            conversation.user(event.turn, event.text)  # recognition settled after the turn was over
        case ResponseStarted():
            made.responses = max(made.responses, int(event.response.lstrip("r")))
            if event.origin in ("tool", "farewell"):
                conversation.bring_forward(made.untold)
                made.untold.clear()
            conversation.reserve(event.response)
        case ResponseFinished():
            conversation.assistant(event.response, event.heard, complete=event.status == "completed")
        case ToolStarted():
            conversation.call(event.call, event.name, event.arguments)
        case ToolFinished():
            failed = event.status != "ok"
            text = event.output if isinstance(event.output, str) else msgspec.json.encode(event.output).decode()
            conversation.result(
                event.call, event.name, (event.error or event.status) if failed else text, failed=failed
            )
            made.untold.append(event.call)


def _knows(conversation: Conversation, turn: str) -> bool:
    return any(item.kind == "user" and item.id == turn for item in conversation.items)
