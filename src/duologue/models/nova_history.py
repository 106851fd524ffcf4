"""The conversation as Nova Sonic takes it: text of the user and of the assistant, in turns, the user first.

Its history has no tools and no context: both are told as text. What is too long is cut from the oldest end.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..engine.conversation import Item
from ..wire.nova_sonic.inputs import Role

#: what stands before an agent that spoke first
_BEGAN = "(The call begins.)"


def entries_of(history: Sequence[Item], *, most: int) -> list[tuple[Role, str]]:
    """Role and text of each entry, alternating, the user first; at most `most` bytes in all."""
    names = {item.id: item for item in history if item.kind == "call"}
    lines: list[tuple[Role, str]] = []
    for item in history:
        match item.kind:
            case "user":
                text = item.text or ("(a picture)" if item.image else "")
                lines.append(("USER", text))
            case "assistant":
                cut = not item.complete and item.text
                lines.append(("ASSISTANT", f"{item.text.rstrip()} …" if cut else item.text))
            case "note":
                lines.append(("USER", f"[Context: {item.text}]"))
            case "call" if not item.complete:
                lines.append(("USER", f"[The tool {item.name} was started{_with(item)}; its result will follow.]"))
            case "result":
                call = names.get(item.id)
                given = _with(call) if call is not None else ""
                lines.append(("USER", f"[{result_text(item.name, item.text, given, failed=item.failed)}]"))
    kept: list[tuple[Role, str]] = []
    room = most - len(_BEGAN)
    for role, text in reversed(lines):
        room -= len(text.encode()) + 1
        if room < 0:
            break
        if text.strip():
            kept.append((role, text))
    kept.reverse()
    merged: list[tuple[Role, str]] = []
    if kept and kept[0][0] == "ASSISTANT":
        merged.append(("USER", _BEGAN))
    for role, text in kept:
        if merged and merged[-1][0] == role:
            merged[-1] = (role, f"{merged[-1][1]}\n{text}")
        else:
            merged.append((role, text))
    return merged


def result_text(name: str, text: str, given: str = "", *, failed: bool) -> str:
    """A tool's result in words, for a model that did not ask for it on this connection."""
    return f"The tool {name}{given} {'failed' if failed else 'answered'}: {text}"


def _with(call: Item) -> str:
    return f" with {msgspec.json.encode(call.arguments).decode()}" if call.arguments else ""
