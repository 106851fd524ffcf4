"""A session that talks through GeminiLive to a served model, in memory: both of our ends of the protocol, any clock."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Sequence
from typing import Any

from duologue import Agent
from duologue.models import GeminiLive
from duologue.serve.app import Server
from duologue.serve.gemini_live import Gemini
from duologue.serve.options import ServeOptions
from duologue.serve.sessions import Sessions
from duologue.testing.scripted import Line, ScriptedCaller
from duologue.wire.gemini_live import ServerLimits
from tests.models import pair
from tests.models.realtime_pair import Wire
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo


class Caller(ScriptedCaller):
    """The scripted caller, whose events can be asked for by kind."""

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of this kind."""
        return [event for event in self.events if isinstance(event, kind)]


class Provider(pair.Provider):
    """A provider of the protocol in memory."""

    def __init__(self, *, answer: Any = echo, connect_s: float = 0.2, model: Any = None, **limits: Any) -> None:
        model = model or Scripted(UTTERANCES, answer, rate=16_000)
        options = ServeOptions(studio=False, as_model=True, gemini=ServerLimits(**limits))
        super().__init__(model, connect_s)
        self.server = Server(Agent(model=model, name="provider"), options)
        self.gemini = Gemini(self.server)

    @property
    def served(self) -> Sessions:
        """See Provider."""
        return self.server.sessions

    def link(self, model: GeminiLive) -> tuple[Wire, Coroutine[Any, Any, None]]:
        """See Provider."""
        wire = Wire()
        return wire, self.gemini.serve(wire.server, {"x-goog-api-key": "k"}, {})

    def sent(self, wire: int = -1, part: str = "") -> list[dict[str, Any]]:
        """What a client sent on a link, audio aside; `part`: only messages with this part, as that."""
        out: list[dict[str, Any]] = [json.loads(text) for text in self.wires[wire].sent]
        out = [message for message in out if "audio" not in message.get("realtimeInput", {})]
        return [message[part] for message in out if part in message] if part else out


class Call(pair.Call[Provider, Caller]):
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
        model = model or GeminiLive(api_key="x", connector=provider.connect, **(options or {}))
        super().__init__(Caller(lines, until_s=until_s), provider, model, **agent)
