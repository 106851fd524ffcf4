"""WebSockets on picows: the client's, held to the limits, and what both ends of a passed-through socket share.

picows reads frames and writes them; everything it would decide itself (paths, subprotocols, what is told in a refusal) is
decided before it is given the transport, with a head made anew.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import struct
import time
from collections.abc import Callable
from typing import Any, Protocol

from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSAutoPingStrategy, WSProtocol  # type: ignore[attr-defined]

from .answers import Headers, clean
from .counters import Counters
from .limits import GatewayLimits

_logger = logging.getLogger("duologue.host.sockets")
_logger.setLevel(logging.CRITICAL)  # picows reports each malformed frame as an error, and each connection
#: one logger for all connections: picows makes one each of a Logger
quiet = logging.LoggerAdapter(_logger, {})
logger = logging.getLogger("duologue.host")
_CODE = struct.Struct(">H")
#: how long a peer may take to answer a close frame
_CLOSING_S = 2.0
#: Longer messages picows' server side gives to `writelines`, with a view of its own buffer for a header: a transport that
#: cannot write at once would keep the view while picows reuses the buffer, and asyncio's tells nobody that it is full.
_COPIED = 8192
#: room for the longest header in front of a message
_ROOM = 14
#: what picows itself may read of a frame over the limit, before we close with our own words
_OVER = 1 << 20


class Kind(enum.IntEnum):
    """Frames that carry messages, by opcode."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2


_KINDS = {
    WSMsgType.CONTINUATION: Kind.CONTINUATION,
    WSMsgType.TEXT: Kind.TEXT,
    WSMsgType.BINARY: Kind.BINARY,
}
_TYPES = {kind: type for type, kind in _KINDS.items()}


def close_payload(code: int, reason: str) -> bytes:
    """Of a close frame. 1005 and 1006 are never sent: an empty payload, and 1011, stand for them."""
    if code == 1005:
        return b""
    code = 1011 if code in (1006, 1015) or not 1000 <= code <= 4999 else code
    return _CODE.pack(code) + reason.encode("utf-8", "replace")[:123].decode("utf-8", "ignore").encode()


