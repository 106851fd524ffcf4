"""The gate in front of tools that want somebody's decision before each run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from duologue.errors import ConfigurationError
from duologue.tools.base import Tool, ToolCall

logger = logging.getLogger("duologue.tools")


class Decision(NamedTuple):
    """A decision about one run; `reason` is told to the model if it was denied."""

    approved: bool
    reason: str = ""


#: Decides about a run: true or false, or a :class:`Decision`.
type Approve = Callable[[ToolCall, Tool], Awaitable[bool | Decision]]


class _Work(Protocol):
    def future(self) -> asyncio.Future[Any]: ...

    def abandon(self) -> None: ...


class Approvals:
    """Collects decisions, from a callback or from outside by call id, whichever comes first, within a bound.

    Args:
        approve: the callback, if there is one.
        submit: runs an async function off the media loop.
        timeout_s: seconds after which no decision means no.
    """

    def __init__(
        self, approve: Approve | None, submit: Callable[[Callable[[], Awaitable[Any]]], _Work], timeout_s: float
    ) -> None:
        if timeout_s <= 0:
            raise ConfigurationError(f"approval_timeout_s={timeout_s} is not a positive number of seconds.")
        self._approve = approve
        self._submit = submit
        self._timeout_s = timeout_s
        self._pending: dict[str, tuple[ToolCall, asyncio.Future[Decision]]] = {}

    @property
    def pending(self) -> tuple[ToolCall, ...]:
        """The calls that wait, oldest first."""
        return tuple(call for call, _ in self._pending.values())

    def decide(self, call_id: str, approved: bool, reason: str) -> bool:
        """Settle a waiting call; false if none of that id waits."""
        entry = self._pending.get(call_id)
        if entry is None or entry[1].done():
            return False
        entry[1].set_result(Decision(approved, reason))
        return True

    async def ask(self, call: ToolCall, tool: Tool, stop: asyncio.Future[str]) -> Decision:
        """Wait for the decision about `call`; returns early, denied, when `stop` is set."""
        outside: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._pending[call.id] = (call, outside)
        waited: set[asyncio.Future[Any]] = {outside, stop}
        work: _Work | None = None
        try:
            if self._approve is not None:
                approve = self._approve
                work = self._submit(lambda: approve(call, tool))
                waited.add(work.future())
            done, _ = await asyncio.wait(waited, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._pending[call.id]
        if work is not None and not (done - {outside, stop}):
            work.abandon()
        if outside in done:
            return outside.result()
        for future in done - {stop}:
            return _decision(future)
        return Decision(False, "nobody decided in time.")


def _decision(future: asyncio.Future[Any]) -> Decision:
    if future.cancelled():
        return Decision(False, "the decision was cancelled.")
    error = future.exception()
    if error is not None:  # a gate that fails stays shut
        # The model is told that it failed; what failed is for the application.
        logger.warning("the decision about a tool run failed, so it was denied", exc_info=error)
        return Decision(False, "the decision failed.")
    verdict = future.result()
    return verdict if isinstance(verdict, Decision) else Decision(verdict is True)
