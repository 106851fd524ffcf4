"""Messages of both sides. Sources: google-genai 3.4 (`types`, `live`), Google's Live API reference.

What a client sends is checked strictly (a field that does not exist is refused, as the service does); what a server sends is read
leniently, since the vendor adds fields. Objects that are only passed on stay plain mappings.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Empty = dict[str, Any]


class Strict(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """Base of what clients send."""


class Lenient(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of what servers send."""


# ---------------------------------------------------------------------- in both


class Blob(Lenient, frozen=True, kw_only=True):
    """Media. Audio is PCM16 little-endian mono, ``audio/pcm;rate=16000``; the rate may be any that the MIME type states."""

    mime_type: str = ""
    data: bytes = b""
    display_name: str | None = None


class FunctionCall(Lenient, frozen=True, kw_only=True):
    """The model wants a function called. The keys of `args` are the application's."""

    name: str = ""
    id: str = ""
    args: dict[str, Any] | None = None
    will_continue: bool = False
    partial_args: list[Any] | None = None


Scheduling = Literal["SCHEDULING_UNSPECIFIED", "INTERRUPT", "WHEN_IDLE", "SILENT"]


class FunctionResponse(Lenient, frozen=True, kw_only=True):
    """A function's result. `id` is that of the call. `will_continue`: more results of the same call follow."""

    id: str = ""
    name: str = ""
    response: dict[str, Any] | None = None
    scheduling: Scheduling | None = None
    will_continue: bool = False
    parts: list[Any] | None = None


class Part(Lenient, frozen=True, kw_only=True):
    """A piece of a content. `thought`: the model's reasoning, which nobody is to hear."""

    text: str | None = None
    thought: bool = False
    inline_data: Blob | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    file_data: dict[str, Any] | None = None
    thought_signature: bytes | None = None


class Content(Lenient, frozen=True, kw_only=True):
    """A turn: of the user, or of the model."""

    parts: list[Part] = []
    role: str = "user"

    @property
    def text(self) -> str:
        """Its text, thoughts aside."""
        return "".join(part.text for part in self.parts if part.text and not part.thought)


# ---------------------------------------------------------------------- setup

StartSensitivity = Literal["START_SENSITIVITY_UNSPECIFIED", "START_SENSITIVITY_HIGH", "START_SENSITIVITY_LOW"]
EndSensitivity = Literal["END_SENSITIVITY_UNSPECIFIED", "END_SENSITIVITY_HIGH", "END_SENSITIVITY_LOW"]
ActivityHandling = Literal["ACTIVITY_HANDLING_UNSPECIFIED", "START_OF_ACTIVITY_INTERRUPTS", "NO_INTERRUPTION"]
TurnCoverage = Literal[
    "TURN_COVERAGE_UNSPECIFIED",
    "TURN_INCLUDES_ONLY_ACTIVITY",
    "TURN_INCLUDES_ALL_INPUT",
    "TURN_INCLUDES_AUDIO_ACTIVITY_AND_ALL_VIDEO",
]
MediaResolution = Literal[
    "MEDIA_RESOLUTION_UNSPECIFIED", "MEDIA_RESOLUTION_LOW", "MEDIA_RESOLUTION_MEDIUM", "MEDIA_RESOLUTION_HIGH"
]
ThinkingLevel = Literal["THINKING_LEVEL_UNSPECIFIED", "MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH"]
Modality = Literal["MODALITY_UNSPECIFIED", "TEXT", "IMAGE", "AUDIO", "VIDEO"]
Behavior = Literal["UNSPECIFIED", "BLOCKING", "NON_BLOCKING"]


class PrebuiltVoiceConfig(Strict, frozen=True, kw_only=True):
    """One of the vendor's voices."""

    voice_name: str = ""


class VoiceConfig(Strict, frozen=True, kw_only=True):
    """A voice."""

    prebuilt_voice_config: PrebuiltVoiceConfig | None = None
    replicated_voice_config: dict[str, Any] | None = None
    voice: str | None = None


