"""The floor: who may speak. One per session; it alone decides turns, interruptions and resumptions.

A conversation has one floor and two who want it. The floor is in one of these states:

=========  ==================================================================================================
IDLE       nobody speaks, nothing is owed
USER       the user speaks
PAUSE      the user fell silent in a turn that may go on; endpointing weighs the silence
THINKING   the turn is committed, its answer is not audible yet
AGENT      the agent is audible
OVERLAP    both are audible: the agent is ducked, the user's sound is being judged
HELD       the agent is held (silent, resumable), the user's sound is being judged
CLOSED     the session is over
=========  ==================================================================================================

Evidence comes from models and channels as *facts*: voice activity, recognised text, the probability that the turn is over,
what a provider with its own turn detection says, and what is audible. Every legal transition is in :data:`TRANSITIONS`; a
transition that is not there is a defect and raises. Each one records its reason.

Two kinds of evidence drive two kinds of table. Where the engine has *authority* (cascade; realtime models with their own
detection off) voice activity and text move the floor. Where the provider has it, the floor *observes*: the provider's own
started / stopped / interrupted facts move it, and ours only duck and measure.

Time: silence and speech are measured in media time (milliseconds on the user's track), so a stalled link is not a pause and a
burst after it is not a hurry. `now` is the monotonic clock in seconds and serves deadlines only.

Tie rule: a fact and a deadline due at the same `now` are taken fact first. Replaying a journal therefore feeds facts and
wake-ups in recorded order and gets the same actions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

import msgspec

from ..errors import ConfigurationError
from .actions import (
    Action,
    Commit,
    Discard,
    Duck,
    Pause,
    Prepare,
    Reopen,
    Resume,
    SpeakFreely,
    UserStarted,
    UserStopped,
    Yield,
)
from .activity import Activity, ActivityOptions
from .endpointing import Endpointing, EndpointingOptions
from .interruption import InterruptionOptions, grade, is_backchannel


class State(StrEnum):
    """See the module's table."""

    IDLE = "idle"
    USER = "user"
    PAUSE = "pause"
    THINKING = "thinking"
    AGENT = "agent"
    OVERLAP = "overlap"
    HELD = "held"
    CLOSED = "closed"


ProviderFact = Literal["started", "stopped", "interrupted", "discarded"]

_S = State
#: every legal transition
TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (_S.IDLE, _S.USER),  # the user speaks
        (_S.IDLE, _S.THINKING),  # a typed turn, or a turn committed by hand
        (_S.IDLE, _S.AGENT),  # the agent speaks unasked: greeting, say, late tool result
        (_S.USER, _S.PAUSE),  # silence
        (_S.USER, _S.THINKING),  # committed by hand or by the provider, without a pause
        (_S.PAUSE, _S.USER),  # the user goes on
        (_S.PAUSE, _S.THINKING),  # the turn is over
        (_S.PAUSE, _S.IDLE),  # it was no turn
        (_S.THINKING, _S.AGENT),  # the answer is audible
        (_S.THINKING, _S.USER),  # the user goes on, or begins anew, before it is
        (_S.THINKING, _S.IDLE),  # there is no answer
        (_S.AGENT, _S.IDLE),  # the agent has finished
        (_S.AGENT, _S.OVERLAP),  # the user sounds
        (_S.AGENT, _S.HELD),  # the user sounds for long enough at once (large windows)
        (_S.AGENT, _S.USER),  # the floor was taken by request, by the provider, or with words at once
        (_S.OVERLAP, _S.AGENT),  # it was nothing
        (_S.OVERLAP, _S.HELD),  # it goes on
        (_S.OVERLAP, _S.USER),  # the user takes the floor, or the agent finished under them
        (_S.OVERLAP, _S.IDLE),  # the agent finished under a sound that is no turn to the provider
        (_S.HELD, _S.AGENT),  # false barge-in: resume
        (_S.HELD, _S.USER),  # barge-in
        *((state, _S.CLOSED) for state in _S if state is not _S.CLOSED),
    }
)

