"""Framing of a link: ``type u8 · stream u32 · length u32`` (big-endian), then `length` bytes.

A TEXT or BINARY frame with `MORE` set in its type is followed by more of the same message on that stream.
"""

from __future__ import annotations

import enum
import struct

_HEADER = struct.Struct(">BII")
#: bytes of a header
HEADER = _HEADER.size
#: longest payload of a frame that is not a message
MAX_CONTROL = 64 << 10
#: longest payload of any frame; a chunk is at most this
MAX_FRAME = 1 << 20
#: on the type of a frame that is not its message's last
MORE = 0x80


class Type(enum.IntEnum):
    """Types of frames, with who sends them."""

    HELLO = 1  # both, first
    OPEN = 2  # gateway
    ACCEPT = 3  # worker
    REJECT = 4  # worker
    TEXT = 5
    BINARY = 6
    CLOSE = 7  # u16 code, UTF-8 reason
    CREDIT = 8  # u32 bytes
    PING = 9  # u64 token, u64 stream frames received
    PONG = 10  # the same; the token is the ping's
    GOAWAY = 11
    REFRESH = 12  # worker
    REFRESHED = 13  # gateway


#: those that belong to the link as a whole
LINK_FRAMES = frozenset({Type.HELLO, Type.PING, Type.PONG, Type.GOAWAY})


def frame(type: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    return _HEADER.pack(type, stream, len(payload)) + payload


#: the header of a frame, to be followed by its payload: type, stream, length
header = _HEADER.pack

_MESSAGES = frozenset({Type.TEXT.value, Type.BINARY.value})


class FrameReader:
    """Cuts bytes into (type with its flag, stream, payload). Holds less than a frame."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._wanted = HEADER  # bytes at which there is something to be cut

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """The frames that are complete now. Raises ValueError for a header that no peer may send."""
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._wanted:
                return []
            data = bytes(rest)
            rest.clear()
        at, size, wanted = 0, len(data), HEADER
        frames: list[tuple[int, int, bytes]] = []
        while size - at >= HEADER:
            type, stream, length = _HEADER.unpack_from(data, at)
            if type in _MESSAGES and stream:  # as most are
                if length > MAX_FRAME:
                    raise ValueError(f"frame of {length} bytes")
            else:
                _check(type, stream, length)
            end = at + HEADER + length
            if end > size:
                wanted += length
                break
            frames.append((type, stream, data[at + HEADER : end]))
            at = end
        rest += data[at:]
        self._wanted = wanted
        return frames


def _check(type: int, stream: int, length: int) -> None:
    """Whether a peer may send such a header. Raises ValueError."""
    kind = type & ~MORE
    if not 1 <= kind <= Type.REFRESHED:
        raise ValueError(f"frame of unknown type {type}")
    message = kind in _MESSAGES
    if type & MORE and not message:
        raise ValueError(f"frame of type {kind} cannot have more")
    if length > (MAX_FRAME if message else MAX_CONTROL):
        raise ValueError(f"frame of {length} bytes")
    if (stream == 0) != (kind in LINK_FRAMES):
        raise ValueError(f"frame of type {kind} on stream {stream}")
