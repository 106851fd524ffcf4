"""The chat completions format of OpenAI and of everything compatible with it, without I/O.

Requests: our messages and tools as JSON. Responses: streamed chunks, put together into our events; tool calls arrive in
pieces, several interleaved by index, and are given out whole when the answer ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from duologue.errors import (
    CredentialsError,
    ModelConnectionError,
    ModelError,
    ModelRequestError,
    ModelThrottledError,
)
from duologue.speech.llm.base import (
    Finished,
    FinishReason,
    GenerateOptions,
    LLMEvent,
    Message,
    TextDelta,
    ToolCallRequest,
    Usage,
)
from duologue.tools.base import ToolSpec

MAX_CALLS = 64
MAX_ARGUMENT_CHARS = 1024 * 1024


def request_body(
    model: str, messages: Sequence[Message], tools: Sequence[ToolSpec], options: GenerateOptions
) -> dict[str, Any]:
    """The JSON body of a streaming chat completion request."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if tools:
        body["tools"] = [_tool(tool) for tool in tools]
        if options.tool_choice != "auto":
            body["tool_choice"] = options.tool_choice
    for name in ("temperature", "max_tokens"):
        value = getattr(options, name)
        if value is not None:
            body[name] = value
    if options.stop:
        body["stop"] = list(options.stop)
    return body


def _message(message: Message) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "assistant" and message.tool_calls:
        entry["content"] = message.content or None
        entry["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments or "{}"},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        entry["tool_call_id"] = message.tool_call_id
        if message.is_error:
            entry["content"] = f"Error: {message.content}"
    return entry


def _tool(tool: ToolSpec) -> dict[str, Any]:
    description = tool.description
    if tool.examples:
        said = "; ".join(f'"{example}"' for example in tool.examples[:3])
        description = f"{description}\nA person may say: {said}".strip()
    return {
        "type": "function",
        "function": {"name": tool.name, "description": description, "parameters": tool.parameters},
    }


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _CallDelta(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Chunk)
_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _PartialCall:
    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.size = 0


class ChatStream:
    """Puts the chunks of one streamed answer together.

    Args:
        id_prefix: for tool calls to which the server gives no id; make it unique for the answer.
    """

    def __init__(self, id_prefix: str) -> None:
        self._id_prefix = id_prefix
        self._calls: list[_PartialCall] = []
        self._reason: FinishReason | None = None
        self._usage: _Usage | None = None
        self._done = False

    @property
    def ended(self) -> bool:
        """Whether the server said that the answer is complete."""
        return self._done or self._reason is not None

    @property
    def done(self) -> bool:
        """Whether nothing follows (`[DONE]`)."""
        return self._done

    def feed(self, data: str) -> list[LLMEvent]:
        """What one event's `data` gives at once: text. Calls, usage and the end come from :meth:`finish`.

        Raises:
            ModelError: the server reports an error in the stream, or sends what is no chunk.
        """
        if data.strip() == "[DONE]":
            self._done = True
            return []
        try:
            chunk = _DECODER.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ModelRequestError(
                f"The model server sent what is no chat completion chunk ({error}).",
                hint="Is it an OpenAI-compatible endpoint?",
            ) from None
        if chunk.error is not None:
            raise error_from_body(200, chunk.error)
        if chunk.usage is not None:
            self._usage = chunk.usage
        events: list[LLMEvent] = []
        for choice in (chunk.choices or ())[:1]:
            delta = choice.delta
            if delta is not None and delta.content:
                events.append(TextDelta(text=delta.content))
            for position, piece in enumerate((delta.tool_calls if delta else None) or ()):
                self._add(piece, position)
            if choice.finish_reason:
                self._reason = _REASONS.get(choice.finish_reason, "stop")
        return events

    def finish(self) -> list[LLMEvent]:
        """Tool calls, usage and :class:`Finished`; call it once the stream has ended.

        Raises:
            ModelConnectionError: the stream ended before the answer did.
        """
        if not self.ended:
            raise ModelConnectionError("The model server closed the stream in mid-answer.", hint="Try again.")
        events: list[LLMEvent] = []
        for number, call in enumerate(self._calls):
            if call.name:
                arguments = "".join(call.arguments).strip() or "{}"
                call_id = call.id or f"{self._id_prefix}_{number}"
                events.append(ToolCallRequest(id=call_id, name=call.name, arguments=arguments))
        if self._usage is not None:
            details = self._usage.prompt_tokens_details
            events.append(
                Usage(
                    input_tokens=self._usage.prompt_tokens or 0,
                    output_tokens=self._usage.completion_tokens or 0,
                    cached_tokens=(details.cached_tokens if details else None) or 0,
                )
            )
        called = any(isinstance(event, ToolCallRequest) for event in events)
        # some servers end with "stop" after tool calls
        reason = "tool_calls" if called and self._reason in (None, "stop") else self._reason or "stop"
        events.append(Finished(reason=reason))
        return events

    def _add(self, piece: _CallDelta, position: int) -> None:
        call = self._find(piece, position)
        if piece.id:
            call.id = piece.id
        if piece.function is None:
            return
        if piece.function.name and not call.name:
            call.name = piece.function.name
        arguments = piece.function.arguments
        if arguments:
            text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
            call.size += len(text)
            if call.size > MAX_ARGUMENT_CHARS:
                raise ModelRequestError("The model wrote more than 1 MB of arguments for one tool call.")
            call.arguments.append(text)

    def _find(self, piece: _CallDelta, position: int) -> _PartialCall:
        """The call that a piece belongs to. Servers that leave the index out send calls whole, each with its own id."""
        index = piece.index
        known: _PartialCall | None = None
        for call in self._calls:
            same_id = bool(piece.id) and call.id == piece.id
            if (index is not None and call.index == index and (not piece.id or not call.id or same_id)) or (
                index is None and (same_id or (not piece.id and call.index == position))
            ):
                known = call
        if known is None:
            if len(self._calls) >= MAX_CALLS:
                raise ModelRequestError(f"The model asked for more than {MAX_CALLS} tool calls at once.")
            known = _PartialCall(position if index is None else index)
            self._calls.append(known)
        return known


def error_from_body(status: int, body: Any) -> ModelError:
    """The typed error for what a server answered: an HTTP status and the decoded `error` of its body (or the body)."""
    if isinstance(body, dict) and "error" in body:
        body = body["error"]
    text, code = (body, "") if isinstance(body, str) else ("", "")
    if isinstance(body, dict):
        text = str(body.get("message") or "")
        code = str(body.get("code") or body.get("type") or "")
    said = f": {text[:500]}" if text else ""
    label = f"{code} " if code else ""
    if status in (401, 403) or code in ("invalid_api_key", "authentication_error", "permission_error"):
        return CredentialsError(f"The model server refused the key ({label}{status}){said}.", hint="Check the API key.")
    if status == 429 or code in ("rate_limit_exceeded", "insufficient_quota", "rate_limit_error"):
        return ModelThrottledError(f"The model server is out of capacity or quota{said}.", hint="Retry later.")
    if status >= 500 or status == 408 or code in ("server_error", "overloaded_error"):
        return ModelConnectionError(f"The model server failed ({status}){said}.", hint="Try again.")
    if status == 404:
        return ModelRequestError(
            f"The model server knows no such model or address ({status}){said}.",
            hint="Check the model's name, and that the address ends in /v1.",
        )
    return ModelRequestError(f"The model server rejected the request ({status}){said}.")
