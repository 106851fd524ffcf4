"""Loading an agent's code, in a template or a cold process, and judging whether the process may be forked afterwards."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ...agent import Agent, AgentFactory
from ...audio import resample
from ...errors import ConfigurationError
from ...models import Cascade
from ...serve.app import Server, create_app
from ...serve.options import ServeOptions
from ...speech.utterance import trim
from ..types import VersionSpec
from .http import HttpServer

#: descriptors that forked processes may share without harm
_HARMLESS = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero")


class CodeError(ConfigurationError):
    """The deployed code cannot be loaded; the message shows where."""

    code = "code"


class Code:
    """Loaded code: the ASGI application that serves it, and for an agent its server.

    Whatever a worker needs is imported and configured here, so that forked children share it.
    """

    def __init__(self, app: Any, server: Server | None = None) -> None:
        self.app = app
        self.server = server
        self.http = HttpServer(app, lifespan=server is None)


def load(spec: VersionSpec, *, max_sessions: int) -> Code:
    """Import what `spec.entry` names and make an application of it. Connects to nothing and infers nothing.

    Raises CodeError.
    """
    for directory in (spec.packages, spec.source):
        if directory:
            sys.path.insert(0, directory)
    module_name, _, name = spec.entry.partition(":")
    module = _import(Path(spec.source), module_name)
    if spec.kind == "asgi":
        app = _attribute(module, name or "app")
        if not callable(app):
            raise CodeError(f"{spec.entry} is a {type(app).__name__}, no ASGI application.")
        return Code(app)
    agent = _agent(module, name, spec.entry)
    options = ServeOptions(
        host="0.0.0.0",  # the gateway has checked the name that the client used
        no_auth=True,
        origins=spec.origins,
        max_sessions=max_sessions,
        invocation_idle_s=spec.lifecycle.idle_s,
        studio=False,
    )
    app = create_app(agent, options)
    _share(agent)
    return Code(app, app.state.server)


def _share(agent: Agent | AgentFactory) -> None:
    """Have libraries that are loaded with their first use in a call loaded now: 40 MB that each child would have for itself."""
    resample(bytes(2 * 480), 24_000, 16_000)
    if isinstance(agent, Agent) and isinstance(agent.model, Cascade):
        agent.model.vad()
        trim(b"\x00\x40\x00\xc0" * 4000, 0)


def open_descriptors() -> dict[int, str]:
    """Open descriptors and what they are."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue  # the one that listed them
    return found


def unfit(before: dict[int, str]) -> str:
    """Why this process must not be forked, now that it has loaded code; "" if it may be.

    `before`: descriptors before loading. Threads would be gone in a child, in the middle of what they did; sockets, pipes and
    file positions would be shared by all children.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        names = ", ".join(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
        return f"Importing it starts threads ({names or 'of a native library'})."
    for fd, target in open_descriptors().items():
        if before.get(fd) != target and target not in _HARMLESS:
            kind = "a socket" if target.startswith("socket:") else target
            return f"Importing it opens {kind}."
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return ""
    return "Importing it starts a process."


def _import(source: Path, name: str) -> ModuleType:
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = source / name
        if not path.is_file():
            raise CodeError(f"There is no {name} in the deployed code.", hint="The entry is FILE.py:NAME.")
        stem = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else f"_app_{abs(hash(path)):x}"
        found = importlib.util.spec_from_file_location(stem, path)
        assert found is not None
        assert found.loader is not None
        sys.path.insert(0, str(path.parent))
        module = importlib.util.module_from_spec(found)
        sys.modules[stem] = module
        found.loader.exec_module(module)
        return module
    except CodeError:
        raise
    except BaseException as error:
        last = "".join(traceback.format_exception_only(error)).strip().replace(f"{source}/", "")
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if str(source) in frame.filename]
        where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        raise CodeError(f"Importing {name} fails{where}: {last}") from error


def _attribute(module: ModuleType, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        raise CodeError(f"{module.__name__} has no {name!r}.", hint="The entry is FILE.py:NAME.") from None


def _agent(module: ModuleType, name: str, entry: str) -> Agent | AgentFactory:
    if not name:
        agents = [value for value in vars(module).values() if isinstance(value, Agent)]
        name = "agent" if hasattr(module, "agent") or len(agents) != 1 else ""
        if not name:
            return agents[0]
    found = _attribute(module, name)
    if isinstance(found, Agent) or callable(found):
        agent: Agent | AgentFactory = found
        return agent
    raise CodeError(
        f"{entry} is a {type(found).__name__}, no Agent.", hint="Name an Agent, or what makes one for a call."
    )