#: states in which responses may be played
MAY_SPEAK = frozenset({_S.IDLE, _S.THINKING, _S.AGENT, _S.OVERLAP})
_OVERLAPPING = frozenset({_S.AGENT, _S.OVERLAP, _S.HELD})
#: transitions kept for whoever looks; the turn records hold them all
_TRANSITIONS_KEPT = 512
#: a wake-up counts as due this much before its deadline: recorded times are whole ticks (seconds)
_HAIR_S = 1e-4


class FloorOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All options of turn-taking. `authority`: who decides turns, the engine or the provider's own detection."""

    authority: Literal["engine", "provider"] = "engine"
    activity: ActivityOptions = ActivityOptions()
    endpointing: EndpointingOptions = EndpointingOptions()
    interruption: InterruptionOptions = InterruptionOptions()


class Transition(msgspec.Struct, frozen=True, array_like=True):
    """One step of the floor, for the turn record: monotonic time, states and why."""

    now: float
    source: State
    target: State
    reason: str


class Floor:
    """The turn-taking state machine of one session.

    Every public method takes facts and returns the actions they cause, in order. `turn` is the id of the user's current (or
    last) turn; ids count up from ``t1``.
    """

    def __init__(self, options: FloorOptions | None = None) -> None:
        self.options = options or FloorOptions()
        self.state = State.IDLE
        self.turn = ""
        self.text = ""
        self.transitions: deque[Transition] = deque(maxlen=_TRANSITIONS_KEPT)
        self.steps = 0  # transitions made so far
        self.activity = Activity(self.options.activity)
        self.endpointing = Endpointing(self.options.endpointing)
        self._turns = 0
        self._engine = self.options.authority == "engine"
        self._out: list[Action] = []
        self._now = 0.0
        self._final = False
        self._probability: float | None = None
        self._open_turn = False  # a turn that has begun and is neither committed nor discarded
        self._irrevocable = False  # the committed turn has had effects, so it cannot be reopened
        self._committed = False
        self._agent_ending = False
        self._boundary_turn = False  # the sound began when little was left to play: it is a turn, whatever its words
        self._held_until = 0.0
        self._speech_end_ms = 0.0
        self._prepared = False
        self._input_over = False  # no audio will come, so media time stands still and cannot decide anything
        self._evidence_at = 0.0  # monotonic time of the last window, or of the step that began to wait for one
        self._provider_ms = 0.0  # media time at which the provider last said something

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
            if state in _OVERLAPPING:
                self._grade()
            elif state is _S.THINKING and activity.speech_ms >= self.options.interruption.pause_ms:
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
            if self.state in _OVERLAPPING and self.activity.speaking:
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
        if self.state in _OVERLAPPING:
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
        if self.state in _OVERLAPPING:
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
        if self.state in _OVERLAPPING:
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
            if self.state in _OVERLAPPING and (fact == "interrupted" or self.options.interruption.enabled):
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

    # ------------------------------------------------------------------ steps

    def _take(self) -> list[Action]:
        if not self._out:
            return _NOTHING
        out, self._out = self._out, []
        return out

    def _go(self, target: State, reason: str) -> None:
        if (self.state, target) not in TRANSITIONS:
            raise ConfigurationError(f"The floor cannot go from {self.state} to {target} ({reason}).")
        self.transitions.append(Transition(self._now, self.state, target, reason))
        self.steps += 1
        self.state = target
        self._evidence_at = self._now

    def _reset_evidence(self) -> None:
        self.text = ""
        self._final = False
        self._probability = None

    def _begin_turn(self) -> None:
        self._turns += 1
        self.turn = f"t{self._turns}"
        self._open_turn = True
        self._committed = False
        self._irrevocable = False
        self._prepared = False
        self._boundary_turn = False
        self._speech_end_ms = 0.0
        self._reset_evidence()

    def _ensure_turn(self, reason: str) -> None:
        if not self._open_turn:
            self._begin_turn()
            self._boundary_turn = self._agent_ending
            self._out.append(UserStarted(turn=self.turn, at_ms=self.activity.began_ms, reason=reason))

    def _close_turn(self) -> None:
        """The committed turn can no longer be continued: the next words are a new one."""
        self._committed = False

    def _began(self) -> None:
        """Voice activity began."""
        state, activity = self.state, self.activity
        if state is _S.IDLE:
            self._begin_turn()
            self._go(_S.USER, "speech")
            self._out.append(UserStarted(turn=self.turn, at_ms=activity.began_ms, reason="speech"))
        elif state is _S.PAUSE:
            self.endpointing.continued_after(activity.began_ms - self._speech_end_ms)
            self._final = False
            self._probability = None
            self._prepared = False
            self._go(_S.USER, "speech continued")
            self._out.append(UserStarted(turn=self.turn, at_ms=activity.began_ms, reason="speech continued"))
        elif state is _S.AGENT:
            self._ensure_turn("speech over the agent")
        elif state in (_S.OVERLAP, _S.HELD):
            self._final = False
            self._prepared = False

    def _stopped(self) -> None:
        """Voice activity ended."""
        self._speech_end_ms = self.activity.voiced_ms
        if self._open_turn:
            self._out.append(UserStopped(turn=self.turn, at_ms=self._speech_end_ms, reason="silence"))
        if self.state is _S.USER:
            self._pause("silence")
        elif self.state is _S.AGENT and self._open_turn:
            self._discard_sound("too short" if self.options.interruption.enabled else "interruption is disabled")

    def _pause(self, reason: str) -> None:
        self._go(_S.PAUSE, reason)
        self._prepared = False
        self._weigh_pause()

    def _end_input(self, reason: str) -> None:
        """Decide with what there is: media time goes no further."""
        if self.activity.speaking:
            self._stopped()
            self.activity.stop()
        self._input_over = True
        if self.state in (_S.OVERLAP, _S.HELD):
            self._judge_without_input(reason)
        elif self.state is _S.USER:
            self._pause(reason)
        elif self.state is _S.PAUSE:
            self._conclude(reason)

    def _judge_without_input(self, reason: str) -> None:
        if not self._open_turn:
            # Our own voice activity ducked the agent, and the provider has said nothing of it.
            self._out.append(Duck(on=False, reason=reason))
            self._go(_S.AGENT, reason)
            return
        # Recognition may still turn it into a barge-in, but only so long.
        self._held_until = self._now + self.options.interruption.verdict_ms / 1000
        if not self._prepared:
            self._prepared = True
            self._out.append(Prepare(turn=self.turn, reply=False, reason=reason))
        if self._final:
            self._settle_overlap(force=False)

    def _conclude(self, reason: str) -> None:
        """In PAUSE, and no audio will come: it is a turn, unless it is known to have no words."""
        if self._final and not self.text:
            self._discard("no words")
        else:
            self._commit(reason)

    def _weigh_pause(self) -> None:
        if self._input_over:
            self._conclude("input ended")
            return
        o = self.options.endpointing
        silence = self.activity.now_ms - self._speech_end_ms
        if not self._prepared and silence >= o.prepare_ms:
            self._prepared = True
            self._out.append(Prepare(turn=self.turn, reason=f"{silence:.0f} ms of silence"))
        if self._final and not self.text:
            if silence >= o.no_words_ms:
                self._discard("no words")
            return
        delay = self.endpointing.delay_ms(self._probability)
        if silence >= delay and (self._final or silence >= o.hard_max_ms):
            p = self._probability
            why = "hard maximum" if silence >= o.hard_max_ms else "turn over"
            shown = "unknown" if p is None else f"{p:.2f}"
            self._commit(f"{why}: {silence:.0f} ms of silence at p={shown}")

    def _commit(self, reason: str) -> None:
        self._open_turn = False
        self._committed = True
        self._go(_S.THINKING, reason)
        self._out.append(Commit(turn=self.turn, speech_end_ms=self._speech_end_ms, reason=reason))

    def _discard(self, reason: str) -> None:
        self._open_turn = False
        self._out.append(Discard(turn=self.turn, reason=reason))
        self._go(_S.IDLE, reason)
        self._out.append(SpeakFreely(reason=reason))

    def _speaks_while_thinking(self) -> None:
        """The user speaks after the commit and before the answer is audible."""
        at = self.activity.began_ms
        if self._committed and not self._irrevocable:
            self._open_turn = True
            self._committed = False
            self._final = False
            self._probability = None
            self._prepared = False
            self._go(_S.USER, "the user went on before the answer")
            self._out.append(Reopen(turn=self.turn, reason="the user went on before the answer"))
        else:
            self._close_turn()
            self._begin_turn()
            self._go(_S.USER, "a new turn before the answer")
        self._out.append(UserStarted(turn=self.turn, at_ms=at, reason="speech"))

    def _grade(self) -> None:
        """Judge a sound that overlaps the agent."""
        o = self.options.interruption
        text = self.text if self._open_turn else ""  # what was recognised before belongs to a turn that is over
        verdict = grade(o, self.activity.speech_ms, text)
        if verdict == "none" or (verdict == "duck" and self.state is not _S.AGENT):
            return
        self._ensure_turn("speech over the agent")  # it may have begun just before the agent did
        if verdict == "yield":
            words = text and not is_backchannel(text)
            self._yield("words over the agent" if words else "speech over the agent goes on")
        elif verdict == "pause":
            if self.state is not _S.HELD:
                why = f"{self.activity.speech_ms:.0f} ms of speech over the agent"
                self._go(_S.HELD, why)
                self._held_until = self._now + o.held_max_s
                self._out.append(Pause(reason=why))
        else:
            why = f"{self.activity.speech_ms:.0f} ms of sound over the agent"
            self._go(_S.OVERLAP, why)
            self._out.append(Duck(on=True, reason=why))

    def _weigh_verdict(self) -> None:
        """The overlapping sound is over: was it a barge-in?"""
        silence = self.activity.silence_ms
        if not self._prepared and silence >= self.options.endpointing.prepare_ms:
            self._prepared = True
            self._out.append(Prepare(turn=self.turn, reply=False, reason="what was that?"))
        if self._final or silence >= self.options.interruption.verdict_ms:
            self._settle_overlap(force=silence >= self.options.interruption.verdict_ms)

    def _settle_overlap(self, *, force: bool) -> None:
        if self.text and (self._boundary_turn or not is_backchannel(self.text)):
            self._yield("words over the agent")
        elif self.text or self._final or force:
            why = "backchannel" if self.text else "a sound without words"
            self._resume(why)

    def _resume(self, why: str) -> None:
        if self.state is _S.HELD:
            self._out.append(Resume(reason=why))
        else:
            self._out.append(Duck(on=False, reason=why))
        self._go(_S.AGENT, why)
        self._discard_sound(why)

    def _discard_sound(self, reason: str) -> None:
        self._open_turn = False
        self._out.append(Discard(turn=self.turn, reason=reason))

    def _yield(self, reason: str, *, weigh: bool = True) -> None:
        """The user takes the floor from the agent. `weigh`: whether their words, if over already, may be a whole turn."""
        self._out.append(Yield(reason=reason))
        self._go(_S.USER, reason)
        self._agent_ending = False
        if weigh and self._engine and self._open_turn and not self.activity.speaking and self._speech_end_ms:
            self._pause("the words are already over")

    def _observe(self, change: bool | None) -> list[Action]:
        """Our own voice activity where the provider decides: it ducks and holds, the verdict is the provider's."""
        if change is False and self.state is _S.OVERLAP:
            self._out.append(Duck(on=False, reason="silence"))
            self._go(_S.AGENT, "silence")
        elif self.activity.speaking and self.state is _S.AGENT and self.options.interruption.enabled:
            if self.activity.speech_ms >= self.options.interruption.duck_ms:
                self._go(_S.OVERLAP, "sound over the agent")
                self._out.append(Duck(on=True, reason="sound over the agent"))
        elif self.state in (_S.USER, _S.PAUSE) and not self.activity.speaking:
            silence = self.activity.now_ms - max(self.activity.voiced_ms, self._provider_ms)
            if silence >= self.options.endpointing.provider_max_ms:
                # It has forgotten about the turn. Waiting on would keep the agent from ever speaking again.
                self._commit(f"hard maximum: {silence:.0f} ms of silence, and the provider says nothing")
        return self._take()


_NOTHING: list[Action] = []
