"""One conversation: what it is made of, and what a program may do with it.

A session outlives sockets: channels come and go away and come back (:mod:`.participants`). How it begins and ends, and who owns
its tasks, is :mod:`.life`; what comes in, :mod:`.intake`; who decides, :mod:`.conductor`.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import msgspec

from ..channels.base import Channel
from ..channels.program import Program
from ..engine.conversation import Item
from ..errors import ConfigurationError, DuologueError, FencedError, ModelError, OverloadedError
from ..events import (
    AudioInput,
    ConnectionLost,
    ConnectionOpened,
    ConnectionRotated,
    EndReason,
    ErrorEvent,
    Event,
    Input,
    SessionEnded,
    SessionStarted,
    SessionTakenOver,
    TextInput,
)
from ..models.base import Model, Setup
from ..models.supervisor import Supervisor
from ..store.committer import Committer, Writer
from ..telemetry import TurnBuilder
from ..tools import Tool, ToolCall, ToolContext, ToolSource, as_tools
from . import takeover
from .conductor import Conductor
from .context import ModelContext
from .definition import CallInfo, Definition
from .hooks import HookRunner
from .intake import Intake
from .journal import Options, SessionJournal, State
from .life import Life
from .participants import Participants
from .rebuild import Rebuilt
from .toolbench import Toolbench

logger = logging.getLogger("duologue.session")


class Session(Life, ToolContext):
    """A conversation. Made by `Agent.session()`; use it as ``async with agent.session() as s``.

    Its methods may be called from any task of its loop, tools may call the async ones from their own. After the end they
    raise :class:`SessionClosedError`, except `stop`, which is safe at any time and any number of times.

    `joinable`: participants may come in later (`join`). Such a session does not end with the call while a long-running tool is
    under way, or nobody has been told of its result: it waits for whoever joins next (`limits.untold_s`).
    `past`: where it stood under an owner that was lost; it goes on from there (see :mod:`.takeover`).
    """

    def __init__(
        self,
        definition: Definition,
        channels: Sequence[Channel] = (),
        *,
        id: str | None = None,
        call: CallInfo | None = None,
        committer: Committer | None = None,
        tenant: str = "local",
        text_only: bool = False,
        greet: bool = True,
        tool_runner: Literal["thread", "inline"] = "thread",
        joinable: bool = False,
        past: Rebuilt | None = None,
    ) -> None:
        super().__init__(id or f"s-{uuid.uuid4().hex}")
        self.definition = definition
        self.call = call or CallInfo(session=self.id)
        self.tenant = tenant
        self.epoch = 0
        self.participants = Participants(self, channels, text_only=text_only)
        self._program: Program = self.participants.program
        self._committer = committer
        self._joinable = joinable
        self._past = past
        self._greet = greet
        self._tool_runner: Literal["thread", "inline"] = tool_runner
        self._instructions = definition.instructions
        self._voice = definition.voice
        self._tools: tuple[Tool, ...] = ()
        self._sources: list[ToolSource] = []
        self._state: Any = definition.state() if definition.state is not None else {}
        self._kept: bytes | None = b""  # the state as it was journaled; None: it cannot be
        self._wake_timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ opening and shutting (Life)

    async def _open(self) -> None:
        definition = self.definition
        writer = await self._claim()
        journal = SessionJournal(writer, self.participants.release, self._journal_failed)
        floor = definition.turn_taking.floor(definition.model.capabilities.authority)
        past = self._past
        turns = past.turns if past is not None else 0
        journal.record(Options(self.id, floor, turns))
        self.conductor = Conductor(
            self,
            journal,
            floor=floor,
            limits=definition.limits,
            capabilities=definition.model.capabilities,
            clock=self._loop.time,
            speaks=self.participants.speaks,
            idle_prompt=definition.idle_prompt,
            apology=definition.apology,
            farewell=definition.farewell,
            export=definition.telemetry,
            elapsed=past.at if past is not None else 0.0,
            turns=turns,
        )
        if past is not None:
            takeover.inherit(self.conductor, past)
            self._state = takeover.state(self.id, definition.state, past, self._state)
        if definition.telemetry is not None:
            definition.telemetry.session_started(
                self.id, wall=time.time(), agent=definition.name, model=definition.model.name, tenant=self.tenant
            )
        inline = self._tool_runner == "inline"
        self._hooks = HookRunner(definition.hooks, self, self._hook_failed, inline=inline)
        self._tools = await self._load_tools(definition.tools)
        self.toolbench = Toolbench(
            self._tools,
            self.conductor,
            self,
            runner=self._tool_runner,
            filler=definition.filler,
            session=self.id,
            hook=self.hook,
        )
        self.intake = Intake(self.conductor, self.toolbench, definition.model, upstream_s=definition.limits.upstream_s)
        await self.participants.open(self.intake, definition.model.capabilities.output_rate)
        self._connection = Supervisor(definition.model, ModelContext(self), self)
        await self._connection.open()
        self.conductor.connection = self._connection
        self.intake.open(self._connection)
        self._begin()

    def _begin(self) -> None:
        """Everything is open: say so, and let everybody carry."""
        definition, model, conductor = self.definition, self.definition.model, self.conductor
        self.started = SessionStarted(
            session=self.id,
            agent=definition.name,
            model=model.name,
            epoch=self.epoch,
            input_rate=model.capabilities.input_rate,
            output_rate=model.capabilities.output_rate,
            notice=model.notice,
        )
        if self._past is None:
            conductor.emit(self.started)
        else:
            conductor.emit(SessionTakenOver(epoch=self.epoch, agent=definition.name, model=model.name))
        conductor.emit(ConnectionOpened(generation=self._connection.generation, model=self._connection.active_name))
        self.schedule_wake()
        self.participants.run()
        past, self._past = self._past, None
        if past is not None:
            takeover.settle(conductor, self.toolbench, past)
            self.hook("on_restart", self._connection.generation, "takeover")
            return
        self.hook("on_start")
        if definition.greeting and self._greet:
            conductor.speaking.say(definition.greeting, "greeting")

    async def _claim(self) -> Writer | None:
        if self._committer is None:
            return None
        writer = await self._committer.claim(self.tenant, self.id, self._past.epoch if self._past is not None else 0)
        self.epoch = writer.claim.epoch
        return writer

    async def _load_tools(self, given: Iterable[Tool | ToolSource]) -> tuple[Tool, ...]:
        tools: list[Tool] = []
        for source in given:
            if isinstance(source, Tool):
                tools.append(source)
            else:
                if source not in self._sources:
                    self._sources.append(source)  # before it is loaded: what it has opened by then is closed, too
                tools.extend(await source.load())
        return tuple(tools)

    async def _shut(self) -> None:
        if self._wake_timer is not None:
            self._wake_timer.cancel()
        self.participants.close()
        conductor = getattr(self, "conductor", None)
        if conductor is not None:
            for listener in conductor.responses.listeners:
                listener.close()
            conductor.fact("close")  # first, so that nothing new begins while what is open is ended
            for response in conductor.responses.all:
                conductor.responses.cancel(response, "cancelled", "the session ended")
            conductor.measures.finish()
        if (toolbench := getattr(self, "toolbench", None)) is not None:
            await self.bounded(toolbench.close())
        if (connection := getattr(self, "_connection", None)) is not None:
            self.intake.close()
            await self.bounded(connection.close())
        if conductor is not None:
            self.hook("on_end", self._end_reason)
            await self.bounded(self._hooks.close())
            self.ended = SessionEnded(
                at=round(self.now() - conductor.base, 4), reason=self._end_reason, detail=self._end_detail
            )
            conductor.emit(self.ended)
            if (export := self.definition.telemetry) is not None:
                export.session_ended(self.id, at=self.ended.at, reason=self._end_reason)
            if not conductor.journal.broken:
                flushed: asyncio.Future[None] = self._loop.create_future()
                conductor.journal.when_durable(lambda: None if flushed.done() else flushed.set_result(None))
                await self.bounded(asyncio.wait({flushed}))
        else:
            self.ended = SessionEnded(reason=self._end_reason, detail=self._end_detail)
        for channel in self.participants.channels:
            await self.bounded(channel.close(self._end_reason))
        for source in self._sources:
            await self.bounded(source.aclose())

    def _task_failed(self, name: str, error: Exception) -> None:
        self.emit_error(ErrorEvent(code="internal", message=f"{name}: {error!r}"))

    # ------------------------------------------------------------------ what a program does

    async def send(self, message: Input | str | bytes) -> None:
        """Give the session an input: a typed turn (`str`), PCM16 at the model's input rate (`bytes`), or any `Input`."""
        self.check_open()
        if isinstance(message, str):
            message = TextInput(text=message)
        if isinstance(message, bytes):
            message = AudioInput(pcm=message)
        if isinstance(message, AudioInput):
            port = self.participants.ports[self._program]
            if message.rate not in (None, port.rate):
                raise ConfigurationError(
                    f"Audio at {message.rate} Hz, but {port.rate} Hz was agreed.",
                    hint="Open the session at that rate.",
                )
            port.audio(message.pcm, message.position)
        else:
            self.user_input(message)

    def receive(self) -> AsyncIterator[Event]:
        """All events from now on (the first reader: from the beginning), the agent's audio included; ends with the session.

        Several readers each get everything. A reader that is too slow loses its oldest events and is told how many.
        """
        return self._program.subscribe()

    async def join(self, channel: Channel) -> None:
        """Take another participant in, while the session runs. They hear what begins from now on.

        Raises ConfigurationError where nobody may join, or a second channel wants to be the addressee, and what opening the
        channel raises; then the session is as it was.
        """
        self.check_open()
        if not self._joinable:
            raise ConfigurationError("Nobody may join this session.", hint="Open it with joinable=True.")
        await self.participants.join(channel)

    @property
    def speaks(self) -> bool:
        """Whether anybody hears the agent; if not, answers are only text."""
        return self.participants.speaks

    @property
    def waiting(self) -> bool:
        """Whether everybody has left and it waits, for a long-running tool, or for somebody to tell of its result."""
        return self.participants.waiting and not self.closing

    @property
    def has_news(self) -> bool:
        """Whether a long-running tool is done and nobody has been told."""
        return self.toolbench.arriving or bool(self.conductor.speaking.news())

    def attended(self) -> AbstractContextManager[None]:
        """While this is open, the program is there to be answered, in a waiting session, too."""
        return self.participants.attended()

    async def say(self, text: str) -> str:
        """Have the agent say `text` verbatim as soon as the floor allows. Returns the response's id.

        Raises OverloadedError when too much waits to be said already (`limits.queued_responses`).
        """
        return await self._here(lambda: self.conductor.speaking.say_when_room(text))

    async def respond(self, instructions: str = "") -> None:
        """Have the model answer now, without a turn of the user, following `instructions`."""
        await self._here(lambda: self.conductor.speaking.respond(instructions))

    async def interrupt(self, reason: str = "user_request") -> None:
        """Silence the agent at once."""
        await self._here(lambda: self.conductor.fact("interrupt", reason))

    async def update(
        self, *, instructions: str | None = None, tools: Iterable[Any] | None = None, voice: str | None = None
    ) -> None:
        """Change instructions, tools or voice in mid-call; what is None stays as it is.

        They hold from the next answer on, or, where the provider cannot be told (a voice that has spoken, all of it at Nova
        Sonic), from the next quiet point on, at which the session goes on over another connection. `tools` as for `Agent`.

        Raises ConfigurationError for a voice that the model does not have, ToolError for what is no tool.
        """
        self.check_open()
        known = self.definition.model.capabilities.voices
        if voice is not None and known and voice not in known:
            raise ConfigurationError(
                f"{self.definition.model.name} has no voice {voice!r}.", hint=f"Voices: {', '.join(known)}."
            )
        loaded = None if tools is None else await self._load_tools(as_tools(tools))

        def change() -> None:
            before = (self._instructions, self._tools, self._voice)
            if instructions is not None:
                self._instructions = instructions
            if loaded is not None:
                self._tools = loaded
                self.toolbench.executor.replace(self._tools)
            if voice is not None:
                self._voice = voice
            if before != (self._instructions, self._tools, self._voice):
                self.setup_changed()

        await self._here(change)

    @property
    def state(self) -> Any:
        """The application's own state of this conversation (`Agent(state=Type)`, else a dict)."""
        return self._state

    @property
    def history(self) -> tuple[Item, ...]:
        """The conversation so far, as its addressee heard it."""
        return tuple(item for item in self.conductor.conversation.items if item.text or item.kind != "assistant")

    def setup(self) -> Setup:
        """What a connection starts with, as of now."""
        return Setup(
            instructions=self._instructions,
            tools=tuple(tool.spec for tool in self._tools),
            history=tuple(self.conductor.history()),
            voice=self._voice,
            language=self.definition.language,
        )

    def setup_changed(self) -> None:
        """What a connection starts with is not what it was: tell the model."""
        self._connection.update(self.setup())

    @property
    def busy(self) -> bool:
        """Whether a tool runs, or an answer is being made or played."""
        return self.toolbench.busy or self.conductor.responses.owed

    @property
    def generation(self) -> int:
        """Counts the connections to the model."""
        return self._connection.generation

    def user_input(self, message: Input) -> None:
        """Anything but audio from a participant. Raises a typed error for what the model cannot take."""
        self.check_open()
        self.intake.input(message)

    def emit_error(self, error: ErrorEvent) -> None:
        """Tell everybody of an error."""
        if self.ended is None and hasattr(self, "conductor"):
            self.conductor.emit(error)

    # ------------------------------------------------------------------ what the conductor asks (Owner)

    def now(self) -> float:
        """The monotonic clock."""
        return self._loop.time()

    def call_over(self, reason: EndReason, detail: str = "") -> None:
        """Nobody is to be on the line any more. The session ends, unless it stays for its long-running tools."""
        if self._joinable and not self.closing and self.participants.stay(reason, detail):
            if self._end_timer is not None:
                self._end_timer.cancel()
            self._end_timer = None
        else:
            self.end(reason, detail)

    def run_settled(self) -> None:
        self.participants.reconsider()

    def tool_requested(self, response: str, call: ToolCall) -> None:
        self.toolbench.request(response, call)

    def tools_withdrawn(self, calls: Sequence[str]) -> None:
        self.toolbench.withdraw(calls)

    def barged_in(self) -> None:
        self.toolbench.barge_in()

    def turn_reopened(self, turn: str) -> None:
        self.toolbench.reopen(turn)

    def channel_failed(self, channel: Channel, error: Exception) -> None:
        self.participants.failed(channel, error)

    def losses(self) -> dict[str, int]:
        return self.participants.losses()

    def turn_record(self, turn: str) -> TurnBuilder:
        """An empty record of a turn."""
        builder = TurnBuilder(self.id, turn)
        builder.tenant, builder.agent = self.tenant, self.definition.name
        builder.model, builder.generation = self._connection.active_name, self._connection.generation
        return builder

    def connection_lost(self, error: DuologueError) -> None:
        """The model is gone. Without another there is no conversation: end with a typed reason, never in silence."""
        self.emit_error(ErrorEvent(code=error.code, message=str(error), fatal=True))
        self.end("error", str(error) if isinstance(error, ModelError) else repr(error))

    def rotated(self, generation: int, model: Model, reason: str, replayed_ms: int) -> None:
        """The session goes on over another connection (see Overseer)."""
        self.conductor.fact("authority", model.capabilities.authority)
        self.conductor.emit(
            ConnectionRotated(generation=generation, model=model.name, reason=reason, replayed_ms=replayed_ms)
        )
        self.hook("on_restart", generation, reason)

    def trouble(self, generation: int, model: Model, reason: str, retry_in_s: float) -> None:
        """A connection was lost or could not be opened (see Overseer)."""
        if self.ended is None:
            self.conductor.emit(
                ConnectionLost(generation=generation, model=model.name, reason=reason, retry_in_s=round(retry_in_s, 3))
            )

    def schedule_wake(self) -> None:
        """Arrange for the next deadline of floor and limits."""
        if self.closing:
            return  # a timer would keep all of an ended session alive until its deadline
        due = self.conductor.next_deadline()
        timer = self._wake_timer
        if timer is not None:
            if timer.when() == due and not timer.cancelled():
                return
            timer.cancel()
        self._wake_timer = self._loop.call_at(due, self._wake)

    def _wake(self) -> None:
        self._wake_timer = None
        if self.ended is None:
            self.conductor.wake()
            self.schedule_wake()

    def hook(self, name: str, *args: Any) -> None:
        self._keep_state()
        self._hooks(name, *args)

    def _keep_state(self) -> None:
        """Journal the application's state, if it has changed since."""
        journal = self.conductor.journal
        if not journal.durable:
            return
        try:
            state = msgspec.json.encode(self._state)
            if len(state) > (most := self.definition.limits.snapshot_bytes):
                raise ValueError(f"it has {len(state)} bytes, more than the {most} that are kept")
        except RuntimeError:
            return  # a tool's thread is changing it just now; it is looked at again
        except (TypeError, ValueError) as error:
            if self._kept is not None:
                self._kept = None
                logger.warning(
                    "%s: the state cannot be journaled, and would not survive its process: %s", self.id, error
                )
            return
        if state != self._kept and (self._kept or self._state):
            self._kept = state
            journal.record(State(msgspec.Raw(state)))

    def _hook_failed(self, name: str, error: BaseException) -> None:
        if isinstance(error, OverloadedError):
            self.conductor.measures.dropped("hooks")
        what = "took too long" if isinstance(error, TimeoutError) else f"failed: {error!r}"
        self.emit_error(ErrorEvent(code="hook", message=f"Hook {name} {what}."))

    def _journal_failed(self, error: DuologueError) -> None:
        logger.warning("%s: the journal failed: %s", self.id, error)
        # What cannot be recorded may not be said: the session ends, and says so directly, since nothing can be journaled.
        for listener in self.conductor.responses.listeners:
            listener.close()
        if isinstance(error, FencedError) and hasattr(self, "toolbench"):
            self.toolbench.executor.fence()
        event = ErrorEvent(code=error.code, message=str(error), fatal=True)
        self.participants.release(event, msgspec.json.encode(event))
        self.end("error", str(error))
