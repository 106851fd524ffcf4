"""Where an executor's work goes: to threads off its loop, or, under a virtual clock, to tasks on it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from duologue.tools.threads import ToolLoop, ToolThreads, Work


class Submitted:
    """Work under way in either place, seen from the executor's loop."""

    def __init__(self, work: Work | asyncio.Task[Any], loop: ToolLoop | None) -> None:
        self._work = work
        #: the tool loop it was given to, if it was
        self.loop = loop

    def future(self) -> asyncio.Future[Any]:
        """A future of the running loop."""
        if isinstance(self._work, asyncio.Task):
            return self._work
        future = asyncio.wrap_future(self._work.future)
        future.add_done_callback(_seen)
        return future

    def not_begun(self) -> bool:
        """Whether it still waits for its turn. Abandoning it then surely prevents it."""
        if isinstance(self._work, asyncio.Task):
            return False
        return not self._work.future.running() and not self._work.future.done()

    def abandon(self) -> None:
        """Give up on it; see :class:`~duologue.tools.threads.Work`."""
        if isinstance(self._work, asyncio.Task):
            self._work.cancel()
        else:
            self._work.abandon()


class Places:
    """Runs functions in `threads`, or in tasks of the running loop if that is None (`inline`).

    Both ways raise OverloadedError if there is no place left.
    """

    def __init__(self, threads: ToolThreads | None) -> None:
        self._threads = threads

    @property
    def inline(self) -> bool:
        return self._threads is None

    def run_async(self, function: Callable[[], Any]) -> Submitted:
        """Run what returns an awaitable."""
        if self._threads is None:
            task = asyncio.get_running_loop().create_task(_await(function), context=contextvars.copy_context())
            return Submitted(task, None)
        loop = self._threads.loop
        return Submitted(loop.submit(function), loop)

    def run_sync(self, function: Callable[[], Any]) -> Submitted:
        """Run what may block."""
        if self._threads is not None:
            return Submitted(self._threads.sync.submit(function), None)

        async def call() -> Any:
            return function()

        return self.run_async(call)

    def replace(self, blocked: ToolLoop) -> None:
        """See :meth:`~duologue.tools.threads.ToolThreads.replace`."""
        if self._threads is not None:
            self._threads.replace(blocked)


async def _await(function: Callable[[], Any]) -> Any:
    return await function()


def _seen(future: asyncio.Future[Any]) -> None:
    """How abandoned work ended in the end is no news to anybody, and no reason for asyncio to complain."""
    if not future.cancelled():
        future.exception()
