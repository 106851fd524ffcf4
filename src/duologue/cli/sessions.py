"""``duologue sessions``: what is going on at a host."""

from __future__ import annotations

import re
import sys
from contextlib import aclosing
from typing import Annotated

from cyclopts import App, Parameter

from .control import HERE, ControlError, Where, connected, show_fields, show_table, when
from .tailing import events
from .terminal import run, say

app = App(
    name="sessions", help="Sessions of a host: list, show, tail, drain, stop and erase them.", help_format="plaintext"
)

_Flag = Annotated[bool, Parameter(negative=())]


@app.command(name="list")
def list_sessions(*, agent: str = "", ended: _Flag = False, limit: int = 100, where: Where = HERE) -> int:
    """List sessions.

    Parameters
    ----------
    agent
        Only of this one.
    ended
        Also those that have ended.
    limit
        At most so many.
    """
    return run(_list(where, agent, ended, limit))


async def _list(where: Where, agent: str, ended: bool, limit: int) -> int:
    async with connected(where) as host:
        found = await host.ask("GET", "/sessions", agent=agent, state="" if ended else "open", limit=limit)
    rows = [
        (
            row["session"],
            row["name"],
            row["version"],
            row["state"],
            row["open"],
            row["channel"],
            when(row["created"]),
            row["principal"],
            row["reason"],
        )
        for row in found["sessions"]
    ]
    columns = ("session", "agent", "version", "state", "open", "channel", "since", "principal", "reason")
    show_table(columns, rows, empty="There are no sessions.")
    if found["next"]:
        say("There are more: raise --limit, or name an --agent.", "dim")
    return 0


def _path(session: str) -> str:
    """Of a session. Raises ControlError for what cannot be the id of one."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{33,256}", session):
        raise ControlError(
            f"There is no session {session!r}.", hint="`duologue sessions list` shows their ids, with --ended of all."
        )
    return f"/sessions/{session}"


@app.command
def show(session: str, /, *, agent: str = "", where: Where = HERE) -> int:
    """Show a session.

    Parameters
    ----------
    session
        Its id.
    agent
        Whose, if several agents have a session of that id.
    """
    return run(_show(where, session, agent))


async def _show(where: Where, session: str, agent: str) -> int:
    async with connected(where) as host:
        row = await host.ask("GET", _path(session), agent=agent)
    show_fields({**row, "created": when(row["created"]), "updated": when(row["updated"])})
    return 0


@app.command
def tail(session: str, /, *, agent: str = "", follow: Annotated[bool, Parameter(negative="--no-follow")] = True,
         where: Where = HERE) -> int:  # fmt: skip
    """Print the events of a session, one JSON object a line. That it was done is in the audit log.

    It goes on where it was when the connection to the host is lost, and gives up when the host does not come back in a minute.

    Parameters
    ----------
    session
        Its id.
    agent
        Whose, if several agents have a session of that id.
    follow
        Wait for more until it ends.
    """
    return run(_tail(where, session, agent, follow))


async def _tail(where: Where, session: str, agent: str, follow: bool) -> int:
    _path(session)
    async with connected(where) as host, aclosing(events(host, session, agent=agent, follow=follow)) as told:
        async for event in told:
            sys.stdout.write(event + "\n")
            sys.stdout.flush()
    return 0


@app.command
def drain(session: str = "", /, *, agent: str = "", where: Where = HERE) -> int:
    """Take nothing new on sessions, and end each when nothing of it is open or busy.

    Parameters
    ----------
    session
        Its id (default: all).
    agent
        All of this agent.
    """
    return run(_drain(where, session, agent))


async def _drain(where: Where, session: str, agent: str) -> int:
    async with connected(where) as host:
        done = await host.ask("POST", "/sessions/drain", body={"agent": agent, "session": session})
    say(f"{done['count']} sessions are being drained.")
    return 0


@app.command
def stop(session: str, /, *, agent: str = "", where: Where = HERE) -> int:
    """End a session now.

    Parameters
    ----------
    session
        Its id.
    agent
        Whose, if several agents have a session of that id.
    """
    return run(_stop(where, session, agent))


async def _stop(where: Where, session: str, agent: str) -> int:
    async with connected(where) as host:
        done = await host.ask("DELETE", _path(session), agent=agent)
    say("It has ended." if done["count"] else "It had ended already.")
    return 0


@app.command
def erase(session: str, /, *, agent: str = "", where: Where = HERE) -> int:
    """Remove the files of a session that has ended (see deploy --storage).

    Parameters
    ----------
    session
        Its id.
    agent
        Whose, if several agents have a session of that id.
    """
    return run(_erase(where, session, agent))


async def _erase(where: Where, session: str, agent: str) -> int:
    async with connected(where) as host:
        done = await host.ask("DELETE", f"{_path(session)}/storage", agent=agent)
    say("Its files are removed." if done["count"] else "It has no files.")
    return 0
