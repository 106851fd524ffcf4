"""The vocabulary: every typed event and input of Duologue, immutable and JSON round-tripping.

`Event` types travel from a session to its listeners, `Input` types from a participant to the session. Both are tagged by
``type``; :func:`encode`, :func:`decode_event` and :func:`decode_input` are their one JSON form (``bytes`` fields are base64),
and :func:`json_schema` publishes that form.

Units: ``at`` is seconds since the session began, on its monotonic clock. Audio is PCM16 little-endian mono. ``offset``,
``position`` and other sample counts are at the rate that the event names (``rate``), else at the track's agreed rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

#: any value that JSON can carry
Json = Any

EndReason = Literal["completed", "hangup", "client_left", "idle", "limit", "error", "shutdown", "stopped"]
ResponseStatus = Literal["completed", "interrupted", "cancelled", "failed"]
ResponseOrigin = Literal["turn", "say", "greeting", "respond", "tool", "idle", "filler", "farewell"]
ToolStatus = Literal["ok", "error", "timeout", "cancelled", "denied", "outcome_unknown"]
InterruptionStage = Literal["duck", "pause", "yield", "resume"]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Something that happened in a session. `at`: seconds since the session began."""

    at: float = 0.0


class SessionStarted(Event, frozen=True, kw_only=True, tag="session.started"):
    """The conversation is open. `notice` is what an honest interface shows first (such as: a phrase matcher answers)."""

    session: str
    agent: str
    model: str
    epoch: int = 0
    input_rate: int = 16000
    output_rate: int = 24000
    notice: str = ""


class SessionTakenOver(Event, frozen=True, kw_only=True, tag="session.taken_over"):
    """The session goes on under another owner, `epoch`, after the one before was lost in the midst of it."""

    epoch: int
    agent: str
    model: str


class SessionGoingAway(Event, frozen=True, kw_only=True, tag="session.going_away"):
    """The session will end in `in_s` seconds (drain, age limit, shutdown)."""

    in_s: float
    reason: str


class SessionEnded(Event, frozen=True, kw_only=True, tag="session.ended"):
    """Last event of a session."""

    reason: EndReason
    detail: str = ""


class SessionWaiting(Event, frozen=True, kw_only=True, tag="session.waiting"):
    """Everybody has left (`reason`), and the session stays: for the long tool runs `calls`, which are under way or untold.

    Whoever joins next is told of them. Without anybody it ends `untold_s` after the last of them is done.
    """

    reason: EndReason
    calls: tuple[str, ...]
    untold_s: float


class UserSpeechStarted(Event, frozen=True, kw_only=True, tag="user.speech_started"):
    """The user began to speak at sample `position` of their track."""

    position: int


class UserSpeechStopped(Event, frozen=True, kw_only=True, tag="user.speech_stopped"):
    """The user fell silent at sample `position` of their track. The turn may go on."""

    position: int


class UserTranscript(Event, frozen=True, kw_only=True, tag="user.transcript"):
    """What the user said in `turn`, so far (`final` false: may still change) or finally."""

    turn: str
    text: str
    final: bool = False


class TurnCommitted(Event, frozen=True, kw_only=True, tag="turn.committed"):
    """The user's turn is over and will be answered. `reason` says why the floor decided so."""

    turn: str
    text: str
    reason: str


class TurnDiscarded(Event, frozen=True, kw_only=True, tag="turn.discarded"):
    """What sounded like a turn was none (noise, a backchannel, a false barge-in)."""

    turn: str
    reason: str
    text: str = ""


class ResponseStarted(Event, frozen=True, kw_only=True, tag="response.started"):
    """The agent began an answer. `turn` is the user's turn that it answers, if any."""

    response: str
    origin: ResponseOrigin = "turn"
    turn: str = ""


class ResponseText(Event, frozen=True, kw_only=True, tag="response.text"):
    """A further piece of what the agent is going to say, spoken from sample `offset` of the response on, if known."""

    response: str
    text: str
    offset: int | None = None


class ResponseAudio(Event, frozen=True, kw_only=True, tag="response.audio"):
    """Audio of a response, as transmitted. `offset`: first sample within the response; `position`: on the listener's track."""

    response: str
    pcm: bytes
    rate: int
    offset: int
    position: int


class ResponseHeard(Event, frozen=True, kw_only=True, tag="response.heard"):
    """Progress of playout: the text of the response that its addressee has heard, and for how long."""

    response: str
    text: str
    ms: int


class ResponseFinished(Event, frozen=True, kw_only=True, tag="response.finished"):
    """A response is over. `heard` is what its addressee heard; `estimated` says that no acknowledgement confirms it."""

    response: str
    status: ResponseStatus
    text: str = ""
    heard: str = ""
    heard_ms: int = 0
    estimated: bool = False
    reason: str = ""


class Interruption(Event, frozen=True, kw_only=True, tag="interruption"):
    """The user spoke while the agent did: `stage` is how far it went (`resume`: it was a false one)."""

    response: str
    stage: InterruptionStage
    reason: str


class ToolStarted(Event, frozen=True, kw_only=True, tag="tool.started"):
    """A tool runs beside the conversation."""

    call: str
    name: str
    arguments: Mapping[str, Json] = {}
    response: str = ""


class ToolApprovalNeeded(Event, frozen=True, kw_only=True, tag="tool.approval_needed"):
    """A tool waits for :class:`ApprovalInput` with the same `call`, at most `timeout_s`."""

    call: str
    name: str
    arguments: Mapping[str, Json] = {}
    timeout_s: float = 60.0


class ToolProgress(Event, frozen=True, kw_only=True, tag="tool.progress"):
    """What a running tool says of itself."""

    call: str
    name: str
    message: str


