"""Getting records out of the process without making anybody wait."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from duologue.errors import ConfigurationError
from duologue.telemetry.record import TurnRecord

logger = logging.getLogger("duologue.telemetry")


class Exporter(Protocol):
    """Where records go. Called from one thread, in order; may block."""

    def session_started(self, session: str, *, wall: float, agent: str, model: str, tenant: str) -> None:
        """A session began at `wall`, seconds since 1970; its records' times count from there."""
        ...

    def turn(self, record: TurnRecord) -> None:
        """A turn is over."""
        ...

    def session_ended(self, session: str, *, at: float, reason: str) -> None:
        """A session ended, `at` seconds after it began."""
        ...

    def close(self) -> None:
        """Nothing more comes; send what is held."""
        ...


class ExportQueue:
    """Hands records to exporters in a thread of its own. Itself an :class:`Exporter`, whose calls never block.

    Args:
        exporters: where records go; one that fails is logged, counted, and does not keep them from the others.
        size: how many calls may wait; beyond that they are dropped, and counted.

    Attributes:
        dropped: calls dropped because the queue was full.
        failed: calls that an exporter failed at.
    """

    def __init__(self, exporters: Sequence[Exporter], *, size: int = 4096) -> None:
        if size < 1:
            raise ConfigurationError(f"An export queue of {size} holds nothing.", hint="Use 1 or more.")
        self.dropped = 0
        self.failed = 0
        self._exporters = list(exporters)
        self._queue: queue.Queue[Callable[[Exporter], None] | None] = queue.Queue(size)
        self._thread = threading.Thread(target=self._run, name="duologue-telemetry", daemon=True)
        self._thread.start()

    def session_started(self, session: str, *, wall: float, agent: str, model: str, tenant: str) -> None:
        self._put(lambda to: to.session_started(session, wall=wall, agent=agent, model=model, tenant=tenant))

    def turn(self, record: TurnRecord) -> None:
        self._put(lambda to: to.turn(record))

    def session_ended(self, session: str, *, at: float, reason: str) -> None:
        self._put(lambda to: to.session_ended(session, at=at, reason=reason))

    def close(self, patience: float = 5.0) -> None:
        """Export what waits, for at most `patience` seconds, then close the exporters. Blocks: not for a loop."""
        if self._thread.is_alive():
            try:
                self._queue.put(None, timeout=patience)
            except queue.Full:
                logger.warning("%d telemetry calls were not exported: an exporter hangs", self._queue.qsize())
                return
            self._thread.join(patience)

    def _put(self, call: Callable[[Exporter], None]) -> None:
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self.dropped += 1

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            self._each(call)
        self._each(lambda exporter: exporter.close())

    def _each(self, call: Callable[[Exporter], None]) -> None:
        for exporter in self._exporters:
            try:
                call(exporter)
            except Exception:
                self.failed += 1
                # once at WARNING, so that a collector that is down for a day does not fill the log
                level = logging.WARNING if self.failed == 1 else logging.DEBUG
                logger.log(level, "telemetry exporter %s failed", type(exporter).__name__, exc_info=True)
