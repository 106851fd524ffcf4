"""Options and limits of a gateway. Bytes, seconds; 0 means no limit where it says so."""

from __future__ import annotations

from typing import Literal

import msgspec

from ...errors import ConfigurationError


class GatewayLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients may do.

    Attributes:
        head_s: longest wait for a request's head, the TLS handshake apart; `head_bytes` its length.
        idle_s: longest wait for the next request on a connection that is kept.
        per_address: connections from one address that are not authenticated yet; `unauthenticated` in all.
        admission_s: longest wait for authentication and a worker.
        payload_bytes: of an invocation, and of its answer where its length is declared.
        body_s: longest wait for a body; `body_grace_s` and then `body_rate` bytes/s are what it must keep up with.
        spool_bytes: of bodies that wait for their signature's verdict, in all; an address has a quarter of them.
        invoke_s: longest wait for the next bytes of an agent's answer; `stream_s` for its end.
        frame_bytes: of a WebSocket frame, both ways; `message_bytes` of a message of several (Duologue workers).
        frames_per_s: of a client. `on_rate`: "close" it (1008), or "pause" reading until it keeps to the rate.
        socket_s: age of a WebSocket; 0 none.
        unsent_bytes: that wait for a client that reads slowly; `slow_s` how long it may not read at all.
        ping_s: how often a silent client is asked for a sign of life, and how long it has for the answer.
        per_principal, per_agent: open sockets and requests at a time in this process; 0 none.
        requests_per_s: of a principal, with a burst of as many; 0 none.
    """

    head_s: float = 5.0
    head_bytes: int = 16 << 10
    idle_s: float = 15.0
    per_address: int = 128
    unauthenticated: int = 4096
    admission_s: float = 120.0
    payload_bytes: int = 100 << 20
    body_s: float = 300.0
    body_grace_s: float = 5.0
    body_rate: int = 1 << 10
    spool_bytes: int = 256 << 20
    invoke_s: float = 900.0
    stream_s: float = 28_800.0
    frame_bytes: int = 1 << 20
    message_bytes: int = 4 << 20
    frames_per_s: int = 500
    on_rate: Literal["close", "pause"] = "pause"
    socket_s: float = 0.0
    unsent_bytes: int = 256 << 10
    slow_s: float = 30.0
    ping_s: float = 20.0
    per_principal: int = 0
    per_agent: int = 0
    requests_per_s: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int | float) and value < 0:
                raise ConfigurationError(f"A gateway's {name} is not negative.")
        if self.frame_bytes < 125 or self.head_bytes < 1024 or self.frames_per_s < 1:
            raise ConfigurationError("frame_bytes is at least 125, head_bytes at least 1024, frames_per_s at least 1.")

    @classmethod
    def strict(cls) -> GatewayLimits:
        """Those of the managed service: 64 KB a frame, 250 frames a second, an hour a socket, 15 minutes an answer."""
        return cls(
            frame_bytes=64 << 10, frames_per_s=250, on_rate="close", socket_s=3600.0, stream_s=3600.0, invoke_s=900.0
        )


class GatewayOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and as what a gateway listens.

    Attributes:
        host, port: of the listener; port 0 takes a free one.
        reuse_port: whether other processes listen on the same port (SO_REUSEPORT).
        id: names this gateway on its links; "" makes one.
        trusted_proxies: addresses or networks whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
        backlog: of the listening socket.
        drain_s: how long open requests and sockets have when the gateway ends.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    reuse_port: bool = False
    id: str = ""
    trusted_proxies: tuple[str, ...] = ()
    backlog: int = 1024
    drain_s: float = 15.0
