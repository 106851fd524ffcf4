"""The conductor of one session: evidence in, the floor stepped, orders carried out.

It is the only caller of the floor. Models and channels report what they perceive; the floor answers with actions; the
conductor turns those into commands to the model, playout and history, and into events for whoever watches.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from ..channels.base import Channel
from ..engine import actions as act
from ..engine.conversation import Conversation, Item
from ..engine.floor import Floor, FloorOptions, State
from ..engine.limits import LimitOptions, Limits
from ..engine.replay import TICK_S, Recorder
from ..errors import DuologueError, OverloadedError
from ..events import (
    EndReason,
    ErrorEvent,
    Event,
    ResponseOrigin,
    ResponseStatus,
    SessionGoingAway,
    TurnCommitted,
    TurnDiscarded,
    UsageReported,
    UserSpeechStarted,
    UserSpeechStopped,
    UserTranscript,
)
from ..models import base as m
from ..telemetry import Exporter, TurnBuilder
from .journal import History, SessionJournal
from .measure import Measures
from .playout import Listener
from .response import Response
from .responses import Responses

logger = logging.getLogger("duologue.session")


class Owner(Protocol):
    """What the conductor asks of the session around it."""

    id: str

    def now(self) -> float: ...

    def end(self, reason: EndReason, detail: str = "") -> None: ...

    def end_by(self, seconds: float, reason: EndReason, detail: str) -> None: ...

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
    """See the module. `base` is the session's zero on the monotonic clock; `at` in events counts from it."""

    def __init__(
        self,
        owner: Owner,
        journal: SessionJournal,
        *,
        floor: FloorOptions,
        limits: LimitOptions,
        capabilities: m.Capabilities,
        base: float,
        speaks: bool,
        idle_prompt: str,
        apology: str = "",
        farewell: str = "",
        export: Exporter | None = None,
    ) -> None:
        self.owner = owner
        self.journal = journal
        self.capabilities = capabilities
        self.base = base
        self.speaks = speaks
        self.idle_prompt = idle_prompt
        self.apology = apology
        self.goodbye = farewell
        self.floor = Floor(floor)
        self.facts = Recorder(self.floor, journal.record, base)
        self.limits = Limits(limits, base)
        self.conversation = Conversation()
        self.boundary_s = floor.interruption.boundary_ms / 1000
        self.responses = Responses(
            self, max_queued=limits.queued_responses, max_response_s=limits.max_response_s, queued_s=limits.queued_s
        )
        self.measures = Measures(self.emit, owner.turn_record, base=base, losses=owner.losses, export=export)
        self.connection: m.Connection | None = None
        self.farewell = False
        self._output_rate = capabilities.output_rate
        self._told = ("", "", False)
        self._apologised = False
        self._committed_turn = ""
        self._over: deque[str] = deque(maxlen=16)  # the last turns that were committed
        self._answer_begun = True  # whether the model has begun to answer the committed turn
        self._cut_off = ""  # the last response that was ended for its length
        self._failed_turn = ""  # a turn whose speculative answer failed
        self._unwanted_turn = ""  # a turn whose answer was taken back before it began
        self._steps = 0
        self._since_snapshot = 0
        self.silent_since = base  # when the agent was last heard
        self._owed_respond: list[tuple[str, ResponseOrigin]] = []
        self.untold_results: list[str] = []
        self._interruption = floor.interruption
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.SpeechWindow: self._speech_window,
            m.Recognised: self._recognised,
            m.TurnProbability: self._turn_probability,
            m.ProviderSpeech: self._provider_speech,
            m.ProviderCommitted: self._provider_committed,
            m.Began: self._began,
            m.Said: self._said,
            m.Spoke: self._spoke,
            m.Ended: self._ended,
            m.ToolRequested: self._tool_requested,
            m.ToolWithdrawn: lambda e: owner.tools_withdrawn(e.calls),
            m.UsageEvidence: self._usage,
            m.Measured: lambda e: self.measures.point(e.turn or self.floor.turn, e.point, e.now),
            m.Refused: lambda e: self.emit(ErrorEvent(code=e.error.code, message=str(e.error))),
            m.Ending: lambda e: self.emit(SessionGoingAway(in_s=e.in_s, reason=e.reason)),
            m.Lost: lambda e: owner.connection_lost(e.error),
        }
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

    # ------------------------------------------------------------------ plumbing

    def now(self) -> float:
        """The monotonic clock."""
        return self.owner.now()

    def emit(self, event: Event) -> None:
        """Journal an event and tell it to everybody once it is durable."""
        now = self.owner.now()
        self.measures.observe(event, self._committed_turn, now)
        self.journal.emit(msgspec.structs.replace(event, at=round(now - self.base, 4)))

    def report(self, evidence: m.Evidence) -> None:
        """Take evidence from the model's connection."""
        if self.floor.state is not State.CLOSED:
            self._handlers[type(evidence)](evidence)

    def fact(self, name: str, *args: Any) -> None:
        """Step the floor with a fact, and carry out what it orders."""
        self._do(self.facts.fact(name, *args, now=self.owner.now()))
        self.owner.schedule_wake()  # even a fact that orders nothing may move a deadline

    def _do(self, actions: list[act.Action]) -> None:
        if steps := self.floor.steps - self._steps:
            self._steps += steps
            for step in list(self.floor.transitions)[-steps:]:
                self.measures.stepped(self.floor.turn, step.now, step.source, step.target, step.reason)
        for action in actions:
            self._actions[type(action)](action)
        if actions:
            self._settle_idleness()

    def wake(self) -> None:
        """A deadline of floor or limits has come."""
        now = self.owner.now()
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
            elif self.idle_prompt:
                self.say(self.idle_prompt, "idle")

    def next_deadline(self) -> float:
        """When :meth:`wake` is due, on the monotonic clock."""
        due = self.limits.next_deadline()
        floor = self.floor.next_deadline()
        return due if floor is None else min(due, floor + self.base)

    def _settle_idleness(self) -> None:
        if self.floor.state is State.IDLE and not self.responses.owed and not self._tools_pending():
            self.limits.idle(self.owner.now())
        else:
            self.limits.busy()
        self.owner.schedule_wake()
        if self.connection is not None:
            making = any(not response.generated for response in self.responses.all)
            self.connection.quiet(self.floor.state in (State.IDLE, State.AGENT) and not making)

    # ------------------------------------------------------------------ evidence

    def _speech_window(self, e: m.SpeechWindow) -> None:
        scale = 1000 / self.capabilities.input_rate
        actions = self.facts.window(e.start * scale, e.end * scale, e.probability, self.owner.now())
        if actions:
            self._do(actions)

    def _recognised(self, e: m.Recognised) -> None:
        turn = e.turn or self.floor.turn
        if turn in self._over and (turn != self.floor.turn or self.floor.state is not State.THINKING):
            self._told_late(turn, e)
            return
        if turn != self.floor.turn:
            return
        told = (turn, e.text, e.final)
        if told != self._told and (e.text or self._told[1]):
            self._told = told
            self.emit(UserTranscript(turn=turn, text=e.text, final=e.final))
        if e.final and self.floor.state is State.THINKING:
            # Recognition settled only after the turn was over (hard maximum): history gets what was really said.
            self.conversation.user(turn, e.text)
        self.fact("recognised", e.text, e.final)

    def _told_late(self, turn: str, e: m.Recognised) -> None:
        """A provider transcribes beside the conversation: what was said may be known only after it was answered."""
        if e.final and e.text:
            self.emit(UserTranscript(turn=turn, text=e.text, final=True))
            self.conversation.user(turn, e.text)

    def _turn_probability(self, e: m.TurnProbability) -> None:
        self.measures.probability(self.floor.turn, e.probability)
        self.fact("turn_probability", round(e.probability, 4))

    def _provider_speech(self, e: m.ProviderSpeech) -> None:
        self.fact("provider", e.fact, e.position * 1000 / self.capabilities.input_rate)

    def _provider_committed(self, e: m.ProviderCommitted) -> None:
        if self.floor.state in (State.USER, State.PAUSE):
            self.fact("commit", e.reason)

    def _began(self, e: m.Began) -> None:
        gated = bool(e.turn) and e.turn == self.floor.turn and self.floor.state in (State.USER, State.PAUSE)
        if self.capabilities.authority == "provider" and gated:
            # The provider has decided that the turn is over by answering it.
            self.fact("commit", "provider: it answers")
            gated = False
        if e.turn and e.turn == self._unwanted_turn:
            if self.connection is not None:
                self.connection.cancel(e.response)
            return
        if e.turn == self._committed_turn:
            self._answer_begun = True
        try:
            self.responses.begin(e.response, e.origin, e.turn, self._output_rate, gated=gated)
        except OverloadedError as error:
            self.emit(ErrorEvent(code=error.code, message=str(error), ref=e.response))
            if self.connection is not None:
                self.connection.cancel(e.response)
        self._settle_idleness()

    def _said(self, e: m.Said) -> None:
        response = self.responses.get(e.response)
        if response is not None:
            self.responses.said(response, e.text)

    def _spoke(self, e: m.Spoke) -> None:
        response = self.responses.get(e.response)
        if response is None or response.generated:
            self.measures.dropped("stale_audio_samples", len(e.pcm) // 2)
            return
        first = not response.samples
        response.add(e.pcm, e.words)
        if first and (turn := self._answered_turn(response)):
            self.measures.point(turn, "tts_first_audio", self.owner.now())
        if not self.responses.spoke(response):
            limit = self.limits.options.max_response_s
            self.emit(
                ErrorEvent(code="limit_exceeded", message=f"A response exceeded {limit:g} s of audio and was ended.")
            )
            self.responses.ended(response)
            self._cut_off = response.id
            if self.connection is not None and not response.gated:  # a model whose speculation is cancelled begins anew
                self.connection.cancel(response.id)

    def _ended(self, e: m.Ended) -> None:
        response = self.responses.get(e.response)
        if response is None or response.id == self._cut_off:
            return
        if e.error is not None:
            self.emit(ErrorEvent(code=e.error.code, message=str(e.error), ref=e.response))
        if e.status == "completed" or (response.samples and not response.gated):
            self.responses.ended(response)
        elif response.status is None:
            if e.status == "failed" and response.gated:
                self._failed_turn = response.turn
            self.responses.cancel(response, e.status, str(e.error) if e.error else "cancelled")
            if e.status == "failed" and self.apology and self.speaks and not self._apologised:
                # The caller waits for an answer that will not come: better to say so than to be silent. But not
                # twice in a row: a synthesiser that fails would fail at the apology too.
                self._apologised = True
                self.say(self.apology, "filler")

    def _tool_requested(self, e: m.ToolRequested) -> None:
        response = self.responses.get(e.response)
        if response is None:
            return
        response.calls.append(e.call)
        if response.gated:
            response.held_calls.append(e.call)
        else:
            self.owner.tool_requested(e.response, e.call)

    def _usage(self, e: m.UsageEvidence) -> None:
        self.measures.usage(self.floor.turn, e.input_tokens, e.output_tokens)
        self.emit(UsageReported(input_tokens=e.input_tokens, output_tokens=e.output_tokens, details=e.details))

    # ------------------------------------------------------------------ actions

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
        self._committed_turn = a.turn
        self._over.append(a.turn)
        self._answer_begun = bool(self.responses.of_turn(a.turn))
        self._unwanted_turn = ""
        self.measures.committed(a.turn, a.speech_end_ms, self.owner.now(), a.reason, text)
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
        cut_off = self.responses.get(self._cut_off)
        if cut_off is not None and cut_off.turn == a.turn and self.connection is not None:
            self.connection.cancel(cut_off.id)
        if not self._answer_begun and a.turn == self._failed_turn:
            self._answer_begun = True  # its answer has failed already, and the model begins no other
            self.unowed()

    def _snapshot(self, turn: str) -> None:
        """Every some turns: the history into the journal."""
        options = self.limits.options
        self._since_snapshot += 1
        if options.snapshot_turns and self._since_snapshot >= options.snapshot_turns and self.journal.durable:
            self._since_snapshot = 0
            state = msgspec.Raw(self.conversation.dump(options.snapshot_bytes))
            at = round(self.owner.now() - self.base, 4)
            self.journal.record(History(at, turn, self.responses.count, list(self.untold_results), state))

    def _reopen(self, a: act.Reopen) -> None:
        if a.turn in self._over:
            self._over.remove(a.turn)
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
        gain = self._interruption.duck_db if a.on else 0.0
        for listener in self.responses.listeners:
            listener.duck(gain)

    def _pause(self, a: act.Pause) -> None:
        turn, decided, playing = self.floor.turn, self.owner.now(), self.responses.playing_id
        self.responses.pause(
            a.reason, lambda: self.measures.silenced(turn, playing, decided, self.owner.now(), a.reason)
        )

    def _yield(self, a: act.Yield) -> None:
        turn, decided = self.floor.turn, self.owner.now()
        self.owner.barged_in()
        if not self._answer_begun:
            self._unwanted_turn = self._committed_turn

        def cut(response: Response, heard: int) -> None:
            if heard or response.samples:
                self.measures.silenced(turn, response.id, decided, self.owner.now(), a.reason)
            if self.connection is not None:
                if not response.generated:
                    self.connection.cancel(response.id)
                self.connection.truncate(response.id, heard)
            self.owner.hook("on_interruption", response.id, a.reason)

        # What the agent was going to do unasked is off; what a tool has found out is still news.
        self._owed_respond = [owed for owed in self._owed_respond if owed[1] in ("tool", "farewell")]
        self.responses.yield_floor(a.reason, cut)

    def _speak_freely(self, a: act.SpeakFreely) -> None:
        self.responses.kick()
        self.pay_owed()

    # ------------------------------------------------------------------ speaking

    def say(self, text: str, origin: ResponseOrigin = "say") -> str:
        """Have `text` spoken verbatim as soon as the floor allows. Returns the response's id."""
        id = self.responses.next_id()
        if self.connection is not None:
            self.connection.say(id, text, origin)
        return id

    def say_when_room(self, text: str) -> str:
        """As :meth:`say`, for whoever can be told. Raises OverloadedError when too much waits to be said."""
        self.responses.check_room()
        return self.say(text)

    def respond(self, instructions: str, origin: ResponseOrigin = "respond") -> None:
        """Have the model answer; deferred while the user has the floor or an answer is being made."""
        if self.may_respond():
            self._respond(instructions, origin)
        elif (instructions, origin) not in self._owed_respond:
            self._owed_respond.append((instructions, origin))

    def _respond(self, instructions: str, origin: ResponseOrigin) -> None:
        if origin in ("tool", "farewell"):
            # This answer tells of every result that has not been told of.
            self.conversation.bring_forward(self.untold_results)
            self.untold_results.clear()
            self._owed_respond = [owed for owed in self._owed_respond if owed[1] != "tool"]
        if self.connection is not None:
            self.connection.respond(self.responses.next_id(), instructions, origin)

    def may_respond(self) -> bool:
        """Whether an answer that is no answer to a turn may be begun: nobody speaks and nothing is being made."""
        busy = any(not response.generated for response in self.responses.all)
        state = self.floor.state
        return not busy and (state in (State.IDLE, State.AGENT) or (state is State.THINKING and self._answer_begun))

    def pay_owed(self) -> None:
        """Begin what was deferred, if it may be begun now."""
        if self._owed_respond and self.may_respond():
            self._respond(*self._owed_respond.pop(0))

    def say_goodbye(self) -> None:
        """The call ends once the next answer has been heard, or has taken too long."""
        if not self.farewell:
            self.farewell = True
            self.owner.end_by(self.limits.options.goodbye_s, "completed", "the agent ended the call")

    # ------------------------------------------------------------------ director (what responses ask)

    def may_speak(self) -> bool:
        """Whether queued responses may be played."""
        return self.floor.may_speak

    def audible(self, response: Response, now: float) -> None:
        """The first sample of a response was handed over."""
        if turn := self._answered_turn(response):
            self.measures.first(turn, "first_sample", now)
        self.fact("audible")

    def heard_from(self, response: Response, at: float) -> None:
        """The addressee has acknowledged that they hear a response, by that since `at`."""
        if turn := self._answered_turn(response):
            self.measures.first(turn, "first_played", at)

    def ending(self, now: float) -> None:
        """Little is left to play."""
        self.fact("ending")

    def fell_silent(self, now: float) -> None:
        """Everything was played."""
        self.silent_since = now
        self.fact("silent")
        self._settle_idleness()
        self.pay_owed()
        self._end_after_farewell()

    def _end_after_farewell(self) -> None:
        if self.farewell and not self.responses.owed:
            self.owner.end("completed", "the agent ended the call")

    def settled(self, response: Response, status: ResponseStatus, heard_samples: int, now: float) -> None:
        """A response is over."""
        if heard_samples and response.origin != "filler":
            self._apologised = False
        if response.origin == "farewell" and not response.samples and self.goodbye and self.speaks:
            goodbye, self.goodbye = self.goodbye, ""
            self.say(goodbye, "farewell")
        turn = self._answered_turn(response)
        # One that was taken back unheard is not the turn's answer: another may come, or none (see `unowed`).
        if turn and (status != "cancelled" or heard_samples) and (response.samples or not response.calls):
            self.measures.answered(turn, status, heard_samples * 1000 // response.rate, now)
        self.owner.hook("on_response", response.id, status)
        self.unowed()
        if self.floor.state is State.IDLE:
            self._end_after_farewell()
        self._settle_idleness()
        self.pay_owed()

    def unowed(self) -> None:
        """Something is over: if nothing more is to come for the committed turn, nobody has the floor."""
        if (
            self.floor.state is State.THINKING
            and self._answer_begun
            and not self.responses.owed
            and not self._tools_pending()
        ):
            self.fact("no_answer", "the answer has no audio")
            self.measures.unanswered(self._committed_turn)

    def listener_failed(self, listener: Listener, error: Exception) -> None:
        """A channel raised while it was given audio."""
        self.owner.channel_failed(listener.channel, error)

    def listener_unacknowledged(self, listener: Listener) -> None:
        """A listener does not say any more what it hears. The application can act; the call goes on, by estimates."""
        self.measures.dropped("unacknowledged")
        wait = listener.ledger.options.unacknowledged_wait_s
        name = listener.channel.name
        self.emit(
            ErrorEvent(
                code="unacknowledged",
                message=f"{name} has not acknowledged any playout for {wait:g} s; what it hears is estimated until it does.",
                ref=name,
            )
        )

    def _answered_turn(self, response: Response) -> str:
        """The turn that a response is the audible answer to: its own, or the one whose tools it speaks of."""
        return response.turn or (self._committed_turn if response.origin in ("tool", "farewell") else "")

    def _tools_pending(self) -> bool:
        return bool(self.conversation.open_calls())

    def history(self) -> list[Item]:
        """The conversation for a model: finished answers as heard, unfinished ones as planned."""
        return self.conversation.compacted(
            max_bytes=self.capabilities.history_bytes,
            max_items=self.capabilities.history_items,
            max_text=self.capabilities.history_text,
            planned={response.id: response.script.text for response in self.responses.all if not response.gated},
        )
