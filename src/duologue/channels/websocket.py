"""Protocol v1 as a channel: a client that is reached over WebSockets, one after another, for one call.

The channel outlives its sockets: it keeps what the client has and has not received. `channels/link.py` drives one socket for
it until that socket ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from ..errors import DuologueError, LimitExceededError
from ..events import Event
from ..wire.duologue import (
    AudioSpec,
    AuthRefresh,
    Bye,
    Capabilities,
    Cleared,
    GapMessage,
    InputReceived,
    Played,
    Refused,
    ServerDelivery,
    ServerProtocol,
    UserAudio,
)
from .base import Channel, Traits

logger = logging.getLogger("duologue.channels")

#: longest wait for a client to take the goodbye and what is owed before it
_GOODBYE_S = 2.0


class KeptClient(msgspec.Struct, frozen=True, kw_only=True):
    """What another owner of the session needs to have its client back. Of its resume tokens the SHA-256, in hex."""

    tokens: tuple[str, ...]
    input: AudioSpec | None
    output: AudioSpec | None
    capabilities: Capabilities
    metadata: Mapping[str, Any] = {}

    @staticmethod
    def read(state: msgspec.Raw) -> KeptClient | None:
        """What was journaled; None if it is another channel's, or another version's."""
        try:
            return msgspec.json.decode(state, type=KeptClient)
        except msgspec.ValidationError:
            return None

    def knows(self, token: str) -> bool:
        """Whether a token is one of them. (How long comparing digests takes says nothing of what would have this one.)"""
        return _digest(token) in self.tokens


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


class WebSocketChannel(Channel):
    """One client of a session, over all its links.

    Args:
        delivery: what it was agreed with and what it has received.
        name: names the participant in events.
        refresh: takes a new credential in mid-call; returns the seconds it lasts (None: for ever) or raises a typed error.
    """

    def __init__(
        self,
        delivery: ServerDelivery,
        *,
        name: str = "client",
        refresh: Callable[[str], Awaitable[float | None]] | None = None,
    ) -> None:
        self.delivery = delivery
        self.name = name
        self._refresh = refresh
        self._refreshing: tuple[ServerProtocol, asyncio.Task[None]] | None = None  # of that link
        #: how many events it was given
        self.told = 0
        self._begins_at = delivery.position
        #: what it said of itself
        self.metadata: Mapping[str, Any] = {}
        self._over = False
        self._link_gone = asyncio.Event()
        self._link_gone.set()
        self._ended = asyncio.Event()
        #: samples of agent audio that found no room
        self.dropped = 0

    @property
    def traits(self) -> Traits:
        """See Channel."""
        delivery = self.delivery
        return Traits(
            input_rate=delivery.input.rate if delivery.input else None,
            output_rate=delivery.output.rate if delivery.output else None,
            pacing="paced" if delivery.output else "none",
            acknowledges=delivery.capabilities.acks,
            clears=delivery.capabilities.acks,
            ducks=delivery.capabilities.duck,
        )

    @property
    def losses(self) -> Mapping[str, int]:
        """See Channel."""
        return {"output_samples": self.dropped}

    @property
    def begins_at(self) -> int:
        """See Channel."""
        return self._begins_at

    @property
    def behind_s(self) -> float:
        """See Channel."""
        return self.delivery.options.keep_audio_s if self.delivery.recall is not None else 0.0

    @property
    def way_s(self) -> float:
        """See Channel: half of the shortest recent round trip."""
        link = self.delivery.link
        return (link.clock.rtt or 0.0) / 2 if link is not None else 0.0

    # ------------------------------------------------------------------ to the client

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""
        self.told += 1
        self.delivery.send_event(encoded)

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See Channel."""
        try:
            self.delivery.send_audio(pcm, response=response, offset=offset, position=position)
        except LimitExceededError:
            self.dropped += len(pcm) // 2

    def clear(self, response: str) -> None:
        """See Channel. Everything is cleared: after an interruption nothing that was sent before may still be heard."""
        self.delivery.clear()

    def duck(self, gain_db: float) -> None:
        """See Channel."""
        self.delivery.duck(gain_db, ramp_ms=30)

    def going_away(self, in_s: float, reason: str) -> None:
        """See Channel."""
        if self.delivery.link is not None:
            self.delivery.link.going_away(in_s, reason)

    async def run(self) -> None:
        """See Channel. The links bring the input; this waits for the end."""
        await self._ended.wait()

    async def close(self, reason: str) -> None:
        """See Channel."""
        self._over = True
        self._ended.set()
        if self.delivery.link is not None:
            self.delivery.link.bye(reason)
            try:
                async with asyncio.timeout(_GOODBYE_S):
                    await self._link_gone.wait()
            except TimeoutError:
                logger.debug("%s does not take the goodbye", self.name)

    # ------------------------------------------------------------------ from the client

    def handle(self, message: object) -> None:
        """Take what a link received."""
        if isinstance(message, UserAudio):
            self.port.audio(message.pcm, message.position)
        elif isinstance(message, Played):
            link = self.delivery.link
            at = link.clock.to_local(message.at) if link is not None and message.at else None
            self.port.played(message.position, at)
        elif isinstance(message, Cleared):
            self.port.cleared(message.played)
        elif isinstance(message, InputReceived):
            try:
                self.port.input(message.input)
            except DuologueError as error:
                self._tell(error, f"{message.epoch}:{message.n}")
            self.port.took(message.epoch, message.n)
        elif isinstance(message, AuthRefresh):
            self._check(message.token)
        elif isinstance(message, GapMessage):
            logger.debug("%s could not send %d samples", self.name, message.samples)
        elif isinstance(message, Refused):
            logger.debug("%s: %s", self.name, message.error.code)
        elif isinstance(message, Bye):
            self._over = True
            self.port.ended("hangup")

    def refresh_by(self, refresh: Callable[[str], Awaitable[float | None]]) -> None:
        """From now on newer credentials go to `refresh`: the client's latest link may have come another way."""
        self._refresh = refresh

    def _check(self, token: str) -> None:
        """Have a newer credential verified beside what comes meanwhile, one at a time."""
        link = self.delivery.link
        if link is None:
            return
        if self._refresh is None:
            link.auth_refreshed(None)
        elif self._refreshing is not None:
            link.error("auth", "A token is being verified already.", ref="auth.refresh")
        else:
            task = asyncio.get_running_loop().create_task(self._verify(link, self._refresh, token))
            self._refreshing = link, task

    async def _verify(
        self, link: ServerProtocol, refresh: Callable[[str], Awaitable[float | None]], token: str
    ) -> None:
        try:
            link.auth_refreshed(await refresh(token))
        except DuologueError as error:
            link.error("auth", str(error), ref="auth.refresh")
        except Exception:
            logger.exception("a credential of %s cannot be verified", self.name)
            link.error("auth", "The credential could not be verified.", ref="auth.refresh")
        finally:
            if self._refreshing is not None and self._refreshing[0] is link:
                self._refreshing = None

    def _tell(self, error: DuologueError, ref: str) -> None:
        if self.delivery.link is not None:
            self.delivery.link.error(error.code, str(error), ref=ref)

    async def keep(self, token: str) -> None:
        """Journal that the client may come back with `token`, which it is about to be given, or the one that it has shown."""
        delivery = self.delivery
        kept = KeptClient(
            tokens=(_digest(token), _digest(delivery.tokens.shown)),
            input=delivery.input,
            output=delivery.output,
            capabilities=delivery.capabilities,
            metadata=self.metadata,
        )
        await self.port.keep(msgspec.json.encode(kept), self.told)

    def linked(self) -> None:
        """A link drives this channel now."""
        self._link_gone.clear()

    def unlinked(self, link: ServerProtocol, now: float) -> None:
        """A link is gone. Unless it said goodbye, or another has taken over, the client is away."""
        mine = self.delivery.link is link
        if self._refreshing is not None and self._refreshing[0] is link:
            self._refreshing[1].cancel()
            self._refreshing = None
        self.delivery.detach(link, now)
        if mine:
            self._link_gone.set()
            if not self._over:
                if link.close_code == 1000:
                    self._over = True
                    self.port.ended("hangup")
                else:
                    self.port.away()

    @property
    def over(self) -> bool:
        """Whether the call is over for this client: it cannot be resumed."""
        return self._over
