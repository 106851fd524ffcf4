"""Counts of what flows and what is lost: plain integers, cheap enough for every frame."""

from __future__ import annotations


class Counters:
    """Counts of one session since it began. Incremented in place, on the event loop: ``counters.frames_in += 1``.

    Everything that is thrown away has a count here; `drops` gives those, by kind, for the turn record.
    """

    __slots__ = (
        "events_dropped",
        "evidence_dropped",
        "frames_in",
        "frames_out",
        "hooks_timed_out",
        "input_dropped",
        "input_late",
        "input_missing",
        "output_dropped",
        "stale_events",
        "underruns",
    )

    def __init__(self) -> None:
        #: frames of user audio taken, and of agent audio transmitted
        self.frames_in = 0
        self.frames_out = 0
        #: samples of user audio: beyond a full buffer; for positions already past; that never came
        self.input_dropped = 0
        self.input_late = 0
        self.input_missing = 0
        #: samples of agent audio that a listener's full queue refused
        self.output_dropped = 0
        #: events that a listener which does not read has lost
        self.events_dropped = 0
        #: model and channel evidence beyond a full queue
        self.evidence_dropped = 0
        #: events of an old connection generation or epoch
        self.stale_events = 0
        #: hooks that overran their time budget
        self.hooks_timed_out = 0
        #: times that a listener ran dry in the middle of a response
        self.underruns = 0

    def snapshot(self) -> dict[str, int]:
        """All counts, by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def drops(self, since: dict[str, int] | None = None) -> dict[str, int]:
        """What was thrown away, by kind, since a snapshot; kinds of which nothing was are left out."""
        since = since or {}
        counts = {name: getattr(self, name) - since.get(name, 0) for name in self.__slots__ if name not in _FLOW}
        return {name: count for name, count in counts.items() if count}


_FLOW = frozenset({"frames_in", "frames_out", "underruns"})
