"""What the two ends of a link say: JSON structs of control frames, events for whoever drives an end, options, errors."""

from __future__ import annotations

from typing import Literal

import msgspec

from ...errors import ConfigurationError, ProtocolError

#: version of the framing and of what the frames mean; both ends must have the same
VERSION = 1
#: smallest window a peer may announce, bytes
MIN_WINDOW = 4096
MAX_WINDOW = 1 << 30


class LinkError(ProtocolError):
    """The peer broke the link's rules, or a method was called in a state that forbids it.

    `code`: "link.frame" (not a frame, or malformed), "link.order" (a frame where none may be), "link.flow" (credit or a
    bound exceeded), "link.version" (ends that do not understand each other), "link.silent" (nothing heard for too long),
    "link.unread" (the peer goes on sending and takes none of the answers), "link.state" (a method called too early, too late,
    or for a stream that is not open).
    """

    def __init__(self, message: str, *, code: str = "link.frame", hint: str = "") -> None:
        super().__init__(message, hint=hint, code=code)


class LinkOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of one end. Bytes and seconds.

    Attributes:
        window: what the peer may have sent on a stream and we have not consumed, frame headers included.
        chunk: longest piece of a message in one frame; what another stream waits for at most.
        max_message: longest message taken from the peer.
        max_queue: messages of a stream that wait for credit; `send` raises beyond, `takes` is False beyond a half.
        max_streams: open at a time.
        max_control: frames other than messages that wait until the peer reads; beyond it the link fails with "link.unread".
        ping_s: how often a link is asked for a sign of life.
        silence_s: silence after which it is given up.
        hello_s: longest wait for the peer's first frame.
    """

    window: int = 256 << 10
    chunk: int = 16 << 10
    max_message: int = 4 << 20
    max_queue: int = 4 << 20
    max_streams: int = 10_000
    max_control: int = 4 << 20
    ping_s: float = 5.0
    silence_s: float = 15.0
    hello_s: float = 5.0

    def __post_init__(self) -> None:
        if not MIN_WINDOW <= self.window <= MAX_WINDOW:
            raise ConfigurationError(f"A link's window is {MIN_WINDOW} to {MAX_WINDOW} bytes, not {self.window}.")
        if not 1 <= self.chunk <= 1 << 20:
            raise ConfigurationError(f"A link's chunk is 1 to {1 << 20} bytes, not {self.chunk}.")
        for name in ("max_message", "max_queue", "max_streams", "max_control", "ping_s", "silence_s", "hello_s"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"A link's {name} is greater than 0.")


class Hello(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """First frame of both ends.

    Attributes:
        version: of the link (`VERSION`).
        schema: of the messages between the parts of the host; must be the same at both ends.
        peer: names the sender: the gateway's id, or the worker's.
        epoch: counts the links between this gateway and this worker; the worker repeats it.
        received: stream frames of an earlier link of this epoch that arrived, from where it is to be resumed. Links are not
            resumed yet: it is 0, and anything else is refused.
        window: initial credit of each stream towards the sender of this hello, bytes.
    """

    version: int
    schema: int
    peer: str
    epoch: int = 0
    received: int = 0
    window: int = LinkOptions().window


class Open(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A client's WebSocket, admitted by the gateway, that the worker is to take or refuse.

    Attributes:
        kind: the wire that is spoken on it.
        session: the session's id, and `epoch` of its owner.
        path: what the worker's application serves it at: "/ws", "/v1/realtime", or the Gemini path; decoded.
        query: encoded, without credentials.
        headers: those that the application may see; names are lower-case.
        principal: `Principal.id` of who opened it.
        subprotocols: what the client offered, credentials removed.
        peer: the client's address.
        expires: Unix time when its credential ends; None: never. A newer one goes through `refresh`.
        preset: configuration that the gateway has for the session, in the wire's own JSON ("": none); the client cannot say it.
    """

    kind: Literal["ws", "openai", "gemini"] = "ws"
    session: str
    epoch: int
    path: str = "/ws"
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    principal: str = ""
    subprotocols: tuple[str, ...] = ()
    peer: str = ""
    expires: float | None = None
    preset: str = ""


class Accept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The worker takes the stream. `subprotocol`: chosen among those offered, "" for none."""

    subprotocol: str = ""


class Reject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The worker refuses the stream with an HTTP status (400 to 599), headers and a body."""

    status: int
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()


class Refresh(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A newer token that a client sent in its call, for the gateway to verify. One at a time a stream."""

    token: str

    def __repr__(self) -> str:
        return "Refresh(token=…)"


class Refreshed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The gateway's answer. `expires`: Unix time when it ends (None: never); with `error` (a typed code) it was refused."""

    expires: float | None = None
    error: str = ""
    message: str = ""


class GoAway(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """No new streams. Open ones have `in_s` seconds. `code` is a LinkError's if the link ends for an error."""

    reason: str = ""
    code: str = ""
    in_s: float = 0.0


# --------------------------------------------------------------------------- events


class Connected(msgspec.Struct, frozen=True):
    """The peer's hello arrived and is acceptable."""

    hello: Hello


class Opened(msgspec.Struct, frozen=True):
    """(Server) the gateway opens a stream; answer with `accept` or `reject`."""

    stream: int
    open: Open


class Accepted(msgspec.Struct, frozen=True):
    """(Client) messages may be sent."""

    stream: int
    subprotocol: str


class Rejected(msgspec.Struct, frozen=True):
    """(Client) the stream is over."""

    stream: int
    reject: Reject


class Message(msgspec.Struct, frozen=True):
    """A whole WebSocket message. Give `cost` back with `consumed` when it is dealt with."""

    stream: int
    data: bytes
    text: bool
    cost: int

    @property
    def value(self) -> str | bytes:
        """As the channels want it: str if it is text. Raises LinkError if the text is not UTF-8."""
        if not self.text:
            return self.data
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise LinkError("A text message is not UTF-8.") from error


class Closed(msgspec.Struct, frozen=True):
    """The peer closed the stream. It is over; nothing more can be sent. Not raised for streams that this end closed."""

    stream: int
    code: int
    reason: str


class RefreshAsked(msgspec.Struct, frozen=True):
    """(Client) a token to verify; answer with `refreshed`."""

    stream: int
    refresh: Refresh


class RefreshAnswered(msgspec.Struct, frozen=True):
    """(Server) the answer to `refresh`."""

    stream: int
    refreshed: Refreshed


class GoingAway(msgspec.Struct, frozen=True):
    """The peer takes (server) or opens (client) no new streams."""

    goaway: GoAway


Event = Connected | Opened | Accepted | Rejected | Message | Closed | RefreshAsked | RefreshAnswered | GoingAway
