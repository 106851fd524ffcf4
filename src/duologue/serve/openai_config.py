"""What a client of OpenAI Realtime asks for, as the definition of a session."""

from __future__ import annotations

import msgspec

from ..engine.endpointing import EndpointingOptions
from ..engine.limits import LimitOptions
from ..session.definition import Definition, TurnTaking
from ..session.toolbench import FillerOptions
from ..wire.openai_realtime import SemanticVAD, ServerVAD, SessionConfig
from .openai_tools import RemoteTools

#: speech over the agent that takes the floor, words or not. The client silences itself at the first sign and for good, so that
#: there is no holding and resuming: what is taken for an interruption must be one
_YIELD_MS = 320.0
#: audio taken ahead of real time: clients append whole files, and commit what they held by hand
_UPSTREAM_S = 900.0
#: the client ends turns: no pause does
_BY_HAND = EndpointingOptions(shortest_ms=1e9, longest_ms=1e9, hard_max_ms=1e9, no_words_ms=1e9)
#: longest wait in a pause that may go on, and the hard maximum, for each eagerness (the vendor's: 8, 4 and 2 s at most)
_EAGERNESS = {"low": (3500.0, 8000.0), "medium": (1800.0, 4000.0), "auto": (1800.0, 4000.0), "high": (900.0, 2000.0)}


def as_agent(definition: Definition, config: SessionConfig) -> Definition:
    """The agent as it is, over a wire whose client plays and truncates by itself."""
    return msgspec.structs.replace(
        definition,
        turn_taking=turn_taking(definition.turn_taking, config, own=True),
        limits=msgspec.structs.replace(definition.limits, upstream_s=max(_UPSTREAM_S, definition.limits.upstream_s)),
    )


def as_model(definition: Definition, config: SessionConfig, remote: RemoteTools, session_s: float) -> Definition:
    """Only the agent's model: everything else is the client's. Raises ToolError for tools that cannot be."""
    known = definition.model.capabilities.voices
    return Definition(
        name=definition.name,
        model=definition.model,
        instructions=config.instructions,
        tools=remote.tools(config.tools),
        voice=config.voice if config.voice in known else definition.voice,
        language=definition.language,
        greeting="",
        farewell="",
        apology="",
        idle_prompt="",
        turn_taking=turn_taking(TurnTaking(), config, own=False),
        limits=LimitOptions(idle_s=0.0, upstream_s=_UPSTREAM_S, max_call_s=session_s * 2, max_response_s=600.0),
        filler=FillerOptions(after_s=0.0),
    )


def holds(config: SessionConfig) -> bool:
    """Whether the client decides what is answered: its audio waits until it asks."""
    return config.turn_detection is None or not config.turn_detection.create_response


def turn_taking(options: TurnTaking, config: SessionConfig, *, own: bool) -> TurnTaking:
    """How turns are taken with this client. `own`: the agent's own endpointing goes before what the client asks for."""
    detection = config.turn_detection
    interruption = msgspec.structs.replace(
        options.interruption,
        enabled=options.interruption.enabled and detection is not None and detection.interrupt_response,
        duck_db=0.0,
        pause_ms=1e9,
        yield_ms=min(options.interruption.yield_ms, _YIELD_MS),
    )
    endpointing = options.endpointing
    if holds(config):
        endpointing = _BY_HAND
    elif not own:
        endpointing = _endpointing(config)
    return TurnTaking(endpointing=endpointing, interruption=interruption)


def _endpointing(config: SessionConfig) -> EndpointingOptions:
    detection = config.turn_detection
    if isinstance(detection, ServerVAD):
        silence = float(max(detection.silence_duration_ms, 100))
        hard = max(EndpointingOptions().hard_max_ms, silence)
        return EndpointingOptions(shortest_ms=silence, longest_ms=silence, hard_max_ms=hard, pause_weight=0.0)
    if isinstance(detection, SemanticVAD):
        longest, hard = _EAGERNESS[detection.eagerness]
        return EndpointingOptions(longest_ms=longest, hard_max_ms=hard)
    return EndpointingOptions()
