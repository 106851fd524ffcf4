"""What serving over a provider's protocol changes in a session's definition, whichever it is: its client plays by itself."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..engine.endpointing import EndpointingOptions
from ..engine.limits import LimitOptions
from ..session.definition import Definition, TurnTaking
from ..session.toolbench import FillerOptions
from ..wire.openai_realtime import Tool
from .openai_tools import RemoteTools

#: speech over the agent that takes the floor, words or not. The client silences itself at the first sign and for good, so that
#: there is no holding and resuming: what is taken for an interruption must be one
_YIELD_MS = 320.0
#: the client ends turns: no pause does
BY_HAND = EndpointingOptions(shortest_ms=1e9, longest_ms=1e9, hard_max_ms=1e9, no_words_ms=1e9)
#: longest answer of a model that is served alone, seconds
_RESPONSE_S = 600.0
#: shortest silence that a client may have a turn end at, milliseconds
_SHORTEST_MS = 100.0


def agent_of(definition: Definition, turn_taking: TurnTaking, upstream_s: float) -> Definition:
    """The agent as it is, whose client may send up to `upstream_s` of audio ahead of real time."""
    limits = msgspec.structs.replace(definition.limits, upstream_s=max(upstream_s, definition.limits.upstream_s))
    return msgspec.structs.replace(definition, turn_taking=turn_taking, limits=limits)


def model_of(
    definition: Definition,
    turn_taking: TurnTaking,
    upstream_s: float,
    remote: RemoteTools,
    *,
    instructions: str,
    tools: Sequence[Tool],
    voice: str | None,
    language: str | None = None,
    session_s: float | None = None,
) -> Definition:
    """Only the agent's model: everything else is the client's. Raises ToolError for tools that cannot be."""
    limits = LimitOptions(idle_s=0.0, upstream_s=upstream_s, max_response_s=_RESPONSE_S)
    if session_s is not None:
        limits = msgspec.structs.replace(limits, max_call_s=session_s)
    return Definition(
        name=definition.name,
        model=definition.model,
        instructions=instructions,
        tools=remote.tools(tools),
        voice=voice if voice in definition.model.capabilities.voices else definition.voice,
        language=language or definition.language,
        greeting="",
        farewell="",
        apology="",
        idle_prompt="",
        turn_taking=turn_taking,
        limits=limits,
        filler=FillerOptions(after_s=0.0),
    )


def turn_taking_of(options: TurnTaking, endpointing: EndpointingOptions, *, interrupts: bool = True) -> TurnTaking:
    """`options` for a client that can only be silenced for good. `interrupts`: whether it wants its user to interrupt."""
    interruption = msgspec.structs.replace(
        options.interruption,
        enabled=options.interruption.enabled and interrupts,
        duck_db=0.0,
        pause_ms=1e9,
        yield_ms=min(options.interruption.yield_ms, _YIELD_MS),
    )
    return TurnTaking(endpointing=endpointing, interruption=interruption)


def after_silence(ms: float) -> EndpointingOptions:
    """A turn ends at so much silence, whatever was said."""
    silence = max(float(ms), _SHORTEST_MS)
    hard = max(EndpointingOptions().hard_max_ms, silence)
    return EndpointingOptions(shortest_ms=silence, longest_ms=silence, hard_max_ms=hard, pause_weight=0.0)
