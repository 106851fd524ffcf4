"""OpenAI Realtime (GA), both ends, without I/O. Facts and their sources: `docs/models.md`.

:class:`ClientProtocol` talks to a server of the protocol, :class:`ServerProtocol` (with :class:`Answers`) is one.
"""

from . import events, faults
from .answers import Answer, Answers
from .client import METADATA_KEY, RATE, ClientProtocol, FromServer, Malformed
from .config import (
    VOICES,
    AudioFormat,
    AudioInputConfig,
    AudioOutputConfig,
    AudioPatch,
    FunctionChoice,
    FunctionTool,
    InputPatch,
    NoiseReduction,
    OutputPatch,
    SemanticVAD,
    ServerVAD,
    SessionConfig,
    SessionPatch,
    Tool,
    Transcription,
    TurnDetection,
)
from .events import ResponseParams, UnknownEvent
from .faults import Refusal
from .items import Item, Part, Response, Usage
from .server import (
    AudioAppended,
    AudioCleared,
    AudioCommitted,
    CancelWanted,
    Configured,
    ItemGone,
    ItemMade,
    Request,
    ResponseWanted,
    ServerLimits,
    ServerProtocol,
    Truncated,
)

__all__ = [
    "METADATA_KEY",
    "RATE",
    "VOICES",
    "Answer",
    "Answers",
    "AudioAppended",
    "AudioCleared",
    "AudioCommitted",
    "AudioFormat",
    "AudioInputConfig",
    "AudioOutputConfig",
    "AudioPatch",
    "CancelWanted",
    "ClientProtocol",
    "Configured",
    "FromServer",
    "FunctionChoice",
    "FunctionTool",
    "InputPatch",
    "Item",
    "ItemGone",
    "ItemMade",
    "Malformed",
    "NoiseReduction",
    "OutputPatch",
    "Part",
    "Refusal",
    "Request",
    "Response",
    "ResponseParams",
    "ResponseWanted",
    "SemanticVAD",
    "ServerLimits",
    "ServerProtocol",
    "ServerVAD",
    "SessionConfig",
    "SessionPatch",
    "Tool",
    "Transcription",
    "Truncated",
    "TurnDetection",
    "UnknownEvent",
    "Usage",
    "events",
    "faults",
]
