"""Echo cancellation for a microphone beside a loudspeaker, by WebRTC's audio processing (extra ``aec``).

Without it an agent on loudspeakers hears itself and interrupts itself: use headphones, or the talk page, whose browser
cancels echo.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..audio import Resampler
from ..errors import MissingDependencyError

_PACKAGE = "aec_audio_processing"


def available() -> bool:
    """Whether the extra `aec` is installed."""
    try:
        importlib.import_module(_PACKAGE)
    except (ImportError, OSError):
        return False
    return True


class EchoCanceller:
    """Takes the loudspeaker's sound out of the microphone's. PCM16 mono, in frames of 10 ms inside.

    Args:
        rate: Hz of the microphone; reference_rate: Hz of what is played.
        delay_ms: from playing a sample to recording it again, as far as the devices state it; the filter finds the rest.

    Raises MissingDependencyError if the extra `aec` is not installed.
    """

    def __init__(self, rate: int, reference_rate: int, delay_ms: int = 0) -> None:
        try:
            package = importlib.import_module(_PACKAGE)
        except (ImportError, OSError):
            raise MissingDependencyError(
                "Echo cancellation is not installed.",
                hint='Install it: pip install "duologue[aec]" (Linux: needs a C++ compiler), or use headphones.',
            ) from None
        self._filter: Any = package.AudioProcessor(enable_aec=True, enable_ns=False, enable_agc=False, enable_vad=False)
        # Both directions must have one rate: the filter takes frames of one size.
        self._filter.set_stream_format(rate, 1, rate, 1)
        self._filter.set_reverse_stream_format(rate, 1)
        self._filter.set_stream_delay(delay_ms)
        self._frame = 2 * int(self._filter.get_frame_size())
        self._resampler = Resampler(reference_rate, rate)
        self._reference = bytearray()
        self._captured = bytearray()

    @property
    def held(self) -> int:
        """Captured samples that are held back."""
        return len(self._captured) // 2

    def played(self, pcm: bytes) -> None:
        """What the loudspeaker plays, silence included."""
        self._reference += self._resampler.feed(pcm)
        while len(self._reference) >= self._frame:
            self._filter.process_reverse_stream(bytes(self._reference[: self._frame]))
            del self._reference[: self._frame]

    def captured(self, pcm: bytes) -> bytes:
        """What the microphone heard, without the echo; up to 10 ms of it are held back."""
        self._captured += pcm
        out = bytearray()
        while len(self._captured) >= self._frame:
            out += self._filter.process_stream(bytes(self._captured[: self._frame]))
            del self._captured[: self._frame]
        return bytes(out)

    def gap(self) -> None:
        """Captured audio was lost: what is held back belongs to what came before."""
        self._captured.clear()
