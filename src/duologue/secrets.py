"""Secrets of an agent: read when they are needed, never kept in its environment.

In a host, `secret://NAME` entries are delivered to the process after it was assigned to a session; asking while a template
imports the code finds nothing, so ask in a tool, a hook or an agent factory. Outside of a host (`duologue serve`, `talk`) the
environment variable of that name answers: upper-case, with `_` for what is no letter or digit.

A program that a host runs as a command finds them as a JSON object in the file descriptor numbered by `DUOLOGUE_SECRETS_FD`;
`get` reads it there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import msgspec

from .errors import CredentialsError

_delivered: dict[str, str] = {}
_VARIABLE = "DUOLOGUE_SECRETS_FD"


def get(name: str) -> str:
    """The secret called `name`. Raises CredentialsError if there is none (yet)."""
    value = _delivered.get(name)
    if value is None and (number := os.environ.get(_VARIABLE)) is not None:
        value = _inherited(int(number)).get(name)
    if value is None:
        value = os.environ.get(re.sub(r"\W", "_", name).upper())
    if value is None:
        raise CredentialsError(
            f"There is no secret {name!r}.",
            hint="Name it in the deployment's secrets; outside of a host, set the environment variable. "
            "While a module is imported none is there yet: ask in a tool or an agent factory.",
        )
    return value


def deliver(values: Mapping[str, str]) -> None:
    """Called by the worker when it is assigned."""
    _delivered.update(values)


def _inherited(fd: int) -> dict[str, str]:
    try:
        return msgspec.json.decode(os.pread(fd, 1 << 20, 0), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return {}
