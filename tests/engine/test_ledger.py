"""The playout ledger against a listener that is simulated sample by sample: what it says was heard is what was heard."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from duologue.engine.ledger import Ledger, LedgerOptions
from duologue.errors import ProtocolError

RATE = 8000
FRAME = 160


class Ears:
    """A listener: renders what arrives, in order, at the track's rate, and knows what it heard of each response."""

    def __init__(self, lag_s: float) -> None:
        self.lag_s = lag_s
        self.now = 0.0
        self.queue: list[list[float | int | str]] = []  # arrives at, response, offset, position, samples
        self.heard: dict[str, int] = {}
        self.played = 0
        self._budget = 0.0

    def take(self, response: str, offset: int, position: int, samples: int, now: float) -> None:
        self.queue.append([now + self.lag_s, response, offset, position, samples])

    def run(self, until: float) -> None:
        """Render until this time, a millisecond at a time."""
        step = 0.001
        while self.now + step <= until + 1e-9:
            self.now += step
            self._budget = min(self._budget + step * RATE, step * RATE + 1)
            while self._budget >= 1 and self.queue and float(self.queue[0][0]) <= self.now + 1e-9:
                arrives, response, offset, position, samples = self.queue[0]
                take = min(int(self._budget), int(samples))
                self._budget -= take
                self.heard[str(response)] = max(self.heard.get(str(response), 0), int(offset) + take)
                self.played = int(position) + take
                if take == samples:
                    self.queue.pop(0)
                else:
                    self.queue[0] = [arrives, response, int(offset) + take, int(position) + take, int(samples) - take]

    def clear(self) -> int:
        self.queue.clear()
        return self.played


