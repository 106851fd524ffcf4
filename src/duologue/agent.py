"""The agent: what it is told, what it can do, how it sounds. Immutable, and shared by all of its sessions."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal

from .channels.base import Channel
from .channels.callables import CallableInput, CallableOutput
from .engine.limits import LimitOptions
from .errors import ConfigurationError, check_options
from .events import SessionEnded
from .models import Cascade, Model
from .session.definition import CallInfo, Definition, TurnTaking
from .session.hooks import Hooks
from .session.session import Session
from .session.toolbench import FillerOptions
from .store.committer import Committer
from .telemetry import ExportQueue
from .tools import as_tools

_OPTIONS = (
    "model",
    "instructions",
    "tools",
    "voice",
    "language",
    "greeting",
    "farewell",
    "apology",
    "idle_prompt",
    "name",
    "turn_taking",
    "limits",
    "filler",
    "hooks",
    "state",
    "telemetry",
)


class Agent:
    """A voice agent.

    Args:
        model: what listens, thinks and speaks; None: `Cascade.local()`, which needs no key and no network.
        instructions: what the model is told about its task.
        tools: functions (plain, or decorated with `@tool`), MCP servers, tool objects of other frameworks.
        voice: a voice that the model knows; language: a BCP 47 tag.
        greeting: said first, verbatim; "" waits for the user.
        apology: said when an answer fails before anything of it was heard; "" stays silent.
        farewell: said when the call is ended by a tool and the model says nothing.
        idle_prompt: asked when nobody has said anything for `limits.idle_s`; "" never.
        name: shown in events and logs.
        turn_taking: options of endpointing and interruption.
        limits: call length, silence, queues.
        filler: what is said while a tool keeps the caller waiting.
        hooks: your own code around turns, tools, responses.
        state: a type, instantiated for each session as `session.state`.
        telemetry: where the records of turns go, such as ``ExportQueue([PrometheusExporter()])`` of `duologue.telemetry`;
            yours to close. Records are told as events whether or not it is given.

    Raises:
        UnknownOptionError: an option that does not exist.
        ConfigurationError: what cannot work.
    """

    def __init__(
        self,
        *,
        model: Model | None = None,
        instructions: str = "",
        tools: Iterable[Any] = (),
        voice: str | None = None,
        language: str | None = None,
        greeting: str = "",
        farewell: str = "Goodbye.",
        apology: str = "Sorry, something went wrong. Please say that again.",
        idle_prompt: str = "Are you still there?",
        name: str = "agent",
        turn_taking: TurnTaking | None = None,
        limits: LimitOptions | None = None,
        filler: FillerOptions | None = None,
        hooks: Sequence[Hooks] = (),
        state: type | None = None,
        telemetry: ExportQueue | None = None,
        **unknown: object,
    ) -> None:
        check_options("Agent", unknown, _OPTIONS)
        if model is not None and not isinstance(model, Model):
            raise ConfigurationError(
                f"model={model!r} is no model.", hint="Pass one of duologue.models, such as Cascade.local()."
            )
        if telemetry is not None and not isinstance(telemetry, ExportQueue):
            raise ConfigurationError(
                f"telemetry={telemetry!r} may make a call wait.", hint="Wrap it: telemetry=ExportQueue([exporter])."
            )
        resolved = model or Cascade.local()
        known = resolved.capabilities.voices
        if voice is not None and known and voice not in known:
            raise ConfigurationError(f"{resolved.name} has no voice {voice!r}.", hint=f"Voices: {', '.join(known)}.")
        self._definition = Definition(
            name=name,
            model=resolved,
            instructions=instructions,
            tools=tuple(as_tools(tools)),
            voice=voice,
            language=language,
            greeting=greeting,
            farewell=farewell,
            apology=apology,
            idle_prompt=idle_prompt,
            turn_taking=turn_taking or TurnTaking(),
            limits=limits or LimitOptions(),
            filler=filler or FillerOptions(),
            hooks=tuple(hooks),
            state=state,
            telemetry=telemetry,
        )

    @property
    def definition(self) -> Definition:
        """The agent's resolved definition."""
        return self._definition

    @property
    def model(self) -> Model:
        """The model it speaks through."""
        return self._definition.model

    def session(
        self,
        *channels: Channel,
        id: str | None = None,
        call: CallInfo | None = None,
        committer: Committer | None = None,
        tenant: str = "local",
        text_only: bool = False,
        greet: bool = True,
        tool_runner: Literal["thread", "inline"] = "thread",
        joinable: bool = False,
    ) -> Session:
        """A new conversation, to be used as ``async with agent.session() as s``.

        Args:
            channels: how participants are reached; none: the program itself talks to it (`s.send`, `s.receive`).
            id: its name; one is made otherwise.
            call: who calls, if that is known.
            committer: where its journal goes; None: it has none, and cannot be resumed or replayed.
            tenant: whose data it is.
            text_only: answers are text, nothing is synthesised.
            greet: whether the greeting is said.
            tool_runner: `thread`, or `inline` under a virtual clock.
            joinable: whether participants may come in later (:meth:`Session.join`), see :class:`Session`.
        """
        return Session(
            self._definition,
            channels,
            id=id,
            call=call,
            committer=committer,
            tenant=tenant,
            text_only=text_only,
            greet=greet,
            tool_runner=tool_runner,
            joinable=joinable,
        )

    async def run(
        self,
        inputs: Iterable[Channel | Callable[[], Awaitable[Any]]] = (),
        outputs: Iterable[Channel | Callable[[dict[str, Any]], Any]] = (),
        *,
        committer: Committer | None = None,
    ) -> SessionEnded:
        """Hold one conversation over these channels and callables; returns how it ended.

        A callable input is awaited for inputs (None ends it), a callable output is given every event as a JSON object. The
        same channel may be named on both sides. One output that is stuck or fails does not delay or end the others.
        """
        channels: list[Channel] = []
        for entry in inputs:
            channel = entry if isinstance(entry, Channel) else CallableInput(entry)
            if channel not in channels:
                channels.append(channel)
        for sink in outputs:
            out = sink if isinstance(sink, Channel) else CallableOutput(sink)
            if out not in channels:
                channels.append(out)
        if not channels:
            raise ConfigurationError(
                "run() has no inputs and no outputs.", hint="Pass a channel, such as Microphone()."
            )
        session = self.session(*channels, committer=committer)
        async with session:
            return await session.wait()


#: an agent, or what makes one for a call
AgentFactory = Callable[[CallInfo], Awaitable[Agent]]


async def resolve(agent: Agent | AgentFactory, call: CallInfo) -> Agent:
    """The agent for a call: itself, or what its factory makes. Raises ConfigurationError if that is no agent."""
    if isinstance(agent, Agent):
        return agent
    made: Any = agent(call)
    if inspect.isawaitable(made):
        async with asyncio.timeout(30):
            made = await made
    if not isinstance(made, Agent):
        raise ConfigurationError(f"The agent factory returned a {type(made).__name__}.", hint="Return an Agent.")
    return made
