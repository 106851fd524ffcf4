"""The session's configuration: what a client may send of it, and what is in force.

A `session.update` is partial: what it leaves out stays, `null`, "" and [] clear. A turn detection or transcription that it names
replaces the one before, with the defaults of its own fields. A field that does not exist is refused, as the vendor does.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

VOICES = ("alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar")
Modalities = list[Literal["audio", "text"]]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of what is configured: no field passes unnoticed."""


class AudioFormat(_Strict, frozen=True, kw_only=True):
    """`audio/pcm` (PCM16 mono at 24 kHz and nothing else), `audio/pcmu` or `audio/pcma` (G.711 at 8 kHz)."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: int | UnsetType = UNSET

    @property
    def hz(self) -> int:
        """Samples a second."""
        return 24_000 if self.type == "audio/pcm" else 8_000


PCM = AudioFormat(type="audio/pcm", rate=24_000)


class ServerVAD(_Strict, frozen=True, kw_only=True, tag_field="type", tag="server_vad", omit_defaults=False):
    """Turns end after a silence."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    idle_timeout_ms: int | None = None
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVAD(_Strict, frozen=True, kw_only=True, tag_field="type", tag="semantic_vad", omit_defaults=False):
    """Turns end when what was said is complete."""

    eagerness: Literal["auto", "low", "medium", "high"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


TurnDetection = ServerVAD | SemanticVAD


class NoiseReduction(_Strict, frozen=True, kw_only=True):
    """Filters the input before detection and model."""

    type: Literal["near_field", "far_field"]
    strength: float | UnsetType = UNSET


class Transcription(_Strict, frozen=True, kw_only=True):
    """Transcribes the input, beside the model and later than it."""

    model: str = "gpt-4o-mini-transcribe"
    language: str | UnsetType | None = UNSET
    prompt: str | UnsetType | None = UNSET
    delay: Any = UNSET
    keywords: Any = UNSET


class FunctionTool(_Strict, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """A function that the client runs."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] = {}
    strict: bool | None = None


class McpTool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="mcp"):
    """An MCP server that the provider calls itself."""

    server_label: str
    server_url: str | None = None


Tool = FunctionTool | McpTool


class FunctionChoice(_Strict, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """This function must be called."""

    name: str


class McpChoice(_Strict, frozen=True, kw_only=True, tag_field="type", tag="mcp"):
    """This server must be used."""

    server_label: str
    name: str | None = None


ToolChoice = Literal["none", "auto", "required"] | FunctionChoice | McpChoice


class VoiceId(_Strict, frozen=True, kw_only=True):
    """A voice of the customer's own."""

    id: str


class InputPatch(_Strict, frozen=True, kw_only=True):
    """Input audio, in part."""

    format: AudioFormat | UnsetType | None = UNSET
    noise_reduction: NoiseReduction | UnsetType | None = UNSET
    transcription: Transcription | UnsetType | None = UNSET
    turn_detection: TurnDetection | UnsetType | None = UNSET


class OutputPatch(_Strict, frozen=True, kw_only=True):
    """Output audio, in part."""

    format: AudioFormat | UnsetType | None = UNSET
    voice: str | VoiceId | UnsetType = UNSET
    speed: float | UnsetType = UNSET


class AudioPatch(_Strict, frozen=True, kw_only=True):
    """Audio, in part."""

    input: InputPatch | UnsetType = UNSET
    output: OutputPatch | UnsetType = UNSET


class SessionPatch(_Strict, frozen=True, kw_only=True):
    """What a `session.update` carries. Fields that only the server sets are taken and ignored: clients return them."""

    type: Literal["realtime", "transcription"] | UnsetType = UNSET
    model: str | UnsetType = UNSET
    output_modalities: Modalities | UnsetType = UNSET
    instructions: str | UnsetType | None = UNSET
    audio: AudioPatch | UnsetType = UNSET
    tools: list[Tool] | UnsetType | None = UNSET
    tool_choice: ToolChoice | UnsetType = UNSET
    max_output_tokens: int | Literal["inf"] | UnsetType | None = UNSET
    truncation: Any = UNSET
    tracing: Any = UNSET
    prompt: Any = UNSET
    include: list[str] | UnsetType | None = UNSET
    reasoning: Any = UNSET
    parallel_tool_calls: bool | UnsetType | None = UNSET
    id: Any = UNSET
    object: Any = UNSET
    expires_at: Any = UNSET


class AudioInputConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Input audio in force."""

    format: AudioFormat = PCM
    transcription: Transcription | None = None
    noise_reduction: NoiseReduction | None = None
    turn_detection: TurnDetection | None = ServerVAD()


class AudioOutputConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Output audio in force."""

    format: AudioFormat = PCM
    voice: str | VoiceId = "alloy"
    speed: float = 1.0


class AudioConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Audio in force."""

    input: AudioInputConfig = AudioInputConfig()
    output: AudioOutputConfig = AudioOutputConfig()


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The whole session as it is in force, as `session.created` and `session.updated` show it."""

    id: str
    model: str
    type: str = "realtime"
    object: str = "realtime.session"
    output_modalities: Modalities = msgspec.field(default_factory=lambda: ["audio"])
    instructions: str = ""
    tools: list[Tool] = []
    tool_choice: ToolChoice = "auto"
    max_output_tokens: int | Literal["inf"] = "inf"
    tracing: Any = None
    prompt: Any = None
    expires_at: int = 0
    truncation: Any = "auto"
    include: list[str] | None = None
    reasoning: Any = None
    parallel_tool_calls: bool | None = None
    audio: AudioConfig = AudioConfig()

    @property
    def turn_detection(self) -> TurnDetection | None:
        """Who decides turns: None is the client."""
        return self.audio.input.turn_detection

    @property
    def voice(self) -> str:
        """Name of the voice."""
        voice = self.audio.output.voice
        return voice if isinstance(voice, str) else voice.id


_READ_ONLY = frozenset({"id", "object", "expires_at", "type", "model", "audio"})
_CLEARED: dict[str, Any] = {
    "instructions": "",
    "tools": [],
    "max_output_tokens": "inf",
}


def applied(session: SessionConfig, patch: SessionPatch) -> SessionConfig:
    """`session` after `patch`. The model cannot be changed, and a patch that names one (as clients do) changes nothing by it."""
    changes: dict[str, Any] = {}
    for name in patch.__struct_fields__:
        value = getattr(patch, name)
        if value is UNSET or name in _READ_ONLY:
            continue
        changes[name] = _CLEARED.get(name) if value is None else value
    if patch.audio is not UNSET:
        audio = session.audio
        if patch.audio.input is not UNSET:
            audio = msgspec.structs.replace(audio, input=_merged(audio.input, patch.audio.input))
        if patch.audio.output is not UNSET:
            audio = msgspec.structs.replace(audio, output=_merged(audio.output, patch.audio.output))
        changes["audio"] = audio
    return msgspec.structs.replace(session, **changes)


def _merged[T: msgspec.Struct](config: T, patch: msgspec.Struct) -> T:
    changes = {name: value for name in patch.__struct_fields__ if (value := getattr(patch, name)) is not UNSET}
    if changes.get("format", PCM) is None:
        changes["format"] = PCM
    return msgspec.structs.replace(config, **changes)
