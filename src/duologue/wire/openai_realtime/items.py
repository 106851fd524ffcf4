"""Items of a conversation, responses and usage: the objects that events of both sides carry.

Source: OpenAI's published API types (openai-python 3.52, `types/realtime`). Objects are one struct each with optional fields, so
that an item of a kind that is not known here passes through; what a client may create is checked by :mod:`.server`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

ResponseStatus = Literal["in_progress", "completed", "cancelled", "failed", "incomplete"]


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of a message: `input_text`, `input_audio`, `input_image`, `output_text` or `output_audio`.

    In events about a response's parts the types are `text` and `audio` instead. `audio` is base64 in JSON.
    """

    type: str
    text: str | UnsetType = UNSET
    audio: bytes | UnsetType | None = UNSET
    transcript: str | UnsetType | None = UNSET
    image_url: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entry of the conversation: `message`, `function_call`, `function_call_output`, or another kind (`mcp_*`)."""

    type: str
    id: str | None = None
    object: str | UnsetType = UNSET
    status: str | None = None
    role: str | UnsetType = UNSET
    content: list[Part] | UnsetType = UNSET
    name: str | UnsetType = UNSET
    call_id: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    output: str | UnsetType = UNSET

    @property
    def parts(self) -> list[Part]:
        """The content, empty where there is none."""
        return self.content or []

    @property
    def text(self) -> str:
        """What the message says, in text or as the transcript of its audio."""
        return " ".join(text for part in self.parts if (text := part.text or part.transcript))


class TokenDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens by kind."""

    text_tokens: int = 0
    audio_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    cached_tokens_details: dict[str, int] | None = None


class OutputTokenDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens by kind."""

    text_tokens: int = 0
    audio_tokens: int = 0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a response cost."""

    total_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    input_token_details: TokenDetails | None = None
    output_token_details: OutputTokenDetails | None = None


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong. `event_id` is that of the client's event at fault, if it had one."""

    type: str = "invalid_request_error"
    code: str | None = None
    message: str = ""
    param: str | None = None
    event_id: str | None = None


class StatusError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a response failed."""

    type: str | None = None
    code: str | None = None
    message: str | None = None


class StatusDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a response is not `completed`: `turn_detected`, `client_cancelled`, `max_output_tokens`, `content_filter`, an error."""

    type: str | None = None
    reason: str | None = None
    error: StatusError | None = None


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of the model. `metadata` is what the client sent with its request; clients match answers by it."""

    id: str
    object: str = "realtime.response"
    status: str = "in_progress"
    status_details: StatusDetails | None = None
    output: list[Item] = []
    conversation_id: str | None = None
    output_modalities: list[str] | None = None
    max_output_tokens: int | str | None = None
    audio: dict[str, Any] | None = None
    usage: Usage | None = None
    metadata: dict[str, Any] | None = None


class RateLimit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is left of a limit."""

    name: str | None = None
    limit: int | None = None
    remaining: int | None = None
    reset_seconds: float | None = None
