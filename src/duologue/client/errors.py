"""What can go wrong with a call, for whoever awaits it."""

from __future__ import annotations

from duologue.errors import DuologueError


class ConnectError(DuologueError):
    """No link to the server could be opened: wrong address, nobody listening, no network, no answer in time."""

    code = "connect"
    retryable = True


class CallRefusedError(DuologueError):
    """The server refused the call, or ended it, and trying again as it is cannot help. `close_code` says why."""

    code = "refused"

    def __init__(self, message: str, *, hint: str = "", code: str = "refused", close_code: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.close_code = close_code


class CallLostError(DuologueError):
    """The link broke and the call could not be resumed within its grace period."""

    code = "call_lost"
    retryable = True


class LinkClosedError(DuologueError):
    """A transport has ended with a WebSocket close `close_code` (1006: without one)."""

    code = "link_closed"
    retryable = True

    def __init__(self, close_code: int, reason: str = "") -> None:
        super().__init__(f"The link was closed with {close_code}{f' ({reason})' if reason else ''}.")
        self.close_code = close_code
        self.reason = reason
