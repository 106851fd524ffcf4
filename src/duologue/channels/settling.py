"""Whether the agent still owes something: what a caller without ears of their own goes by before they hang up."""

from __future__ import annotations

from ..events import (
    Event,
    ResponseFinished,
    ResponseHeard,
    ResponseStarted,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    UserSpeechStarted,
    UserSpeechStopped,
    UserTranscript,
)


class Settling:
    """Follows the events of a call. Pure; `now` is monotonic seconds.

    Attributes:
        speaking: the agent hears the caller speak.
        undecided: the caller has said something that is neither a turn nor discarded yet.
        greeting: a greeting is being spoken.
    """

    def __init__(self, now: float) -> None:
        self.speaking = False
        self.undecided = False
        self.greeting = False
        self._owed: set[str] = set()
        self._responses: dict[str, str] = {}
        self._tools: set[str] = set()
        self._moved = now

    @property
    def busy(self) -> bool:
        """A turn waits for its answer, an answer is not heard to its end, or a tool runs."""
        return bool(self.undecided or self._owed or self._responses or self._tools)

    def still_for(self, now: float) -> float:
        """Seconds since anything moved."""
        return now - self._moved

    def idle_for(self, now: float) -> float:
        """Seconds for which nothing has been owed; 0 while something is."""
        return 0.0 if self.busy else now - self._moved

    def asked(self, now: float) -> None:
        """The caller has typed a turn: an answer is owed from here on, before any event says so."""
        self._moved = now
        self.undecided = True

    def take(self, event: Event, now: float) -> None:
        """An event of the call."""
        match event:
            case UserSpeechStarted():
                self.speaking = self.undecided = True
            case UserSpeechStopped():
                self.speaking = False
            case TurnCommitted():
                self.undecided = self.speaking
                self._owed.add(event.turn)
            case TurnDiscarded():
                self.undecided = self.speaking
                self._owed.discard(event.turn)
            case ResponseStarted():
                self._responses[event.response] = event.origin
                self._owed.discard(event.turn)
            case ResponseFinished():
                self._responses.pop(event.response, None)
            case ToolStarted():
                self._tools.add(event.call)
            case ToolFinished():
                self._tools.discard(event.call)
            case ToolProgress() | ResponseHeard() | UserTranscript():
                pass
            case _:
                return
        self.greeting = "greeting" in self._responses.values()
        self._moved = now