class SpeechConfig(Strict, frozen=True, kw_only=True):
    """How the model sounds."""

    voice_config: VoiceConfig | None = None
    language_code: str | None = None
    multi_speaker_voice_config: dict[str, Any] | None = None


class ThinkingConfig(Strict, frozen=True, kw_only=True):
    """How much the model reasons. `thinking_budget`: tokens, 0 none, -1 as it likes (2.5); `thinking_level`: 3.x."""

    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: ThinkingLevel | None = None


class GenerationConfig(Strict, frozen=True, kw_only=True):
    """Sampling, speech and reasoning."""

    response_modalities: list[Modality] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    max_output_tokens: int | None = None
    candidate_count: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop_sequences: list[str] | None = None
    media_resolution: MediaResolution | None = None
    speech_config: SpeechConfig | None = None
    thinking_config: ThinkingConfig | None = None
    enable_affective_dialog: bool | None = None
    translation_config: dict[str, Any] | None = None
    audio_transcription_config: dict[str, Any] | None = None
    audio_timestamp: bool | None = None
    response_mime_type: str | None = None
    response_schema: Any = None
    response_json_schema: Any = None
    response_format: Any = None
    response_logprobs: bool | None = None
    logprobs: int | None = None
    routing_config: dict[str, Any] | None = None
    model_selection_config: dict[str, Any] | None = None
    enable_enhanced_civic_answers: bool | None = None


class FunctionDeclaration(Strict, frozen=True, kw_only=True):
    """A function. Parameters are an OpenAPI schema (types in capitals), or a JSON Schema in `parameters_json_schema`."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    parameters_json_schema: Any = None
    response: dict[str, Any] | None = None
    response_json_schema: Any = None
    behavior: Behavior | None = None


class Tool(Strict, frozen=True, kw_only=True):
    """Functions, or a tool that runs at the vendor."""

    function_declarations: list[FunctionDeclaration] | None = None
    google_search: dict[str, Any] | None = None
    google_search_retrieval: dict[str, Any] | None = None
    google_maps: dict[str, Any] | None = None
    code_execution: dict[str, Any] | None = None
    url_context: dict[str, Any] | None = None
    computer_use: dict[str, Any] | None = None
    file_search: dict[str, Any] | None = None
    retrieval: dict[str, Any] | None = None
    enterprise_web_search: dict[str, Any] | None = None
    parallel_ai_search: dict[str, Any] | None = None
    exa_ai_search: dict[str, Any] | None = None
    mcp_servers: list[dict[str, Any]] | None = None


class AutomaticActivityDetection(Strict, frozen=True, kw_only=True):
    """The service's turn detection. `disabled`: the client sends `activityStart` and `activityEnd` instead."""

    disabled: bool = False
    start_of_speech_sensitivity: StartSensitivity | None = None
    end_of_speech_sensitivity: EndSensitivity | None = None
    prefix_padding_ms: int | None = None
    silence_duration_ms: int | None = None


class RealtimeInputConfig(Strict, frozen=True, kw_only=True):
    """How input is taken."""

    automatic_activity_detection: AutomaticActivityDetection | None = None
    activity_handling: ActivityHandling | None = None
    turn_coverage: TurnCoverage | None = None
    interim_transcript_timestamp_enabled: bool | None = None


class SessionResumption(Strict, frozen=True, kw_only=True):
    """Asks for handles; with `handle` the session goes on where that was given. `transparent` is Vertex AI's alone."""

    handle: str | None = None
    transparent: bool | None = None


class SlidingWindow(Strict, frozen=True, kw_only=True):
    """What compression leaves, in tokens (default: half of the trigger)."""

    target_tokens: int | None = None


