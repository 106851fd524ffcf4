"""How a session fails: the protocol has no error message, the connection is closed with a code and a reason.

Texts are the service's where they are known; those marked * are ours.
"""

from __future__ import annotations

#: an argument that cannot be, an unreadable message, a context that is full, a handle that is none
INVALID = 1007
#: the key, the model or the API version may not be used
POLICY = 1008
#: a message longer than the limit *
TOO_BIG = 1009
#: the service failed, or a quota is used up
INTERNAL = 1011

BAD_KEY = "API key not valid. Please pass a valid API key."
NO_MODEL = "{model} is not found for API version {version}, or is not supported for bidiGenerateContent."
NOT_SETUP = "setup must be the first message and only the first."  # *
ONE_OF = "Invalid JSON payload received. A message has exactly one of setup, clientContent, realtimeInput, toolResponse."  # *
EXPLICIT = "Explicit activity control is not supported when automatic activity detection is enabled."
STREAM_END = "audioStreamEnd is only supported when automatic activity detection is enabled."  # *
ACTIVITY = "activityStart and activityEnd must alternate."  # *
BAD_AUDIO = "Audio must be audio/pcm, 16 bit little-endian mono."  # *
BAD_MEDIA = "Unsupported MIME type: {mime}"  # *
NO_CALL = "No function call with id {id} is open."  # *
NO_ID = "A function response must have the id of its call."  # *
BAD_HANDLE = "The session resumption handle is not valid."  # *
VERTEX_ONLY = "{name} is not supported in the Gemini API."  # *
QUOTA = "You exceeded your current quota, please check your plan and billing details."
EXPIRED = "Deadline expired before operation could complete."


class Fault(Exception):
    """The connection must be closed. `reason` is cut to what a close frame holds."""

    def __init__(self, code: int, reason: str) -> None:
        reason = reason.encode(errors="replace")[:123].decode(errors="ignore")
        super().__init__(reason)
        self.code = code
        self.reason = reason


def invalid(reason: str) -> Fault:
    """What was sent cannot be."""
    return Fault(INVALID, reason)
