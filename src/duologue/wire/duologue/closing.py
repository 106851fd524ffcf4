"""Close codes (`docs/protocol.md`, section 9) and what a client does after each."""

from __future__ import annotations

import enum

NORMAL = 1000
TOO_BIG = 1009
PROTOCOL = 4000
VERSION = 4001
TOO_MANY_ERRORS = 4002
AUTH = 4003
NOT_RESUMABLE = 4004
NO_HELLO = 4006
RATE = 4008
REPLACED = 4009
DEAD = 4010
SLOW = 4011
OWNER_CHANGED = 4012
FULL = 4013


class Then(enum.Enum):
    """What a client does after its link has closed."""

    #: the call is over
    OVER = "over"
    #: open a new link and resume
    RESUME = "resume"
    #: give up: trying again as it is cannot help
    STOP = "stop"


_STOP = frozenset({VERSION, TOO_MANY_ERRORS, AUTH, NOT_RESUMABLE, REPLACED})


def after_close(code: int, error: str = "") -> Then:
    """What to do after a close with `code`; `error` is the code of the last fatal error message, if one came.

    Before the first `welcome` there is nothing to resume: RESUME then means to try the opening again.
    """
    if code == NORMAL:
        return Then.OVER
    if code in _STOP or (code == PROTOCOL and error != "sequence"):
        return Then.STOP
    return Then.RESUME
