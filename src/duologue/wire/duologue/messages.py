"""The JSON messages of protocol v1 (`docs/protocol.md`): structs, one decoder a direction, and their errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from duologue.errors import ProtocolError
from duologue.wire.duologue.frames import too_big

#: JSON numbers are exact up to here in every language
type Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
type Place = tuple[Count, Count]
type Name = Annotated[str, Meta(max_length=256)]
type Secret = Annotated[str, Meta(max_length=16_384)]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """A JSON message of the protocol."""


class _Secretive(msgspec.Struct, frozen=True, kw_only=True):
    """Prints without its token, so that a log line cannot leak it."""

    def __repr__(self) -> str:
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name != "token"}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


class AudioSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Format of one direction: PCM16 mono at `rate` Hz (8,000 to 48,000)."""

    rate: Annotated[int, Meta(ge=8_000, le=48_000)]
    encoding: Literal["pcm16"] = "pcm16"
    channels: Literal[1] = 1


class ClientInfo(msgspec.Struct, frozen=True, kw_only=True):
    name: Name = ""
    version: Name = ""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """`acks`: the client sends `played`. `duck`: it obeys `duck`."""

    acks: bool = False
    duck: bool = False


class Resume(_Secretive, frozen=True, kw_only=True):
    """Continue `session`: `last` is the last downstream position that the client has, `played` its playout position.

    `events`: how many events it has had in this call, those in gaps included; None: it does not count them.
    """

    session: Name
    token: Secret
    last: Place
    played: Count = 0
    events: Count | None = None


class Hello(_Secretive, Message, frozen=True, kw_only=True, tag="hello"):
    versions: Annotated[list[int], Meta(min_length=1, max_length=32)]
    input: AudioSpec | None = None
    output: AudioSpec | None = None
    client: ClientInfo = ClientInfo()
    capabilities: Capabilities = Capabilities()
    token: Secret = ""
    metadata: Mapping[str, Any] = {}
    resume: Resume | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    frame_bytes: Count = 65_536
    text_bytes: Count = 1 << 20
    messages_per_s: Annotated[float, Meta(gt=0)] = 200.0
    burst: Count = 2000


class Welcome(_Secretive, Message, frozen=True, kw_only=True, omit_defaults=False, tag="welcome"):
    version: int
    session: Name
    epoch: Annotated[int, Meta(ge=1, le=2**32 - 1)]
    token: Secret
    resumed: bool = False
    input: AudioSpec | None = None
    output: AudioSpec | None = None
    last: Place = (1, 0)
    position: Count = 0
    grace_s: Annotated[float, Meta(ge=0)] = 30.0
    heartbeat_s: Annotated[float, Meta(gt=0)] = 1.0
    miss_s: Annotated[float, Meta(gt=0)] = 3.0
    limits: Limits = Limits()
    notice: str = ""
    auth_expires_in_s: float | None = None
    recall: Count | None = None


class Ack(Message, frozen=True, kw_only=True, tag="ack"):
    e: Count
    n: Count


class GapMessage(Message, frozen=True, kw_only=True, tag="gap"):
    """Positions that will never come; -1 counts are unknown."""

    first: Place = msgspec.field(name="from")
    last: Place = msgspec.field(name="to")
    events: int = 0
    samples: int = 0
    ms: int = 0
    position: Count = 0
    why: Name = "overflow"


class Ping(Message, frozen=True, kw_only=True, tag="ping"):
    t: float


class Pong(Message, frozen=True, kw_only=True, tag="pong"):
    t: float
    r: float


class ResponseNumber(Message, frozen=True, kw_only=True, tag="response"):
    """Audio frames with response `number` belong to `response`."""

    number: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    response: Name


class Clear(Message, frozen=True, kw_only=True, tag="clear"):
    """Drop what is not rendered below track position `before`, of `response` or of all."""

    c: Count
    before: Count
    response: Name = ""


class Cleared(Message, frozen=True, kw_only=True, tag="cleared"):
    """Answer to `clear` `c`: `played` is the first position that was not rendered."""

    c: Count
    e: Count
    played: Count
    at: float = 0.0


class Duck(Message, frozen=True, kw_only=True, tag="duck"):
    """Loudness of all playback from now on, relative to normal."""

    c: Count
    gain_db: Annotated[float, Meta(ge=-120, le=0)]
    ramp_ms: Annotated[int, Meta(ge=0, le=10_000)] = 0


