"""The client's side of one link: what may be sent when, and which messages a server may send. No I/O, no clock.

==========  ====================================================================================
NEW         nothing was sent; the setup opens the session
SETUP       the setup was sent; the first message of the server completes it
OPEN        anything goes
CLOSED      from :meth:`ClientProtocol.closed` on
==========  ====================================================================================

A client that controls activity (automatic detection disabled) sends `activityStart` and `activityEnd` in turn; one that does not
may not, and may say `audioStreamEnd`. What the service would answer by closing the connection is refused here before it is sent.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Literal

import msgspec

from duologue.errors import ProtocolError

from . import messages as g
from .form import FormError, decode

#: rate of the model's audio, Hz
OUTPUT_RATE = 24_000
#: calls and cuts in the user's track that are remembered
_REMEMBERED = 256


class Malformed(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is none of this protocol, or came when it may not. The link goes on."""

    why: str


class ClientProtocol:
    """One link to a server.

    Args:
        setup: the session as it is to be.
        input_rate: Hz of the user's audio.

    Attributes:
        state: see the module.
        session_id: what the server calls the session; "" if it did not say.
        activity: whether an activity of the user is open (automatic detection disabled).
        calls: functions to be called and not answered yet: id to name.
        sent_samples: user audio sent on this link.
        malformed: messages that were none.
    """

    def __init__(self, setup: g.Setup, *, input_rate: int = 16_000) -> None:
        self.setup = setup
        self.input_rate = input_rate
        self.state: Literal["new", "setup", "open", "closed"] = "new"
        self.session_id = ""
        self.activity = False
        self.calls: OrderedDict[str, str] = OrderedDict()
        self.sent_samples = 0
        self.malformed = 0
        self._mime = f"audio/pcm;rate={input_rate}"
        self._out: deque[str] = deque()
        self._track: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)  # (sample of this link, position on the track)

    # ------------------------------------------------------------------ sending

    def next_frame(self) -> str | None:
        """The next message to the server."""
        return self._out.popleft() if self._out else None

    @property
    def waiting(self) -> int:
        """Messages to be sent."""
        return len(self._out)

    def begin(self) -> None:
        """Send the setup."""
        if self.state != "new":
            raise ProtocolError("The setup was sent already.", code="not_open")
        self.state = "setup"
        self._put(g.ClientMessage(setup=self.setup))

    def audio(self, pcm: bytes, position: int) -> None:
        """User audio (PCM16 at `input_rate`) whose first sample is at `position` of the user's track."""
        self._check_open()
        if len(pcm) & 1:
            raise ProtocolError("An odd number of bytes is no PCM16.", code="audio")
        if not self._track or position - self._track[-1][1] != self.sent_samples - self._track[-1][0]:
            self._track.append((self.sent_samples, position))
        self.sent_samples += len(pcm) // 2
        self._realtime(g.RealtimeInput(audio=g.Blob(mime_type=self._mime, data=pcm)))

    def video(self, data: bytes, mime: str) -> None:
        """A frame of video, or a picture: ``image/jpeg`` or ``image/png``."""
        self._realtime(g.RealtimeInput(video=g.Blob(mime_type=mime, data=data)))

    def text(self, text: str) -> None:
        """Text of the user, live. `clientContent` would interrupt what the model says."""
        self._realtime(g.RealtimeInput(text=text))

    def activity_start(self) -> None:
        """The user begins. Interrupts the model, unless `activityHandling` says otherwise."""
        self._check_activity(open_=False)
        self._realtime(g.RealtimeInput(activity_start={}))
        self.activity = True

    def activity_end(self) -> None:
        """The user has finished: the model answers."""
        self._check_activity(open_=True)
        self._realtime(g.RealtimeInput(activity_end={}))
        self.activity = False

    def audio_stream_end(self) -> None:
        """The microphone is off for now: what was heard is not to be waited with."""
        if not self.setup.automatic:
            raise ProtocolError("audioStreamEnd needs automatic activity detection.", code="activity")
        self._realtime(g.RealtimeInput(audio_stream_end=True))

    def content(self, turns: Sequence[g.Content], *, turn_complete: bool) -> None:
        """Entries of the conversation. Interrupts what the model says; with `turn_complete` it answers."""
        self._check_open()
        self._put(g.ClientMessage(client_content=g.ClientContent(turns=list(turns), turn_complete=turn_complete)))

    def answer(self, responses: Sequence[g.FunctionResponse]) -> bool:
        """Results of calls, in one message. Those of calls that are not open are left out; False if none is left."""
        self._check_open()
        known = [response for response in responses if response.id in self.calls]
        if not known:
            return False
        for response in known:
            if not response.will_continue:
                del self.calls[response.id]
        self._put(g.ClientMessage(tool_response=g.ToolResponse(function_responses=known)))
        return True

    def update(self, update: g.ContextUpdate) -> None:
        """Other instructions or tools from here on (Gemini 3.8)."""
        self._check_open()
        self._put(g.ClientMessage(context_update=update))

    def send(self, message: g.ClientMessage) -> None:
        """Any message after the setup, as it is, for whoever wants every step in their own hands."""
        self._check_open()
        given = [name for name in message.__struct_fields__ if getattr(message, name) is not None]
        if len(given) != 1 or given == ["setup"]:
            raise ProtocolError("A message has exactly one part, and the setup comes once.", code="message")
        realtime = message.realtime_input
        if realtime is not None and realtime.activity_start is not None:
            self._check_activity(open_=False)
        if realtime is not None and realtime.activity_end is not None:
            self._check_activity(open_=self.activity or realtime.activity_start is not None)
        if realtime is not None and (realtime.activity_start, realtime.activity_end) != (None, None):
            self.activity = realtime.activity_end is None
        for response in message.tool_response.function_responses if message.tool_response is not None else ():
            if not response.will_continue:
                self.calls.pop(response.id, None)
        self._put(message)

    def closed(self) -> None:
        """The link is gone."""
        self.state = "closed"
        self._out.clear()

    def _realtime(self, part: g.RealtimeInput) -> None:
        self._check_open()
        self._put(g.ClientMessage(realtime_input=part))

    def _put(self, message: g.ClientMessage) -> None:
        self._out.append(g.encode(message).decode())

    def _check_open(self) -> None:
        if self.state != "open":
            raise ProtocolError(f"The link is {self.state}; nothing can be sent.", code="not_open")

    def _check_activity(self, *, open_: bool) -> None:
        self._check_open()
        if self.setup.automatic:
            raise ProtocolError(
                "Activity is detected automatically.", hint="Disable automaticActivityDetection.", code="activity"
            )
        if self.activity is not open_:
            raise ProtocolError("activityStart and activityEnd must alternate.", code="activity")

    # ------------------------------------------------------------------ receiving

    def receive(self, message: str | bytes) -> g.ServerMessage | Malformed | None:
        """The message in a frame; None once the link is closed. Never raises: what is no message is :class:`Malformed`."""
        if self.state == "closed":
            return None
        try:
            received = decode(message, g.ServerMessage)
        except FormError as error:
            return self._bad(str(error))
        if self.state != "open":
            if self.state == "new" or received.setup_complete is None:
                return self._bad("it came before setupComplete")
            self.state = "open"
            self.session_id = received.setup_complete.session_id or ""
        elif received.setup_complete is not None:
            return self._bad("a second setupComplete")
        content = received.server_content
        for part in content.model_turn.parts if content is not None and content.model_turn is not None else ():
            if part.inline_data is not None and is_audio(part.inline_data) and len(part.inline_data.data) & 1:
                return self._bad("an odd number of bytes is no PCM16")
        for call in received.tool_call.function_calls if received.tool_call is not None else ():
            self.calls[call.id] = call.name
            if len(self.calls) > _REMEMBERED:
                self.calls.popitem(last=False)
        for id in received.tool_call_cancellation.ids if received.tool_call_cancellation is not None else ():
            self.calls.pop(id, None)
        return received

    def position_of(self, seconds: float) -> int:
        """The position on the user's track of a time that the server counts in audio sent on this link."""
        sample = int(seconds * self.input_rate)
        found = (0, 0)
        for begin, position in self._track:
            if begin > sample:
                break
            found = begin, position
        return found[1] + sample - found[0]

    def _bad(self, why: str) -> Malformed:
        self.malformed += 1
        return Malformed(why=why)


def is_audio(blob: g.Blob) -> bool:
    """Whether a blob is PCM audio."""
    return blob.mime_type.replace(" ", "").lower().startswith("audio/pcm")


def rate_of(mime: str, default: int) -> int | None:
    """The rate that an audio MIME type states; `default` if it states none, None if what it states is no rate."""
    for parameter in mime.split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.strip().lower() == "rate":
            value = value.strip().strip('"')
            return int(value) if value.isascii() and value.isdigit() and len(value) < 7 and int(value) > 0 else None
    return default
