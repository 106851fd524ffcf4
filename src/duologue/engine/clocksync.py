"""How another machine's clock stands to ours, from ping and pong.

The estimate of the shortest recent round trip is kept, as in NTP's clock filter (RFC 5905, section 10): queueing only
ever makes a round trip longer, and its asymmetry is what makes an estimate wrong.
"""

from __future__ import annotations

from collections import deque


class ClockSync:
    """Maps a peer's clock to ours.

    Args:
        window: how many of the latest round trips are considered; old ones go, since clocks drift.
    """

    __slots__ = ("_best", "_samples")

    def __init__(self, window: int = 16) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=window)
        self._best: tuple[float, float] | None = None  # the shortest of them, and its offset

    def pong(self, sent: float, peer: float, received: float) -> None:
        """A ping of ours, sent at `sent`, was answered when the peer's clock said `peer`, and that arrived at
        `received`.
        """
        if received >= sent:
            self._samples.append((received - sent, peer - (sent + received) / 2))
            self._best = min(self._samples)

    @property
    def rtt(self) -> float | None:
        """Shortest recent round trip, seconds; None before the first."""
        return self._best[0] if self._best is not None else None

    @property
    def offset(self) -> float | None:
        """The peer's clock minus ours, seconds, wrong by at most half of :attr:`rtt`; None before the first round
        trip.
        """
        return self._best[1] if self._best is not None else None

    def to_local(self, peer: float) -> float | None:
        """The time on our clock at which the peer's said `peer`; None before the first round trip."""
        offset = self.offset
        return None if offset is None else peer - offset
