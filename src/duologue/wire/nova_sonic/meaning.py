"""What the server's events mean, with all that is peculiar about them. Pure.

* Text marked SPECULATIVE is a plan and comes before its audio; FINAL is the record of what was said and may come seconds later,
  even after the next input. What the user said is always FINAL.
* The turn ends at END_TURN of an AUDIO block; `completionEnd` comes once, at the end of the session.
* An interruption is a text block whose text is ``{ "interrupted" : true }``, or one that ends with INTERRUPTED, or both.
"""

from __future__ import annotations

from typing import Any

import msgspec

from . import outputs as o


class Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """Base."""


class UserStarted(Meaning, frozen=True, kw_only=True):
    """The user began to speak, `ms` into the audio that was sent."""

    ms: float


class UserStopped(Meaning, frozen=True, kw_only=True):
    """The user ceased to speak, `ms` into the audio that was sent."""

    ms: float


class UserSaid(Meaning, frozen=True, kw_only=True):
    """What the user said. The model is about to answer."""

    text: str


class Planned(Meaning, frozen=True, kw_only=True):
    """What the audio that follows is going to say."""

    text: str


class Spoken(Meaning, frozen=True, kw_only=True):
    """What was said, by the provider's account."""

    text: str


class AudioBegan(Meaning, frozen=True, kw_only=True):
    """A block of audio begins, at `rate` Hz (0: as it was agreed)."""

    rate: int = 0


class Chunk(Meaning, frozen=True, kw_only=True):
    """Audio of the model: whole samples of PCM16 mono."""

    pcm: bytes


class TurnOver(Meaning, frozen=True, kw_only=True):
    """The model has said all that it is going to say."""


class Interrupted(Meaning, frozen=True, kw_only=True):
    """The user took the floor, and the model yielded it. Audio that was not played yet must not be."""


class ToolWanted(Meaning, frozen=True, kw_only=True):
    """The model wants a tool run; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class ToolsAsked(Meaning, frozen=True, kw_only=True):
    """A block of a tool use is complete."""


class Used(Meaning, frozen=True, kw_only=True):
    """Tokens counted since the last time."""

    input_tokens: int
    output_tokens: int
    details: dict[str, Any]


class Closed(Meaning, frozen=True, kw_only=True):
    """The model has ended the completion: nothing more comes."""


class _Block:
    __slots__ = ("interrupted", "kind", "pieces", "rest", "role", "stage")

    def __init__(self, kind: str, role: str, stage: str | None) -> None:
        self.kind = kind
        self.role = role
        self.stage = stage
        self.pieces: list[str] = []
        self.interrupted = False
        self.rest = b""


#: blocks that may be open at a time; a server that opens more and closes none must not fill memory
_OPEN = 64


class Meanings:
    """Reads one stream. :meth:`read` each event in order."""

    def __init__(self) -> None:
        self._blocks: dict[str, _Block] = {}
        self._input_total = 0
        self._output_total = 0

    def read(self, event: o.Output) -> list[Meaning]:
        """What `event` means, if anything."""
        match event:
            case o.AudioOutput():
                return self._audio(event)
            case o.ContentStart():
                return self._start(event)
            case o.TextOutput():
                return self._text(event)
            case o.ContentEnd():
                return self._end(event)
            case o.ToolUse():
                return [ToolWanted(id=event.tool_use_id, name=event.tool_name, arguments=event.content)]
            case o.UserSpeechStart():
                return [UserStarted(ms=event.input_audio_offset_ms)]
            case o.UserSpeechEnd():
                return [UserStopped(ms=event.input_audio_offset_ms)]
            case o.UsageEvent():
                return self._usage(event)
            case o.CompletionEnd():
                return [Closed()]
        return []

    def _start(self, event: o.ContentStart) -> list[Meaning]:
        if len(self._blocks) >= _OPEN:
            self._blocks.pop(next(iter(self._blocks)))
        self._blocks[event.content_id] = _Block(event.type, event.role, event.stage)
        return [AudioBegan(rate=event.sample_rate or 0)] if event.type == "AUDIO" else []

    def _text(self, event: o.TextOutput) -> list[Meaning]:
        block = self._blocks.get(event.content_id)
        if block is None:
            block = self._blocks[event.content_id] = _Block("TEXT", event.role, None)
        if event.interrupted:
            if block.interrupted:
                return []
            block.interrupted = True
            return [Interrupted()]
        block.pieces.append(event.content)
        if _is_plan(block) and event.content:
            return [Planned(text=event.content)]
        return []

    def _audio(self, event: o.AudioOutput) -> list[Meaning]:
        block = self._blocks.get(event.content_id)
        pcm = event.content
        if block is not None:
            pcm = block.rest + pcm
            block.rest = pcm[len(pcm) & ~1 :]
        pcm = pcm[: len(pcm) & ~1]
        return [Chunk(pcm=pcm)] if pcm else []

    def _end(self, event: o.ContentEnd) -> list[Meaning]:
        block = self._blocks.pop(event.content_id, None)
        kind = block.kind if block is not None else event.type
        out: list[Meaning] = []
        if event.stop_reason == "INTERRUPTED" and not (block is not None and block.interrupted):
            out.append(Interrupted())
        if kind == "TEXT" and block is not None:
            text = "".join(block.pieces)
            if text and block.role == "USER":
                out.append(UserSaid(text=text))
            elif text and not _is_plan(block):
                out.append(Spoken(text=text))
        elif kind == "AUDIO" and event.stop_reason == "END_TURN":
            out.append(TurnOver())
        elif kind == "TOOL":
            out.append(ToolsAsked())
        return out

    def _usage(self, event: o.UsageEvent) -> list[Meaning]:
        # The totals are counted from the beginning of the session; what is new is their growth.
        new_in = event.total_input_tokens - self._input_total
        new_out = event.total_output_tokens - self._output_total
        self._input_total += max(0, new_in)
        self._output_total += max(0, new_out)
        if new_in <= 0 and new_out <= 0:
            return []
        return [Used(input_tokens=max(0, new_in), output_tokens=max(0, new_out), details=event.details or {})]


def _is_plan(block: _Block) -> bool:
    """Whether it is the model's text before it is spoken. Without a stage it is taken for one, so that no text is lost."""
    return block.role == "ASSISTANT" and block.stage != "FINAL"
