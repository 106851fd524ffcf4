"""Exactly-once delivery over links that break: numbering, acknowledging, replaying (`docs/protocol.md`, sections 3
and 8).

Each direction of a call has one sequence of positions (epoch, n) over its events and its audio. The sender's
:class:`Outbox` gives out a number when a message is *transmitted* and keeps it until it is acknowledged or its
bounded memory is full; the receiver's :class:`Inbox` takes each position once and in order. After a cut the outbox
replays what follows the receiver's last position, with a :class:`Gap` in place of what it no longer holds. So every
message arrives once, in order, or is reported.

Why two bounds: a flood of audio must not push out the events that say what it meant, and the reverse. Their holes
then fall between each other's messages, so the outbox remembers what it lost, and a replay merges neighbours.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Literal, NamedTuple

from duologue.errors import ProtocolError

_INF = float("inf")
# A named tuple's own constructor is a Python function; on the path of every frame its base's is taken.
_make = tuple.__new__

type GapReason = Literal["overflow", "cleared", "unknown", "taken"]

#: lost messages that are remembered one by one; beyond, neighbours are merged
_MAX_LOST = 1024


class Position(NamedTuple):
    """A place in one direction's sequence: the owner's `epoch` (from 1) and the number `n` in it (from 1; 0: before
    the first).
    """

    epoch: int
    n: int


class Item(NamedTuple):
    """A transmitted message that is kept until it is acknowledged.

    `data` is the frame as it went out, `samples` and `track` its length and place on the track (0 for events), `key`
    the response that it belongs to.
    """

    at: Position
    data: bytes | str
    samples: int = 0
    track: int = 0
    key: str = ""


class Gap(NamedTuple):
    """Positions `first` to `last` that will never be delivered.

    `events` messages and `samples` samples of audio from `track` on were lost; both are -1 when nobody knows (`why`
    "unknown"). What an earlier owner has had (`why` "taken") is not lost.
    """

    first: Position
    last: Position
    events: int
    samples: int
    track: int
    why: GapReason


class Outbox:
    """What one side has transmitted and the other has not acknowledged, bounded.

    Args:
        epoch: the owner under which numbering starts, at least 1.
        audio_samples: how much audio is kept, samples; at least one frame is kept whatever its length.
        event_bytes: how much of events is kept, in bytes of their frames.
        past: whether as much again is kept of what was acknowledged, for an owner that takes over (:meth:`recall`).

    Attributes:
        sent: last position given out (n is 0 before the first).
        acked: last position acknowledged.
        lost_events, lost_samples: fell out unacknowledged since construction (cleared audio not counted).
    """

    __slots__ = (
        "_audio",
        "_event_bytes",
        "_events",
        "_lost",
        "_max_bytes",
        "_max_samples",
        "_merge_at",
        "_past",
        "_past_samples",
        "_samples",
        "acked",
        "lost_events",
        "lost_samples",
        "sent",
    )

    def __init__(
        self, *, epoch: int = 1, audio_samples: int = 720_000, event_bytes: int = 1 << 20, past: bool = False
    ) -> None:
        self._past: deque[Item] | None = deque() if past else None
        self._past_samples = 0
        self._max_samples = audio_samples
        self._max_bytes = event_bytes
        self._audio: deque[Item] = deque()
        self._events: deque[Item] = deque()
        self._samples = 0
        self._event_bytes = 0
        self._lost: list[Gap] = []
        self._merge_at = _MAX_LOST
        self.sent = self.acked = Position(epoch, 0)
        self.lost_events = 0
        self.lost_samples = 0

    def __len__(self) -> int:
        """Messages kept."""
        return len(self._audio) + len(self._events)

    @property
    def samples(self) -> int:
        """Samples of audio kept."""
        return self._samples

    def next(self) -> Position:
        """The position that the next pushed message will have; it is part of the frame, so it is asked for before."""
        epoch, n = self.sent
        return Position(epoch, n + 1)

    def push_event(self, data: bytes | str) -> None:
        """Record that the event frame `data` was transmitted as :meth:`next`."""
        self.sent = at = self.next()
        self._events.append(Item(at, data))
        self._event_bytes += len(data)
        while self._event_bytes > self._max_bytes and len(self._events) > 1:
            old = self._events.popleft()
            self._event_bytes -= len(old.data)
            self.lost_events += 1
            self._lose(old, "overflow")

    def push_audio(self, data: bytes, samples: int, track: int, key: str = "") -> None:
        """Record that the audio frame `data` (`samples` long, at `track`, of response `key`) was transmitted as
        :meth:`next`.
        """
        epoch, n = self.sent
        self.sent = at = _make(Position, (epoch, n + 1))
        self._audio.append(_make(Item, (at, data, samples, track, key)))
        self._samples += samples
        while self._samples > self._max_samples and len(self._audio) > 1:
            old = self._audio.popleft()
            self._samples -= old.samples
            self.lost_samples += old.samples
            self._lose(old, "overflow")

    def ack(self, upto: Position) -> None:
        """The other side has everything up to `upto`. Older acknowledgements than the last are ignored.

        Raises ProtocolError (`ack_unsent`) for a position that was never sent.
        """
        if upto > self.sent:
            raise ProtocolError(
                f"Position {upto[0]}:{upto[1]} was acknowledged; the last one sent is {self.sent[0]}:{self.sent[1]}.",
                hint="Acknowledge only what was received.",
                code="ack_unsent",
            )
        if upto <= self.acked:
            return
        self.acked = Position(*upto)
        audio, events, lost = self._audio, self._events, self._lost
        gone: list[Item] = []
        while audio and audio[0].at <= upto:
            gone.append(audio.popleft())
            self._samples -= gone[-1].samples
        while events and events[0].at <= upto:
            gone.append(events.popleft())
            self._event_bytes -= len(gone[-1].data)
        if self._past is not None:
            self._remember(self._past, gone)
        while lost and lost[0].last <= upto:
            del lost[0]
        if lost and lost[0].first <= upto:
            lost[0] = lost[0]._replace(first=Position(upto[0], upto[1] + 1))

    def _remember(self, past: deque[Item], gone: list[Item]) -> None:
        """Keep what was acknowledged, as much as there may be of what was not."""
        gone.sort(key=_place)
        past.extend(gone)
        self._past_samples += sum(item.samples for item in gone)
        while past and (self._past_samples > self._max_samples or not past[0].samples):
            self._past_samples -= past.popleft().samples

    def recall(self, track: int) -> list[Item | Gap]:
        """For an owner that has nothing of what was sent: all that was not acknowledged, and audio from `track` on that is kept.

        What is before it is a gap: the owner before has had it.
        """
        kept: list[Item | Gap] = [*(self._past or ()), *self._events, *self._audio, *_runs(self._lost)]
        kept.sort(key=_place)
        wanted = (
            index
            for index, part in enumerate(kept)
            if part[0] > self.acked or (isinstance(part, Item) and part.samples and part.track + part.samples > track)
        )
        parts = kept[next(wanted, len(kept)) :]
        if not parts and self.sent > (1, 0):
            return [Gap(Position(1, 1), self.sent, 0, 0, 0, "taken")]
        return _whole(Position(1, 0), parts)

    def clear_audio(self, before: int, key: str = "") -> int:
        """Forget unacknowledged audio at track positions below `before` (of response `key`, if given), as it is not
        to be heard.

        Returns how many samples. A replay reports them as a gap with `why` "cleared".
        """
        gone = [item for item in self._audio if item.track < before and (not key or item.key == key)]
        if not gone:
            return 0
        dropped = {item.at for item in gone}
        self._audio = deque(item for item in self._audio if item.at not in dropped)
        for item in gone:
            self._lose(item, "cleared")
        samples = sum(item.samples for item in gone)
        self._samples -= samples
        return samples

    def advance(self, epoch: int) -> None:
        """A new owner: numbering starts at 1 in `epoch`; what is kept of earlier ones keeps its positions."""
        if epoch <= self.sent.epoch:
            raise ProtocolError(
                f"Epoch {epoch} cannot follow {self.sent.epoch}.", hint="Epochs only grow.", code="epoch"
            )
        self.sent = Position(epoch, 0)

    def replay(self, after: Position) -> list[Item | Gap]:
        """Everything after position `after`, in order, without a hole. Nothing is forgotten: the link may break again.

        Raises ProtocolError (`resume`, close 4004) for a position that was never sent.
        """
        after = Position(*after)
        if after > self.sent:
            raise ProtocolError(
                f"The resume names {after.epoch}:{after.n}; the last one sent is {self.sent.epoch}:{self.sent.n}.",
                hint="Start a new call.",
                code="resume",
                close_code=4004,
            )
        head: list[Item | Gap] = []
        if after < self.acked:
            head += [item for item in self._past or () if item.at > after]
            first = head[0][0] if head else None
            if first is None or first != (after.epoch, after.n + 1):
                # Forgotten at an acknowledgement (or of an owner before us), so what it was cannot be said any more.
                upto = self.acked if first is None else Position(first.epoch, first.n - 1)
                head.insert(0, Gap(Position(after.epoch, after.n + 1), upto, -1, -1, 0, "unknown"))
            head = _whole(after, head)
        parts: list[Item | Gap] = [item for item in self._events if item.at > after]
        parts += [item for item in self._audio if item.at > after]
        for gap in _runs([gap for gap in self._lost if gap.last > after]):
            if gap.first > after:
                parts.append(gap)
            else:
                parts.append(gap._replace(first=Position(after.epoch, after.n + 1)))
        parts.sort(key=_place)
        return head + parts

    def _lose(self, item: Item, why: GapReason) -> None:
        """Remember that `item` cannot be replayed."""
        events = 0 if item.samples or item.key else 1
        gap = Gap(item.at, item.at, events, item.samples, item.track, why)
        lost = self._lost
        if lost and lost[-1].first > item.at:
            lost.insert(bisect_left(lost, item.at, key=_first), gap)
        else:
            lost.append(gap)
        if len(lost) > self._merge_at:
            # Merged runs are exact as long as an acknowledgement does not end inside one; then they say too much,
            # never too
            # little. It takes a receiver that stays silent while more than a thousand messages pass.
            self._lost = _runs(lost)
            self._merge_at = max(_MAX_LOST, 2 * len(self._lost))


class Inbox:
    """What one side has received: each position once, in order; and when to acknowledge.

    Args:
        epoch: the owner announced by the opening.
        last: last position received, when a receiver's state is restored.
        ack_every, ack_after_s: acknowledge after so many messages, or so long after the first of them.
        auto: whether receiving takes responsibility at once; otherwise :meth:`take` says so, and only then it is
        acknowledged.

    Attributes:
        last: last position received.
        taken: last position that may be acknowledged.
        ack_at: when an acknowledgement falls due, if nothing more arrives; inf if none is owed.
        duplicates: dropped since construction.
    """

    __slots__ = (
        "_ack_after_s",
        "_ack_every",
        "_auto",
        "_epoch",
        "_unacked",
        "_unacked_since",
        "ack_at",
        "duplicates",
        "last",
        "taken",
    )

    def __init__(
        self,
        *,
        epoch: int = 1,
        last: Position | None = None,
        ack_every: int = 32,
        ack_after_s: float = 0.25,
        auto: bool = True,
    ) -> None:
        self.last = self.taken = last or Position(epoch, 0)
        self._epoch = epoch
        self._ack_every = ack_every
        self._ack_after_s = ack_after_s
        self._auto = auto
        self._unacked = 0
        self._unacked_since = 0.0
        self.ack_at = _INF
        self.duplicates = 0

    @property
    def epoch(self) -> int:
        """The newest epoch that was announced."""
        return self._epoch

    def announce(self, epoch: int) -> None:
        """The opening named `epoch` as owner: its first position may follow. Raises ProtocolError (`epoch`) if it
        went back.
        """
        if epoch < self._epoch:
            raise ProtocolError(
                f"Epoch {epoch} was announced after {self._epoch}.",
                hint="This peer has been replaced; connect to the session's present owner.",
                code="epoch",
                close_code=4012,
            )
        self._epoch = epoch

    def accept(self, epoch: int, n: int, now: float) -> bool:
        """Whether message (`epoch`, `n`) is new. Raises ProtocolError (`sequence`, close 4000) if it is out of order."""
        last = self.last
        if n != last[1] + 1 or epoch != last[0]:
            at = (epoch, n)
            if at <= last:
                self.duplicates += 1
                return False
            if not (last[0] < epoch <= self._epoch and n == 1):
                raise _out_of_order(f"Position {epoch}:{n}", last)
        self.last = last = _make(Position, (epoch, n))
        if self._auto:
            self.taken = last
            self._count(now)
        return True

    def accept_gap(self, first: Position, last: Position, now: float) -> bool:
        """Whether a gap over `first`..`last` says anything new. Raises ProtocolError as :meth:`accept` does."""
        here = self.last
        if last <= here:
            self.duplicates += 1
            return False
        follows = first <= (here[0], here[1] + 1) or (here[0] < first[0] <= self._epoch and first[1] == 1)
        if first > last or not follows or last[0] > self._epoch:
            raise _out_of_order(f"A gap from {first[0]}:{first[1]} to {last[0]}:{last[1]}", here)
        self.last = Position(*last)
        if self._auto:
            self.taken = self.last
            self._count(now)
        return True

    def take(self, upto: Position, now: float) -> None:
        """Everything received up to `upto` has been dealt with and may be acknowledged (for `auto` false)."""
        if self.taken < upto <= self.last:
            self._count(now)
            self.taken = Position(*upto)

    def next_deadline(self) -> float | None:
        """When an acknowledgement falls due, if nothing more arrives."""
        return self.ack_at if self._unacked else None

    def ack_due(self, now: float) -> Position | None:
        """The position to acknowledge now, if it is time; it then counts as acknowledged."""
        return self.ack_now() if now >= self.ack_at else None

    def ack_now(self) -> Position:
        """The position to state in an opening, which acknowledges as well."""
        self._unacked = 0
        self.ack_at = _INF
        return self.taken

    def _count(self, now: float) -> None:
        """One more message is to be acknowledged."""
        self._unacked = unacked = self._unacked + 1
        if unacked == 1:
            self._unacked_since = now
            self.ack_at = now + self._ack_after_s
        if unacked == self._ack_every:
            self.ack_at = self._unacked_since


def _out_of_order(what: str, last: Position) -> ProtocolError:
    return ProtocolError(
        f"{what} came, but the last one received is {last[0]}:{last[1]}.",
        hint="Send every position once, in order; after a cut, resume.",
        code="sequence",
        close_code=4000,
    )


def _first(gap: Gap) -> Position:
    return gap.first


def _place(part: Item | Gap) -> Position:
    return part[0]


def _whole(after: Position, parts: list[Item | Gap]) -> list[Item | Gap]:
    """`parts` with a gap wherever positions from `after` on are missing: of what was acknowledged, an owner has had them."""
    whole: list[Item | Gap] = []
    for part in parts:
        at = part[0]
        if at[1] > 1 and at != (after.epoch, after.n + 1):
            whole.append(Gap(Position(after.epoch, after.n + 1), Position(at.epoch, at.n - 1), 0, 0, 0, "taken"))
        whole.append(part)
        after = part.at if isinstance(part, Item) else part.last
    return whole


def _runs(lost: list[Gap]) -> list[Gap]:
    """`lost`, in order, with neighbours of one reason merged."""
    runs: list[Gap] = []
    for gap in lost:
        if runs:
            left = runs[-1]
            if gap.first == (left.last.epoch, left.last.n + 1) and gap.why == left.why:
                track = left.track if left.samples else gap.track
                runs[-1] = Gap(
                    left.first, gap.last, left.events + gap.events, left.samples + gap.samples, track, gap.why
                )
                continue
        runs.append(gap)
    return runs
