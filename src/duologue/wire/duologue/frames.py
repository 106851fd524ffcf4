"""Binary audio frames (`docs/protocol.md`, section 4). The hot path: fifty times a second each way for every call."""

from __future__ import annotations

import struct
from typing import NamedTuple

from duologue.errors import ProtocolError
from duologue.wire.duologue.options import FRAME_BYTES

USER_AUDIO = 0x11
AGENT_AUDIO = 0x12
#: flag of agent audio: the last of its response
LAST = 0x01

#: kind, flags, header length, epoch, n, position
_USER = struct.Struct("<BBHIQQ")
#: the same, then response number and offset
_AGENT = struct.Struct("<BBHIQQII")
USER_HEADER = _USER.size
AGENT_HEADER = _AGENT.size
#: longest PCM16 payload that fits either frame
MAX_PAYLOAD = FRAME_BYTES - AGENT_HEADER

_pack_user = _USER.pack
_pack_agent = _AGENT.pack
_unpack_user = _USER.unpack_from
_unpack_agent = _AGENT.unpack_from
# A named tuple's own constructor is a Python function.
_make = tuple.__new__


class UserAudio(NamedTuple):
    """Audio of the user: PCM16 mono, captured from sample `position` of their track on."""

    epoch: int
    n: int
    position: int
    pcm: bytes


class AgentFrame(NamedTuple):
    """Audio of the agent as it is on the wire: response `number` instead of its id, `flags` unread."""

    epoch: int
    n: int
    position: int
    number: int
    offset: int
    flags: int
    pcm: bytes


def encode_user_audio(epoch: int, n: int, position: int, pcm: bytes) -> bytes:
    """The frame of user audio; `pcm` is at most MAX_PAYLOAD bytes."""
    return _pack_user(USER_AUDIO, 0, USER_HEADER, epoch, n, position) + pcm


def encode_agent_audio(
    epoch: int, n: int, position: int, number: int, offset: int, pcm: bytes, flags: int = 0
) -> bytes:
    """The frame of agent audio; `pcm` is at most MAX_PAYLOAD bytes."""
    return _pack_agent(AGENT_AUDIO, flags, AGENT_HEADER, epoch, n, position, number, offset) + pcm


def decode_user_audio(frame: bytes) -> UserAudio:
    """A frame of user audio. Raises ProtocolError (`unknown_frame`, `malformed`, `too_big`). The payload is not
    judged.
    """
    if len(frame) < USER_HEADER:
        raise _refusal(frame, USER_AUDIO, USER_HEADER)
    kind, _, header, epoch, n, position = _unpack_user(frame)
    if kind != USER_AUDIO:
        raise _refusal(frame, USER_AUDIO, USER_HEADER)
    if header != USER_HEADER or len(frame) > FRAME_BYTES:
        _check_header(frame, header, USER_HEADER)
    return _make(UserAudio, (epoch, n, position, frame[header:]))


def decode_agent_audio(frame: bytes) -> AgentFrame:
    """A frame of agent audio. Raises ProtocolError (`unknown_frame`, `malformed`, `too_big`). The payload is not
    judged.
    """
    if len(frame) < AGENT_HEADER or frame[0] != AGENT_AUDIO:
        raise _refusal(frame, AGENT_AUDIO, AGENT_HEADER)
    _, flags, header, epoch, n, position, number, offset = _unpack_agent(frame)
    if header != AGENT_HEADER or len(frame) > FRAME_BYTES:
        _check_header(frame, header, AGENT_HEADER)
    return AgentFrame(epoch, n, position, number, offset, flags, frame[header:])


def agent_number(frame: bytes) -> int:
    """The response number of a frame of agent audio that was made here."""
    return int.from_bytes(frame[24:28], "little")


def _refusal(frame: bytes, kind: int, size: int) -> ProtocolError:
    if not frame:
        return ProtocolError("An empty binary message came.", hint="Send audio frames with a header.", code="malformed")
    if frame[0] != kind:
        return ProtocolError(
            f"A binary message of kind 0x{frame[0]:02x} came.",
            hint=f"Only kind 0x{kind:02x} goes in this direction, in version 1.",
            code="unknown_frame",
        )
    return ProtocolError(
        f"An audio frame of {len(frame)} bytes came.", hint=f"The header alone has {size}.", code="malformed"
    )


def _check_header(frame: bytes, header: int, size: int) -> None:
    """A header may have grown in a later version; what is beyond ours is skipped."""
    if len(frame) > FRAME_BYTES:
        raise too_big(len(frame), FRAME_BYTES)
    if header % 8 or not size <= header <= len(frame):
        raise ProtocolError(
            f"A frame of {len(frame)} bytes says that its header has {header}.",
            hint=f"It has at least {size}, a multiple of 8, and lies within the frame.",
            code="malformed",
        )


def too_big(size: int, limit: int) -> ProtocolError:
    """The error for a message of `size` bytes where `limit` was stated."""
    return ProtocolError(
        f"A message of {size} bytes came; the limit is {limit}.",
        hint="Send shorter messages.",
        code="too_big",
        close_code=1009,
    )
