"""``.env`` files: settings and keys of the command line. Programs that import the library read none."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import ConfigurationError

_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "$": "$"}


def parse_env(text: str, name: str = ".env") -> dict[str, str]:
    r"""``NAME=value`` lines: comments, ``export``, single quotes as they are, double quotes with ``\n \t \" \\``.

    Nothing is expanded. Raises ConfigurationError naming a line that is none (and not what stands in it: it may be a key).
    """
    values: dict[str, str] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.match(line)
        value = _value(found[2]) if found is not None else None
        if found is None or value is None:
            raise ConfigurationError(
                f"{name}, line {number} cannot be read.", hint="Write NAME=value, or NAME='value'."
            )
        values[found[1]] = value
    return values


def _value(text: str) -> str | None:
    if text[:1] not in ("'", '"'):
        return re.split(r"\s+#", text, maxsplit=1)[0] if not text.startswith("#") else ""
    if text[0] == "'":
        found = re.match(r"'([^']*)'\s*(?:#.*)?$", text)
        return found[1] if found else None
    found = re.match(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?$', text)
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), found[1]) if found else None


def load_env(directory: Path) -> list[Path]:
    """Put what ``.env`` in `directory` and in the working directory say into the environment, unless it is set there.

    Returns the files that were read; the first to name a variable wins.
    """
    read = []
    for path in dict.fromkeys((directory / ".env", Path.cwd() / ".env")):
        if path.is_file():
            try:
                text = path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"{path} cannot be read: {error}.", hint="It must be UTF-8 text.") from None
            for name, value in parse_env(text, str(path)).items():
                os.environ.setdefault(name, value)
            read.append(path)
    return read
