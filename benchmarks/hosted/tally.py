"""What callers count, all of them together, between one look and the next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

#: width of a bucket, and how many there are; the last holds what is longer
_STEP_S, _BUCKETS = 0.0005, 8000


class Spread:
    """Durations in buckets of half a millisecond, up to 4 s."""

    def __init__(self) -> None:
        self._counts = [0] * (_BUCKETS + 1)
        self.n = 0

    def add(self, seconds: float) -> None:
        """One more; what is negative counts as nothing."""
        self.n += 1
        self._counts[min(_BUCKETS, max(0, int(seconds / _STEP_S)))] += 1

    def merge(self, other: Spread) -> None:
        """Those of another, too."""
        self.n += other.n
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]

    def percentile(self, percent: float) -> float:
        """Seconds that `percent` of them do not exceed: the upper edge of their bucket; 0.0 for none."""
        left = percent / 100 * self.n
        for index, count in enumerate(self._counts):
            left -= count
            if left <= 0 and self.n:
                return (index + 1) * _STEP_S if index or count < self.n else 0.0
        return 0.0

    @property
    def ms(self) -> dict[str, float]:
        """The 50th, 95th and 99th percentile, in ms."""
        return {f"p{share}": round(1000 * self.percentile(share), 1) for share in (50, 95, 99)}


@dataclass
class Tally:
    """Counts since it was made.

    Attributes:
        late: of each frame of the agent, how much later it came than its pace (see `callers`).
        trip: a ping of protocol v1 to the worker and back.
        ticks: how late the generator itself was with each frame of a microphone; what is more is not the host's.
        sent, received: frames of callers and of the agent. `silent`: frames of callers without a mark.
        lost, doubled: positions of the agent's stream (events and frames) that did not come, or came again.
        lost_samples, doubled_samples: samples of the agent's track by the positions of its frames, and `wrong`: frames whose
            samples are not those that the agent made for their place in the answer.
        dry: times at which the agent's audio came after its predecessor had been played to its end.
        gone: calls that ended unasked. `errors`: by code.
        events: how many of each type.
    """

    late: Spread = field(default_factory=Spread)
    trip: Spread = field(default_factory=Spread)
    ticks: Spread = field(default_factory=Spread)
    sent: int = 0
    silent: int = 0
    received: int = 0
    lost: int = 0
    doubled: int = 0
    lost_samples: int = 0
    doubled_samples: int = 0
    wrong: int = 0
    dry: int = 0
    gone: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    @property
    def losses(self) -> int:
        """Everything that was lost, doubled or wrong, of whatever kind."""
        return self.lost + self.doubled + self.lost_samples + self.doubled_samples + self.wrong + self.gone

    def merge(self, other: Tally) -> None:
        """Those of another, too."""
        for name in ("late", "trip", "ticks"):
            getattr(self, name).merge(getattr(other, name))
        for name in (
            "sent",
            "silent",
            "received",
            "lost",
            "doubled",
            "lost_samples",
            "doubled_samples",
            "wrong",
            "dry",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.gone += other.gone
        self.errors.update(other.errors)
        self.events.update(other.events)
