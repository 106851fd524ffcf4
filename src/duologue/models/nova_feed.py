"""The user's audio as Nova Sonic wants it: frames of 32 ms, and silence where there is none. Pure.

The provider counts milliseconds of what it was sent; the session counts samples of the user's track. Silence that was filled in
and gaps in the track set the two apart; :meth:`Feed.position_of` brings them together.
"""

from __future__ import annotations

from collections import deque

from ..audio import Framer

#: length of a frame, milliseconds
FRAME_MS = 32
#: how long the track may be late before silence is sent in its place, seconds. Shorter stalls of a network are waited out
LATE_S = 1.0
#: most silence that is made up for at once, seconds
_MOST_S = 2.0


class Feed:
    """What is sent, from the first sample on. `now` is the monotonic clock, seconds."""

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self.muted = False
        #: samples sent so far
        self.sent = 0
        self._frame = rate * FRAME_MS // 1000
        self._silence = bytes(self._frame * 2)
        self._framer = Framer(self._frame)
        self._covered = now  # up to when there is something for the provider to hear
        self._heard_any = False
        self._next = 0  # track position that follows what was taken
        self._map: deque[tuple[int, int]] = deque([(0, 0)], maxlen=256)

    def audio(self, pcm: bytes, position: int, now: float) -> list[bytes]:
        """The frames that `pcm`, at sample `position` of the track, completes."""
        frames: list[bytes] = []
        if position != self._next or not self._heard_any or self.muted:
            frames = self._flush()
            self._map.append((self.sent, position))
        self.muted = False
        self._heard_any = True
        self._next = position + len(pcm) // 2
        self._covered = now
        whole = self._framer.push(pcm)
        self.sent += len(whole) * self._frame
        if len(whole) > 1:  # a replay comes in longer pieces: each event costs the SDK a signature
            whole = [b"".join(whole)]
        return frames + whole

    def silence(self, now: float) -> list[bytes]:
        """The frames of silence that are due; none while the track flows."""
        late = now - self._covered
        if not self.muted and self._heard_any and late < LATE_S:
            return []
        count = min(int(late * 1000 / FRAME_MS), int(_MOST_S * 1000 / FRAME_MS))
        if count <= 0:
            return []
        self._covered = now if late > _MOST_S else self._covered + count * FRAME_MS / 1000
        return self.fill(count)

    def fill(self, count: int) -> list[bytes]:
        """`count` frames of silence now."""
        frames = self._flush() + [self._silence] * count
        self.sent += count * self._frame
        self._map.append((self.sent, self._next))
        return frames

    @property
    def silent(self) -> bool:
        """Whether silence is what is being sent."""
        return self.muted or not self._heard_any

    def position_of(self, ms: float) -> int:
        """The track position of what was sent at `ms`."""
        sample = round(ms * self.rate / 1000)
        for offset, position in reversed(self._map):
            if offset <= sample:
                return min(position + sample - offset, max(self._next, position))
        return self._map[0][1]

    def _flush(self) -> list[bytes]:
        rest = self._framer.flush(pad=True)
        if not rest:
            return []
        self.sent += self._frame
        return [rest]