class ContextWindowCompression(Strict, frozen=True, kw_only=True):
    """Drops the oldest of the context from `trigger_tokens` on. Without it a session ends when its context is full."""

    trigger_tokens: int | None = None
    sliding_window: SlidingWindow | None = None


class Proactivity(Strict, frozen=True, kw_only=True):
    """The model may stay silent on what is not meant for it."""

    proactive_audio: bool | None = None
    proactive_video: bool | None = None


class HistoryConfig(Strict, frozen=True, kw_only=True):
    """`clientContent` up to the first `turnComplete` is history, and is not answered (3.x)."""

    initial_history_in_client_content: bool | None = None


class Setup(Strict, frozen=True, kw_only=True):
    """First message of a client."""

    model: str
    generation_config: GenerationConfig | None = None
    system_instruction: Content | None = None
    tools: list[Tool] | None = None
    realtime_input_config: RealtimeInputConfig | None = None
    session_resumption: SessionResumption | None = None
    context_window_compression: ContextWindowCompression | None = None
    input_audio_transcription: dict[str, Any] | None = None
    output_audio_transcription: dict[str, Any] | None = None
    proactivity: Proactivity | None = None
    explicit_vad_signal: bool | None = None
    history_config: HistoryConfig | None = None
    avatar_config: dict[str, Any] | None = None
    safety_settings: list[dict[str, Any]] | None = None
    labels: dict[str, str] | None = None

    @property
    def automatic(self) -> bool:
        """Whether the service decides turns."""
        config = self.realtime_input_config
        detection = config.automatic_activity_detection if config is not None else None
        return detection is None or not detection.disabled

    @property
    def interrupts(self) -> bool:
        """Whether the user's speech stops the model."""
        config = self.realtime_input_config
        return config is None or config.activity_handling != "NO_INTERRUPTION"

    @property
    def speaks(self) -> bool:
        """Whether answers are audio."""
        modalities = self.generation_config.response_modalities if self.generation_config is not None else None
        return not modalities or "AUDIO" in modalities

    @property
    def history_first(self) -> bool:
        """Whether `clientContent` begins with history."""
        return self.history_config is not None and bool(self.history_config.initial_history_in_client_content)

    @property
    def functions(self) -> list[FunctionDeclaration]:
        """All functions declared."""
        return functions_of(self.tools or [])


def functions_of(tools: list[Tool]) -> list[FunctionDeclaration]:
    """The functions in these tools."""
    return [function for tool in tools for function in tool.function_declarations or []]


# ---------------------------------------------------------------------- from the client


class ClientContent(Strict, frozen=True, kw_only=True):
    """Turns, in order. Interrupts a generation. `turn_complete`: answer now."""

    turns: list[Content] = []
    turn_complete: bool = False


class RealtimeInput(Strict, frozen=True, kw_only=True):
    """What the user sends as it happens."""

    audio: Blob | None = None
    video: Blob | None = None
    text: str | None = None
    activity_start: Empty | None = None
    activity_end: Empty | None = None
    audio_stream_end: bool | None = None
    media_chunks: list[Blob] | None = None


class ToolResponse(Strict, frozen=True, kw_only=True):
    """Results of functions."""

    function_responses: list[FunctionResponse] = []


class ContextUpdateTools(Strict, frozen=True, kw_only=True):
    """The tools from now on; an empty list takes them away."""

    tools: list[Tool] = []


class ContextUpdate(Strict, frozen=True, kw_only=True):
    """Other instructions or tools in mid-session (from Gemini 3.8 on)."""

    system_instruction: Content | None = None
    tools: ContextUpdateTools | None = None


class ClientMessage(Strict, frozen=True, kw_only=True):
    """One frame of a client: exactly one of these."""

    setup: Setup | None = None
    client_content: ClientContent | None = None
    realtime_input: RealtimeInput | None = None
    tool_response: ToolResponse | None = None
    context_update: ContextUpdate | None = None


# ---------------------------------------------------------------------- from the server