class Played(Message, frozen=True, kw_only=True, tag="played"):
    """Everything before `position` was rendered (or cleared, or in a gap) at `at` of the client's clock."""

    e: Count
    position: Count
    at: float = 0.0


class GoingAway(Message, frozen=True, kw_only=True, tag="going_away"):
    in_s: Annotated[float, Meta(ge=0)]
    reason: str = ""


class AuthRefresh(_Secretive, Message, frozen=True, kw_only=True, tag="auth.refresh"):
    token: Secret


class AuthRefreshed(Message, frozen=True, kw_only=True, tag="auth.refreshed"):
    expires_in_s: float | None = None


class ErrorMessage(Message, frozen=True, kw_only=True, tag="error"):
    code: Name
    message: str
    fatal: bool = False
    ref: Name = ""


class Bye(Message, frozen=True, kw_only=True, tag="bye"):
    code: Name = "hangup"
    message: str = ""


class EventMessage(Message, frozen=True, kw_only=True, tag="event"):
    e: Count
    n: Count
    event: msgspec.Raw


class InputMessage(Message, frozen=True, kw_only=True, tag="input"):
    e: Count
    n: Count
    input: msgspec.Raw


type Upstream = (
    Hello | InputMessage | Ack | GapMessage | Ping | Pong | Cleared | Played | AuthRefresh | ErrorMessage | Bye
)
type Downstream = (
    Welcome
    | EventMessage
    | Ack
    | GapMessage
    | Ping
    | Pong
    | ResponseNumber
    | Clear
    | Duck
    | GoingAway
    | AuthRefreshed
    | ErrorMessage
    | Bye
)

_encoder = msgspec.json.Encoder()


class _Tag(msgspec.Struct):
    type: str


_tag_decoder = msgspec.json.Decoder(_Tag)


def encode(message: Message) -> str:
    """The JSON text of `message`."""
    return _encoder.encode(message).decode()


def tag(message: Message) -> str:
    """The `type` of `message`."""
    return str(message.__struct_config__.tag)


def encode_event(epoch: int, n: int, event: str) -> str:
    """The message around an event whose JSON text was made already; listeners share that text."""
    return f'{{"type":"event","e":{epoch},"n":{n},"event":{event}}}'


def encode_input(epoch: int, n: int, text: str) -> str:
    """The message around an input whose JSON text was made already."""
    return f'{{"type":"input","e":{epoch},"n":{n},"input":{text}}}'


class MessageDecoder[T]:
    """Text to the messages of one direction."""

    def __init__(self, union: Any) -> None:
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(union)
        members = getattr(union, "__value__", union).__args__
        self._known = {member.__struct_config__.tag for member in members}

    def decode(self, text: str, limit: int) -> T:
        """A message of at most `limit` bytes. Raises ProtocolError (`too_big`, `unknown_message`, `malformed`)."""
        if len(text) > limit:
            raise too_big(len(text), limit)
        try:
            if 4 * len(text) > limit and (size := len(text.encode())) > limit:
                raise too_big(size, limit)
            return self._decoder.decode(text)
        except msgspec.ValidationError as error:
            raise self._refusal(text, error) from error
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
            raise ProtocolError(
                f"A text message is not JSON that can be read: {str(error)[:200]}.",
                hint="Send one JSON object a message, in UTF-8.",
                code="malformed",
            ) from error

    def _refusal(self, text: str, error: msgspec.ValidationError) -> ProtocolError:
        try:
            tag = _tag_decoder.decode(text).type
        except (msgspec.MsgspecError, RecursionError):
            tag = ""
        if tag and tag not in self._known:
            return ProtocolError(
                f"Messages of type {tag[:64]!r} are unknown here.",
                hint=f"This side takes {', '.join(sorted(self._known))}.",
                code="unknown_message",
            )
        return ProtocolError(
            f"A message {tag or 'without type'} is not as it should be: {str(error)[:200]}.",
            hint="See docs/protocol.md.",
            code="malformed",
        )


upstream: MessageDecoder[Upstream] = MessageDecoder(Upstream)
downstream: MessageDecoder[Downstream] = MessageDecoder(Downstream)
