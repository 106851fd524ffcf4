"""Plain callables as channels: anything that can be awaited for an input, anything that takes an event.

``websocket.receive_json`` and ``websocket.send_json`` are such callables; so is a coroutine function of five lines.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from ..errors import ConfigurationError, DuologueError
from ..events import (
    ActivityInput,
    AnyInput,
    AudioInput,
    ErrorEvent,
    Event,
    Input,
    Interruption,
    ResponseAudio,
    TextInput,
)
from .base import Channel, Traits

#: what an input callable may return: an input, its JSON object, text, PCM16, or None at the end
Source = Callable[[], Awaitable[Any]]
#: what takes events as JSON objects
Sink = Callable[[dict[str, Any]], Any]

#: events that wait for one output; beyond it audio is dropped first, and counted
_QUEUED = 1024


def to_input(value: Any) -> Input:
    """An input from what a callable returned. Raises ConfigurationError for anything else."""
    if isinstance(value, Input):
        return value
    if isinstance(value, str):
        return TextInput(text=value)
    if isinstance(value, bytes | bytearray | memoryview):
        return AudioInput(pcm=bytes(value))
    if isinstance(value, Mapping):
        try:
            message: Input = msgspec.convert(dict(value), AnyInput)
            return message
        except msgspec.ValidationError as error:
            raise ConfigurationError(
                f"An input callable returned an object that is no input: {error}.",
                hint='Return something like {"type": "input.text", "text": "…"}.',
            ) from None
    raise ConfigurationError(
        f"An input callable returned a {type(value).__name__}.", hint="Return an Input, its JSON object, text or PCM16."
    )


class CallableInput(Channel):
    """A participant whose inputs come from awaiting `source` again and again. None, StopAsyncIteration: they have left.

    Args:
        source: returns the next input.
        rate: Hz of its audio; None: the model's.
    """

    def __init__(self, source: Source, *, rate: int | None = None) -> None:
        if not callable(source):
            raise ConfigurationError(
                f"{source!r} is no input.", hint="Pass a channel or a callable that can be awaited."
            )
        self.name = getattr(source, "__qualname__", type(source).__name__)
        self._source = source
        self._rate = rate

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(input_rate=self._rate or 0)

    async def run(self) -> None:
        """See Channel."""
        while True:
            try:
                value = self._source()
                if inspect.isawaitable(value):
                    value = await value
            except StopAsyncIteration:
                value = None
            if value is None:
                self.port.input(ActivityInput(kind="ended"))
                self.port.ended("client_left")
                return
            message = to_input(value)
            if isinstance(message, AudioInput):
                self.port.audio(message.pcm, message.position)
            else:
                try:
                    self.port.input(message)
                except DuologueError as error:
                    self.port.refused(error)


class CallableOutput(Channel):
    """Hands every event to `sink`, in order, as a JSON object; `response.audio` included (base64).

    Each output has a queue and a task of its own: one that is stuck or fails does not delay the others. When the agent is
    interrupted, audio of that response that still waits here is dropped.
    """

    def __init__(self, sink: Sink, *, rate: int = 0, audio: bool = True) -> None:
        if not callable(sink):
            raise ConfigurationError(
                f"{sink!r} is no output.", hint="Pass a channel or a callable that takes an event."
            )
        self.name = getattr(sink, "__qualname__", type(sink).__name__)
        self._sink = sink
        self._rate = rate
        self._audio = audio
        self._queue: deque[Event] = deque()
        self._ready = asyncio.Event()
        self._closing = False
        self._drained: asyncio.Event = asyncio.Event()
        self.rate = rate
        self.dropped = 0
        self._lost = 0

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(
            output_rate=self._rate if self._audio else None, pacing="paced" if self._audio else "none", essential=False
        )

    @property
    def losses(self) -> Mapping[str, int]:
        """See Channel."""
        return {"events": self._lost}

    def opened_at(self, rate: int) -> None:
        """See Channel."""
        self.rate = rate

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""
        if isinstance(event, Interruption) and event.stage in ("pause", "yield"):
            self._queue = deque(entry for entry in self._queue if not isinstance(entry, ResponseAudio))
            self._queue.appendleft(event)  # control overtakes what still waits
        else:
            self._put(event)
        self._ready.set()

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See Channel."""
        self._put(ResponseAudio(response=response, pcm=pcm, rate=self.rate, offset=offset, position=position))

    def clear(self, response: str) -> None:
        """See Channel."""
        self._queue = deque(entry for entry in self._queue if not isinstance(entry, ResponseAudio))

    def _put(self, event: Event) -> None:
        if len(self._queue) >= _QUEUED:
            victim = next((entry for entry in self._queue if isinstance(entry, ResponseAudio)), self._queue[0])
            self._queue.remove(victim)
            self.dropped += 1
            self._lost += 1
        self._queue.append(event)
        self._ready.set()

    async def run(self) -> None:
        """See Channel."""
        try:
            while True:
                while not self._queue:
                    if self._closing:
                        return
                    self._ready.clear()
                    await self._ready.wait()
                if self.dropped:
                    lost, self.dropped = self.dropped, 0
                    message = f"This output was too slow: {lost} events were dropped."
                    await self._hand(ErrorEvent(code="events_dropped", message=message))
                await self._hand(self._queue.popleft())
        finally:
            self._drained.set()

    async def _hand(self, event: Event) -> None:
        value = self._sink(msgspec.to_builtins(event))
        if inspect.isawaitable(value):
            await value

    async def close(self, reason: str) -> None:
        """See Channel."""
        self._closing = True
        self._ready.set()
        await self._drained.wait()
