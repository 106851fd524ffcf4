"""The playout ledger: what has been sent to a listener, what of it was heard, and how far ahead of their ears we are.

One ledger per listener and epoch. Audio goes onto the listener's *track*: every sample transmitted has a position there, and
each run of positions maps to samples of a response. A listener acknowledges playout with one number, the track position of
the last sample it rendered; acknowledgements are cumulative, so a lost one costs nothing but time.

    track     0 ........ 4800 ........ 9600 ........ 14400
    response  r1 0-4800  r1 4800-9600  r2 0-4800
    heard     ^^^^^^^^^^^^^^^^^^^^^ played = 8000  ->  r1 heard up to its sample 8000

After ``clear`` the listener drops everything it has not rendered and answers with its final played position; what lies
between that and the end of what was sent is never heard, and later audio continues at higher positions.

Between acknowledgements playout is estimated: it runs at the track's rate until it meets the end of what was sent. An
acknowledgement may have been held up on its way, and then says less than is true (unless it comes with its time): of the
last few, the most favourable one counts, so that a single late one does not turn the estimate back, while a listener that
really falls behind soon does. The *lead* is what was sent and is, by that estimate, not yet played; it adapts between two
bounds: up when the listener ran dry, slowly down when it did not. How much may be unacknowledged at all has a hard cap.

A listener that stops acknowledging in the midst of what it plays would stall there for as long as its link lives. After a
bounded time the estimate is believed instead (what was heard is marked as estimated), until it acknowledges again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

import msgspec

from ..errors import ProtocolError

#: acknowledgements of which the most favourable counts
_RECENT = 4
#: age beyond which the time of an acknowledgement is not believed (seconds)
_OLDEST_S = 2.0
#: playout that is late by less than this has not stalled (seconds)
_STALL_S = 0.03


class LedgerOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of pacing, in seconds.

    Attributes:
        lead_s: lead at the start; `lead_min_s` and `lead_max_s` bound its adaptation.
        unacknowledged_max_s: hard cap over what the listener has acknowledged (0: the listener does not acknowledge).
        unacknowledged_wait_s: how long playout may go on without any acknowledgement before estimates take their place; more
            than a link needs to be found dead, so that nobody is taken to hear who is gone.
        lag_s: assumed time from sending to rendering while nothing has been acknowledged.
    """

    lead_s: float = 0.2
    lead_min_s: float = 0.12
    lead_max_s: float = 0.6
    unacknowledged_max_s: float = 2.0
    unacknowledged_wait_s: float = 4.0
    lag_s: float = 0.06


class Span(msgspec.Struct, array_like=True):
    """A run of samples on the track: `[start, end)` carries `response` from its sample `offset` on; `cut`: heard no further."""

    start: int
    end: int
    response: str
    offset: int
    cut: int | None = None


class Heard(msgspec.Struct, frozen=True, array_like=True):
    """How much of a response was heard: samples from its beginning; `estimated` if an acknowledgement is missing."""

    samples: int
    estimated: bool


