"""How a stream fails: the six exceptions that the protocol has, and the vendor's texts.

A frame with another exception type would surface in the vendor's SDK as a bare KeyError, so no other can be made here.
Texts are the service's where they are known; those marked * are ours.
"""

from __future__ import annotations

from typing import Literal, get_args

from ...errors import ProtocolError

ExceptionType = Literal[
    "internalServerException",
    "modelStreamErrorException",
    "validationException",
    "throttlingException",
    "modelTimeoutException",
    "serviceUnavailableException",
]
EXCEPTION_TYPES: tuple[str, ...] = get_args(ExceptionType)

INVALID = "Invalid input request, please fix your input and try again."
OPEN_CONTENTS = "All contents must be closed before ending prompt"
NO_CONTENT = "No open content found for content name: {name}"
EMPTY_CONTENT = "Cannot end content [{name}] as no content data was received"
SECOND_SYSTEM = "Duplicate SYSTEM content. SYSTEM content can only be provided once per prompt"
BLOCKED = "This request has been blocked by our content filters."
UNSTABLE = "System instability detected. Please retry your request."
TOOL_RESPONSE = "Tool Response parsing error"
HISTORY = "Chat history is over max limit. Trim chat history and try again."
TIMED_OUT = "Model has timed out in processing the request. Try your request again."
IDLE = (
    "InternalErrorCode=532::Timed out waiting for audio bytes or interactive content. Please ensure gaps between "
    "audio bytes and interactive content are less than {seconds:g} seconds"
)
THROTTLED = "Too many requests, please wait before trying again."
UNAVAILABLE = "The service is temporarily unavailable. Please try again."  # *


class StreamException(ProtocolError):
    """The stream ends with an exception of the protocol. `type` is its name on the wire, `text` its message."""

    def __init__(self, type: ExceptionType, text: str) -> None:
        super().__init__(f"{type}: {text}", code="nova_exception")
        self.type: ExceptionType = type
        self.text = text


class UnmodelledError(ProtocolError):
    """The stream ends with an error that the protocol does not name."""

    def __init__(self, error: str, text: str) -> None:
        super().__init__(f"{error}: {text}", code="nova_error")
        self.error = error
        self.text = text


def invalid(text: str = INVALID) -> StreamException:
    """The client's input was refused."""
    return StreamException("validationException", text)
