"""Every event of OpenAI Realtime (GA), both directions, as typed structs tagged by `type`.

Fields and names: OpenAI's published API types (openai-python 3.52); those of MCP and telephony that nothing here acts on reach a
client as :class:`UnknownEvent`, as does whatever the vendor adds.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from .config import FunctionChoice, McpChoice, Modalities, OutputPatch, SessionPatch, Tool
from .items import ErrorDetail, Item, Part, RateLimit, Response

# ---------------------------------------------------------------------- from the client


class ClientEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of what a client sends. `event_id` is echoed by an error that the event causes."""

    event_id: str | None = None


class SessionUpdate(ClientEvent, frozen=True, kw_only=True, tag="session.update"):
    """Change the session."""

    session: SessionPatch


class InputAudioAppend(ClientEvent, frozen=True, kw_only=True, tag="input_audio_buffer.append"):
    """User audio in the session's input format. Not acknowledged."""

    audio: bytes


class InputAudioCommit(ClientEvent, frozen=True, kw_only=True, tag="input_audio_buffer.commit"):
    """What the input buffer holds is a user message."""


class InputAudioClear(ClientEvent, frozen=True, kw_only=True, tag="input_audio_buffer.clear"):
    """Forget what the input buffer holds."""


class OutputAudioClear(ClientEvent, frozen=True, kw_only=True, tag="output_audio_buffer.clear"):
    """Stop playback (WebRTC and SIP, where the server plays)."""


class ItemCreate(ClientEvent, frozen=True, kw_only=True, tag="conversation.item.create"):
    """Put an item into the conversation, behind `previous_item_id` ("root": first; None: last)."""

    item: Item
    previous_item_id: str | None = None


class ItemRetrieve(ClientEvent, frozen=True, kw_only=True, tag="conversation.item.retrieve"):
    """Show an item."""

    item_id: str


class ItemDelete(ClientEvent, frozen=True, kw_only=True, tag="conversation.item.delete"):
    """Take an item out."""

    item_id: str


class ItemTruncate(ClientEvent, frozen=True, kw_only=True, tag="conversation.item.truncate"):
    """The user heard only the first `audio_end_ms` of an answer."""

    item_id: str
    content_index: int
    audio_end_ms: int


class ResponseAudioConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Output of one response."""

    output: OutputPatch | UnsetType = UNSET


class ResponseParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one response does otherwise than the session. `instructions` replace the session's; `metadata` comes back with it."""

    instructions: str | None = None
    output_modalities: Modalities | None = None
    audio: ResponseAudioConfig | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | McpChoice | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    conversation: str | None = None
    input: list[Item] | None = None
    metadata: dict[str, Any] | None = None
    prompt: Any = None
    reasoning: Any = None
    parallel_tool_calls: bool | None = None


class ResponseCreate(ClientEvent, frozen=True, kw_only=True, tag="response.create"):
    """Answer now."""

    response: ResponseParams | None = None


class ResponseCancel(ClientEvent, frozen=True, kw_only=True, tag="response.cancel"):
    """Stop answering."""

    response_id: str | None = None


AnyClientEvent = (
    SessionUpdate
    | InputAudioAppend
    | InputAudioCommit
    | InputAudioClear
    | OutputAudioClear
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
)

# ---------------------------------------------------------------------- from the server


class ServerEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of what a server sends."""

    event_id: str = ""


class ErrorReported(ServerEvent, frozen=True, kw_only=True, tag="error"):
    """Something the client sent, or the server itself, is at fault. The session goes on."""

    error: ErrorDetail


class SessionCreated(ServerEvent, frozen=True, kw_only=True, tag="session.created"):
    """First of all events: the session as it is."""

    session: dict[str, Any]


class SessionUpdated(ServerEvent, frozen=True, kw_only=True, tag="session.updated"):
    """The whole session after an update."""

    session: dict[str, Any]


class ItemAdded(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.added"):
    """An item has its place; an answer's is still empty."""

    item: Item
    previous_item_id: str | None = None


