"""The two ends of a link: the gateway's, which opens streams, and the worker's, which takes them."""

from __future__ import annotations

import msgspec

from .frames import HEADER, MAX_CONTROL, Type
from .link import Link, Stream, decoded
from .messages import (
    Accept,
    Accepted,
    Event,
    Hello,
    LinkError,
    LinkOptions,
    Open,
    Opened,
    Refresh,
    RefreshAnswered,
    RefreshAsked,
    Refreshed,
    Reject,
    Rejected,
)


class LinkClient(Link):
    """The gateway's end.

    Args:
        peer: the gateway's id.
        schema: of the host's messages.
        now: a monotonic clock's time, seconds.
        epoch: counts the links between this gateway and this worker.
        options: bounds.
    """

    def __init__(
        self, *, peer: str, schema: int, now: float, epoch: int = 0, options: LinkOptions | None = None
    ) -> None:
        super().__init__(peer=peer, schema=schema, now=now, epoch=epoch, options=options)
        self._control(Type.HELLO, 0, self._hello)

    def open(self, request: Open) -> int:
        """Ask the worker to take a stream; returns its id. `Accepted`, `Rejected` or `Closed` answers.

        Raises LinkError: "link.state" before the worker's hello or once a side goes away, "link.flow" if too many are open,
        the request is too long, or the worker does not read.
        """
        if self.hello is None or self.going_away or self._error is not None:
            raise LinkError("The link takes no new streams.", code="link.state")
        if len(self._streams) >= self.options.max_streams:
            raise LinkError(f"{self.options.max_streams} streams are open.", code="link.flow")
        payload = _encode(request)
        if self._out.controlled + len(payload) + HEADER > self.options.max_control:
            raise LinkError("The worker does not read what was opened before.", code="link.flow")
        self._last += 1
        self._streams[self._last] = Stream(self.options.window)
        self._out.control(Type.OPEN, self._last, payload)
        return self._last

    def refreshed(self, stream: int, answer: Refreshed) -> None:
        """Answer `RefreshAsked`. Nothing happens if the stream is over."""
        entry = self._streams.get(stream)
        if entry is not None and entry.refreshing:
            entry.refreshing = False
            self._control(Type.REFRESHED, stream, answer)

    def _own(self, kind: Type, stream: int, payload: bytes, events: list[Event]) -> None:
        if kind not in (Type.ACCEPT, Type.REJECT, Type.REFRESH):
            raise LinkError(f"A worker does not send {kind.name}.", code="link.order")
        entry = self._known(stream)
        if kind is Type.REFRESH:
            refresh = decoded(payload, Refresh)
            if entry is None:
                return
            if not entry.accepted or entry.refreshing:
                raise LinkError(f"A token on stream {stream} where none may be.", code="link.order")
            entry.refreshing = True
            events.append(RefreshAsked(stream, refresh))
            return
        if entry is not None and entry.accepted:
            raise LinkError(f"Stream {stream} was answered twice.", code="link.order")
        if kind is Type.ACCEPT:
            accept = decoded(payload, Accept)
            if entry is not None:
                self._begin(stream)
                events.append(Accepted(stream, accept.subprotocol))
        else:
            reject = decoded(payload, Reject)
            if not 400 <= reject.status <= 599:
                raise LinkError(f"A stream was rejected with status {reject.status}.")
            if entry is not None:
                del self._streams[stream]
                events.append(Rejected(stream, reject))


class LinkServer(Link):
    """The worker's end. `peer` is the worker's id; the rest as for LinkClient. Its hello answers the gateway's."""

    def accept(self, stream: int, subprotocol: str = "") -> None:
        """Take a stream. Nothing happens if it is over already. Raises LinkError ("link.state") if it was taken before."""
        entry = self._streams.get(stream)
        if entry is None:
            return
        if entry.accepted:
            raise LinkError(f"Stream {stream} is already accepted.", code="link.state")
        self._control(Type.ACCEPT, stream, Accept(subprotocol=subprotocol))
        self._begin(stream)

    def reject(self, stream: int, status: int, body: str = "", headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Refuse a stream with an HTTP status, 400 to 599. Nothing happens if it is over already.

        Raises LinkError ("link.state") if it was taken before.
        """
        entry = self._streams.get(stream)
        if entry is None:
            return
        if entry.accepted:
            raise LinkError(f"Stream {stream} is already accepted.", code="link.state")
        if not 400 <= status <= 599:
            raise LinkError(f"A stream is rejected with a status from 400 to 599, not {status}.", code="link.state")
        payload = _encode(Reject(status=status, body=body, headers=headers))
        del self._streams[stream]
        self._out.control(Type.REJECT, stream, payload)

    def refresh(self, stream: int, token: str) -> None:
        """Have the gateway verify a newer token; `RefreshAnswered` follows.

        Raises LinkError ("link.state") if the stream is not open or the last one is not answered yet.
        """
        entry = self._open(stream)
        if not entry.accepted or entry.refreshing:
            raise LinkError(f"Stream {stream} cannot ask for a refresh now.", code="link.state")
        payload = _encode(Refresh(token=token))
        entry.refreshing = True
        self._out.control(Type.REFRESH, stream, payload)

    def _take_hello(self, hello: Hello, events: list[Event]) -> None:
        super()._take_hello(hello, events)
        self._hello = Hello(
            version=self._hello.version,
            schema=self._hello.schema,
            peer=self._hello.peer,
            epoch=hello.epoch,
            window=self._hello.window,
        )
        self._control(Type.HELLO, 0, self._hello)

    def _own(self, kind: Type, stream: int, payload: bytes, events: list[Event]) -> None:
        if kind is Type.OPEN:
            if stream <= self._last:
                raise LinkError(f"Stream {stream} was opened after {self._last}.", code="link.order")
            request = decoded(payload, Open)
            self._last = stream
            if len(self._streams) >= self.options.max_streams or self.going_away:
                body = '{"message":"This worker takes no more connections."}'
                self._control(Type.REJECT, stream, Reject(status=503, body=body, headers=(("retry-after", "1"),)))
                return
            self._streams[stream] = Stream(self.options.window)
            events.append(Opened(stream, request))
        elif kind is Type.REFRESHED:
            answer = decoded(payload, Refreshed)
            entry = self._known(stream)
            if entry is None:
                return
            if not entry.refreshing:
                raise LinkError(f"An answer on stream {stream} that nobody asked for.", code="link.order")
            entry.refreshing = False
            events.append(RefreshAnswered(stream, answer))
        else:
            raise LinkError(f"A gateway does not send {kind.name}.", code="link.order")


def _encode(message: Open | Reject | Refresh) -> bytes:
    payload = msgspec.json.encode(message)
    if len(payload) > MAX_CONTROL:
        raise LinkError(f"A {type(message).__name__.lower()} of {len(payload)} bytes is too long.", code="link.flow")
    return payload
