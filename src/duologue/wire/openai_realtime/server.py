"""The server's side of one link: what a client may send when, and every event that answers it. No I/O, no clock.

The application acts on the :class:`Request` values that :meth:`ServerProtocol.receive` returns, and tells the protocol what
happens: speech, transcripts, and (through :class:`.answers.Answers`) responses. What is to be sent waits in :meth:`next_frame`.
An event that cannot be taken is answered with an `error` event that echoes its id, and changes nothing; only an expired session,
a flood of errors or an oversized message ends the link.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from . import faults
from .config import AudioFormat, AudioPatch, McpTool, SessionConfig, SessionPatch, applied
from .events import (
    AnyClientEvent,
    ClientEvent,
    ErrorReported,
    InputAudioAppend,
    InputAudioClear,
    InputAudioCommit,
    InputCleared,
    InputCommitted,
    InputSpeechStarted,
    InputSpeechStopped,
    ItemAdded,
    ItemCreate,
    ItemDelete,
    ItemDeleted,
    ItemDone,
    ItemRetrieve,
    ItemRetrieved,
    ItemTruncate,
    ItemTruncated,
    OutputAudioClear,
    RateLimitsUpdated,
    ResponseCancel,
    ResponseCreate,
    ResponseParams,
    ServerEvent,
    SessionCreated,
    SessionUpdate,
    SessionUpdated,
    TranscriptionCompleted,
    TranscriptionFailed,
)
from .faults import Refusal, envelope, refusal_of
from .items import ErrorDetail, Item, Part, RateLimit


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a served session.

    Attributes:
        session_s: longest life of a link, after which it is closed with `session_expired` (the vendor's: 60 minutes).
        append_bytes: of one `input_audio_buffer.append`, decoded (the vendor's: 15 MiB).
        buffer_s: seconds of audio that the input buffer may hold before it is committed.
        items: of the conversation that can still be named; the oldest are forgotten by the protocol (not by the model).
        errors: refused events in a row after which the link ends.
    """

    session_s: float = 3600.0
    append_bytes: int = 15 << 20
    buffer_s: float = 600.0
    items: int = 2000
    errors: int = 100


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what a client wants."""


class Configured(Request, frozen=True, kw_only=True):
    """The session was changed; `patch` is what the client sent. It is in force already."""

    patch: SessionPatch


class AudioAppended(Request, frozen=True, kw_only=True):
    """User audio, in the session's input format."""

    audio: bytes
    format: AudioFormat


class AudioCommitted(Request, frozen=True, kw_only=True):
    """The client ended the user's message `item_id`."""

    item_id: str


class AudioCleared(Request, frozen=True, kw_only=True):
    """The client took back what is in the input buffer."""


class ItemMade(Request, frozen=True, kw_only=True):
    """The client put an item into the conversation; `last` says whether it is its newest entry."""

    item: Item
    last: bool


class ItemGone(Request, frozen=True, kw_only=True):
    """The client took an item out."""

    item_id: str


class Truncated(Request, frozen=True, kw_only=True):
    """The user heard only this much of an answer."""

    item_id: str
    audio_end_ms: int


class ResponseWanted(Request, frozen=True, kw_only=True):
    """The client wants an answer."""

    params: ResponseParams


class CancelWanted(Request, frozen=True, kw_only=True):
    """The client wants no more of the answer under way."""


#: content types that a role may have in an item that a client creates
_CONTENT = {
    "user": frozenset({"input_text", "input_audio", "input_image"}),
    "system": frozenset({"input_text"}),
    "assistant": frozenset({"output_text", "output_audio"}),
}
_KINDS = ("message", "function_call", "function_call_output")
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyClientEvent] = msgspec.json.Decoder(AnyClientEvent)


