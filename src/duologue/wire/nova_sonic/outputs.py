"""What the model sends: each is ``{"event": {NAME: {…}}}``. Names and fields are the vendor's (`docs/models.md`)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from .inputs import Kind

StopReason = Literal["PARTIAL_TURN", "END_TURN", "INTERRUPTED", "TOOL_USE"]
Stage = Literal["SPECULATIVE", "FINAL"]

#: content of the text block that says that the user has interrupted, with the spaces that the service puts; clients
#: compare it as a string
INTERRUPTED = '{ "interrupted" : true }'


class Output(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of the events. Every one of them carries these ids, but for the few that the service leaves out."""

    #: the event's name on the wire
    event: ClassVar[str] = ""
    session_id: str = ""
    prompt_name: str = ""
    completion_id: str = ""


class CompletionStart(Output, frozen=True, kw_only=True):
    """The model has begun. One spans the whole session on the live service."""

    event: ClassVar[str] = "completionStart"


class UserSpeechStart(Output, frozen=True, kw_only=True):
    """The user was heard to begin, so far into the audio that was sent. Undocumented; no completion id."""

    event: ClassVar[str] = "userSpeechStart"
    input_audio_offset_ms: float = 0.0


class UserSpeechEnd(Output, frozen=True, kw_only=True):
    """The user was heard to end, and when that was noticed. Undocumented; no completion id."""

    event: ClassVar[str] = "userSpeechEnd"
    input_audio_offset_ms: float = 0.0
    input_audio_detection_offset_ms: float = 0.0


class ContentStart(Output, frozen=True, kw_only=True):
    """Opens a block. `additional_model_fields` is JSON *text* and may be missing."""

    event: ClassVar[str] = "contentStart"
    content_id: str
    type: Kind
    role: str = ""
    text_output_configuration: dict[str, Any] | None = None
    audio_output_configuration: dict[str, Any] | None = None
    tool_use_output_configuration: dict[str, Any] | None = None
    additional_model_fields: str | None = None

    @property
    def stage(self) -> Stage | None:
        """Whether the text is a plan (SPECULATIVE) or a record (FINAL); None if it does not say."""
        if self.additional_model_fields is None:
            return None
        try:
            return msgspec.json.decode(self.additional_model_fields, type=_ModelFields).generation_stage
        except (msgspec.MsgspecError, RecursionError):
            return None

    @property
    def sample_rate(self) -> int | None:
        """Hz of the audio of an AUDIO block, if it says so."""
        rate = (self.audio_output_configuration or {}).get("sampleRateHertz")
        return rate if isinstance(rate, int) and not isinstance(rate, bool) else None


class _ModelFields(msgspec.Struct, rename="camel"):
    generation_stage: Stage | None = None


class TextOutput(Output, frozen=True, kw_only=True):
    """Text of a block."""

    event: ClassVar[str] = "textOutput"
    content_id: str
    content: str
    role: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether it is no text at all but the mark of an interruption, with whatever spaces."""
        if "interrupted" not in self.content or not self.content.lstrip().startswith("{"):
            return False
        try:
            return bool(msgspec.json.decode(self.content) == {"interrupted": True})
        except (msgspec.MsgspecError, RecursionError):
            return False


class AudioOutput(Output, frozen=True, kw_only=True):
    """Audio of a block."""

    event: ClassVar[str] = "audioOutput"
    content_id: str
    content: bytes
    role: str = ""


class ToolUse(Output, frozen=True, kw_only=True):
    """The model wants a tool run. `content` is its arguments as JSON text."""

    event: ClassVar[str] = "toolUse"
    content_id: str
    tool_name: str
    tool_use_id: str
    content: str = "{}"
    role: str = ""


class ContentEnd(Output, frozen=True, kw_only=True):
    """Closes a block. The turn is over at END_TURN of an AUDIO block."""

    event: ClassVar[str] = "contentEnd"
    content_id: str
    type: Kind | None = None
    stop_reason: str | None = None


class UsageEvent(Output, frozen=True, kw_only=True):
    """Tokens counted so far; `details` holds what came since the last one (`delta`) and in all (`total`)."""

    event: ClassVar[str] = "usageEvent"
    total_input_tokens: int = 0
    total_output_tokens: int = 0
    total_tokens: int = 0
    details: dict[str, Any] | None = None


class CompletionEnd(Output, frozen=True, kw_only=True):
    """The model has ended. On the live service only after `promptEnd`: it is no end of a turn."""

    event: ClassVar[str] = "completionEnd"
    stop_reason: str | None = None


class UnknownOutput(Output, frozen=True, kw_only=True):
    """An event of a name that we do not know; it means nothing to us."""

    name: str
    body: bytes = b""


OUTPUTS: dict[str, type[Output]] = {
    kind.event: kind
    for kind in (
        CompletionStart,
        UserSpeechStart,
        UserSpeechEnd,
        ContentStart,
        TextOutput,
        AudioOutput,
        ToolUse,
        ContentEnd,
        UsageEvent,
        CompletionEnd,
    )
}
