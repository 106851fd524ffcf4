"""Voice activity of many tracks on one event loop, judged together.

Alone, a window costs Silero mostly the way of its weights into the cache. One process carries a hundred calls, and so what
their tracks complete within a few milliseconds goes through the network in one run. While there are few of them, each window
is judged in the call that completes it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Sequence

from duologue.errors import ModelError
from duologue.speech.base import VAD
from duologue.speech.vad import SileroNetwork, SileroVAD

#: with fewer tracks on the event loop each window is judged at once: so few seldom meet
FEW = 16
#: how long a window waits for those of other tracks, seconds
WAIT_S = 0.008
#: windows in one run: more would not be cheaper, and hold up the event loop (a run of so many takes 1 ms)
MOST = 32
#: windows of one track that may wait; a burst of more is judged at once
WAITING = 8


class Listening:
    """One track and its detector. To be made on the event loop, and closed.

    What is heard is told in order: within `feed` while there are few tracks, else up to :data:`WAIT_S` later.

    Args:
        vad: the detector, of this track alone. One that is no :class:`SileroVAD` is always asked at once.
        heard: takes (end position, probability of speech) of each window, as :meth:`VAD.feed` gives them. What it raises
            leaves `feed` or `flush` if these called it; else it goes to the event loop's exception handler.
        failed: takes the error if inference fails. What waited is dropped.
    """

    def __init__(self, vad: VAD, heard: Callable[[int, float], None], failed: Callable[[ModelError], None]) -> None:
        self._vad = vad
        self._heard = heard
        self._failed = failed
        self._silero = vad if isinstance(vad, SileroVAD) else None
        self._company = _Company.join(vad.network) if isinstance(vad, SileroVAD) else None
        self._context = contextvars.copy_context()  # in which this track is told, whosever window began the wait
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._judged: deque[tuple[int, float]] = deque()
        self._error: ModelError | None = None
        self._telling = False

    @property
    def window(self) -> int:
        """Samples a window."""
        return self._vad.window

    def feed(self, pcm: bytes) -> None:
        """Audio that follows on that before. Raises AudioFormatError for an odd byte count."""
        if self._silero is None:
            for end, probability in self._vad.feed(pcm):
                self._heard(end, probability)
            return
        if self._company is None:
            return  # closed
        self._waiting += self._silero.cut(pcm)
        if not self._company.many or len(self._waiting) > WAITING:
            self.flush()
        elif self._waiting:
            self._company.await_others(self)

    def flush(self) -> None:
        """Judge and tell now all that waits: before anything is done that must come after it.

        Called while a window is being told, it does nothing: the rest follows that one.
        """
        if self._telling:
            return
        self.tell()
        while self._waiting:
            self.judge([self])
            self.tell()

    def reset(self, position: int = 0) -> None:
        """See :meth:`VAD.reset`. What waits is not told any more."""
        self._drop()
        self._vad.reset(position)

    def close(self) -> None:
        """Nothing is told any more. Idempotent."""
        self._drop()
        if self._company is not None:
            self._company.leave()
            self._company = None

    def _drop(self) -> None:
        self._waiting.clear()
        self._judged.clear()
        self._error = None

    # ------------------------------------------------------------------ for the company

    @staticmethod
    def judge(tracks: Sequence[Listening]) -> None:
        """Judge the next window of each of these tracks, all of which have one."""
        detectors = [track._silero for track in tracks if track._silero is not None]
        try:
            probabilities = detectors[0].network.judge(detectors, [track._waiting[0][1] for track in tracks])
        except ModelError as error:
            for track in tracks:
                track._waiting.clear()
                # One each: an error that is raised by several would gather the ways of all.
                track._error = ModelError(error.message, hint=error.hint)
                track._error.__cause__ = error.__cause__
            return
        for track, probability in zip(tracks, probabilities, strict=True):
            end, _ = track._waiting.popleft()
            track._judged.append((end, probability))

    @property
    def waits(self) -> bool:
        """Whether a window is to be judged."""
        return bool(self._waiting)

    def tell(self) -> None:
        """Tell what has been judged, then what failed."""
        self._telling = True
        try:
            while self._judged:
                self._heard(*self._judged.popleft())
            if (error := self._error) is not None:
                self._error = None
                self._failed(error)
        finally:
            self._telling = False

    def tell_from_loop(self) -> None:
        """As `tell`, in the context of this track. An error of its does not concern the others."""
        try:
            self._context.run(self.tell)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "Taking what voice activity detection heard failed.", "exception": error}
            )


class _Company:
    """The tracks on one event loop that one network listens to."""

    def __init__(self, key: tuple[asyncio.AbstractEventLoop, SileroNetwork]) -> None:
        self._key = key
        self._size = 0
        self._waiting: dict[Listening, None] = {}  # in order of their first window
        self._run_at: asyncio.Handle | None = None

    @classmethod
    def join(cls, network: SileroNetwork) -> _Company:
        """One more track on the running event loop."""
        key = asyncio.get_running_loop(), network
        company = _companies.get(key)
        if company is None:
            company = _companies[key] = cls(key)
        company._size += 1
        return company

    def leave(self) -> None:
        """One track less."""
        self._size -= 1
        if not self._size:
            del _companies[self._key]
            if self._run_at is not None:
                self._run_at.cancel()

    @property
    def many(self) -> bool:
        """Whether it is worth waiting for others."""
        return self._size >= FEW

    def await_others(self, track: Listening) -> None:
        """Have a track's windows judged with those of others."""
        loop, _ = self._key
        self._waiting[track] = None
        if len(self._waiting) == MOST and self._run_at is not None:
            self._run_at.cancel()
            self._run_at = loop.call_soon(self._run)
        elif self._run_at is None:
            self._run_at = loop.call_later(WAIT_S, self._run)

    def _run(self) -> None:
        """Judge all that waits: a window of each track, then the next of those that have one more."""
        self._run_at = None
        tracks = list(self._waiting)
        self._waiting.clear()
        while tracks:
            for first in range(0, len(tracks), MOST):
                # What was told before may have had others flush, reset or close.
                row = [track for track in tracks[first : first + MOST] if track.waits]
                if row:
                    Listening.judge(row)
                for track in row:
                    track.tell_from_loop()
            tracks = [track for track in tracks if track.waits]


#: those that have anybody in them
_companies: dict[tuple[asyncio.AbstractEventLoop, SileroNetwork], _Company] = {}
