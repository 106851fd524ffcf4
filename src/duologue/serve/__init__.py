"""One agent behind HTTP and WebSocket: the runtime contract, the protocol endpoints, and the talk page."""

from __future__ import annotations

from .app import create_app
from .options import ServeOptions
from .run import RunningServer, run, serving

__all__ = ["RunningServer", "ServeOptions", "create_app", "run", "serving"]
