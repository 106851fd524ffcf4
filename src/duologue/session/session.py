"""One conversation: its life, its participants, and what a program may do with it.

A session outlives sockets: channels come and go away and come back. One task group owns all of its tasks, so nothing of a
session runs after it, and no session can cancel another.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal, Self

import msgspec

from ..channels.base import Channel
from ..channels.program import Program
from ..engine.conversation import Item
from ..errors import (
    ConfigurationError,
    DuologueError,
    FencedError,
    ModelError,
    OverloadedError,
    SessionClosedError,
    UnsupportedInputError,
)
from ..events import (
    ActivityInput,
    ApprovalInput,
    AudioInput,
    ConnectionLost,
    ConnectionOpened,
    ConnectionRotated,
    EndReason,
    ErrorEvent,
    Event,
    ImageInput,
    Input,
    InterruptInput,
    ListenerAway,
    ListenerBack,
    SensorInput,
    SessionEnded,
    SessionStarted,
    TextInput,
)
from ..models.base import Evidence, InputKind, Model, Setup
from ..models.supervisor import Supervisor
from ..store.committer import Committer, Writer
from ..telemetry import TurnBuilder
from ..tools import Tool, ToolCall, ToolContext, ToolSource, as_tools
from .conductor import Conductor
from .definition import CallInfo, Definition
from .hooks import HookRunner
from .journal import Options, SessionJournal
from .playout import Listener
from .ports import SessionPort
from .toolbench import Toolbench

logger = logging.getLogger("duologue.session")

#: longest that closing a channel or a connection may take
_CLOSE_S = 3.0


class _Context:
    """The session as its model's connection sees it."""

    generation = 0

    def __init__(self, session: Session) -> None:
        self._session = session
        self.memory: dict[str, Any] = {}

    @property
    def speaks(self) -> bool:
        return self._session.speaks

    def report(self, evidence: Evidence) -> None:
        self._session.conductor.report(evidence)

    def next_response(self) -> str:
        return self._session.conductor.responses.next_id()

    def history(self) -> Sequence[Item]:
        return self._session.conductor.history()

    def setup(self) -> Setup:
        return self._session.setup()

    def room(self, response: str) -> Awaitable[None]:
        return self._session.conductor.responses.room(response)

    def now(self) -> float:
        return self._session.now()

    def spawn(self, run: Callable[[], Awaitable[None]], name: str) -> None:
        self._session.spawn(run, name)


