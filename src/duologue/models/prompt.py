"""A conversation's history as messages of a language model."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..engine.conversation import Item
from ..speech.llm import Message, ToolCallRequest

#: what a call answers at its place when its real answer came only later, or has not come
_RUNNING = "Started. The result will follow."


def to_messages(instructions: str, items: Sequence[Item], extra: str = "") -> list[Message]:
    """System prompt, history and an optional further instruction, as a chat.

    A chat must answer every call at once, a conversation need not: a result that came after the talk had moved on stands
    where it came, as a call and answer of its own, and at the call's place stands that it was started.
    """
    out: list[Message] = []
    if instructions:
        out.append(Message(role="system", content=instructions))
    results = {item.id: item for item in items if item.kind == "result" and not item.late}
    calls = {item.id: item for item in items if item.kind == "call"}
    pending: list[Item] = []

    def flush() -> None:
        if not pending:
            return
        out.append(Message(role="assistant", tool_calls=tuple(_request(call, call.id) for call in pending)))
        for call in pending:
            result = results.get(call.id)
            text, failed = (result.text, result.failed) if result else (_RUNNING, False)
            out.append(_result(call.id, call.name, text, failed=failed))
        pending.clear()

    for item in items:
        if item.kind == "call":
            pending.append(item)
            continue
        if item.kind == "assistant" and pending:
            # Said while the tool ran ("One moment."): it stands before the call, so that the result is the last word.
            out.append(_assistant(item))
            continue
        flush()
        if item.kind == "user":
            out.append(Message(role="user", content=item.text))
        elif item.kind == "assistant":
            out.append(_assistant(item))
        elif item.kind == "note":
            out.append(Message(role="system", content=item.text))
        elif item.late and item.id in calls:
            _append_late(out, calls[item.id], item)
    flush()
    if extra:
        out.append(Message(role="system", content=extra))
    return out


def _append_late(out: list[Message], call: Item, result: Item) -> None:
    """A late result as a call and answer of its own; with the ones right before it, if nothing was said between."""
    id = f"{result.id}-late"
    start = len(out)
    while start and out[start - 1].role == "tool":
        start -= 1
    if start and start < len(out):
        group = out[start - 1]
        out[start - 1] = msgspec.structs.replace(group, tool_calls=(*group.tool_calls, _request(call, id)))
    else:
        out.append(Message(role="assistant", tool_calls=(_request(call, id),)))
    out.append(_result(id, result.name, result.text, failed=result.failed))


def _assistant(item: Item) -> Message:
    text = item.text if item.complete or not item.text else f"{item.text.rstrip()} …"
    return Message(role="assistant", content=text)


def _request(call: Item, id: str) -> ToolCallRequest:
    return ToolCallRequest(id=id, name=call.name, arguments=msgspec.json.encode(call.arguments).decode())


def _result(id: str, name: str, text: str, *, failed: bool) -> Message:
    return Message(role="tool", tool_call_id=id, name=name, content=text, is_error=failed)
