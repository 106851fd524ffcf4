"""What the agent says and what it still owes: answers begun unasked, answers deferred, and what playout tells of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine.conversation import Conversation
from ..engine.floor import State
from ..events import ErrorEvent, Event, ResponseOrigin, ResponseStatus
from .playout import Listener
from .response import Response

if TYPE_CHECKING:
    from .conductor import Conductor


class Speaking:
    """The director of a session's responses (see :class:`duologue.session.responses.Director`).

    Attributes:
        farewell: the call ends once the next answer was heard.
        silent_since: when the agent was last heard, on the monotonic clock.
        untold: calls whose results the model has not spoken of.
        lasting: those of long runs that nobody has heard of yet, though the model may be speaking of them.
    """

    def __init__(self, conductor: Conductor, *, speaks: bool, boundary_s: float, apology: str, goodbye: str) -> None:
        self._conductor = conductor
        self.conversation: Conversation = conductor.conversation
        self.speaks = speaks
        self.boundary_s = boundary_s
        self.farewell = False
        self.silent_since = conductor.base
        self.untold: list[str] = []
        self.lasting: set[str] = set()
        self._telling: dict[str, list[str]] = {}  # of unfinished responses: the calls whose results they tell
        self._unsaid: list[tuple[str, str]] = []  # said to nobody: what waits for whoever joins
        self._apology = apology
        self._goodbye = goodbye
        self._apologised = False
        self._owed: list[tuple[str, ResponseOrigin]] = []

    # ------------------------------------------------------------------ beginning to speak

    def say(self, text: str, origin: ResponseOrigin = "say") -> str:
        """Have `text` spoken verbatim as soon as the floor allows. Returns the response's id."""
        id = self._conductor.responses.next_id()
        if not self._conductor.present:
            if origin == "say":
                self._unsaid.append((id, text))
        elif (connection := self._conductor.connection) is not None:
            connection.say(id, text, origin)
        return id

    def say_when_room(self, text: str) -> str:
        """As :meth:`say`, for whoever can be told. Raises OverloadedError when too much waits to be said."""
        self._conductor.responses.check_room(len(self._unsaid))
        return self.say(text)

    def respond(self, instructions: str, origin: ResponseOrigin = "respond") -> None:
        """Have the model answer; deferred while the user has the floor or an answer is being made."""
        if self.may_respond():
            self._respond(instructions, origin)
        elif (instructions, origin) not in self._owed:
            self._owed.append((instructions, origin))

    def _respond(self, instructions: str, origin: ResponseOrigin) -> None:
        id = self._conductor.responses.next_id()
        if origin in ("tool", "farewell"):
            # This answer tells of every result that has not been told of.
            self.conversation.bring_forward(self.untold)
            if self.lasting:
                self._telling[id] = list(self.untold)
            self.untold.clear()
            self._owed = [owed for owed in self._owed if owed[1] != "tool"]
        if (connection := self._conductor.connection) is not None:
            connection.respond(id, instructions, origin)

    def may_respond(self) -> bool:
        """Whether an answer that is no answer to a turn may be begun: nobody speaks, nothing is being made, somebody is there."""
        state = self._conductor.floor.state
        return (
            self._conductor.present
            and not self._conductor.making
            and (state in (State.IDLE, State.AGENT) or (state is State.THINKING and self._conductor.exchange.begun))
        )

    def pay_owed(self) -> None:
        """Begin what was deferred, if it may be begun now."""
        if self._owed and self.may_respond():
            self._respond(*self._owed.pop(0))

    def interrupted(self) -> None:
        """The user took the floor: what the agent was going to do unasked is off; what a tool found out is still news."""
        self._owed = [owed for owed in self._owed if owed[1] in ("tool", "farewell")]

    # ------------------------------------------------------------------ when nobody is there

    def news(self) -> set[str]:
        """Calls of long runs of whose results nobody has heard anything."""
        responses = self._conductor.responses
        begun = {call for id, calls in self._telling.items() if responses.heard_any(id) for call in calls}
        return self.lasting - begun

    def leave(self) -> None:
        """Everybody is leaving; what they have heard a part of counts as told."""
        self.farewell = False
        self.lasting = self.news()

    def vacated(self) -> None:
        """What the agent was going to do for them is off, but for telling of long runs."""
        for id in list(self._telling):  # the model was asked to tell, and has not begun
            self.begun_in_vain(id)
            self._conductor.cancel(id)
        self._owed = [("", "tool")] if self.lasting else []

    def begun_in_vain(self, response: str) -> None:
        """Nobody is there for this answer; what it was to tell is told to whoever comes next."""
        calls = self._telling.pop(response, [])
        if self.lasting.intersection(calls):
            self.untold.extend(call for call in calls if call not in self.untold)
            if ("", "tool") not in self._owed:
                self._owed.append(("", "tool"))

    def joined(self) -> None:
        """Somebody is there again: say and tell what has waited for them."""
        unsaid, self._unsaid = self._unsaid, []
        if (connection := self._conductor.connection) is not None:
            for id, text in unsaid:
                connection.say(id, text, "say")
        self.pay_owed()

    def _told(self, response: str) -> None:
        self.lasting.difference_update(self._telling.pop(response, ()))

    # ------------------------------------------------------------------ what goes wrong, and the end

    def apologise(self) -> None:
        """An answer failed. The caller waits for one that will not come: better to say so than to be silent.

        But not twice in a row: a synthesiser that fails would fail at the apology too.
        """
        if self._apology and self.speaks and not self._apologised:
            self._apologised = True
            self.say(self._apology, "filler")

    def say_goodbye(self) -> None:
        """The call ends once the next answer has been heard, or has taken too long."""
        if not self.farewell:
            self.farewell = True
            conductor = self._conductor
            conductor.owner.end_by(conductor.limits.options.goodbye_s, "completed", "the agent ended the call")

    # ------------------------------------------------------------------ what responses ask (Director)

    def now(self) -> float:
        """The monotonic clock."""
        return self._conductor.now()

    def emit(self, event: Event) -> None:
        """Journal an event and tell it."""
        self._conductor.emit(event)

    def may_speak(self) -> bool:
        """Whether queued responses may be played."""
        return self._conductor.floor.may_speak

    def audible(self, response: Response, now: float) -> None:
        """The first sample of a response was handed over."""
        if turn := self.answered_turn(response):
            self._conductor.measures.first(turn, "first_sample", now)
        self._conductor.fact("audible")

    def heard_from(self, response: Response, at: float) -> None:
        """The addressee has acknowledged that they hear a response, by that since `at`."""
        if turn := self.answered_turn(response):
            self._conductor.measures.first(turn, "first_played", at)

    def ending(self, now: float) -> None:
        """Little is left to play."""
        self._conductor.fact("ending")

    def fell_silent(self, now: float) -> None:
        """Everything was played."""
        self.silent_since = now
        self._conductor.fact("silent")
        self._conductor.settle_idleness()
        self.pay_owed()
        self._end_after_farewell()

    def settled(self, response: Response, status: ResponseStatus, heard_samples: int, now: float) -> None:
        """A response is over."""
        conductor = self._conductor
        if conductor.present or heard_samples:
            self._told(response.id)
        else:
            self.begun_in_vain(response.id)
        if heard_samples and response.origin != "filler":
            self._apologised = False
        if response.origin == "farewell" and not response.samples and self._goodbye and self.speaks:
            goodbye, self._goodbye = self._goodbye, ""
            self.say(goodbye, "farewell")
        turn = self.answered_turn(response)
        # One that was taken back unheard is not the turn's answer: another may come, or none (see `unowed`).
        if turn and (status != "cancelled" or heard_samples) and (response.samples or not response.calls):
            conductor.measures.answered(turn, status, heard_samples * 1000 // response.rate, now)
        conductor.owner.hook("on_response", response.id, status)
        self.unowed()
        if conductor.floor.state is State.IDLE:
            self._end_after_farewell()
        conductor.settle_idleness()
        self.pay_owed()

    def unowed(self) -> None:
        """Something is over: if nothing more is to come for the committed turn, nobody has the floor."""
        conductor = self._conductor
        if conductor.floor.state is State.THINKING and conductor.exchange.begun and not conductor.owing:
            conductor.fact("no_answer", "the answer has no audio")
            conductor.measures.unanswered(conductor.exchange.turn)

    def _end_after_farewell(self) -> None:
        if self.farewell and not self._conductor.responses.owed:
            self._conductor.owner.call_over("completed", "the agent ended the call")

    def answered_turn(self, response: Response) -> str:
        """The turn that a response is the audible answer to: its own, or the one whose tools it speaks of."""
        return response.turn or (self._conductor.exchange.turn if response.origin in ("tool", "farewell") else "")

    def listener_failed(self, listener: Listener, error: Exception) -> None:
        """A channel raised while it was given audio."""
        self._conductor.owner.channel_failed(listener.channel, error)

    def listener_unacknowledged(self, listener: Listener) -> None:
        """A listener does not say any more what it hears. The application can act; the call goes on, by estimates."""
        self._conductor.measures.dropped("unacknowledged")
        wait = listener.ledger.options.unacknowledged_wait_s
        name = listener.channel.name
        self._conductor.emit(
            ErrorEvent(
                code="unacknowledged",
                message=f"{name} has not acknowledged any playout for {wait:g} s; what it hears is estimated until it does.",
                ref=name,
            )
        )
