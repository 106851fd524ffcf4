"""The account of a conversation: what the user has said, which answer is owed to them, and what has been made of it. Pure.

It is told what the session commands and what the link in use reports, and says what follows. It knows of one link at a time:
:meth:`Account.cut` closes what the one before was making, and the next one may take up an answer that nobody has noticed yet.

Positions are samples of the user's track at the session's rate. What lies before :attr:`Account.answered_to` has an answer that
sounds: no other link is to hear it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..engine.conversation import Item
from ..events import ResponseOrigin
from .base import Began, Ended, Evidence, Said, Spoke, ToolRequested

#: after the position at which the user is said to have stopped, what may still belong to the turn (seconds)
_TAIL_S = 0.2
#: responses of whose other name is kept
_REMEMBERED = 64
#: instruction to a link that takes over in the middle of an answer
_GO_ON = (
    "You were cut off in the middle of your last answer. Go on from where it stopped, without greeting or repeating."
)
#: the same, where no word of that answer is known: it is not in the history, and would be looked for in the one before
_ANEW = "Your answer to what the user said last was cut off as it began. Give it again, without greeting."


class Owed:
    """An answer that a link owes: to a turn, or to a command."""

    __slots__ = ("end", "instructions", "kind", "origin", "response", "text", "turn")

    def __init__(
        self,
        kind: Literal["turn", "respond", "say"],
        *,
        turn: str = "",
        response: str = "",
        text: str = "",
        instructions: str = "",
        origin: ResponseOrigin = "turn",
        end: int = 0,
    ) -> None:
        self.kind = kind
        self.turn = turn
        self.response = response
        self.text = text  # that was typed, or is to be said
        self.instructions = instructions
        self.origin: ResponseOrigin = origin
        self.end = end  # position of the end of the turn on the user's track

    def is_answered_by(self, response: str, turn: str) -> bool:
        """Whether a response (which answers `turn`, if any) is this answer."""
        return turn == self.turn if self.kind == "turn" else response == self.response

    def said(self, history: Sequence[Item]) -> str:
        """What the user said in the turn that this answers, if that is known."""
        if self.kind != "turn":
            return ""
        said = (item.text for item in reversed(history) if item.kind == "user" and item.id == self.turn)
        return next(said, "") or self.text


class _Made:
    """What a response under way has come to."""

    __slots__ = ("audible", "calls", "loose", "text", "turn")

    def __init__(self, began: Began, *, asked: bool) -> None:
        self.turn = began.turn
        #: the provider made it by itself and says of no turn that it answers it: it answers the one that is owed
        self.loose = began.origin == "turn" and not began.turn and not asked
        self.text = False
        self.audible = False
        self.calls = False

    def answers(self, response: str, owed: Owed) -> bool:
        """Whether it is what is owed."""
        return (self.loose and owed.kind == "turn") or owed.is_answered_by(response, self.turn)


class Account:
    """See the module. `rate` is the session's input rate in Hz.

    Attributes:
        owed: the answer that is owed, if any is.
        answered_to: up to where the answer to what the user said has begun to sound.
        committed_to: where the last committed turn ended.
        heard_to: up to where speech was looked for, window by window.
    """

    def __init__(self, rate: int) -> None:
        self.owed: Owed | None = None
        self.answered_to = 0
        self.committed_to = 0
        self.heard_to = 0
        self._tail = int(_TAIL_S * rate)
        self._before = 0  # `answered_to` before the last turn
        self._stopped_at = 0  # where a provider last heard the user stop
        self._making: dict[str, _Made] = {}  # by the session's id
        self._ahead: dict[str, str] = {}  # finished answers to turns that are not over yet: response, turn
        self._wordless = False  # whether no word is known of the one that was cut off last
        self._unnoticed = ""  # a response that the link before had begun, for the one in use to make
        self._ours: dict[str, str] = {}  # by the link's id of such a response: the session's

    # ------------------------------------------------------------------ the user

    def heard(self, end: int) -> None:
        """Speech was looked for up to here."""
        self.heard_to = end

    def stopped(self, position: int) -> None:
        """The provider heard the user stop there."""
        self._stopped_at = position

    def commit(self, turn: str, typed: str, position: int) -> bool:
        """The turn is over, `position` being where the track is. Whether an answer to it is owed from now on."""
        owed = Owed("turn", turn=turn, text=typed, end=self._end_of_turn(position))
        self._before = self.answered_to
        made_already = turn in self._ahead.values()
        if made_already or any(made.audible and made.turn == turn for made in self._making.values()):
            self._sounded(owed)
        if made_already:
            self.owed = None
        else:
            self.owe(owed)
        self.committed_to = owed.end
        self._ahead.clear()
        return not made_already

    def _end_of_turn(self, position: int) -> int:
        """Where the turn that is being committed ends. What follows may be the beginning of another one already."""
        for told in (self._stopped_at, self.heard_to):
            if self.committed_to < told:
                return min(position, told + self._tail)
        return position

    def reopen(self) -> None:
        """The last turn goes on: it was not answered after all."""
        self.answered_to = self._before
        self.owed = None
        self._ahead.clear()

    def discard(self) -> None:
        """The open turn was none."""
        self._ahead.clear()

    # ------------------------------------------------------------------ what is owed

    def owe(self, owed: Owed) -> None:
        """This is owed, in place of what was."""
        self.owed = owed
        self._unnoticed = ""

    def cancel(self, response: str) -> bool:
        """Nobody wants this response any more. Whether nothing is owed from now on."""
        made = self._making.pop(response, None)
        self._ahead.pop(response, None)
        if response == self._unnoticed:
            self._unnoticed = ""
        owed = self.owed
        if owed is None or self._making or not (made is None or owed.is_answered_by(response, made.turn)):
            return False
        self.owed = None
        return True

    def waive(self) -> str:
        """Nobody waits for what is owed any more. The response that was to be made of it, if one has a name already."""
        unnoticed, self._unnoticed = self._unnoticed, ""
        self.owed = None
        return unnoticed

    # ------------------------------------------------------------------ what the link in use makes

    @property
    def sounds(self) -> bool:
        """Whether an answer is being made of which something can be heard, and no tool is waited for."""
        return any(made.audible and not made.calls for made in self._making.values())

    def makes(self, response: str) -> bool:
        """Whether this response is being made."""
        return response in self._making

    def takes_up(self, began: Began) -> bool:
        """Whether this is the response that the link before had begun, and nobody has noticed anything of."""
        unnoticed, owed = self._unnoticed, self.owed
        if not unnoticed or owed is None or not owed.is_answered_by(began.response, began.turn):
            return False
        self._unnoticed = ""
        if began.response != unnoticed:
            self._ours[began.response] = unnoticed
            while len(self._ours) > _REMEMBERED:
                del self._ours[next(iter(self._ours))]
        self._making[unnoticed] = _Made(began, asked=owed.kind != "turn")
        return True

    def ours(self, response: str) -> str:
        """The id by which the session knows a response of the link in use."""
        return self._ours.get(response, response)

    def theirs(self, response: str) -> str:
        """The id by which the link in use knows a response of the session."""
        return next((theirs for theirs, ours in self._ours.items() if ours == response), response)

    def note(self, evidence: Evidence, *, speaks: bool) -> bool:
        """A response got on, by the session's id; `speaks`: as sound. Whether nothing is owed any more, for that."""
        match evidence:
            case Began():
                asked = self.owed is not None and self.owed.response == evidence.response
                self._making[evidence.response] = _Made(evidence, asked=asked)
                if evidence.turn in self._ahead.values():  # it replaces what was made before
                    self._ahead = {response: turn for response, turn in self._ahead.items() if turn != evidence.turn}
            case Said() if (made := self._making.get(evidence.response)) is not None:
                made.text = True
                made.audible = made.audible or not speaks
            case Spoke() if (made := self._making.get(evidence.response)) is not None:
                if not made.audible and self.owed is not None and made.answers(evidence.response, self.owed):
                    self._sounded(self.owed)
                made.audible = True
            case ToolRequested() if (made := self._making.get(evidence.response)) is not None:
                made.calls = True
            case Ended():
                return self._ended(evidence)
        return False

    def _ended(self, ended: Ended) -> bool:
        """A response is over: what it answered need not be replayed any more."""
        made, owed = self._making.pop(ended.response, None), self.owed
        if ended.status != "completed":
            self._ahead.pop(ended.response, None)
        elif made is not None and made.turn and (owed is None or owed.turn != made.turn):
            # A speculative answer was made before its turn is over: nothing will be owed when it is.
            self._ahead[ended.response] = made.turn
        if owed is None or made is None or not made.answers(ended.response, owed):
            return False
        self._sounded(owed)
        self.owed = None
        return True

    def _sounded(self, owed: Owed) -> None:
        """The answer has begun to sound: what it answers is not to be heard by another link as well."""
        if owed.kind == "turn":
            self.answered_to = max(self.answered_to, owed.end)

    # ------------------------------------------------------------------ from one link to the next

    def cut(self) -> tuple[list[Ended], bool]:
        """What the link before was making ends where it is. Its ends, and whether what is owed had begun to sound."""
        ends: list[Ended] = []
        interrupted = False
        owed, unnoticed = self.owed, ""
        for response, made in self._making.items():
            if made.calls:
                # Its tools run, and their results will be answered. Asked again, it would call them twice.
                self.owed = None
                ends.append(Ended(response=response))
            elif made.audible:
                if owed is not None and made.answers(response, owed):
                    interrupted, self._wordless = True, not made.text
                ends.append(Ended(response=response))
            elif owed is not None and not made.text and owed.is_answered_by(response, made.turn):
                if unnoticed:
                    ends.append(Ended(response=unnoticed, status="cancelled"))
                unnoticed = response
            else:
                ends.append(Ended(response=response, status="cancelled"))
        if unnoticed and (interrupted or self.owed is None):
            ends.append(Ended(response=unnoticed, status="cancelled"))
            unnoticed = ""
        self._unnoticed = unnoticed  # the next link makes it
        self._making.clear()
        return ends, interrupted

    def go_on(self, owed: Owed, response: str) -> Owed:
        """The answer was cut off while it sounded: what is owed from now on is `response`, which goes on with it."""
        instructions = _ANEW if self._wordless else _GO_ON
        self.owed = Owed("respond", response=response, instructions=instructions, end=owed.end)
        return self.owed
