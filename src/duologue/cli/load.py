"""Finding the user's agent: in ``app.py``, ``app.py:name`` or ``package.module:name``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import linecache
import logging
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ..agent import Agent, AgentFactory
from ..errors import ConfigurationError

logger = logging.getLogger("duologue.cli")

#: the name that an agent has unless told otherwise
_NAME = "agent"


class AppError(ConfigurationError):
    """The user's file could not be loaded, or has no agent in it."""

    code = "app"


def load(target: str) -> Agent | AgentFactory:
    """The agent that `target` names, or the factory that makes one for each call.

    Without a name it is what is called ``agent``, else the only Agent there is. ``.env`` files beside the file and in the
    working directory are read first (see :mod:`duologue.cli.env`).

    Raises AppError: there is no such file or agent (it lists what is there), or the user's code fails (it shows the line).
    """
    from .env import load_env

    where, name = _split(target)
    path = Path(where)
    is_file = where.endswith(".py") or path.is_file()
    load_env(path.absolute().parent if is_file else Path.cwd())
    module = _from_file(path) if is_file else _from_module(where)
    return _pick(module, name, where)


def source_of(target: str) -> Path:
    """The file that `target` names; for a module, the working directory."""
    where, _ = _split(target)
    return Path(where).absolute() if where.endswith(".py") or Path(where).is_file() else Path.cwd()


def _split(target: str) -> tuple[str, str]:
    where, colon, name = target.rpartition(":")
    # `C:\app.py` is no name in `C`
    return (
        (where, name) if colon and name and os.sep not in name and "/" not in name and len(where) > 1 else (target, "")
    )


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        near = sorted(str(found) for found in Path.cwd().glob("*.py"))[:5]
        hint = f"Here is {', '.join(Path(found).name for found in near)}." if near else "`duologue init` writes one."
        raise AppError(f"There is no file {path}.", hint=hint)
    path = path.absolute()
    sys.path.insert(0, str(path.parent))
    taken = path.stem in sys.modules or path.stem in sys.stdlib_module_names
    name = f"_duologue_app_{path.stem}" if taken or not path.stem.isidentifier() else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AppError(f"{path.name} is no Python file.", hint="Name a .py file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _explained(error, path) from error
    return module


def _from_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name and name.split(".")[0] == error.name:
            raise AppError(
                f"There is no module {name}.", hint="Name a file (app.py), or run where it can be imported."
            ) from None
        raise _explained(error, None) from error


def _explained(error: BaseException, path: Path | None) -> AppError:
    """What went wrong in the user's code, with the line."""
    logger.debug("loading failed", exc_info=error)
    if isinstance(error, SyntaxError):
        place = f"{Path(error.filename or '?').name}, line {error.lineno}"
        mark = f"\n    {' ' * (error.offset - 1 - _indent(error.text))}^" if error.offset and error.text else ""
        return AppError(f"{place}: {error.msg}\n    {(error.text or '').strip()}{mark}")
    frames = traceback.extract_tb(error.__traceback__)
    skipped = (importlib.__file__, os.path.dirname(os.path.dirname(__file__)))
    own = [frame for frame in frames if "importlib" not in frame.filename and not frame.filename.startswith(skipped)]
    if path is not None:
        own = [frame for frame in own if frame.filename == str(path)] or own
    if not own:
        return AppError(f"{type(error).__name__}: {error}")
    line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
    what = str(error) if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {error}"
    hint = ""
    if isinstance(error, ModuleNotFoundError):
        hint = f"Install it into this environment, for example: {Path(sys.executable).name} -m pip install {error.name}"
    return AppError(
        f"{Path(own[-1].filename).name}, line {own[-1].lineno}: {what}\n    {line}", hint=hint and f"\n    {hint}"
    )


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _pick(module: ModuleType, name: str, where: str) -> Agent | AgentFactory:
    found: Any = module
    if name:
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is None:
            raise AppError(f"{where} has no {name!r}.", hint=_candidates(module, where))
    else:
        found = getattr(module, _NAME, None)
        if found is None:
            agents = [value for value in vars(module).values() if isinstance(value, Agent)]
            if len(agents) != 1:
                what = f"{len(agents)} agents, none of them called {_NAME!r}" if agents else f"no {_NAME!r}"
                raise AppError(f"{where} has {what}.", hint=_candidates(module, where))
            found = agents[0]
    if isinstance(found, Agent) or _is_factory(found):
        return found  # type: ignore[no-any-return]
    raise AppError(
        f"{name or _NAME!r} in {where} is a {type(found).__name__}, not an agent.",
        hint="It must be an Agent, or an async function that takes a CallInfo and returns one.",
    )


def _candidates(module: ModuleType, where: str) -> str:
    """What could have been meant."""
    names = [name for name, value in vars(module).items() if isinstance(value, Agent)]
    names += [
        name
        for name, value in vars(module).items()
        if inspect.iscoroutinefunction(value) and value.__module__ == module.__name__ and _is_factory(value)
    ]
    if not names:
        return f"Write `{_NAME} = Agent(...)` in it; `duologue init` shows how."
    return f"Name one: {', '.join(f'{where}:{name}' for name in names)}."


def _is_factory(value: Any) -> bool:
    """Whether `value` can be called with a CallInfo."""
    if not callable(value) or isinstance(value, type):
        return False
    try:
        inspect.signature(value).bind(None)
    except (TypeError, ValueError):
        return False
    return True
