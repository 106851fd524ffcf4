"""A program as the participant: it sends inputs to the session and reads events, audio included."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping

from ..events import ErrorEvent, Event, ResponseAudio, SessionEnded
from .base import Channel, Pacing, Traits

#: events that wait for one reader; beyond it the oldest is dropped and counted
_QUEUED = 4096


class Subscription:
    """One reader of a session's events: an async iterator that ends after the last event. Slow readers lose the oldest."""

    def __init__(self) -> None:
        self._queue: deque[Event] = deque()
        self._ready = asyncio.Event()
        self._ended = False
        self.dropped = 0  # since the reader was last told
        self.lost = 0  # in all

    def put(self, event: Event) -> None:
        """Queue an event. Never blocks."""
        if len(self._queue) >= _QUEUED:
            self._queue.popleft()
            self.dropped += 1
            self.lost += 1
        self._queue.append(event)
        self._ready.set()
        if isinstance(event, SessionEnded):
            self._ended = True

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._ready.set()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._queue:
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            return ErrorEvent(code="events_dropped", message=f"This reader was too slow: {lost} events were dropped.")
        return self._queue.popleft()


class Program(Channel):
    """The program that opened the session.

    Args:
        audio: whether it wants the agent's audio (as :class:`ResponseAudio` events).
        input_rate: Hz of the audio it sends; None: the model's.
        output_rate: Hz of the audio it wants; 0: the model's.
        pacing: `paced` as a listener would hear it, `burst` as fast as it is made.
    """

    name = "program"

    def __init__(
        self, *, audio: bool = True, input_rate: int | None = None, output_rate: int = 0, pacing: Pacing = "paced"
    ) -> None:
        self._audio = audio
        self._input_rate = input_rate
        self._output_rate = output_rate
        self._pacing: Pacing = pacing
        self._subscriptions: list[Subscription] = []
        self._lost = 0  # by readers that are gone
        self._early: list[Event] = []
        self._closed = False
        #: Hz of the audio handed out; the session sets it when it has chosen
        self.rate = output_rate

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(
            input_rate=self._input_rate or 0,
            output_rate=self._output_rate if self._audio else None,
            pacing=self._pacing if self._audio else "none",
            essential=False,
        )

    @property
    def losses(self) -> Mapping[str, int]:
        """See Channel."""
        return {"events": self._lost + sum(subscription.lost for subscription in self._subscriptions)}

    def subscribe(self, *, past: bool = True) -> Subscription:
        """A new reader. The first one also gets what happened before it, if it wants the `past`."""
        subscription = Subscription()
        for event in self._early if past else ():
            subscription.put(event)
        self._early = []
        if self._closed:
            subscription.end()
        else:
            self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """The reader is gone."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self._lost += subscription.lost

    def opened_at(self, rate: int) -> None:
        """See Channel."""
        self.rate = rate

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""
        if not self._subscriptions and len(self._early) < _QUEUED:
            self._early.append(event)
        for subscription in self._subscriptions:
            subscription.put(event)

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See Channel."""
        if self._subscriptions:
            event = ResponseAudio(response=response, pcm=pcm, rate=self.rate, offset=offset, position=position)
            for subscription in self._subscriptions:
                subscription.put(event)

    async def close(self, reason: str) -> None:
        """See Channel."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end()
