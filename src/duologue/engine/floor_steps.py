"""The steps that a floor takes: what each piece of evidence, weighed with what is known already, leads to.

:class:`Steps` holds what the floor knows and judges it; which facts it is told, and when, is the business of
:class:`duologue.engine.floor.Floor`. Steps collect the actions that they order in `_out`.
"""

from __future__ import annotations

from collections import deque

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
from .activity import Activity
from .endpointing import Endpointing
from .floor_state import TRANSITIONS, FloorOptions, State, Transition
from .interruption import grade, is_backchannel, is_noise

_S = State
#: transitions kept for whoever looks; the turn records hold them all
_TRANSITIONS_KEPT = 512
_NOTHING: list[Action] = []


class Steps:
    """What the floor knows, and the steps that follow from it."""

    def __init__(self, options: FloorOptions | None = None, *, turns: int = 0) -> None:
        self.options = options or FloorOptions()
        self.state = State.IDLE
        self.turn = ""
        self.text = ""
        self.transitions: deque[Transition] = deque(maxlen=_TRANSITIONS_KEPT)
        self.steps = 0  # transitions made so far
        self.activity = Activity(self.options.activity)
        self.endpointing = Endpointing(self.options.endpointing)
        self._turns = turns
        self._engine = self.options.authority == "engine"
        self._out: list[Action] = []
        self._now = 0.0
        self._final = False
        self._probability: float | None = None
        self._open_turn = False  # a turn that has begun and is neither committed nor discarded
        self._irrevocable = False  # the committed turn has had effects, so it cannot be reopened
        self._committed = False
        self._ended_ms = 0.0  # where the speech of the last committed turn ended, and how sure it was that it had
        self._ended_p: float | None = None
        self._agent_ending = False
        self._boundary_turn = False  # the sound began when little was left to play: it is a turn, whatever its words
        self._held_until = 0.0
        self._speech_end_ms = 0.0
        self._prepared = False
        self._prepared_at = 0.0  # monotonic time of that
        self._input_over = False  # no audio will come, so media time stands still and cannot decide anything
        self._evidence_at = 0.0  # monotonic time of the last window, or of the step that began to wait for one
        self._provider_ms = 0.0  # media time at which the provider last said something

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
        after = self.activity.began_ms - self._ended_ms if self._ended_ms else None
        self.endpointing.begin_turn(after, self._ended_p)
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
            self.endpointing.continued_after(activity.began_ms - self._speech_end_ms, self._probability)
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
            self._prepare(reason, reply=False)
        if self._final:
            self._settle_overlap(force=False)

    def _conclude(self, reason: str) -> None:
        """In PAUSE, and no audio will come: it is a turn, unless it is known to have no words."""
        if self._final and not self.text:
            self._discard("no words")
        else:
            self._commit(reason)

    def _prepare(self, reason: str, *, reply: bool = True) -> None:
        """Have recognition settle what was said so far, and (`reply`) an answer be begun."""
        self._prepared, self._prepared_at = True, self._now
        self._out.append(Prepare(turn=self.turn, reply=reply, reason=reason))

    def _weigh_pause(self) -> None:
        if self._input_over:
            self._conclude("input ended")
            return
        o = self.options.endpointing
        silence = self.activity.now_ms - self._speech_end_ms
        if not self._prepared and silence >= o.prepare_ms:
            self._prepare(f"{silence:.0f} ms of silence")
        if self._final and not self.text:
            if silence >= o.no_words_ms:
                self._discard("no words")
            return
        delay = self.endpointing.delay_ms(self._probability)
        # In a burst, after a cut, seconds of silence pass before the recogniser has had the time to say what came before them.
        waited = min(silence, o.prepare_ms + 1000 * (self._now - self._prepared_at))
        if silence >= delay and (self._final or waited >= o.hard_max_ms):
            p = self._probability
            why = "hard maximum" if silence >= o.hard_max_ms else "turn over"
            shown = "unknown" if p is None else f"{p:.2f}"
            self._commit(f"{why}: {silence:.0f} ms of silence at p={shown}")

    def _commit(self, reason: str) -> None:
        self._open_turn = False
        self._committed = True
        self._ended_ms, self._ended_p = self._speech_end_ms, self._probability
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
            self.endpointing.continued_after(at - self._speech_end_ms, self._probability)
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
            self._prepare("what was that?", reply=False)
        if self._final or silence >= self.options.interruption.verdict_ms:
            self._settle_overlap(force=silence >= self.options.interruption.verdict_ms)

    def _settle_overlap(self, *, force: bool) -> None:
        answers = self._boundary_turn and not is_noise(self.text)
        if self.text and (answers or not is_backchannel(self.text)):
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
