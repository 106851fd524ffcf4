"""From whatever a tool returned to a JSON value, or a typed error that says what and where.

Converted without loss of meaning: datetimes (ISO 8601), Decimal (a number if exact as one, else text), bytes (base64),
UUID, enums, paths, sets, tuples, dataclasses, msgspec structs, pydantic models, numpy scalars and arrays. Refused: NaN
and infinities, keys that are no strings or plain scalars, cycles, and every other object.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import math
import os
import uuid
from collections.abc import Iterable, Mapping, Set
from typing import Any, NamedTuple, cast

import msgspec

from duologue.tools.base import JSONValue, ToolResultError

MAX_DEPTH = 64
#: integers beyond this lose digits in most JSON readers, so they travel as text (RFC 8259, section 6)
MAX_SAFE_INTEGER = 2**53 - 1


class Capped(NamedTuple):
    """A JSON value within the size cap; a larger one became a string with its beginning, and `truncated` is true."""

    value: JSONValue
    truncated: bool


def to_json(tool: str, value: object) -> JSONValue:
    """Convert a tool's return value to a JSON value.

    Raises:
        ToolResultError: JSON cannot carry it; `path` names the place as `$.a[0]`.
    """
    return _convert(tool, value, "$", ())


def cap_json(value: JSONValue, limit: int) -> Capped:
    """Cut a value whose JSON is longer than `limit` bytes to a text that says how much is missing."""
    encoded = msgspec.json.encode(value)
    if len(encoded) <= limit:
        return Capped(value, False)
    text = value if isinstance(value, str) else encoded.decode()
    kept = text.encode()[:limit].decode(errors="ignore")
    note = f" [cut here: {len(text) - len(kept)} of {len(text)} characters left out]"
    return Capped(kept + note, True)


def _convert(tool: str, value: Any, path: str, parents: tuple[int, ...]) -> JSONValue:
    if isinstance(value, enum.Enum):
        return _convert(tool, value.value, path, parents)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value).encode(errors="replace").decode()  # lone surrogates cannot be sent as UTF-8
    if isinstance(value, int):
        return int(value) if abs(value) <= MAX_SAFE_INTEGER else str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _refusal(tool, path, f"{value} is no JSON number", "Return None or a text instead.")
        return float(value)
    simple = _simple(tool, value, path)
    if simple is not None:
        return simple
    if id(value) in parents or len(parents) >= MAX_DEPTH:
        raise _refusal(tool, path, "the value contains itself or is nested too deeply", "Return a flat copy.")
    inner = (*parents, id(value))
    fields = _fields(value)
    if fields is not None:
        return {_key(tool, key, path): _convert(tool, item, f"{path}.{key}", inner) for key, item in fields}
    if isinstance(value, (list, tuple)):
        return [_convert(tool, item, f"{path}[{index}]", inner) for index, item in enumerate(value)]
    if isinstance(value, Set):
        items = [_convert(tool, item, f"{path}[{index}]", inner) for index, item in enumerate(value)]
        return sorted(items, key=msgspec.json.encode)  # a set has no order; this one is at least the same every time
    plain = _array(value)
    if plain is not None:
        return _convert(tool, plain, path, inner)
    raise _refusal(
        tool, path, f"a {type(value).__name__} cannot be carried by JSON", "Return text, numbers, lists or dicts."
    )


def _simple(tool: str, value: Any, path: str) -> JSONValue:
    """The text or number of a value that has one, else None."""
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            raise _refusal(tool, path, f"{value} is no JSON number", "Return None or a text instead.")
        number = float(value)
        return number if math.isfinite(number) and decimal.Decimal(repr(number)) == value else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, (uuid.UUID, os.PathLike)):
        return str(value)
    return None


def _fields(value: Any) -> Iterable[tuple[object, object]] | None:
    """Names and values of what becomes a JSON object, else None."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, msgspec.Struct):
        return [(name, getattr(value, name)) for name in value.__struct_fields__]
    if callable(getattr(value, "model_dump", None)) and callable(getattr(value, "model_validate", None)):
        return cast("dict[object, object]", value.model_dump(mode="python")).items()
    return None


def _array(value: Any) -> object | None:
    """The Python form of a numpy scalar or array (recognised by shape; numpy is not imported), else None."""
    if hasattr(value, "dtype") and callable(getattr(value, "tolist", None)):
        return cast(object, value.tolist())
    return None


def _key(tool: str, key: object, path: str) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, (bool, int, float)):
        return msgspec.json.encode(key).decode()
    if isinstance(key, (datetime.date, datetime.time, uuid.UUID, decimal.Decimal)):
        return str(key)
    raise _refusal(tool, path, f"a {type(key).__name__} cannot be a JSON key", "Use strings as keys.")


def _refusal(tool: str, path: str, what: str, hint: str) -> ToolResultError:
    return ToolResultError(tool, f"the result cannot be given to the model: at {path}, {what}.", path=path, hint=hint)
