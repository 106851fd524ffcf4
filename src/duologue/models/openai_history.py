"""The conversation as items of OpenAI Realtime, function calls included."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

import msgspec

from ..engine.conversation import Item as Entry
from ..wire.openai_realtime import Item, Part

#: longest id that the vendor takes
_ID = 32
#: media types of pictures that the vendor takes
PICTURES = ("image/jpeg", "image/png")
#: pictures of a history that are shown again; older ones are only mentioned
_PICTURES = 4


def call_id(call: str) -> str:
    """A tool call's id as the vendor takes it: calls of another provider have longer ones."""
    return call if len(call) <= _ID else hashlib.sha256(call.encode()).hexdigest()[:_ID]


def message(role: str, text: str) -> Item:
    """A message of text."""
    kind = "output_text" if role == "assistant" else "input_text"
    return Item(type="message", role=role, content=[Part(type=kind, text=text)])


def picture(data: bytes, mime: str, text: str = "") -> Item:
    """A user message with a picture."""
    url = f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
    parts = [Part(type="input_image", image_url=url)]
    if text:
        parts.append(Part(type="input_text", text=text))
    return Item(type="message", role="user", content=parts)


def result(call: str, text: str, *, error: bool = False) -> Item:
    """A tool's answer to a call that the provider knows."""
    output = msgspec.json.encode({"error": text}).decode() if error else text
    return Item(type="function_call_output", call_id=call_id(call), output=output)


def result_as_text(name: str, text: str) -> Item:
    """A tool's answer to a call that this connection has never seen."""
    return message("system", f"The result of {name} has come: {text}")


def items_of(history: Sequence[Entry]) -> tuple[list[Item], set[str]]:
    """The items that a connection goes on from, and the ids of the calls among them, which may be answered still."""
    items: list[Item] = []
    calls: set[str] = set()
    shown = [entry for entry in history if entry.image][-_PICTURES:]
    for entry in history:
        match entry.kind:
            case "user" if entry.image:
                if any(entry is one for one in shown):
                    items.append(picture(entry.image, entry.mime, entry.text))
                else:
                    items.append(message("user", entry.text or "(a picture)"))
            case "user" | "assistant":
                if not entry.text.strip():
                    continue
                cut = entry.kind == "assistant" and not entry.complete
                items.append(message(entry.kind, f"{entry.text.rstrip()} …" if cut else entry.text))
            case "note":
                items.append(message("system", entry.text))
            case "call":
                calls.add(call_id(entry.id))
                arguments = msgspec.json.encode(entry.arguments).decode()
                items.append(
                    Item(type="function_call", call_id=call_id(entry.id), name=entry.name, arguments=arguments)
                )
            case "result":
                known = call_id(entry.id) in calls
                items.append(result(entry.id, entry.text) if known else result_as_text(entry.name, entry.text))
    return items, calls
