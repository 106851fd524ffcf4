"""What a client of Nova Sonic asks for, as the definition of a session."""

from __future__ import annotations

import msgspec

from ..engine.endpointing import EndpointingOptions
from ..session.definition import Definition, TurnTaking
from ..wire.nova_sonic import sequence as s
from ..wire.openai_realtime import FunctionTool
from .foreign import agent_of, model_of, turn_taking_of
from .openai_tools import RemoteTools

#: audio taken ahead of real time: a client that changes streams sends again what it has kept
_UPSTREAM_S = 300.0
#: pause that ends a turn, milliseconds (the vendor's figures)
_PAUSES = {"HIGH": 1500.0, "MEDIUM": 1750.0, "LOW": 2000.0}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a client's first events say."""

    instructions: str = ""
    voice: str | None = None
    sensitivity: str | None = None
    tools: tuple[FunctionTool, ...] = ()


def wanted(first: list[s.Taken]) -> Wanted:
    """Read a client's first events. Raises ValueError for a tool whose schema is none."""
    instructions: list[str] = []
    voice = sensitivity = None
    tools: tuple[FunctionTool, ...] = ()
    for taken in first:
        match taken:
            case s.SessionOpened():
                detection = taken.start.turn_detection_configuration
                sensitivity = taken.start.endpointing_sensitivity
                if detection is not None:
                    sensitivity = detection.endpointing_sensitivity
            case s.PromptOpened():
                audio = taken.prompt.audio_output_configuration
                voice = audio.voice_id if audio is not None else None
                config = taken.prompt.tool_configuration
                specs = [tool.tool_spec for tool in config.tools] if config is not None else []
                tools = tuple(
                    FunctionTool(name=spec.name, description=spec.description, parameters=spec.schema())
                    for spec in specs
                )
            case s.Instructed():
                instructions.append(taken.text)
    return Wanted(instructions="\n".join(instructions), voice=voice, sensitivity=sensitivity, tools=tools)


def as_agent(definition: Definition) -> Definition:
    """The agent as it is, over a wire whose client plays by itself."""
    options = definition.turn_taking
    return agent_of(definition, turn_taking_of(options, options.endpointing), _UPSTREAM_S)


def as_model(definition: Definition, asked: Wanted, remote: RemoteTools) -> Definition:
    """Only the agent's model: everything else is the client's. Raises ToolError for tools that cannot be."""
    options = TurnTaking()
    endpointing = options.endpointing
    if asked.sensitivity is not None:
        pause = _PAUSES[asked.sensitivity]
        endpointing = EndpointingOptions(longest_ms=pause, hard_max_ms=max(pause, endpointing.hard_max_ms))
    return model_of(
        definition,
        turn_taking_of(options, endpointing),
        _UPSTREAM_S,
        remote,
        instructions=asked.instructions,
        tools=asked.tools,
        voice=asked.voice,
    )
