"""A bounded buffer of PCM16 mono that knows which samples of its track it holds."""

from __future__ import annotations

from collections import deque

from duologue.audio.format import check_pcm16
from duologue.errors import AudioFormatError

#: most bytes of a block. One large buffer would be moved, whole, each time it outgrows its place.
_BLOCK = 16_384


class Ring:
    """Holds the newest audio of a track, up to `capacity_bytes`; when more comes, the oldest goes and is counted.

    Positions are sample indexes on the track: the ring holds [`start`, `end`). Writing moves `end`, reading and
    dropping move `start`; a position once passed never comes back. Not thread-safe.

    Attributes:
        start: position of the oldest sample held (equal to `end` when empty); for reading only.
        end: position after the newest sample written; for reading only.
        dropped: samples lost to overflow since construction.
    """

    __slots__ = ("_block", "_blocks", "_capacity", "_last", "_skip", "dropped", "end", "start")

    def __init__(self, capacity_bytes: int, *, position: int = 0) -> None:
        """`capacity_bytes` is even and at least 2; `position` is that of the first sample to be written."""
        if capacity_bytes < 2 or capacity_bytes % 2:
            raise AudioFormatError(
                f"A ring of {capacity_bytes} bytes cannot hold whole PCM16 samples.",
                hint="Use an even size, at least 2.",
            )
        self._capacity = capacity_bytes >> 1
        self._block = min(_BLOCK, capacity_bytes)
        # Blocks come as they are needed: most sessions never queue more than a fraction of the bound.
        self._last = bytearray()
        self._blocks = deque([self._last])
        self._skip = 0  # bytes of the first block that are no longer held
        self.start = self.end = position
        self.dropped = 0

    def __len__(self) -> int:
        """Samples held."""
        return self.end - self.start

    @property
    def capacity(self) -> int:
        """Samples that fit in."""
        return self._capacity

    def write(self, pcm: bytes) -> int:
        """Append `pcm`; return how many samples were dropped to make room (the oldest, `pcm`'s own included).

        Raises AudioFormatError for an odd number of bytes.
        """
        size = len(pcm)
        if type(pcm) is not bytes or size & 1:
            check_pcm16(pcm)
        if size >> 1 > self._capacity:
            return self._overflow(pcm)
        last = self._last
        if len(last) >= self._block:
            last = self._last = bytearray()
            self._blocks.append(last)
        last += pcm
        self.end += size >> 1
        over = self.end - self.start - self._capacity
        if over <= 0:
            return 0
        self.dropped += over
        return self.discard_until(self.start + over)

    def _overflow(self, pcm: bytes) -> int:
        """Write more than fits in: only its end is held."""
        lost = (len(pcm) >> 1) - self._capacity
        gone = self.clear() + lost
        self.start = self.end = self.end + lost
        self.dropped += gone
        self.write(pcm[2 * lost :])
        return gone

    def read(self, samples: int) -> bytes:
        """Take up to `samples` of the oldest samples out."""
        data = self.peek(samples)
        self.discard_until(self.start + (len(data) >> 1))
        return data

    def peek(self, samples: int) -> bytes:
        """Up to `samples` of the oldest samples, which stay in."""
        return self.read_from(self.start, samples)

    def read_from(self, position: int, samples: int | None = None) -> bytes:
        """Up to `samples` (default: all) from `position` on; they stay in, as after a resume.

        Raises AudioFormatError when `position` is no longer held or not yet written, naming what is held.
        """
        if not self.start <= position <= self.end:
            raise AudioFormatError(
                f"Sample {position} is not in the ring, which holds [{self.start}, {self.end}).",
                hint="Report the gap to the reader and go on from the ring's start.",
            )
        left = self.end - position if samples is None else max(0, min(samples, self.end - position))
        begin, left = self._skip + 2 * (position - self.start), 2 * left
        parts: list[bytearray] = []
        for block in self._blocks:
            if left <= 0:
                break
            if begin < len(block):
                part = block[begin : begin + left]
                parts.append(part)
                left -= len(part)
            begin = max(0, begin - len(block))
        return b"".join(parts)

    def discard_until(self, position: int) -> int:
        """Let go of what lies before `position`, for example because it was acknowledged; return how many samples."""
        gone = min(position, self.end) - self.start
        if gone <= 0:
            return 0
        self.start += gone
        self._skip += 2 * gone
        blocks = self._blocks
        while self._skip >= len(blocks[0]) and len(blocks) > 1:
            self._skip -= len(blocks.popleft())
        return gone

    def clear(self) -> int:
        """Let go of everything; return how many samples. Positions go on from `end`."""
        return self.discard_until(self.end)
