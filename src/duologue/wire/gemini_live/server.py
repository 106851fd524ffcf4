"""The server's side of one link: what a client may send when, and the model's messages in the service's order. No I/O, no clock.

==========  ====================================================================================
NEW         the setup opens the session
SETUP       the application decides; `setupComplete` is the first message to the client
HISTORY     with `initialHistoryInClientContent`: `clientContent` is history up to `turnComplete`
OPEN        anything goes
CLOSED      `close_code` and `close_reason` are set: there are no error messages, only closes
==========  ====================================================================================

The model's turn: content → `generationComplete` → `turnComplete`; if interrupted, `interrupted` → `turnComplete` and no
`generationComplete`, and calls that wait are cancelled. A client of google-genai waits for `turnComplete` whatever happens, so
that an interruption is always paired with one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Literal

import msgspec

from . import faults
from . import messages as g
from .client import OUTPUT_RATE, is_audio, rate_of
from .faults import Fault, invalid
from .form import FormError, as_duration, decode

#: rates of audio that are taken, Hz
_RATES = range(8_000, 96_001)
_PICTURES = frozenset({"image/jpeg", "image/png", "image/webp", "image/heic", "image/heif"})
#: calls that were cancelled and may still be answered by a client that had not heard of it
_REMEMBERED = 256


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a served session.

    Attributes:
        message_bytes: of one message.
        connection_s: longest life of a connection (the service's: about 10 minutes); `notice_s` before it goAway is sent.
        handle_s: how long a resumption handle is good (the service's: 2 hours after the end).
        setup_s: how long the setup is waited for.
    """

    message_bytes: int = 20 << 20
    connection_s: float = 600.0
    notice_s: float = 60.0
    handle_s: float = 7200.0
    setup_s: float = 10.0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what a client wants."""


class SetUp(Request, frozen=True, kw_only=True):
    """The session is to be like this. Answer with :meth:`ServerProtocol.accept`, or close."""

    setup: g.Setup


class Remembered(Request, frozen=True, kw_only=True):
    """Entries of the conversation that are not to be answered (yet)."""

    turns: tuple[g.Content, ...]


class Asked(Request, frozen=True, kw_only=True):
    """Entries of the conversation, and an answer to them is wanted. Interrupts what the model says."""

    turns: tuple[g.Content, ...]


class Heard(Request, frozen=True, kw_only=True):
    """User audio, PCM16 mono at `rate` Hz."""

    pcm: bytes
    rate: int


class Seen(Request, frozen=True, kw_only=True):
    """A picture."""

    data: bytes
    mime: str


class Typed(Request, frozen=True, kw_only=True):
    """Text of the user; answered at once, or with the activity that is open."""

    text: str


class ActivityStarted(Request, frozen=True, kw_only=True):
    """The user begins (by the client's word)."""


class ActivityEnded(Request, frozen=True, kw_only=True):
    """The user has finished: answer."""


class StreamEnded(Request, frozen=True, kw_only=True):
    """The microphone is off for now."""


class Answered(Request, frozen=True, kw_only=True):
    """Results of calls. Those of cancelled calls are left out."""

    responses: tuple[g.FunctionResponse, ...]


class Updated(Request, frozen=True, kw_only=True):
    """Other instructions or tools from here on."""

    update: g.ContextUpdate


class ServerProtocol:
    """One client's link.

    Attributes:
        state: see the module.
        setup: what the client wants; set from the setup on.
        activity: whether an activity is open by the client's word.
        calls: functions that the client is to call: id to name.
        background: names of the functions beside which the conversation goes on.
        turn: of the model: `idle`, `open`, `generated`, `cut`.
        close_code, close_reason: set once the link must end, after what waits was sent.
    """

    def __init__(self, *, limits: ServerLimits | None = None) -> None:
        self.limits = limits or ServerLimits()
        self.state: Literal["new", "setup", "history", "open", "closed"] = "new"
        self.setup: g.Setup | None = None
        self.activity = False
        self.background: frozenset[str] = frozenset()
        self.calls: OrderedDict[str, str] = OrderedDict()
        self.turn: Literal["idle", "open", "generated", "cut"] = "idle"
        self.close_code: int | None = None
        self.close_reason = ""
        self._cancelled: deque[str] = deque(maxlen=_REMEMBERED)
        self._out: deque[bytes] = deque()

    # ------------------------------------------------------------------ both directions

    def receive(self, message: str | bytes) -> list[Request]:
        """What the client wants with this message. What cannot be taken closes the link. Never raises."""
        if self.close_code is not None:
            return []
        try:
            if len(message) > self.limits.message_bytes:
                raise Fault(faults.TOO_BIG, f"A message of more than {self.limits.message_bytes} bytes.")
            try:
                received = decode(message, g.ClientMessage)
            except FormError as error:
                raise invalid(str(error)) from None
            wanted = self._take(received)
        except Fault as fault:
            self.close(fault.code, fault.reason)
            return []
        return wanted

    def next_frame(self) -> bytes | None:
        """The next message to the client: JSON in a binary frame, as the service sends it."""
        return self._out.popleft() if self._out else None

    @property
    def waiting(self) -> int:
        """Messages to be sent."""
        return len(self._out)

    def close(self, code: int, reason: str = "") -> None:
        """End the link once everything that waits is sent."""
        if self.close_code is None:
            fault = Fault(code, reason)
            self.close_code, self.close_reason = fault.code, fault.reason
            self.state = "closed"

    # ------------------------------------------------------------------ what the application tells

    def accept(self, session_id: str = "") -> None:
        """The session is set up: the first message to the client."""
        if self.state != "setup":
            return
        assert self.setup is not None
        self.state = "history" if self.setup.history_first else "open"
        self._send(g.ServerMessage(setup_complete=g.SetupComplete(session_id=session_id or None)))

    def resumption(self, handle: str) -> None:
        """From here the session can be resumed with `handle`; "": not at this point. Sent where the client asked for it."""
        if self.setup is None or self.setup.session_resumption is None:
            return
        update = g.SessionResumptionUpdate(new_handle=handle, resumable=bool(handle))
        self._send(g.ServerMessage(session_resumption_update=update))

    def heard(self, text: str, *, finished: bool = False) -> None:
        """A further piece of what the user said. Sent where the client asked for it."""
        if self.setup is not None and self.setup.input_audio_transcription is not None and text:
            self._content(g.ServerContent(input_transcription=g.Transcription(text=text, finished=finished)))

    def said(self, text: str) -> None:
        """A further piece of what the model says: the answer where it is text, else a transcript, if it was asked for."""
        if not text or self.setup is None:
            return
        if not self.setup.speaks:
            self._open()
            parts = [g.Part(text=text)]
            self._content(g.ServerContent(model_turn=g.Content(role="model", parts=parts)))
        elif self.setup.output_audio_transcription is not None:
            if self.turn != "generated":  # transcripts may trail behind the audio
                self._open()
            self._content(g.ServerContent(output_transcription=g.Transcription(text=text)))

    def audio(self, pcm: bytes) -> None:
        """Audio of the answer, PCM16 mono at 24 kHz."""
        if not pcm or self.setup is None or not self.setup.speaks:
            return
        self._open()
        blob = g.Blob(mime_type=f"audio/pcm;rate={OUTPUT_RATE}", data=pcm)
        parts = [g.Part(inline_data=blob)]
        self._content(g.ServerContent(model_turn=g.Content(role="model", parts=parts)))

    def call(self, calls: Sequence[g.FunctionCall]) -> None:
        """The client is to call these functions."""
        self._open()
        for call in calls:
            self.calls[call.id] = call.name
        self._send(g.ServerMessage(tool_call=g.ToolCall(function_calls=list(calls))))

    @property
    def blocking(self) -> list[str]:
        """Calls that the model waits for: those of functions that were not declared to run beside the conversation."""
        return [id for id, name in self.calls.items() if name not in self.background]

    def withdraw(self, ids: Sequence[str]) -> None:
        """Results of these calls are not wanted any more."""
        gone = [id for id in ids if self.calls.pop(id, None) is not None]
        self._cancelled.extend(gone)
        if gone:
            self._send(g.ServerMessage(tool_call_cancellation=g.ToolCallCancellation(ids=gone)))

    def generated(self) -> None:
        """The answer is made."""
        if self.turn == "open":
            self.turn = "generated"
            self._content(g.ServerContent(generation_complete=True))

    def interrupted(self) -> bool:
        """The user cuts the model's turn short. False, and nothing is sent, where there is none."""
        if self.turn not in ("open", "generated"):
            return False
        self.turn = "cut"
        self._content(g.ServerContent(interrupted=True))
        self.withdraw(self.blocking)
        return True

    def turn_complete(self, *, usage: g.UsageMetadata | None = None, reason: str = "") -> None:
        """The model's turn is over; a client that waits for an answer goes on. Also where there was none to give."""
        if self.turn == "open":
            self.generated()
        self.turn = "idle"
        content = g.ServerContent(turn_complete=True, turn_complete_reason=reason or None)
        self._send(g.ServerMessage(server_content=content, usage_metadata=usage))

    def go_away(self, in_s: float) -> None:
        """The connection will be closed in `in_s` seconds."""
        self._send(g.ServerMessage(go_away=g.GoAway(time_left=as_duration(max(0.0, in_s)))))

    def _open(self) -> None:
        if self.turn in ("cut", "generated"):
            self.turn_complete()
        self.turn = "open"

    def _content(self, content: g.ServerContent) -> None:
        self._send(g.ServerMessage(server_content=content))

    def _send(self, message: g.ServerMessage) -> None:
        if self.close_code is None and self.state not in ("new", "setup"):
            self._out.append(g.encode(message))

    # ------------------------------------------------------------------ what the client sends

    def _take(self, message: g.ClientMessage) -> list[Request]:
        given = [name for name in message.__struct_fields__ if getattr(message, name) is not None]
        if len(given) != 1:
            raise invalid(faults.ONE_OF)
        if (self.state == "new") != (message.setup is not None):
            raise invalid(faults.NOT_SETUP)
        if message.setup is not None:
            return self._set_up(message.setup)
        if message.client_content is not None:
            return self._turns(message.client_content)
        if message.realtime_input is not None:
            return self._realtime(message.realtime_input)
        if message.tool_response is not None:
            return self._results(message.tool_response)
        update = message.context_update
        assert update is not None
        if update.tools is not None:
            self.background = _background(g.functions_of(update.tools.tools))
        return [Updated(update=update)]

    def _set_up(self, setup: g.Setup) -> list[Request]:
        if setup.session_resumption is not None and setup.session_resumption.transparent:
            raise invalid(faults.VERTEX_ONLY.format(name="transparent"))
        if setup.explicit_vad_signal:
            raise invalid(faults.VERTEX_ONLY.format(name="explicitVadSignal"))
        config = setup.generation_config or g.GenerationConfig()
        modalities = config.response_modalities
        if modalities is not None and modalities not in (["AUDIO"], ["TEXT"]):
            raise invalid("Use one response modality: AUDIO or TEXT.")
        for name, value, least, most in (
            ("temperature", config.temperature, 0.0, 2.0),
            ("topP", config.top_p, 0.0, 1.0),
            ("maxOutputTokens", config.max_output_tokens, 1, 1 << 20),
        ):
            if value is not None and not least <= value <= most:
                raise invalid(f"Invalid value at 'setup.generation_config.{name}'.")
        self.setup = setup
        self.background = _background(setup.functions)
        self.state = "setup"
        return [SetUp(setup=setup)]

    def _turns(self, content: g.ClientContent) -> list[Request]:
        turns = tuple(content.turns)
        if any(turn.role not in ("user", "model", "") for turn in turns):
            raise invalid("Please use a valid role: user, model.")
        if self.state == "history":
            if content.turn_complete:
                self.state = "open"
            return [Remembered(turns=turns)]
        return [Asked(turns=turns)] if content.turn_complete else [Remembered(turns=turns)]

    def _realtime(self, part: g.RealtimeInput) -> list[Request]:
        assert self.setup is not None
        if self.state == "history":
            self.state = "open"  # the conversation begins without any
        out: list[Request] = []
        if part.activity_start is not None:
            self._activity(start=True)
            out.append(ActivityStarted())
        for blob in part.media_chunks or ():
            out.append(self._blob(blob))
        if part.audio is not None:
            out.append(self._audio(part.audio))
        if part.video is not None:
            out.append(self._picture(part.video))
        if part.text:
            out.append(Typed(text=part.text))
        if part.activity_end is not None:
            self._activity(start=False)
            out.append(ActivityEnded())
        if part.audio_stream_end:
            if not self.setup.automatic:
                raise invalid(faults.STREAM_END)
            out.append(StreamEnded())
        return out

    def _activity(self, *, start: bool) -> None:
        assert self.setup is not None
        if self.setup.automatic:
            raise invalid(faults.EXPLICIT)
        if self.activity is start:
            raise invalid(faults.ACTIVITY)
        self.activity = start

    def _blob(self, blob: g.Blob) -> Request:
        return self._audio(blob) if blob.mime_type.lower().startswith("audio/") else self._picture(blob)

    def _audio(self, blob: g.Blob) -> Request:
        rate = rate_of(blob.mime_type, 16_000)
        if not is_audio(blob) or rate is None or rate not in _RATES or len(blob.data) & 1:
            raise invalid(faults.BAD_AUDIO)
        return Heard(pcm=blob.data, rate=rate)

    def _picture(self, blob: g.Blob) -> Request:
        mime = blob.mime_type.split(";")[0].strip().lower()
        if mime not in _PICTURES or not blob.data:
            raise invalid(faults.BAD_MEDIA.format(mime=mime or "none"))
        return Seen(data=blob.data, mime=mime)

    def _results(self, response: g.ToolResponse) -> list[Request]:
        known: list[g.FunctionResponse] = []
        for result in response.function_responses:
            if not result.id:
                raise invalid(faults.NO_ID)
            if result.id in self._cancelled:
                continue
            if result.id not in self.calls:
                raise invalid(faults.NO_CALL.format(id=result.id))
            if not result.will_continue:
                del self.calls[result.id]
            known.append(result)
        return [Answered(responses=tuple(known))] if known else []


def _background(functions: Sequence[g.FunctionDeclaration]) -> frozenset[str]:
    return frozenset(entry.name for entry in functions if entry.behavior == "NON_BLOCKING")
