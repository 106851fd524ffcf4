"""The conversation out of a journal: its last snapshot, and the events after it.

What events do not carry (notes, pictures, entries that an application put in itself) is as recent as the last snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from ..engine.conversation import Conversation
from ..events import (
    Event,
    ResponseFinished,
    ResponseStarted,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    UserTranscript,
)
from .journal import Emitted, History, JournalRecord


class Rebuilt(msgspec.Struct, kw_only=True):
    """Where a session stood when its journal ended.

    Attributes:
        conversation: its history. Tool calls without a result are open; whoever takes over settles them.
        turn: the last committed turn, "" if there was none.
        responses: how many response ids were given out at least.
        untold: results that the model has not spoken of.
        replayed: events that were read beside the snapshot.
    """

    conversation: Conversation
    turn: str = ""
    responses: int = 0
    untold: list[str] = []
    replayed: int = 0


def rebuild(records: Sequence[JournalRecord]) -> Rebuilt:
    """The conversation as of the end of these records. Only what follows the last snapshot is looked at.

    Raises `msgspec.ValidationError` for a snapshot that is none.
    """
    made = Rebuilt(conversation=Conversation())
    for event in _since_snapshot(records, made):
        made.replayed += 1
        _apply(event, made)
    return made


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
