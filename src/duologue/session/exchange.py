"""The last committed turn and what has become of its answer: what conductor, reports and speaking agree on."""

from __future__ import annotations

from collections import deque


class Exchange:
    """See the module. Turns and responses are named by their ids; "" is none.

    Attributes:
        turn: the last turn that was committed.
        over: the last turns that were committed, oldest first.
        begun: whether the model has begun to answer `turn`.
        cut_off: the last response that was ended for its length.
        failed: a turn whose speculative answer failed.
        unwanted: a turn whose answer was taken back before it began.
    """

    __slots__ = ("begun", "cut_off", "failed", "over", "turn", "unwanted")

    def __init__(self) -> None:
        self.turn = ""
        self.over: deque[str] = deque(maxlen=16)
        self.begun = True
        self.cut_off = ""
        self.failed = ""
        self.unwanted = ""

    def commit(self, turn: str, *, begun: bool) -> None:
        """`turn` is over; `begun`: something of its answer was made already."""
        self.turn = turn
        self.over.append(turn)
        self.begun = begun
        self.unwanted = ""

    def reopen(self, turn: str) -> None:
        """The user goes on with it."""
        if turn in self.over:
            self.over.remove(turn)

    def take_back(self) -> None:
        """Nothing of the answer is wanted any more; if it has not begun, it is not to."""
        if not self.begun:
            self.unwanted = self.turn
