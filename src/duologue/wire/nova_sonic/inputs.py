"""What a client sends: each is ``{"event": {NAME: {…}}}``. Names and fields are the vendor's (`docs/models.md`).

Decoding is as tolerant as the vendor: unknown fields are ignored, whitespace does not matter, optional parts may be missing.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

Role = Literal["SYSTEM", "SYSTEM_SPEECH", "USER", "ASSISTANT", "TOOL"]
Kind = Literal["TEXT", "AUDIO", "TOOL"]
Sensitivity = Literal["HIGH", "MEDIUM", "LOW"]


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A part of an event. Fields that are None are left out."""


class Input(Part, frozen=True, kw_only=True):
    """Base of the events."""

    #: the event's name on the wire
    event: ClassVar[str] = ""


class InferenceConfiguration(Part, frozen=True, kw_only=True):
    """How to generate; what is missing is the model's own."""

    max_tokens: int | None = None
    top_p: float | None = None
    temperature: float | None = None


class TurnDetectionConfiguration(Part, frozen=True, kw_only=True):
    """How long a pause ends a turn: about 1.5 s (HIGH), 1.75 s (MEDIUM) or 2 s (LOW)."""

    endpointing_sensitivity: Sensitivity | None = None


class SessionStart(Input, frozen=True, kw_only=True):
    """First of all. The flat `endpointing_sensitivity` is the form of the first generation; later ones refuse it."""

    event: ClassVar[str] = "sessionStart"
    inference_configuration: InferenceConfiguration | None = None
    turn_detection_configuration: TurnDetectionConfiguration | None = None
    endpointing_sensitivity: Sensitivity | None = None


class _Always(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part whose defaults are sent too."""


class MediaType(_Always, frozen=True, kw_only=True):
    """``{"mediaType": …}``."""

    media_type: str = "text/plain"


class AudioFormat(_Always, frozen=True, kw_only=True):
    """PCM16 little-endian mono in base64 without a header."""

    media_type: str = "audio/lpcm"
    sample_rate_hertz: int = 16000
    sample_size_bits: int = 16
    channel_count: int = 1
    audio_type: str = "SPEECH"
    encoding: str = "base64"


class VoiceFormat(_Always, frozen=True, kw_only=True):
    """The audio that the model speaks, and its voice."""

    media_type: str = "audio/lpcm"
    sample_rate_hertz: int = 24000
    sample_size_bits: int = 16
    channel_count: int = 1
    voice_id: str = "matthew"
    encoding: str = "base64"
    audio_type: str = "SPEECH"


class InputSchema(Part, frozen=True, kw_only=True):
    """A JSON Schema: as text (all frameworks send it so) or as an object."""

    json: Any


class ToolSpec(Part, frozen=True, kw_only=True):
    """What the model is told about a tool."""

    name: str
    description: str | None = None
    input_schema: InputSchema | None = None

    def schema(self) -> dict[str, Any]:
        """The parameters as a JSON Schema of type object. Raises ValueError if they are none."""
        if self.input_schema is None:
            return {"type": "object", "properties": {}}
        value = self.input_schema.json
        if isinstance(value, str):
            try:
                value = msgspec.json.decode(value)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise ValueError(f"the schema of tool {self.name} is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ValueError(f"the schema of tool {self.name} is no object")
        return value


class Tool(Part, frozen=True, kw_only=True):
    """An entry of `ToolConfiguration.tools`."""

    tool_spec: ToolSpec


class NamedTool(Part, frozen=True, kw_only=True):
    """One tool by its name."""

    name: str


class ToolChoice(Part, frozen=True, kw_only=True):
    """`auto`, `any` (each an empty object) or one `tool`."""

    auto: dict[str, Any] | None = None
    any: dict[str, Any] | None = None
    tool: NamedTool | None = None


class ToolConfiguration(_Always, frozen=True, kw_only=True):
    """The tools; an empty list is none."""

    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | msgspec.UnsetType = msgspec.UNSET


class PromptStart(Input, frozen=True, kw_only=True):
    """Second: formats, voice and tools. All that follows carries `prompt_name`."""

    event: ClassVar[str] = "promptStart"
    prompt_name: str
    text_output_configuration: MediaType | None = None
    audio_output_configuration: VoiceFormat | None = None
    tool_use_output_configuration: MediaType | None = None
    tool_configuration: ToolConfiguration | None = None


class ToolResultConfiguration(_Always, frozen=True, kw_only=True):
    """Which tool use is answered."""

    tool_use_id: str
    type: str = "TEXT"
    text_input_configuration: MediaType = MediaType()


class ContentStart(Input, frozen=True, kw_only=True):
    """Opens a block of content. `interactive`: it is part of the conversation now, rather than of its past."""

    event: ClassVar[str] = "contentStart"
    prompt_name: str
    content_name: str
    type: Kind
    role: Role
    interactive: bool | None = None
    text_input_configuration: MediaType | None = None
    audio_input_configuration: AudioFormat | None = None
    tool_result_input_configuration: ToolResultConfiguration | None = None


class TextInput(Input, frozen=True, kw_only=True):
    """Text of an open TEXT block."""

    event: ClassVar[str] = "textInput"
    prompt_name: str
    content_name: str
    content: str


class AudioInput(Input, frozen=True, kw_only=True):
    """Audio of the open AUDIO block."""

    event: ClassVar[str] = "audioInput"
    prompt_name: str
    content_name: str
    content: bytes


class ToolResult(Input, frozen=True, kw_only=True):
    """What a tool answered, as JSON text, in an open TOOL block."""

    event: ClassVar[str] = "toolResult"
    prompt_name: str
    content_name: str
    content: str


class ContentEnd(Input, frozen=True, kw_only=True):
    """Closes a block."""

    event: ClassVar[str] = "contentEnd"
    prompt_name: str
    content_name: str


class PromptEnd(Input, frozen=True, kw_only=True):
    """Nothing more will be asked."""

    event: ClassVar[str] = "promptEnd"
    prompt_name: str


class SessionEnd(Input, frozen=True, kw_only=True):
    """The last event."""

    event: ClassVar[str] = "sessionEnd"


class ConnectionEnd(Input, frozen=True, kw_only=True):
    """What Strands sends in place of `sessionEnd`. No vendor's event; we accept it and never send it."""

    event: ClassVar[str] = "connectionEnd"


class UnknownInput(Input, frozen=True, kw_only=True):
    """An event of a name that we do not know; it is ignored."""

    name: str
    body: bytes = b""


INPUTS: dict[str, type[Input]] = {
    kind.event: kind
    for kind in (
        SessionStart,
        PromptStart,
        ContentStart,
        TextInput,
        AudioInput,
        ToolResult,
        ContentEnd,
        PromptEnd,
        SessionEnd,
        ConnectionEnd,
    )
}
