"""Events in frames: the client's are wrapped twice and signed in a chain, the server's once.

Client: outer frame with `:date` and `:chunk-signature`, its payload one complete inner frame with
``{"bytes": "<base64 of the event's JSON>"}``. An outer frame with an empty payload ends the input; older clients end it without.
Server: one frame with the same kind of payload, to which it may add padding ``"p"``.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from ...errors import ProtocolError
from ..eventstream import Frame, FrameDecoder, Timestamp, decode_frame, encode_frame, encode_headers
from ..sigv4 import Scope, chunk_signature, signing_key
from .faults import EXCEPTION_TYPES, ExceptionType, StreamException, UnmodelledError

#: type of a stream's content
CONTENT_TYPE = "application/vnd.amazon.eventstream"
#: longest outer frame that is taken from a client, bytes: an event of 1 MiB in base64, and its wrapping
MAX_FRAME = 1_500_000

_CHUNK = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
#: the order in which the vendor's SDK writes them
_CLIENT_CHUNK = {":message-type": "event", ":event-type": "chunk", ":content-type": "application/json"}


class _Bytes(msgspec.Struct, rename={"data": "bytes"}):
    data: bytes


_bytes = msgspec.json.Decoder(_Bytes)


def stamp(ms: int) -> str:
    """A time in milliseconds since 1970 as ``YYYYMMDDTHHMMSSZ``. Raises ProtocolError for one that no calendar has."""
    try:
        return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    except (ValueError, OverflowError, OSError):
        raise ProtocolError(f"A frame is dated {ms} ms, which is no time.", code="nova_frame") from None


# ---------------------------------------------------------------------- client to server


class ChunkSigner:
    """The client's side: events in signed frames, each signature resting on the one before."""

    def __init__(self, secret: str, scope: Scope, request_signature: str) -> None:
        self._key = signing_key(secret, scope)
        self._scope = scope
        self._prior = request_signature

    def chunk(self, event: bytes, ms: int) -> bytes:
        """The signed frame of an event's JSON, dated `ms` milliseconds since 1970."""
        return self._sign(encode_frame(_CLIENT_CHUNK, msgspec.json.encode(_Bytes(event))), ms)

    def end(self, ms: int) -> bytes:
        """The signed empty frame that ends the input."""
        return self._sign(b"", ms)

    def _sign(self, inner: bytes, ms: int) -> bytes:
        date = encode_headers({":date": Timestamp(ms)})
        self._prior = chunk_signature(self._key, stamp(ms), self._scope, self._prior, date, inner)
        return encode_frame({":date": Timestamp(ms), ":chunk-signature": bytes.fromhex(self._prior)}, inner)


class ChunkVerifier:
    """The server's side: whether each frame continues the chain of signatures."""

    def __init__(self, secret: str, scope: Scope, request_signature: str) -> None:
        self._key = signing_key(secret, scope)
        self._scope = scope
        self._prior = request_signature

    def check(self, frame: Frame) -> None:
        """Raises ProtocolError (`signature`)."""
        date, signature = frame.headers.get(":date"), frame.headers.get(":chunk-signature")
        if isinstance(date, Timestamp) and isinstance(signature, bytes):
            header = encode_headers({":date": date})
            made = chunk_signature(self._key, stamp(date.ms), self._scope, self._prior, header, frame.payload)
            if hmac.compare_digest(made, signature.hex()):
                self._prior = made
                return
        raise ProtocolError(
            "The signature of a frame does not continue the chain.",
            hint="Sign each with the key of the request, on the signature before it.",
            code="signature",
        )


class InputReader:
    """A client's byte stream as JSON texts of events. `verifier` None takes any signature."""

    def __init__(self, verifier: ChunkVerifier | None = None) -> None:
        self._frames = FrameDecoder(limit=MAX_FRAME)
        self._verifier = verifier
        #: whether the signed empty frame has come
        self.ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The events that `data` completes, those before a fault first.

        Raises ProtocolError; nothing can be read any further then.
        """
        for outer in self._frames.feed(data):
            if self.ended:
                raise ProtocolError("A frame follows the end of the input.", code="nova_frame")
            if self._verifier is not None:
                self._verifier.check(outer)
            if not outer.payload:
                self.ended = True
                continue
            yield unwrap(decode_frame(outer.payload))


def unwrap(frame: Frame) -> bytes:
    """The JSON text of the event in a chunk. Raises ProtocolError (`nova_frame`)."""
    if frame.text(":message-type") != "event" or frame.text(":event-type") != "chunk":
        kind = f"{frame.text(':message-type')}/{frame.text(':event-type')}"
        raise ProtocolError(f"A frame is {kind!r} where a chunk was due.", code="nova_frame")
    try:
        return _bytes.decode(frame.payload).data
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ProtocolError(f"A chunk carries no bytes ({error}).", code="nova_frame") from None


# ---------------------------------------------------------------------- server to client


def encode_chunk(event: bytes) -> bytes:
    """The frame of an event's JSON."""
    return encode_frame(_CHUNK, msgspec.json.encode(_Bytes(event)))


def encode_exception(type: ExceptionType, text: str) -> bytes:
    """The frame of an exception. Nothing follows it."""
    if type not in EXCEPTION_TYPES:
        raise ProtocolError(f"The protocol has no {type!r}.", hint=f"Use one of {', '.join(EXCEPTION_TYPES)}.")
    headers = {":exception-type": type, ":content-type": "application/json", ":message-type": "exception"}
    return encode_frame(headers, msgspec.json.encode({"message": text}))


def encode_error(error: str, text: str) -> bytes:
    """The frame of an error that the protocol does not name. Nothing follows it."""
    return encode_frame({":message-type": "error", ":error-code": error, ":error-message": text}, b"")


class OutputReader:
    """A server's byte stream as JSON texts of events."""

    def __init__(self) -> None:
        self._frames = FrameDecoder()

    @property
    def whole(self) -> bool:
        """Whether no frame is cut off: the stream may end here."""
        return not self._frames.pending

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The events that `data` completes, those before an exception first.

        Raises StreamException, UnmodelledError (the server's own word), or ProtocolError (what it sent makes no sense).
        """
        for frame in self._frames.feed(data):
            yield _event(frame)


def _event(frame: Frame) -> bytes:
    kind = frame.text(":message-type")
    if kind == "exception":
        name = frame.text(":exception-type")
        try:
            text = str(msgspec.json.decode(frame.payload, type=dict[str, object]).get("message", ""))
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            text = ""
        if name not in EXCEPTION_TYPES:
            raise UnmodelledError(name, text)
        raise StreamException(name, text)  # type: ignore[arg-type]
    if kind == "error":
        raise UnmodelledError(frame.text(":error-code"), frame.text(":error-message"))
    return unwrap(frame)
