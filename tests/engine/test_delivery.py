"""Numbering, acknowledging, replaying: by example, and as a machine that cuts, resumes and repeats at random."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from duologue.engine.delivery import Gap, Inbox, Item, Outbox, Position
from duologue.errors import ProtocolError


def _fill(outbox: Outbox, kinds: str, samples: int = 10) -> None:
    """Push one message a letter: `e` an event, `a` audio of response r."""
    for kind in kinds:
        if kind == "e":
            outbox.push_event("x" * 10)
        else:
            outbox.push_audio(b"", samples, (outbox.sent.n) * samples, "r")


def _ns(parts: list[Item | Gap]) -> list[object]:
    """A replay as numbers, gaps as (first, last, events, samples, why)."""
    return [
        part.at.n if isinstance(part, Item) else (part.first.n, part.last.n, part.events, part.samples, part.why)
        for part in parts
    ]


def test_numbers_start_at_one_and_run_over_events_and_audio_alike() -> None:
    outbox = Outbox(epoch=3)
    assert outbox.sent == (3, 0)
    _fill(outbox, "eae")
    assert outbox.sent == (3, 3)
    assert _ns(outbox.replay(Position(3, 1))) == [2, 3]
    assert _ns(outbox.replay(Position(3, 0))) == [1, 2, 3]


def test_acknowledged_messages_are_forgotten_and_old_acknowledgements_ignored() -> None:
    outbox = Outbox()
    _fill(outbox, "eaea")
    outbox.ack(Position(1, 3))
    outbox.ack(Position(1, 2))
    assert len(outbox) == 1
    assert _ns(outbox.replay(Position(1, 3))) == [4]


def test_an_acknowledgement_of_what_was_never_sent_is_an_error() -> None:
    outbox = Outbox()
    _fill(outbox, "e")
    with pytest.raises(ProtocolError) as caught:
        outbox.ack(Position(1, 2))
    assert caught.value.code == "ack_unsent"
    assert caught.value.close_code is None
    assert len(outbox) == 1


def test_a_resume_from_what_was_never_sent_is_refused() -> None:
    with pytest.raises(ProtocolError) as caught:
        Outbox().replay(Position(1, 1))
    assert (caught.value.code, caught.value.close_code) == ("resume", 4004)


def test_audio_that_falls_out_leaves_the_events_between_and_is_reported_around_them() -> None:
    outbox = Outbox(audio_samples=20)
    _fill(outbox, "aaeaaa")
    assert _ns(outbox.replay(Position(1, 0))) == [(1, 2, 0, 20, "overflow"), 3, (4, 4, 0, 10, "overflow"), 5, 6]
    assert outbox.lost_samples == 30


def test_events_that_fall_out_do_not_take_audio_with_them() -> None:
    outbox = Outbox(event_bytes=25)
    _fill(outbox, "eeaee")
    assert _ns(outbox.replay(Position(1, 0))) == [(1, 2, 2, 0, "overflow"), 3, 4, 5]


def test_a_gap_is_clipped_to_what_the_receiver_lacks() -> None:
    outbox = Outbox(audio_samples=10)
    _fill(outbox, "aaaa")
    assert _ns(outbox.replay(Position(1, 2))) == [(3, 3, 0, 10, "overflow"), 4]
    outbox.ack(Position(1, 1))
    assert _ns(outbox.replay(Position(1, 1))) == [(2, 3, 0, 20, "overflow"), 4]


def test_cleared_audio_is_a_gap_that_is_no_loss() -> None:
    outbox = Outbox()
    _fill(outbox, "aea")
    outbox.push_audio(b"", 10, 30, "other")
    assert outbox.clear_audio(30, "r") == 20
    assert _ns(outbox.replay(Position(1, 0))) == [(1, 1, 0, 10, "cleared"), 2, (3, 3, 0, 10, "cleared"), 4]
    assert outbox.lost_samples == 0


def test_a_new_owner_starts_at_one_and_keeps_what_is_owed() -> None:
    outbox = Outbox()
    _fill(outbox, "ee")
    outbox.advance(2)
    _fill(outbox, "e")
    parts = outbox.replay(Position(1, 1))
    assert [part.at for part in parts if isinstance(part, Item)] == [(1, 2), (2, 1)]
    with pytest.raises(ProtocolError):
        outbox.advance(2)


def test_what_an_earlier_owner_sent_is_an_unknown_gap() -> None:
    outbox = Outbox(epoch=2)
    _fill(outbox, "e")
    gap, item = outbox.replay(Position(1, 57))
    assert gap == Gap(Position(1, 58), Position(2, 0), -1, -1, 0, "unknown")
    assert isinstance(item, Item)
    inbox = Inbox(epoch=1, last=Position(1, 57))
    inbox.announce(2)
    assert isinstance(gap, Gap)
    assert inbox.accept_gap(gap.first, gap.last, 0.0)
    assert inbox.accept(2, 1, 0.0)


def test_memory_of_losses_is_bounded_for_a_receiver_that_never_acknowledges() -> None:
    outbox = Outbox(audio_samples=10, event_bytes=15)
    _fill(outbox, "ea" * 20_000)
    assert len(outbox._lost) <= 1025
    first, *rest = outbox.replay(Position(1, 0))
    assert isinstance(first, Gap)
    assert (first.events, first.samples, len(rest)) == (19_999, 199_990, 2)


def test_duplicates_are_dropped_and_jumps_are_errors() -> None:
    inbox = Inbox()
    assert inbox.accept(1, 1, 0.0)
    assert not inbox.accept(1, 1, 0.0)
    for epoch, n in ((1, 3), (2, 1), (2, 2)):
        with pytest.raises(ProtocolError) as caught:
            inbox.accept(epoch, n, 0.0)
        assert (caught.value.code, caught.value.close_code) == ("sequence", 4000)
    inbox.announce(2)
    assert inbox.accept(2, 1, 0.0)
    assert not inbox.accept(1, 2, 0.0)
    assert inbox.duplicates == 2


@pytest.mark.parametrize(
    ("first", "last"), [((1, 3), (1, 4)), ((1, 4), (1, 2)), ((2, 1), (2, 2)), ((1, 2), (2, 5))], ids=str
)
def test_gaps_must_follow(first: tuple[int, int], last: tuple[int, int]) -> None:
    inbox = Inbox()
    inbox.accept(1, 1, 0.0)
    with pytest.raises(ProtocolError):
        inbox.accept_gap(Position(*first), Position(*last), 0.0)
    assert inbox.last == (1, 1)


def test_acknowledgements_fall_due_by_count_or_by_time() -> None:
    inbox = Inbox(ack_every=3, ack_after_s=0.25)
    assert inbox.next_deadline() is None
    inbox.accept(1, 1, 10.0)
    assert inbox.next_deadline() == 10.25
    assert inbox.ack_due(10.2) is None
    assert inbox.ack_due(10.25) == (1, 1)
    for n in (2, 3, 4):
        inbox.accept(1, n, 11.0)
    assert inbox.ack_due(11.0) == (1, 4)
    assert inbox.ack_due(99.0) is None


def test_what_is_not_taken_is_not_acknowledged() -> None:
    inbox = Inbox(auto=False)
    inbox.accept(1, 1, 0.0)
    inbox.accept(1, 2, 0.0)
    assert inbox.ack_due(9.0) is None
    inbox.take(Position(1, 1), 9.0)
    assert inbox.ack_due(9.25) == (1, 1)
    inbox.take(Position(1, 5), 9.3)  # beyond what was received: nothing happens
    assert inbox.taken == (1, 1)
    assert inbox.ack_now() == (1, 1)


def test_an_owner_that_takes_over_is_given_what_it_wants_again_acknowledged_or_not() -> None:
    outbox = Outbox(past=True)
    _fill(outbox, "aaeaaa")
    outbox.ack(Position(1, 5))
    # audio lies at 10 times its number less one
    assert _ns(outbox.recall(30)) == [(1, 3, 0, 0, "taken"), 4, 5, 6]
    assert _ns(outbox.recall(35)) == _ns(outbox.recall(30))
    assert _ns(outbox.recall(0)) == [1, 2, 3, 4, 5, 6]
    # What was not acknowledged is given in any case.
    assert _ns(outbox.recall(1000)) == [(1, 5, 0, 0, "taken"), 6]
    outbox.ack(Position(1, 6))
    assert _ns(outbox.recall(1000)) == [(1, 6, 0, 0, "taken")]
    outbox.advance(2)
    assert outbox.recall(1000) == [Gap(Position(1, 1), Position(2, 0), 0, 0, 0, "taken")]
    assert Outbox(past=True).recall(0) == []


def test_as_much_is_kept_of_what_was_acknowledged_as_of_what_was_not() -> None:
    outbox = Outbox(audio_samples=30, past=True)
    for kinds in ("aae", "aea"):
        _fill(outbox, kinds)
        outbox.ack(outbox.sent)
    assert _ns(outbox.recall(0)) == [(1, 1, 0, 0, "taken"), 2, 3, 4, 5, 6]
    plain = Outbox()
    _fill(plain, "aa")
    plain.ack(Position(1, 1))
    assert _ns(plain.recall(0)) == [(1, 1, 0, 0, "taken"), 2]


def test_what_was_lost_before_it_was_acknowledged_leaves_no_hole() -> None:
    outbox = Outbox(event_bytes=30, past=True)
    _fill(outbox, "aeeeeea")  # two events fell out between the audio
    assert outbox.lost_events == 2
    # Not acknowledged, it is lost, whatever is wanted; acknowledged, an owner knows of it.
    lost = (2, 3, 2, 0, "overflow")
    assert _ns(outbox.recall(1000)) == [1, lost, 4, 5, 6, 7]
    outbox.ack(Position(1, 1))
    assert _ns(outbox.recall(1000)) == [(1, 1, 0, 0, "taken"), lost, 4, 5, 6, 7]
    outbox.ack(Position(1, 6))
    assert _ns(outbox.recall(0)) == [1, (2, 3, 0, 0, "taken"), 4, 5, 6, 7]
    assert _ns(outbox.replay(Position(1, 0))) == _ns(outbox.recall(0))


@given(st.lists(st.sampled_from("eaE"), max_size=60), st.data())
def test_what_is_recalled_is_whole_and_taken_by_an_inbox_that_has_nothing(
    kinds: list[str], data: st.DataObject
) -> None:
    outbox = Outbox(audio_samples=100, event_bytes=100, past=True)
    for kind in kinds:
        _fill(outbox, kind.lower() * (12 if kind == "E" else 1))  # so many are not kept
        if data.draw(st.booleans()):
            outbox.ack(Position(1, data.draw(st.integers(outbox.acked.n, outbox.sent.n))))
    parts = outbox.recall(wanted := data.draw(st.integers(0, 700)))
    inbox = Inbox(epoch=2, last=Position(1, 0))
    outbox.advance(2)
    outbox.push_event("new")
    for part in [*parts, *outbox.replay(Position(2, 0))]:
        if isinstance(part, Gap):
            assert inbox.accept_gap(part.first, part.last, 0.0)
        else:
            assert inbox.accept(*part.at, 0.0)
    assert inbox.last == (2, 1)
    given_again = {part.at.n for part in parts if isinstance(part, Item)}
    kept = [item for item in (*(outbox._past or ()), *outbox._audio) if item.samples and item.track + 10 > wanted]
    assert given_again.issuperset(item.at.n for item in kept)


class DeliveryMachine(RuleBasedStateMachine):
    """A sender and a receiver over links that break at random, with acknowledgements that come late, twice, or never.

    The receiver must get every message once and in order, or a gap that says exactly how many events and samples it covers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(audio_samples=60, event_bytes=60)
        self.inbox = Inbox(ack_every=2)
        self.wire: deque[Item | Gap] = deque()
        self.acks: list[Position] = []
        self.connected = True
        self.truth: list[tuple[Position, int, int]] = []  # every position with its events and samples
        self.account: list[tuple[Position, int, int]] = []  # what the receiver knows of each
        self.cleared: set[Position] = set()
        self.track = 0

    def _sent(self, item: Item, events: int, samples: int) -> None:
        self.truth.append((item.at, events, samples))
        if self.connected:
            self.wire.append(item)

    @rule(size=st.integers(1, 30))
    def send_event(self, size: int) -> None:
        at = self.outbox.next()
        self.outbox.push_event("e" * size)
        self._sent(Item(at, "e" * size), 1, 0)

    @precondition(lambda self: self.connected)
    @rule(samples=st.integers(1, 40), key=st.sampled_from("pq"))
    def send_audio(self, samples: int, key: str) -> None:
        at = self.outbox.next()
        self.outbox.push_audio(b"f", samples, self.track, key)
        self._sent(Item(at, b"f", samples, self.track, key), 0, samples)
        self.track += samples

    @rule(key=st.sampled_from(["", "p", "q"]))
    def clear(self, key: str) -> None:
        before = {item.at for item in self.outbox._audio}
        self.outbox.clear_audio(self.track, key)
        self.cleared |= before - {item.at for item in self.outbox._audio}

    @rule(epoch_step=st.integers(1, 2))
    def new_owner(self, epoch_step: int) -> None:
        epoch = self.outbox.sent.epoch + epoch_step
        self.outbox.advance(epoch)
        self.inbox.announce(epoch)

    @rule(count=st.integers(1, 5))
    def receive(self, count: int) -> None:
        for _ in range(min(count, len(self.wire))):
            self._take(self.wire.popleft())

    def _take(self, part: Item | Gap) -> None:
        if isinstance(part, Gap):
            if self.inbox.accept_gap(part.first, part.last, 0.0):
                inside = [entry for entry in self.truth if part.first <= entry[0] <= part.last]
                assert sum(entry[1] for entry in inside) == part.events
                assert sum(entry[2] for entry in inside) == part.samples
                if part.why == "cleared":
                    assert all(entry[0] in self.cleared for entry in inside)
                self.account += inside
        elif self.inbox.accept(part.at.epoch, part.at.n, 0.0):
            self.account.append((part.at, int(not part.samples), part.samples))
        if (ack := self.inbox.ack_due(0.0)) is not None:
            self.acks.append(ack)

    @precondition(lambda self: self.acks)
    @rule(data=st.data(), keep=st.booleans())
    def acknowledge(self, data: st.DataObject, keep: bool) -> None:
        """In any order; kept ones are repeated later."""
        index = data.draw(st.integers(0, len(self.acks) - 1))
        self.outbox.ack(self.acks[index] if keep else self.acks.pop(index))

    @precondition(lambda self: self.connected)
    @rule()
    def cut(self) -> None:
        self.connected = False
        self.wire.clear()

    @precondition(lambda self: not self.connected)
    @rule(stale=st.booleans())
    def resume(self, stale: bool) -> None:
        self.connected = True
        last = self.inbox.last
        self.wire.extend(self.outbox.replay(last))
        if not stale:  # a replay need not count as an acknowledgement
            self.outbox.ack(last)

    @invariant()
    def once_and_in_order(self) -> None:
        assert self.account == self.truth[: len(self.account)]

    def teardown(self) -> None:
        if self.connected:
            self.cut()
        self.resume(stale=False)
        while self.wire:
            self._take(self.wire.popleft())
        assert self.account == self.truth
        self.outbox.ack(self.outbox.sent)
        assert len(self.outbox) == 0
        assert not self.outbox._lost
        assert (self.outbox._samples, self.outbox._event_bytes) == (0, 0)


TestDeliveryMachine = DeliveryMachine.TestCase
TestDeliveryMachine.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
