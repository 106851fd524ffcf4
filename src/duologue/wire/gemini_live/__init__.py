"""Gemini Live (BidiGenerateContent), both ends, without I/O. Facts and their sources: `docs/models.md`.

:class:`ClientProtocol` talks to the service (:class:`Meanings` says what it means), :class:`ServerProtocol` is one.
"""

from . import faults, meaning, messages
from .client import OUTPUT_RATE, ClientProtocol, Malformed
from .faults import Fault
from .form import FormError, decode_bytes
from .meaning import Meanings
from .messages import VOICES, ClientMessage, ServerMessage, Setup
from .schema import from_json_schema, to_json_schema
from .server import ServerLimits, ServerProtocol

__all__ = [
    "OUTPUT_RATE",
    "VOICES",
    "ClientMessage",
    "ClientProtocol",
    "Fault",
    "FormError",
    "Malformed",
    "Meanings",
    "ServerLimits",
    "ServerMessage",
    "ServerProtocol",
    "Setup",
    "decode_bytes",
    "faults",
    "from_json_schema",
    "meaning",
    "messages",
    "to_json_schema",
]
