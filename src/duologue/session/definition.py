"""What a session is made from: the agent, as far as a conversation needs to know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..engine.endpointing import EndpointingOptions
from ..engine.floor import FloorOptions
from ..engine.interruption import InterruptionOptions
from ..engine.limits import LimitOptions
from ..models.base import Model
from ..telemetry import ExportQueue
from ..tools import Tool, ToolSource
from .hooks import Hooks
from .toolbench import FillerOptions


class TurnTaking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of turn-taking; see each part."""

    endpointing: EndpointingOptions = EndpointingOptions()
    interruption: InterruptionOptions = InterruptionOptions()

    def floor(self, authority: Any) -> FloorOptions:
        """The floor's options for a model with this authority."""
        return FloorOptions(authority=authority, endpointing=self.endpointing, interruption=self.interruption)


class CallInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls and how: what an agent factory may decide by. `principal` is who authenticated, if anybody did."""

    session: str = ""
    channel: str = ""
    principal: str = ""
    tenant: str = "local"
    caller: str = ""
    language: str = ""
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    metadata: Mapping[str, Any] = {}


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """An agent, resolved for one call."""

    name: str
    model: Model
    instructions: str = ""
    tools: tuple[Tool | ToolSource, ...] = ()
    voice: str | None = None
    language: str | None = None
    greeting: str = ""
    farewell: str = "Goodbye."
    apology: str = "Sorry, something went wrong. Please say that again."
    idle_prompt: str = "Are you still there?"
    turn_taking: TurnTaking = TurnTaking()
    limits: LimitOptions = LimitOptions()
    filler: FillerOptions = FillerOptions()
    hooks: tuple[Hooks, ...] = ()
    state: type | None = None
    telemetry: ExportQueue | None = None
