"""``duologue init``: an agent to begin with."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ..errors import ConfigurationError
from .terminal import say

_FILES = ("app.py", "README.md", ".env.example")


def init(directory: Path = Path("."), /) -> int:
    """Write an agent that runs: app.py and a README. Nothing that is there is overwritten.

    Parameters
    ----------
    directory
        Where to; made if need be.
    """
    taken = [name for name in _FILES if (directory / name).exists()]
    if taken:
        raise ConfigurationError(f"{directory} has {', '.join(taken)} already.", hint="Name another directory.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (directory / name).write_text(template(name), "utf-8")
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be written: {error.strerror or error}.") from None
    app = directory / "app.py"
    say(f"Wrote {', '.join(str(directory / name) for name in _FILES)}. Talk to it:")
    say(f"  duologue talk {app}          in the browser")
    say(f"  duologue talk {app} --text   here")
    return 0


def template(name: str) -> str:
    """A file of the agent that `init` writes."""
    # The templates do not end in .py, so that nothing takes them for modules of ours.
    return (resources.files("duologue.cli") / "templates" / f"{name.removeprefix('.')}.txt").read_text("utf-8")
