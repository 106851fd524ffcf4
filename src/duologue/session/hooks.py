"""Hooks: an application's own code around turns, tools, responses, interruptions, restarts and the end.

Each hook runs beside the conversation, never in its way: on the tools' loop, with a time budget, isolated from the others. One
that fails or takes too long is reported as an error event and costs the call nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

from ..errors import OverloadedError
from ..tools import ToolCall, ToolResult
from ..tools.threads import Work, shared_threads

logger = logging.getLogger("duologue.session")

#: hooks of one session that may be under way at a time; more are dropped and counted
_MOST = 64


class Hooks:
    """Override what you need, as `async def` or plain functions. `session` gives access to the conversation.

    Attributes:
        budget_s: time that one hook may take.
    """

    budget_s: float = 5.0

    async def on_start(self, session: Any) -> None:
        """The conversation is open."""

    async def on_turn(self, session: Any, turn: str, text: str) -> None:
        """The user's turn was committed."""

    async def before_tool(self, session: Any, call: ToolCall) -> None:
        """A tool is about to run. (To decide whether it may, give the tool `approval=True`.)"""

    async def after_tool(self, session: Any, call: ToolCall, result: ToolResult) -> None:
        """A tool has answered."""

    async def on_response(self, session: Any, response: str, status: str) -> None:
        """A response is over: completed, interrupted, cancelled or failed."""

    async def on_interruption(self, session: Any, response: str, reason: str) -> None:
        """The user took the floor from the agent."""

    async def on_restart(self, session: Any, generation: int, reason: str) -> None:
        """The session goes on over a new connection to a model."""

    async def on_end(self, session: Any, reason: str) -> None:
        """The session is over."""


class HookRunner:
    """Runs the hooks of one session. `failed(name, error)` is told of each that fails."""

    def __init__(
        self, hooks: tuple[Hooks, ...], session: Any, failed: Callable[[str, BaseException], None], *, inline: bool
    ) -> None:
        self._session = session
        self._failed = failed
        self._inline = inline
        self._tasks: set[asyncio.Task[None]] = set()
        # What nobody overrode is not run: an empty hook would still cost a task on every turn.
        self._by_name: dict[str, list[tuple[Hooks, Callable[..., Any]]]] = {}
        for hook in hooks:
            for name in (name for name in vars(Hooks) if name.startswith(("on_", "before_", "after_"))):
                if getattr(type(hook), name) is not getattr(Hooks, name):
                    self._by_name.setdefault(name, []).append((hook, getattr(hook, name)))

    def __call__(self, name: str, *args: Any) -> None:
        """Run the hooks of this name, without waiting."""
        for hook, function in self._by_name.get(name, ()):
            if len(self._tasks) >= _MOST:
                self._failed(name, OverloadedError(f"{_MOST} hooks are under way already."))
                continue
            task = asyncio.get_running_loop().create_task(
                self._run(name, hook.budget_s, function, args), name=f"hook {name}"
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, name: str, budget_s: float, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        async def call() -> None:
            value = function(self._session, *args)
            if inspect.isawaitable(value):
                await value

        def plain() -> None:
            function(self._session, *args)

        work: Work | None = None
        try:
            async with asyncio.timeout(budget_s):
                if self._inline:
                    await call()
                else:
                    # A plain function may block: it gets a thread, so that it holds up no other hook and no tool.
                    threads, is_async = shared_threads(), inspect.iscoroutinefunction(function)
                    work = threads.loop.submit(call) if is_async else threads.sync.submit(plain)
                    await asyncio.wrap_future(work.future)
        except TimeoutError as error:
            if work is not None:
                work.abandon()
            self._failed(name, error)
        except Exception as error:
            logger.debug("hook %s failed: %r", name, error)
            self._failed(name, error)

    async def close(self, bound_s: float = 6.0) -> None:
        """Wait for what runs, at most `bound_s`; then cancel it."""
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=bound_s)
            for task in late:
                task.cancel()
