"""From the start of a session to its end: one task group that owns every task of it, and nothing that outlives it."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Self

from ..errors import SessionClosedError
from ..events import EndReason, SessionEnded

logger = logging.getLogger("duologue.session")

#: longest that closing a channel or a connection may take
_CLOSE_S = 3.0


class Life(ABC):
    """What has one life: opened once, then running until something ends it, then shut, whatever happened.

    What lives says how it is opened and shut; `ended` is set by the latter.
    """

    def __init__(self, id: str) -> None:
        self.id = id
        self.ended: SessionEnded | None = None
        self._main: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened: asyncio.Future[None] | None = None
        self._stopping: asyncio.Event | None = None
        self._end_reason: EndReason = "stopped"
        self._end_detail = ""
        self._end_timer: asyncio.TimerHandle | None = None

    @abstractmethod
    async def _open(self) -> None:
        """Open everything. What it raises is raised by :meth:`start`, after everything was shut."""

    @abstractmethod
    async def _shut(self) -> None:
        """Close everything that is open, each step bounded; says how it ended in `ended`."""

    @abstractmethod
    def _task_failed(self, name: str, error: Exception) -> None:
        """A task that was spawned has failed."""

    async def start(self) -> Self:
        """Open channels and model, greet. Raises a typed error if any of it cannot work; then nothing is left open."""
        if self._main is not None:
            raise SessionClosedError("The session was started already.", hint="Make a new one for a new conversation.")
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        self._stopping = asyncio.Event()
        self._main = self._loop.create_task(self._live(), name=f"session {self.id}")
        try:
            await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            await self.stop()
            raise
        except Exception:
            await asyncio.wait({self._main})  # nothing is left open when the error is told
            raise
        return self

    async def stop(self, reason: EndReason = "stopped", detail: str = "") -> None:
        """End the conversation: flush the journal, close what is open. Idempotent; from any task, tools included."""
        if self._main is None:
            return
        if asyncio.get_running_loop() is not self._loop:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.stop(reason, detail), self._loop))
            return
        self.end(reason, detail)
        current = asyncio.current_task()
        if current is self._main or current in self._tasks:
            return  # called from inside: the end comes when the caller lets go
        await asyncio.wait({self._main})

    def end(self, reason: EndReason, detail: str = "") -> None:
        """Begin to end, without waiting."""
        if self._stopping is not None and not self._stopping.is_set():
            self._end_reason, self._end_detail = reason, detail
            self._stopping.set()
            if self._opened is not None and not self._opened.done() and self._main is not None:
                self._main.cancel()  # a model or channel that takes its time to open is not waited for

    def end_by(self, seconds: float, reason: EndReason, detail: str) -> None:
        """The call is over after `seconds`, unless something ends it before."""
        if self._end_timer is None:
            self._end_timer = self._loop.call_later(seconds, self.call_over, reason, detail)

    def call_over(self, reason: EndReason, detail: str = "") -> None:
        """Nobody is to be on the line any more. That is the end, unless what lives has a reason to stay."""
        self.end(reason, detail)

    async def wait(self) -> SessionEnded:
        """Wait until the session has ended, and say how."""
        if self._main is None:
            raise SessionClosedError("The session was not started.")
        await asyncio.wait({self._main})
        assert self.ended is not None
        return self.ended

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop("error" if exc[0] is not None and exc[0] is not asyncio.CancelledError else "stopped")

    async def _live(self) -> None:
        assert self._opened is not None
        assert self._stopping is not None
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    await self._open()
                except BaseException as error:
                    if not self._stopping.is_set():
                        self._stopping.set()
                        self._end_reason, self._end_detail = "error", str(error)
                    if not self._opened.done():
                        self._opened.set_exception(
                            error
                            if isinstance(error, Exception)
                            else SessionClosedError("It was stopped while starting.")
                        )
                    await self._end()
                    if not isinstance(error, Exception):
                        raise
                    return
                self._opened.set_result(None)
                try:
                    await self._stopping.wait()
                finally:
                    await self._end()
        finally:
            self._group = None

    async def _end(self) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
        await self._shut()
        for task in self._tasks:
            task.cancel()

    async def bounded(self, work: Awaitable[Any]) -> None:
        """Await a step of closing, which neither may take long nor keep the next from being taken."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await work
        except Exception as error:
            logger.debug("%s: closing: %r", self.id, error)

    async def over(self) -> None:
        """Wait until it begins to end."""
        assert self._stopping is not None
        await self._stopping.wait()

    @property
    def closing(self) -> bool:
        """Whether it has begun to end."""
        return self._stopping is not None and self._stopping.is_set()

    def check_open(self) -> None:
        if self.ended is not None or self._main is None or self.closing:
            raise SessionClosedError("The session has ended.", hint="Start a new one.")

    async def _here[T](self, work: Callable[[], T]) -> T:
        """Do `work` on the session's loop, from whatever loop this is."""
        self.check_open()
        if asyncio.get_running_loop() is self._loop:
            return work()

        async def hop() -> T:
            self.check_open()
            return work()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(hop(), self._loop))

    def spawn(self, run: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a task inside the session. Its failure is reported, and costs the session nothing else."""
        if self._group is None or self.closing:
            return

        async def guarded() -> None:
            try:
                await run()
            except Exception as error:
                logger.debug("%s: task %s failed", self.id, name, exc_info=True)
                self._task_failed(name, error)

        task = self._group.create_task(guarded(), name=f"{self.id} {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
