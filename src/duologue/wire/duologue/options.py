"""What a server states and holds a link to; the defaults are those of `docs/protocol.md`."""

from __future__ import annotations

import msgspec

from duologue.errors import ConfigurationError

#: the protocol versions that this implementation speaks
VERSIONS = (1,)
#: a binary message, header included
FRAME_BYTES = 65_536


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds, sizes in bytes. Raises ConfigurationError for what cannot work.

    Attributes:
        heartbeat_s, miss_s: ping interval, and silence after which a link is dead.
        grace_s: how long a call outlives its link.
        handshake_s: time for the client's `hello`.
        text_bytes: longest text message.
        messages_per_s, burst: token bucket over the messages of one link. A resumed one may send on top what a grace
            period allows, since it brings what was kept meanwhile.
        max_errors: non-fatal errors of a client on one link before it is closed.
        keep_audio_s, keep_event_bytes: what is kept for a replay.
        queue_audio_s, queue_events: what waits for transmission at most.
    """

    heartbeat_s: float = 1.0
    miss_s: float = 3.0
    grace_s: float = 30.0
    handshake_s: float = 10.0
    text_bytes: int = 1 << 20
    messages_per_s: float = 200.0
    burst: int = 2000
    max_errors: int = 16
    keep_audio_s: float = 30.0
    keep_event_bytes: int = 1 << 20
    queue_audio_s: float = 30.0
    queue_events: int = 4096

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}.", hint="It must be above 0.")
        if self.miss_s <= self.heartbeat_s:
            raise ConfigurationError(
                f"miss_s ({self.miss_s}) is not above heartbeat_s ({self.heartbeat_s}).",
                hint="A link must be given time to answer at least one ping.",
            )


class TokenBucket:
    """`rate` messages a second in the long run, `burst` at once."""

    __slots__ = ("_at", "_burst", "_rate", "_store")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = self._store = float(burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more message is within the limit at `now`."""
        store = self._store + (now - self._at) * self._rate
        self._at = now
        if store > self._burst:
            store = self._burst
        if store < 1.0:
            self._store = store
            return False
        self._store = store - 1.0
        return True

    def grant(self, messages: float) -> None:
        """Let so many more come at once."""
        self._burst += messages
        self._store += messages
