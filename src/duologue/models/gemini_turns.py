"""The user's turns at Gemini: ended by the provider's own detection, or by the engine with our ears and its transcripts."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from ..speech.endpoint import TextEndOfTurn
from ..wire.gemini_live import ClientProtocol, Meanings
from ..wire.gemini_live import meaning as m
from .base import Context, ProviderCommitted, ProviderSpeech, Recognised, SpeechWindow, TurnProbability
from .ears import Ears

if TYPE_CHECKING:
    from .gemini_live import GeminiLive

#: audio before the first voiced window that is sent with it, seconds
_PREROLL_S = 0.5
#: audio of the user that is held while the model has the floor, at most, seconds
_HELD_S = 20.0
#: after the user's last words, or an interruption without any, the wait for an answer; then it was no turn, seconds
_NO_ANSWER_S = 12.0
#: silence after which a sound that the floor took no notice of is over, seconds
_NO_TURN_S = 1.2
#: probability from which a window opens the gate to the provider
_OPEN_AT = 0.5


class Owner(Protocol):
    """What the turns need of their connection."""

    model: GeminiLive
    context: Context
    protocol: ClientProtocol
    meanings: Meanings

    def user_ready(self) -> None:
        """The user's turn is about to end: what must reach the provider before that."""


class Turns:
    """What both ways have in common: which words belong to which turn."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.unanswered = ""  # the last committed turn, until its answer begins
        self._text = ""  # of the open turn, so far
        self._answered = ""  # the turn that is being answered, to which words may still trail in
        self._answered_text = ""
        vad = owner.model.make_vad()
        rate = owner.model.capabilities.input_rate
        self._ears = Ears(vad, rate, self._window) if vad is not None else None

    @property
    def busy(self) -> bool:
        """Whether the user speaks, or waits for an answer."""
        raise NotImplementedError

    def audio(self, pcm: bytes, position: int) -> None:
        """User audio."""
        raise NotImplementedError

    def words(self, words: m.UserWords) -> None:
        """A further piece of what the user said. Pieces are not ordered against anything else."""
        if self._answered and not self._expects_words:
            self._answered_text = f"{self._answered_text}{words.text}".lstrip()
            if self._answered_text:
                text = self._answered_text.rstrip()
                self._owner.context.report(Recognised(text=text, final=True, turn=self._answered))
            return
        self._heard(words)

    @property
    def _expects_words(self) -> bool:
        """Whether words are of the open turn, not of the one before."""
        raise NotImplementedError

    def _heard(self, words: m.UserWords) -> None:
        raise NotImplementedError

    def _window(self, window: SpeechWindow) -> None:
        self._owner.context.report(window)

    def _position(self) -> int:
        protocol = self._owner.protocol
        return protocol.position_of(protocol.sent_samples / protocol.input_rate)

    def activity(self, started: bool, position: int) -> None:
        """The provider's detection."""

    def interrupted(self) -> None:
        """The provider has cut its answer."""

    def prepare(self, turn: str, *, reply: bool) -> None:
        """The floor hears a pause; `reply`: of the user who has it, else in a sound over the agent."""

    def commit(self, turn: str, typed: str) -> bool:
        """The floor has committed the turn. False if there is nothing in it that could be answered."""
        raise NotImplementedError

    def answered(self, *, unasked: bool) -> str:
        """An answer begins: the turn that it answers, "" if none. `unasked`: nothing else could have caused it."""
        turn, self.unanswered = self.unanswered, ""
        return turn

    def over(self) -> None:
        """The model's turn is over: no words trail in any more."""
        self._answered = ""

    def reopen(self, turn: str) -> None:
        """The committed turn goes on."""

    def discard(self) -> None:
        """It was no turn."""
        self._text = ""

    def take_floor(self) -> None:
        """The user has taken the floor from the model."""

    def send_text(self, text: str) -> None:
        """Have the provider answer a text."""
        self._owner.protocol.text(text)

    def muted(self) -> None:
        """No more audio for now."""

    def close(self) -> None:
        """The connection is over."""

    def _close(self, turn: str) -> None:
        """The open turn is committed."""
        self._answered, self._answered_text, self._text = turn, self._text, ""
        self.unanswered = turn


