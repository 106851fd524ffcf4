"""The sessions of one server: opened for clients, found again for a resume, and ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal
from weakref import WeakValueDictionary

import msgspec

from ..agent import Agent, AgentFactory, resolve
from ..channels.base import Channel
from ..channels.link import new_token
from ..channels.websocket import KeptClient, WebSocketChannel
from ..errors import ConfigurationError, OverloadedError, StoreError
from ..events import (
    ErrorEvent,
    Event,
    ResponseFinished,
    ResponseStarted,
    ResponseText,
    SessionEnded,
    TextInput,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    encode,
)
from ..session.definition import CallInfo, Definition
from ..session.journal import decode_record
from ..session.rebuild import Rebuilt, rebuild
from ..session.session import Session
from ..store import Committer
from ..tools.threads import shared_threads
from ..wire.duologue import Hello, Resume, ServerDelivery, ServerProtocol, resume_refused
from .options import ServeOptions

logger = logging.getLogger("duologue.serve")

#: a session that has lost so many owners within a minute is what kills them: it is not had back again
_MOST_LOSSES = 3


class Call:
    """A session that this server runs, and the client channel that can be resumed, if it has one."""

    def __init__(self, session: Session, channel: WebSocketChannel | None = None, *, called: bool = False) -> None:
        self.session = session
        self.channel = channel
        self._called = called
        self.turn = asyncio.Lock()
        self.expiry: asyncio.TimerHandle | None = None

    @property
    def live(self) -> bool:
        """Whether somebody is on the line, or may come back to it."""
        return self._called and not self.session.waiting

    @property
    def busy(self) -> bool:
        """Whether it is live, an invocation of it is answered, or a tool of it runs."""
        return self.live or self.turn.locked() or self.session.busy


class Sessions:
    """All sessions of one server."""

    def __init__(self, agent: Agent | AgentFactory, options: ServeOptions, committer: Committer | None) -> None:
        self._agent = agent
        self._options = options
        self._committer = committer
        self._calls: dict[str, Call] = {}
        #: held by who takes a session over, by its id
        self._taking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._opening = 0
        self.draining = False
        #: what is known of calls that are still to come, by session id; it goes before what a client says of itself
        self.metadata: dict[str, Mapping[str, Any]] = {}
        #: told of each session that has ended
        self.ended: Callable[[Session], object] = lambda session: None

    @property
    def count(self) -> int:
        """Sessions that are open or being opened."""
        return len(self._calls) + self._opening

    @property
    def busy(self) -> bool:
        """Whether a call is open, an invocation is answered or a tool runs: what `/ping` calls HealthyBusy."""
        return self._opening > 0 or any(call.busy for call in self._calls.values())

    def find(self, id: str) -> Call | None:
        """An open session."""
        return self._calls.get(id)

    async def resolve(self, info: CallInfo) -> Agent:
        """The agent for a call. A factory is the user's code: it runs off the media loop."""
        if isinstance(self._agent, Agent):
            return self._agent
        agent, call = self._agent, info
        return await asyncio.wrap_future(shared_threads().loop.submit(lambda: resolve(agent, call)).future)

    async def open(
        self,
        info: CallInfo,
        *channels: Channel,
        text_only: bool = False,
        greet: bool = True,
        define: Callable[[Definition], Definition] = lambda definition: definition,
        prepare: Callable[[Session], None] = lambda session: None,
        tool_runner: Literal["thread", "inline"] = "thread",
        joinable: bool = False,
        past: Rebuilt | None = None,
    ) -> Session:
        """Start a session. Raises OverloadedError when there are too many, and what starting raises.

        `define` makes of the agent what this call is to have; `prepare` is given the session before it starts. `joinable`:
        once everybody has left it may stay for its long-running tools, and `enter` takes the next client in. `past`: where it
        stood under an owner that was lost.
        """
        if self.draining or self.count >= self._options.max_sessions:
            what = "is shutting down" if self.draining else f"has {self.count} sessions already"
            raise OverloadedError(f"This server {what}.", hint="Try again later, or elsewhere.")
        self._opening += 1
        if known := self.metadata.get(info.session or info.headers.get(SESSION_HEADER, "")):
            info = msgspec.structs.replace(info, metadata={**info.metadata, **known})
        try:
            agent = await self.resolve(info)
            session = Session(
                define(agent.definition),
                channels,
                id=info.session or None,
                call=info,
                committer=self._committer,
                text_only=text_only,
                greet=greet,
                tool_runner=tool_runner,
                joinable=joinable,
                past=past,
            )
            prepare(session)
            await session.start()
        finally:
            self._opening -= 1
        channel = next((entry for entry in channels if isinstance(entry, WebSocketChannel)), None)
        call = Call(session, channel, called=bool(channels))
        self._calls[session.id] = call
        assert session._main is not None
        session._main.add_done_callback(lambda _: self._forget(session.id, call))
        return session

    async def enter(self, info: CallInfo, channel: Channel, *, text_only: bool = False) -> Session:
        """Start a session for a client, or take the client into the one of that id that waits for somebody.

        Raises ConfigurationError when somebody is in the session of that id, else as `open` does.
        """
        call = self._calls.get(info.session)
        if call is None:
            return await self.open(info, channel, text_only=text_only, joinable=True)
        if not call.session.waiting:
            raise ConfigurationError(f"Session {info.session} is open already.", hint="Resume it, or use another id.")
        await call.session.join(channel)
        call.channel = channel if isinstance(channel, WebSocketChannel) else None
        return call.session

    def _forget(self, id: str, call: Call) -> None:
        if self._calls.get(id) is call:
            del self._calls[id]
        if call.expiry is not None:
            call.expiry.cancel()
        self.ended(call.session)

    async def open_link(
        self, link: ServerProtocol, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> WebSocketChannel:
        """The channel for a client that has said hello: of a new session, of one that waits for it, or of the one it resumes."""
        hello = link.hello
        assert hello is not None
        if hello.resume is not None:
            call = self._calls.get(hello.resume.session)
            if call is None:
                # One at a time: of two links of a client that come at once the second finds the session.
                async with self._taking.setdefault(hello.resume.session, asyncio.Lock()):
                    call = self._calls.get(hello.resume.session)
                    if call is None:
                        return await self._take_over(hello, hello.resume, headers, query)
            if call.channel is None or call.channel.over:
                raise resume_refused()
            return call.channel
        id = session_id(headers, query)
        agent_rates = hello.input, hello.output
        delivery = ServerDelivery(
            session=id or f"s-{new_token()[:22]}",
            token=new_token(),
            input=agent_rates[0],
            output=agent_rates[1],
            capabilities=hello.capabilities,
            options=self._options.wire,
        )
        channel = WebSocketChannel(delivery, name=hello.client.name or "client")
        channel.metadata = hello.metadata
        info = _info(delivery.session, headers, query, hello.metadata)
        await self.enter(info, channel, text_only=hello.output is None)
        return channel

    async def _take_over(
        self, hello: Hello, resume: Resume, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> WebSocketChannel:
        """Have a session of an owner that was lost back, out of its journal, and with it the client who comes for it.

        Raises ProtocolError (`resume`) unless the journal says that there is such a session and such a client.
        """
        past = await self._past(resume.session)
        if past is None or past.ended or past.losses >= _MOST_LOSSES:
            raise resume_refused()
        clients = {name: KeptClient.read(back.state) for name, back in past.participants.items()}
        name = next((name for name, client in clients.items() if client is not None and client.knows(resume.token)), "")
        kept = clients.get(name)
        if kept is None:
            raise resume_refused()
        delivery = ServerDelivery(
            session=resume.session,
            token=resume.token,
            input=kept.input,
            output=kept.output,
            capabilities=kept.capabilities,
            epoch=past.epoch + 1,
            options=self._options.wire,
        )
        rate = kept.input.rate if kept.input is not None else 0
        delivery.inherit(resume.played, int(past.wanted_ms * rate / 1000), past.participants[name].taken)
        channel = WebSocketChannel(delivery, name=name)
        channel.metadata = kept.metadata
        if resume.events is not None:
            channel.told = resume.events
            for event in past.since(name, resume.events):
                channel.event(event, encode(event))
        info = _info(resume.session, headers, query, kept.metadata)
        await self.open(info, channel, text_only=kept.output is None, joinable=True, past=past)
        logger.info("session %s goes on under owner %d", resume.session, delivery.epoch)
        return channel

    async def _past(self, id: str) -> Rebuilt | None:
        """Where a session stood whose owner was lost; None if there is no journal of it."""
        if self._committer is None:
            return None
        epoch, records = await self._committer.read("local", id)
        if not epoch:
            return None
        try:
            past = await asyncio.to_thread(lambda: rebuild([decode_record(record) for record in records]))
        except msgspec.MsgspecError as error:
            raise StoreError(
                f"The journal of {id} cannot be read: {error}.", hint="Another version may have written it."
            ) from error
        past.epoch = epoch
        return past

    async def turn(self, id: str, prompt: str, *, deliver: Any, headers: Mapping[str, str]) -> None:
        """One text turn in the conversation `id` (made if need be); `deliver(event)` gets what happens until it is answered.

        Raises a typed error for what cannot be answered.
        """
        call = self._calls.get(id)
        if call is None:
            info = CallInfo(session=id, channel="invocation", headers=dict(headers))
            await self.open(info, text_only=True, greet=False)
            call = self._calls[id]
        if call.expiry is not None:
            call.expiry.cancel()
            call.expiry = None
        async with call.turn:
            await _one_turn(call.session, prompt, deliver)
        if not (call.live or call.session.waiting):
            loop = asyncio.get_running_loop()
            call.expiry = loop.call_later(self._options.invocation_idle_s, call.session.end, "idle", "no invocation")

    async def close(self, reason: str = "shutdown", notice_s: float = 0.0) -> None:
        """End all sessions, giving their clients `notice_s` of notice."""
        self.draining = True
        calls = list(self._calls.values())
        for call in calls:
            if call.channel is not None and notice_s:
                call.channel.going_away(notice_s, reason)
        if notice_s and calls:
            await asyncio.sleep(notice_s)
        if calls:
            await asyncio.wait(
                {asyncio.ensure_future(call.session.stop("shutdown", reason)) for call in calls}, timeout=10
            )


def _info(id: str, headers: Mapping[str, str], query: Mapping[str, str], metadata: Mapping[str, Any]) -> CallInfo:
    """What is known of a call over a WebSocket; `metadata` is what the client says of itself."""
    return CallInfo(
        session=id,
        channel="websocket",
        language=str(metadata.get("language", "")),
        headers=dict(headers),
        query=dict(query),
        metadata=metadata,
    )


async def _one_turn(session: Session, prompt: str, deliver: Any) -> None:
    """Send a typed turn and deliver events until it and the tools it started are answered."""
    program = session._program
    assert program is not None
    events = program.subscribe(past=False)
    with contextlib.ExitStack() as after:
        after.callback(program.unsubscribe, events)
        after.enter_context(session.attended())
        telling = session.has_news  # of a tool that was done while nobody was there
        await session.send(TextInput(text=prompt))
        turn = ""
        tools: set[str] = set()
        responses: set[str] = set()
        answered = False
        async for event in events:
            match event:
                case TurnCommitted() if not turn:
                    turn = event.turn
                case ResponseStarted() if event.turn == turn or (
                    turn and event.origin in ("tool", "farewell", "filler")
                ):
                    responses.add(event.response)
                    if telling and event.origin in ("tool", "farewell"):
                        telling = answered = False
                case ResponseText(response=response) | ResponseFinished(response=response) if response not in responses:
                    continue  # of something else that is being said
                case ResponseFinished():
                    answered = bool(event.text) or event.status != "completed"
                case ToolStarted():
                    tools.add(event.call)
                case ToolFinished():
                    telling = telling or event.call not in tools
                    tools.discard(event.call)
                    answered = False
            if not turn:
                continue
            await deliver(event)
            over = isinstance(event, SessionEnded) or (isinstance(event, ErrorEvent) and event.fatal)
            if over or (answered and not tools and not telling):
                return


class Answer(msgspec.Struct):
    """What an invocation answers in JSON."""

    response: str = ""
    session: str = ""
    tools: list[dict[str, Any]] = []

    def take(self, event: Event) -> None:
        """Gather the answer from events."""
        if isinstance(event, ResponseText):
            self.response += event.text
        elif isinstance(event, ToolFinished):
            self.tools.append(
                {"name": event.name, "status": event.status, "output": event.output, "error": event.error}
            )
        elif isinstance(event, ResponseFinished) and self.response and not self.response.endswith(" "):
            self.response += " "


SESSION_HEADER = "x-amzn-bedrock-agentcore-runtime-session-id"


def session_id(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """The session that a request names, in its header or query; "" if none. Raises ConfigurationError if they differ."""
    header = headers.get(SESSION_HEADER, "")
    wanted = next((value for name, value in query.items() if name.lower() == SESSION_HEADER), "")
    if header and wanted and header != wanted:
        raise ConfigurationError("Header and query name different sessions.", hint="Send one of them.")
    id = header or wanted
    if len(id) > 256 or not id.isascii() or not all(c.isalnum() or c in "-_" for c in id):
        raise ConfigurationError("This is no session id.", hint="Use up to 256 letters, digits, - and _.")
    return id
