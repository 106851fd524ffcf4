"""Which protocol a client speaks, from its first message (`docs/protocol.md`, section 1)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from duologue.errors import ProtocolError

type Dialect = Literal["duologue", "strands"]

#: keys of the newer Strands generation's messages, which have no `type`
BLOCK_KEYS = frozenset({"text", "audio_delta", "image"})

_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def detect(first: str | bytes, *, limit: int = 1 << 20) -> Dialect:
    """The dialect of a client whose first message is `first`.

    Raises ProtocolError (`dialect`, close 4000; `too_big`, close 1009).
    """
    if len(first) > limit:
        raise ProtocolError(
            f"The first message has {len(first)} bytes.", hint="Open with hello.", code="too_big", close_code=1009
        )
    if isinstance(first, str):
        try:
            message = _decoder.decode(first)
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
            message = None
        if isinstance(message, list) and message:
            message = message[0]
        if isinstance(message, dict):
            kind = message.get("type")
            if kind == "hello":
                return "duologue"
            if isinstance(kind, str) and kind.startswith("bidi_"):
                return "strands"
            if kind is None and BLOCK_KEYS & message.keys():
                return "strands"
    raise ProtocolError(
        "The first message opens no dialect that is spoken here.",
        hint='Send {"type":"hello",…} (docs/protocol.md) or a message of a Strands bidirectional client.',
        code="dialect",
        close_code=4000,
    )