class ServerProtocol:
    """One client's link.

    Args:
        config: the session as it begins.
        token: makes ids unique between links; up to 16 letters and digits.
        limits: see :class:`ServerLimits`.

    Attributes:
        config: the session as it is in force.
        active: id of the response under way; "requested" from a `response.create` on until it begins.
        has_spoken: whether any audio was sent, after which the voice is fixed.
        close_code, close_reason: set once the link must end, after what waits was sent.
    """

    def __init__(self, config: SessionConfig, *, token: str, limits: ServerLimits | None = None) -> None:
        self.config = config
        self.limits = limits or ServerLimits()
        self.close_code: int | None = None
        self.close_reason = ""
        self.active: str | None = None
        self.has_spoken = False
        self.answer_ms: Callable[[str], int | None] = lambda item_id: None
        self._token = token
        self._out: deque[bytes] = deque()
        self._count = 0
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._last_item: str | None = None
        self._buffered = 0.0  # seconds in the input buffer
        self._input_item = ""  # id of the user message that is being spoken
        self._errors = 0
        self._handlers: dict[type[ClientEvent], Callable[[Any], list[Request]]] = {
            SessionUpdate: self._session_update,
            InputAudioAppend: self._append,
            InputAudioCommit: self._commit,
            InputAudioClear: self._clear,
            OutputAudioClear: self._output_clear,
            ItemCreate: self._create,
            ItemRetrieve: self._retrieve,
            ItemDelete: self._delete,
            ItemTruncate: self._truncate,
            ResponseCreate: self._respond,
            ResponseCancel: self._cancel,
        }
        self.send(SessionCreated(session=self.session()))

    # ------------------------------------------------------------------ both directions

    def receive(self, message: str | bytes) -> list[Request]:
        """What the client wants with this message; what cannot be taken is answered with an error event. Never raises."""
        if self.close_code is not None:
            return []
        if len(message) > self.limits.append_bytes * 4 // 3 + 65_536:
            self.close(1009, "message too big")
            return []
        try:
            try:
                event = _decoder.decode(message)
            except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
                kind, event_id = envelope(message)
                raise_with = refusal_of(error, kind)
                self.refuse(raise_with, event_id)
                return []
            wanted = self._handlers[type(event)](event)
        except Refusal as refusal:
            self.refuse(refusal, event.event_id)
            return []
        self._errors = 0
        return wanted

    def next_frame(self) -> bytes | None:
        """The next message to the client (JSON text)."""
        return self._out.popleft() if self._out else None

    @property
    def waiting(self) -> int:
        """Messages to be sent."""
        return len(self._out)

    def send(self, event: ServerEvent) -> None:
        """Queue an event, with an id of its own."""
        self._out.append(_encoder.encode(msgspec.structs.replace(event, event_id=self.new_id("event"))))

    def refuse(self, refusal: Refusal, event_id: str | None = None) -> None:
        """Answer with an error event; the link goes on unless there were too many in a row."""
        self._errors += 1
        self.send(ErrorReported(error=refusal.detail(event_id)))
        if self._errors > self.limits.errors:
            self.close(1008, "too many errors")

    def failed(self, message: str, *, code: str | None = None) -> None:
        """Something went wrong on this side."""
        self.send(ErrorReported(error=ErrorDetail(type="server_error", code=code, message=message)))

    def expire(self) -> None:
        """The link has lived for as long as it may."""
        minutes = self.limits.session_s / 60
        text = f"Your session hit the maximum duration of {minutes:g} minutes."
        self.send(ErrorReported(error=ErrorDetail(code=faults.SESSION_EXPIRED, message=text)))
        self.close(1001, text)

    def close(self, code: int, reason: str) -> None:
        """End the link once everything that waits is sent."""
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason

    def new_id(self, kind: str) -> str:
        """A fresh id of at most 32 characters, such as ``item_…``."""
        self._count += 1
        return f"{kind}_{self._token}{self._count:06d}"[:32]

    def session(self) -> dict[str, Any]:
        """The session as clients are shown it."""
        shown: dict[str, Any] = msgspec.to_builtins(self.config)
        return shown

    # ------------------------------------------------------------------ what the application tells

    def speech_started(self, ms: int) -> None:
        """The user speaks, from `ms` of the audio written to this session on."""
        self.send(InputSpeechStarted(audio_start_ms=max(0, ms), item_id=self._input()))

    def speech_stopped(self, ms: int) -> None:
        """The user fell silent."""
        self.send(InputSpeechStopped(audio_end_ms=max(0, ms), item_id=self._input()))

    def committed(self) -> str:
        """What the user said is a message; returns its item's id."""
        item_id = self._input()
        self._input_item = ""
        self._buffered = 0.0
        self.send(InputCommitted(item_id=item_id, previous_item_id=self._last_item))
        part = Part(type="input_audio", transcript=None)
        self.add(Item(id=item_id, type="message", status="completed", role="user", content=[part]), done=True)
        return item_id

    def transcribed(self, item_id: str, text: str) -> None:
        """What was said in that message. Sent only where the client asked for transcription."""
        item = self._items.get(item_id)
        if item is None:
            return
        self._items[item_id] = msgspec.structs.replace(item, content=[Part(type="input_audio", transcript=text)])
        if self.config.audio.input.transcription is not None:
            usage = {"type": "duration", "seconds": 0.0}
            self.send(TranscriptionCompleted(item_id=item_id, transcript=text, usage=usage))

    def transcription_failed(self, item_id: str, message: str) -> None:
        """It could not be found out."""
        if self.config.audio.input.transcription is not None:
            error = ErrorDetail(type="server_error", message=message)
            self.send(TranscriptionFailed(item_id=item_id, error=error))

    def rate_limits(self, limits: list[RateLimit]) -> None:
        """What is left of the limits."""
        self.send(RateLimitsUpdated(rate_limits=limits))

    def add(self, item: Item, *, done: bool, after: str | None = None) -> bool:
        """Put an item into the conversation and tell. `after`: an id, "root", or None for the end. Whether it is the last."""
        item = msgspec.structs.replace(item, object="realtime.item")
        assert item.id is not None
        if after is None:
            previous = self._last_item
        elif after == "root":
            previous = None
        else:
            previous = after
        last = previous == self._last_item
        self._items[item.id] = item
        if last:
            self._last_item = item.id
        if len(self._items) > self.limits.items:
            self._items.popitem(last=False)
        self.send(ItemAdded(item=item, previous_item_id=previous))
        if done:
            self.send(ItemDone(item=item, previous_item_id=previous))
        return last

    def replace_item(self, item: Item, previous: str | None) -> None:
        """An answer's item is whole."""
        assert item.id is not None
        if item.id in self._items:
            self._items[item.id] = item
        self.send(ItemDone(item=item, previous_item_id=previous))

    @property
    def last_item(self) -> str | None:
        """Id of the newest item."""
        return self._last_item

    def _input(self) -> str:
        if not self._input_item:
            self._input_item = self.new_id("item")
        return self._input_item

    # ------------------------------------------------------------------ what the client sends

    def _session_update(self, event: SessionUpdate) -> list[Request]:
        patch = event.session
        if patch.type is UNSET:
            raise Refusal(faults.MISSING, "Missing required parameter: 'session.type'.", param="session.type")
        if patch.type != "realtime":
            raise Refusal(faults.INVALID_VALUE, "Transcription sessions are not served here.", param="session.type")
        self._check_patch(patch)
        self.config = applied(self.config, patch)
        self.send(SessionUpdated(session=self.session()))
        return [Configured(patch=patch)]

    def _check_patch(self, patch: SessionPatch) -> None:
        if patch.output_modalities is not UNSET and len(patch.output_modalities) != 1:
            raise Refusal(
                faults.INVALID_VALUE,
                "Invalid modalities: use ['audio'] or ['text'], not both.",
                param="session.output_modalities",
            )
        tokens = patch.max_output_tokens
        if isinstance(tokens, int) and not 1 <= tokens <= 4096:
            raise Refusal(faults.INVALID_VALUE, "Use 1 to 4096, or 'inf'.", param="session.max_output_tokens")
        for n, tool in enumerate(patch.tools or ()):
            if isinstance(tool, McpTool):
                raise Refusal(faults.INVALID_VALUE, "MCP tools are not served here.", param=f"session.tools[{n}].type")
        if patch.audio is not UNSET:
            self._check_audio(patch.audio)

    def _check_audio(self, audio: AudioPatch) -> None:
        for side, part in (("input", audio.input), ("output", audio.output)):
            format = part.format if part is not UNSET else None
            if isinstance(format, AudioFormat) and format.rate not in (UNSET, format.hz):
                raise Refusal(
                    faults.INVALID_VALUE,
                    f"{format.type} has a rate of {format.hz}.",
                    param=f"session.audio.{side}.format.rate",
                )
        if audio.output is UNSET:
            return
        speed, voice = audio.output.speed, audio.output.voice
        if speed is not UNSET and not 0.25 <= speed <= 1.5:
            raise Refusal(faults.INVALID_VALUE, "Use 0.25 to 1.5.", param="session.audio.output.speed")
        if voice is not UNSET and self.has_spoken and voice != self.config.audio.output.voice:
            raise Refusal(
                faults.CANNOT_UPDATE_VOICE,
                "Cannot update a conversation's voice if assistant audio is present.",
                param="session.audio.output.voice",
            )

    def _append(self, event: InputAudioAppend) -> list[Request]:
        audio = event.audio
        format = self.config.audio.input.format
        if len(audio) > self.limits.append_bytes:
            raise Refusal(faults.INVALID_VALUE, f"Audio of more than {self.limits.append_bytes} bytes.", param="audio")
        if format.type == "audio/pcm" and len(audio) & 1:
            raise Refusal(faults.INVALID_VALUE, "PCM16 audio has an even number of bytes.", param="audio")
        self._buffered += len(audio) / (2 if format.type == "audio/pcm" else 1) / format.hz
        if self.config.turn_detection is None and self._buffered > self.limits.buffer_s:
            self._buffered = self.limits.buffer_s
            raise Refusal(faults.INVALID_VALUE, f"The input buffer holds {self.limits.buffer_s:g} s.", param="audio")
        return [AudioAppended(audio=audio, format=format)] if audio else []

    def _commit(self, event: InputAudioCommit) -> list[Request]:
        if self._buffered < 0.1 - 1e-9:
            ms = self._buffered * 1000
            raise Refusal(
                faults.COMMIT_EMPTY,
                f"Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, but buffer "
                f"only has {ms:.2f}ms of audio.",
            )
        return [AudioCommitted(item_id=self.committed())]

    def _clear(self, event: InputAudioClear) -> list[Request]:
        self._buffered = 0.0
        self._input_item = ""
        self.send(InputCleared())
        return [AudioCleared()]

    def _output_clear(self, event: OutputAudioClear) -> list[Request]:
        raise Refusal(faults.INVALID_VALUE, "output_audio_buffer.clear is for WebRTC and SIP.", param="type")

    def _create(self, event: ItemCreate) -> list[Request]:
        item = event.item
        check_item(item)
        after = event.previous_item_id
        if after not in (None, "root") and after not in self._items:
            raise Refusal(
                faults.INVALID_VALUE,
                f"Previous item with id '{after}' not found in conversation.",
                param="previous_item_id",
            )
        if item.id is not None and (item.id in self._items or len(item.id) > 32):
            raise Refusal(
                faults.INVALID_VALUE, f"Item id {item.id[:40]!r} is in use, or longer than 32.", param="item.id"
            )
        item = msgspec.structs.replace(item, id=item.id or self.new_id("item"), status=item.status or "completed")
        return [ItemMade(item=item, last=self.add(item, done=True, after=after))]

    def _retrieve(self, event: ItemRetrieve) -> list[Request]:
        self.send(ItemRetrieved(item=self._known(event.item_id, faults.RETRIEVE_UNKNOWN, "retrieving")))
        return []

    def _delete(self, event: ItemDelete) -> list[Request]:
        self._known(event.item_id, faults.DELETE_UNKNOWN, "deleting")
        del self._items[event.item_id]
        if self._last_item == event.item_id:
            self._last_item = next(reversed(self._items), None)
        self.send(ItemDeleted(item_id=event.item_id))
        return [ItemGone(item_id=event.item_id)]

    def _truncate(self, event: ItemTruncate) -> list[Request]:
        item = self._known(event.item_id, faults.TRUNCATE_UNKNOWN, "truncating")
        total = self.answer_ms(event.item_id)
        if item.role != "assistant" or total is None:
            raise Refusal(faults.INVALID_VALUE, "Only model output audio messages can be truncated.", param="item_id")
        if event.content_index != 0:
            raise Refusal(faults.INVALID_VALUE, "There is no such content part.", param="content_index")
        ms = event.audio_end_ms
        if not 0 <= ms <= total:
            raise Refusal(
                faults.INVALID_VALUE, f"Audio content of {total}ms is already shorter than {ms}ms", param="audio_end_ms"
            )
        # What was not heard is gone with its words: the vendor drops the transcript as well.
        self._items[event.item_id] = msgspec.structs.replace(item, content=[Part(type="output_audio", transcript=None)])
        self.send(ItemTruncated(item_id=event.item_id, content_index=0, audio_end_ms=ms))
        return [Truncated(item_id=event.item_id, audio_end_ms=ms)]

    def _known(self, item_id: str, code: str, doing: str) -> Item:
        item = self._items.get(item_id)
        if item is None:
            raise Refusal(code, f"Error {doing} item: the item with id '{item_id}' does not exist.", param="item_id")
        return item

    def _respond(self, event: ResponseCreate) -> list[Request]:
        params = event.response or ResponseParams()
        if params.conversation == "none" or params.input is not None:
            raise Refusal(
                faults.INVALID_VALUE,
                "Responses outside the conversation are not served here.",
                param="response.conversation" if params.conversation == "none" else "response.input",
            )
        if params.output_modalities is not None and len(params.output_modalities) != 1:
            raise Refusal(faults.INVALID_VALUE, "Use ['audio'] or ['text'].", param="response.output_modalities")
        if self.active is not None:
            raise Refusal(
                faults.ACTIVE_RESPONSE,
                f"Conversation already has an active response in progress: {self.active}. "
                "Wait until the response is finished before creating a new one.",
            )
        self.active = "requested"
        return [ResponseWanted(params=params)]

    def _cancel(self, event: ResponseCancel) -> list[Request]:
        if self.active is None or event.response_id not in (None, self.active):
            raise Refusal(faults.CANCEL_NOT_ACTIVE, "Cancellation failed: no active response found")
        return [CancelWanted()]


def check_item(item: Item) -> None:
    """Raise Refusal for an item that a client cannot create."""
    if item.type not in _KINDS:
        raise Refusal(faults.INVALID_VALUE, f"Invalid value: '{item.type}'.", param="item.type")
    needed: dict[str, Any]
    if item.type == "message":
        needed = {"role": item.role, "content": item.content}
    elif item.type == "function_call":
        needed = {"name": item.name, "arguments": item.arguments}
    else:
        needed = {"call_id": item.call_id, "output": item.output}
    for name, value in needed.items():
        if value is UNSET:
            raise Refusal(faults.MISSING, f"Missing required parameter: 'item.{name}'.", param=f"item.{name}")
    if item.type != "message":
        return
    allowed = _CONTENT.get(str(item.role))
    if allowed is None:
        raise Refusal(faults.INVALID_VALUE, f"Invalid value: '{item.role}'.", param="item.role")
    for n, part in enumerate(item.parts):
        if part.type not in allowed:
            raise Refusal(
                faults.INVALID_VALUE,
                f"Invalid value: '{part.type}'. Supported values are: {', '.join(sorted(allowed))}.",
                param=f"item.content[{n}].type",
            )
