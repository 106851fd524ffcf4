"""Models: what turns a stream of user input into a stream of agent output. A model's own libraries load when it is named."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .base import Audio, Capabilities, Model

if TYPE_CHECKING:
    from .cascade import Cascade
    from .fallback import Fallback
    from .gemini_live import GeminiLive
    from .nova_sonic import NovaSonic
    from .openai_realtime import OpenAIRealtime

_WHERE = {
    "Cascade": "cascade",
    "Fallback": "fallback",
    "GeminiLive": "gemini_live",
    "NovaSonic": "nova_sonic",
    "OpenAIRealtime": "openai_realtime",
}

__all__ = ["Audio", "Capabilities", "Cascade", "Fallback", "GeminiLive", "Model", "NovaSonic", "OpenAIRealtime"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
