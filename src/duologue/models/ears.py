"""Our own voice activity detection beside a provider: what lets the engine decide turns for a model that cannot report speech."""

from __future__ import annotations

from collections.abc import Callable

from ..audio import Resampler
from ..speech.base import VAD
from .base import SpeechWindow


class Ears:
    """Listens to the user's track at a model's input rate.

    Args:
        vad: the detector; it has a rate of its own.
        rate: Hz of the audio fed, and of the positions in what is reported.
        report: takes each window.
    """

    def __init__(self, vad: VAD, rate: int, report: Callable[[SpeechWindow], None]) -> None:
        self._vad = vad
        self._rate = rate
        self._report = report
        self._resampler = Resampler(rate, vad.rate) if rate != vad.rate else None
        self._origin = 0  # track position of the first sample since the last gap
        self._next: int | None = None

    def feed(self, pcm: bytes, position: int) -> None:
        """User audio from sample `position` of the track on."""
        if position != self._next:
            self._vad.reset(0)
            if self._resampler is not None:
                self._resampler.reset()
            self._origin = position
        self._next = position + len(pcm) // 2
        heard = self._resampler.feed(pcm) if self._resampler is not None else pcm
        for end, probability in self._vad.feed(heard):
            start = max(0, end - self._vad.window)
            self._report(SpeechWindow(start=self._at(start), end=self._at(end), probability=probability))

    def _at(self, sample: int) -> int:
        return self._origin + sample * self._rate // self._vad.rate
