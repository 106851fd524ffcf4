"""Whether the agent still owes something: what a caller without ears of their own goes by before they hang up."""

from __future__ import annotations

import asyncio

from ..events import (
    Event,
    ResponseFinished,
    ResponseHeard,
    ResponseStarted,
    SessionStarted,
    ToolApprovalNeeded,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    UserSpeechStarted,
    UserSpeechStopped,
    UserTranscript,
)

#: how often a wait looks whether something has happened, seconds
_LOOK_S = 0.05


class Settling:
    """Follows the events of a call. Pure; `now` is monotonic seconds.

    Attributes:
        speaking: the agent hears the caller speak.
        undecided: the caller has said something that is neither a turn nor discarded yet.
        greeting: a greeting is being spoken.
        approvals: tool runs that wait for the caller's approval, oldest first.
    """

    def __init__(self, now: float) -> None:
        self.speaking = False
        self.undecided = False
        self.greeting = False
        self._owed: set[str] = set()
        self._responses: dict[str, str] = {}
        self._tools: set[str] = set()
        self.approvals: list[str] = []
        self._moved = now

    @property
    def busy(self) -> bool:
        """A turn waits for its answer, an answer is not heard to its end, or a tool runs (not: waits for the caller)."""
        running = self._tools.difference(self.approvals)
        return bool(self.undecided or self._owed or self._responses or running)

    def still_for(self, now: float) -> float:
        """Seconds since anything moved."""
        return now - self._moved

    def left(self, now: float, settle_s: float, give_up_s: float) -> float:
        """Seconds until nothing has been owed for `settle_s`, or nothing has happened for `give_up_s`, as things stand."""
        return self._moved + (give_up_s if self.busy else min(settle_s, give_up_s)) - now

    def asked(self, now: float) -> None:
        """The caller has typed a turn: an answer is owed from here on, before any event says so."""
        self._moved = now
        self.undecided = True

    def approve(self, now: float) -> str:
        """The caller decides about the oldest run that waits for them: its id. Raises IndexError if none does."""
        self._moved = now
        return self.approvals.pop(0)

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
            case ToolApprovalNeeded():
                self._tools.add(event.call)
                self.approvals.append(event.call)
            case ToolFinished():
                self._tools.discard(event.call)
                self.approvals = [call for call in self.approvals if call != event.call]
            case SessionStarted() | ToolProgress() | ResponseHeard() | UserTranscript():
                pass
            case _:
                return
        self.greeting = "greeting" in self._responses.values()
        self._moved = now


async def settled(settling: Settling, settle_s: float, give_up_s: float) -> None:
    """Wait until nothing has been owed for `settle_s`, or nothing at all has happened for `give_up_s` seconds."""
    loop = asyncio.get_running_loop()
    while (left := settling.left(loop.time(), settle_s, give_up_s)) > 0:  # noqa: ASYNC110 - events move the end
        await asyncio.sleep(min(left, _LOOK_S))
