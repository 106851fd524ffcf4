"""Faults on order, between a served protocol and its client: what networks and providers do, at a time that a test chooses.

A fault is ``KIND[*LINKS][=VALUE][@WHEN]``; `WHEN` is seconds after the link opened (``@2.5``), or the number of a message sent
(``@#40``); without it the fault is there from the beginning.

==================  ======================================================================================
``drop``            the server closes the link in good order, without a word why
``reset``           the link breaks off without a close
``stall``           nothing more is sent; the link stays open
``deaf``            nothing more is read
``latency=S``       each message is S seconds late
``throttle``        the link is refused for load, in the protocol's own form
``exception=NAME``  the protocol's own failure: internal, model, throttled, timeout, unavailable, invalid, expired
``go-away=S``       the protocol's announcement, where it has one; the link ends S seconds later, as expired
``limit=S``         connections live for S seconds, announced and ended as the protocol does
==================  ======================================================================================

A link that recovers is a new link, and meets the faults anew; ``KIND*1`` strikes only the first link. Seconds may be written as
``200ms``. How a failure looks on each wire is in :mod:`duologue.testing.failures`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, get_args

import msgspec

from ..channels.link import Socket, SocketClosedError
from ..errors import ConfigurationError
from ..serve import RunningServer
from ..serve.nova_channel import Peer, PeerGoneError
from ..serve.nova_sonic import RunningNova
from ..serve.options import ServeOptions
from ..wire.nova_sonic import StreamException
from .failures import Failure, Wording, exception_of, wording_of

Kind = Literal["drop", "reset", "stall", "deaf", "latency", "throttle", "exception", "go-away", "limit"]
_TIMED = ("latency", "go-away", "limit")
_FORM = re.compile(r"(?P<kind>[a-z-]+)(\*(?P<links>\d+))?(=(?P<value>[\w.]+))?(@(?P<count>#)?(?P<at>\d+(\.\d+)?)s?)?")
_SECONDS = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>ms|s)?")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. `seconds`, `failure`: its value; `at_s`, `at_message`: when; `links`: on how many of the first (0: all)."""

    kind: Kind
    seconds: float = 0.0
    failure: Failure | None = None
    at_s: float | None = None
    at_message: int | None = None
    links: int = 0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """A fault from its text. Raises ConfigurationError for what is none."""
        found = _FORM.fullmatch(text.strip())
        kinds = get_args(Kind)
        if found is None or found["kind"] not in kinds:
            raise ConfigurationError(
                f"{text!r} is no fault.", hint=f"Kinds: {', '.join(kinds)}; form: KIND[*LINKS][=VALUE][@WHEN]."
            )
        kind, value, at = found["kind"], found["value"], found["at"]
        seconds, failure = 0.0, None
        if kind in _TIMED:
            number = _SECONDS.fullmatch(value or "")
            if number is None:
                raise ConfigurationError(
                    f"{text!r}: {kind} needs its seconds.", hint=f"Such as {kind}=2 or {kind}=200ms."
                )
            seconds = float(number["number"]) / (1000 if number["unit"] == "ms" else 1)
        elif kind == "exception":
            if value not in get_args(Failure):
                raise ConfigurationError(
                    f"{text!r}: {value!r} is no kind of exception.", hint=f"Kinds: {', '.join(get_args(Failure))}."
                )
            failure = value
        elif value is not None:
            raise ConfigurationError(f"{text!r}: {kind} has no value.")
        return cls(
            kind=kind,  # type: ignore[arg-type]
            seconds=seconds,
            failure=failure,  # type: ignore[arg-type]
            at_s=float(at) if at and not found["count"] else None,
            at_message=int(float(at)) if at and found["count"] else None,
            links=int(found["links"] or 0),
        )