class LedgerMachine(RuleBasedStateMachine):
    """Frames, acknowledgements that come late or not at all, clears and resumptions in any order."""

    @initialize(lag_ms=st.integers(0, 300))
    def begin(self, lag_ms: int) -> None:
        self.lag_s = lag_ms / 1000
        self.ledger = Ledger(RATE, LedgerOptions(lag_s=self.lag_s))
        self.ears = Ears(self.lag_s)
        self.now = 0.0
        self.response = 0
        self.offset = 0
        self.acks: list[tuple[float, int]] = []
        self.guessed: set[str] = set()  # responses with a cut that nobody confirmed

    @property
    def id(self) -> str:
        return f"r{self.response}"

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.acks and min(self.acks)[0] <= end:
            ack = min(self.acks)
            self.acks.remove(ack)
            self.now = max(self.now, ack[0])
            before = self.ledger.acknowledged
            self.ledger.acknowledge(ack[1], self.now)
            assert self.ledger.acknowledged == max(before, ack[1])
        self.now = end
        self.ears.run(self.now)

    @rule(frames=st.integers(1, 40))
    def send(self, frames: int) -> None:
        """Paced, as a session does it: only where there is room."""
        for _ in range(frames):
            if self.ledger.clearing:
                return
            room = self.ledger.room_s(self.now)
            if room < FRAME / RATE:
                self.advance(max(FRAME / RATE - room, 0.002))
                if self.ledger.room_s(self.now) < FRAME / RATE - 1e-6:
                    return  # only an acknowledgement can make room
            position = self.ledger.transmit(self.id, self.offset, FRAME, self.now)
            assert position + FRAME == self.ledger.sent
            self.ears.take(self.id, self.offset, position, FRAME, self.now)
            self.offset += FRAME

    @rule()
    def next_response(self) -> None:
        self.response += 1
        self.offset = 0

    @rule(seconds=st.floats(0.001, 0.8))
    def time_passes(self, seconds: float) -> None:
        self.advance(round(seconds, 3))

    @rule(lost=st.booleans(), extra_ms=st.integers(0, 200))
    def listener_acknowledges(self, lost: bool, extra_ms: int) -> None:
        if self.ears.played and not lost:
            self.acks.append((self.now + self.lag_s + extra_ms / 1000, self.ears.played))

    @rule(answered=st.booleans(), on_its_way_ms=st.integers(0, 300), resume=st.booleans())
    def cleared(self, answered: bool, on_its_way_ms: int, resume: bool) -> None:
        self.ledger.clear(self.now)
        assert self.ledger.room_s(self.now) < 0, "nothing is sent while a clear is under way"
        self.advance(on_its_way_ms / 1000)
        stopped = self.ears.clear()
        self.advance(0.02)
        cut = self.ledger.cleared(stopped if answered else None, self.now)
        if answered:
            assert cut == stopped
            for id in {*self.ears.heard, self.id} - self.guessed:
                exact = self.ledger.heard(id, self.now)
                assert exact.samples == self.ears.heard.get(id, 0)
                assert not exact.estimated
        else:
            self.guessed |= {*self.ears.heard, self.id}
        assert self.ledger.unplayed_s(self.now) == 0
        if resume:
            heard = self.ledger.heard(self.id, self.now).samples
            self.offset = max(0, heard - heard % 1000)

    @rule(beyond=st.integers(1, 10_000))
    def bogus_acknowledgement(self, beyond: int) -> None:
        before = self.ledger.acknowledged
        with pytest.raises(ProtocolError) as caught:
            self.ledger.acknowledge(self.ledger.sent + beyond, self.now)
        assert caught.value.code == "ack_of_unsent"
        with pytest.raises(ProtocolError):
            self.ledger.acknowledge(-beyond, self.now)
        assert self.ledger.acknowledged == before

    @precondition(lambda self: self.response > 1)
    @rule()
    def settle_the_oldest(self) -> None:
        oldest = f"r{min(int(id[1:]) for id in [*self.ears.heard, self.id])}"
        if oldest != self.id and not any(entry[1] == oldest for entry in self.ears.queue):
            now = self.ledger.heard(oldest, self.now).samples
            assert now >= 0
            self.ledger.forget(oldest)
            self.ears.heard.pop(oldest, None)
            assert self.ledger.heard(oldest, self.now).samples == 0

    @invariant()
    def sums_are_right(self) -> None:
        if not hasattr(self, "ledger"):
            return
        ledger, now = self.ledger, self.now
        assert 0 <= ledger.played(now) <= ledger.sent
        assert ledger.acknowledged <= ledger.sent
        assert ledger.unplayed_s(now) >= 0
        options = ledger.options
        assert options.lead_min_s - 1e-9 <= ledger.lead_s <= options.lead_max_s + 1e-9
        behind = max(ledger.acknowledged, 0)
        if ledger.acknowledged >= 0:
            # What was cut is behind us, too: no more than the cap can be on its way.
            assert ledger.sent - max(behind, ledger._cut_end) <= (options.unacknowledged_max_s) * RATE + 1e-6

    @invariant()
    def heard_is_what_was_heard(self) -> None:
        """Never more than was sent, and right to within what can be on its way: the lead."""
        if not hasattr(self, "ledger"):
            return
        for id in {*self.ears.heard, self.id}:
            heard = self.ledger.heard(id, self.now)
            assert heard.samples >= 0
            if id == self.id:
                assert heard.samples <= max(self.offset, self.ears.heard.get(id, 0) + RATE)
            slack = (self.ledger.options.lead_max_s + self.lag_s + 0.2) * RATE
            assert abs(heard.samples - self.ears.heard.get(id, 0)) <= slack, id


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_acknowledgements_of_nothing_are_an_error() -> None:
    with pytest.raises(ProtocolError):
        Ledger(RATE).acknowledge(1, 0.0)


def test_a_listener_that_acknowledges_is_heard_exactly() -> None:
    ledger = Ledger(RATE)
    ledger.transmit("r1", 0, 800, 0.0)
    ledger.transmit("r2", 0, 800, 0.0)
    ledger.acknowledge(1000, 0.2)
    assert ledger.heard("r1", 0.2) == (800, False) or ledger.heard("r1", 0.2).samples == 800
    assert ledger.heard("r2", 0.2).samples == 200
    assert not ledger.heard("r2", 0.2).estimated
    assert ledger.heard("r2", 0.25).estimated, "beyond the acknowledgement it is an estimate"
    assert ledger.response_at(999) == ("r2", 199)
    assert ledger.response_at(1600) is None


