"""What all commands share: running a coroutine to its end or to a signal, errors as one line, logging."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from rich.console import Console
from rich.text import Text

from ..errors import DuologueError


class CallFailedError(DuologueError):
    """The call began, and ended with an error."""

    code = "call_failed"


def prepare() -> None:
    """Make the standard streams take any text: a terminal that cannot show a character gets a replacement."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def set_log_level(level: str) -> None:
    """Show the log of `duologue` from `level` on. By default nothing but warnings."""
    logger = logging.getLogger("duologue")
    logger.setLevel(level.upper())
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("%(relativeCreated)8.0f %(name)s: %(message)s"))
        logger.addHandler(handler)


class _StderrHandler(logging.StreamHandler[Any]):
    """Writes to what `sys.stderr` is when a record comes."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def say(text: str = "", style: str = "") -> None:
    """A line to the user, on standard error: standard output belongs to the conversation."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(text, style))


def report(error: DuologueError) -> None:
    """An error, without a traceback (that one is in the debug log)."""
    logging.getLogger("duologue.cli").debug("%s", type(error).__name__, exc_info=error)
    say(f"duologue: {error}", "red")


def run[T](main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end. Ctrl+C and SIGTERM cancel it, so that it closes what it has open; then KeyboardInterrupt."""

    async def watched() -> T:
        task = asyncio.current_task()
        assert task is not None
        with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows has no SIGTERM to wait for
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
