"""The user's turns at OpenAI: ended by the provider's own detection, or by the engine with our ears and its transcripts."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from ..speech.endpoint import TextEndOfTurn
from ..wire.openai_realtime import RATE, ClientProtocol, ResponseParams
from .base import Context, Recognised, SpeechWindow, TurnProbability
from .ears import Ears

if TYPE_CHECKING:
    from ..events import ResponseOrigin
    from .openai_realtime import OpenAIRealtime

#: audio before the first voiced window that is sent with it
_PREROLL_S = 0.5
#: probability from which a window opens the gate to the provider
_OPEN_AT = 0.5
#: transcripts of turns that are over and may still come
_REMEMBERED = 32


class Owner(Protocol):
    """What the turns need of their connection."""

    model: OpenAIRealtime
    context: Context
    protocol: ClientProtocol

    def ask(self, response: str, turn: str, origin: ResponseOrigin, params: ResponseParams) -> None: ...

    def provider_committed(self) -> None: ...


class Turns:
    """What both ways have in common: which of the provider's messages belong to which turn, and what was said in them."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.speaking = False  # by the provider's detection, until it has made a message of it
        self.unanswered = ""  # the last committed turn, until a response has begun for it
        self._typed = False
        self._open: list[str] = []  # messages of the open turn
        self._turn_of: dict[str, str] = {}  # turn of each message of a committed turn
        self._texts: dict[str, str | None] = {}
        self._partial: dict[str, str] = {}
        vad = owner.model.make_vad()
        self._ears = Ears(vad, RATE, self._window) if vad is not None else None

    def typed(self) -> None:
        """A typed message was made."""
        self._typed = True

    def audio(self, pcm: bytes, position: int) -> None:
        """User audio."""
        raise NotImplementedError

    def _window(self, window: SpeechWindow) -> None:
        self._owner.context.report(window)

    def heard(self, item: str, delta: str) -> None:
        """More of a transcript."""
        self._partial[item] = self._partial.get(item, "") + delta
        if item in self._open:
            self._owner.context.report(Recognised(text=self._text(self._open)))

    def transcribed(self, item: str, text: str) -> None:
        """The transcript of a message."""
        self._partial.pop(item, None)
        self._texts[item] = text.strip()
        turn = self._turn_of.get(item)
        if turn is not None:
            items = [entry for entry, of in self._turn_of.items() if of == turn]
            if all(self._texts.get(entry) is not None for entry in items):
                self._owner.context.report(Recognised(text=self._text(items), final=True, turn=turn))
        elif item in self._open:
            self._settle()

    def _settle(self) -> None:
        """All of the open turn may be known now."""

    def _text(self, items: list[str]) -> str:
        return " ".join(text for item in items if (text := self._texts.get(item) or self._partial.get(item, "")))

    def _close(self, turn: str) -> None:
        """The open turn is committed."""
        for item in self._open:
            self._turn_of[item] = turn
        self._open = []
        self.unanswered = turn
        for item in list(self._turn_of)[:-_REMEMBERED]:
            del self._turn_of[item]
            self._texts.pop(item, None)

    def _ask(self, turn: str) -> None:
        self._owner.ask(self._owner.context.next_response(), turn, "turn", ResponseParams())

    def prepare(self, turn: str) -> None:
        """The floor hears a pause."""

    def reopen(self, turn: str) -> None:
        """The committed turn goes on."""
        self._open = [item for item, of in self._turn_of.items() if of == turn]
        for item in self._open:
            del self._turn_of[item]

    def discard(self, turn: str) -> None:
        """It was no turn."""
        self._open = []


