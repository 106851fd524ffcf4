"""Every typed error of Duologue. Each says what happened and what to do about it.

Errors reach whoever awaits the failing call; the same text travels as an :class:`duologue.events.ErrorEvent` to listeners
that can act on it. `code` is stable and safe to match on; the message is for people and may change.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DuologueError(Exception):
    """Base of all errors raised by Duologue.

    Args:
        message: what happened.
        hint: what to do about it; appended to the message.
    """

    code = "error"
    #: whether doing the same again may succeed without anybody changing anything
    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message} {hint}" if hint else message)
        self.message = message
        self.hint = hint


class ConfigurationError(DuologueError):
    """An option, a combination of options, or an agent definition that cannot work. Raised at construction."""

    code = "configuration"


class UnknownOptionError(ConfigurationError):
    """An option that does not exist; the nearest existing one is named."""

    code = "unknown_option"

    def __init__(self, where: str, option: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(option, known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known options: {', '.join(known) or 'none'}."
        super().__init__(f"{where} has no option {option!r}.", hint=hint)
        self.option = option


class MissingDependencyError(ConfigurationError):
    """A package, model file or device that the chosen configuration needs is not installed."""

    code = "missing_dependency"


class AudioFormatError(DuologueError):
    """Audio that is not in the agreed format: wrong rate, odd byte count, wrong channel count, unknown encoding."""

    code = "audio_format"


class UnsupportedInputError(DuologueError):
    """An input that the model in use cannot take. Raised before anything is sent; the call goes on."""

    code = "unsupported_input"


class ProtocolError(DuologueError):
    """A peer broke the wire protocol. `close_code` is the WebSocket close code that answers it, if the link must end."""

    code = "protocol"

    def __init__(self, message: str, *, hint: str = "", code: str = "protocol", close_code: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.close_code = close_code


class SessionClosedError(DuologueError):
    """The session has ended; start a new one."""

    code = "session_closed"


class LimitExceededError(DuologueError):
    """A stated limit was reached (call length, queued response seconds, message size, admission)."""

    code = "limit_exceeded"


class ModelError(DuologueError):
    """A model failed. Subclasses say how; the supervisor decides whether to retry, rotate or fail over."""

    code = "model"


class ModelConnectionError(ModelError):
    """The link to a model could not be opened, was dropped, stalled, or ended when it should not have."""

    code = "model_connection"
    retryable = True


class ModelThrottledError(ModelError):
    """The provider refused for load or quota; retry later or ask for more quota."""

    code = "model_throttled"
    retryable = True


class CredentialsError(ModelError):
    """Credentials are missing, wrong, expired, or not allowed to use this model. Lists what was tried."""

    code = "credentials"


class ModelRequestError(ModelError):
    """The provider rejected what was sent as invalid; sending it again will not help."""

    code = "model_request"


class ToolError(DuologueError):
    """A tool could not be defined, found or run; carries the tool's name."""

    code = "tool"

    def __init__(self, tool: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"Tool {tool!r}: {message}", hint=hint)
        self.tool = tool


class StoreError(DuologueError):
    """The journal or directory store failed."""

    code = "store"


class FencedError(StoreError):
    """This owner was replaced: a newer epoch holds the session. Stop writing and stop speaking."""

    code = "fenced"


class OverloadedError(DuologueError):
    """A bounded queue is full or capacity is used up; try again later or raise the limit."""

    code = "overloaded"
    retryable = True


def check_options(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise :class:`UnknownOptionError` for the first option in `given` that is not in `known`."""
    known = list(known)
    for option in given:
        if option not in known:
            raise UnknownOptionError(where, option, known)
