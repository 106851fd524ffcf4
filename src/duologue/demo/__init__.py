"""The demo: a scripted caller with a voice of its own phones `examples/delivery.py` over a real WebSocket."""

from __future__ import annotations

from .run import Recorded, main, record

__all__ = ["Recorded", "main", "record"]
