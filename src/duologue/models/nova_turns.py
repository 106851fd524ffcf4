"""The user's turns as Nova Sonic tells of them.

`userSpeechStart` and `userSpeechEnd` come first, what was said once the turn is over, the answer after it. Where the first two
are missing (they are undocumented), what was said stands for all three.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .base import Context, ProviderCommitted, ProviderSpeech, Recognised

#: after the end of speech, the wait for what was said; then it was nothing
_NO_WORDS_S = 5.0
#: the same after an interruption whose end is not told
_NO_END_S = 20.0


class UserTurns:
    """See the module. `position` gives the track position of milliseconds of audio sent; None: of what was sent last."""

    def __init__(self, context: Context, position: Callable[[float | None], int]) -> None:
        self._context = context
        self._position = position
        self._open = False  # the provider hears a turn that is not committed
        self._stopped = False
        self._said: list[str] = []
        self._unanswered = ""  # the last committed turn, until its answer begins
        self._committed_to = 0  # where on the track that turn ended
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether the user speaks, or waits for an answer."""
        return self._open or bool(self._unanswered)

    def started(self, ms: float | None) -> None:
        """The user was heard to begin, or to go on."""
        position = self._position(ms)
        if self._unanswered and position < self._committed_to:
            return  # a committed turn that was replayed to this stream, or heard late: it is no other one
        if not self._open:
            self._said = []
        self._open, self._stopped = True, False
        self._unanswered = ""
        self._wait(0.0)
        self._context.report(ProviderSpeech(fact="started", position=position))

    def stopped(self, ms: float | None) -> None:
        """The user was heard to end."""
        if not self._open:
            return
        self._stopped = True
        self._context.report(ProviderSpeech(fact="stopped", position=self._position(ms)))
        if self._said:
            self._commit()
        else:
            self._wait(_NO_WORDS_S)

    def interrupted(self) -> None:
        """The user took the floor from the model."""
        if not self._open:
            self._open, self._stopped, self._said = True, True, []
            self._unanswered = ""
            self._wait(_NO_END_S)
        self._context.report(ProviderSpeech(fact="interrupted", position=self._position(None)))

    def said(self, text: str) -> None:
        """What the user said, or more of it."""
        if self._unanswered:
            self._said.append(text)
            self._context.report(Recognised(text=" ".join(self._said), final=True, turn=self._unanswered))
            return
        if not self._open:
            self.started(None)
            self._stopped = True
            self._context.report(ProviderSpeech(fact="stopped", position=self._position(None)))
        self._said.append(text)
        over = self._stopped
        self._context.report(Recognised(text=" ".join(self._said), final=over))
        if over:
            self._commit()

    def _commit(self) -> None:
        self._wait(0.0)
        self._context.report(ProviderCommitted())
        self._open = False

    def committed(self, turn: str) -> None:
        """The floor has committed the turn, by the provider's word or by somebody else's."""
        self._wait(0.0)
        if not self._open:
            self._said = []
        self._open = False
        self._unanswered = turn
        self._committed_to = self._position(None)

    def answered(self) -> str:
        """An answer begins: the turn it belongs to, "" if to none."""
        if self._open and (self._said or self._stopped):
            self._commit()  # it answers what was heard, whether or not that could be written down
        turn, self._unanswered = self._unanswered, ""
        return turn

    def discarded(self) -> None:
        """It was no turn."""
        self._wait(0.0)
        self._open, self._said = False, []

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._no_words)

    def _no_words(self) -> None:
        self._timer = None
        if self._open:
            self.discarded()
            self._context.report(ProviderSpeech(fact="discarded"))

    def close(self) -> None:
        """The connection is over."""
        self._wait(0.0)
