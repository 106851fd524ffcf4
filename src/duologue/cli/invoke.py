"""``duologue invoke``: one turn with a hosted agent."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from .control import HERE, Where, connected
from .terminal import run, say

_SESSION = "x-amzn-bedrock-agentcore-runtime-session-id"


def invoke(
    agent: str,
    payload: str,
    /,
    *,
    session: str = "",
    endpoint: str = "DEFAULT",
    stream: Annotated[bool, Parameter(negative=())] = False,
    where: Where = HERE,
) -> int:
    """Invoke a hosted agent and print its answer.

    Parameters
    ----------
    agent
        Its name or id.
    payload
        JSON, such as '{"prompt": "Hello"}'; - reads it from standard input.
    session
        Id of the session to go on with.
    endpoint
        Which version.
    stream
        Ask for the answer as it comes.
    """
    content = sys.stdin.buffer.read() if payload == "-" else payload.encode()
    return run(_invoke(where, agent, content, session, endpoint, stream))


async def _invoke(where: Where, agent: str, content: bytes, session: str, endpoint: str, stream: bool) -> int:
    headers = {"accept": "text/event-stream" if stream else "application/json", "content-type": "application/json"}
    if session:
        headers[_SESSION] = session
    async with (
        connected(where) as host,
        host.stream(
            "POST", f"/agents/{agent}/invocations", content=content, headers=headers, qualifier=endpoint
        ) as answer,
    ):
        last = b""
        async for chunk in answer.aiter_bytes():
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            last = chunk or last
        if not last.endswith(b"\n"):
            sys.stdout.write("\n")
        say(f"session {answer.headers.get(_SESSION, '')}", "dim")
    return 0
