"""The audio of one answer while it is being made and played: PCM16 mono, of which the end grows and the beginning is let go."""

from __future__ import annotations

from duologue.audio.format import check_pcm16

#: bytes of a block. All are as long, so that the block of a sample is found by division; one large buffer would be moved,
#: whole, each time it outgrows its place, and an answer is often made much faster than it is played
_BLOCK = 16_384


class Reel:
    """Samples from position `start` on, unbounded (what makes them waits until there is room). Not thread-safe.

    Attributes:
        start: the first sample held; for reading only.
        end: position after the last sample; for reading only.
    """

    __slots__ = ("_blocks", "_tail", "end", "start")

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._tail = b""
        self.start = self.end = 0

    def write(self, pcm: bytes) -> None:
        """Append. Raises AudioFormatError for an odd number of bytes."""
        if len(pcm) & 1:
            check_pcm16(pcm)
        tail = self._tail + pcm if self._tail else pcm
        whole = len(tail) - len(tail) % _BLOCK
        self._blocks.extend(tail[at : at + _BLOCK] for at in range(0, whole, _BLOCK))
        self._tail = tail[whole:]
        self.end += len(pcm) >> 1

    def read(self, position: int, samples: int) -> bytes:
        """Up to `samples` from `position` on; b"" where nothing is held."""
        at = 2 * (position - self.start)
        if at < 0 or samples <= 0:
            return b""
        number, begin = divmod(at, _BLOCK)
        end, blocks = begin + 2 * samples, self._blocks
        if number < len(blocks):
            if end <= _BLOCK:
                return blocks[number][begin:end]
            last = -(-end // _BLOCK)
            return b"".join((*blocks[number : number + last], self._tail))[begin:end]
        return self._tail[begin:end] if number == len(blocks) else b""

    def discard_until(self, position: int) -> None:
        """Let go of what lies before `position`, as far as whole blocks do."""
        if gone := min(len(self._blocks), 2 * max(0, position - self.start) // _BLOCK):
            del self._blocks[:gone]
            self.start += gone * _BLOCK >> 1

    def clear(self) -> None:
        """Let go of everything; positions go on from `end`."""
        self._blocks.clear()
        self._tail = b""
        self.start = self.end
