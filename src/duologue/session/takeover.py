"""Going on with a session whose owner was lost: what it inherits, what it settles, and what it says next.

An answer that was under way is entered as far as it was known to be heard, marked as an estimate, and gone on with; one to a turn
that nobody had begun to answer is given. A tool that had started and not answered is never run again, unless it says so: the
model is told that nobody knows.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from ..events import ResponseFinished, ResponseOrigin
from .conductor import Conductor
from .rebuild import Rebuilt
from .toolbench import Toolbench

logger = logging.getLogger("duologue.session")

#: origins of answers that are said word by word
_VERBATIM = ("say", "greeting")
#: of answers that nobody misses
_PASSING = ("filler", "idle")
_GO_ON = (
    "You were cut off in the middle of your last answer. Go on from where it stopped, without greeting or repeating."
)
_ANEW = "Your last answer was lost before it could be heard. Give it again, without greeting."


def inherit(conductor: Conductor, past: Rebuilt) -> None:
    """Give the conductor its history, before a model is opened with it."""
    conversation = conductor.conversation
    conversation.load(past.conversation.dump())
    for cut in past.cuts:
        conversation.assistant(cut.response, cut.heard, complete=False)
    conductor.responses.count = past.responses
    conductor.exchange.turn = past.turn
    conductor.speaking.untold.extend(past.untold)


def state(session: str, wanted: type | None, past: Rebuilt, fresh: Any) -> Any:
    """The application's state as it was recorded last; `fresh` if it never was, or cannot be read any more."""
    if past.state is None:
        return fresh
    try:
        return msgspec.json.decode(past.state, type=wanted or dict[str, Any])
    except msgspec.MsgspecError as error:
        logger.warning("%s: the state cannot be read back: %s", session, error)
        return fresh


def settle(conductor: Conductor, toolbench: Toolbench, past: Rebuilt) -> None:
    """Everything is open: end what was under way, and say what is owed."""
    for cut in past.cuts:
        conductor.emit(
            ResponseFinished(
                response=cut.response,
                status="interrupted" if cut.heard else "cancelled",
                text=cut.text,
                heard=cut.heard,
                heard_ms=cut.heard_ms,
                estimated=True,
                reason="takeover",
            )
        )
    for started in past.calls:
        toolbench.recover(started)
    owed = not past.answered or bool(past.untold)
    for cut in past.cuts:
        if cut.origin in _VERBATIM:
            rest = cut.text.removeprefix(cut.heard).strip()
            if rest:
                conductor.speaking.say(rest, cut.origin)
        elif cut.origin not in _PASSING:
            owed = True
    # The answer to what tools have found out, or that nobody knows, is the rest of what was cut off.
    if owed and not past.calls:
        made = next((cut for cut in past.cuts if cut.origin not in (*_VERBATIM, *_PASSING)), None)
        instructions = "" if made is None else _GO_ON if made.heard else _ANEW
        origin: ResponseOrigin = "tool" if past.untold else "respond"
        conductor.speaking.respond(
            instructions, "farewell" if made is not None and made.origin == "farewell" else origin
        )
