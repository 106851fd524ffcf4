"""What a client of Nova Sonic asks for, as the definition of a session."""

from __future__ import annotations

import msgspec

from ..engine.endpointing import EndpointingOptions
from ..engine.limits import LimitOptions
from ..session.definition import Definition, TurnTaking
from ..session.toolbench import FillerOptions
from ..wire.nova_sonic import sequence as s
from ..wire.openai_realtime import FunctionTool
from .openai_tools import RemoteTools

#: speech over the agent that takes the floor, words or not. The client drops its audio at the first sign and for good, so that
#: there is no holding and resuming: what is taken for an interruption must be one
_YIELD_MS = 320.0
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
    return msgspec.structs.replace(
        definition,
        turn_taking=_turn_taking(options, options.endpointing),
        limits=msgspec.structs.replace(definition.limits, upstream_s=max(_UPSTREAM_S, definition.limits.upstream_s)),
    )


def as_model(definition: Definition, asked: Wanted, remote: RemoteTools) -> Definition:
    """Only the agent's model: everything else is the client's. Raises ToolError for tools that cannot be."""
    known = definition.model.capabilities.voices
    options = TurnTaking()
    endpointing = options.endpointing
    if asked.sensitivity is not None:
        pause = _PAUSES[asked.sensitivity]
        endpointing = EndpointingOptions(longest_ms=pause, hard_max_ms=max(pause, endpointing.hard_max_ms))
    return Definition(
        name=definition.name,
        model=definition.model,
        instructions=asked.instructions,
        tools=remote.tools(asked.tools),
        voice=asked.voice if asked.voice in known else definition.voice,
        language=definition.language,
        greeting="",
        farewell="",
        apology="",
        idle_prompt="",
        turn_taking=_turn_taking(options, endpointing),
        limits=LimitOptions(idle_s=0.0, upstream_s=_UPSTREAM_S, max_response_s=600.0),
        filler=FillerOptions(after_s=0.0),
    )


def _turn_taking(options: TurnTaking, endpointing: EndpointingOptions) -> TurnTaking:
    interruption = msgspec.structs.replace(
        options.interruption, duck_db=0.0, pause_ms=1e9, yield_ms=min(options.interruption.yield_ms, _YIELD_MS)
    )
    return TurnTaking(endpointing=endpointing, interruption=interruption)
