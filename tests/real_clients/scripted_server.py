"""An agent of exact speech behind a real port, for clients of the providers' protocols."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from duologue.models.base import Capabilities, Context
from duologue.testing.scripted import Reply, ScriptedModel, Utterance


class Scripted(ScriptedModel):
    """The scripted model at a provider's input rate, so that the caller's samples arrive as they were sent."""

    def __init__(
        self, utterances: Sequence[Utterance], answer: Callable[[str | None, Context], Reply], *, rate: int = 24_000
    ) -> None:
        super().__init__(utterances, answer)
        self._rate = rate

    @property
    def capabilities(self) -> Capabilities:
        """See Model."""
        return Capabilities(authority="engine", input_rate=self._rate, output_rate=24_000, can_truncate=True)


def speech(utterance: int, seconds: float, rate: int = 24_000) -> bytes:
    """PCM16 that the scripted model hears as this utterance; 0 is silence."""
    return struct.pack("<h", utterance) * int(seconds * rate)


def echo(text: str | None, context: Context) -> Reply:
    """Answers with what was said; tool results and instructions with the newest result, or a remark."""
    if text is None:
        results = [item for item in context.history() if item.kind == "result"]
        return Reply(text=f"It is {results[-1].text}." if results else "Here I am.")
    if "weather" in text:
        return Reply(tools=(("get_weather", {"city": "Oslo"}),))
    if "both" in text:
        return Reply(tools=(("get_weather", {"city": "Oslo"}), ("get_time", {})))
    if "story" in text:
        return Reply(text=" ".join(f"This is sentence number {n} of the story." for n in range(1, 9)))
    return Reply(text=f"You said {text}.")


UTTERANCES = [
    Utterance(text="hello there"),
    Utterance(text="tell me a story"),
    Utterance(text="what is the weather"),
    Utterance(text="stop please"),
]


def session_of(call: Any) -> Any:
    """The only session of a running server."""
    (entry,) = call.app.state.server.sessions._calls.values()
    return entry.session
