"""Runs a session's tool calls: concurrently, off the media loop, each with a deadline, each ending in exactly one
result.

The executor lives on the session's loop and owns one task a run. Whatever happens to a run (the tool raises, hangs,
blocks, returns what JSON cannot carry, is cancelled, is refused), its result says so in words a model can act on;
nothing escapes.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import logging
import uuid
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from typing import Any, Literal

import msgspec

from duologue.errors import ConfigurationError, DuologueError, FencedError, OverloadedError, SessionClosedError
from duologue.tools.approval import Approvals, Approve
from duologue.tools.base import RUNNING, Running, Tool, ToolCall, ToolContext, ToolEvent, ToolResult, ToolStatus
from duologue.tools.places import Places, Submitted
from duologue.tools.results import Capped, cap_json, to_json
from duologue.tools.threads import ToolThreads, shared_threads

logger = logging.getLogger("duologue.tools")

#: seconds after which an async tool that has not begun proves its loop to be blocked
BLOCKED_LOOP_S = 1.0
MAX_ERROR_CHARS = 500
MAX_PROGRESS_CHARS = 500
MAX_PROGRESS_REPORTS = 200
#: finished runs remembered, so that a call that is delivered twice runs once
REMEMBERED_RUNS = 512

_MAYBE = " It may or may not have taken effect; do not repeat it without asking."


class ToolRun:
    """One run of a tool. Await it for its :class:`ToolResult`; cancelling that wait does not cancel the run."""

    def __init__(self, call: ToolCall, tool: Tool | None, loop: asyncio.AbstractEventLoop) -> None:
        self.call = call
        #: None if the model asked for a tool that does not exist
        self.tool = tool
        #: whether the tool's own code has begun
        self.begun = False
        self.reports = 0
        #: reports dropped because there were too many
        self.reports_dropped = 0
        self._done: asyncio.Future[ToolResult] = loop.create_future()
        self._stop: asyncio.Future[str] = loop.create_future()

    @property
    def result(self) -> ToolResult | None:
        """The result, once there is one."""
        return self._done.result() if self._done.done() else None

    def __await__(self) -> Generator[Any, None, ToolResult]:
        return asyncio.shield(self._done).__await__()


class ToolExecutor:
    """Runs tools for one session. Construct and use it on the session's loop; methods do not block.

    Args:
        tools: what may be called, by unique name.
        context: injected where a tool asks for it.
        on_event: called on the session's loop for every :class:`ToolEvent`, in order for each run.
        approve: decides about runs of tools that want approval; runs off the media loop like a tool. Without it they
            wait for :meth:`decide`.
        runner: `thread` runs tools off this loop; `inline` runs them on it, for tests under a virtual clock.
        threads: where `thread` runs them; by default what the whole process shares.
        approval_timeout_s: seconds after which an undecided run is denied.
        max_result_bytes: JSON bytes of a result; the rest is cut, and the model told.
        max_concurrent: runs at the same time; more are refused.
        run_key: makes idempotency keys unique; give the session's id, so that a rerun after a takeover has the same
            key.

    Raises:
        ConfigurationError: two tools of one name, or an option that cannot work.
    """

    def __init__(
        self,
        tools: Iterable[Tool] = (),
        *,
        context: ToolContext | None = None,
        on_event: Callable[[ToolEvent], None] | None = None,
        approve: Approve | None = None,
        runner: Literal["thread", "inline"] = "thread",
        threads: ToolThreads | None = None,
        approval_timeout_s: float = 60.0,
        max_result_bytes: int = 64 * 1024,
        max_concurrent: int = 32,
        run_key: str = "",
    ) -> None:
        if runner not in ("thread", "inline"):
            raise ConfigurationError(f"runner={runner!r}.", hint="Use 'thread', or 'inline' under a virtual clock.")
        if max_result_bytes < 256 or max_concurrent < 1:
            raise ConfigurationError("max_result_bytes must be at least 256, and max_concurrent at least 1.")
        self._tools = _by_name(tools)
        self._context = context
        self._on_event = on_event
        self._places = Places(None if runner == "inline" else threads or shared_threads())
        self._max_result_bytes = max_result_bytes
        self._max_concurrent = max_concurrent
        self._run_key = run_key or uuid.uuid4().hex
        self._runs: dict[str, ToolRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._approvals = Approvals(approve, self._places.run_async, approval_timeout_s)
        self._closed = False
        self._fenced = False

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools by name."""
        return self._tools

    def replace(self, tools: Iterable[Tool]) -> None:
        """Offer other tools from now on. Runs under way go on.

        Raises:
            ConfigurationError: two tools of one name; then nothing has changed.
        """
        self._tools = _by_name(tools)

    @property
    def running(self) -> tuple[ToolRun, ...]:
        """The runs that have no result yet, oldest first."""
        return tuple(run for run in self._runs.values() if run.result is None)

    @property
    def pending_approvals(self) -> tuple[ToolCall, ...]:
        """The calls that wait for a decision, oldest first."""
        return self._approvals.pending

    def start(self, call: ToolCall) -> ToolRun:
        """Start a run. A call id that was started before gives the same run, not a second one.

        Raises:
            SessionClosedError: the executor is closed.
            FencedError: another owner runs this session now.
        """
        if self._fenced:
            raise FencedError("Another worker runs this session's tools now.")
        if self._closed:
            raise SessionClosedError("The session's tools have been closed.", hint="Start a new session.")
        known = self._runs.get(call.id)
        if known is not None:
            return known
        if not call.idempotency_key:
            call = msgspec.structs.replace(call, idempotency_key=f"{self._run_key}:{call.id}")
        loop = asyncio.get_running_loop()
        busy = len(self.running)
        run = ToolRun(call, self._tools.get(call.name), loop)
        self._remember(run)
        task = loop.create_task(self._supervise(run, busy), name=f"tool {call.name} {call.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    def recover(self, call: ToolCall) -> ToolRun:
        """Settle a run that a former owner started and never answered.

        A tool of `on_takeover="rerun"` runs again under the same idempotency key; any other is reported as
        `outcome_unknown` without running.
        """
        tool = self._tools.get(call.name)
        if call.id in self._runs or (tool is not None and tool.on_takeover == "rerun"):
            return self.start(call)
        run = ToolRun(call, tool, asyncio.get_running_loop())
        self._remember(run)
        text = f"{call.name} was interrupted by a restart, and nobody knows how it ended.{_MAYBE}"
        self._finish(run, ToolResult(id=call.id, name=call.name, status="outcome_unknown", error=text))
        return run

    def cancel(self, call_id: str, reason: str) -> bool:
        """Cancel a run; false if there is none of that id under way. The result follows as usual."""
        run = self._runs.get(call_id)
        if run is None or run.result is not None or run._stop.done():
            return False
        run._stop.set_result(reason)
        return True

    def barge_in(self) -> tuple[str, ...]:
        """Cancel the runs whose tools allow it (`cancel_on_barge_in`); returns their call ids."""
        stopped = [run.call.id for run in self.running if run.tool is not None and run.tool.cancel_on_barge_in]
        return tuple(call_id for call_id in stopped if self.cancel(call_id, "the caller interrupted"))

    def decide(self, call_id: str, approved: bool, reason: str = "") -> bool:
        """Decide about a run that waits for approval; false if none of that id waits."""
        return self._approvals.decide(call_id, approved, reason)

    def fence(self) -> None:
        """Another worker took this session over: start nothing more, stop what runs, report nothing more."""
        self._fenced = True
        for run in self.running:
            self.cancel(run.call.id, "another worker took over")

    async def aclose(self, grace: float = 0.0) -> None:
        """Let what runs finish within `grace` seconds, cancel the rest, and end. Bounded, whatever a tool does."""
        self._closed = True
        if self._tasks and grace > 0:
            await asyncio.wait(set(self._tasks), timeout=grace)
        for run in self.running:
            self.cancel(run.call.id, "the conversation ended")
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    # -- one run

    async def _supervise(self, run: ToolRun, busy: int) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            status, value = await self._drive(run, busy)
        except asyncio.CancelledError:  # the loop is being torn down; whoever waits must not wait for ever
            self._finish(run, self._outcome(run, "cancelled", "the event loop was closed", loop.time() - began))
            raise
        self._finish(run, self._outcome(run, status, value, loop.time() - began))

    async def _drive(self, run: ToolRun, busy: int) -> tuple[ToolStatus, Any]:
        """How the run ended: a status, and the capped value, the exception, or a text that says what is wrong."""
        tool, call = run.tool, run.call
        if tool is None:
            return "error", self._no_such_tool(call.name)
        if busy >= self._max_concurrent:
            return "error", f"{busy} tools are running already; try again when one has finished."
        try:
            prepared = tool.prepare(call.arguments, self._context)
        except Exception as error:  # a converter may be user code
            return "error", error
        if tool.approval:
            self._emit(ToolEvent(kind="approval", call=call))
            decision = await self._approvals.ask(call, tool, run._stop)
            if run._stop.done():
                return "cancelled", run._stop.result()
            if not decision.approved:
                return "denied", f"{call.name} was not approved{': ' + decision.reason if decision.reason else '.'}"
        if run._stop.done():
            return "cancelled", run._stop.result()
        run.begun = True
        self._emit(ToolEvent(kind="started", call=call))
        logger.debug("tool %s started (%s)", call.name, call.id)
        try:
            return await self._execute(run, tool, prepared)
        except OverloadedError as error:
            return "error", error

    async def _execute(self, run: ToolRun, tool: Tool, prepared: Callable[[], Any]) -> tuple[ToolStatus, Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + tool.deadline_s
        report = self._reporter(run, loop)

        def capped(value: object) -> Capped:
            return cap_json(to_json(tool.name, value), self._max_result_bytes)

        async def run_async(awaitable: Awaitable[Any] | None = None) -> Capped:
            RUNNING.set(Running(run.call, report))
            return capped(await (prepared() if awaitable is None else awaitable))

        def run_sync() -> Capped | Awaitable[Any]:
            RUNNING.set(Running(run.call, report))
            value = prepared()
            return value if inspect.isawaitable(value) else capped(value)

        if tool.is_async:
            status, value = await self._wait(run, self._places.run_async(run_async), deadline, lambda: run_async())
        else:
            status, value = await self._wait(run, self._places.run_sync(run_sync), deadline, None)
        if status == "ok" and not isinstance(value, Capped):  # a plain function that handed back a coroutine
            again = value
            status, value = await self._wait(run, self._places.run_async(lambda: run_async(again)), deadline, None)
        return status, value

    async def _wait(
        self, run: ToolRun, work: Submitted, deadline: float, again: Callable[[], Any] | None
    ) -> tuple[ToolStatus, Any]:
        loop = asyncio.get_running_loop()
        future = work.future()
        if work.loop is not None and again is not None:
            await asyncio.wait(
                {future, run._stop}, timeout=min(BLOCKED_LOOP_S, deadline - loop.time()), return_when=_FIRST
            )
            if work.not_begun() and not run._stop.done():
                self._places.replace(work.loop)
                work.abandon()
                work = self._places.run_async(again)
                future = work.future()
        await asyncio.wait({future, run._stop}, timeout=deadline - loop.time(), return_when=_FIRST)
        if future.done():
            return _settled(future)
        work.abandon()
        if run._stop.done():
            return ("outcome_unknown" if self._may_go_on(run) else "cancelled"), run._stop.result()
        return "timeout", None

    def _may_go_on(self, run: ToolRun) -> bool:
        """A thread cannot be stopped: what a cancelled sync tool does to the world is not known."""
        return run.tool is not None and run.tool.side_effects and not run.tool.is_async and not self._places.inline

    def _reporter(self, run: ToolRun, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
        def report(text: str) -> None:
            try:
                loop.call_soon_threadsafe(self._progress, run, str(text)[:MAX_PROGRESS_CHARS])
            except RuntimeError:  # the session's loop is gone, and with it whoever would listen
                logger.debug("progress of an abandoned tool was dropped (%s)", run.call.id)

        return report

    # -- events

    def _progress(self, run: ToolRun, text: str) -> None:
        if run.result is not None or not text:
            return
        run.reports += 1
        if run.reports > MAX_PROGRESS_REPORTS:
            run.reports_dropped += 1
            return
        self._emit(ToolEvent(kind="progress", call=run.call, text=text))

    def _outcome(self, run: ToolRun, status: ToolStatus, value: Any, duration: float) -> ToolResult:
        name = run.call.name
        if status == "ok":
            return ToolResult(
                id=run.call.id, name=name, output=value.value, duration=duration, truncated=value.truncated
            )
        exception = value if isinstance(value, BaseException) else None
        error = str(value or "") if exception is None else _words(name, exception)
        maybe = _MAYBE if run.begun and run.tool is not None and run.tool.side_effects else ""
        if status == "timeout":
            limit = run.tool.deadline_s if run.tool is not None else 0.0
            error = f"{name} did not answer within {limit:g} seconds.{maybe}"
        elif status in ("cancelled", "outcome_unknown"):
            error = f"{name} was cancelled: {error}.{maybe}"
        return ToolResult(id=run.call.id, name=name, status=status, error=error, exception=exception, duration=duration)

    def _finish(self, run: ToolRun, result: ToolResult) -> None:
        run._done.set_result(result)
        if run.reports_dropped:
            logger.debug("tool %s: %d progress reports dropped", run.call.name, run.reports_dropped)
        logger.debug(
            "tool %s %s after %.3f s (%s)",
            run.call.name,
            result.status,
            result.duration,
            run.call.id,
            exc_info=result.exception,
        )
        self._emit(ToolEvent(kind="finished", call=run.call, result=result))

    def _emit(self, event: ToolEvent) -> None:
        if self._on_event is None or self._fenced:
            return
        try:
            self._on_event(event)
        except Exception as error:  # a listener that fails must not take the run, or its result, with it
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"on_event failed at {event.kind} of tool {event.call.name}", "exception": error}
            )

    def _remember(self, run: ToolRun) -> None:
        self._runs[run.call.id] = run
        for call_id in [call_id for call_id, old in self._runs.items() if old.result is not None]:
            if len(self._runs) <= REMEMBERED_RUNS:
                break
            del self._runs[call_id]

    def _no_such_tool(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._tools, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else f"Tools: {', '.join(self._tools) or 'none'}."
        return f"There is no tool {name!r}. {hint}"


_FIRST = asyncio.FIRST_COMPLETED


def _by_name(tools: Iterable[Tool]) -> dict[str, Tool]:
    named: dict[str, Tool] = {}
    for tool in tools:
        if tool.name in named:
            raise ConfigurationError(f"Two tools are named {tool.name!r}.", hint="Rename one: @tool(name=...).")
        named[tool.name] = tool
    return named


def _settled(future: asyncio.Future[Any]) -> tuple[ToolStatus, Any]:
    if future.cancelled():
        return "cancelled", "it cancelled itself"
    error = future.exception()
    if error is None:
        return "ok", future.result()
    if isinstance(error, asyncio.CancelledError):
        return "cancelled", "it cancelled itself"
    return "error", error


#: what these say is meant for whoever mends the tool, not for whoever talks to it
_DEFECTS = (
    AssertionError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    NameError,
    NotImplementedError,
    OSError,
    TypeError,
    UnicodeError,
)


def _words(tool: str, error: BaseException) -> str:
    """An exception as a model is told it, in plain words that may be spoken: never its class.

    Our own errors and those that a tool raises on purpose (`ValueError`, `RuntimeError`, classes of its own) say what is wrong
    by their message. Of what looks like a defect nothing is told but that the tool failed; the application finds the
    exception itself in `ToolResult.exception`.
    """
    defect = isinstance(error, _DEFECTS) or not isinstance(error, Exception)
    message = "" if defect and not isinstance(error, DuologueError) else " ".join(str(error).split())
    text = message or f"{tool} failed."
    return text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 1] + "…"
