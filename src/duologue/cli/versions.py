"""``duologue versions`` and ``duologue rollback``."""

from __future__ import annotations

from .control import HERE, Where, connected, show_table, when
from .terminal import run, say


def versions(agent: str = "", /, *, where: Where = HERE) -> int:
    """List the versions of an agent, or the agents.

    Parameters
    ----------
    agent
        Its name or id.
    """
    return run(_versions(where, agent) if agent else _agents(where))


async def _agents(where: Where) -> int:
    async with connected(where) as host:
        found = await host.ask("GET", "/agents")
    rows = [
        (
            row["name"],
            row["id"],
            ", ".join(f"{name} {version}" for name, version in row["endpoints"].items()) or "none works yet",
            sum(row["sessions"].values()),
            when(row["updated"]),
            row["description"],
        )
        for row in found["agents"]
    ]
    show_table(("agent", "id", "endpoints", "sessions", "deployed", ""), rows, empty="Nothing is deployed.")
    return 0


async def _versions(where: Where, agent: str) -> int:
    async with connected(where) as host:
        found = await host.ask("GET", f"/agents/{agent}/versions")
    rows = [
        (
            row["version"],
            ", ".join(row["endpoints"]),
            row["state"],
            row["tier_used"] or row["tier"],
            row["digest"][:12],
            when(row["created"]),
            row["by"],
            row["reason"] or row["notice"],
        )
        for row in found["versions"]
    ]
    columns = ("version", "endpoints", "state", "runs in", "digest", "deployed", "by", "note")
    show_table(columns, rows, empty="It has no versions.")
    return 0


def rollback(agent: str, /, *, to: int = 0, endpoint: str = "DEFAULT", where: Where = HERE) -> int:
    """Go back to an earlier version, once it has been probed again. Live sessions stay on theirs.

    Parameters
    ----------
    agent
        Its name or id.
    to
        The version (default: the one that the endpoint meant before).
    endpoint
        Which endpoint.
    """
    return run(_rollback(where, agent, to, endpoint))


async def _rollback(where: Where, agent: str, to: int, endpoint: str) -> int:
    async with connected(where) as host:
        row = await host.ask("POST", f"/agents/{agent}/rollback", body={"to": to, "endpoint": endpoint})
    say(f"{endpoint} of {row['name']} is version {row['version']} again.")
    return 0
