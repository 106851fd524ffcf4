"""What a client of OpenAI Realtime asks for, as the definition of a session."""

from __future__ import annotations

import msgspec

from ..engine.endpointing import EndpointingOptions
from ..session.definition import Definition, TurnTaking
from ..wire.openai_realtime import SemanticVAD, ServerVAD, SessionConfig
from .foreign import BY_HAND, after_silence, agent_of, model_of, turn_taking_of
from .openai_tools import RemoteTools

#: audio taken ahead of real time: clients append whole files, and commit what they held by hand
_UPSTREAM_S = 900.0
#: longest wait in a pause that may go on, and the hard maximum, for each eagerness (the vendor's: 8, 4 and 2 s at most)
_EAGERNESS = {"low": (3500.0, 8000.0), "medium": (1800.0, 4000.0), "auto": (1800.0, 4000.0), "high": (900.0, 2000.0)}

#: silence that makes a message where nothing is answered by itself, and the vendor would judge what was said
_SEMANTIC_MS = 500.0
#: a turn that the client ends by asking for an answer, however long it takes; what has no words is none at once
_OPEN = msgspec.structs.replace(BY_HAND, no_words_ms=0.0, stall_max_s=1e9)


def as_agent(definition: Definition, config: SessionConfig) -> Definition:
    """The agent as it is, over a wire whose client plays and truncates by itself."""
    return agent_of(definition, turn_taking(definition.turn_taking, config, own=True), _UPSTREAM_S)


def as_model(definition: Definition, config: SessionConfig, remote: RemoteTools, session_s: float) -> Definition:
    """Only the agent's model: everything else is the client's. Raises ToolError for tools that cannot be."""
    return model_of(
        definition,
        turn_taking(TurnTaking(), config, own=False),
        _UPSTREAM_S,
        remote,
        instructions=config.instructions,
        tools=config.tools,
        voice=config.voice,
        session_s=session_s * 2,
    )


def silence_ms(config: SessionConfig) -> float | None:
    """The silence after which the vendor's detection makes a message of what was said; None if the client does."""
    detection = config.turn_detection
    if isinstance(detection, ServerVAD):
        return float(detection.silence_duration_ms)
    return None if detection is None else _SEMANTIC_MS


def holds(config: SessionConfig) -> bool:
    """Whether the client decides what is answered: a turn stays open until it asks."""
    return config.turn_detection is None or not config.turn_detection.create_response


def turn_taking(options: TurnTaking, config: SessionConfig, *, own: bool) -> TurnTaking:
    """How turns are taken with this client. `own`: the agent's own endpointing goes before what the client asks for."""
    detection = config.turn_detection
    endpointing = options.endpointing
    if holds(config):
        endpointing = _OPEN
    elif not own:
        endpointing = _endpointing(config)
    interrupts = detection is not None and detection.interrupt_response
    return turn_taking_of(options, endpointing, interrupts=interrupts)


def _endpointing(config: SessionConfig) -> EndpointingOptions:
    detection = config.turn_detection
    if isinstance(detection, ServerVAD):
        return after_silence(detection.silence_duration_ms)
    if isinstance(detection, SemanticVAD):
        longest, hard = _EAGERNESS[detection.eagerness]
        return EndpointingOptions(longest_ms=longest, hard_max_ms=hard)
    return EndpointingOptions()
