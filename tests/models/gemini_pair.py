"""A session that talks through GeminiLive to a served model, in memory: both of our ends of the protocol, any clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from duologue import Agent
from duologue.models import GeminiLive
from duologue.serve.app import Server
from duologue.serve.gemini_live import Gemini
from duologue.serve.options import ServeOptions
from duologue.session.session import Session
from duologue.testing.scripted import Line, ScriptedCaller
from duologue.wire.gemini_live import ServerLimits
from tests.models.realtime_pair import Wire
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo


class Caller(ScriptedCaller):
    """The scripted caller, whose events can be asked for by kind."""

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of this kind."""
        return [event for event in self.events if isinstance(event, kind)]


class Provider:
    """A provider of the protocol in memory. `wires` are the links that were opened to it, oldest first."""

    def __init__(self, *, answer: Any = echo, connect_s: float = 0.2, model: Any = None, **limits: Any) -> None:
        self.model = model or Scripted(UTTERANCES, answer, rate=16_000)
        options = ServeOptions(studio=False, as_model=True, gemini=ServerLimits(**limits))
        self.server = Server(Agent(model=self.model, name="provider"), options)
        self.gemini = Gemini(self.server)
        self.wires: list[Wire] = []
        self.refuse: Callable[[], BaseException | None] = lambda: None
        self._connect_s = connect_s
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self, model: GeminiLive) -> Any:
        """Opens a link: a model's `connector`."""
        await asyncio.sleep(self._connect_s)
        if (error := self.refuse()) is not None:
            raise error
        wire = Wire()
        self.wires.append(wire)
        serving = self.gemini.serve(wire.server, {"x-goog-api-key": "k"}, {})
        self._tasks.add(asyncio.get_running_loop().create_task(serving))
        return wire.client

    def sent(self, wire: int = -1, part: str = "") -> list[dict[str, Any]]:
        """What a client sent on a link, audio aside; `part`: only messages with this part, as that."""
        out: list[dict[str, Any]] = [json.loads(text) for text in self.wires[wire].sent]
        out = [message for message in out if "audio" not in message.get("realtimeInput", {})]
        return [message[part] for message in out if part in message] if part else out

    async def close(self) -> None:
        """End what is served."""
        await self.server.sessions.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def sessions(self) -> list[Session]:
        """The provider's sessions that are open."""
        return [call.session for call in self.server.sessions._calls.values()]


class Call:
    """One call of ours, through the provider."""

    def __init__(
        self,
        lines: Sequence[Line],
        until_s: float,
        provider: Provider,
        model: Any = None,
        options: dict[str, Any] | None = None,
        **agent: Any,
    ) -> None:
        self.caller = Caller(lines, until_s=until_s)
        self.provider = provider
        self.model = model or GeminiLive(api_key="x", connector=provider.connect, **(options or {}))
        given = {"apology": "", "idle_prompt": "", "farewell": "", **agent}
        self.session = Agent(model=self.model, **given).session(self.caller, tool_runner="inline", id="call")

    async def run(self) -> Session:
        """Hold the call to its end."""
        try:
            async with self.session as session:
                await session.wait()
        finally:
            await self.provider.close()
        return self.session
