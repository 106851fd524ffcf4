"""The ``application/vnd.amazon.eventstream`` framing: encoding, incremental decoding, and signed chunks.

Source: the Amazon event stream encoding as AWS SDKs implement it (smithy); frames are compared byte for byte with an
independent encoder's in the tests::

    u32 total length | u32 length of headers | u32 crc32 of these 8 bytes | headers | payload | u32 crc32 of all before
    header: u8 length of name | name | u8 type | value

Header types used: bool (0 true, 1 false), byte (2), short (3), int (4), long (5), bytes (6), string (7), timestamp (8, in
milliseconds), uuid (9).
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Mapping

import msgspec

from ..errors import ProtocolError

#: limits of the encoding
MAX_HEADERS = 128 * 1024
MAX_PAYLOAD = 16 * 1024 * 1024
_PRELUDE = struct.Struct(">III")
_U32 = struct.Struct(">I")
_OVERHEAD = _PRELUDE.size + _U32.size


class Timestamp(msgspec.Struct, frozen=True):
    """A header value of type timestamp: milliseconds since 1970, UTC."""

    ms: int


HeaderValue = bool | int | bytes | str | Timestamp | uuid.UUID


class Frame(msgspec.Struct, frozen=True):
    """One message: headers in their order, and a payload."""

    headers: Mapping[str, HeaderValue]
    payload: bytes

    def text(self, name: str) -> str:
        """A string header; "" if it is missing or of another type."""
        value = self.headers.get(name)
        return value if isinstance(value, str) else ""


def encode_headers(headers: Mapping[str, HeaderValue]) -> bytes:
    """The encoded block of headers. Integers are encoded as int (4 bytes) or, beyond that, long."""
    out = bytearray()
    for name, value in headers.items():
        raw = name.encode()
        out.append(len(raw))
        out += raw
        if isinstance(value, bool):
            out.append(0 if value else 1)
        elif isinstance(value, int):
            if -(1 << 31) <= value < 1 << 31:
                out += b"\x04" + struct.pack(">i", value)
            else:
                out += b"\x05" + struct.pack(">q", value)
        elif isinstance(value, bytes):
            out += b"\x06" + struct.pack(">H", len(value)) + value
        elif isinstance(value, str):
            text = value.encode()
            out += b"\x07" + struct.pack(">H", len(text)) + text
        elif isinstance(value, Timestamp):
            out += b"\x08" + struct.pack(">q", value.ms)
        else:
            out += b"\x09" + value.bytes
    return bytes(out)


def encode_frame(headers: Mapping[str, HeaderValue], payload: bytes) -> bytes:
    """One encoded frame."""
    block = encode_headers(headers)
    total = _OVERHEAD + len(block) + len(payload)
    prelude = struct.pack(">II", total, len(block))
    body = prelude + _U32.pack(zlib.crc32(prelude)) + block + payload
    return body + _U32.pack(zlib.crc32(body))


def decode_frame(data: bytes) -> Frame:
    """Exactly one frame. Raises ProtocolError (`eventstream`) for anything else."""
    decoder = FrameDecoder()
    frames = decoder.feed(data)
    if len(frames) != 1 or decoder.pending:
        raise _broken(f"{len(data)} bytes are not one frame")
    return frames[0]


class FrameDecoder:
    """Cuts a byte stream into frames. `limit` bounds a frame's length."""

    def __init__(self, *, limit: int = MAX_PAYLOAD + MAX_HEADERS + _OVERHEAD) -> None:
        self._buffer = bytearray()
        self._limit = limit

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Raises ProtocolError; the stream cannot be read any further then."""
        self._buffer += data
        frames: list[Frame] = []
        while len(self._buffer) >= _PRELUDE.size:
            total, headers, check = _PRELUDE.unpack_from(self._buffer)
            if zlib.crc32(self._buffer[:8]) != check:
                raise _broken("the checksum of a prelude is wrong")
            if not _OVERHEAD + headers <= total <= self._limit or headers > MAX_HEADERS:
                raise _broken(f"a frame of {total} bytes with {headers} bytes of headers cannot be")
            if len(self._buffer) < total:
                break
            raw = bytes(self._buffer[:total])
            del self._buffer[:total]
            if zlib.crc32(raw[:-4]) != _U32.unpack_from(raw, total - 4)[0]:
                raise _broken("the checksum of a frame is wrong")
            block = raw[_PRELUDE.size : _PRELUDE.size + headers]
            frames.append(Frame(_decode_headers(block), raw[_PRELUDE.size + headers : -4]))
        return frames


def _decode_headers(block: bytes) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    at = 0
    try:
        while at < len(block):
            size = block[at]
            name = block[at + 1 : at + 1 + size].decode()
            at += 1 + size
            kind = block[at]
            at += 1
            if kind in (0, 1):
                headers[name] = kind == 0
            elif kind in _FIXED:
                form, width = _FIXED[kind]
                (number,) = struct.unpack_from(form, block, at)
                headers[name] = Timestamp(number) if kind == 8 else number
                at += width
            elif kind in (6, 7):
                (size,) = struct.unpack_from(">H", block, at)
                value = block[at + 2 : at + 2 + size]
                if len(value) != size or not name:
                    raise _broken("a header runs out of its block")
                headers[name] = value if kind == 6 else value.decode()
                at += 2 + size
            elif kind == 9:
                headers[name] = uuid.UUID(bytes=block[at : at + 16])
                at += 16
            else:
                raise _broken(f"header {name!r} has the unknown type {kind}")
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise _broken(f"the headers are malformed ({error})") from None
    return headers


_FIXED = {2: (">b", 1), 3: (">h", 2), 4: (">i", 4), 5: (">q", 8), 8: (">q", 8)}


def _broken(what: str) -> ProtocolError:
    return ProtocolError(f"In an event stream {what}.", hint="Close the connection.", code="eventstream")