class ProviderTurns(Turns):
    """The provider ends turns and answers them. It says nothing of speech but what it transcribes, and that it answers."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._open = False  # the provider hears a turn that is not committed
        self._cut = False  # the last answer was interrupted: words are of the next turn
        self._reporting = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """See Turns."""
        return self._open or bool(self.unanswered)

    def audio(self, pcm: bytes, position: int) -> None:
        """See Turns."""
        self._owner.protocol.audio(pcm, position)
        if self._ears is not None:
            self._ears.feed(pcm, position)

    def muted(self) -> None:
        """See Turns."""
        self._owner.protocol.audio_stream_end()

    @property
    def _expects_words(self) -> bool:
        return self._open or self._cut

    def _start(self, position: int) -> None:
        self._wait()
        if not self._open:
            self._open, self._text = True, ""
            self._owner.context.report(ProviderSpeech(fact="started", position=position))

    def _wait(self, seconds: float = 0.0) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.no_answer)

    def close(self) -> None:
        """See Turns."""
        self._wait()

    def activity(self, started: bool, position: int) -> None:
        """See Turns."""
        if started:
            self._start(position)
        elif self._open:
            self._owner.context.report(ProviderSpeech(fact="stopped", position=position))
            self._wait(_NO_ANSWER_S)

    def interrupted(self) -> None:
        """See Turns."""
        self._cut = True
        self._owner.context.report(ProviderSpeech(fact="interrupted", position=self._position()))
        self._start(self._position())
        self._wait(_NO_ANSWER_S)

    def _heard(self, words: m.UserWords) -> None:
        self._start(self._position())
        self._wait(_NO_ANSWER_S)
        if words.interim:
            self._owner.context.report(Recognised(text=words.text.strip()))
            return
        self._text = f"{self._text}{words.text}".lstrip()
        if self._text:
            self._owner.context.report(Recognised(text=self._text.rstrip(), final=words.finished))

    def commit(self, turn: str, typed: str) -> bool:
        """See Turns."""
        self._wait()
        self._open = self._cut = False
        if typed or not self._reporting:
            self._owner.user_ready()
        self._close(turn)
        if typed:
            self._owner.protocol.text(typed)
        elif not self._reporting:
            # By hand, or by the end of the input: what was heard is all there is.
            self._owner.protocol.audio_stream_end()
        return True

    def answered(self, *, unasked: bool) -> str:
        """See Turns."""
        if self._open or (unasked and not self.unanswered):
            report = self._owner.context.report
            self._start(self._position())
            if self._text:
                report(Recognised(text=self._text.rstrip(), final=True))
            report(ProviderSpeech(fact="stopped", position=self._position()))
            self._reporting = True
            try:
                report(ProviderCommitted())
            finally:
                self._reporting = False
            self._open = False
        self._cut = False
        return super().answered(unasked=unasked)

    def over(self) -> None:
        """See Turns."""
        if not self._cut:
            super().over()

    def no_answer(self) -> None:
        """The provider does not answer: what it heard was not meant for it."""
        if self._open:
            self.discard()
            self._owner.context.report(ProviderSpeech(fact="discarded", position=self._position()))

    def discard(self) -> None:
        """See Turns."""
        super().discard()
        self._wait()
        self._open = self._cut = False


class EngineTurns(Turns):
    """The engine ends turns, by our ears and by the provider's transcripts; the provider is told of activity.

    It is sent only what our ears take for speech, and a little before it. An activity cannot be taken back: one that turns out to
    be no turn stays open, and the next speech goes on in it. While the model has the floor the user's audio is held: to begin an
    activity would cut the answer, at each cough.
    """

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._end_of_turn = TextEndOfTurn()
        self._gate = False  # somebody speaks, or pauses in a turn
        self._taking = False  # the user has the floor, whatever the model is doing
        self._prepared = False
        self._voiced = 0  # end of the last voiced window
        self._held: deque[tuple[bytes, int]] = deque()
        self._held_samples = 0
        self._committed_text = ""

    @property
    def busy(self) -> bool:
        """See Turns."""
        return self._gate or bool(self.unanswered)

    def audio(self, pcm: bytes, position: int) -> None:
        """See Turns."""
        assert self._ears is not None
        self._held.append((pcm, position))
        self._held_samples += len(pcm) // 2
        self._ears.feed(pcm, position)
        self._flow()
        keep = (_HELD_S if self._gate else _PREROLL_S) * self._owner.protocol.input_rate
        while self._held_samples > keep and len(self._held) > 1:
            self._held_samples -= len(self._held.popleft()[0]) // 2

    def _window(self, window: SpeechWindow) -> None:
        rate = self._owner.protocol.input_rate
        if window.probability >= _OPEN_AT:
            self._gate = True
            self._prepared = False
            self._voiced = window.end
        elif self._gate and not self._prepared and window.end - self._voiced > _NO_TURN_S * rate:
            self.discard()
        super()._window(window)

    def _flow(self) -> None:
        """Send what is held, unless that would cut the model short."""
        protocol = self._owner.protocol
        if not self._gate or not self._held:
            return
        if not protocol.activity:
            if self._owner.meanings.open and not self._taking:
                return
            protocol.activity_start()
        for pcm, position in self._held:
            protocol.audio(pcm, position)
        self._held.clear()
        self._held_samples = 0

    def take_floor(self) -> None:
        """See Turns."""
        if self._gate:
            self._taking = True
            self._flow()

    @property
    def _expects_words(self) -> bool:
        return self._gate and not self.unanswered

    def _heard(self, words: m.UserWords) -> None:
        if words.interim:
            self._owner.context.report(Recognised(text=f"{self._text}{words.text}".strip()))
            return
        self._text = f"{self._text}{words.text}".lstrip()
        if self._prepared:
            self._settle()
        elif self._text:
            self._owner.context.report(Recognised(text=self._text.rstrip()))

    def prepare(self, turn: str, *, reply: bool) -> None:
        """See Turns. What is not transcribed yet is waited for; without any transcript the hard maximum decides."""
        self._prepared = True
        if reply:
            self.take_floor()
        self._settle()

    def _settle(self) -> None:
        if text := self._text.rstrip():
            self._owner.context.report(TurnProbability(probability=self._end_of_turn.judge(text)))
            self._owner.context.report(Recognised(text=text, final=True))

    def commit(self, turn: str, typed: str) -> bool:
        """See Turns."""
        protocol = self._owner.protocol
        self._taking = True
        self._flow()
        self._gate = self._taking = self._prepared = False
        self._committed_text = self._text
        if not (typed or protocol.activity):
            self._close(turn)
            return False
        self._owner.user_ready()
        if typed:
            self.send_text(typed)
        else:
            protocol.activity_end()
        self._close(turn)
        return True

    def send_text(self, text: str) -> None:
        """See Turns."""
        protocol = self._owner.protocol
        if not protocol.activity:
            protocol.activity_start()
        protocol.text(text)
        protocol.activity_end()

    def reopen(self, turn: str) -> None:
        """See Turns. The answer that the provider has begun is cut by the activity that begins."""
        self._text = self._answered_text or self._committed_text
        self._answered = self.unanswered = ""
        self._gate = self._taking = True
        self._flow()

    def discard(self) -> None:
        """See Turns."""
        super().discard()
        self._gate = self._taking = self._prepared = False
        self._held.clear()
        self._held_samples = 0
