"""Opens and closes links, each within a bound of its own: the vendors' libraries would wait up to for ever."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from ..errors import ModelConnectionError
from .base import Connection, Context, Model
from .links import Link

logger = logging.getLogger("duologue.models.supervisor")

#: longest wait for a link to open
_OPEN_S = 10.0
#: longest wait for a link to close
_CLOSE_S = 3.0


class Opened(Protocol):
    """What becomes of a link that is opened."""

    def opened(self, link: Link) -> None:
        """It is ready."""

    def attempt_failed(self, link: Link, error: BaseException, *, elsewhere: bool = False) -> None:
        """It could not be opened; `elsewhere`: nothing answered, another candidate may be the better choice."""


class Opener:
    """Opens one link at a time: a newer attempt puts the one before out of date.

    Attributes:
        next: the link that is being opened, or is ready to take over.
    """

    def __init__(self, context: Context, result: Opened) -> None:
        self._context = context
        self._result = result
        self._closed = False
        self.next: Link | None = None

    def open(self, link: Link, patience_s: float) -> None:
        """Open `link`; `opened` or `attempt_failed` is called of it, unless it is out of date by then."""
        if (replaced := self.next) is not None and not replaced.dead:
            replaced.dead = True
            if replaced.ready:
                self.retire(replaced, "closing a successor that is out of date")
        self.next = link
        wait_s = min(_OPEN_S, patience_s)
        self._context.spawn(lambda: self._attempt(link, wait_s), f"opening {link.model.name}")

    def take(self) -> Link:
        """The link that is ready, which takes over now."""
        link, self.next = self.next, None
        assert link is not None
        return link

    async def _attempt(self, link: Link, wait_s: float) -> None:
        name = link.model.name
        try:
            link.connection = await self._opened(link.model, link, wait_s)
        except Exception as error:
            if self.next is link and not self._closed:
                if isinstance(error, TimeoutError):
                    silent = ModelConnectionError(f"{name} did not open within {wait_s:g} s.")
                    self._result.attempt_failed(link, silent, elsewhere=True)
                else:
                    self._result.attempt_failed(link, error)
            return
        if self._closed or link.dead or self.next is not link:
            ended = link.dead and self.next is link
            await self.close_link(link)
            if ended:
                ended_early = ModelConnectionError("The connection ended while it was being opened.")
                self._result.attempt_failed(link, ended_early)
            return
        link.ready = True
        self._result.opened(link)

    async def _opened(self, model: Model, link: Link, wait_s: float) -> Connection:
        """A connection, or TimeoutError after `wait_s`. What is given up cleans up after itself: nobody waits for that."""
        opening = asyncio.ensure_future(model.open(link))
        try:
            await asyncio.wait({opening}, timeout=wait_s)
        except asyncio.CancelledError:  # the session ends
            opening.cancel()
            await asyncio.wait({opening})
            raise
        if not opening.done():
            opening.cancel()
            self._context.spawn(lambda: _settled(opening), f"giving up on {model.name}")
            raise TimeoutError
        return opening.result()

    def retire(self, link: Link, why: str) -> None:
        """Close a link that is not used any more; nobody waits for that."""
        link.dead = True
        self._context.spawn(lambda: self.close_link(link), why)

    async def close_link(self, link: Link) -> None:
        """Close a link, or leave it after a while."""
        link.dead = True
        if link.connection is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_S):
                await link.connection.close()
        except Exception as error:
            logger.debug("generation %d: closing: %r", link.generation, error)

    def close(self) -> None:
        """What is being opened is not wanted any more."""
        self._closed = True


async def _settled(opening: asyncio.Future[Connection]) -> None:
    """An opening that was given up is over; a connection that came of it after all is closed."""
    await asyncio.wait({opening})
    if not opening.cancelled() and opening.exception() is None:
        await opening.result().close()
