"""When a pause is the end of the turn: a smooth function of evidence, with a hard maximum.

Two fixed delays (short when a detector says "complete", long when it does not) make the wait all or nothing: a detector that
is slightly unsure costs seconds. Here the wait falls smoothly with the probability ``p`` that the turn is over::

    doubt(p) = min(1, (1 - p) / (1 - doubtful))
    delay(p) = shortest + (longest - shortest) * doubt(p) ** curve

and is stretched by what is known of this user: their own pauses inside turns, and how often the belief was wrong. Somebody who
reads aloud, dictates or tells a story ends phrase after phrase without being done: each time they go on where the turn could
have been over, the next such belief counts for less (Bayes' rule in spirit, with one constant)::

    p' = p / (1 + doubt * times)

It runs on media time; only `hard_max_ms` overrides evidence.
"""

from __future__ import annotations

import msgspec


class EndpointingOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of endpointing; milliseconds of silence, in media time.

    Attributes:
        shortest_ms: wait when it is certain that the turn is over.
        longest_ms: wait when it is certain that it is not.
        doubtful: at this probability and below, the wait is the longest.
        curve: how fast the wait falls as the probability rises beyond (1: linear).
        unknown: the probability assumed while recognition has not answered.
        hard_max_ms: the turn ends after this much silence, whatever the evidence.
        provider_max_ms: where the provider decides: the same, for a turn of which it says nothing more.
        stall_max_s: longest wait on the monotonic clock for further input inside a turn, should it stall.
        no_words_ms: a sound without words is no turn after this much silence.
        prepare_ms: silence after which a speculative reply is begun.
        pause_weight: how much of the user's typical pause inside turns is added to the wait (0: none).
        pause_memory: weight of the newest pause in the running mean.
        doubt: how much each pause of this turn that could have been its end, and was not, takes from the belief in the next.
        regret_ms: speech that begins within this time of the end of a turn was no reaction to its answer: the turn was
            cut, and the next one begins with what was learned in it.
    """

    shortest_ms: float = 270.0
    longest_ms: float = 1800.0
    doubtful: float = 0.4
    curve: float = 1.7
    unknown: float = 0.55
    hard_max_ms: float = 2800.0
    provider_max_ms: float = 10_000.0
    stall_max_s: float = 20.0
    no_words_ms: float = 500.0
    prepare_ms: float = 90.0
    pause_weight: float = 0.25
    pause_memory: float = 0.3
    doubt: float = 0.28
    regret_ms: float = 650.0


#: below this probability a pause was one in mid-phrase, and says nothing of how this user ends phrases
_PHRASE_OVER = 0.15
#: being wrong more often than this teaches nothing new: the wait must not grow for as long as somebody talks
_MOST_MISLED = 3


class Endpointing:
    """The wait that this user's pause deserves. One per user; remembers their pauses.

    `misled` counts the pauses of the present turn at which it could have been over and was not.
    """

    __slots__ = ("misled", "options", "typical_pause_ms")

    def __init__(self, options: EndpointingOptions | None = None) -> None:
        self.options = options or EndpointingOptions()
        self.typical_pause_ms = 0.0
        self.misled = 0

    def delay_ms(self, probability: float | None) -> float:
        """Silence to wait for, given the probability that the turn is over (None: not known yet)."""
        o = self.options
        p = o.unknown if probability is None else min(1.0, max(0.0, probability))
        p /= 1.0 + o.doubt * self.misled
        doubt: float = min(1.0, (1.0 - p) / (1.0 - o.doubtful)) ** o.curve
        delay = o.shortest_ms + (o.longest_ms - o.shortest_ms) * doubt
        # A user who pauses long inside turns gets more time, but only where there is doubt: certainty stays fast.
        delay += o.pause_weight * self.typical_pause_ms * doubt
        return min(delay, o.hard_max_ms)

    def continued_after(self, pause_ms: float, probability: float | None = None) -> None:
        """Learn: the user paused for `pause_ms`, seemed to be done with this probability, and went on with the same turn."""
        if pause_ms < self.options.shortest_ms:
            return  # a gap between words says nothing of how this user pauses
        if probability is not None and probability >= _PHRASE_OVER:
            self.misled = min(self.misled + 1, _MOST_MISLED)
        w = self.options.pause_memory
        self.typical_pause_ms += w * (min(pause_ms, self.options.hard_max_ms) - self.typical_pause_ms)

    def begin_turn(self, after_ms: float | None, probability: float | None) -> None:
        """A turn begins, `after_ms` of silence after the end of the one before (None: there was none).

        What begins so soon that the answer cannot have caused it goes on with what seemed to be over, with `probability`.
        """
        if after_ms is not None and 0 <= after_ms < self.options.regret_ms:
            self.continued_after(after_ms, probability)
        else:
            self.misled = 0
