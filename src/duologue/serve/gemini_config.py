"""What a client of Gemini Live asks for, as the definition of a session."""

from __future__ import annotations

from typing import Any

import msgspec

from ..engine.endpointing import EndpointingOptions
from ..engine.limits import LimitOptions
from ..session.definition import Definition, TurnTaking
from ..session.toolbench import FillerOptions
from ..wire.gemini_live import Setup, to_json_schema
from ..wire.gemini_live.messages import FunctionDeclaration
from ..wire.openai_realtime import FunctionTool
from .openai_tools import RemoteTools

#: speech over the agent that takes the floor, words or not. The client drops what it holds at the first sign and for good, so
#: that there is no holding and resuming: what is taken for an interruption must be one
_YIELD_MS = 320.0
#: audio taken ahead of real time: clients send whole files
_UPSTREAM_S = 900.0
#: the client says where turns end: no silence does
_BY_HAND = EndpointingOptions(shortest_ms=1e9, longest_ms=1e9, hard_max_ms=1e9, no_words_ms=1e9)
#: longest wait in a pause that may go on, by sensitivity to the end of speech
_PAUSES = {"END_SENSITIVITY_HIGH": 900.0, "END_SENSITIVITY_LOW": 2200.0}


def as_agent(definition: Definition, setup: Setup) -> Definition:
    """The agent as it is, over a wire whose client plays by itself."""
    return msgspec.structs.replace(
        definition,
        turn_taking=_turn_taking(definition.turn_taking, setup, definition.turn_taking.endpointing),
        limits=msgspec.structs.replace(definition.limits, upstream_s=max(_UPSTREAM_S, definition.limits.upstream_s)),
    )


def as_model(definition: Definition, setup: Setup, remote: RemoteTools) -> Definition:
    """Only the agent's model: everything else is the client's. Raises ToolError for tools that cannot be."""
    known = definition.model.capabilities.voices
    config = setup.generation_config
    speech = config.speech_config if config is not None else None
    voice = speech.voice_config if speech is not None else None
    named = voice.prebuilt_voice_config.voice_name if voice is not None and voice.prebuilt_voice_config else ""
    return Definition(
        name=definition.name,
        model=definition.model,
        instructions=setup.system_instruction.text if setup.system_instruction is not None else "",
        tools=remote.tools(tools_of(setup.functions)),
        voice=named if named in known else definition.voice,
        language=(speech.language_code if speech is not None else None) or definition.language,
        greeting="",
        farewell="",
        apology="",
        idle_prompt="",
        turn_taking=_turn_taking(TurnTaking(), setup, _endpointing(setup)),
        limits=LimitOptions(idle_s=0.0, upstream_s=_UPSTREAM_S, max_response_s=600.0),
        filler=FillerOptions(after_s=0.0),
    )


def tools_of(functions: list[FunctionDeclaration]) -> list[FunctionTool]:
    """Functions as tools that the client runs."""
    return [
        FunctionTool(name=entry.name, description=entry.description, parameters=_parameters(entry))
        for entry in functions
    ]


def _parameters(function: FunctionDeclaration) -> dict[str, Any]:
    given = function.parameters_json_schema
    if isinstance(given, dict):
        return given
    return to_json_schema(function.parameters) if function.parameters else {"type": "object", "properties": {}}


def _turn_taking(options: TurnTaking, setup: Setup, endpointing: EndpointingOptions) -> TurnTaking:
    interruption = msgspec.structs.replace(
        options.interruption,
        enabled=options.interruption.enabled and setup.automatic and setup.interrupts,
        duck_db=0.0,
        pause_ms=1e9,
        yield_ms=min(options.interruption.yield_ms, _YIELD_MS),
    )
    return TurnTaking(endpointing=endpointing if setup.automatic else _BY_HAND, interruption=interruption)


def _endpointing(setup: Setup) -> EndpointingOptions:
    config = setup.realtime_input_config
    detection = config.automatic_activity_detection if config is not None else None
    options = EndpointingOptions()
    if detection is None:
        return options
    if detection.silence_duration_ms is not None:
        silence = float(max(detection.silence_duration_ms, 100))
        hard = max(options.hard_max_ms, silence)
        return EndpointingOptions(shortest_ms=silence, longest_ms=silence, hard_max_ms=hard, pause_weight=0.0)
    longest = _PAUSES.get(detection.end_of_speech_sensitivity or "")
    if longest is None:
        return options
    return msgspec.structs.replace(options, longest_ms=longest, hard_max_ms=max(options.hard_max_ms, longest))
