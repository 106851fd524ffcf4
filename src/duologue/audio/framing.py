"""Cuts a byte stream of PCM16 mono into frames of an exact number of samples."""

from __future__ import annotations

from duologue.audio.format import check_pcm16
from duologue.errors import AudioFormatError


class Framer:
    """Frames of exactly `frame_samples` PCM16 mono samples out of chunks of any length; keeps the remainder.

    What it holds is less than one frame after every `push`, so it needs no bound. Raises AudioFormatError for an odd
    number of bytes, and leaves what it held as it was.
    """

    def __init__(self, frame_samples: int) -> None:
        if frame_samples < 1:
            raise AudioFormatError(f"A frame of {frame_samples} samples cannot be.", hint="Use at least 1.")
        self.frame_samples = frame_samples
        self._size = 2 * frame_samples
        self._rest = b""

    @property
    def pending(self) -> int:
        """Samples that are held until their frame is whole."""
        return len(self._rest) // 2

    def push(self, pcm: bytes) -> list[bytes]:
        """Take `pcm` in and return every frame that is now whole, oldest first."""
        check_pcm16(pcm)
        size = self._size
        if not self._rest and len(pcm) == size:  # the usual case: the sender frames as we do
            return [bytes(pcm)]
        data = self._rest + bytes(pcm)
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        return [data[at : at + size] for at in range(0, whole, size)]

    def flush(self, *, pad: bool = False) -> bytes:
        """Return the remainder (empty if none) and forget it; with `pad`, silence fills it up to a whole frame."""
        rest, self._rest = self._rest, b""
        return rest.ljust(self._size, b"\0") if pad and rest else rest