class ProviderTurns(Turns):
    """The provider ends turns and answers them; what it does not see (typed turns, push-to-talk) is committed for it."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._reporting = False

    def audio(self, pcm: bytes, position: int) -> None:
        """See Turns."""
        self._owner.protocol.audio(pcm, position)
        if self._ears is not None:
            self._ears.feed(pcm, position)

    def committed(self, item: str) -> None:
        """The provider has made what was said a message."""
        self._open.append(item)
        self._texts.setdefault(item, None)
        self._reporting = True
        try:
            self._owner.provider_committed()
        finally:
            self._reporting = False

    def commit(self, turn: str) -> None:
        """The floor has committed the turn: by the provider's word, or by somebody else's."""
        typed, self._typed = self._typed, False
        asked = typed or not self._reporting
        if asked and (self.speaking or not typed):
            self._owner.protocol.commit()
        self._close(turn)
        if asked:
            self._ask(turn)


class EngineTurns(Turns):
    """The engine ends turns, by our ears and by the provider's transcripts.

    Without a detection of its own the provider is sent only what our ears take for speech, and a little before it: its buffer
    would grow by every silence.
    """

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._manual = owner.model.turn_detection is None
        self._end_of_turn = TextEndOfTurn()
        self._gate = False
        self._voiced = False  # our ears heard speech that no message holds yet
        self._preroll: deque[tuple[bytes, int]] = deque()
        self._kept = 0
        self._expected: deque[str] = deque()  # for each commit of ours: the turn of its message, "" for the open one
        self._prepared = False

    def audio(self, pcm: bytes, position: int) -> None:
        """See Turns."""
        assert self._ears is not None
        if not self._manual:
            self._owner.protocol.audio(pcm, position)
            self._ears.feed(pcm, position)
            return
        self._preroll.append((pcm, position))
        self._kept += len(pcm) // 2
        self._ears.feed(pcm, position)
        if self._gate:
            for chunk, at in self._preroll:
                self._owner.protocol.audio(chunk, at)
            self._preroll.clear()
            self._kept = 0
        while self._kept > _PREROLL_S * RATE and len(self._preroll) > 1:
            self._kept -= len(self._preroll.popleft()[0]) // 2

    def _window(self, window: SpeechWindow) -> None:
        if window.probability >= _OPEN_AT:
            self._gate = self._voiced = True
            self._prepared = False
        super()._window(window)

    def committed(self, item: str) -> None:
        """The provider has made what was said a message."""
        self._voiced = False
        self._texts.setdefault(item, None)
        turn = self._expected.popleft() if self._expected else ""
        if turn:
            self._turn_of[item] = turn
        else:
            self._open.append(item)

    def _commit(self, turn: str) -> None:
        if (self._manual or self.speaking or self._voiced) and self._owner.protocol.commit():
            self._voiced = self.speaking = False
            self._expected.append(turn)

    def prepare(self, turn: str) -> None:
        """See Turns. What was said so far becomes a message, so that it is transcribed; if the user goes on, another follows."""
        if self._owner.model.transcription is None:
            return  # nobody will know: the turn ends by hand, or after the hard maximum
        self._prepared = True
        self._commit("")
        self._settle()

    def _settle(self) -> None:
        unknown = self.speaking or "" in self._expected or any(self._texts.get(item) is None for item in self._open)
        if unknown or not self._prepared:
            return
        text = self._text(self._open)
        if text:
            self._owner.context.report(TurnProbability(probability=self._end_of_turn.judge(text)))
        self._owner.context.report(Recognised(text=text, final=True))

    def commit(self, turn: str) -> None:
        """The floor has committed the turn: answer it."""
        self._typed = self._gate = self._prepared = False
        self._expected = deque(of or turn for of in self._expected)
        self._commit(turn)
        self._close(turn)
        self._ask(turn)

    def reopen(self, turn: str) -> None:
        """See Turns."""
        super().reopen(turn)
        self._expected = deque("" if of == turn else of for of in self._expected)
        self._gate = True

    def discard(self, turn: str) -> None:
        """See Turns. The provider forgets it as well."""
        for item in self._open:
            self._owner.protocol.delete(item)
        super().discard(turn)
        self._gate = self._prepared = False
        if self._manual:
            self._owner.protocol.clear()
