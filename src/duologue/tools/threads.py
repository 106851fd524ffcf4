"""Where tools run: one shared loop in a thread of its own for async tools, a bounded set of threads for sync ones.

Never the media loop. Python cannot kill a thread, so a hung tool is *abandoned*: its run ends at the deadline, its
thread is counted until it comes back, and past a bound new sync tools are refused instead of eating the process. An
async tool that blocks its loop in pure Python is found by the next one, whose start does not come; new tools then get a
fresh loop.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextvars
import functools
import logging
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from duologue.errors import OverloadedError

logger = logging.getLogger("duologue.tools")

P = ParamSpec("P")
T = TypeVar("T")


class Work:
    """One piece of work under way: its future, and how to ask it to stop.

    `future` may be awaited through `asyncio.wrap_future`. `abandon` gives up on it: an async tool's task is cancelled,
    a sync tool that has not begun is dropped, one that has begun is left to itself and counted.
    """

    def __init__(self, future: concurrent.futures.Future[Any], abandon: Callable[[], None]) -> None:
        self.future = future
        self.abandon = abandon


class ShortTurns:
    """While a blocking tool runs, threads take shorter turns.

    A tool that computes in pure Python gives the interpreter up only when its turn is over (5 ms, unless told otherwise), and
    the media loop, which wants it some hundred times a second for a fraction of a millisecond, would wait that long each time.
    """

    #: seconds
    INTERVAL_S = 0.0005

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._usual = sys.getswitchinterval()

    def __enter__(self) -> None:
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(self._usual, self.INTERVAL_S))

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                sys.setswitchinterval(self._usual)


_turns = ShortTurns()


class SyncThreads:
    """A bounded set of daemon threads for blocking calls.

    Args:
        limit: threads that work at the same time; more calls wait in a queue.
        max_queued: calls that may wait.
        max_abandoned: hung threads tolerated before new calls are refused.
    """

    def __init__(self, *, limit: int = 16, max_queued: int = 128, max_abandoned: int = 16) -> None:
        self._limit = limit
        self._max_queued = max_queued
        self._max_abandoned = max_abandoned
        self._lock = threading.Condition()
        self._queue: collections.deque[tuple[concurrent.futures.Future[Any], Callable[[], Any]]] = collections.deque()
        self._threads = 0
        self._idle = 0
        self._hung: set[concurrent.futures.Future[Any]] = set()

    @property
    def abandoned(self) -> int:
        """Threads whose tool was given up on and has not come back."""
        return len(self._hung)

    @property
    def queued(self) -> int:
        """Calls that wait for a thread."""
        return len(self._queue)

    def submit(self, function: Callable[[], Any]) -> Work:
        """Run `function` in a thread, with a copy of the current context variables.

        Raises:
            OverloadedError: too many threads hang, or too many calls wait.
        """
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        context = contextvars.copy_context()
        with self._lock:
            if len(self._hung) >= self._max_abandoned:
                raise OverloadedError(
                    f"{len(self._hung)} tool threads hang past their deadlines.",
                    hint="Give the blocking calls inside those tools timeouts, or make the tools async.",
                )
            if len(self._queue) >= self._max_queued:
                raise OverloadedError(f"{len(self._queue)} tool calls wait for a thread.", hint="Try again later.")
            self._queue.append((future, lambda: context.run(function)))
            if self._idle >= len(self._queue):
                self._lock.notify()
            elif self._threads < self._limit:
                self._threads += 1
                threading.Thread(target=self._work, name="duologue-tool", daemon=True).start()
        return Work(future, lambda: self._abandon(future))

    def _abandon(self, future: concurrent.futures.Future[Any]) -> None:
        with self._lock:
            if future.cancel() or future.done():
                return
            self._hung.add(future)
            self._threads -= 1  # its place is free for others; the thread itself ends when the tool returns
            if self._queue and self._threads < self._limit:
                self._threads += 1
                threading.Thread(target=self._work, name="duologue-tool", daemon=True).start()
        logger.debug("a hung tool thread was abandoned; %d in all", len(self._hung))

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
                if not self._queue:
                    self._lock.wait(timeout=10.0)
                self._idle -= 1
                if not self._queue:
                    self._threads -= 1
                    return
                future, function = self._queue.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                with _turns:
                    outcome, error = function(), None
            except BaseException as raised:  # SystemExit in a tool ends the tool, not the thread pool
                outcome, error = None, raised
            with self._lock:  # within it, so that nobody abandons what is just ending
                abandoned = future in self._hung
                self._hung.discard(future)
                if error is None:
                    future.set_result(outcome)
                else:
                    future.set_exception(error)
            if abandoned:
                return


class ToolLoop:
    """An event loop in a daemon thread that runs async tools.

    Args:
        sync: where `asyncio.to_thread` inside those tools goes.
    """

    def __init__(self, sync: SyncThreads) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(_LoopExecutor(sync))
        self._retiring = False
        self._tasks: set[asyncio.Task[Any]] = set()
        threading.Thread(target=self._run, name="duologue-tool-loop", daemon=True).start()

    def submit(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> Work:
        """Run a coroutine function on the loop, with a copy of the caller's context variables."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        begun: list[asyncio.Task[Any]] = []

        def begin() -> None:
            if not future.set_running_or_notify_cancel():
                return
            task = self.loop.create_task(_contained(function))
            begun.append(task)
            self._tasks.add(task)
            task.add_done_callback(finish)

        def finish(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                future.set_exception(asyncio.CancelledError())
            else:
                value, raised = task.result()
                if raised is None:
                    future.set_result(value)
                else:
                    future.set_exception(raised)
            self._stop_if_idle()

        def abandon() -> None:
            if not future.cancel():
                self.loop.call_soon_threadsafe(lambda: [task.cancel() for task in begun])

        self.loop.call_soon_threadsafe(begin, context=contextvars.copy_context())
        return Work(future, abandon)

    def retire(self) -> None:
        """End the thread once the tools that run on it are through."""

        def retire() -> None:
            self._retiring = True
            self._stop_if_idle()

        self.loop.call_soon_threadsafe(retire)

    def _stop_if_idle(self) -> None:
        if self._retiring and not self._tasks:
            self.loop.stop()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


class _LoopExecutor(concurrent.futures.ThreadPoolExecutor):
    """The tool loop's default executor: the same bounded daemon threads, so that a hung call cannot hold up exit."""

    def __init__(self, sync: SyncThreads) -> None:
        super().__init__(max_workers=1)  # its own threads are never started
        self._sync = sync

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[T]:
        return self._sync.submit(functools.partial(fn, *args, **kwargs)).future


async def _contained(function: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, BaseException | None]:
    """A tool's value or error as plain data, so that a SystemExit in it does not end the loop that all tools share."""
    try:
        return await function(), None
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return None, error


class ToolThreads:
    """Both kinds of place together. One is shared by all sessions of a process: :func:`shared_threads`.

    Args:
        sync: where blocking calls run.
        max_blocked: blocked loops tolerated before new async tools are refused.
    """

    def __init__(self, sync: SyncThreads | None = None, *, max_blocked: int = 4) -> None:
        self.sync = sync or SyncThreads()
        self._max_blocked = max_blocked
        self._lock = threading.Lock()
        self._loop: ToolLoop | None = None
        #: loops that an async tool blocked, and that were replaced
        self.blocked_loops = 0

    @property
    def loop(self) -> ToolLoop:
        """The loop for async tools, started when first needed.

        Raises:
            OverloadedError: too many loops are blocked.
        """
        with self._lock:
            if self._loop is None:
                if self.blocked_loops >= self._max_blocked:
                    raise OverloadedError(
                        f"Async tools have blocked {self.blocked_loops} event loops.",
                        hint="Blocking code belongs into sync tools, which get threads: write `def`, not `async def`.",
                    )
                self._loop = ToolLoop(self.sync)
            return self._loop

    def replace(self, blocked: ToolLoop) -> None:
        """Leave `blocked`, which does not get to its work, to the tool that blocks it; new tools get a new loop."""
        with self._lock:
            if self._loop is not blocked:
                return
            self._loop = None
            self.blocked_loops += 1
        blocked.retire()
        logger.debug("an async tool blocks the tool loop; new tools get a new one")


_shared: list[ToolThreads] = []
_shared_lock = threading.Lock()


def shared_threads() -> ToolThreads:
    """The threads that all executors of this process share."""
    with _shared_lock:
        if not _shared:
            _shared.append(ToolThreads())
        return _shared[0]
