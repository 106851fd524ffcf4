"""The language model component of a cascade: messages and tools in, text and tool calls out, streamed.

Anything with :class:`LLM`'s shape will do. `generate` is an async generator: closing it (`aclose`, or cancelling the
task that iterates) stops the generation promptly and frees what it held, which is how a barge-in reaches the model.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

from duologue.tools.base import ToolResult, ToolSpec

type Role = Literal["system", "user", "assistant", "tool"]
type FinishReason = Literal["stop", "tool_calls", "length", "content_filter"]


class TextDelta(msgspec.Struct, frozen=True, kw_only=True, tag="text.delta"):
    """The next piece of the answer, to be spoken."""

    text: str


class ToolCallRequest(msgspec.Struct, frozen=True, kw_only=True, tag="tool.call"):
    """A complete request to run a tool; `arguments` is JSON text, unchecked."""

    id: str
    name: str
    arguments: str = "{}"


class Usage(msgspec.Struct, frozen=True, kw_only=True, tag="usage"):
    """Tokens of this generation, as the model counts them. `cached_tokens` are part of `input_tokens`."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """Always the last event of a generation that was neither closed nor failed."""

    reason: FinishReason = "stop"


type LLMEvent = TextDelta | ToolCallRequest | Usage | Finished


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the conversation.

    `tool_calls` belongs to `assistant`; `tool_call_id`, `name` and `is_error` to `tool`, whose `content` is a plain
    string or JSON text (:meth:`duologue.tools.ToolResult.text`).
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCallRequest, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    is_error: bool = False

    @classmethod
    def from_result(cls, result: ToolResult) -> Message:
        """The message that tells a model how a tool run ended."""
        return cls(
            role="tool",
            content=result.text(),
            tool_call_id=result.id,
            name=result.name,
            is_error=result.status != "ok",
        )


class GenerateOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to generate; None leaves a value to the model.

    Attributes:
        temperature: 0 is the most predictable.
        max_tokens: at most this many tokens of answer.
        stop: texts that end the answer.
        tool_choice: whether the model may (`auto`), may not (`none`) or must (`required`) call a tool.
        first_token_timeout_s: seconds until the first event, then ModelConnectionError.
        stall_timeout_s: seconds between two events, then ModelConnectionError.
    """

    temperature: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    first_token_timeout_s: float = 20.0
    stall_timeout_s: float = 15.0


DEFAULT_OPTIONS = GenerateOptions()


@runtime_checkable
class LLM(Protocol):
    """A language model, or something that answers in its place and says so (`is_language_model`)."""

    @property
    def name(self) -> str:
        """Short name for logs and turn records, such as `ollama/llama3.2`."""

    @property
    def is_language_model(self) -> bool:
        """False for what only matches phrases; terminal, page and README then say so."""

    def describe(self) -> str:
        """One line that tells people what answers, and, where it is no language model, how to change that."""

    def generate(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, options: GenerateOptions = DEFAULT_OPTIONS
    ) -> AsyncGenerator[LLMEvent, None]:
        """Answer the conversation. One :class:`Finished` comes last.

        Raises (while iterating):
            ModelError: or a subclass, saying whether to retry, to change credentials, or to change the request.
        """

    async def warm_up(self) -> None:
        """Load or connect ahead of the first turn. Safe to call twice."""

    async def aclose(self) -> None:
        """Let go of connections, threads and memory."""
