"""Tools that the client of a served model runs: a call goes out over the wire, and its run waits for what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from ..tools import Tool
from ..tools.base import ToolContext, current_call
from ..wire.openai_realtime import FunctionTool
from ..wire.openai_realtime import Tool as WireTool


class RemoteTools:
    """The calls of one link that wait for the client."""

    def __init__(self) -> None:
        self._waiting: dict[str, Future[str]] = {}
        self._arrived: dict[str, str] = {}  # results that wait until the client wants an answer

    def tools(self, wanted: Sequence[WireTool]) -> tuple[Tool, ...]:
        """Tools for these declarations. Raises ToolError for a name that cannot be one."""
        return tuple(self._tool(tool) for tool in wanted if isinstance(tool, FunctionTool))

    def _tool(self, declared: FunctionTool) -> Tool:
        def bind(arguments: dict[str, Any], context: ToolContext | None, /) -> Callable[[], Any]:
            return lambda: self._run(current_call().id)

        return Tool(
            name=declared.name,
            description=declared.description or "",
            parameters=declared.parameters or {"type": "object", "properties": {}},
            is_async=True,
            long_running=True,
            binder=bind,
        )

    async def _run(self, call: str) -> str:
        future: Future[str] = Future()
        self._waiting[call] = future
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._waiting.pop(call, None)

    def arrived(self, call: str, output: str) -> None:
        """The client's result. It counts from the next answer that the client asks for."""
        if call in self._waiting:
            self._arrived[call] = output

    def release(self) -> tuple[bool, bool]:
        """The client wants an answer: its results go to the model. Whether there were any, and whether calls are still out."""
        arrived, self._arrived = self._arrived, {}
        for call, output in arrived.items():
            future = self._waiting.pop(call, None)
            if future is not None and not future.done():
                future.set_result(output)
        return bool(arrived), bool(self._waiting)
