"""Voice activity: speech probabilities in, onsets and ends of speech out, on media time.

A Schmitt trigger with two durations. Speech *begins* where the first window of an unbroken run above `on` began, and is
believed once the run lasted `onset_ms`; it *ends* where the last window above `off` ended, and is believed after `end_ms`.
Positions are media time, so a stalled or bursting network moves nothing.
"""

from __future__ import annotations

import msgspec


class ActivityOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Thresholds of voice activity. Probabilities 0-1, durations in milliseconds of media time."""

    on: float = 0.5
    off: float = 0.35
    onset_ms: float = 64.0
    end_ms: float = 96.0


class Activity:
    """Whether somebody speaks, derived from one probability per window.

    `speaking` is the believed state, `began_ms` and `voiced_ms` the media time at which the current (or last) speech began
    and was last heard. All times are milliseconds of media time on the user's track.
    """

    __slots__ = ("_off", "_on", "_run_ms", "began_ms", "now_ms", "options", "speaking", "voiced_ms")

    def __init__(self, options: ActivityOptions | None = None) -> None:
        self.options = options or ActivityOptions()
        self._on = self.options.on
        self._off = self.options.off
        self._run_ms = -1.0
        self.speaking = False
        self.began_ms = 0.0
        self.voiced_ms = 0.0
        self.now_ms = 0.0

    @property
    def silence_ms(self) -> float:
        """Milliseconds of media since speech was last heard."""
        return self.now_ms - self.voiced_ms

    @property
    def speech_ms(self) -> float:
        """Length of the current speech so far, from its onset to the last voiced window."""
        return self.voiced_ms - self.began_ms

    def window(self, start_ms: float, end_ms: float, probability: float) -> bool | None:
        """Take one window. Returns True when speech began with it, False when it ended, else None."""
        gap = start_ms > self.now_ms
        self.now_ms = end_ms
        if self.speaking:
            if probability >= self._off:
                self.voiced_ms = end_ms
            elif end_ms - self.voiced_ms >= self.options.end_ms:
                self.speaking = False
                self._run_ms = -1.0
                return False
            return None
        if probability < self._on:
            self._run_ms = -1.0
            return None
        if self._run_ms < 0 or gap:
            self._run_ms = start_ms  # a run is unbroken: what was lost before it proves nothing
        if end_ms - self._run_ms >= self.options.onset_ms:
            self.speaking = True
            self.began_ms = self._run_ms
            self.voiced_ms = end_ms
            return True
        return None

    def stop(self) -> None:
        """Forget that somebody speaks (the input ended, or was muted)."""
        self.speaking = False
        self._run_ms = -1.0
