"""What both ends of a link do alike: hello, streams' messages and credit, signs of life, the end."""

from __future__ import annotations

import struct

import msgspec

from .frames import HEADER, MAX_FRAME, MORE, FrameReader, Type
from .messages import (
    MAX_WINDOW,
    MIN_WINDOW,
    VERSION,
    Closed,
    Connected,
    Event,
    GoAway,
    GoingAway,
    Hello,
    LinkError,
    LinkOptions,
    Message,
)
from .outbox import Outbox

_CLOSE = struct.Struct(">H")
_CREDIT = struct.Struct(">I")
_BEAT = struct.Struct(">QQ")
_TEXT, _BINARY = Type.TEXT.value, Type.BINARY.value
_MESSAGES = frozenset({_TEXT, _BINARY})


class Stream:
    """The receiving half of a stream, and where it stands."""

    __slots__ = ("accepted", "closing", "credit", "pieces", "refreshing", "size", "spent", "text")

    def __init__(self, window: int) -> None:
        self.accepted = False
        #: this end has closed it, behind messages that still wait
        self.closing = False
        #: what the peer may still send
        self.credit = window
        #: consumed and not yet granted again
        self.spent = 0
        self.pieces: list[bytes] = []
        self.size = 0
        self.text = False
        self.refreshing = False


