"""The server's responses: every event of an answer, in the order in which the vendor sends them. No I/O.

created → (item added → part added → transcript and audio deltas → audio done, transcript done, part done → item done) …
→ function calls → done → rate limits. Both names of a content part are used where each belongs: `audio` and `text` in events
about parts, `output_audio` and `output_text` inside items.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from .events import (
    ArgumentsDelta,
    ArgumentsDone,
    AudioDelta,
    AudioDone,
    ContentPartAdded,
    ContentPartDone,
    OutputItemAdded,
    OutputItemDone,
    ResponseCreated,
    ResponseDone,
    ResponseParams,
    TextDelta,
    TextDone,
    TranscriptDelta,
    TranscriptDone,
)
from .items import Item, Part, Response, ResponseStatus, StatusDetails, StatusError, Usage
from .server import ServerProtocol

#: answers whose length is remembered for truncation
_REMEMBERED = 256


class Answer:
    """One response under way. Make it with :meth:`Answers.begin`."""

    def __init__(
        self,
        protocol: ServerProtocol,
        conversation: str,
        params: ResponseParams,
        messages: OrderedDict[str, Message],
    ) -> None:
        self._protocol = protocol
        self._messages = messages
        config = protocol.config
        self.id = protocol.new_id("resp")
        self.params = params
        self.modality: str = (params.output_modalities or config.output_modalities)[0]
        self.format = config.audio.output.format
        #: the application's name of whatever it is that the messages which follow say
        self.owner = ""
        self.item_id = ""  # of the message that is (or was last) being made
        self.samples = 0
        self.status: ResponseStatus = "in_progress"
        self._previous: str | None = None
        self._index = -1
        self._output: list[Item] = []
        self._transcript: list[str] = []
        self._open = False
        voice: Any = config.audio.output.voice
        if params.audio is not None and params.audio.output:
            voice = params.audio.output.voice or voice
        self._response = Response(
            id=self.id,
            conversation_id=conversation,
            output_modalities=[self.modality],
            max_output_tokens=params.max_output_tokens or config.max_output_tokens,
            audio={"output": {"format": msgspec.to_builtins(self.format), "voice": msgspec.to_builtins(voice)}},
            metadata=params.metadata,
        )
        protocol.active = self.id
        protocol.send(ResponseCreated(response=self._response))

    def text(self, delta: str) -> None:
        """More of what the answer says."""
        if not delta or self.status != "in_progress":
            return
        self._open_message()
        self._transcript.append(delta)
        kind = TranscriptDelta if self.modality == "audio" else TextDelta
        self._protocol.send(kind(response_id=self.id, item_id=self.item_id, output_index=self._index, delta=delta))

    def audio(self, data: bytes, samples: int) -> None:
        """More audio: `data` in the output format, `samples` of it. A text answer has none."""
        if not data or self.status != "in_progress" or self.modality != "audio":
            return
        self._open_message()
        self._protocol.has_spoken = True
        self.samples += samples
        self._messages[self.item_id].end = self.samples
        self._protocol.send(AudioDelta(response_id=self.id, item_id=self.item_id, output_index=self._index, delta=data))

    def pause(self) -> None:
        """The message is whole; what follows is another one of the same response."""
        self._close_message("completed")

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """The model wants a function called."""
        if self.status != "in_progress":
            return
        self._close_message("completed")
        self._index += 1
        protocol = self._protocol
        item_id = protocol.new_id("item")
        item = Item(
            id=item_id,
            object="realtime.item",
            type="function_call",
            status="in_progress",
            name=name,
            call_id=call_id,
            arguments="",
        )
        where = {"response_id": self.id, "item_id": item_id, "output_index": self._index}
        protocol.send(OutputItemAdded(response_id=self.id, output_index=self._index, item=item))
        previous = protocol.last_item
        protocol.add(item, done=False)
        protocol.send(ArgumentsDelta(call_id=call_id, delta=arguments, **where))  # type: ignore[arg-type]
        protocol.send(ArgumentsDone(call_id=call_id, arguments=arguments, name=name, **where))  # type: ignore[arg-type]
        done = msgspec.structs.replace(item, status="completed", arguments=arguments)
        protocol.replace_item(done, previous)
        protocol.send(OutputItemDone(response_id=self.id, output_index=self._index, item=done))
        self._output.append(done)

    def end(
        self,
        status: ResponseStatus = "completed",
        *,
        reason: str | None = None,
        error: tuple[str, str] | None = None,
        usage: Usage | None = None,
    ) -> None:
        """No more of it. `reason`: why it was cut short; `error`: code and message of what failed it."""
        if self.status != "in_progress":
            return
        self._close_message("completed" if status == "completed" else "incomplete")
        self.status = status
        details = None
        if status != "completed":
            failure = StatusError(type="server_error", code=error[0], message=error[1]) if error else None
            details = StatusDetails(type=status, reason=reason, error=failure)
        protocol = self._protocol
        protocol.active = None
        self._response = msgspec.structs.replace(
            self._response, status=status, status_details=details, output=self._output, usage=usage or _NO_USAGE
        )
        protocol.send(ResponseDone(response=self._response))

    def _part(self, *, final: bool) -> Part:
        said = "".join(self._transcript) if final else ""
        return Part(type="audio", transcript=said) if self.modality == "audio" else Part(type="text", text=said)

    def _open_message(self) -> None:
        if self._open:
            return
        self._open = True
        self._index += 1
        self._transcript = []
        protocol = self._protocol
        self.item_id = protocol.new_id("item")
        self._messages[self.item_id] = Message(self, self.samples)
        if len(self._messages) > _REMEMBERED:
            self._messages.popitem(last=False)
        item = Item(
            id=self.item_id, object="realtime.item", type="message", status="in_progress", role="assistant", content=[]
        )
        protocol.send(OutputItemAdded(response_id=self.id, output_index=self._index, item=item))
        self._previous = protocol.last_item
        protocol.add(item, done=False)
        protocol.send(
            ContentPartAdded(
                response_id=self.id, item_id=self.item_id, output_index=self._index, part=self._part(final=False)
            )
        )

    def _close_message(self, status: str) -> None:
        if not self._open:
            return
        self._open = False
        protocol, said = self._protocol, "".join(self._transcript)
        where: dict[str, Any] = {"response_id": self.id, "item_id": self.item_id, "output_index": self._index}
        if self.modality == "audio":
            protocol.send(AudioDone(**where))
            protocol.send(TranscriptDone(transcript=said, **where))
            content = Part(type="output_audio", transcript=said)
        else:
            protocol.send(TextDone(text=said, **where))
            content = Part(type="output_text", text=said)
        protocol.send(ContentPartDone(part=self._part(final=True), **where))
        item = Item(
            id=self.item_id,
            object="realtime.item",
            type="message",
            status=status,
            role="assistant",
            content=[content],
        )
        protocol.replace_item(item, self._previous)
        protocol.send(OutputItemDone(response_id=self.id, output_index=self._index, item=item))
        self._output.append(item)


_NO_USAGE = Usage()


class Message:
    """A spoken message: the samples `[start, end)` of its answer, at the output format's rate."""

    __slots__ = ("answer", "end", "owner", "start")

    def __init__(self, answer: Answer, start: int) -> None:
        self.answer = answer
        self.owner = answer.owner
        self.start = start
        self.end = start


class Answers:
    """The responses of one link; knows how long each message's audio is, which truncation is checked against."""

    def __init__(self, protocol: ServerProtocol) -> None:
        self._protocol = protocol
        self._conversation = protocol.new_id("conv")
        self._messages: OrderedDict[str, Message] = OrderedDict()
        self._current: Answer | None = None
        protocol.answer_ms = self._ms

    def begin(self, params: ResponseParams | None = None) -> Answer:
        """A response begins; one that is still under way ends with it, for there is only one at a time."""
        if self._current is not None:
            self._current.end("cancelled", reason="turn_detected")
        self._current = Answer(self._protocol, self._conversation, params or ResponseParams(), self._messages)
        return self._current

    def message(self, item_id: str) -> Message | None:
        """The spoken message with this id, if it is one and not long gone."""
        return self._messages.get(item_id)

    def _ms(self, item_id: str) -> int | None:
        message = self._messages.get(item_id)
        if message is None or message.answer.modality != "audio":
            return None
        return (message.end - message.start) * 1000 // message.answer.format.hz
