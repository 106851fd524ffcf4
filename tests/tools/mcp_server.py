"""A small MCP server for tests: over stdio, or over HTTP with `--http PORT`. Run as a script."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

server = MCPServer("tests")


@server.tool()
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def describe(what: str) -> dict[str, Any]:
    """Describe something."""
    return {"what": what, "secret": os.environ.get("TEST_SECRET", "")}


@server.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("no such thing")


@server.tool()
async def hang() -> str:
    """Never answer."""
    await asyncio.Event().wait()
    return ""


@server.tool()
def die() -> str:
    """End the server in the middle of a call."""
    os._exit(3)


@server.tool()
async def steps(context: Context) -> str:
    """Report progress."""
    await context.report_progress(1, 2, "half way")
    return "done"


if __name__ == "__main__":
    if "--http" in sys.argv:
        port = int(sys.argv[sys.argv.index("--http") + 1])
        server.run(transport="streamable-http", host="127.0.0.1", port=port)
    else:
        server.run(transport="stdio")