class Ledger:
    """The ledger of one listener. All positions are samples at `rate`; `now` is the monotonic clock in seconds."""

    __slots__ = (
        "_ack_at",
        "_anchor",
        "_bases",
        "_began_at",
        "_best",
        "_cut_end",
        "_due_since",
        "_played",
        "_spans",
        "_starts",
        "acknowledged",
        "clearing",
        "delays",
        "estimating",
        "lead_s",
        "options",
        "rate",
        "sent",
        "underruns",
        "way_s",
    )

    def __init__(self, rate: int, options: LedgerOptions | None = None) -> None:
        self.rate = rate
        self.options = options or LedgerOptions()
        self.sent = 0  # end of the track: samples transmitted so far
        self.acknowledged = -1  # last acknowledged position; -1: never
        self.lead_s = self.options.lead_s
        self.clearing = False
        self.underruns = 0
        self._played = 0.0  # base of the estimate: position that was played at _ack_at
        self._ack_at = 0.0
        self._bases: deque[float] = deque(maxlen=_RECENT)  # when sample 0 would have been played, by recent reports
        self.delays: deque[float] = deque(maxlen=_RECENT)  # how long reports that came with their time were under way
        self.way_s = 0.0  # the same, as the channel knows it from elsewhere
        self._began_at: float | None = None  # when the present unbroken playout was begun, while no report speaks of it
        self._best = -1.0  # the earliest of them while playout ran without a break
        self._anchor = 0  # where on the track the present unbroken playout began
        self._cut_end = 0
        self._due_since: float | None = None  # since when an acknowledgement is due
        self.estimating = False  # it stopped acknowledging, so the estimate stands in for it
        self._spans: list[Span] = []
        self._starts: list[int] = []

    # ------------------------------------------------------------------ facts

    def begin_at(self, position: int) -> None:
        """The track begins there, before anything is sent: another owner may have sent what is before it."""
        self.sent = self._anchor = self._cut_end = position
        self._played = float(position)

    def transmit(self, response: str, offset: int, samples: int, now: float) -> int:
        """Enter `samples` of `response`, from its sample `offset` on, as sent at `now`. Returns their track position."""
        position = self.sent
        if self._estimate(now) >= position:
            # Nothing was left to play: playout of this begins after the listener's lag, not where the clock has run to.
            if self._spans and self._spans[-1].response == response and self._spans[-1].cut is None and offset:
                self.underruns += 1
                self.lead_s = min(self.options.lead_max_s, self.lead_s * 1.25)
            self._played = float(position)
            self._ack_at = now + max(self.options.lag_s, self.delay_s)
            self._restart(position)
            self._began_at = self._due_since = now
        spans = self._spans
        last = spans[-1] if spans else None
        if (
            last is not None
            and last.response == response
            and last.cut is None
            and last.end == position
            and last.offset + (position - last.start) == offset
        ):
            last.end = position + samples
        else:
            spans.append(Span(position, position + samples, response, offset))
            self._starts.append(position)
        self.sent = position + samples
        return position

    def acknowledge(self, played: int, now: float, at: float | None = None) -> None:
        """The listener has rendered everything before track position `played`, at `at` by our clock where that is known.

        Raises `ProtocolError` for a position that was never sent. A position behind an earlier one is old news and ignored.
        """
        if played > self.sent:
            raise ProtocolError(
                f"Playout of sample {played} was acknowledged, but only {self.sent} were sent.", code="ack_of_unsent"
            )
        if played < 0:
            raise ProtocolError("A playout position cannot be negative.", code="ack_negative")
        if at is not None:
            self.delays.append(min(_OLDEST_S, max(0.0, now - at)))
        self.estimating = False
        self._due_since = now
        if played < self.acknowledged:
            return
        self.acknowledged = played
        if self.clearing or played <= self._anchor:
            return  # it speaks of audio from before a break, and says nothing of how far the rest has come
        self._began_at = None
        if at is not None:
            self._bases.clear()  # a report with its time is exact, however long it took
        self._bases.append((now if at is None else min(now, max(at, now - _OLDEST_S))) - played / self.rate)
        base = min(self._bases)
        self._played = min(float(self.sent), max(float(played), (now - base) * self.rate))
        self._ack_at = now
        if self._best < 0 or base < self._best:
            self._best = base
        elif base - self._best > _STALL_S:
            # It came later than what was before it, and stays late: the listener ran dry in between.
            self.underruns += 1
            self.lead_s = min(self.options.lead_max_s, self.lead_s + base - self._best)
            self._best = base
        # A lead that was enough for long may shrink: a second of comfort gives back about a percent.
        if self.lead_s > self.options.lead_min_s and self.sent - played > self.rate * self.options.lead_min_s:
            self.lead_s = max(self.options.lead_min_s, self.lead_s * 0.999)

    def overdue(self, now: float) -> bool:
        """Whether playout has gone on for so long without an acknowledgement that the listener is taken to have stopped."""
        o = self.options
        return (
            bool(o.unacknowledged_max_s)
            and not (self.estimating or self.clearing)
            and self._due_since is not None
            and max(self.acknowledged, self._cut_end) < self.sent
            and now - self._due_since >= o.unacknowledged_wait_s
        )

    def fall_back(self) -> None:
        """Believe the estimate from now on, until something is acknowledged."""
        self.estimating = True

    def returned(self, now: float) -> None:
        """The listener is back after a break of its link: its acknowledgements are due from now on."""
        self._due_since = now

    def learn_way(self, seconds: float) -> None:
        """A message to the listener takes so long, by what the channel knows. Reports of playout know better."""
        self.way_s = seconds
        if self._began_at is not None:
            self._ack_at = self._began_at + max(self.options.lag_s, self.delay_s)

    def clear(self, now: float) -> None:
        """A ``clear`` was sent: nothing beyond what is being rendered when it arrives will be heard."""
        self._played = self._estimate(now + self.delay_s)
        self._ack_at = now
        self.clearing = True

    def cleared(self, played: int | None, now: float) -> int:
        """The listener confirmed the clear at `played` (None: no answer in time, the estimate stands). Returns the cut."""
        if played is None:
            cut = max(0, self.acknowledged, min(self.sent, round(self._played)))
        else:
            if played > self.sent:
                raise ProtocolError(
                    f"A clear was confirmed at sample {played}, but only {self.sent} were sent.", code="ack_of_unsent"
                )
            cut = max(0, played, self.acknowledged)
            self.acknowledged = cut
        self.clearing = False
        for span in reversed(self._spans):
            if span.end <= cut or span.cut is not None:
                break
            span.cut = max(span.start, cut)
        self._cut_end = self.sent
        self._played = float(self.sent)
        self._ack_at = now
        self._restart(self.sent)
        return cut

    def _restart(self, position: int) -> None:
        self._anchor = position
        self._bases.clear()
        self._best = -1.0
        self._began_at = None

    # ------------------------------------------------------------------ questions

    @property
    def delay_s(self) -> float:
        """Seconds that a message to or from the listener takes, as far as its reports (else the channel) tell."""
        return min(self.delays, default=self.way_s)

    def played(self, now: float) -> int:
        """Estimated track position being rendered at `now`."""
        return int(self._estimate(now))

    def unplayed_s(self, now: float) -> float:
        """Seconds sent and, by the estimate, not yet rendered."""
        return (self.sent - self._estimate(now)) / self.rate

    def room_s(self, now: float) -> float:
        """Seconds that may be sent now without exceeding lead or cap (negative: none)."""
        if self.clearing:
            return -1.0
        room = self.lead_s - (self.sent - self._estimate(now)) / self.rate
        cap = self.options.unacknowledged_max_s
        if cap and not self.estimating and self.sent > self._cut_end:
            behind = max(self.acknowledged, self._cut_end)
            room = min(room, cap - (self.sent - behind) / self.rate)
        return room

    def drained_at(self) -> float:
        """When, by the estimate, everything sent will have been rendered (monotonic seconds)."""
        return self._ack_at + (self.sent - self._played) / self.rate

    def heard(self, response: str, now: float) -> Heard:
        """How many samples of `response`, from its beginning, the listener has heard."""
        played = int(self._estimate(now))
        # A response is heard in order, and after a false barge-in again from a word boundary: the furthest sample counts.
        furthest, reached = 0, 0
        for span in self._spans:
            if span.response != response:
                continue
            upto = min(span.end, played) if span.cut is None else span.cut
            if upto > span.start and span.offset + upto - span.start > furthest:
                furthest = span.offset + upto - span.start
                reached = upto
        return Heard(furthest, reached > max(self.acknowledged, 0))

    def response_at(self, position: int) -> tuple[str, int] | None:
        """The response and its sample at a track position; None beyond what was sent, and where it was cut or forgotten."""
        index = bisect_right(self._starts, position) - 1
        if index < 0:
            return None
        span = self._spans[index]
        if position >= (span.end if span.cut is None else span.cut):  # cut, forgotten, or not sent
            return None
        return span.response, span.offset + position - span.start

    def forget(self, response: str) -> None:
        """Drop the spans of a response whose heard part has been settled; keeps a long call small."""
        if any(span.response == response for span in self._spans):
            self._spans = [span for span in self._spans if span.response != response]
            self._starts = [span.start for span in self._spans]

    def _estimate(self, now: float) -> float:
        if self.clearing:
            return self._played
        elapsed = now - self._ack_at
        if elapsed <= 0:
            return self._played
        estimate = self._played + elapsed * self.rate
        return estimate if estimate < self.sent else float(self.sent)