def test_what_was_cleared_is_never_heard_however_late_the_acknowledgements() -> None:
    ledger = Ledger(RATE)
    ledger.transmit("r1", 0, 8000, 0.0)
    ledger.clear(0.3)
    ledger.acknowledge(2000, 0.35)  # was on its way
    assert ledger.cleared(2400, 0.4) == 2400
    assert ledger.heard("r1", 5.0).samples == 2400
    ledger.transmit("r2", 0, 800, 5.0)
    ledger.acknowledge(2400, 5.1)
    assert ledger.heard("r2", 5.0).samples == 0
    ledger.acknowledge(8400, 5.2)
    assert ledger.heard("r1", 5.2).samples == 2400
    assert ledger.heard("r2", 5.2).samples == 400


def test_a_response_that_went_on_from_a_word_counts_its_furthest_sample_only() -> None:
    ledger = Ledger(RATE)
    ledger.transmit("r1", 0, 1600, 0.0)
    ledger.clear(0.15)
    ledger.cleared(700, 0.2)
    ledger.transmit("r1", 500, 1100, 0.5)
    ledger.acknowledge(1700, 0.7)
    assert ledger.heard("r1", 0.7).samples == 700, "what is said again was heard already"
    ledger.acknowledge(2700, 0.8)
    assert ledger.heard("r1", 0.8).samples == 1600


def test_a_response_handed_over_twice_because_another_was_resumed_is_heard_once() -> None:
    ledger = Ledger(RATE)
    ledger.transmit("r1", 0, 800, 0.0)
    ledger.transmit("r2", 0, 400, 0.0)
    ledger.clear(0.1)
    ledger.cleared(640, 0.1)
    ledger.transmit("r1", 560, 240, 0.2)
    ledger.transmit("r2", 0, 400, 0.2)
    assert ledger.heard("r1", 0.2).samples == 640
    assert ledger.heard("r2", 0.2).samples == 0
    ledger.acknowledge(1840, 0.4)
    assert ledger.heard("r1", 0.4).samples == 800
    assert ledger.heard("r2", 0.4).samples == 400


def test_no_answer_to_a_clear_leaves_a_marked_estimate_not_behind_what_is_acknowledged() -> None:
    ledger = Ledger(RATE, LedgerOptions(lag_s=0.5))
    ledger.transmit("r1", 0, 8000, 0.0)
    ledger.clear(0.5)
    ledger.acknowledge(400, 0.6)
    assert ledger.cleared(None, 1.0) == 400
    heard = ledger.heard("r1", 1.0)
    assert heard.samples == 400


def test_a_confirmed_clear_of_what_was_not_sent_is_an_error() -> None:
    ledger = Ledger(RATE)
    ledger.transmit("r1", 0, 800, 0.0)
    ledger.clear(0.0)
    with pytest.raises(ProtocolError):
        ledger.cleared(801, 0.1)


def test_a_listener_that_ran_dry_gets_a_longer_lead_within_bounds() -> None:
    ledger = Ledger(RATE)
    offset, now = 0, 0.0
    for _ in range(100):
        ledger.transmit("r1", offset, FRAME, now)
        offset += FRAME
        now += 1.0
    assert ledger.underruns == 99
    assert ledger.lead_s == ledger.options.lead_max_s


def test_a_comfortable_lead_shrinks_slowly_and_not_below_its_bound() -> None:
    ledger = Ledger(RATE, LedgerOptions(lead_s=0.6))
    leads = [ledger.lead_s]
    offset = 0
    for index in range(20_000):
        ledger.transmit("r1", offset, FRAME, index * 0.02)
        offset += FRAME
        ledger.acknowledge(max(0, offset - 3000), index * 0.02)
        leads.append(ledger.lead_s)
    assert leads == sorted(leads, reverse=True)
    assert leads[100] > 0.5
    assert leads[-1] == pytest.approx(ledger.options.lead_min_s)