class Session(ToolContext):
    """A conversation. Made by `Agent.session()`; use it as ``async with agent.session() as s``.

    Its methods may be called from any task of its loop, tools may call the async ones from their own. After the end they
    raise :class:`SessionClosedError`, except `stop`, which is safe at any time and any number of times.
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
    ) -> None:
        self.definition = definition
        self.id = id or f"s-{uuid.uuid4().hex}"
        self.call = call or CallInfo(session=self.id)
        self.tenant = tenant
        self.epoch = 0
        self.ended: SessionEnded | None = None
        self._channels = list(channels)
        self._program = next((channel for channel in self._channels if isinstance(channel, Program)), None)
        if self._program is None:
            self._program = Program(audio=not self._channels and not text_only)
            self._channels.append(self._program)
        #: whether anybody hears the agent; if not, answers are only text
        self.speaks = not text_only and any(channel.traits.output_rate is not None for channel in self._channels)
        self._committer = committer
        self._greet = greet
        self._tool_runner: Literal["thread", "inline"] = tool_runner
        self._instructions = definition.instructions
        self._voice = definition.voice
        self._tools: tuple[Tool, ...] = ()
        self._sources: list[ToolSource] = []
        self._state: Any = definition.state() if definition.state is not None else {}
        self._ports: dict[Channel, SessionPort] = {}
        self._main: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened: asyncio.Future[None] | None = None
        self._stopping: asyncio.Event | None = None
        self._end_reason: EndReason = "stopped"
        self._end_detail = ""
        self._wake_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._away: dict[Channel, asyncio.TimerHandle] = {}
        self._muted = False
        self._media_end = 0
        self.input_rate = definition.model.capabilities.input_rate
        self.upstream_s = definition.limits.upstream_s

    # ------------------------------------------------------------------ life

    async def start(self) -> Self:
        """Open channels and model, greet. Raises a typed error if any of it cannot work; then nothing is left open."""
        if self._main is not None:
            raise SessionClosedError("The session was started already.", hint="Make a new one for a new conversation.")
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        self._stopping = asyncio.Event()
        self._main = self._loop.create_task(self._live(), name=f"session {self.id}")
        try:
            await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            await self.stop()
            raise
        except Exception:
            await asyncio.wait({self._main})  # nothing is left open when the error is told
            raise
        return self

    async def stop(self, reason: EndReason = "stopped", detail: str = "") -> None:
        """End the conversation: flush the journal, close what is open. Idempotent; from any task, tools included."""
        if self._main is None:
            return
        if asyncio.get_running_loop() is not self._loop:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.stop(reason, detail), self._loop))
            return
        self.end(reason, detail)
        current = asyncio.current_task()
        if current is self._main or current in self._tasks:
            return  # called from inside: the end comes when the caller lets go
        await asyncio.wait({self._main})

    def end(self, reason: EndReason, detail: str = "") -> None:
        """Begin to end, without waiting."""
        if self._stopping is not None and not self._stopping.is_set():
            self._end_reason, self._end_detail = reason, detail
            self._stopping.set()
            if self._opened is not None and not self._opened.done() and self._main is not None:
                self._main.cancel()  # a model or channel that takes its time to open is not waited for

    def end_by(self, seconds: float, reason: EndReason, detail: str) -> None:
        """End after `seconds`, unless something ends it before."""
        if self._end_timer is None:
            self._end_timer = self._loop.call_later(seconds, self.end, reason, detail)

    async def wait(self) -> SessionEnded:
        """Wait until the session has ended, and say how."""
        if self._main is None:
            raise SessionClosedError("The session was not started.")
        await asyncio.wait({self._main})
        assert self.ended is not None
        return self.ended

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop("error" if exc[0] is not None and exc[0] is not asyncio.CancelledError else "stopped")

    async def _live(self) -> None:
        assert self._opened is not None
        assert self._stopping is not None
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    await self._open()
                except BaseException as error:
                    if not self._stopping.is_set():
                        self._stopping.set()
                        self._end_reason, self._end_detail = "error", str(error)
                    if not self._opened.done():
                        self._opened.set_exception(
                            error
                            if isinstance(error, Exception)
                            else SessionClosedError("It was stopped while starting.")
                        )
                    await self._shut()
                    if not isinstance(error, Exception):
                        raise
                    return
                self._opened.set_result(None)
                try:
                    await self._stopping.wait()
                finally:
                    await self._shut()
        finally:
            self._group = None

    async def _open(self) -> None:
        definition = self.definition
        writer = await self._claim()
        journal = SessionJournal(writer, self._release, self._journal_failed)
        floor = definition.turn_taking.floor(definition.model.capabilities.authority)
        journal.record(Options(self.id, floor))
        self.conductor = Conductor(
            self,
            journal,
            floor=floor,
            limits=definition.limits,
            capabilities=definition.model.capabilities,
            base=self._loop.time(),
            speaks=self.speaks,
            idle_prompt=definition.idle_prompt,
            apology=definition.apology,
            farewell=definition.farewell,
            export=definition.telemetry,
        )
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
        await self._open_channels()
        self.conductor.connection = await self._connect()
        model = definition.model
        self.conductor.emit(
            SessionStarted(
                session=self.id,
                agent=definition.name,
                model=model.name,
                epoch=self.epoch,
                input_rate=model.capabilities.input_rate,
                output_rate=model.capabilities.output_rate,
                notice=model.notice,
            )
        )
        self.conductor.emit(
            ConnectionOpened(generation=self._connection.generation, model=self._connection.active_name)
        )
        self.schedule_wake()
        for channel in list(self._channels):
            self.spawn(lambda channel=channel: self._run_channel(channel), f"channel {channel.name}")  # type: ignore[misc]
        self.hook("on_start")
        if definition.greeting and self._greet:
            self.conductor.say(definition.greeting, "greeting")

    async def _claim(self) -> Writer | None:
        if self._committer is None:
            return None
        writer = await self._committer.claim(self.tenant, self.id)
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

    async def _connect(self) -> Supervisor:
        supervisor = Supervisor(self.definition.model, _Context(self), self)
        self._connection = supervisor
        await supervisor.open()
        return supervisor

    async def _open_channels(self) -> None:
        output_rate = self.definition.model.capabilities.output_rate
        for channel in self._channels:
            port = SessionPort(channel, self)
            await channel.start(port)
            port.open()
            self._ports[channel] = port
            traits = channel.traits
            if traits.output_rate is None or not self.speaks:
                continue
            rate = traits.output_rate or output_rate
            channel.opened_at(rate)
            lag = traits.lag_s or (0.06 if traits.acknowledges else 0.0)
            port.listener = Listener(channel, self.conductor.responses, self._loop, rate=rate, lag_s=lag)
            self.conductor.responses.listeners.append(port.listener)
        listeners = self.conductor.responses.listeners
        if listeners:
            chosen = [listener for listener in listeners if listener.traits.addressee]
            if len(chosen) > 1:
                raise ConfigurationError("Two channels want to be the addressee.", hint="History can follow only one.")
            self.conductor.responses.addressee = self._best(chosen or listeners)

    @staticmethod
    def _best(listeners: Sequence[Listener]) -> Listener | None:
        """Whom history follows: ears rather than programs, and ears that report rather than ears that are guessed at."""
        return min(
            listeners,
            key=lambda entry: (not entry.traits.acknowledges, isinstance(entry.channel, Program)),
            default=None,
        )

    async def _run_channel(self, channel: Channel) -> None:
        try:
            await channel.run()
        except Exception as error:
            self.channel_failed(channel, error)

    async def _shut(self) -> None:
        """Close everything. Each step is bounded, and none keeps the next from being taken."""
        for timer in (self._wake_timer, self._end_timer, *self._away.values()):
            if timer is not None:
                timer.cancel()
        conductor = getattr(self, "conductor", None)
        if conductor is not None:
            for listener in conductor.responses.listeners:
                listener.close()
            conductor.fact("close")  # first, so that nothing new begins while what is open is ended
            for response in conductor.responses.all:
                conductor.responses.cancel(response, "cancelled", "the session ended")
            conductor.measures.finish()
        if (toolbench := getattr(self, "toolbench", None)) is not None:
            await self._bounded(toolbench.close())
        if (connection := getattr(self, "_connection", None)) is not None:
            await self._bounded(connection.close())
        if conductor is not None:
            self.hook("on_end", self._end_reason)
            await self._bounded(self._hooks.close())
            self.ended = SessionEnded(
                at=round(self.now() - conductor.base, 4), reason=self._end_reason, detail=self._end_detail
            )
            conductor.emit(self.ended)
            if (export := self.definition.telemetry) is not None:
                export.session_ended(self.id, at=self.ended.at, reason=self._end_reason)
            if not conductor.journal.broken:
                flushed: asyncio.Future[None] = self._loop.create_future()
                conductor.journal.when_durable(lambda: None if flushed.done() else flushed.set_result(None))
                await self._bounded(asyncio.wait({flushed}))
        else:
            self.ended = SessionEnded(reason=self._end_reason, detail=self._end_detail)
        for channel in self._channels:
            await self._bounded(channel.close(self._end_reason))
        for source in self._sources:
            await self._bounded(source.aclose())
        for task in self._tasks:
            task.cancel()

    async def _bounded(self, work: Awaitable[Any]) -> None:
        try:
            async with asyncio.timeout(_CLOSE_S):
                await work
        except Exception as error:
            logger.debug("%s: closing: %r", self.id, error)

    def spawn(self, run: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a task inside the session. Its failure is reported, and costs the session nothing else."""
        if self._group is None or (self._stopping is not None and self._stopping.is_set()):
            return

        async def guarded() -> None:
            try:
                await run()
            except Exception as error:
                logger.debug("%s: task %s failed", self.id, name, exc_info=True)
                self.emit_error(ErrorEvent(code="internal", message=f"{name}: {error!r}"))

        task = self._group.create_task(guarded(), name=f"{self.id} {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------ what a program does

    async def send(self, message: Input | str | bytes) -> None:
        """Give the session an input: a typed turn (`str`), PCM16 at the model's input rate (`bytes`), or any `Input`."""
        self._check_open()
        if isinstance(message, str):
            message = TextInput(text=message)
        if isinstance(message, bytes):
            message = AudioInput(pcm=message)
        assert self._program is not None
        port = self._ports[self._program]
        if isinstance(message, AudioInput):
            if message.rate not in (None, port._rate):
                raise ConfigurationError(
                    f"Audio at {message.rate} Hz, but {port._rate} Hz was agreed.",
                    hint="Open the session at that rate.",
                )
            port.audio(message.pcm, message.position)
        else:
            self.user_input(message)

    def receive(self) -> AsyncIterator[Event]:
        """All events from now on (the first reader: from the beginning), the agent's audio included; ends with the session.

        Several readers each get everything. A reader that is too slow loses its oldest events and is told how many.
        """
        assert self._program is not None
        return self._program.subscribe()

    async def say(self, text: str) -> str:
        """Have the agent say `text` verbatim as soon as the floor allows. Returns the response's id.

        Raises OverloadedError when too much waits to be said already (`limits.queued_responses`).
        """
        return await self._here(lambda: self.conductor.say_when_room(text))

    async def respond(self, instructions: str = "") -> None:
        """Have the model answer now, without a turn of the user, following `instructions`."""
        await self._here(lambda: self.conductor.respond(instructions))

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
        self._check_open()
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
                self._connection.update(self.setup())

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

    @property
    def busy(self) -> bool:
        """Whether a tool runs, or an answer is being made or played."""
        return self.toolbench.busy or self.conductor.responses.owed

    def _check_open(self) -> None:
        if self.ended is not None or self._main is None or (self._stopping is not None and self._stopping.is_set()):
            raise SessionClosedError("The session has ended.", hint="Start a new one.")

    async def _here[T](self, work: Callable[[], T]) -> T:
        """Do `work` on the session's loop, from whatever loop this is."""
        self._check_open()
        if asyncio.get_running_loop() is self._loop:
            return work()

        async def hop() -> T:
            self._check_open()
            return work()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(hop(), self._loop))

    # ------------------------------------------------------------------ what participants do (Upstream)

    def now(self) -> float:
        """The monotonic clock."""
        return self._loop.time()

    def user_audio(self, pcm: bytes, position: int) -> None:
        """User audio at the model's input rate."""
        if self._muted or self.ended is not None:
            return
        end = position + len(pcm) // 2
        base = self._loop.time() - end / self.input_rate
        measures = self.conductor.measures
        if not self._media_end or base < measures.media_base:
            # The earliest arrival says when the audio was captured; later ones were held up on their way.
            measures.media_base = base
        self._media_end = end
        self._connection.audio(pcm, position)

    def user_input(self, message: Input) -> None:
        """Anything else from a participant. Raises a typed error for what the model cannot take."""
        self._check_open()
        conductor = self.conductor
        match message:
            case TextInput():
                self._typed(message.text)
            case ActivityInput(kind="end"):
                conductor.fact("input_ended")
            case ActivityInput(kind="mute" | "ended"):
                self._muted = True
                conductor.fact("input_ended")
                self._connection.input_ended()
            case ActivityInput():
                self._muted = False
            case InterruptInput():
                conductor.fact("interrupt", message.reason)
            case ApprovalInput():
                if not self.toolbench.decide(message):
                    raise ConfigurationError(f"No tool run {message.call!r} waits for approval.")
            case ImageInput():
                self._check_takes("image", "images")
                self._connection.image(message.data, message.mime)
                conductor.conversation.user(f"i{self.now():.3f}", "", image=message.data, mime=message.mime)
                if message.respond:
                    conductor.respond("")
            case SensorInput():
                self._check_takes("sensor", "sensor input")
                try:
                    text = f"{message.name}: {msgspec.json.encode(message.value).decode()}"
                except (TypeError, ValueError) as error:
                    raise ConfigurationError(f"The value of {message.name!r} is not JSON: {error}.") from None
                conductor.conversation.note(text)
                self._connection.item(Item(kind="note", text=text))
            case _:
                raise ConfigurationError(f"Nothing takes a {type(message).__name__} here.")

    def _check_takes(self, kind: InputKind, what: str) -> None:
        """Whether the model in use takes such an input. Raises UnsupportedInputError before anything is sent."""
        model = self._connection.active or self.definition.model
        if kind not in model.capabilities.inputs:
            raise UnsupportedInputError(
                f"{model.name} takes no {what}.", hint=f"Use a model whose `inputs` include {kind!r}."
            )

    def _typed(self, text: str) -> None:
        """A typed turn: committed at once, answered like a spoken one."""
        if not text.strip():
            raise ConfigurationError("An empty text is no turn.")
        conductor = self.conductor
        conductor.fact("typed", text)
        self._connection.text(conductor.floor.turn, text)
        conductor.fact("commit", "typed")

    def dropped(self, kind: str, count: int) -> None:
        """Something of the participant's was dropped."""
        self.conductor.measures.dropped(kind, count)

    def losses(self) -> dict[str, int]:
        """What channels have thrown away since the session began, by kind; and how often the addressee ran dry."""
        found = {f"{kind}:{channel.name}": n for channel in self._channels for kind, n in channel.losses.items()}
        if (addressee := self.conductor.responses.addressee) is not None:
            found["underruns"] = addressee.ledger.underruns
        return found

    def turn_record(self, turn: str) -> TurnBuilder:
        """An empty record of a turn."""
        builder = TurnBuilder(self.id, turn)
        builder.tenant, builder.agent = self.tenant, self.definition.name
        builder.model, builder.generation = self._connection.active_name, self._connection.generation
        return builder

    def emit_error(self, error: ErrorEvent) -> None:
        """Tell everybody of an error."""
        if self.ended is None and hasattr(self, "conductor"):
            self.conductor.emit(error)

    def channel_away(self, channel: Channel) -> None:
        """A participant's link dropped: playout freezes, patience begins."""
        if channel in self._away or self.ended is not None:
            return
        grace = self.definition.limits.grace_s
        self._away[channel] = self._loop.call_later(grace, self.channel_ended, channel, "client_left")
        if (listener := self._ports[channel].listener) is not None:
            listener.away = True
        self.conductor.emit(ListenerAway(participant=channel.name, grace_s=grace))

    def channel_back(self, channel: Channel, gap_events: int, gap_ms: int) -> None:
        """The participant is back."""
        timer = self._away.pop(channel, None)
        if timer is not None:
            timer.cancel()
        if (listener := self._ports[channel].listener) is not None:
            listener.returned()
        self.conductor.emit(ListenerBack(participant=channel.name, gap_events=gap_events, gap_ms=gap_ms))

    def channel_ended(self, channel: Channel, reason: str) -> None:
        """The participant has left for good; the last essential one takes the session with it."""
        if (timer := self._away.pop(channel, None)) is not None:
            timer.cancel()
        if (listener := self._ports[channel].listener) is not None:
            listener.away = True
        if not channel.traits.essential:
            if listener is not None:
                others = [entry for entry in self.conductor.responses.listeners if entry is not listener]
                self.conductor.responses.remove(listener, self._best(others))
        else:
            ends: EndReason = "error" if reason == "error" else ("hangup" if reason == "hangup" else "client_left")
            self.end(ends, f"{channel.name}: {reason}")

    # ------------------------------------------------------------------ what the conductor asks (Owner)

    def tool_requested(self, response: str, call: ToolCall) -> None:
        self.toolbench.request(response, call)

    def tools_withdrawn(self, calls: Sequence[str]) -> None:
        self.toolbench.withdraw(calls)

    def barged_in(self) -> None:
        self.toolbench.barge_in()

    def turn_reopened(self, turn: str) -> None:
        self.toolbench.reopen(turn)

    def channel_failed(self, channel: Channel, error: Exception) -> None:
        """A channel raised: tell everybody, and go on without it unless it is essential."""
        if not isinstance(error, DuologueError):
            logger.debug("%s: channel %s failed", self.id, channel.name, exc_info=error)
        code = error.code if isinstance(error, DuologueError) else "channel"
        self.emit_error(ErrorEvent(code=code, message=f"Channel {channel.name}: {error}"))
        self.channel_ended(channel, "error")

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
        if self._stopping is not None and self._stopping.is_set():
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
        self._hooks(name, *args)

    def _hook_failed(self, name: str, error: BaseException) -> None:
        if isinstance(error, OverloadedError):
            self.conductor.measures.dropped("hooks")
        what = "took too long" if isinstance(error, TimeoutError) else f"failed: {error!r}"
        self.emit_error(ErrorEvent(code="hook", message=f"Hook {name} {what}."))

    def _release(self, event: Event, encoded: bytes) -> None:
        """An event is durable: tell the channels. One that fails is not the others' problem."""
        for channel in self._channels:
            try:
                channel.event(event, encoded)
            except Exception:
                logger.debug("%s: channel %s could not take an event", self.id, channel.name, exc_info=True)
                self.conductor.measures.dropped(f"events:{channel.name}")

    def _journal_failed(self, error: DuologueError) -> None:
        logger.warning("%s: the journal failed: %s", self.id, error)
        # What cannot be recorded may not be said: the session ends, and says so directly, since nothing can be journaled.
        for listener in self.conductor.responses.listeners:
            listener.close()
        if isinstance(error, FencedError) and hasattr(self, "toolbench"):
            self.toolbench.executor.fence()
        event = ErrorEvent(code=error.code, message=str(error), fatal=True)
        self._release(event, msgspec.json.encode(event))
        self.end("error", str(error))
