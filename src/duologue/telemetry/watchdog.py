"""Names what blocks the event loop.

A blocked loop is silence in every call of the process, and cannot report itself. So a thread watches: the loop beats at
an interval; when a beat is overdue, the thread looks at the loop's stack and says which lines it stands in. Frames
only, never values, because those may hold what a caller said.

When the watching thread was late itself, it was not (only) the loop: something held the interpreter lock, or the
machine stood still. That is reported as a stall of the ``process``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import PurePath
from types import FrameType
from typing import Literal

import msgspec

from duologue.errors import ConfigurationError

logger = logging.getLogger("duologue.telemetry")

_DEPTH = 12


class Stall(msgspec.Struct, frozen=True, kw_only=True):
    """The loop stood still from `began` (on the watchdog's clock) for `seconds`, at least: it may go on.

    `stack` is where, outermost call first, as ``function (file:line)``; the innermost twelve, without asyncio's own.
    """

    began: float
    seconds: float
    kind: Literal["loop", "process"]
    stack: tuple[str, ...]


class StallWatchdog:
    """Watches one event loop.

    Args:
        threshold: seconds of standing still that count as a stall.
        on_stall: called once a stall, from the watching thread, while it lasts.
        clock: a monotonic clock, seconds.

    Attributes:
        stalls: how many there were.
        stalled_seconds: how long they lasted in all; one that is not over counts what is known of it.
        worst: the longest, if there was one.
    """

    def __init__(
        self,
        threshold: float = 0.1,
        *,
        on_stall: Callable[[Stall], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not threshold > 0:
            raise ConfigurationError(f"A stall threshold of {threshold} s is out of range.", hint="Use more than 0.")
        self.threshold = threshold
        self.stalls = 0
        self.stalled_seconds = 0.0
        self.worst: Stall | None = None
        self._on_stall = on_stall
        self._clock = clock
        self._interval = threshold / 4
        self._beat: float | None = None
        self._looked = clock()
        self._current: Stall | None = None
        self._watched = 0
        self._handle: asyncio.TimerHandle | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch the running loop, until `stop`."""
        loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._stop.clear()

        def beat() -> None:
            self.beat()
            self._handle = loop.call_later(self._interval, beat)

        beat()
        self._looked = self._clock()
        self._thread = threading.Thread(target=self._run, name="duologue-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. On the loop."""
        self._stop.set()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._beat = None

    def beat(self) -> None:
        """The watched thread is alive. `start` has this called by the loop."""
        self._watched = threading.get_ident()
        self._beat = self._clock()

    def check(self) -> Stall | None:
        """Look once; the stall that was found since the last look, if any. The watching thread does so in turns."""
        now, looked = self._clock(), self._looked
        self._looked = now
        beat = self._beat
        if beat is None:
            return None
        if self._current is not None:
            if beat == self._current.began:
                self._grow(self._current, now - beat)
                return None
            self._current = None
        if now - beat <= self.threshold:
            return None
        stall = Stall(
            began=beat,
            seconds=now - beat,
            kind="process" if now - looked > self.threshold else "loop",
            stack=_frames(sys._current_frames().get(self._watched)),
        )
        self._current = stall
        self.stalls += 1
        self.stalled_seconds += stall.seconds
        self._keep(stall)
        logger.warning(
            "the %s stood still for %.0f ms so far, in %s",
            "event loop" if stall.kind == "loop" else "whole process (interpreter lock held, or machine paused)",
            stall.seconds * 1e3,
            " > ".join(stall.stack) or "no Python code",
        )
        if self._on_stall is not None:
            self._on_stall(stall)
        return stall

    def _grow(self, stall: Stall, seconds: float) -> None:
        self.stalled_seconds += seconds - stall.seconds
        self._current = msgspec.structs.replace(stall, seconds=seconds)
        self._keep(self._current)

    def _keep(self, stall: Stall) -> None:
        if self.worst is None or stall.began == self.worst.began or stall.seconds > self.worst.seconds:
            self.worst = stall

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self.check()
            except Exception:
                logger.exception("the stall watchdog's callback failed")


def _frames(frame: FrameType | None) -> tuple[str, ...]:
    found: list[str] = []
    while frame is not None and len(found) < _DEPTH:
        code = frame.f_code
        path = PurePath(code.co_filename)
        if path.parent.name != "asyncio":
            found.append(f"{code.co_qualname} ({path.name}:{frame.f_lineno})")
        frame = frame.f_back
    return tuple(reversed(found))
