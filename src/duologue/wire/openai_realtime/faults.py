"""What the protocol says when a message cannot be taken: codes, and how a decoding error becomes one.

Codes: OpenAI's published ones where there are any; those marked * are known from general usage only.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from .items import ErrorDetail

ACTIVE_RESPONSE = "conversation_already_has_active_response"
CANCEL_NOT_ACTIVE = "response_cancel_not_active"
COMMIT_EMPTY = "input_audio_buffer_commit_empty"
SESSION_EXPIRED = "session_expired"
INVALID_VALUE = "invalid_value"
MISSING = "missing_required_parameter"
UNKNOWN_PARAMETER = "unknown_parameter"
INVALID_TYPE = "invalid_type"  # *
INVALID_JSON = "invalid_json"  # *
INVALID_KEY = "invalid_api_key"
TRUNCATE_UNKNOWN = "item_truncate_invalid_item_id"
DELETE_UNKNOWN = "item_delete_invalid_item_id"  # *
RETRIEVE_UNKNOWN = "item_retrieve_invalid_item_id"  # *
#: a session may not be given another voice once it has spoken *
CANNOT_UPDATE_VOICE = "cannot_update_voice"
#: errors that say only that a client was overtaken by the server; nothing is lost by them
HARMLESS = frozenset({ACTIVE_RESPONSE, CANCEL_NOT_ACTIVE, COMMIT_EMPTY})

_AT = re.compile(r" - at `\$\.?(.*)`$")
_FIELD = re.compile(r"field `([^`]+)`")


class Refusal(Exception):
    """A client's event cannot be taken."""

    def __init__(
        self, code: str, message: str, *, param: str | None = None, type: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.type = type

    def detail(self, event_id: str | None) -> ErrorDetail:
        """As the body of an `error` event."""
        return ErrorDetail(type=self.type, code=self.code, message=self.message, param=self.param, event_id=event_id)


class _Envelope(msgspec.Struct):
    type: Any = None
    event_id: Any = None


_envelope: msgspec.json.Decoder[_Envelope] = msgspec.json.Decoder(_Envelope)


def envelope(text: str | bytes) -> tuple[Any, str | None]:
    """`type` and `event_id` of a message whose rest could not be read; (None, None) where it is no object at all."""
    try:
        found = _envelope.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None, None
    return found.type, found.event_id if isinstance(found.event_id, str) else None


def refusal_of(error: Exception, type: Any) -> Refusal:
    """The refusal that a decoding error amounts to."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return Refusal(INVALID_JSON, f"We could not parse the JSON body of your message: {text}")
    at = _AT.search(text)
    path = at.group(1) if at else ""
    text = _AT.sub("", text)
    field = _FIELD.search(text)
    if field is not None:
        path = f"{path}.{field.group(1)}" if path else field.group(1)
    if text.startswith("Object missing"):
        return Refusal(MISSING, f"Missing required parameter: '{path}'.", param=path)
    if text.startswith("Object contains unknown"):
        return Refusal(UNKNOWN_PARAMETER, f"Unknown parameter: '{path}'.", param=path)
    if path == "type":
        return Refusal(INVALID_VALUE, f"Invalid value: {type!r}. It is no event that a client may send.", param="type")
    code = INVALID_TYPE if text.startswith("Expected") else INVALID_VALUE
    return Refusal(code, f"Invalid value for '{path}': {text}." if path else f"{text}.", param=path or None)
