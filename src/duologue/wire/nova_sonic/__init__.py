"""Amazon Nova Sonic, both ends, without I/O. Facts and their sources: `docs/models.md`.

:class:`ClientProtocol` talks to the service (:class:`Meanings` says what it means), :class:`ServerProtocol` is one;
:mod:`.framing` puts events into signed frames and takes them out.
"""

from . import faults, inputs, meaning, outputs, sequence
from .client import ClientProtocol
from .codec import decode_input, decode_output, encode_event
from .faults import EXCEPTION_TYPES, ExceptionType, StreamException, UnmodelledError
from .framing import (
    CONTENT_TYPE,
    ChunkSigner,
    ChunkVerifier,
    InputReader,
    OutputReader,
    encode_chunk,
    encode_error,
    encode_exception,
)
from .inputs import Input
from .meaning import Meanings
from .outputs import Output
from .sequence import DOCUMENTED, InputSequence, SequenceLimits
from .server import ServerProtocol, StreamLimits
from .voices import LANGUAGES, MODELS, NOVA_1, NOVA_2, NOVA_2_5, RATES, REGIONS, VOICE_IDS, VOICES, Voice, voice_for

__all__ = [
    "CONTENT_TYPE",
    "DOCUMENTED",
    "EXCEPTION_TYPES",
    "LANGUAGES",
    "MODELS",
    "NOVA_1",
    "NOVA_2",
    "NOVA_2_5",
    "RATES",
    "REGIONS",
    "VOICES",
    "VOICE_IDS",
    "ChunkSigner",
    "ChunkVerifier",
    "ClientProtocol",
    "ExceptionType",
    "Input",
    "InputReader",
    "InputSequence",
    "Meanings",
    "Output",
    "OutputReader",
    "SequenceLimits",
    "ServerProtocol",
    "StreamException",
    "StreamLimits",
    "UnmodelledError",
    "Voice",
    "decode_input",
    "decode_output",
    "encode_chunk",
    "encode_error",
    "encode_event",
    "encode_exception",
    "faults",
    "inputs",
    "meaning",
    "outputs",
    "sequence",
    "voice_for",
]
