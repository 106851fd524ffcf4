"""Duologue: full-duplex voice agents.

``Agent``, ``tool`` and ``duologue.models`` are enough to begin with; the README shows how.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agent import Agent
    from .engine.limits import LimitOptions as Limits
    from .session.definition import CallInfo, TurnTaking
    from .session.hooks import Hooks
    from .session.session import Session
    from .tools import tool

__version__ = "0.1.0"

# Names load when they are used: a client or a codec must not pay for the agent.
_WHERE = {
    "Agent": ("agent", "Agent"),
    "CallInfo": ("session.definition", "CallInfo"),
    "Hooks": ("session.hooks", "Hooks"),
    "Limits": ("engine.limits", "LimitOptions"),
    "Session": ("session.session", "Session"),
    "TurnTaking": ("session.definition", "TurnTaking"),
    "tool": ("tools", "tool"),
}

__all__ = ["Agent", "CallInfo", "Hooks", "Limits", "Session", "TurnTaking", "tool"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        module, attribute = _WHERE[name]
        return getattr(importlib.import_module(f".{module}", __name__), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
