"""Notices a provider that owes something and says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: an answer is owed and the provider has said nothing for so long: it has stalled
STALL_S = 8.0
#: the same in the middle of an answer, from when all that it has sent of it has been played
HUNG_S = 1.0


class StallWatch:
    """A deadline that moves with what the provider says.

    Args:
        loop: whose timers are used; its clock is `now`'s.
        now: the session's clock.
        stalled: called once the provider has said nothing for too long; the watch is over then.

    Attributes:
        plays_to: until when what came of the answer under way can be heard.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float], stalled: Callable[[], None]) -> None:
        self._loop = loop
        self._now = now
        self._stalled = stalled
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0
        self.plays_to = 0.0

    @property
    def on(self) -> bool:
        """Whether something is expected."""
        return self._timer is not None

    def begin(self) -> None:
        """The provider owes something from now on."""
        self.stop()
        self._at = self._now() + STALL_S
        self._timer = self._loop.call_at(self._at, self._due)

    def stop(self) -> None:
        """It owes nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def spoke(self, seconds: float) -> None:
        """So much audio of the answer came."""
        self.plays_to = max(self._now(), self.plays_to) + seconds

    def alive(self, sounding: bool) -> None:
        """The provider has said something. `sounding`: its answer can be heard, where a silence is noticed sooner."""
        if self._timer is None:
            return
        now = self._now()
        at = max(now, self.plays_to) + HUNG_S if sounding else now + STALL_S
        # The timer is only moved to an earlier time: each word would move it.
        sooner, self._at = at < self._at, at
        if sooner:
            self._timer.cancel()
            self._timer = self._loop.call_at(at, self._due)

    def _due(self) -> None:
        if self._now() < self._at - 0.001:  # it said something since
            self._timer = self._loop.call_at(self._at, self._due)
            return
        self._timer = None
        self._stalled()
