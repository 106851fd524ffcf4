"""The conversation as Gemini Live takes it: turns of user and model. Tools are told as text: their calls belong to a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..engine.conversation import Item
from ..wire.gemini_live import messages as g
from .nova_history import result_text

#: media types of pictures that the vendor takes in a live session
PICTURES = ("image/jpeg", "image/png")
#: pictures of a history that are shown again; older ones are only mentioned
_PICTURES = 4
#: what ends a history whose last word was the model's, for models that want the user to have it
_GOES_ON = "[The call goes on. Wait for the user.]"


def contents_of(history: Sequence[Item], *, user_last: bool = False) -> list[g.Content]:
    """The turns that a connection goes on from, alternating. `user_last`: the last one must be the user's."""
    calls = {item.id: item for item in history if item.kind == "call"}
    shown = {id(item) for item in [item for item in history if item.image][-_PICTURES:]}
    turns: list[tuple[str, list[g.Part]]] = []

    def add(role: str, *parts: g.Part) -> None:
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(parts)
        else:
            turns.append((role, list(parts)))

    for item in history:
        match item.kind:
            case "user" if item.image and id(item) in shown:
                add("user", g.Part(inline_data=g.Blob(mime_type=item.mime, data=item.image)))
                if item.text:
                    add("user", g.Part(text=item.text))
            case "user" if item.text or item.image:
                add("user", g.Part(text=item.text or "(a picture)"))
            case "assistant" if item.text.strip():
                add("model", g.Part(text=item.text if item.complete else f"{item.text.rstrip()} …"))
            case "note" if item.text:
                add("user", context(item.text))
            case "call" if not item.complete:
                add("user", g.Part(text=f"[The tool {item.name} was started{_given(item)}; its result will follow.]"))
            case "result":
                told = result_text(item.name, item.text, _given(calls.get(item.id)), failed=item.failed)
                add("user", g.Part(text=f"[{told}]"))
    if user_last and turns and turns[-1][0] == "model":
        add("user", g.Part(text=_GOES_ON))
    return [g.Content(role=role, parts=parts) for role, parts in turns]


def context(text: str) -> g.Part:
    """What nobody said."""
    return g.Part(text=f"[Context: {text}]")


def _given(call: Item | None) -> str:
    return f" with {msgspec.json.encode(call.arguments).decode()}" if call is not None and call.arguments else ""


def result(text: str, *, error: bool) -> dict[str, Any]:
    """A tool's answer as the vendor wants it: under `output`, or `error`."""
    if error:
        return {"error": text}
    try:
        return {"output": msgspec.json.decode(text)}
    except (msgspec.MsgspecError, RecursionError):
        return {"output": text}
