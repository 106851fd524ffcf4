"""A session that talks through OpenAIRealtime to a served model, in memory: both of our ends of the protocol, any clock."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Coroutine, Sequence
from typing import Any

from duologue import Agent
from duologue.channels.base import Traits
from duologue.channels.link import SocketClosedError
from duologue.models import OpenAIRealtime
from duologue.models.transport import TransportClosedError
from duologue.serve.app import Server
from duologue.serve.openai_realtime import Realtime
from duologue.serve.options import ServeOptions
from duologue.serve.sessions import Sessions
from duologue.testing.scripted import Line, ScriptedCaller
from duologue.wire.openai_realtime import ServerLimits
from tests.models import pair
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo

RATE = 24_000


class Caller(ScriptedCaller):
    """The scripted caller at the provider's rate."""

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(
            input_rate=RATE,
            output_rate=RATE,
            pacing="paced",
            acknowledges=True,
            clears=True,
            ducks=True,
            addressee=True,
        )

    def frame(self, index: int) -> bytes:
        """The caller's audio frame number `index`."""
        at = index * 0.02
        for line in self.lines:
            if line.at_s <= at + 0.01 < line.at_s + line.seconds:
                return struct.pack("<h", line.utterance) * 480
        return bytes(960)

    async def run(self) -> None:
        """See Channel."""
        loop = asyncio.get_running_loop()
        begin = self.begin = loop.time()
        for index in range(int(self.until_s / 0.02)):
            await asyncio.sleep(begin + index * 0.02 - loop.time())
            self._render(loop.time())
            self.port.audio(self.frame(index), index * 480)
        self.port.ended("hangup")


class Wire:
    """Two ends of a socket in memory: `client` is a model's transport, `server` a served link's socket."""

    def __init__(self) -> None:
        self.up: asyncio.Queue[str | None] = asyncio.Queue()
        self.down: asyncio.Queue[str | tuple[int, str]] = asyncio.Queue()
        self.broken = False
        self.silent = False
        self.sent: list[str] = []
        self.client = _Client(self)
        self.server = _Server(self)

    def break_(self) -> None:
        """The link is reset."""
        self.broken = True
        self.up.put_nowait(None)
        self.down.put_nowait((1006, ""))


class _Client:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def send(self, message: str) -> None:
        if self._wire.broken:
            raise TransportClosedError
        self._wire.sent.append(message)
        self._wire.up.put_nowait(message)

    async def receive(self) -> str:
        got = await self._wire.down.get()
        if isinstance(got, tuple):
            self._wire.broken = True
            raise TransportClosedError(*got)
        return got

    async def close(self) -> None:
        self._wire.broken = True
        self._wire.up.put_nowait(None)


class _Server:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def receive(self) -> str:
        got = await self._wire.up.get()
        if got is None:
            raise SocketClosedError(1000)
        return got

    async def send(self, message: str | bytes) -> None:
        if self._wire.broken:
            raise SocketClosedError
        if not self._wire.silent:
            self._wire.down.put_nowait(message if isinstance(message, str) else message.decode())

    async def close(self, code: int, reason: str = "") -> None:
        self._wire.down.put_nowait((code, reason))


class Provider(pair.Provider):
    """A provider of the protocol in memory."""

    def __init__(
        self, *, answer: Any = echo, session_s: float = 3600.0, connect_s: float = 0.2, model: Any = None
    ) -> None:
        model = model or Scripted(UTTERANCES, answer)
        options = ServeOptions(studio=False, as_model=True, openai=ServerLimits(session_s=session_s))
        super().__init__(model, connect_s)
        self.server = Server(Agent(model=model, name="provider"), options)
        self.realtime = Realtime(self.server)

    @property
    def served(self) -> Sessions:
        """See Provider."""
        return self.server.sessions

    def link(self, model: OpenAIRealtime) -> tuple[Wire, Coroutine[Any, Any, None]]:
        """See Provider."""
        wire = Wire()
        return wire, self.realtime.serve(wire.server, self.realtime._config(model.model), {}, {})


class Call(pair.Call[Provider, Caller]):
    """One call of ours, through the provider."""

    def __init__(
        self, lines: Sequence[Line], until_s: float, provider: Provider, model: Any = None, **agent: Any
    ) -> None:
        model = model or OpenAIRealtime(api_key="x", connector=provider.connect)
        super().__init__(Caller(lines, until_s=until_s), provider, model, **agent)