class SetupComplete(Lenient, frozen=True, kw_only=True):
    """First message of a server."""

    session_id: str | None = None


class Transcription(Lenient, frozen=True, kw_only=True):
    """A piece of what was said. Not ordered against the audio, nor against turns."""

    text: str = ""
    finished: bool = False
    language_code: str | None = None


class ServerContent(Lenient, frozen=True, kw_only=True):
    """What the model makes, and how its turn goes. Several of these may come at once."""

    model_turn: Content | None = None
    input_transcription: Transcription | None = None
    interim_input_transcription: Transcription | None = None
    output_transcription: Transcription | None = None
    generation_complete: bool = False
    turn_complete: bool = False
    interrupted: bool = False
    waiting_for_input: bool = False
    turn_complete_reason: str | None = None
    interaction_status: str | None = None
    grounding_metadata: dict[str, Any] | None = None
    url_context_metadata: dict[str, Any] | None = None


class ToolCall(Lenient, frozen=True, kw_only=True):
    """Functions to be called."""

    function_calls: list[FunctionCall] = []


class ToolCallCancellation(Lenient, frozen=True, kw_only=True):
    """Results of these calls are not wanted any more."""

    ids: list[str] = []


class GoAway(Lenient, frozen=True, kw_only=True):
    """The connection will be closed. `time_left` is a protobuf Duration."""

    time_left: str = ""


class SessionResumptionUpdate(Lenient, frozen=True, kw_only=True):
    """`new_handle` resumes the session from here; it is empty while that cannot be done."""

    new_handle: str = ""
    resumable: bool = False
    last_consumed_client_message_index: str | int | None = None


class VoiceActivity(Lenient, frozen=True, kw_only=True):
    """The service's detection. `audio_offset` counts from the start of the audio."""

    voice_activity_type: str = ""
    audio_offset: str = ""


class ModalityTokenCount(Lenient, frozen=True, kw_only=True):
    """Tokens of one kind."""

    modality: str = ""
    token_count: int = 0


class UsageMetadata(Lenient, frozen=True, kw_only=True):
    """Tokens. May ride on any message."""

    prompt_token_count: int = 0
    response_token_count: int = 0
    total_token_count: int = 0
    cached_content_token_count: int = 0
    tool_use_prompt_token_count: int = 0
    thoughts_token_count: int = 0
    prompt_tokens_details: list[ModalityTokenCount] | None = None
    response_tokens_details: list[ModalityTokenCount] | None = None
    cache_tokens_details: list[ModalityTokenCount] | None = None
    tool_use_prompt_tokens_details: list[ModalityTokenCount] | None = None


class ServerMessage(Lenient, frozen=True, kw_only=True):
    """One frame of a server: any of these, several at once."""

    setup_complete: SetupComplete | None = None
    server_content: ServerContent | None = None
    tool_call: ToolCall | None = None
    tool_call_cancellation: ToolCallCancellation | None = None
    go_away: GoAway | None = None
    session_resumption_update: SessionResumptionUpdate | None = None
    voice_activity: VoiceActivity | None = None
    usage_metadata: UsageMetadata | None = None


_encoder = msgspec.json.Encoder()


def encode(message: ClientMessage | ServerMessage) -> bytes:
    """The JSON of a message."""
    return _encoder.encode(message)


#: the vendor's prebuilt voices
VOICES = (
    *("Achernar", "Achird", "Algenib", "Algieba", "Alnilam", "Aoede", "Autonoe", "Callirrhoe", "Charon", "Despina"),
    *("Enceladus", "Erinome", "Fenrir", "Gacrux", "Iapetus", "Kore", "Laomedeia", "Leda", "Orus", "Puck"),
    *("Pulcherrima", "Rasalgethi", "Sadachbia", "Sadaltager", "Schedar", "Sulafat", "Umbriel", "Vindemiatrix"),
    *("Zephyr", "Zubenelgenubi"),
)
