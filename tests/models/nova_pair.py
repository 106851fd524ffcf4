"""A session that talks through NovaSonic to a served model, in memory: both of our ends of the protocol, any clock."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Coroutine, Sequence
from typing import Any

from duologue import Agent
from duologue.channels.base import Traits
from duologue.models import NovaSonic
from duologue.models.transport import TransportClosedError
from duologue.serve.nova_channel import PeerGoneError
from duologue.serve.nova_sonic import NovaOptions, NovaServer
from duologue.serve.options import ServeOptions
from duologue.serve.sessions import Sessions
from duologue.testing.scripted import Line, ScriptedCaller
from duologue.wire.nova_sonic import StreamException, StreamLimits
from tests.models import pair
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo

RATE = 16_000
OUTPUT_RATE = 24_000


class Caller(ScriptedCaller):
    """The scripted caller, who acknowledges what they hear. Silent utterances and mute are by `lines`."""

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(
            input_rate=RATE,
            output_rate=OUTPUT_RATE,
            pacing="paced",
            acknowledges=True,
            clears=True,
            ducks=True,
            addressee=True,
        )


class Wire:
    """Two ends of a stream in memory: `client` is a model's transport, `server` a served client's peer."""

    def __init__(self) -> None:
        self.up: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.down: asyncio.Queue[bytes | BaseException] = asyncio.Queue()
        self.broken = False
        self.silent = False
        self.deaf = False
        self.taken = asyncio.Event()
        self.sent: list[dict[str, Any]] = []  # client's events but for audio
        self.received: list[dict[str, Any]] = []  # server's events but for audio
        self.audio = bytearray()
        self.closed = False
        self.client = Client(self)
        self.server = Server(self)

    def break_(self, error: BaseException | None = None) -> None:
        """The stream ends: reset, or with an exception of the service."""
        self.down.put_nowait(error or TransportClosedError())
        self.up.put_nowait(None)
        self.broken = True

    def of(self, name: str) -> list[dict[str, Any]]:
        """The client's events of one kind."""
        return [event[name] for event in self.sent if name in event]

    def texts(self, role: str) -> list[str]:
        """What the client sent in text blocks of a role."""
        blocks = {block["contentName"]: block for block in self.of("contentStart") if block["type"] == "TEXT"}
        return [event["content"] for event in self.of("textInput") if blocks[event["contentName"]]["role"] == role]


class Client:
    region = "us-east-1"
    life_s: float | None = None

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def answered(self) -> None:
        """As at the service: not before something was sent."""
        await self._wire.taken.wait()

    async def send(self, message: str) -> None:
        wire = self._wire
        if wire.deaf:
            await asyncio.Event().wait()
        event = json.loads(message)["event"]
        if "audioInput" in event:
            import base64

            wire.audio += base64.b64decode(event["audioInput"]["content"])
        else:
            wire.sent.append(event)
        wire.taken.set()
        if not wire.broken:  # a dead stream is not told of, as with the SDK
            wire.up.put_nowait(message.encode())

    async def receive(self) -> bytes:
        got = await self._wire.down.get()
        if isinstance(got, BaseException):
            raise got
        event = json.loads(got)["event"]
        if "audioOutput" not in event:
            self._wire.received.append(event)
        return got

    async def close(self) -> None:
        if not self._wire.closed:
            self._wire.closed = True
            self._wire.up.put_nowait(None)
            self._wire.down.put_nowait(TransportClosedError())


class Server:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def receive(self) -> bytes | None:
        return await self._wire.up.get()

    async def send(self, event: bytes) -> None:
        if self._wire.broken or self._wire.closed:
            raise PeerGoneError
        if not self._wire.silent:
            self._wire.down.put_nowait(event)

    async def fail(self, exception: StreamException) -> None:
        self._wire.down.put_nowait(exception)

    async def finish(self) -> None:
        self._wire.down.put_nowait(TransportClosedError())


class Provider(pair.Provider):
    """A provider of the protocol in memory."""

    def __init__(
        self,
        *,
        answer: Any = echo,
        limits: StreamLimits | None = None,
        connect_s: float = 0.2,
        life_s: float | None = None,
        model: Any = None,
    ) -> None:
        model = model or Scripted(UTTERANCES, answer, rate=RATE)
        sessions = Sessions(Agent(model=model, name="provider"), ServeOptions(studio=False), None)
        super().__init__(model, connect_s)
        self.limits = limits or StreamLimits()
        self.nova = NovaServer(sessions, NovaOptions(as_model=True, limits=self.limits))
        self._life_s = life_s

    @property
    def served(self) -> Sessions:
        """See Provider."""
        return self.nova.sessions

    def link(self, model: NovaSonic) -> tuple[Wire, Coroutine[Any, Any, None]]:
        """See Provider."""
        wire = Wire()
        wire.client.life_s = self._life_s
        return wire, self.nova.serve(wire.server, model.model_id)


class Call(pair.Call[Provider, Caller]):
    """One call of ours, through the provider."""

    def __init__(
        self, lines: Sequence[Line], until_s: float, provider: Provider, model: Any = None, **agent: Any
    ) -> None:
        model = model or NovaSonic(connector=provider.connect, limits=provider.limits)
        super().__init__(Caller(lines, until_s=until_s), provider, model, **agent)


def value_of(wire: Wire) -> list[int]:
    """The utterances in the audio that the server was sent, one entry for each run of them, silence left out."""
    values = struct.unpack(f"<{len(wire.audio) // 2}h", bytes(wire.audio))
    runs = [value for index, value in enumerate(values) if index == 0 or values[index - 1] != value]
    return [value for value in runs if value]
