"""``duologue serve``: an agent for browsers, phones and programs."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

from cyclopts import Parameter

from ..agent import Agent
from ..serve import ServeOptions, serving
from .load import load, source_of
from .reload import supervise
from .terminal import run, say

_Key = Annotated[str, Parameter(env_var="DUOLOGUE_KEY")]


def serve(
    app: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    key: _Key = "",
    no_auth: Annotated[bool, Parameter(negative=())] = False,
    origin: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    host_name: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    journal: str = "",
    max_sessions: int = 64,
    page: Annotated[bool, Parameter(negative="--no-page")] = True,
    reload: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Serve an agent: /ws, /ping, /invocations, and the talk page.

    Parameters
    ----------
    app
        app.py, app.py:name or package.module:name.
    host
        Address to listen on. Any but loopback wants --key or --no-auth.
    port
        Port to listen on; 0 takes a free one.
    key
        Clients must present it as a bearer token. Better in the environment than on the command line.
    no_auth
        Serve everybody who can reach the address.
    origin
        Web origin that may connect beside the server's own; may be repeated.
    host_name
        Name that the server answers to beside its address; may be repeated.
    journal
        SQLite file for the journals of all calls.
    max_sessions
        Calls at a time.
    page
        Serve the talk page.
    reload
        Start anew when a Python file beside the app changes.
    """
    options = ServeOptions(
        host=host,
        port=port,
        key=key,
        no_auth=no_auth,
        origins=origin,
        hosts=host_name,
        journal=journal,
        max_sessions=max_sessions,
        studio=page,
    )
    if reload:
        arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
        return supervise(source_of(app), arguments)
    return run(_serve(app, options))


async def _serve(app: str, options: ServeOptions) -> int:
    agent = load(app)
    if isinstance(agent, Agent) and agent.model.notice:
        say(agent.model.notice, "yellow")
    async with serving(agent, options) as server:
        say(f"{server.url}  (clients: {server.ws_url})")
        await asyncio.Event().wait()
    return 0
