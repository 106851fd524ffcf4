"""What workers and the inference service say to each other: frames of ``length u32`` (big-endian) and a MessagePack struct.

A worker names a model and what it wants of it; nothing that could be run is ever sent. Answers carry the number of the call.
"""

from __future__ import annotations

import struct

import msgspec

from ...speech.base import SpeechChunk
from ...speech.piper import PiperVoice

_LENGTH = struct.Struct(">I")
#: longest frame, bytes: a minute of speech at 16 kHz, or a clause at 48 kHz, and some
LONGEST = 8 << 20
#: calls of one worker at a time; the service reads no more of it until one is answered
MOST_CALLS = 32


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    pass


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From the host, on a SEQPACKET socket: first what is allowed, then a tenant's name with a connection each."""

    directories: tuple[str, ...] = ()
    uid: int = 0
    tenant: str = ""


class Read(_Message, frozen=True, kw_only=True, tag="read"):
    """Recognise PCM16 at 16 kHz with a Moonshine model. Answered by Text."""

    n: int
    model: str | None
    architecture: str
    pcm: bytes
    priority: int = 1
    key: int | None = None


class Speak(_Message, frozen=True, kw_only=True, tag="speak"):
    """Synthesise with a Piper voice. Answered by Chunk, as often as there are some, then Done."""

    n: int
    voice: PiperVoice
    threads: int
    text: str
    speed: float
    rate: int
    pauses: tuple[float, float]
    priority: int = 1
    backlog: int = 8


class Open(_Message, frozen=True, kw_only=True, tag="open"):
    """Load a model, so that the first call is not late. Answered by Done."""

    n: int
    model: str | None
    config: str | None = None
    architecture: str = ""  # of a recogniser; "" for a voice
    threads: int = 0


class Taken(_Message, frozen=True, kw_only=True, tag="taken"):
    """The consumer took one more chunk."""

    n: int


class Cancel(_Message, frozen=True, kw_only=True, tag="cancel"):
    """Nobody waits any more."""

    n: int


ToService = Read | Speak | Open | Taken | Cancel


class Text(_Message, frozen=True, kw_only=True, tag="text"):
    """What was recognised."""

    n: int
    text: str


class Chunk(_Message, frozen=True, kw_only=True, tag="chunk"):
    """A piece of speech."""

    n: int
    chunk: SpeechChunk


class Done(_Message, frozen=True, kw_only=True, tag="done"):
    """The end of an answer."""

    n: int


class Failure(_Message, frozen=True, kw_only=True, tag="failure"):
    """A typed error: its class in duologue.errors, or SupersededError."""

    n: int
    error: str
    message: str


ToWorker = Text | Chunk | Done | Failure

_encoder = msgspec.msgpack.Encoder()


def frame(message: ToService | ToWorker) -> bytes:
    """A message with its length. Raises ValueError if it is too long."""
    data = _encoder.encode(message)
    if len(data) > LONGEST:
        raise ValueError(f"a message of {len(data)} bytes is too long")
    return _LENGTH.pack(len(data)) + data


class Frames[T]:
    """Cuts bytes into messages."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._buffer = bytearray()
        self._decoder = decoder

    def feed(self, data: bytes) -> list[T]:
        """The messages that are complete. Raises ValueError (msgspec's errors are) for what is none."""
        self._buffer += data
        found: list[T] = []
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if length > LONGEST:
                raise ValueError(f"a message of {length} bytes is too long")
            end = at + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            found.append(self._decoder.decode(bytes(self._buffer[at + _LENGTH.size : end])))
            at = end
        del self._buffer[:at]
        return found