class ToolFinished(Event, frozen=True, kw_only=True, tag="tool.finished"):
    """A tool run is over. `output` is its JSON result, `error` why there is none."""

    call: str
    name: str
    status: ToolStatus
    output: Json = None
    error: str = ""
    duration_s: float = 0.0


class ConnectionOpened(Event, frozen=True, kw_only=True, tag="connection.opened"):
    """A link to a model is up. `generation` counts the links of this session."""

    generation: int
    model: str
    reason: str = "start"


class ConnectionLost(Event, frozen=True, kw_only=True, tag="connection.lost"):
    """A link to a model ended unasked; `retry_in_s` is negative when nothing more will be tried."""

    generation: int
    model: str
    reason: str
    retry_in_s: float = 0.0


class ConnectionRotated(Event, frozen=True, kw_only=True, tag="connection.rotated"):
    """The session goes on over connection `generation`; `replayed_ms` of user audio was replayed into it."""

    generation: int
    model: str
    reason: str
    replayed_ms: int = 0


class ListenerAway(Event, frozen=True, kw_only=True, tag="listener.away"):
    """A client's link dropped; it may resume within `grace_s`."""

    participant: str
    grace_s: float


class ListenerBack(Event, frozen=True, kw_only=True, tag="listener.back"):
    """A client resumed. `gap_events` and `gap_ms` say what could not be replayed (0: everything was)."""

    participant: str
    gap_events: int = 0
    gap_ms: int = 0


class ListenerJoined(Event, frozen=True, kw_only=True, tag="listener.joined"):
    """A participant has come into a session that was under way."""

    participant: str


class UsageReported(Event, frozen=True, kw_only=True, tag="usage"):
    """Tokens that the provider counted since the last such event."""

    input_tokens: int = 0
    output_tokens: int = 0
    details: Mapping[str, Json] = {}


class TurnMeasured(Event, frozen=True, kw_only=True, tag="turn.measured"):
    """The turn's record: the latency waterfall, drops, reasons (fields of `telemetry.TurnRecord`)."""

    turn: str
    record: Mapping[str, Json]


class ErrorEvent(Event, frozen=True, kw_only=True, tag="error"):
    """A typed error that this side can act on. The call goes on unless `fatal`."""

    code: str
    message: str
    fatal: bool = False
    ref: str = ""


class Input(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Something that a participant sends to a session."""


class AudioInput(Input, frozen=True, kw_only=True, tag="input.audio"):
    """User audio. `position`: capture position of its first sample on the track (None: follows what came before)."""

    pcm: bytes
    rate: int | None = None
    position: int | None = None


class TextInput(Input, frozen=True, kw_only=True, tag="input.text"):
    """A typed turn; it is answered like a spoken one."""

    text: str


class ImageInput(Input, frozen=True, kw_only=True, tag="input.image"):
    """A still image or a video frame. `respond`: answer it at once."""

    data: bytes
    mime: str = "image/jpeg"
    respond: bool = False


class SensorInput(Input, frozen=True, kw_only=True, tag="input.sensor"):
    """Structured data beside the conversation (a reading, a location); becomes context, is not answered by itself."""

    name: str
    value: Json


class ActivityInput(Input, frozen=True, kw_only=True, tag="input.activity"):
    """Push-to-talk and mute: `start`/`end` of a turn by hand, `mute`/`unmute` of the microphone, `ended`: no more audio."""

    kind: Literal["start", "end", "mute", "unmute", "ended"]


class InterruptInput(Input, frozen=True, kw_only=True, tag="input.interrupt"):
    """Stop speaking now (a button, not a voice)."""

    reason: str = "user_request"


class ApprovalInput(Input, frozen=True, kw_only=True, tag="input.approval"):
    """The answer to :class:`ToolApprovalNeeded`."""

    call: str
    approved: bool
    note: str = ""


AnyEvent = (
    SessionStarted
    | SessionTakenOver
    | SessionGoingAway
    | SessionEnded
    | SessionWaiting
    | UserSpeechStarted
    | UserSpeechStopped
    | UserTranscript
    | TurnCommitted
    | TurnDiscarded
    | ResponseStarted
    | ResponseText
    | ResponseAudio
    | ResponseHeard
    | ResponseFinished
    | Interruption
    | ToolStarted
    | ToolApprovalNeeded
    | ToolProgress
    | ToolFinished
    | ConnectionOpened
    | ConnectionLost
    | ConnectionRotated
    | ListenerAway
    | ListenerBack
    | ListenerJoined
    | UsageReported
    | TurnMeasured
    | ErrorEvent
)
AnyInput = AudioInput | TextInput | ImageInput | SensorInput | ActivityInput | InterruptInput | ApprovalInput

_encoder = msgspec.json.Encoder()
_event_decoder = msgspec.json.Decoder(AnyEvent)
_input_decoder = msgspec.json.Decoder(AnyInput)


def encode(message: Event | Input) -> bytes:
    """The JSON text of an event or input, UTF-8."""
    return _encoder.encode(message)


def decode_event(text: bytes | str) -> AnyEvent:
    """An event from its JSON text. Raises `msgspec.ValidationError` or `msgspec.DecodeError`."""
    event: AnyEvent = _event_decoder.decode(text)
    return event


def decode_input(text: bytes | str) -> AnyInput:
    """An input from its JSON text. Raises `msgspec.ValidationError` or `msgspec.DecodeError`."""
    message: AnyInput = _input_decoder.decode(text)
    return message


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of all events and inputs, under ``$defs``."""
    (events, inputs), defs = msgspec.json.schema_components([AnyEvent, AnyInput], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Duologue events and inputs",
        "$defs": {**defs, "Event": events, "Input": inputs},
    }
