"""The client's side of a stream, without I/O: events out in an order that the service takes, its events in."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import msgspec

from . import inputs as i
from .codec import decode_output, encode_event
from .faults import invalid
from .outputs import Output, ToolUse
from .sequence import DOCUMENTED, InputSequence, SequenceLimits


class ClientProtocol:
    """One stream as its client sees it.

    :meth:`send` is for any event; the others make the blocks that a conversation is built of. What the service would refuse
    is refused here, as StreamException, and nothing is sent.

    Args:
        model: the model's id.
        limits: of the history; the documented ones unless others are given.
    """

    def __init__(self, model: str, *, limits: SequenceLimits | None = None) -> None:
        self.sequence = InputSequence(model, strict=True, limits=limits or DOCUMENTED)
        self.prompt = ""
        self._audio = ""

    @property
    def tool_uses(self) -> frozenset[str]:
        """Tool uses that wait for their one result."""
        return frozenset(self.sequence.tool_uses)

    def send(self, event: i.Input) -> bytes:
        """The JSON text of `event`. Raises StreamException for one that has no place here."""
        self.sequence.take(event)
        if isinstance(event, i.PromptStart):
            self.prompt = event.prompt_name
        elif isinstance(event, i.ContentStart) and event.type == "AUDIO":
            self._audio = event.content_name
        return encode_event(event)

    def receive(self, payload: bytes | str) -> Output:
        """The server's event. Raises ProtocolError for what is none."""
        event = decode_output(payload)
        if isinstance(event, ToolUse):
            self.sequence.tool_asked(event.tool_use_id)
        return event

    # ------------------------------------------------------------------ blocks

    def begin(
        self,
        *,
        inference: i.InferenceConfiguration,
        voice: i.VoiceFormat,
        endpointing: i.Sensitivity | None = None,
        tools: Iterable[i.Tool] = (),
        tool_choice: i.ToolChoice | None = None,
        instructions: str = "",
    ) -> list[bytes]:
        """sessionStart, promptStart and the SYSTEM block."""
        detection = i.TurnDetectionConfiguration(endpointing_sensitivity=endpointing) if endpointing else None
        listed = tuple(tools)
        out = [
            self.send(i.SessionStart(inference_configuration=inference, turn_detection_configuration=detection)),
            self.send(
                i.PromptStart(
                    prompt_name=str(uuid.uuid4()),
                    text_output_configuration=i.MediaType(),
                    audio_output_configuration=voice,
                    tool_use_output_configuration=i.MediaType(media_type="application/json") if listed else None,
                    tool_configuration=i.ToolConfiguration(tools=listed, tool_choice=tool_choice or msgspec.UNSET)
                    if listed
                    else None,
                )
            ),
        ]
        if instructions:
            out += self._text("SYSTEM", [instructions], interactive=False)
        return out

    def remember(self, role: i.Role, text: str) -> list[bytes]:
        """An entry of the history, split as the limit of one textInput asks."""
        return self._text(role, split(text, self.sequence.limits.text_bytes), interactive=False)

    def text(self, text: str) -> list[bytes]:
        """Text of the user, which is answered. The audio must be open."""
        if not self.sequence.audio_open:
            raise invalid()
        return self._text("USER", [text], interactive=True)

    def open_audio(self, rate: int) -> bytes:
        """Open the one AUDIO block of the session."""
        return self.send(
            i.ContentStart(
                prompt_name=self.prompt,
                content_name=str(uuid.uuid4()),
                type="AUDIO",
                interactive=True,
                role="USER",
                audio_input_configuration=i.AudioFormat(sample_rate_hertz=rate),
            )
        )

    def audio(self, pcm: bytes) -> bytes:
        """User audio."""
        return self.send(i.AudioInput(prompt_name=self.prompt, content_name=self._audio, content=pcm))

    def tool_result(self, tool_use_id: str, content: str) -> list[bytes]:
        """The one result of a tool use; `content` is JSON text."""
        name = str(uuid.uuid4())
        return [
            self.send(
                i.ContentStart(
                    prompt_name=self.prompt,
                    content_name=name,
                    type="TOOL",
                    interactive=False,
                    role="TOOL",
                    tool_result_input_configuration=i.ToolResultConfiguration(tool_use_id=tool_use_id),
                )
            ),
            self.send(i.ToolResult(prompt_name=self.prompt, content_name=name, content=content)),
            self.send(i.ContentEnd(prompt_name=self.prompt, content_name=name)),
        ]

    def end(self) -> list[bytes]:
        """Close what is open, in the order that the service wants; nothing if it is closed already."""
        out = []
        sequence = self.sequence
        if sequence.audio_open:
            if not sequence.samples:
                out.append(self.audio(bytes(sequence.rate // 50 * 2)))  # an empty block may not be closed
            out.append(self.send(i.ContentEnd(prompt_name=self.prompt, content_name=self._audio)))
        if sequence.phase == "prompt":
            out.append(self.send(i.PromptEnd(prompt_name=self.prompt)))
        if sequence.phase == "closing":
            out.append(self.send(i.SessionEnd()))
        return out

    def _text(self, role: i.Role, pieces: Iterable[str], *, interactive: bool) -> list[bytes]:
        name = str(uuid.uuid4())
        start = i.ContentStart(
            prompt_name=self.prompt,
            content_name=name,
            type="TEXT",
            interactive=interactive,
            role=role,
            text_input_configuration=i.MediaType(),
        )
        return [
            self.send(start),
            *(self.send(i.TextInput(prompt_name=self.prompt, content_name=name, content=piece)) for piece in pieces),
            self.send(i.ContentEnd(prompt_name=self.prompt, content_name=name)),
        ]


def split(text: str, limit: int) -> list[str]:
    """`text` in pieces of at most `limit` bytes of UTF-8, cut between characters."""
    data = text.encode()
    pieces: list[str] = []
    at = 0
    while at < len(data):
        end = min(at + limit, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(data[at:end].decode())
        at = end
    return pieces
