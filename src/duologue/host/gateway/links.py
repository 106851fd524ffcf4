"""Links to Duologue workers: one connection a worker, kept while it lives, many streams on it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Protocol, cast

from ...wire.hostlink import (
    Accepted,
    Closed,
    Connected,
    GoingAway,
    LinkClient,
    LinkError,
    LinkOptions,
    Message,
    Open,
    RefreshAsked,
    Rejected,
)
from ..gather import Gather
from ..types import SCHEMA, HostError
from .counters import Counters
from .limits import GatewayLimits

logger = logging.getLogger("duologue.host")
#: most that the kernel holds of a client's bytes, and so what may still come in one read after reading was paused
READ_AHEAD = 512 << 10


class Taker(Protocol):
    """Who has a stream."""

    def accepted(self, subprotocol: str) -> None:
        """The worker takes it."""

    def rejected(self, error: HostError) -> None:
        """The worker refuses it."""

    def message(self, data: bytes, text: bool, cost: int) -> None:
        """A message; `cost` goes back with `WorkerLink.consumed`."""

    def writable(self) -> None:
        """What was sent has gone out so far that more may be sent."""

    def closed(self, code: int, reason: str) -> None:
        """The worker closed it, with a WebSocket close code."""

    def lost(self) -> None:
        """The worker is gone, or the link to it broke."""

    def refresh(self, token: str) -> None:
        """The client sent a newer token; `WorkerLink.link.refreshed` answers, then `flush`."""


class WorkerLink(asyncio.Protocol):
    """The gateway's end of one link. `counters` counts it as ``failed.link.REASON`` if it breaks.

    `of`: the worker and whose it is, tenant first; for the log.
    """

    def __init__(self, path: str, *, of: str, peer: str, epoch: int, options: LinkOptions, counters: Counters) -> None:
        self._loop = asyncio.get_running_loop()
        self.path = path
        self.of = of
        self.link = LinkClient(peer=peer, schema=SCHEMA, now=self._loop.time(), epoch=epoch, options=options)
        self._transport: asyncio.Transport | None = None
        self._takers: dict[int, Taker] = {}
        self._stopped: set[int] = set()  # streams whose taker waits until it may send
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._gather = Gather(self._loop, self.flush)
        self._counters = counters
        #: what is counted when it ends; "" if that is no failure
        self._why = "link.lost"
        #: set when the worker's hello came, or the link broke before
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.over = False

    # ------------------------------------------------------------------ streams

    def open(self, request: Open, taker: Taker) -> int:
        """Open a stream for a taker. Raises HostError 503."""
        try:
            stream = self.link.open(request)
        except LinkError as error:
            raise _unavailable(str(error)) from None
        self._takers[stream] = taker
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, text: bool) -> bool:
        """Send a message; False if the taker should wait for `writable`. Raises LinkError as the link does."""
        takes = self.link.send(stream, data, text=text)
        self._later()
        if takes:
            return True
        self._stopped.add(stream)
        return False

    def consumed(self, stream: int, cost: int) -> None:
        """A message was dealt with."""
        if self.link.consumed(stream, cost):
            self._later()

    def close(self, stream: int, code: int, reason: str) -> None:
        """The client closed: after what was sent."""
        self._forget(stream)
        self.link.close(stream, code, reason)
        self._later()

    def abort(self, stream: int, code: int = 1006) -> None:
        """The client is gone."""
        self._forget(stream)
        self.link.abort(stream, code)
        self._later()

    def _forget(self, stream: int) -> None:
        self._takers.pop(stream, None)
        self._stopped.discard(stream)

    # ------------------------------------------------------------------ transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance
        self.flush()
        self._arm()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        try:
            for event in self.link.receive(data, self._loop.time()):
                if isinstance(event, Message):
                    if (taker := self._takers.get(event.stream)) is not None:
                        taker.message(event.data, event.text, event.cost)
                else:
                    self._event(event)
        except LinkError as error:
            self._broken(error)
            return
        self._later()

    def pause_writing(self) -> None:
        """See asyncio.Protocol. Reading goes on: what comes in is bounded by credit."""
        self._paused = True

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._paused = False
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._end()

    def _event(self, event: object) -> None:
        match event:
            case Accepted(stream=stream, subprotocol=subprotocol):
                if (taker := self._takers.get(stream)) is not None:
                    taker.accepted(subprotocol)
            case Rejected(stream=stream, reject=reject):
                if (taker := self._takers.pop(stream, None)) is not None:
                    taker.rejected(_rejection(reject.status, reject.body, reject.headers))
            case Closed(stream=stream, code=code, reason=reason):
                taker = self._takers.get(stream)
                self._forget(stream)
                if taker is not None:
                    taker.closed(code, reason)
            case RefreshAsked(stream=stream, refresh=refresh):
                if (taker := self._takers.get(stream)) is not None:
                    taker.refresh(refresh.token)
            case Connected():
                if not self.ready.done():
                    self.ready.set_result(None)
            case GoingAway(goaway=notice):
                self._why = "link.told" if notice.code else ""
                logger.debug("worker %s at %s goes away: %s %s", self.of, self.path, notice.reason, notice.code)

    def _later(self) -> None:
        """Flush once after all that happens now."""
        self._gather.soon(len(self._takers))

    def flush(self) -> None:
        """Write what the transport takes."""
        transport = self._transport
        if transport is None or self.over:
            return
        while not self._paused and (data := self.link.data_to_send()):
            transport.write(data)
        for stream in [s for s in self._stopped if self.link.takes(s)]:
            self._stopped.discard(stream)
            if (taker := self._takers.get(stream)) is not None:
                taker.writable()

    def _arm(self) -> None:
        if not self.over:
            self._timer = self._loop.call_at(self.link.deadline(), self._tick)

    def _tick(self) -> None:
        try:
            self.link.tick(self._loop.time())
        except LinkError as error:
            self._broken(error)
            return
        self.flush()
        self._arm()

    def _broken(self, error: LinkError) -> None:
        logger.warning("link to the worker %s at %s: %s", self.of, self.path, error)
        self._why = error.code
        if self._transport is not None and self._paused:
            self._transport.abort()  # a worker that does not read would hold it open
        elif self._transport is not None:
            while data := self.link.data_to_send():
                self._transport.write(data)
            self._transport.close()
        self._end()

    def _end(self) -> None:
        if self.over:
            return
        self.over = True
        if self._why:
            self._counters.add(f"failed.{self._why}")
        if self._timer is not None:
            self._timer.cancel()
        if not self.ready.done():
            self.ready.set_exception(_unavailable("The worker ended."))
            self.ready.exception()  # looked at: whoever waits has it too
        takers, self._takers = self._takers, {}
        self._stopped.clear()
        for taker in takers.values():
            taker.lost()

    def shut(self) -> None:
        """Close the link."""
        self._why = ""
        if self._transport is not None:
            self._transport.abort()
        self._end()


class Links:
    """The links of a gateway, made when first needed."""

    def __init__(self, *, peer: str, limits: GatewayLimits, counters: Counters) -> None:
        self._peer = peer
        self._counters = counters
        self._options = LinkOptions(
            window=max(limits.unsent_bytes, 64 << 10),
            max_message=max(limits.message_bytes, limits.frame_bytes),
            # A client is paused at half of it; the other half takes a message and what had been read by then.
            max_queue=2 * (max(limits.message_bytes, limits.frame_bytes) + 2 * READ_AHEAD),
        )
        self._links: dict[str, asyncio.Task[WorkerLink]] = {}
        self._epochs = itertools.count(1)

    async def get(self, path: str, of: str) -> WorkerLink:
        """The link to the worker at a Unix socket, `of` as for WorkerLink. Raises HostError 503 if it cannot be reached."""
        task = self._links.get(path)
        if task is not None and task.done():
            usable = not task.cancelled() and task.exception() is None and not task.result().over
            if usable and not task.result().link.going_away:
                return task.result()
            task = None
        if task is None:
            task = asyncio.create_task(self._connect(path, of))
            self._links[path] = task
            task.add_done_callback(lambda done: self._look(path, done))
        return await asyncio.shield(task)

    async def _connect(self, path: str, of: str) -> WorkerLink:
        self._tidy()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._options.hello_s):
                _, link = await loop.create_unix_connection(lambda: self._make(path, of), path)
        except (OSError, TimeoutError):
            raise _unavailable("The worker cannot be reached.") from None
        await link.ready
        return link

    def _make(self, path: str, of: str) -> WorkerLink:
        return WorkerLink(
            path, of=of, peer=self._peer, epoch=next(self._epochs), options=self._options, counters=self._counters
        )

    def _look(self, path: str, task: asyncio.Task[WorkerLink]) -> None:
        if (task.cancelled() or task.exception() is not None) and self._links.get(path) is task:
            del self._links[path]

    def _tidy(self) -> None:
        """Forget the links that are over."""
        for path, task in list(self._links.items()):
            if task.done() and not task.cancelled() and task.exception() is None and task.result().over:
                del self._links[path]

    async def close(self) -> None:
        """Close all."""
        tasks, self._links = list(self._links.values()), {}
        for task in tasks:
            if not task.done():
                task.cancel()
            elif not task.cancelled() and task.exception() is None:
                task.result().shut()
        await asyncio.gather(*tasks, return_exceptions=True)


def _unavailable(message: str) -> HostError:
    return HostError(503, "ServiceUnavailableException", message, headers=(("Retry-After", "1"),))


def _rejection(status: int, body: str, headers: tuple[tuple[str, str], ...]) -> HostError:
    """What a client is told when the worker refused its socket: only what may pass, and nothing that boto3 would retry."""
    text = body[:1000]
    if status == 403:
        return HostError(403, "AccessDeniedException", text or "The agent refused the connection.")
    if status in (429, 503):
        retry = tuple((k, v) for k, v in headers if k.lower() == "retry-after")
        return HostError(status, "ThrottlingException", "The agent takes no more connections.", headers=retry)
    return HostError(424, "RuntimeClientError", f"Received error ({status}) from runtime.")
