"""What a client has to send and has not transmitted: user audio and inputs in one order, bounded."""

from __future__ import annotations

from collections import deque

from duologue.errors import LimitExceededError
from duologue.wire.duologue.frames import MAX_PAYLOAD

_MAX_INPUTS = 1024


class UserQueue:
    """Audio as (bytes, capture position), inputs as (JSON text, 0).

    Args:
        samples: most audio that waits; beyond, the oldest is dropped.

    Attributes:
        samples: audio that waits.
        dropped_samples: audio dropped since construction.
    """

    __slots__ = ("_inputs", "_items", "_limit", "dropped_samples", "samples")

    def __init__(self, samples: int) -> None:
        self._limit = samples
        self._items: deque[tuple[str | bytes, int]] = deque()
        self.samples = 0
        self._inputs = 0
        self.dropped_samples = 0

    def put_audio(self, pcm: bytes, position: int) -> int:
        """Queue audio, in pieces that fit a frame. Returns how many samples of older audio were dropped for it."""
        if len(pcm) <= MAX_PAYLOAD:
            if pcm:
                self._items.append((pcm, position))
        else:
            for start in range(0, len(pcm), MAX_PAYLOAD):
                self._items.append((pcm[start : start + MAX_PAYLOAD], position + (start >> 1)))
        self.samples += len(pcm) >> 1
        before = self.dropped_samples
        while self.samples > self._limit and len(self._items) - self._inputs > 1:
            self._drop_oldest()
        return self.dropped_samples - before

    def put_input(self, text: str) -> None:
        """Queue an input. Raises LimitExceededError if too many wait."""
        if self._inputs >= _MAX_INPUTS:
            raise LimitExceededError(f"{_MAX_INPUTS} inputs wait for the link.", hint="Wait until it is back.")
        self._inputs += 1
        self._items.append((text, 0))

    def take(self) -> tuple[str | bytes, int] | None:
        """What is to be transmitted next."""
        if not self._items:
            return None
        item = self._items.popleft()
        if isinstance(item[0], bytes):
            self.samples -= len(item[0]) >> 1
        else:
            self._inputs -= 1
        return item

    def _drop_oldest(self) -> None:
        for index, (data, _) in enumerate(self._items):
            if isinstance(data, bytes):
                del self._items[index]
                self.samples -= len(data) >> 1
                self.dropped_samples += len(data) >> 1
                return
