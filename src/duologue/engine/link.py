"""What a link's two ends decide by time alone: whether the other side lives, how long to wait for it, which token
resumes.

Times are seconds on the caller's monotonic clock; every machine says when it next wants to be asked (`next_deadline`).
"""

from __future__ import annotations

import enum
import hmac


class Beat(enum.Enum):
    """What a heartbeat asks of its link."""

    NOTHING = "nothing"
    PING = "ping"
    DEAD = "dead"


class Heartbeat:
    """Pings every `every` seconds and finds a link dead on which nothing arrived for `miss` seconds.

    A process that was itself stalled must not blame the link for what still waits in its socket: a tick that comes more
    than `every` after its deadline grants the link another `every`.
    """

    __slots__ = ("_dead_at", "_every", "_miss", "_ping_at")

    def __init__(self, *, every: float, miss: float, now: float) -> None:
        self._every = every
        self._miss = miss
        self._ping_at = now
        self._dead_at = now + miss

    def received(self, now: float) -> None:
        """Something arrived: a sign of life."""
        self._dead_at = now + self._miss

    def next_deadline(self) -> float:
        """When :meth:`tick` has something to decide."""
        return min(self._ping_at, self._dead_at)

    def tick(self, now: float) -> Beat:
        """What to do at `now`."""
        late = now - self.next_deadline()
        if late < 0:
            return Beat.NOTHING
        if late > self._every:
            self._dead_at = max(self._dead_at, now + self._every)
        elif now >= self._dead_at:
            return Beat.DEAD
        if now >= self._ping_at:
            self._ping_at = now + self._every
            return Beat.PING
        return Beat.NOTHING


class Grace:
    """How long a call outlives its lost link."""

    __slots__ = ("_until", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until: float | None = None

    @property
    def running(self) -> bool:
        return self._until is not None

    def start(self, now: float) -> None:
        """The link is gone; a second call while it is gone changes nothing."""
        if self._until is None:
            self._until = now + self.seconds

    def cancel(self) -> None:
        """The client is back."""
        self._until = None

    def next_deadline(self) -> float | None:
        """When the call ends if nobody resumes; None while a link is up."""
        return self._until

    def expired(self, now: float) -> bool:
        return self._until is not None and now >= self._until


class ResumeTokens:
    """The rotating secret that resumes a call.

    Each opening brings a new token. The one that the client last showed to have stays valid beside it until something
    arrives on the new link, else openings that are lost in further cuts would lock the client out.
    """

    __slots__ = ("_shown", "current")

    def __init__(self, current: str) -> None:
        self.current = current
        self._shown = current

    @property
    def shown(self) -> str:
        """The one that the client showed to have, or was given first."""
        return self._shown

    def rotate(self, new: str) -> None:
        """`new` goes out with an opening."""
        self.current = new

    def confirm(self) -> None:
        """A message came on the link that brought the current token."""
        self._shown = self.current

    def accepts(self, token: str) -> bool:
        """Whether `token` resumes this call; the client then has shown it. Takes the same time whatever it is."""
        given = token.encode(errors="replace")
        current = hmac.compare_digest(given, self.current.encode())
        shown = hmac.compare_digest(given, self._shown.encode())
        if not given or not (current or shown):
            return False
        self._shown = token
        return True