def test_nothing_more_is_sent_to_a_listener_that_stopped_acknowledging() -> None:
    ledger = Ledger(RATE)
    ledger.transmit("r1", 0, FRAME, 0.0)
    ledger.acknowledge(FRAME, 0.1)
    offset, now = FRAME, 0.1
    for _ in range(1000):
        if ledger.room_s(now) >= FRAME / RATE:
            ledger.transmit("r1", offset, FRAME, now)
            offset += FRAME
        now += 0.02
    assert (ledger.sent - ledger.acknowledged) / RATE <= ledger.options.unacknowledged_max_s
    assert (ledger.sent - ledger.acknowledged) / RATE > ledger.options.unacknowledged_max_s - 0.02


@given(st.lists(st.tuples(st.sampled_from(["r1", "r2", "r3"]), st.integers(1, 500)), min_size=1, max_size=30))
def test_every_sample_of_the_track_has_its_place_in_a_response(runs: list[tuple[str, int]]) -> None:
    ledger = Ledger(RATE)
    truth: list[tuple[str, int]] = []
    offsets = dict.fromkeys(("r1", "r2", "r3"), 0)
    for response, samples in runs:
        assert ledger.transmit(response, offsets[response], samples, 0.0) == len(truth)
        truth += [(response, offsets[response] + index) for index in range(samples)]
        offsets[response] += samples
    for position in range(0, len(truth), 7):
        assert ledger.response_at(position) == truth[position]
    assert ledger.response_at(len(truth)) is None


def test_a_settled_response_leaves_nothing_behind() -> None:
    ledger = Ledger(RATE)
    for index in range(500):
        ledger.transmit(f"r{index}", 0, FRAME, index * 0.02)
        ledger.clear(index * 0.02)
        ledger.cleared(None, index * 0.02)
        ledger.forget(f"r{index}")
    assert not ledger._spans
    assert not ledger._starts


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=50)
def test_the_estimate_holds_under_jitter_and_loss(seed: int) -> None:
    chance = random.Random(seed)
    ledger, ears = Ledger(RATE), Ears(0.05)
    offset, acks, worst, warm = 0, [], 0.0, 0
    for index in range(1000):
        now = index * 0.02
        for due, played in sorted(acks):
            if due <= now:
                ledger.acknowledge(played, due)
                warm += 1
        acks = [ack for ack in acks if ack[0] > now]
        while ledger.room_s(now) >= FRAME / RATE:
            position = ledger.transmit("r1", offset, FRAME, now)
            ears.take("r1", offset, position, FRAME, now)
            offset += FRAME
        ears.run(now)
        if warm > 3:
            worst = max(worst, abs(ledger.heard("r1", now).samples - ears.heard["r1"]) / RATE)
        if index % 5 == 0 and ears.played and chance.random() > 0.3:
            acks.append((now + 0.01 + chance.random() * 0.1, ears.played))
    assert worst <= 0.12


def test_silence_of_the_listener_is_noticed_and_forgiven() -> None:
    options = LedgerOptions(unacknowledged_max_s=1.0, unacknowledged_wait_s=3.0)
    ledger = Ledger(RATE, options)
    now = 0.0
    assert not ledger.overdue(100.0), "nothing was sent, so nothing is due"
    while ledger.room_s(now) >= 0.02:
        ledger.transmit("r1", ledger.sent, FRAME, now)
        now += 0.02
    assert ledger.sent == RATE, "one second may be unacknowledged"
    assert not ledger.overdue(2.9)
    assert ledger.overdue(3.0)
    ledger.fall_back()
    assert not ledger.overdue(9.0)
    assert ledger.room_s(3.0) > 0
    assert ledger.heard("r1", 3.0).estimated
    ledger.acknowledge(RATE // 2, 3.1)
    assert not ledger.estimating
    assert ledger.room_s(3.1) <= 0.5
    ledger.returned(50.0)
    assert not ledger.overdue(52.0)
    assert ledger.overdue(53.0)


def test_a_listener_that_never_acknowledges_is_not_waited_for() -> None:
    ledger = Ledger(RATE, LedgerOptions(unacknowledged_max_s=0.0))
    ledger.transmit("r1", 0, FRAME, 0.0)
    assert not ledger.overdue(100.0)
