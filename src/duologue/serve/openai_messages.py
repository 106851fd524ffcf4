"""What the user said as messages of OpenAI Realtime.

The vendor makes a message of each pause or commit and transcribes it once, for itself; a session recognises a turn as a whole. So
a turn that goes on after it was committed, and one that a client commits in parts, are several messages here, and each has
only the words that came since the one before.
"""

from __future__ import annotations

import msgspec

from ..wire.openai_realtime import ServerProtocol

#: turns whose messages can still get a transcript
_TURNS = 64


class _Turn(msgspec.Struct):
    """Messages of one turn. `waiting`: those without a transcript; `words`: how many were told; `over`: it was committed."""

    items: list[str] = []
    waiting: list[str] = []
    words: int = 0
    over: bool = False


class Messages:
    """The user's spoken messages on one link."""

    def __init__(self, protocol: ServerProtocol) -> None:
        self._protocol = protocol
        self._turns: dict[str, _Turn] = {}
        self._heard: list[str] = []  # messages of the open turn, as long as nobody has said which that is
        self._known: tuple[str, str] | None = None  # the open turn and what was said in it, unless they speak on

    def hear(self, item: str, *, fresh: bool = True) -> None:
        """The session is given the audio of this message. `fresh`: not before now."""
        self._heard.append(item)
        if fresh:
            self._known = None
        elif self._known is not None:
            self.recognised(*self._known)

    def speaks(self) -> None:
        """The user speaks, or goes on."""
        self._known = None

    def empty(self, item: str) -> None:
        """There was nothing in this message."""
        self._heard = [entry for entry in self._heard if entry != item]
        self._protocol.transcribed(item, "")

    @property
    def unsettled(self) -> bool:
        """Whether a message of the open turn waits for its transcript."""
        return bool(self._heard) or any(turn.waiting and not turn.over for turn in self._turns.values())

    def spoken(self, turn: str) -> bool:
        """Whether the client has committed messages of this turn, which is open."""
        return bool(self._heard) or (turn in self._turns and not self._turns[turn].over)

    def recognised(self, turn: str, text: str) -> None:
        """All that was said in a turn is known, up to here."""
        self._known = turn, text
        if self._heard:
            self._record(turn)
        if turn in self._turns:
            self._tell(self._turns[turn], text)

    def committed(self, turn: str, text: str) -> None:
        """A turn is over. `text` is "" where it is not known yet."""
        if not self.spoken(turn):
            self._heard.append(self._protocol.committed())
        record = self._record(turn)
        record.over = True
        self._known = None
        if text:
            self._tell(record, text)

    def silent(self) -> None:
        """There was nothing in what the session was given."""
        waiting, self._heard, self._known = self._heard, [], None
        for turn in [turn for turn, record in self._turns.items() if not record.over]:
            waiting += self._turns.pop(turn).waiting
        for item in waiting:
            self._protocol.transcribed(item, "")

    def turn_of(self, item: str) -> str:
        """The turn of a message; "" for what is none."""
        return next((turn for turn, record in self._turns.items() if item in record.items), "")

    def forget(self, item: str) -> bool:
        """The client deletes a message. Whether that was all there was of the open turn."""
        found = item in self._heard
        self._heard = [entry for entry in self._heard if entry != item]
        for record in self._turns.values():
            if item in record.items and not record.over:
                found = True
                record.items.remove(item)
                record.waiting = [entry for entry in record.waiting if entry != item]
        left = any(record.items for record in self._turns.values() if not record.over)
        return found and not self._heard and not left

    def _record(self, turn: str) -> _Turn:
        """The turn, with the messages that were given for it."""
        record = self._turns.setdefault(turn, _Turn())
        heard, self._heard = self._heard, []
        record.items += heard
        record.waiting += heard
        record.over = record.over and not heard
        if len(self._turns) > _TURNS:
            del self._turns[next(iter(self._turns))]
        return record

    def _tell(self, record: _Turn, text: str) -> None:
        words = text.split()
        rest = " ".join(words[record.words :])
        waiting, record.waiting = record.waiting, []
        for item in waiting:
            self._protocol.transcribed(item, rest)
            rest = ""
        if waiting:
            record.words = len(words)
