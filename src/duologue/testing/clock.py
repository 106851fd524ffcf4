"""An asyncio event loop whose time is virtual: hours of conversation run in seconds, in the same order every time.

The loop keeps the whole of asyncio (tasks, futures, ``asyncio.timeout``, locks, queues) and replaces two things: what
``loop.time()`` says, and what happens when nothing is ready. Then a normal loop waits; this one sets its clock to the
next timer and goes on. Nothing else moves the clock: a callback takes no virtual time however long it really runs.

Three rules make that safe:

* **Only the loop itself wakes the loop.** A socket or a pipe would deliver at a real time that means nothing here, so
  registering one is an error. Use in-memory transports.
* **Work in a thread is declared.** Whoever hands work out wraps the wait in ``loop.hold("what")``; while anything is
  held the clock stands still and the loop really waits. ``run_in_executor`` and ``asyncio.to_thread`` do so by
  themselves. Code below the testing room finds this by duck typing: a loop that has ``hold`` is virtual.
* **Nothing to do is an error.** No callback, no timer, nothing held: every task waits for something that cannot happen.
  A real loop hangs; this one raises :class:`VirtualDeadlockError` with the place where each task waits.

Timers fire in order of (time, order of scheduling): ties are first come, first served. (The standard loop's heap leaves
ties open.) Times are seconds as floats on a clock that begins at `start`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import selectors
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Self

from duologue.errors import DuologueError

#: the longest that a run may last unless it says otherwise: a day, in virtual seconds
DEFAULT_LIMIT = 86_400.0
#: loop iterations at one instant before the run counts as spinning; a healthy instant needs a few hundred
SPIN_LIMIT = 1_000_000
#: real seconds that held work may take before the wait counts as a hang
HOLD_LIMIT = 120.0
#: a real poll of the self-pipe every so many iterations, for signal handlers; thread wake-ups need none
_POLL_MASK = 1023


class VirtualClockError(DuologueError):
    """The code under test did something that virtual time cannot carry, or ran longer than its limit."""

    code = "virtual_clock"


class VirtualDeadlockError(VirtualClockError):
    """Nothing is ready, nothing is scheduled and no declared work is out: the tasks named wait for ever."""

    code = "virtual_deadlock"


class VirtualLimitError(VirtualClockError):
    """The virtual time limit of the run was reached."""

    code = "virtual_limit"


class Hold:
    """Work that is really under way; until it is released the clock of its loop stands still. See `VirtualLoop.hold`.

    A context manager; `release` may also be called directly, from any thread, and more than once.
    """

    __slots__ = ("_loop", "_released", "what")

    def __init__(self, loop: VirtualLoop, what: str) -> None:
        self.what = what
        self._loop = loop
        self._released = False

    def release(self) -> None:
        """Let the clock go on, if nothing else holds it."""
        self._loop._release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


class _ClosedSelector(selectors.DefaultSelector):
    """A selector that takes the loop's own wake-up pipe and refuses everything else."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.get_map():
            raise VirtualClockError(
                "Real I/O was opened under the virtual clock.",
                hint="Use an in-memory transport, or run this test on a real event loop.",
            )
        key: selectors.SelectorKey = super().register(fileobj, events, data)
        return key


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time.

    Args:
        start: what `time()` says at first, seconds.
        limit: virtual seconds after which the run ends with :class:`VirtualLimitError`.

    Attributes:
        undeclared_wakeups: wake-ups from other threads while nothing was held. Each may have met the clock at another
            time in another run; a test that promises to be deterministic asserts that this is 0.
    """

    # set by the standard loop, which does not declare them in its stubs
    _ready: deque[asyncio.Handle]
    _selector: selectors.BaseSelector
    _debug: bool
    _current_handle: asyncio.Handle | None
    _thread_id: int | None
    _closed: bool
    _process_events: Callable[[Any], None]
    _check_closed: Callable[[], None]
    _check_thread: Callable[[], None]

    def __init__(self, *, start: float = 0.0, limit: float = DEFAULT_LIMIT) -> None:
        self._now = start
        self._end = start + limit
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._next_timer = 0
        self._dead_timers = 0
        self._iterations = 0
        self._arrived = 0  # the iteration in which the clock came to the present instant
        self._holds: set[Hold] = set()
        self._holds_lock = threading.Lock()
        self._posted = threading.Lock()  # free: a thread has posted something since the loop last waited
        self._posted.acquire()
        self.undeclared_wakeups = 0
        super().__init__(_ClosedSelector())

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    # -- declared work ---------------------------------------------------------------------------------------------

    def hold(self, what: str = "work") -> Hold:
        """Stop the clock until the returned hold is released; `what` names the work in errors."""
        hold = Hold(self, what)
        with self._holds_lock:
            self._holds.add(hold)
        return hold

    @property
    def held(self) -> int:
        """How many holds stop the clock now."""
        return len(self._holds)

    def _release(self, hold: Hold) -> None:
        with self._holds_lock:
            if hold._released:
                return
            hold._released = True
        if threading.get_ident() == self._thread_id:
            self._holds.discard(hold)
        elif not self.is_closed():
            # dropped on the loop, so that the clock cannot run between the release and what the thread posted before it
            super().call_soon_threadsafe(self._holds.discard, hold)

    def run_in_executor[T, *Ts](self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """As the standard one; the clock stands still until the call has returned."""
        hold = self.hold(f"run_in_executor({getattr(func, '__qualname__', func)})")
        try:
            future = super().run_in_executor(executor, func, *args)
        except BaseException:
            hold.release()
            raise
        future.add_done_callback(lambda _: hold.release())
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """As the standard one; the wait for the threads is real, so that its timeout does not fire at once."""
        with self.hold("shutdown_default_executor"):
            await super().shutdown_default_executor(timeout)

    def call_soon_threadsafe[*Ts](
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As the standard one; counts a wake-up by a thread whose work nobody declared."""
        if not self._holds and threading.get_ident() != self._thread_id and self.is_running():
            self.undeclared_wakeups += 1
        return super().call_soon_threadsafe(callback, *args, context=context)

    def _write_to_self(self) -> None:
        # The standard loop wakes through a socket, since it waits for sockets. This one waits for threads alone.
        with contextlib.suppress(RuntimeError):  # it has not noticed yet that it was woken before
            self._posted.release()

    # -- timers ----------------------------------------------------------------------------------------------------

    def call_later[*Ts](
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back after `delay` virtual seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at[*Ts](
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at virtual time `when`; `inf` is never, NaN is a `ValueError`."""
        if self._debug:
            self._check_thread()
        if self._closed:
            self._check_closed()
        if when != when:
            raise ValueError("A timer at NaN seconds never fires.")
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        handle._scheduled = True  # type: ignore[attr-defined]  # so that cancel() reports to _timer_handle_cancelled
        self._next_timer += 1
        heapq.heappush(self._timers, (when, self._next_timer, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        # Most timers are timeouts that are cancelled. They leave the heap when they surface, or all at once when they
        # are the greater part of it.
        self._dead_timers += 1
        if self._dead_timers > 256 and self._dead_timers * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._dead_timers = 0

    # -- the iteration ---------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        """One iteration; replaces the standard loop's, whose timers, resolution and select belong to real time."""
        ready = self._ready
        if ready:
            self._iterations += 1
            if not self._iterations & _POLL_MASK:
                self._process_events(self._selector.select(0))
                if self._iterations - self._arrived >= SPIN_LIMIT and not self._holds:
                    raise VirtualDeadlockError(
                        f"The loop span {SPIN_LIMIT:,} times at virtual time {self._now:.3f} s.",
                        hint=f"A task polls without sleeping. {_waiting(self)}",
                    )
        else:
            self._wait()
        timers, now = self._timers, self._now
        while timers and timers[0][0] <= now:
            handle = heapq.heappop(timers)[2]
            if handle._cancelled:
                self._dead_timers -= 1
            else:
                handle._scheduled = False  # type: ignore[attr-defined]
                ready.append(handle)
        # callbacks that these add run in the next iteration, as in the standard loop
        for _ in range(len(ready)):
            current = ready.popleft()
            if current._cancelled:
                continue
            if self._debug:
                self._current_handle = current
                try:
                    current._run()
                finally:
                    self._current_handle = None
            else:
                current._run()

    def _wait(self) -> None:
        """Nothing is ready: wait for held work, or move the clock to the next timer."""
        if self._holds:
            if not self._posted.acquire(timeout=HOLD_LIMIT):
                held = ", ".join(sorted(hold.what for hold in self._holds.copy()))
                raise VirtualDeadlockError(
                    f"The clock was held for {HOLD_LIMIT:.0f} real seconds by: {held}.",
                    hint="The work hangs, or nobody released its hold.",
                )
            return
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
            self._dead_timers -= 1
        if timers and timers[0][0] != math.inf:
            when = timers[0][0]
            if when > self._end:
                raise VirtualLimitError(
                    f"The run reached its limit at virtual time {self._end:.3f} s.",
                    hint=f"Raise `limit`. {_waiting(self)}",
                )
            if when > self._now:
                self._now = when
                self._arrived = self._iterations
            return
        # A thread may have posted between the look at `_ready` and here; a signal waits in the pipe.
        self._process_events(self._selector.select(0))
        if not self._ready and not self._stopping:  # type: ignore[attr-defined]
            raise VirtualDeadlockError(
                f"Nothing can happen any more at virtual time {self._now:.3f} s.",
                hint=f"{_waiting(self)} Work in a thread must be declared with loop.hold().",
            )


def _waiting(loop: asyncio.AbstractEventLoop) -> str:
    """The tasks of `loop` that are not done, each with the line where it waits."""
    places = []
    for task in asyncio.all_tasks(loop):
        stack = task.get_stack(limit=1)
        where = f"{stack[-1].f_code.co_qualname}:{stack[-1].f_lineno}" if stack else "its start"
        inner: Any = task.get_coro()
        # get_stack sees the outermost frame only; the innermost one says what is really waited for
        while (deeper := getattr(inner, "cr_await", None)) is not None and hasattr(deeper, "cr_frame"):
            inner = deeper
        if (frame := getattr(inner, "cr_frame", None)) is not None:
            where = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        places.append(f"{task.get_name()} waits in {where}")
    return f"Tasks: {'; '.join(sorted(places))}." if places else "No task is alive."


def run_virtual[T](coro: Coroutine[Any, Any, T], *, start: float = 0.0, limit: float = DEFAULT_LIMIT) -> T:
    """Run `coro` to its end on a new :class:`VirtualLoop` and return its result.

    Tasks that are left are cancelled, as in `asyncio.run`. Exceptions that a callback raised and nobody could receive
    do not vanish in a log: they end the run.

    Args:
        coro: what to run.
        start: the first value of `loop.time()`, seconds.
        limit: virtual seconds that it may take.

    Raises:
        VirtualDeadlockError: every task waits for something that cannot happen, or one spins without ever sleeping.
        VirtualLimitError: `limit` was reached.
        ExceptionGroup: callbacks failed; the coroutine itself did not.
    """
    stray: list[Exception] = []

    def collect(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            stray.append(error)
        else:
            loop.default_exception_handler(context)

    def make() -> VirtualLoop:
        loop = VirtualLoop(start=start, limit=limit)
        loop.set_exception_handler(collect)
        return loop

    with asyncio.Runner(loop_factory=make) as runner:
        result = runner.run(coro)
    if stray:
        raise ExceptionGroup("Exceptions that no task received", stray)
    return result
