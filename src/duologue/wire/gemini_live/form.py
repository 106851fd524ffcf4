"""The JSON of the protocol: protobuf's mapping, in either case, with bytes in either base64.

Peers mix ``snake_case`` and ``camelCase`` within one message (google-genai 3.4 does), so names are brought to ``camelCase`` at
every depth, except below fields whose keys belong to the application. Bytes come in the URL-safe alphabet (google-genai) or the
standard one, with or without padding; they go out in the standard one, as the service sends them.
"""

from __future__ import annotations

import binascii
import re
from typing import Any

import msgspec

#: what is below these is the application's, not the protocol's
OPAQUE = frozenset(
    {"args", "response", "parameters", "parametersJsonSchema", "responseJsonSchema", "responseSchema", "labels"}
)
#: fields that hold bytes
_BYTES = frozenset({"data", "thoughtSignature"})
_SNAKE = re.compile(r"_([a-z0-9])")
_URL_SAFE = str.maketrans("-_", "+/")
#: deepest nesting that is walked
_DEPTH = 64


class FormError(ValueError):
    """A message is no protobuf JSON; the text says why, as the service would."""


def camel(name: str) -> str:
    """A field's name in ``camelCase``."""
    return _SNAKE.sub(lambda found: found.group(1).upper(), name) if "_" in name else name


def decode_bytes(text: str) -> bytes:
    """Bytes from base64 in either alphabet, padded or not. Raises FormError for anything else."""
    if "-" in text or "_" in text:
        text = text.translate(_URL_SAFE)
    text = text.rstrip("=")
    if len(text) % 4:
        text += "=" * (-len(text) % 4)
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise FormError("Base64 decoding failed") from None


def normalised(value: Any, depth: int = 0) -> Any:
    """`value` with names in ``camelCase`` and bytes decoded. Raises FormError for a name given twice and for bad base64."""
    if depth > _DEPTH:
        raise FormError("Message too deep.")
    if isinstance(value, dict):
        out: dict[str, Any] = {}
        for name, inner in value.items():
            key = camel(name)
            if key in out:
                raise FormError(f'Invalid JSON payload received. Field "{key}" is specified twice.')
            if key in _BYTES and isinstance(inner, str):
                out[key] = decode_bytes(inner)
            elif key in OPAQUE:
                out[key] = inner
            elif inner is not None:  # null is the same as absent
                out[key] = normalised(inner, depth + 1)
        return out
    if isinstance(value, list):
        return [normalised(inner, depth + 1) for inner in value]
    return value


def decode[T](message: str | bytes, kind: type[T]) -> T:
    """The message in a frame, text or binary alike. Raises FormError."""
    try:
        raw = msgspec.json.decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise FormError(f"Invalid JSON payload received. {error}") from None
    if not isinstance(raw, dict):
        raise FormError("Invalid JSON payload received. The message is no object.")
    try:
        return msgspec.convert(normalised(raw), kind, strict=False)
    except msgspec.ValidationError as error:
        raise FormError(f"Invalid JSON payload received. {error}") from None


def duration(text: str) -> float | None:
    """Seconds of a protobuf Duration such as ``"50s"`` or ``"1.250s"``; None for anything else."""
    found = re.fullmatch(r"(-?\d{1,12}(?:\.\d{1,9})?)s", text)
    return float(found.group(1)) if found is not None else None


def as_duration(seconds: float) -> str:
    """A protobuf Duration."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
