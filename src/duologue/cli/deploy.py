"""``duologue deploy``: a file, a folder, an ASGI app or a command becomes a version of an agent."""

from __future__ import annotations

import hashlib
import re
import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

from ..errors import ConfigurationError
from .control import HERE, Where, connected, show_fields
from .terminal import run, say

_Names = Annotated[tuple[str, ...], Parameter(negative=())]
#: files that hold the agent of a folder, unless told
_ENTRIES = ("agent.py", "app.py", "main.py")


def deploy(
    source: Path,
    /,
    *,
    name: str = "",
    entry: str = "",
    asgi: str = "",
    command: str = "",
    network: Literal["auto", "own", "host"] = "auto",
    requirements: Path | None = None,
    tier: Literal["shared", "process", "cold"] = "process",
    isolation: Literal["strict", "best-effort"] = "best-effort",
    env: _Names = (),
    secret: _Names = (),
    header: _Names = (),
    origin: _Names = (),
    auth: Path | None = None,
    idle_s: float | None = None,
    lifetime_s: float = 28_800.0,
    memory_mb: int = 512,
    cpu: float = 1.0,
    processes: int = 64,
    disk_mb: int = 1024,
    storage: str = "",
    storage_mb: int = 1024,
    description: str = "",
    endpoint: str = "DEFAULT",
    move: Annotated[bool, Parameter(negative="--no-move")] = True,
    where: Where = HERE,
) -> int:
    """Deploy an agent: its code becomes a new version, which is probed, and then serves new sessions.

    Parameters
    ----------
    source
        A Python file, or a folder; a requirements.txt in it is installed.
    name
        Of the agent (default: that of the file or folder).
    entry
        Where the agent is: app.py or app.py:name.
    asgi
        Where an ASGI application is, in place of an agent: app.py:app.
    command
        What to run in place of an agent; it serves on the Unix socket in $DUOLOGUE_SOCKET, or on port 8080.
    network
        Of a command: own reaches nothing and has port 8080 to itself; host is the machine's, where it has its socket. auto is
        host for a command that names $DUOLOGUE_SOCKET among its words, else own.
    requirements
        What to install for a single file.
    tier
        What sessions run in: a process each (forked, or started cold), or one shared by those of a version.
    isolation
        strict refuses where this machine gives less than the tier promises.
    env
        NAME=value in its environment; may be repeated. No secrets: they have --secret.
    secret
        Name of a secret that it gets; may be repeated.
    header
        Request header that it may see; may be repeated.
    origin
        Web origin whose pages may call it; may be repeated.
    auth
        JSON file with the configuration of its OAuth authorizer.
    idle_s
        Seconds without use after which a session ends (default: 900, or its lifetime if that is shorter).
    lifetime_s
        Seconds that a session may last.
    memory_mb
        Memory of a session's process.
    cpu
        Cores of it.
    processes
        Processes of it.
    disk_mb
        What it may write to its home and its temporary files, which end with it.
    storage
        /mnt/NAME: a directory of each session's own that outlives its process; $DUOLOGUE_STORAGE says where it is.
    storage_mb
        What a session may keep there.
    description
        For people.
    endpoint
        Which endpoint moves to the new version.
    move
        Whether it does.
    """
    archive, found = _pack(source, requirements)
    if sum(map(bool, (entry, asgi, command))) > 1:
        raise ConfigurationError("An agent has one of --entry, --asgi and --command.")
    wanted: dict[str, Any] = {
        "name": name or _name(source),
        "archive": hashlib.sha256(archive).hexdigest(),
        "kind": "command" if command else "asgi" if asgi else "agent",
        "entry": "" if command else asgi or entry or found,
        "command": _words(command),
        "network": network,
        "tier": tier,
        "isolation": isolation,
        "limits": {"memory_bytes": memory_mb << 20, "cpu": cpu, "processes": processes, "disk_bytes": disk_mb << 20},
        "lifecycle": {"idle_s": idle_s, "lifetime_s": lifetime_s},
        "storage": {"path": storage, "bytes": storage_mb << 20},
        "environment": dict(_pair(text) for text in env),
        "secrets": list(secret),
        "headers": list(header),
        "origins": list(origin),
        "auth": _json(auth) if auth is not None else {},
        "description": description,
        "endpoint": endpoint,
        "move": move,
    }
    return run(_deploy(where, archive, wanted))


async def _deploy(where: Where, archive: bytes, wanted: dict[str, Any]) -> int:
    async with connected(where) as host:
        await host.send(f"/archives/{wanted['archive']}", archive, "application/gzip")
        say(f"Sent {len(archive)} bytes; building and probing…", "dim")
        made = await host.ask("POST", "/deployments", body=wanted)
        status = await host.ask("GET", "/status")
    show_fields(
        {
            "agent": f"{made['name']} ({made['agent']})",
            "version": made["version"],
            "digest": made["digest"],
            "runs in": made["tier_used"],
            "note": made["notice"],
            "probed in": f"{made['probe_ms']:.0f} ms",
            "endpoints": ", ".join(made["endpoints"]),
            "call it at": f"{status['url'].replace('http', 'ws', 1)}/runtimes/{made['name']}/ws"
            if status["url"]
            else "",
        }
    )
    return 0


def _pack(source: Path, requirements: Path | None) -> tuple[bytes, str]:
    """The archive of what is deployed, and the entry that goes without saying."""
    from ..host.control.archive import pack

    if source.is_dir():
        if requirements is not None:
            raise ConfigurationError(
                "--requirements is for a single file.", hint="Put requirements.txt into the folder."
            )
        return pack(source), next((name for name in _ENTRIES if (source / name).is_file()), "")
    if requirements is None:
        return pack(source), source.name
    if not (source.is_file() and requirements.is_file()):
        raise ConfigurationError(f"There is no file {source if not source.is_file() else requirements}.")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / source.name).write_bytes(source.read_bytes())
        (Path(folder) / "requirements.txt").write_bytes(requirements.read_bytes())
        return pack(Path(folder)), source.name


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise ConfigurationError(f"--command cannot be read: {error}.", hint="Write it as for a shell.") from None


def _name(source: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9_]", "_", source.absolute().stem)
    return name if name[:1].isalpha() else f"agent_{name}"


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--env {name} has no value.", hint="Write NAME=value.")
    return name, value


def _json(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read as JSON: {error}.") from None