class _FaultyLink:
    """What both kinds of link share: which fault is due, and listening until one is."""

    #: what is raised to the server when the link is gone by one of ours
    gone: type[Exception]

    def __init__(self, faults: Sequence[Fault], abort: Callable[[], None]) -> None:
        self._faults = [fault for fault in faults if fault.kind != "limit"]
        self._abort = abort
        self._opened = asyncio.get_running_loop().time()
        self._sent = 0
        self._broken = False
        self._ends_s: float | None = None  # once the end was announced: when it comes

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._opened

    def _due(self, kind: Kind) -> Fault | None:
        now = self._now()
        for fault in self._faults:
            if fault.kind == kind and now >= (fault.at_s or 0.0) and self._sent >= (fault.at_message or 0):
                return fault
        return None

    async def _strike(self) -> None:
        """Let what is due happen. Raises `gone` if that ends the link."""
        if self._broken:
            raise self.gone
        if self._due("reset"):
            self._broken = True
            self._abort()
            raise self.gone
        if self._due("throttle"):
            await self._end("throttled")
        if self._due("drop"):
            await self._end(None)
        if (fault := self._due("exception")) is not None:
            await self._end(fault.failure)
        if (fault := self._due("go-away")) is not None:
            if self._ends_s is None:
                self._ends_s = self._now() + fault.seconds
                await self._announce(fault.seconds)
            elif self._now() >= self._ends_s:
                await self._end("expired")

    async def _end(self, failure: Failure | None) -> None:
        self._broken = True
        await self._fail(failure)
        raise self.gone

    async def _fail(self, failure: Failure | None) -> None:
        raise NotImplementedError

    async def _announce(self, seconds: float) -> None:
        raise NotImplementedError

    async def _listen[T](self, receive: Callable[[], Awaitable[T]]) -> T:
        """The next message. Faults that are due by time strike here too: a client keeps sending."""
        while True:
            await self._strike()
            receiving = asyncio.ensure_future(receive())
            try:
                while not receiving.done():
                    await asyncio.wait({receiving}, timeout=self._wait())
                    await self._strike()
            finally:
                if not receiving.cancel() and not receiving.cancelled():
                    receiving.exception()  # ours came first
            message = receiving.result()
            if message is None or not self._due("deaf"):
                return message

    def _wait(self) -> float | None:
        now = self._now()
        times = [fault.at_s for fault in self._faults if fault.at_s is not None]
        later = [at - now for at in (*times, self._ends_s or 0.0) if at > now]
        return min(later) + 0.001 if later else None

    async def _passes(self) -> bool:
        """Whether a message may go out, after what is due has happened."""
        await self._strike()
        self._sent += 1
        if (late := self._due("latency")) is not None:
            await asyncio.sleep(late.seconds)
        return self._due("stall") is None


class FaultySocket(_FaultyLink):
    """A WebSocket of the server with faults. `abort` breaks its link off; `wording` is its protocol's."""

    gone = SocketClosedError

    def __init__(self, inner: Socket, faults: Sequence[Fault], abort: Callable[[], None], wording: Wording) -> None:
        super().__init__(faults, abort)
        self._inner = inner
        self._wording = wording

    async def receive(self) -> str | bytes:
        """See Socket."""
        return await self._listen(self._inner.receive)

    async def send(self, message: str | bytes) -> None:
        """See Socket."""
        if await self._passes():
            await self._inner.send(message)

    async def close(self, code: int, reason: str = "") -> None:
        """See Socket."""
        if self._due("stall") is None and not self._broken:
            await self._inner.close(code, reason)

    async def _announce(self, seconds: float) -> None:
        if (message := self._wording.going_away(seconds)) is not None:
            await self._inner.send(message)

    async def _fail(self, failure: Failure | None) -> None:
        if failure is None:
            await self._inner.close(1011, "dropped")
            return
        message, code, reason = self._wording.failure(failure)
        if message is not None:
            await self._inner.send(message)
        await self._inner.close(code, reason)


class FaultyPeer(_FaultyLink):
    """A stream of Nova Sonic's server with faults. `abort` resets it."""

    gone = PeerGoneError

    def __init__(self, inner: Peer, faults: Sequence[Fault], abort: Callable[[], None]) -> None:
        super().__init__(faults, abort)
        self._inner = inner

    async def receive(self) -> bytes | None:
        """See Peer."""
        return await self._listen(self._inner.receive)

    async def send(self, event: bytes) -> None:
        """See Peer."""
        if await self._passes():
            await self._inner.send(event)

    async def fail(self, exception: StreamException) -> None:
        """See Peer."""
        if self._due("stall") is None and not self._broken:
            await self._inner.fail(exception)

    async def finish(self) -> None:
        """See Peer."""
        if self._due("stall") is None and not self._broken:
            await self._inner.finish()

    async def _announce(self, seconds: float) -> None:
        """The protocol has no announcement."""

    async def _fail(self, failure: Failure | None) -> None:
        await (self._inner.finish() if failure is None else self._inner.fail(exception_of(failure)))


class Faults:
    """The faults of one server: ``Faults(["drop*1@3"]).install(server)``.

    Raises ConfigurationError for a text that is no fault.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.planned = tuple(Fault.parse(text) for text in texts)
        self._links = 0

    @property
    def limit_s(self) -> float | None:
        """How long connections are to live, if that is among them."""
        return next((fault.seconds for fault in self.planned if fault.kind == "limit"), None)

    def options(self, options: ServeOptions) -> ServeOptions:
        """`options`, with the limit."""
        return options if self.limit_s is None else options.limited(self.limit_s)

    def install(self, server: RunningServer | None = None, nova: RunningNova | None = None) -> None:
        """Put them between these servers and their clients to come."""
        if server is not None:
            server.app.state.server.wrap = self._socket  # type: ignore[attr-defined]
        if nova is not None:
            nova.server.wrap = self._peer

    def _next(self) -> list[Fault]:
        self._links += 1
        return [fault for fault in self.planned if not fault.links or self._links <= fault.links]

    def _socket(self, socket: Socket, abort: Callable[[], None], wire: str) -> Socket:
        mine = self._next()
        return FaultySocket(socket, mine, abort, wording_of(wire)) if mine else socket

    def _peer(self, peer: Peer, abort: Callable[[], None]) -> Peer:
        mine = self._next()
        return FaultyPeer(peer, mine, abort) if mine else peer
