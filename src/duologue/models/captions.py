"""Text of a provider that writes ahead of its voice, released as its audio comes: what was heard is judged by their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

#: characters a second of ordinary speech; text is not released faster than this against the audio received
_PACE = 15.0


class Captions:
    """One response's text. `said` is called with pieces, each before the audio that speaks it.

    Providers send the words of a sentence up to seconds before its audio. Taken as they come, all of them would count as spoken
    by the first sample. So a piece waits until the audio received has come near it, estimated from the characters before.
    """

    def __init__(self, rate: int, said: Callable[[str], None]) -> None:
        self._rate = rate
        self._said = said
        self._waiting: deque[str] = deque()
        self._characters = 0
        self._samples = 0

    def text(self, delta: str) -> None:
        """More text."""
        if delta:
            self._waiting.append(delta)
            self._release()

    def audio(self, samples: int) -> None:
        """More audio is about to be handed on."""
        self._samples += samples
        self._release()

    def flush(self) -> None:
        """No more audio comes: what waits belongs to the end."""
        while self._waiting:
            self._said(self._waiting.popleft())

    def _release(self) -> None:
        while self._waiting and self._characters / _PACE <= self._samples / self._rate:
            delta = self._waiting.popleft()
            self._characters += len(delta)
            self._said(delta)
