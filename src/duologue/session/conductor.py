"""The conductor of one session: evidence in, the floor stepped, orders carried out.

It is the only caller of the floor. Models and channels report what they perceive (:mod:`.reports` reads that); the floor answers
with actions; the conductor turns those into commands to the model, playout and history, and into events for whoever watches.
What the agent says unasked, and what playout tells of its answers, is :mod:`.speaking`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from ..channels.base import Channel
from ..engine import actions as act
from ..engine.conversation import Conversation, Item
from ..engine.floor import Floor, FloorOptions, State
from ..engine.floor_state import OVERLAPPING
from ..engine.limits import LimitOptions, Limits
from ..engine.replay import TICK_S, Recorder
from ..errors import DuologueError
from ..events import (
    EndReason,
    Event,
    SessionGoingAway,
    TurnCommitted,
    TurnDiscarded,
    UserSpeechStarted,
    UserSpeechStopped,
)
from ..models import base as m
from ..telemetry import Exporter, TurnBuilder
from .exchange import Exchange
from .journal import History, SessionJournal
from .measure import Measures
from .reports import Reports
from .response import Response
from .responses import Responses
from .speaking import Speaking


class Owner(Protocol):
    """What the conductor asks of the session around it."""

    id: str

    @property
    def generation(self) -> int: ...

    def end(self, reason: EndReason, detail: str = "") -> None: ...

    def end_by(self, seconds: float, reason: EndReason, detail: str) -> None: ...

    def call_over(self, reason: EndReason, detail: str = "") -> None: ...

    def run_settled(self) -> None: ...

    def tool_requested(self, response: str, call: Any) -> None: ...

    def tools_withdrawn(self, calls: Sequence[str]) -> None: ...

    def barged_in(self) -> None: ...

    def turn_reopened(self, turn: str) -> None: ...

    def channel_failed(self, channel: Channel, error: Exception) -> None: ...

    def connection_lost(self, error: DuologueError) -> None: ...

    def schedule_wake(self) -> None: ...

    def hook(self, name: str, *args: Any) -> None: ...

    def turn_record(self, turn: str) -> TurnBuilder: ...

    def losses(self) -> dict[str, int]: ...


class Conductor:
    """See the module. `clock` is the monotonic one; the session's zero on it (`base`) lies `elapsed` seconds back: `at` in events
    counts from it. `turns`: how many turns it has had.
    """

    def __init__(
        self,
        owner: Owner,
        journal: SessionJournal,
        *,
        floor: FloorOptions,
        limits: LimitOptions,
        capabilities: m.Capabilities,
        clock: Callable[[], float],
        speaks: bool,
        idle_prompt: str,
        apology: str = "",
        farewell: str = "",
        export: Exporter | None = None,
        elapsed: float = 0.0,
        turns: int = 0,
    ) -> None:
        self.owner = owner
        self.now = clock
        self.journal = journal
        self.capabilities = capabilities
        self.base = base = clock() - elapsed
        self.floor = Floor(floor, turns=turns)
        self.facts = Recorder(self.floor, journal.record, base)
        self.limits = Limits(limits, base)
        self.conversation = Conversation()
        self.exchange = Exchange()
        self.connection: m.Connection | None = None
        #: whether there is anybody to answer; if not, nothing is begun
        self.present = True
        self.speaking = Speaking(
            self,
            speaks=speaks,
            boundary_s=floor.interruption.boundary_ms / 1000,
            apology=apology,
            goodbye=farewell,
        )
        self.responses = Responses(
            self.speaking,
            max_queued=limits.queued_responses,
            max_response_s=limits.max_response_s,
            queued_s=limits.queued_s,
        )
        self.measures = Measures(self.emit, owner.turn_record, base=base, losses=owner.losses, export=export)
        self.report = Reports(self).take
        self._idle_prompt = idle_prompt
        self._duck_db = floor.interruption.duck_db
        self._steps = 0
        self._since_snapshot = 0
        self._actions: dict[type, Callable[[Any], None]] = {
            act.UserStarted: self._user_started,
            act.UserStopped: self._user_stopped,
            act.Prepare: self._prepare,
            act.Commit: self._commit,
            act.Reopen: self._reopen,
            act.Discard: self._discard,
            act.Duck: self._duck,
            act.Pause: self._pause,
            act.Resume: lambda a: self.responses.resume(a.reason),
            act.Yield: self._yield,
            act.SpeakFreely: self._speak_freely,
        }

    # ------------------------------------------------------------------ stepping the floor

    def emit(self, event: Event) -> None:
        """Journal an event and tell it to everybody once it is durable."""
        self.measures.observe(event, self.exchange.turn, self.now())
        self.journal.emit(self.stamped(event))

    def stamped[E: Event](self, event: E) -> E:
        """The event as of now."""
        return msgspec.structs.replace(event, at=round(self.now() - self.base, 4))

    def fact(self, name: str, *args: Any) -> None:
        """Step the floor with a fact, and carry out what it orders."""
        self.obey(self.facts.fact(name, *args, now=self.now()))
        self.owner.schedule_wake()  # even a fact that orders nothing may move a deadline

    def obey(self, actions: list[act.Action]) -> None:
        """Carry out what the floor has just ordered."""
        if steps := self.floor.steps - self._steps:
            self._steps += steps
            for step in list(self.floor.transitions)[-steps:]:
                self.measures.stepped(self.floor.turn, step.now, step.source, step.target, step.reason)
        for action in actions:
            self._actions[type(action)](action)
        if actions:
            self.settle_idleness()

    def wake(self) -> None:
        """A deadline of floor or limits has come."""
        now = self.now()
        due = self.floor.next_deadline()
        if due is not None and now - self.base >= due - TICK_S:
            self.fact("wake")
        for fired in self.limits.wake(now):
            if fired == "going_away":
                self.emit(SessionGoingAway(in_s=self.limits.options.notice_s, reason="limit"))
            elif fired == "length":
                self.owner.end("limit", "maximum call length")
            elif fired == "idle_end":
                self.owner.end("idle", "nobody said anything")
            elif self._idle_prompt:
                self.speaking.say(self._idle_prompt, "idle")

    def next_deadline(self) -> float:
        """When :meth:`wake` is due, on the monotonic clock."""
        due = self.limits.next_deadline()
        floor = self.floor.next_deadline()
        return due if floor is None else min(due, floor + self.base)

    def settle_idleness(self) -> None:
        """Something changed: the limits, the owner's timer and the connection are to know whether the call is quiet."""
        if self.floor.state is State.IDLE and not self.owing and self.present:
            self.limits.idle(self.now())
        else:
            self.limits.busy()
        self.owner.schedule_wake()
        if self.connection is not None:
            self.connection.quiet(self.floor.state in (State.IDLE, State.AGENT) and not self.making)

    @property
    def making(self) -> bool:
        """Whether an answer is being made."""
        return any(not response.generated for response in self.responses.all)

    @property
    def owing(self) -> bool:
        """Whether anything is being made or played, or a tool's result is still to come."""
        return self.responses.owed or bool(self.conversation.open_calls())

    def vacate(self, why: str) -> None:
        """Nobody is there any more: take back what the agent says, and begin nothing. `settle_floor` follows."""
        if self.connection is not None:
            self.connection.hear_out()
        self.speaking.leave()
        self.present = False
        for response in self.responses.all:
            generated = response.generated
            self.responses.cancel(response, "cancelled", why)
            if not generated:
                self.cancel(response.id)
        self.speaking.vacated()

    def settle_floor(self, why: str) -> None:
        """Nobody listens any more: what the user had begun is history, and not answered."""
        self.fact("silent")
        if self.floor.state in OVERLAPPING:
            self.fact("interrupt", why)  # it was being decided whether they interrupt
        for _ in range(2):  # speaking, then pausing
            if self.floor.user_has_floor:
                self.fact("input_ended")
        if self.floor.state is State.THINKING:
            self.exchange.take_back()
            self.fact("no_answer", why)
            self.measures.unanswered(self.exchange.turn)
        self.settle_idleness()

    def cancel(self, response: str) -> None:
        """Have the model stop making a response."""
        if self.connection is not None:
            self.connection.cancel(response)

    def history(self) -> list[Item]:
        """The conversation for a model: finished answers as heard, unfinished ones as planned."""
        return self.conversation.compacted(
            max_bytes=self.capabilities.history_bytes,
            max_items=self.capabilities.history_items,
            max_text=self.capabilities.history_text,
            planned={response.id: response.script.text for response in self.responses.all if not response.gated},
        )

    # ------------------------------------------------------------------ what it orders

    def _user_started(self, a: act.UserStarted) -> None:
        self.measures.speech_started(a.turn, a.at_ms)
        self.emit(UserSpeechStarted(position=self._sample(a.at_ms)))

    def _user_stopped(self, a: act.UserStopped) -> None:
        self.measures.speech_stopped(a.turn, a.at_ms)
        self.emit(UserSpeechStopped(position=self._sample(a.at_ms)))

    def _sample(self, ms: float) -> int:
        return round(ms * self.capabilities.input_rate / 1000)

    def _prepare(self, a: act.Prepare) -> None:
        if self.connection is not None:
            self.connection.prepare(a.turn, reply=a.reply)

    def _commit(self, a: act.Commit) -> None:
        text = self.floor.text
        self.limits.active()
        exchange = self.exchange
        exchange.commit(a.turn, begun=bool(self.responses.of_turn(a.turn)))
        self.measures.committed(a.turn, a.speech_end_ms, self.now(), a.reason, text)
        self.conversation.user(a.turn, text)
        self.emit(TurnCommitted(turn=a.turn, text=text, reason=a.reason))
        self._snapshot(a.turn)
        self.owner.hook("on_turn", a.turn, text)
        if self.connection is not None:
            self.connection.commit(a.turn)
        for response in self.responses.of_turn(a.turn):
            # Before the gate opens: an answer that is only a tool call is over as soon as it may go.
            held, response.held_calls = response.held_calls, []
            for call in held:
                self.owner.tool_requested(response.id, call)
        self.responses.gate_opened(a.turn)
        cut_off = self.responses.get(exchange.cut_off)
        if cut_off is not None and cut_off.turn == a.turn:
            self.cancel(cut_off.id)
        if not exchange.begun and a.turn == exchange.failed:
            exchange.begun = True  # its answer has failed already, and the model begins no other
            self.speaking.unowed()

    def _snapshot(self, turn: str) -> None:
        """Every some turns: the history into the journal."""
        options = self.limits.options
        self._since_snapshot += 1
        if options.snapshot_turns and self._since_snapshot >= options.snapshot_turns and self.journal.durable:
            self._since_snapshot = 0
            state = msgspec.Raw(self.conversation.dump(options.snapshot_bytes))
            at = round(self.now() - self.base, 4)
            self.journal.record(History(at, turn, self.responses.count, list(self.speaking.untold), state))

    def _reopen(self, a: act.Reopen) -> None:
        self.exchange.reopen(a.turn)
        for response in self.responses.of_turn(a.turn):
            self.responses.cancel(response, "cancelled", a.reason)
        if self.connection is not None:
            self.connection.reopen(a.turn)
        self.owner.turn_reopened(a.turn)
        self.measures.reopened(a.turn)

    def _discard(self, a: act.Discard) -> None:
        if self.connection is not None:
            self.connection.discard(a.turn)
        for response in self.responses.of_turn(a.turn):
            self.responses.cancel(response, "cancelled", a.reason)
        self.emit(TurnDiscarded(turn=a.turn, reason=a.reason, text=self.floor.text))
        self.measures.discarded(a.turn)

    def _duck(self, a: act.Duck) -> None:
        gain = self._duck_db if a.on else 0.0
        for listener in self.responses.listeners:
            listener.duck(gain)

    def _pause(self, a: act.Pause) -> None:
        turn, decided, playing = self.floor.turn, self.now(), self.responses.playing_id
        self.responses.pause(a.reason, lambda: self.measures.silenced(turn, playing, decided, self.now(), a.reason))

    def _yield(self, a: act.Yield) -> None:
        turn, decided = self.floor.turn, self.now()
        self.owner.barged_in()
        self.exchange.take_back()

        def cut(response: Response, heard: int) -> None:
            if heard or response.samples:
                self.measures.silenced(turn, response.id, decided, self.now(), a.reason)
            if self.connection is not None:
                if not response.generated:
                    self.connection.cancel(response.id)
                self.connection.truncate(response.id, heard)
            self.owner.hook("on_interruption", response.id, a.reason)

        self.speaking.interrupted()
        self.responses.yield_floor(a.reason, cut)

    def _speak_freely(self, a: act.SpeakFreely) -> None:
        self.responses.kick()
        self.speaking.pay_owed()
