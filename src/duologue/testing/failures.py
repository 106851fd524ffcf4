"""How a failure looks on each wire: an error event and a close, a close alone, or an exception frame.

Texts are those that our servers use for the same; the `faults` of each protocol in :mod:`duologue.wire` say where they are from.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from ..wire.gemini_live import faults as gemini
from ..wire.nova_sonic import StreamException
from ..wire.nova_sonic import faults as nova
from ..wire.openai_realtime import faults as openai

Failure = Literal["internal", "model", "throttled", "timeout", "unavailable", "invalid", "expired"]


class Wording(Protocol):
    """One WebSocket protocol's way of failing."""

    def going_away(self, seconds: float) -> str | bytes | None:
        """The announcement of the end in so many seconds, if the protocol has one."""

    def failure(self, failure: Failure) -> tuple[str | bytes | None, int, str]:
        """What is sent first, if anything, and the code and reason of the close."""


class OpenAIWording:
    """An `error` event, then the close."""

    def going_away(self, seconds: float) -> str | bytes | None:
        """See Wording."""
        return None

    def failure(self, failure: Failure) -> tuple[str | bytes | None, int, str]:
        """See Wording."""
        type, code, message, close, reason = _OPENAI[failure]
        detail = {"type": type, "code": code, "message": message, "param": None, "event_id": None}
        event = {"type": "error", "event_id": f"event_{code}", "error": detail}
        return msgspec.json.encode(event).decode(), close, reason


_OPENAI: dict[Failure, tuple[str, str, str, int, str]] = {
    "internal": (
        "server_error",
        "server_error",
        "The server had an error while processing your request.",
        1011,
        "internal",
    ),
    "model": ("server_error", "server_error", "The model had an error while processing your request.", 1011, "model"),
    "throttled": ("rate_limit_error", "rate_limit_exceeded", "Rate limit reached.", 1013, "throttled"),
    "timeout": ("server_error", "timeout", "The request timed out.", 1011, "timeout"),
    "unavailable": ("server_error", "overloaded", "The server is overloaded.", 1013, "unavailable"),
    "invalid": ("invalid_request_error", openai.INVALID_VALUE, "Invalid value.", 1008, "invalid"),
    "expired": (
        "invalid_request_error",
        openai.SESSION_EXPIRED,
        "Your session hit the maximum duration.",
        1001,
        openai.SESSION_EXPIRED,
    ),
}


class GeminiWording:
    """`goAway`, and a close that says why."""

    def going_away(self, seconds: float) -> str | bytes | None:
        """See Wording."""
        return msgspec.json.encode({"goAway": {"timeLeft": f"{seconds:g}s"}})

    def failure(self, failure: Failure) -> tuple[str | bytes | None, int, str]:
        """See Wording."""
        return (None, *_GEMINI[failure])


_GEMINI: dict[Failure, tuple[int, str]] = {
    "internal": (gemini.INTERNAL, "Internal error encountered."),
    "model": (gemini.INTERNAL, "Internal error encountered."),
    "throttled": (gemini.INTERNAL, gemini.QUOTA),
    "timeout": (gemini.INTERNAL, gemini.EXPIRED),
    "unavailable": (gemini.INTERNAL, "The service is currently unavailable."),
    "invalid": (gemini.INVALID, "Request contains an invalid argument."),
    "expired": (gemini.INTERNAL, gemini.EXPIRED),
}

_NOVA: dict[Failure, tuple[nova.ExceptionType, str]] = {
    "internal": ("internalServerException", nova.UNSTABLE),
    "model": ("modelStreamErrorException", nova.UNSTABLE),
    "throttled": ("throttlingException", nova.THROTTLED),
    "timeout": ("modelTimeoutException", nova.TIMED_OUT),
    "unavailable": ("serviceUnavailableException", nova.UNAVAILABLE),
    "invalid": ("validationException", nova.INVALID),
    "expired": ("modelTimeoutException", nova.TIMED_OUT),
}


def wording_of(wire: str) -> Wording:
    """The wording of a protocol by its channel's name."""
    return GeminiWording() if wire == "gemini-live" else OpenAIWording()


def exception_of(failure: Failure) -> StreamException:
    """A failure of Nova Sonic."""
    return StreamException(*_NOVA[failure])