class Link:
    """One end. `now` is a monotonic clock's time, seconds; it never goes back."""

    def __init__(
        self, *, peer: str, schema: int, now: float, epoch: int = 0, options: LinkOptions | None = None
    ) -> None:
        self.options = options or LinkOptions()
        self._hello = Hello(
            version=VERSION, schema=schema, peer=peer, epoch=epoch, received=0, window=self.options.window
        )
        #: the peer's, once it arrived
        self.hello: Hello | None = None
        self._reader = FrameReader()
        self._out = Outbox()
        self._streams: dict[int, Stream] = {}
        self._last = 0  # highest stream id
        self._error: LinkError | None = None
        self._heard = self._began = now
        self._pinged = now
        self._ping = 0
        #: round trip of the last ping, seconds; None before the first
        self.rtt: float | None = None
        #: stream frames that arrived, and frames for streams that were over
        self.received = 0
        self.late = 0
        self.going_away = False

    # ------------------------------------------------------------------ state

    @property
    def error(self) -> LinkError | None:
        """Why the link failed. What `data_to_send` still gives tells the peer; then close the transport."""
        return self._error

    @property
    def streams(self) -> tuple[int, ...]:
        """Those open."""
        return tuple(self._streams)

    @property
    def sent(self) -> int:
        """Stream frames that have gone."""
        return self._out.sent

    # ------------------------------------------------------------------ bytes

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Bytes from the peer. Raises LinkError if they break the rules; the link is then over.

        What arrived before the error is lost with it: the streams of a failed link are all over.
        """
        if self._error is not None:
            return []
        self._heard = max(self._heard, now)
        events: list[Event] = []
        try:
            for type, stream, payload in self._reader.feed(data):
                if type & ~MORE in _MESSAGES and self.hello is not None:
                    self.received += 1
                    self._piece(type, stream, payload, events)
                    continue
                self._frame(type, stream, payload, now, events)
                if self._out.controlled > self.options.max_control:
                    raise LinkError("The peer does not read what it is answered.", code="link.unread")
        except LinkError as error:
            raise self._fail(error) from None
        except ValueError as error:
            raise self._fail(LinkError(f"The peer sent a {error}.")) from None
        return events

    def data_to_send(self, limit: int = 64 << 10) -> bytes:
        """Bytes to write now, b"" if none. About `limit` at a time: ask again when the transport took them, so that
        control that comes in between overtakes the messages that wait."""
        data = self._out.take(limit)
        if self._out.closed:
            for stream in self._out.closed:
                self._streams.pop(stream, None)
            self._out.closed.clear()
        return data

    def tick(self, now: float) -> None:
        """To be called at `deadline`. Raises LinkError ("link.silent") if the peer is gone."""
        if self._error is not None:
            return
        if self.hello is None and now >= self._began + self.options.hello_s:
            raise self._fail(LinkError("The peer did not say hello in time.", code="link.silent"))
        if now >= self._heard + self.options.silence_s:
            raise self._fail(LinkError("The peer has fallen silent.", code="link.silent"))
        if self.hello is not None and now >= self._pinged + self.options.ping_s:
            self._pinged = now
            self._ping += 1
            self._out.control(Type.PING, 0, _BEAT.pack(self._ping, self.received))

    def deadline(self) -> float:
        """When `tick` is next due."""
        silent = self._heard + self.options.silence_s
        if self.hello is None:
            return min(silent, self._began + self.options.hello_s)
        return min(silent, self._pinged + self.options.ping_s)

    # ------------------------------------------------------------------ streams

    def send(self, stream: int, data: str | bytes, *, text: bool = False) -> bool:
        """Queue a message: text if it is a str, or bytes (of UTF-8) with `text`. Returns whether more may follow (`takes`).

        Raises LinkError: "link.state" if the stream is not open, "link.flow" if too much waits on it (see `takes`).
        """
        entry = self._open(stream)
        if not entry.accepted:
            raise LinkError(f"Stream {stream} is not accepted yet.", code="link.state")
        if isinstance(data, str):
            data, text = data.encode(), True
        most = self.options.max_queue
        if self._out.queued(stream) + len(data) + HEADER > most:
            raise LinkError(f"More than {most} bytes wait on stream {stream}.", code="link.flow")
        return self._out.message(stream, _TEXT if text else _BINARY, data) < most // 2

    def takes(self, stream: int) -> bool:
        """Whether a stream's sender should go on: less than half of `max_queue` waits. False if it is not open."""
        entry = self._streams.get(stream)
        return (
            entry is not None
            and entry.accepted
            and not entry.closing
            and self._out.queued(stream) < self.options.max_queue // 2
        )

    def queued(self, stream: int) -> int:
        """Bytes of messages that wait on a stream."""
        return self._out.queued(stream)

    def consumed(self, stream: int, cost: int) -> bool:
        """A message was dealt with: the peer may send as much again. Nothing happens for a stream that is over.

        Returns whether the peer is to be told so now: it is when half of the window is free.

        Raises LinkError ("link.state") if more is given back than came.
        """
        entry = self._streams.get(stream)
        if entry is None:
            return False
        if entry.credit + entry.spent + cost > self.options.window:
            raise LinkError(f"More than what came on stream {stream} was consumed.", code="link.state")
        entry.spent += cost
        if entry.spent < self.options.window // 2:
            return False
        self._out.grant(stream, entry.spent)
        entry.credit += entry.spent
        entry.spent = 0
        return True

    def close(self, stream: int, code: int = 1000, reason: str = "") -> None:
        """End a stream after the messages that wait; what the peer still sends is dropped. Nothing happens if it is over."""
        entry = self._streams.get(stream)
        if entry is None or entry.closing:
            return
        if not entry.accepted:
            self.abort(stream, code, reason)
            return
        entry.closing = True
        entry.pieces.clear()
        self._out.close(stream, code, _reason(reason))

    def abort(self, stream: int, code: int = 1006, reason: str = "") -> None:
        """End a stream now, dropping the messages that wait. Nothing happens if it is over."""
        if self._streams.pop(stream, None) is not None:
            self._out.abort(stream, code, _reason(reason))

    def go_away(self, reason: str, in_s: float = 0.0) -> None:
        """Tell the peer that no new streams are wanted."""
        if self._error is None:
            self.going_away = True
            self._control(Type.GOAWAY, 0, GoAway(reason=reason, in_s=in_s))

    # ------------------------------------------------------------------ frames

    def _frame(self, type: int, stream: int, payload: bytes, now: float, events: list[Event]) -> None:
        if self.hello is None and type not in (Type.HELLO, Type.GOAWAY):
            raise LinkError("The peer did not begin with a hello.", code="link.order")
        if stream:
            self.received += 1
        kind = type & ~MORE
        if kind == Type.CREDIT:
            (amount,) = _fixed(_CREDIT, payload)
            if self._known(stream) is not None and self._out.credit(stream, amount) > MAX_WINDOW:
                raise LinkError(f"The credit of stream {stream} is out of range.", code="link.flow")
        elif kind == Type.CLOSE:
            code, reason = _closing(payload)
            entry = self._known(stream)
            if entry is not None:
                del self._streams[stream]
                self._out.forget(stream)
                if not entry.closing:
                    events.append(Closed(stream, code, reason))
        elif kind == Type.PING:
            token, _ = _fixed(_BEAT, payload)
            self._out.control(Type.PONG, 0, _BEAT.pack(token, self.received))
        elif kind == Type.PONG:
            token, _ = _fixed(_BEAT, payload)
            if token == self._ping:
                self.rtt = now - self._pinged
        elif kind == Type.HELLO:
            self._take_hello(decoded(payload, Hello), events)
        elif kind == Type.GOAWAY:
            events.append(GoingAway(decoded(payload, GoAway)))
            self.going_away = True
        else:
            self._own(Type(kind), stream, payload, events)

    def _own(self, kind: Type, stream: int, payload: bytes, events: list[Event]) -> None:
        """A frame that only one of the ends may send."""
        raise NotImplementedError

    def _take_hello(self, hello: Hello, events: list[Event]) -> None:
        if self.hello is not None:
            raise LinkError("The peer said hello twice.", code="link.order")
        ours = self._hello
        if (hello.version, hello.schema) != (ours.version, ours.schema):
            raise LinkError(
                f"The peer speaks version {hello.version} of the link with schema {hello.schema}; "
                f"here it is {ours.version} with {ours.schema}.",
                code="link.version",
                hint="Run the same release of Duologue at both ends.",
            )
        if hello.received:
            raise LinkError("The peer wants to resume a link; links are not resumed.", code="link.version")
        if not MIN_WINDOW <= hello.window <= MAX_WINDOW:
            raise LinkError(f"The peer's window is {hello.window} bytes.", code="link.flow")
        self.hello = hello
        events.append(Connected(hello))

    def _piece(self, type: int, stream: int, payload: bytes, events: list[Event]) -> None:
        entry = self._streams.get(stream) or self._known(stream)
        if entry is None:
            return
        if not entry.accepted:
            raise LinkError(f"A message on stream {stream} before it was accepted.", code="link.order")
        cost = len(payload) + HEADER
        if cost > entry.credit:
            raise LinkError(f"The peer sent more on stream {stream} than it may.", code="link.flow")
        entry.credit -= cost
        if entry.closing:
            self.consumed(stream, cost)
            return
        text = type & ~MORE == _TEXT
        if entry.pieces and text != entry.text:
            raise LinkError(f"A message on stream {stream} changed its type.", code="link.order")
        if type & MORE or entry.pieces:
            entry.size += len(payload)
            if entry.size > self.options.max_message:
                raise LinkError(f"A message on stream {stream} is too long.", code="link.flow")
            entry.text = text
            entry.pieces.append(payload)
            if type & MORE:
                if not payload:
                    raise LinkError(f"An empty piece of a message on stream {stream}.", code="link.order")
                self.consumed(stream, cost)  # held here, bounded by max_message; else a long one could never be whole
                return
            payload = b"".join(entry.pieces)
            entry.pieces, entry.size = [], 0
        elif len(payload) > self.options.max_message:
            raise LinkError(f"A message on stream {stream} is too long.", code="link.flow")
        events.append(Message(stream, payload, text, cost))

    def _known(self, stream: int) -> Stream | None:
        """The stream that a frame is for; None if it is over, as both ends may have closed it at once."""
        entry = self._streams.get(stream)
        if entry is None:
            if stream > self._last:
                raise LinkError(f"A frame for stream {stream}, which was never opened.", code="link.order")
            self.late += 1
        return entry

    # ------------------------------------------------------------------ helpers

    def _open(self, stream: int) -> Stream:
        entry = self._streams.get(stream)
        if entry is None or entry.closing:
            raise LinkError(f"Stream {stream} is not open.", code="link.state")
        return entry

    def _control(self, type: Type, stream: int, message: msgspec.Struct) -> None:
        self._out.control(type, stream, msgspec.json.encode(message))

    def _begin(self, stream: int) -> None:
        """Both halves may now carry messages."""
        assert self.hello is not None
        self._streams[stream].accepted = True
        self._out.open(stream, self.hello.window, min(self.options.chunk, MAX_FRAME))

    def _fail(self, error: LinkError) -> LinkError:
        self._error = error
        self._streams.clear()
        self._out.clear()
        self._control(Type.GOAWAY, 0, GoAway(reason=error.message[:200], code=error.code))
        return error


def _reason(text: str) -> bytes:
    """Cut to what a WebSocket's close frame holds, at a character."""
    return text.encode("utf-8", "replace")[:123].decode("utf-8", "ignore").encode()


def _closing(payload: bytes) -> tuple[int, str]:
    if len(payload) < _CLOSE.size:
        raise LinkError("A close without a code.")
    try:
        return _CLOSE.unpack_from(payload)[0], payload[_CLOSE.size :].decode()
    except UnicodeDecodeError:
        raise LinkError("The reason of a close is not UTF-8.") from None


def _fixed(form: struct.Struct, payload: bytes) -> tuple[int, ...]:
    if len(payload) != form.size:
        raise LinkError(f"A frame of {len(payload)} bytes where {form.size} are due.")
    return form.unpack(payload)


def decoded[T: msgspec.Struct](payload: bytes, type: type[T]) -> T:
    try:
        return msgspec.json.decode(payload, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LinkError(f"Not a {type.__name__.lower()}: {error}") from None
