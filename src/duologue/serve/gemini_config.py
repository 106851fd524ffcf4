"""What a client of Gemini Live asks for, as the definition of a session."""

from __future__ import annotations

from typing import Any

import msgspec

from ..engine.endpointing import EndpointingOptions
from ..session.definition import Definition, TurnTaking
from ..wire.gemini_live import Setup, to_json_schema
from ..wire.gemini_live.messages import FunctionDeclaration
from ..wire.openai_realtime import FunctionTool
from .foreign import BY_HAND, after_silence, agent_of, model_of, turn_taking_of
from .openai_tools import RemoteTools

#: audio taken ahead of real time: clients send whole files
_UPSTREAM_S = 900.0
#: longest wait in a pause that may go on, by sensitivity to the end of speech
_PAUSES = {"END_SENSITIVITY_HIGH": 900.0, "END_SENSITIVITY_LOW": 2200.0}


def as_agent(definition: Definition, setup: Setup) -> Definition:
    """The agent as it is, over a wire whose client plays by itself."""
    options = definition.turn_taking
    return agent_of(definition, _turn_taking(options, setup, options.endpointing), _UPSTREAM_S)


def as_model(definition: Definition, setup: Setup, remote: RemoteTools) -> Definition:
    """Only the agent's model: everything else is the client's. Raises ToolError for tools that cannot be."""
    config = setup.generation_config
    speech = config.speech_config if config is not None else None
    voice = speech.voice_config if speech is not None else None
    named = voice.prebuilt_voice_config.voice_name if voice is not None and voice.prebuilt_voice_config else ""
    return model_of(
        definition,
        _turn_taking(TurnTaking(), setup, _endpointing(setup)),
        _UPSTREAM_S,
        remote,
        instructions=setup.system_instruction.text if setup.system_instruction is not None else "",
        tools=tools_of(setup.functions),
        voice=named,
        language=speech.language_code if speech is not None else None,
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
    endpointing = endpointing if setup.automatic else BY_HAND
    return turn_taking_of(options, endpointing, interrupts=setup.automatic and setup.interrupts)


def _endpointing(setup: Setup) -> EndpointingOptions:
    config = setup.realtime_input_config
    detection = config.automatic_activity_detection if config is not None else None
    options = EndpointingOptions()
    if detection is None:
        return options
    if detection.silence_duration_ms is not None:
        return after_silence(detection.silence_duration_ms)
    longest = _PAUSES.get(detection.end_of_speech_sensitivity or "")
    if longest is None:
        return options
    return msgspec.structs.replace(options, longest_ms=longest, hard_max_ms=max(options.hard_max_ms, longest))
