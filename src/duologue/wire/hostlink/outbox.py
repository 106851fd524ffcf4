"""What an end of a link has to send: control first, then the streams in turn, each within its credit."""

from __future__ import annotations

import struct
from collections import deque

from .frames import HEADER, MORE, Type, frame, header

_CLOSE = struct.Struct(">H")
_CREDIT = struct.Struct(">I")


class Sending:
    """The sending half of a stream."""

    __slots__ = ("at", "chunk", "close", "credit", "queue", "queued", "ready")

    def __init__(self, credit: int, chunk: int) -> None:
        self.credit = credit
        # A grant comes when half of the window is consumed: a piece of half of it can then always go.
        self.chunk = min(chunk, credit // 2 - HEADER)
        self.queue: deque[tuple[int, bytes]] = deque()
        #: how much of the first message has gone
        self.at = 0
        self.queued = 0
        self.close: bytes | None = None
        #: whether it is in the round
        self.ready = False

    def may_send(self) -> bool:
        """Whether a frame of it may go now."""
        if self.queue:
            return self.credit >= min(len(self.queue[0][1]) - self.at, self.chunk) + HEADER
        return self.close is not None


class Outbox:
    """Frames that wait, of all streams. Messages and control are bounded by the caller, credit by the open streams."""

    def __init__(self) -> None:
        self._control: deque[bytes] = deque()
        #: bytes of control that wait, those of signs of life and credit aside: of them only the newest waits
        self.controlled = 0
        self._beats: dict[Type, bytes] = {}
        self._credits: dict[int, int] = {}
        self._streams: dict[int, Sending] = {}
        self._round: deque[int] = deque()
        #: stream frames that have gone
        self.sent = 0
        #: streams whose close has gone; the caller empties it
        self.closed: list[int] = []

    def control(self, type: Type, stream: int, payload: bytes) -> None:
        """Queue a frame that overtakes all messages."""
        made = frame(type, stream, payload)
        if type in (Type.PING, Type.PONG):
            self._beats[type] = made  # only the newest one means anything
            return
        if stream:
            self.sent += 1
        self._control.append(made)
        self.controlled += len(made)

    def grant(self, stream: int, amount: int) -> None:
        """Queue credit for the peer."""
        self._credits[stream] = self._credits.get(stream, 0) + amount

    def open(self, stream: int, credit: int, chunk: int) -> None:
        """A stream on which messages may be queued."""
        self._streams[stream] = Sending(credit, chunk)

    def queued(self, stream: int) -> int:
        """Bytes of messages that wait on a stream."""
        sending = self._streams.get(stream)
        return sending.queued if sending is not None else 0

    def message(self, stream: int, type: int, data: bytes) -> int:
        """Queue a message on an open stream. Returns the bytes that wait on it."""
        sending = self._streams[stream]
        sending.queue.append((type, data))
        sending.queued += len(data) + HEADER
        if not sending.ready and sending.may_send():
            sending.ready = True
            self._round.append(stream)
        return sending.queued

    def credit(self, stream: int, amount: int) -> int:
        """The peer grants credit. Returns the stream's whole credit."""
        sending = self._streams.get(stream)
        if sending is None:
            return 0
        sending.credit += amount
        self._rouse(stream, sending)
        return sending.credit

    def close(self, stream: int, code: int, reason: bytes) -> None:
        """Queue the end of a stream behind its messages."""
        sending = self._streams[stream]
        sending.close = _CLOSE.pack(code) + reason
        self._rouse(stream, sending)

    def abort(self, stream: int, code: int, reason: bytes) -> None:
        """End a stream now: its messages are dropped."""
        self.forget(stream)
        self.control(Type.CLOSE, stream, _CLOSE.pack(code) + reason)

    def forget(self, stream: int) -> None:
        """The stream is over; what it had to send is dropped."""
        self._streams.pop(stream, None)
        self._credits.pop(stream, None)

    def clear(self) -> None:
        """Drop everything."""
        self._control.clear()
        self.controlled = 0
        self._beats.clear()
        self._credits.clear()
        self._streams.clear()
        self._round.clear()

    def take(self, limit: int) -> bytes:
        """Bytes to write: all control, then messages in turn until about `limit` bytes."""
        out: list[bytes] = []
        if self._control:
            out.extend(self._control)
            self._control.clear()
            self.controlled = 0
        if self._beats:
            out.extend(self._beats.values())
            self._beats.clear()
        if self._credits:
            self.sent += len(self._credits)
            out.extend(frame(Type.CREDIT, stream, _CREDIT.pack(amount)) for stream, amount in self._credits.items())
            self._credits.clear()
        size = sum(map(len, out))
        while self._round and size < limit:
            stream = self._round.popleft()
            sending = self._streams.get(stream)
            if sending is None:
                continue
            sending.ready = False
            if not sending.may_send():
                continue  # comes back with its next credit
            self.sent += 1
            if not sending.queue:
                assert sending.close is not None
                self.forget(stream)
                self.closed.append(stream)
                out.append(frame(Type.CLOSE, stream, sending.close))
                continue
            type, piece = self._piece(sending)
            length = len(piece)
            sending.credit -= length + HEADER
            out.append(header(type, stream, length))
            out.append(piece)
            size += length + HEADER
            if sending.queue or sending.close is not None:
                self._rouse(stream, sending)
        return b"".join(out)

    def _piece(self, sending: Sending) -> tuple[int, bytes]:
        """What of its first message may go in a frame, and the frame's type."""
        type, data = sending.queue[0]
        at, chunk = sending.at, sending.chunk
        if len(data) - at > chunk:
            sending.at += chunk
            sending.queued -= chunk
            return type | MORE, data[at : at + chunk]
        sending.queue.popleft()
        sending.at = 0
        piece = data[at:] if at else data
        sending.queued -= len(piece) + HEADER
        return type, piece

    def _rouse(self, stream: int, sending: Sending) -> None:
        if not sending.ready and sending.may_send():
            sending.ready = True
            self._round.append(stream)
