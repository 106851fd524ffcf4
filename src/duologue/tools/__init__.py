"""Tools: functions that a model may call while the conversation goes on."""

from duologue.tools.adapt import ToolSet, as_tools
from duologue.tools.approval import Approve, Decision
from duologue.tools.base import (
    Done,
    JSONValue,
    OnTakeover,
    Tool,
    ToolArgumentsError,
    ToolCall,
    ToolContext,
    ToolEvent,
    ToolResult,
    ToolResultError,
    ToolSource,
    ToolSpec,
    ToolStatus,
    current_call,
    progress,
)
from duologue.tools.decorator import tool
from duologue.tools.executor import ToolExecutor, ToolRun
from duologue.tools.mcp import MCPServer
from duologue.tools.ready import calculator, clock, end_call
from duologue.tools.threads import SyncThreads, ToolThreads, shared_threads

__all__ = [
    "Approve",
    "Decision",
    "Done",
    "JSONValue",
    "MCPServer",
    "OnTakeover",
    "SyncThreads",
    "Tool",
    "ToolArgumentsError",
    "ToolCall",
    "ToolContext",
    "ToolEvent",
    "ToolExecutor",
    "ToolResult",
    "ToolResultError",
    "ToolRun",
    "ToolSet",
    "ToolSource",
    "ToolSpec",
    "ToolStatus",
    "ToolThreads",
    "as_tools",
    "calculator",
    "clock",
    "current_call",
    "end_call",
    "progress",
    "shared_threads",
    "tool",
]