def close_meaning(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame's payload."""
    if len(payload) < 2:
        return 1005, ""
    return _CODE.unpack_from(payload)[0], payload[2:].decode("utf-8", "replace")


class Carrier(Protocol):
    """Where a client's frames go."""

    def frame(self, kind: Kind, final: bool, data: bytes) -> bool:
        """A frame of the client; False if no more should be read until `ClientSocket.resume`."""

    def closing(self, payload: bytes) -> None:
        """The client sent a close frame. Nothing comes after it."""

    def gone(self) -> None:
        """The client's connection broke, or a limit ended it. Nothing comes after it."""

    def drained(self) -> None:
        """What was sent to the client has gone out so far that more may be sent."""


class Pipe(WSListener):
    """A WebSocket whose writing can be waited for. The base of both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.transport: WSTransport | None = None
        self.full = False
        self.over = False
        self._closer: asyncio.TimerHandle | None = None
        self.close_sent = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        """See WSListener."""
        self.transport = transport

    def send(self, kind: Kind, data: bytes, *, final: bool = True) -> bool:
        """Send a frame; False if no more should be sent until it is drained. Nothing happens once a close was sent."""
        if self.transport is None or self.close_sent or self.over:
            return True
        if len(data) <= _COPIED:
            self.transport.send(_TYPES[kind], data, final)
        else:
            self.transport.send_reuse_external_bytearray(_TYPES[kind], bytearray(_ROOM) + data, _ROOM, final)
        return not self.full

    def shut(self, payload: bytes) -> None:
        """Send a close frame, and the end of the connection soon."""
        transport = self.transport
        if transport is None or self.over or self.close_sent:
            return
        self.close_sent = True
        transport.send(WSMsgType.CLOSE, payload)
        self._closer = asyncio.get_running_loop().call_later(_CLOSING_S, self._abort)

    def hang_up(self) -> None:
        """Close the connection when what was written has gone, within a bound."""
        if self.transport is not None and not self.over:
            self.transport.disconnect()
            if self._closer is None:
                self._closer = asyncio.get_running_loop().call_later(_CLOSING_S, self._abort)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.disconnect(graceful=False)

    def ended(self) -> None:
        """The connection is gone."""
        self.over = True
        if self._closer is not None:
            self._closer.cancel()

    def pause_reading(self) -> None:
        """Read no more for now."""
        if self.transport is not None and not self.over:
            self.transport.underlying_transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self.transport is not None and not self.over and not self.transport.underlying_transport.is_closing():
            self.transport.underlying_transport.resume_reading()


class ClientSocket(Pipe):
    """A client's WebSocket, after it was admitted.

    Args:
        carrier: where its frames go.
        ended: called once when the connection is gone.
        of: its session, tenant first; for the log.
    """

    def __init__(
        self, carrier: Carrier, limits: GatewayLimits, counters: Counters, ended: Callable[[], None], *, of: str
    ) -> None:
        super().__init__()
        self._of = of
        self._carrier = carrier
        self._limits = limits
        self._counters = counters
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._told = False  # the carrier knows that nothing more comes
        self._window, self._count = 0.0, 0
        self._tokens, self._since = float(limits.frames_per_s), self._loop.time()
        self._holds: set[str] = set()  # why reading is paused
        self._in_message = False
        self._heard, self._asked = True, False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        if limits.ping_s:
            self._timers["beat"] = self._loop.call_later(limits.ping_s, self._beat)
        if limits.socket_s:
            self._timers["age"] = self._loop.call_later(limits.socket_s, self._aged)

    # ------------------------------------------------------------------ from the client

    def on_ws_connected(self, transport: WSTransport) -> None:
        """See WSListener."""
        super().on_ws_connected(transport)
        high = self._limits.unsent_bytes
        transport.underlying_transport.set_write_buffer_limits(high=high, low=high // 4)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """See WSListener."""
        try:
            self._frame(frame)
        except Exception:
            logger.exception("session %s: a client's frame", self._of)
            self.finish(1011, "internal error")

    def _frame(self, frame: WSFrame) -> None:
        self._heard = True
        if self.over or self._told:
            if frame.msg_type == WSMsgType.CLOSE:
                self.hang_up()
            return
        kind = _KINDS.get(frame.msg_type)
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self.refuse(1002, "reserved bits are set, and no extension was agreed")
        elif kind is not None:
            size = frame.payload_size
            if size > self._limits.frame_bytes:
                self.refuse(1009, too_big(self._limits))
            elif (kind is Kind.CONTINUATION) != self._in_message:
                self.refuse(1002, "a message began within another, or went on without a beginning")
            elif self._in_time():
                self._in_message = not frame.fin
                if not self._carrier.frame(kind, bool(frame.fin), frame.get_payload_as_bytes()):
                    self.hold("carrier")
        elif frame.msg_type == WSMsgType.CLOSE:
            payload = frame.get_payload_as_bytes()
            self._tell()
            self.shut(payload[:2])
            self.hang_up()
            self._carrier.closing(payload)
        elif self._in_time() and frame.msg_type == WSMsgType.PING and self.transport is not None:
            self.transport.send_pong(frame.get_payload_as_bytes())

    def _in_time(self) -> bool:
        """Count a frame. False if that was one too many, and the socket is being closed."""
        now, rate = self._loop.time(), self._limits.frames_per_s
        if self._limits.on_rate == "close":
            if now - self._window >= 1.0:
                self._window, self._count = now, 0
            self._count += 1
            if self._count > rate:
                self.refuse(1008, f"Max frame rate of {rate} frames per second is exceeded")
                return False
            return True
        self._tokens = min(float(rate), self._tokens + (now - self._since) * rate) - 1
        self._since = now
        if self._tokens < 0 and "rate" not in self._holds:
            self.hold("rate")
            self._counters.add("paused.rate")
            # waits until a tenth of a second's frames may come
            self._timers["rate"] = self._loop.call_later(0.1 - self._tokens / rate, self.release, "rate")
        return True

    def hold(self, why: str) -> None:
        """Read no more for a reason."""
        if not self._holds:
            self.pause_reading()
        self._holds.add(why)

    def release(self, why: str) -> None:
        """A reason is gone."""
        if why in self._holds:
            self._holds.discard(why)
            if not self._holds:
                self.resume_reading()

    def resume(self) -> None:
        """The carrier takes frames again."""
        self.release("carrier")

    # ------------------------------------------------------------------ to the client

    def pause_writing(self) -> None:
        """See WSListener."""
        self.full = True
        self._timers["slow"] = self._loop.call_later(self._limits.slow_s, self._slow)

    def resume_writing(self) -> None:
        """See WSListener."""
        self.full = False
        if (timer := self._timers.pop("slow", None)) is not None:
            timer.cancel()
        if not self._told:
            self._carrier.drained()

    def finish(self, code: int, reason: str) -> None:
        """The carrier or the gateway ends the socket: a close frame after what was sent."""
        self.finish_with(close_payload(code, reason))

    def finish_with(self, payload: bytes) -> None:
        """The same with the close frame's payload as the agent sent it."""
        self._told = True
        self._counters.add(f"closed.{close_meaning(payload)[0]}")
        self.shut(payload)
        self._holds.clear()
        self.resume_reading()  # to see the answering close

    def refuse(self, code: int, reason: str) -> None:
        """A limit or the protocol is broken: the client is told why, the agent that its client is gone."""
        if self._told:
            return
        self._tell()
        self.finish(code, reason)
        self._carrier.gone()

    # ------------------------------------------------------------------ the end

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """See WSListener."""
        self.ended()
        for timer in self._timers.values():
            timer.cancel()
        if not self._told:
            self._tell()
            self._carrier.gone()
        self._ended()

    def expire_at(self, when: float | None, code: int) -> None:
        """Close with `code` at a Unix time, unless another time is set before; None: never."""
        if (timer := self._timers.pop("expiry", None)) is not None:
            timer.cancel()
        if when is not None and not self.over:
            self._timers["expiry"] = self._loop.call_later(
                max(0.0, when - time.time()), self.refuse, code, "The credential has expired."
            )

    def _tell(self) -> None:
        self._told = True

    def _beat(self) -> None:
        """Ask a silent client for a sign of life; one that gave none since it was asked is gone. Not while it is not read."""
        if self._heard or self._holds:
            self._heard = self._asked = False
        elif self._asked:
            self._counters.add("dropped.half-open")
            self._abort()
            return
        elif self.transport is not None:
            self._asked = True
            self.transport.send_ping(b"")
        self._timers["beat"] = self._loop.call_later(self._limits.ping_s, self._beat)

    def _aged(self) -> None:
        hours = self._limits.socket_s / 3600
        span = "1 hour" if hours == 1 else f"{self._limits.socket_s:g} seconds"
        self.refuse(1008, f"Max connection duration of {span} is exceeded")

    def _slow(self) -> None:
        self._counters.add("dropped.slow-reader")
        self.refuse(1008, "the client does not read")
        self._abort()


def too_big(limits: GatewayLimits) -> str:
    """The reason of 1009."""
    size = limits.frame_bytes
    text = f"{size >> 10} KB" if size % 1024 == 0 else f"{size} bytes"
    return f"message size limit of {text} for a message frame is exceeded"


def take_over(
    transport: asyncio.Transport,
    socket: ClientSocket,
    *,
    key: str,
    headers: Headers,
    early: bytes,
    limits: GatewayLimits,
) -> None:
    """Hand a connection whose upgrade was admitted to picows: it answers 101 with `headers`, and reads frames.

    `key` is the client's Sec-WebSocket-Key, `early` what came after its head.
    """

    def agree(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        response = WSUpgradeResponse.create_101_response()
        for name, value in headers:
            response.headers.add(clean(name), clean(value))
        return WSUpgradeResponseWithListener(response, socket)

    protocol: Any = WSProtocol(
        None, None, False, agree, quiet, True, 5.0, False, 10.0, 10.0,
        WSAutoPingStrategy.PING_WHEN_IDLE, False, limits.frame_bytes + _OVER, None, 4096,
    )  # fmt: skip
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    head = (
        "GET / HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()
    data = memoryview(head + early)
    while data:
        buffer = protocol.get_buffer(len(data))
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]
