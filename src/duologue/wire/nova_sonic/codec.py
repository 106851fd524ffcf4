"""Events as JSON text, both ways."""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import ProtocolError
from .inputs import INPUTS, Input, UnknownInput
from .outputs import OUTPUTS, Output, UnknownOutput

#: longest JSON text of one event, in bytes. The framing allows 16 MiB; nothing here needs more than this
MAX_EVENT = 1 << 20


class _Envelope(msgspec.Struct):
    event: dict[str, msgspec.Raw]


_envelope = msgspec.json.Decoder(_Envelope)
_inputs = {name: msgspec.json.Decoder(kind) for name, kind in INPUTS.items()}
_outputs = {name: msgspec.json.Decoder(kind) for name, kind in OUTPUTS.items()}
_encoder = msgspec.json.Encoder()


def encode_event(event: Input | Output) -> bytes:
    """The JSON text of an event."""
    name = event.event
    if not name:
        raise ProtocolError(f"A {type(event).__name__} cannot be sent.", hint="Send an event that the protocol has.")
    return _encoder.encode({"event": {name: event}})


def decode_input(payload: bytes | str) -> Input:
    """A client's event. Raises ProtocolError (`nova_event`)."""
    name, body = _open(payload)
    decoder = _inputs.get(name)
    if decoder is None:
        return UnknownInput(name=name, body=bytes(body))
    event: Input = _fields(decoder, name, body)
    return event


def decode_output(payload: bytes | str) -> Output:
    """A server's event. Raises ProtocolError (`nova_event`)."""
    name, body = _open(payload)
    decoder = _outputs.get(name)
    if decoder is None:
        return UnknownOutput(name=name, body=bytes(body))
    event: Output = _fields(decoder, name, body)
    return event


def _open(payload: bytes | str) -> tuple[str, msgspec.Raw]:
    if len(payload) > MAX_EVENT:
        raise _broken(f"an event of {len(payload)} bytes is too long")
    try:
        event = _envelope.decode(payload).event
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise _broken(f"no event ({error})") from None
    if len(event) != 1:
        raise _broken(f"{len(event)} names in one event")
    return next(iter(event.items()))


def _fields(decoder: msgspec.json.Decoder[Any], name: str, body: msgspec.Raw) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise _broken(f"a {name} with wrong fields ({error})") from None


def _broken(what: str) -> ProtocolError:
    return ProtocolError(f"The peer sent {what}.", hint="See docs/models.md for the protocol.", code="nova_event")
