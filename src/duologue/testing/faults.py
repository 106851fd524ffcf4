"""Faults on order, between a served protocol and its client: what networks and providers do, at a time that a test chooses.

A fault is ``KIND[=SECONDS][@WHEN]``; `WHEN` is seconds after the link opened (``@2.5``), or the number of a message sent
(``@#40``); without it the fault is there from the beginning.

=============  ======================================================================
``drop``       the link is closed by the server, 1011
``reset``      the link breaks off without a close
``stall``      nothing more is sent; the link stays open
``deaf``       nothing more is read
``latency=S``  each message is S seconds late
``throttle``   the link is refused for load, 1013
``limit=S``    sessions live for S seconds (with the protocol's own announcement)
=============  ======================================================================

A link that recovers is a new link, and meets the faults anew; ``KIND*1`` strikes only the first link.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, get_args

import msgspec

from ..channels.websocket import Socket, SocketClosedError
from ..errors import ConfigurationError

Kind = Literal["drop", "reset", "stall", "deaf", "latency", "throttle", "limit"]
_FORM = re.compile(
    r"(?P<kind>[a-z]+)(\*(?P<links>\d+))?(=(?P<value>[\d.]+)(?P<unit>ms|s)?)?(@(?P<count>#)?(?P<at>[\d.]+)s?)?"
)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. `seconds`: its value; `at_s`, `at_message`: when; `links`: on how many of the first links (0: all)."""

    kind: Kind
    seconds: float = 0.0
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
                f"{text!r} is no fault.", hint=f"Kinds: {', '.join(kinds)}; form: KIND[=S][@WHEN]."
            )
        if (found["value"] is None) == (found["kind"] in ("latency", "limit")):
            raise ConfigurationError(f"{text!r}: only latency and limit have seconds, and they need them.")
        seconds = float(found["value"] or 0) / (1000 if found["unit"] == "ms" else 1)
        at = found["at"]
        return cls(
            kind=found["kind"],  # type: ignore[arg-type]
            seconds=seconds,
            at_s=float(at) if at and not found["count"] else None,
            at_message=int(float(at)) if at and found["count"] else None,
            links=int(found["links"] or 0),
        )


class FaultySocket:
    """A socket of the server with faults. `abort` breaks its link off."""

    def __init__(self, inner: Socket, faults: Sequence[Fault], abort: Callable[[], None]) -> None:
        self._inner = inner
        self._faults = [fault for fault in faults if fault.kind != "limit"]
        self._abort = abort
        self._opened = asyncio.get_running_loop().time()
        self._sent = 0
        self._broken = asyncio.Event()

    def _due(self, kind: Kind) -> Fault | None:
        now = asyncio.get_running_loop().time() - self._opened
        for fault in self._faults:
            if fault.kind == kind and now >= (fault.at_s or 0.0) and self._sent >= (fault.at_message or 0):
                return fault
        return None

    async def _strike(self) -> None:
        if self._due("throttle"):
            await self._end(lambda: self._inner.close(1013, "throttled"))
        if self._due("drop"):
            await self._end(lambda: self._inner.close(1011, "dropped"))
        if self._due("reset"):
            self._abort()
            self._broken.set()
            raise SocketClosedError

    async def _end(self, close: Callable[[], Awaitable[None]]) -> None:
        self._broken.set()
        await close()
        raise SocketClosedError(1011)

    async def receive(self) -> str | bytes:
        """See Socket. Faults that are due by time strike here too: a client keeps sending."""
        while True:
            await self._strike()
            receiving = asyncio.ensure_future(self._inner.receive())
            try:
                while not receiving.done():
                    await asyncio.wait({receiving}, timeout=self._wait())
                    await self._strike()
            finally:
                if not receiving.cancel() and not receiving.cancelled():
                    receiving.exception()  # ours came first
            message = receiving.result()
            if not self._due("deaf"):
                return message

    def _wait(self) -> float | None:
        now = asyncio.get_running_loop().time() - self._opened
        later = [fault.at_s - now for fault in self._faults if fault.at_s is not None and fault.at_s > now]
        return min(later) + 0.001 if later else None

    async def send(self, message: str | bytes) -> None:
        """See Socket."""
        await self._strike()
        if self._broken.is_set():
            raise SocketClosedError
        self._sent += 1
        if (late := self._due("latency")) is not None:
            await asyncio.sleep(late.seconds)
        if not self._due("stall"):
            await self._inner.send(message)

    async def close(self, code: int, reason: str = "") -> None:
        """See Socket."""
        if not self._due("stall"):
            await self._inner.close(code, reason)


def faulty(faults: Sequence[Fault]) -> Callable[[Socket, Any], Socket]:
    """What puts these faults between a server and each of its links; `abort` of a link comes from its server."""
    links = 0

    def wrap(socket: Socket, abort: Callable[[], None]) -> Socket:
        nonlocal links
        links += 1
        mine = [fault for fault in faults if not fault.links or links <= fault.links]
        return FaultySocket(socket, mine, abort) if mine else socket

    return wrap