class ItemDone(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.done"):
    """The item is whole."""

    item: Item
    previous_item_id: str | None = None


class ItemRetrieved(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.retrieved"):
    """The item asked for."""

    item: Item


class ItemDeleted(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.deleted"):
    """The item is gone."""

    item_id: str


class ItemTruncated(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.truncated"):
    """The answer ends there; its transcript is gone with the rest."""

    item_id: str
    content_index: int
    audio_end_ms: int


class TranscriptionDelta(
    ServerEvent, frozen=True, kw_only=True, tag="conversation.item.input_audio_transcription.delta"
):
    """More of what the user said."""

    item_id: str
    content_index: int = 0
    delta: str | None = None


class TranscriptionCompleted(
    ServerEvent, frozen=True, kw_only=True, tag="conversation.item.input_audio_transcription.completed"
):
    """What the user said. Comes when it is ready, often after the answer."""

    item_id: str
    transcript: str
    content_index: int = 0
    usage: dict[str, Any] | None = None


class TranscriptionFailed(
    ServerEvent, frozen=True, kw_only=True, tag="conversation.item.input_audio_transcription.failed"
):
    """What the user said could not be transcribed; the answer does not depend on it."""

    item_id: str
    error: ErrorDetail
    content_index: int = 0


class InputSpeechStarted(ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.speech_started"):
    """The user speaks. Milliseconds count the audio written to this session."""

    audio_start_ms: int
    item_id: str


class InputSpeechStopped(ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.speech_stopped"):
    """The user fell silent."""

    audio_end_ms: int
    item_id: str


class InputCommitted(ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.committed"):
    """The input buffer became the user message `item_id`."""

    item_id: str
    previous_item_id: str | None = None


class InputCleared(ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.cleared"):
    """The input buffer is empty."""


class InputTimeout(ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.timeout_triggered"):
    """Nobody spoke for `idle_timeout_ms`: the model will."""

    audio_start_ms: int
    audio_end_ms: int
    item_id: str


class ResponseCreated(ServerEvent, frozen=True, kw_only=True, tag="response.created"):
    """A response begins."""

    response: Response


class ResponseDone(ServerEvent, frozen=True, kw_only=True, tag="response.done"):
    """A response is made, or was ended."""

    response: Response


class _OfItem(ServerEvent, frozen=True, kw_only=True):
    response_id: str
    item_id: str
    output_index: int = 0


class _OfPart(_OfItem, frozen=True, kw_only=True):
    content_index: int = 0


class OutputItemAdded(ServerEvent, frozen=True, kw_only=True, tag="response.output_item.added"):
    """The response makes an item."""

    response_id: str
    output_index: int
    item: Item


class OutputItemDone(ServerEvent, frozen=True, kw_only=True, tag="response.output_item.done"):
    """The item is whole."""

    response_id: str
    output_index: int
    item: Item


class ContentPartAdded(_OfPart, frozen=True, kw_only=True, tag="response.content_part.added"):
    """The item has a part (its type is `audio` or `text` here, `output_audio` or `output_text` in the item)."""

    part: Part


class ContentPartDone(_OfPart, frozen=True, kw_only=True, tag="response.content_part.done"):
    """The part is whole."""

    part: Part


class TextDelta(_OfPart, frozen=True, kw_only=True, tag="response.output_text.delta"):
    """More text of a text answer."""

    delta: str


class TextDone(_OfPart, frozen=True, kw_only=True, tag="response.output_text.done"):
    """All its text."""

    text: str


class TranscriptDelta(_OfPart, frozen=True, kw_only=True, tag="response.output_audio_transcript.delta"):
    """More of what the audio says."""

    delta: str


class TranscriptDone(_OfPart, frozen=True, kw_only=True, tag="response.output_audio_transcript.done"):
    """All that the audio says."""

    transcript: str


class AudioDelta(_OfPart, frozen=True, kw_only=True, tag="response.output_audio.delta"):
    """More audio, in the session's output format."""

    delta: bytes


class AudioDone(_OfPart, frozen=True, kw_only=True, tag="response.output_audio.done"):
    """No more audio."""


class ArgumentsDelta(_OfItem, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"):
    """More of a call's arguments."""

    call_id: str
    delta: str


class ArgumentsDone(_OfItem, frozen=True, kw_only=True, tag="response.function_call_arguments.done"):
    """All arguments of a call."""

    call_id: str
    arguments: str
    name: str = ""


class RateLimitsUpdated(ServerEvent, frozen=True, kw_only=True, tag="rate_limits.updated"):
    """What is left of the limits."""

    rate_limits: list[RateLimit]


class UnknownEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that this version does not know, as it came."""

    type: str
    raw: dict[str, Any]


AnyServerEvent = (
    ErrorReported
    | SessionCreated
    | SessionUpdated
    | ItemAdded
    | ItemDone
    | ItemRetrieved
    | ItemDeleted
    | ItemTruncated
    | TranscriptionDelta
    | TranscriptionCompleted
    | TranscriptionFailed
    | InputSpeechStarted
    | InputSpeechStopped
    | InputCommitted
    | InputCleared
    | InputTimeout
    | ResponseCreated
    | ResponseDone
    | OutputItemAdded
    | OutputItemDone
    | ContentPartAdded
    | ContentPartDone
    | TextDelta
    | TextDone
    | TranscriptDelta
    | TranscriptDone
    | AudioDelta
    | AudioDone
    | ArgumentsDelta
    | ArgumentsDone
    | RateLimitsUpdated
)
