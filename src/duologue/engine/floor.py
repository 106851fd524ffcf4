"""The floor: who may speak. One per session; it alone decides turns, interruptions and resumptions.

Evidence comes from models and channels as *facts*: voice activity, recognised text, the probability that the turn is over,
what a provider with its own turn detection says, and what is audible. Its states and every legal step between them are in
:mod:`duologue.engine.floor_state`, what leads to them in :mod:`duologue.engine.floor_steps`. Each step records its reason.

Two kinds of evidence drive two kinds of table. Where the engine has *authority* (cascade; realtime models with their own
detection off) voice activity and text move the floor. Where the provider has it, the floor *observes*: the provider's own
started / stopped / interrupted facts move it, and ours only duck and measure.

Time: silence and speech are measured in media time (milliseconds on the user's track), so a stalled link is not a pause and a
burst after it is not a hurry. `now` is the monotonic clock in seconds and serves deadlines only.

Tie rule: a fact and a deadline due at the same `now` are taken fact first. Replaying a journal therefore feeds facts and
wake-ups in recorded order and gets the same actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from .actions import Action, Duck, SpeakFreely, UserStarted, UserStopped, Yield
from .endpointing import EndpointingOptions
from .floor_state import MAY_SPEAK, OVERLAPPING, TRANSITIONS, FloorOptions, ProviderFact, State, Transition
from .floor_steps import Steps
from .interruption import InterruptionOptions

__all__ = ["MAY_SPEAK", "TRANSITIONS", "Floor", "FloorOptions", "ProviderFact", "State", "Transition"]

_S = State
#: a wake-up counts as due this much before its deadline: recorded times are whole ticks (seconds)
_HAIR_S = 1e-4


class Floor(Steps):
    """The turn-taking state machine of one session.

    Every public method takes facts and returns the actions they cause, in order. `turn` is the id of the user's current (or
    last) turn; ids count up from ``t1``.
    """

    # ------------------------------------------------------------------ facts

    def window(self, start_ms: float, end_ms: float, probability: float, now: float) -> list[Action]:
        """A window of the user's track with its speech probability; times in milliseconds of media time."""
        self._now = self._evidence_at = now
        self._input_over = False
        activity = self.activity
        change = activity.window(start_ms, end_ms, probability)
        if not self._engine:
            return self._observe(change)
        if change is True:
            self._began()
        elif change is False:
            self._stopped()
        state = self.state
        if state is _S.IDLE:
            if activity.speaking:
                self._began()  # they began when the floor was not free, and it has become so
            return self._take()
        if state is _S.USER:
            return self._take()
        if activity.speaking:
            o = self.options.interruption
            if state in OVERLAPPING:
                self._grade()
            elif state is _S.THINKING and activity.speech_ms >= min(o.pause_ms, o.yield_ms):
                self._speaks_while_thinking()
        elif state is _S.PAUSE:
            self._weigh_pause()
        elif state is _S.OVERLAP or state is _S.HELD:
            self._weigh_verdict()
        return self._take()

    def recognised(self, text: str, final: bool, now: float) -> list[Action]:
        """What the user has said in the current turn, so far or (`final`) up to the present pause."""
        self._now = now
        self.text = text
        self._final = final
        if self._engine:
            if self.state in OVERLAPPING and self.activity.speaking:
                self._grade()
            elif self.state in (_S.OVERLAP, _S.HELD):
                self._weigh_verdict()
            elif self.state is _S.PAUSE:
                self._weigh_pause()
        return self._take()

    def turn_probability(self, probability: float, now: float) -> list[Action]:
        """How probable it is that the turn is over, given what was said."""
        self._now = now
        self._probability = probability
        if self._engine and self.state is _S.PAUSE:
            self._weigh_pause()
        return self._take()

    def audible(self, now: float) -> list[Action]:
        """A response began to be played to the listener."""
        self._now = now
        self._agent_ending = False
        if self.state in (_S.IDLE, _S.THINKING):
            self._close_turn()
            self._go(_S.AGENT, "agent audible")
        return self._take()

    def ending(self, now: float) -> list[Action]:
        """Less than `boundary_ms` is left to play of all that the agent has to say."""
        self._now = now
        self._agent_ending = True
        return self._take()

    def silent(self, now: float) -> list[Action]:
        """Everything that the agent had to say has been played."""
        self._now = now
        self._agent_ending = False
        if self.state is _S.OVERLAP:
            self._out.append(Duck(on=False, reason="agent finished"))
        if self.state in (_S.AGENT, _S.OVERLAP):
            if not self._open_turn:
                self._go(_S.IDLE, "agent finished")
            else:
                self._go(_S.USER, "agent finished under the user")
                if self._speech_end_ms and not (self._engine and self.activity.speaking):
                    self._pause("silence")
        return self._take()

    def no_answer(self, reason: str, now: float) -> list[Action]:
        """The committed turn gets no audible answer (only tools, an error, an empty reply)."""
        self._now = now
        if self.state is _S.THINKING:
            self._close_turn()
            self._go(_S.IDLE, reason)
        return self._take()

    def effects(self, now: float) -> list[Action]:
        """A tool with side effects started for the committed turn: it can no longer be reopened."""
        self._now = now
        if not self._open_turn:  # else it belongs to an earlier one, which cannot be reopened anyway
            self._irrevocable = True
        return self._take()

    def typed(self, text: str, now: float) -> list[Action]:
        """The user typed; what they had begun to say stays in front of it. `commit` follows."""
        self._now = now
        if self.state is _S.CLOSED:
            return self._take()
        if self.state in OVERLAPPING:
            self._yield("typed", weigh=False)
        elif self.state is _S.THINKING:
            self._close_turn()
            self._go(_S.USER, "typed")
        elif self.state is _S.IDLE:
            self._go(_S.USER, "typed")
        if not self._open_turn:
            self._begin_turn()
        self.text = f"{self.text} {text}".strip()
        self._final = True
        return self._take()

    def commit(self, reason: str, now: float) -> list[Action]:
        """The turn is over by decision of somebody else: a button, a typed turn, the provider, the end of the input."""
        self._now = now
        if self.state is _S.CLOSED:
            return self._take()
        if self.state in OVERLAPPING:
            self._yield(reason, weigh=False)
        if self.state is _S.THINKING:  # a second turn before the first is answered
            self._close_turn()
            self._go(_S.USER, reason)
        if not self._open_turn:
            self._begin_turn()
        if self.activity.speaking:
            self._speech_end_ms = self.activity.voiced_ms
            self.activity.stop()
        self._commit(reason)
        return self._take()

    def interrupt(self, reason: str, now: float) -> list[Action]:
        """Silence the agent by request, and take back what it was about to say; the user has the floor."""
        self._now = now
        if self.state in OVERLAPPING:
            self._yield(reason)
            if self.state is _S.USER and not self._open_turn:
                self._go(_S.PAUSE, reason)
                self._go(_S.IDLE, reason)
                self._out.append(SpeakFreely(reason=reason))
        elif self.state in (_S.IDLE, _S.THINKING):
            self._out.append(Yield(reason=reason))
            if self.state is _S.THINKING:
                self._close_turn()
                self._go(_S.IDLE, reason)
            self._out.append(SpeakFreely(reason=reason))
        return self._take()

    def input_ended(self, now: float) -> list[Action]:
        """No more audio will come (muted, end of file): whatever was said is the turn."""
        self._now = now
        if self.state is not _S.CLOSED:
            self._end_input("input ended")
        return self._take()

    def provider(self, fact: ProviderFact, at_ms: float, now: float) -> list[Action]:
        """What a provider with its own turn detection says. Ignored where the engine has authority."""
        self._now = now
        if self._engine or self.state is _S.CLOSED:
            return self._take()
        self._provider_ms = self.activity.now_ms
        if fact in ("started", "interrupted"):
            if self.state in OVERLAPPING and (fact == "interrupted" or self.options.interruption.enabled):
                self._yield(f"provider: speech {fact}")
            if self.state in (_S.IDLE, _S.THINKING):
                if self.state is _S.THINKING:
                    self._close_turn()
                self._go(_S.USER, f"provider: speech {fact}")
            if self.state is _S.PAUSE:
                self._go(_S.USER, "provider: speech continued")
            if not self._open_turn:
                self._begin_turn()
                self._out.append(UserStarted(turn=self.turn, at_ms=at_ms, reason=f"provider: speech {fact}"))
        elif fact == "stopped":
            if self._open_turn and self.state is not _S.PAUSE:
                self._speech_end_ms = at_ms
                self._out.append(UserStopped(turn=self.turn, at_ms=at_ms, reason="provider: speech stopped"))
            if self.state is _S.USER:
                self._go(_S.PAUSE, "provider: speech stopped")
        elif fact == "discarded" and self.state in (_S.USER, _S.PAUSE):
            if self.state is _S.USER:
                self._go(_S.PAUSE, "provider: no turn")
            self._discard("provider: no turn")
        return self._take()

    def wake(self, now: float) -> list[Action]:
        """The deadline of :meth:`next_deadline` has come."""
        self._now = now
        due = self.next_deadline()
        if due is None or now < due - _HAIR_S:
            return self._take()
        if self.state in (_S.OVERLAP, _S.HELD):
            if self._input_over:
                self._settle_overlap(force=True)
            else:
                # The input stalled in the middle of a judgement. Holding on would be dead air.
                self._resume("held for too long without further input")
        else:
            self._end_input("input stalled")
        return self._take()

    def authority(self, kind: Literal["engine", "provider"], now: float) -> list[Action]:
        """Who decides turns from now on: another model has taken over. An open turn stays open."""
        self._now = now
        self._engine = kind == "engine"
        return self._take()

    def tune(self, endpointing: Mapping[str, Any], interruption: Mapping[str, Any], now: float) -> list[Action]:
        """Other options of turn-taking from now on, by field (as they are journaled)."""
        self._now = now
        self.options = msgspec.structs.replace(
            self.options,
            endpointing=msgspec.convert(endpointing, EndpointingOptions),
            interruption=msgspec.convert(interruption, InterruptionOptions),
        )
        self.endpointing.options = self.options.endpointing
        return self._take()

    def close(self, now: float) -> list[Action]:
        """The session is over."""
        self._now = now
        if self.state is not _S.CLOSED:
            self._go(_S.CLOSED, "closed")
        return self._take()

    # ------------------------------------------------------------------ state

    def next_deadline(self) -> float | None:
        """When :meth:`wake` is due, on the monotonic clock. It moves on as long as audio comes."""
        state = self.state
        if state is _S.HELD or (state is _S.OVERLAP and self._input_over):
            return self._held_until
        if self._engine and (state is _S.USER or state is _S.PAUSE):
            return self._evidence_at + self.options.endpointing.stall_max_s
        return None

    @property
    def may_speak(self) -> bool:
        """Whether queued responses may be played now."""
        return self.state in MAY_SPEAK

    @property
    def user_has_floor(self) -> bool:
        """Whether a turn of the user is open: they speak or pause inside it."""
        return self.state in (_S.USER, _S.PAUSE)
