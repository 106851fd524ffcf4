"""A bounded buffer of PCM16 mono that knows which samples of its track it holds."""

from __future__ import annotations

from duologue.audio.format import check_pcm16
from duologue.errors import AudioFormatError


class Ring:
    """Holds the newest audio of a track, up to `capacity_bytes`; when more comes, the oldest goes and is counted.

    Positions are sample indexes on the track: the ring holds [`start`, `end`). Writing moves `end`, reading and
    dropping move `start`; a position once passed never comes back. Not thread-safe.

    Attributes:
        dropped: samples lost to overflow since construction.
    """

    __slots__ = ("_buffer", "_capacity", "_end", "dropped")

    def __init__(self, capacity_bytes: int, *, position: int = 0) -> None:
        """`capacity_bytes` is even and at least 2; `position` is that of the first sample to be written."""
        if capacity_bytes < 2 or capacity_bytes % 2:
            raise AudioFormatError(
                f"A ring of {capacity_bytes} bytes cannot hold whole PCM16 samples.",
                hint="Use an even size, at least 2.",
            )
        self._capacity = capacity_bytes
        # A bytearray takes bytes off its front without moving the rest, and grows only as far as it is used: most
        # sessions never queue more than a fraction of the bound.
        self._buffer = bytearray()
        self._end = position
        self.dropped = 0

    def __len__(self) -> int:
        """Samples held."""
        return len(self._buffer) // 2

    @property
    def capacity(self) -> int:
        """Samples that fit in."""
        return self._capacity // 2

    @property
    def start(self) -> int:
        """Position of the oldest sample held (equal to `end` when empty)."""
        return self._end - len(self._buffer) // 2

    @property
    def end(self) -> int:
        """Position after the newest sample written."""
        return self._end

    def write(self, pcm: bytes) -> int:
        """Append `pcm`; return how many samples were dropped to make room (the oldest, `pcm`'s own included).

        Raises AudioFormatError for an odd number of bytes.
        """
        check_pcm16(pcm)
        self._end += len(pcm) // 2
        over = max(0, len(self._buffer) + len(pcm) - self._capacity)
        del self._buffer[:over]
        self._buffer += pcm[-self._capacity :]
        self.dropped += over // 2
        return over // 2

    def read(self, samples: int) -> bytes:
        """Take up to `samples` of the oldest samples out."""
        data = self.peek(samples)
        del self._buffer[: len(data)]
        return data

    def peek(self, samples: int) -> bytes:
        """Up to `samples` of the oldest samples, which stay in."""
        return bytes(self._buffer[: 2 * max(0, samples)])

    def read_from(self, position: int, samples: int | None = None) -> bytes:
        """Up to `samples` (default: all) from `position` on; they stay in, as after a resume.

        Raises AudioFormatError when `position` is no longer held or not yet written, naming what is held.
        """
        if not self.start <= position <= self._end:
            raise AudioFormatError(
                f"Sample {position} is not in the ring, which holds [{self.start}, {self._end}).",
                hint="Report the gap to the reader and go on from the ring's start.",
            )
        begin = 2 * (position - self.start)
        return bytes(self._buffer[begin : None if samples is None else begin + 2 * max(0, samples)])

    def discard_until(self, position: int) -> int:
        """Let go of what lies before `position`, for example because it was acknowledged; return how many samples."""
        gone = min(max(0, position - self.start), len(self))
        del self._buffer[: 2 * gone]
        return gone

    def clear(self) -> int:
        """Let go of everything; return how many samples. Positions go on from `end`."""
        gone = len(self)
        self._buffer.clear()
        return gone
