"""A client of Gemini Live as a channel of a session: its messages become inputs, the session's events become the protocol's.

The floor is the session's; where the client signals activity itself, its signals end turns and nothing else does. The wire
carries bursts: audio leaves as fast as it is made, and the client drops what it has not played when told of an interruption.
How much it had played it has no way to say: what counts as heard is our estimate, and a turn is complete when that is at its end.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable

import msgspec

from ..audio import Resampler
from ..channels.base import Channel, Port, Traits
from ..channels.link import Socket, SocketClosedError
from ..engine.conversation import Item
from ..engine.floor import State
from ..errors import DuologueError
from ..events import (
    ActivityInput,
    Event,
    ImageInput,
    InterruptInput,
    ResponseFinished,
    ResponseStarted,
    ResponseText,
    SessionEnded,
    SessionGoingAway,
    SessionStarted,
    TextInput,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    UsageReported,
    UserTranscript,
)
from ..session.session import Session
from ..wire.gemini_live import OUTPUT_RATE, ServerProtocol, faults
from ..wire.gemini_live import messages as g
from ..wire.gemini_live import server as s
from .gemini_config import tools_of
from .gemini_handles import Handles
from .openai_tools import RemoteTools

logger = logging.getLogger("duologue.serve.gemini")

#: Hz of the user's track; what a client sends at another rate is brought to it
INPUT_RATE = 16_000
#: messages that wait for a client that does not read; one more ends its call
_QUEUED = 20_000
#: handles of one link that are good at a time: what the client resumes from may be a little older than what it was sent last
_HANDLES = 3


#: responses that are over, of which something may still come from behind
_REMEMBERED = 64


class _Reply:
    """A response of the session. What cannot be sent yet, because another is on the wire, waits in `held`."""

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] = []
        self.made = False  # nothing more comes of it


class GeminiChannel(Channel):
    """One client, on one socket.

    Args:
        socket: its WebSocket.
        protocol: its link, which has seen the setup.
        remote: the tools that it runs itself; None where the agent is served, which has its own.
        handles: of the server; `principal`: whose this link's are.
        resumed: the conversation that it goes on with.
    """

    name = "gemini-live"

    def __init__(
        self,
        socket: Socket,
        protocol: ServerProtocol,
        remote: RemoteTools | None,
        handles: Handles,
        *,
        principal: str = "",
        resumed: bytes | None = None,
    ) -> None:
        assert protocol.setup is not None
        #: the session, before it starts
        self.session: Session | None = None
        self._socket = socket
        self._protocol = protocol
        self._setup = protocol.setup
        self._remote = remote
        self._handles = handles
        self._principal = principal
        self._resumed = resumed
        self._given: deque[str] = deque()
        self._ready = asyncio.Event()
        self._done = asyncio.Event()
        self._closing = False
        self._timers: list[asyncio.TimerHandle] = []
        self._resampler: tuple[int, Resampler] | None = None
        self._typed = ""  # text of the activity that is open
        self._told = ("", "")  # the turn whose words were sent last, and these
        self._writing = False
        self._written: dict[str, str] = {}  # turns that were typed, and what was: that is not transcribed
        self._replies: OrderedDict[str, _Reply] = OrderedDict()
        self._wire = ""  # the response that the turn on the wire belongs to
        self._calling: set[str] = set()  # responses that called functions
        self._waits: set[str] = set()  # those that go on with what the functions return
        self._over: deque[str] = deque(maxlen=_REMEMBERED)
        self._calls: list[g.FunctionCall] = []
        self._input_tokens = self._output_tokens = 0

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(input_rate=INPUT_RATE, output_rate=OUTPUT_RATE if self._setup.speaks else None, pacing="burst")

    async def start(self, port: Port) -> None:
        """See Channel. A session that is resumed has its conversation before its model is opened."""
        await super().start(port)
        if self._resumed is not None:
            self._live().conductor.conversation.load(_renamed(self._resumed))

    def _live(self) -> Session:
        assert self.session is not None
        return self.session

    # ------------------------------------------------------------------ from the session

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""
        protocol = self._protocol
        match event:
            case SessionStarted():
                protocol.accept(event.session)
                self._give_handle()
                self._advance()
            case UserTranscript(final=True) if not self._setup.automatic or event.turn == self._told[0]:
                self._words(event.turn, event.text)
            case TurnCommitted():
                self._words(event.turn, event.text, finished=True)
            case TurnDiscarded():
                self._told = ("", "")
            case ResponseStarted():
                self._reply(event.response)
            case ResponseText():
                self._do(event.response, lambda: protocol.said(event.text))
            case ToolStarted():
                self._calling.add(event.response)
                if self._remote is not None:
                    self._tool_started(event)
            case ToolFinished(status="cancelled" | "timeout"):
                protocol.withdraw([event.call])
            case ResponseFinished():
                self._finished(event)
            case UsageReported():
                self._input_tokens += event.input_tokens
                self._output_tokens += event.output_tokens
            case SessionGoingAway():
                protocol.go_away(event.in_s)
            case SessionEnded():
                self._ended(event)
        self._ready.set()

    def _words(self, turn: str, text: str, *, finished: bool = False) -> None:
        """Send what was recognised since the last time; what was sent cannot be taken back."""
        if typed := self._written.get(turn, ""):
            # The user may go on by voice with what was typed, and a model may recognise that alone.
            text = text.removeprefix(typed)
        before = self._told[1] if self._told[0] == turn else ""
        if self._writing or (typed and not text) or not text.startswith(before):
            return
        self._protocol.heard(text[len(before) :], finished=finished)
        self._told = (turn, text)

    def _reply(self, response: str) -> None:
        if response not in self._over:
            self._replies.setdefault(response, _Reply())

    def _do(self, response: str, step: Callable[[], None]) -> None:
        """Send something of a response, in its turn."""
        self._reply(response)
        reply = self._replies.get(response)
        if reply is not None and not reply.made:
            reply.held.append(step)
            self._advance()

    def _advance(self) -> None:
        """Send what may be sent: all of the first reply, and of the next where that is made."""
        while self._replies and self._protocol.state != "setup":
            response, reply = next(iter(self._replies.items()))
            self._send(response, reply)
            if not reply.made:
                return
            del self._replies[response]

    def _send(self, response: str, reply: _Reply) -> None:
        held, reply.held = reply.held, []
        if held and self._wire != response:
            if self._wire and self._protocol.turn == "generated":
                self._turn_complete()  # the one before is still being played; this one is a turn of its own
            self._wire = response
        for step in held:
            step()

    def _tool_started(self, event: ToolStarted) -> None:
        if event.response in self._over:
            self._live().toolbench.withdraw([event.call])  # it was interrupted before the client heard of it
            return
        if event.name not in self._protocol.background:
            self._waits.add(event.response)
        call = g.FunctionCall(id=event.call, name=event.name, args=dict(event.arguments))
        self._do(event.response, lambda: self._call(call))

    def _call(self, call: g.FunctionCall) -> None:
        """Calls of one answer go out together."""
        if not self._calls:
            asyncio.get_running_loop().call_soon(self._send_calls)
        self._calls.append(call)

    def _send_calls(self) -> None:
        calls, self._calls = self._calls, []
        if calls:
            self._protocol.call(calls)
            if self._protocol.blocking:
                self._protocol.resumption("")  # not in the middle of a call
            self._ready.set()

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See Channel. Audio does not wait for the journal."""
        self._do(response, lambda: self._protocol.audio(pcm))
        self._ready.set()

    def all_sent(self, response: str) -> None:
        """See Channel."""

        def end() -> None:
            if response not in self._calling:
                self._do(response, self._protocol.generated)
            if (reply := self._replies.get(response)) is not None:
                reply.made = True
            self._advance()
            self._ready.set()

        # Behind the events of the response that are on their way through the journal.
        self._live().conductor.journal.when_durable(end)

    def clear(self, response: str) -> None:
        """See Channel. The client drops what it has not played; a turn that was interrupted is over."""
        self._interrupt()
        self._ready.set()

    def _interrupt(self) -> None:
        self._send_calls()
        unanswered = self._protocol.blocking
        if not self._protocol.interrupted():
            return
        self._over.extend([*self._replies, self._wire])
        self._replies.clear()
        self._wire = ""
        self._turn_complete()
        if self._remote is not None and unanswered:
            self._live().toolbench.withdraw(unanswered)  # nobody will answer them

    def _finished(self, event: ResponseFinished) -> None:
        response = event.response
        calls = response in self._calling
        waits = response in self._waits
        self._calling.discard(response)
        self._waits.discard(response)
        if response in self._over:
            return
        if (reply := self._replies.get(response)) is not None:
            reply.made = True
            if event.status != "completed":
                reply.held.clear()
            if response == next(iter(self._replies)):  # its own end comes before what waits behind it
                self._send(response, reply)
                del self._replies[response]
        self._over.append(response)
        if self._wire == response:
            self._wire = ""
            if event.status in ("cancelled", "interrupted"):
                self._protocol.interrupted()  # what was sent of it is not to be heard
            self._send_calls()
            if not (waits and event.status == "completed"):
                self._turn_complete()
        elif reply is not None and not calls and not self._wire and event.status != "cancelled":
            self._turn_complete()  # an answer with nothing in it; the client waits for its end all the same
        self._advance()

    def _turn_complete(self) -> None:
        given, made = self._input_tokens, self._output_tokens
        self._input_tokens = self._output_tokens = 0
        usage = None
        if given or made:
            usage = g.UsageMetadata(prompt_token_count=given, response_token_count=made, total_token_count=given + made)
        self._protocol.turn_complete(usage=usage)
        self._give_handle()

    def _give_handle(self) -> None:
        """From here the session can be resumed."""
        if self._setup.session_resumption is None:
            return
        if self._protocol.calls:
            self._protocol.resumption("")  # not in the middle of a call
            return
        conversation = self._live().conductor.conversation.dump()
        handle = self._handles.give(conversation, self._principal, asyncio.get_running_loop().time())
        self._given.append(handle)
        if len(self._given) > _HANDLES:
            self._handles.drop(self._given.popleft())
        self._protocol.resumption(handle)

    def _ended(self, event: SessionEnded) -> None:
        if event.reason == "error":
            self._protocol.close(faults.INTERNAL, event.detail or "Internal error encountered.")
        elif event.reason == "limit":
            self._protocol.close(faults.INTERNAL, faults.EXPIRED)
        elif event.reason == "shutdown":
            self._protocol.close(1001, "The server is shutting down.")

    # ------------------------------------------------------------------ from the client

    async def _take(self, requests: list[s.Request]) -> None:
        for request in requests:
            try:
                await self._act(request)
            except DuologueError as error:
                # There is no message for it: what cannot be taken is left out, and the call goes on.
                logger.debug("an input was refused: %s", error.code)
        self._ready.set()

    async def _act(self, request: s.Request) -> None:
        match request:
            case s.Heard():
                if self._setup.automatic or self._protocol.activity:
                    self._heard(request)
            case s.Typed():
                if self._protocol.activity:
                    self._typed = f"{self._typed} {request.text}".strip()
                else:
                    self._write_turn(request.text)
            case s.Seen():
                self.port.input(ImageInput(data=request.data, mime=request.mime))
            case s.ActivityStarted():
                self._typed = ""
                if self._setup.interrupts:
                    self.port.input(InterruptInput(reason="activityStart"))
                    self._interrupt()  # what is on the wire, audible or not
            case s.ActivityEnded():
                self._activity_ended()
            case s.StreamEnded():
                self.port.input(ActivityInput(kind="end"))
            case s.Remembered():
                for turn in request.turns:
                    self._remember(turn)
            case s.Asked():
                await self._asked(request.turns)
            case s.Answered() if self._remote is not None:
                if any(response.scheduling == "INTERRUPT" for response in request.responses):
                    self.port.input(InterruptInput(reason="a function's result"))
                for response in request.responses:
                    if not response.will_continue:
                        self._remote.arrived(response.id, _output(response))
                self._remote.release()
            case s.Updated() if self._remote is not None:
                await self._updated(request.update)

    def _heard(self, heard: s.Heard) -> None:
        pcm = heard.pcm
        if heard.rate != INPUT_RATE:
            if self._resampler is None or self._resampler[0] != heard.rate:
                self._resampler = heard.rate, Resampler(heard.rate, INPUT_RATE)
            pcm = self._resampler[1].feed(pcm)
        if pcm:
            self.port.audio(pcm)

    def _write_turn(self, text: str) -> bool:
        """A typed turn. False if there is nothing in it."""
        if not text.strip():
            return False
        self._writing = True  # where nothing is journaled the events come at once
        try:
            self.port.input(TextInput(text=text))
        finally:
            self._writing = False
        self._written[self._live().conductor.floor.turn] = text.strip()
        if len(self._written) > _REMEMBERED:
            del self._written[next(iter(self._written))]
        return True

    def _activity_ended(self) -> None:
        floor = self._live().conductor.floor
        typed, self._typed = self._typed, ""
        if self._write_turn(typed):
            return
        self.port.input(ActivityInput(kind="end"))
        if floor.state is State.IDLE:
            self._turn_complete()  # nobody said anything in it; the client waits for the end of a turn all the same

    async def _asked(self, turns: tuple[g.Content, ...]) -> None:
        """Turns, and an answer to the last of them."""
        *before, last = turns or (g.Content(),)
        for turn in before:
            self._remember(turn)
        if last.role == "model":
            self._remember(last)
        elif last.parts:
            for part in last.parts:
                if part.inline_data is not None and part.inline_data.mime_type.startswith("image/"):
                    self.port.input(ImageInput(data=part.inline_data.data, mime=part.inline_data.mime_type))
            if self._write_turn(last.text):
                return
        self.port.input(InterruptInput(reason="clientContent"))
        await self._live().respond("")

    def _remember(self, turn: g.Content) -> None:
        session = self._live()
        kind = "assistant" if turn.role == "model" else "user"
        conversation = session.conductor.conversation
        for part in turn.parts:
            id = f"given-{len(conversation.items)}"
            item: Item | None = None
            blob = part.inline_data
            if part.text and not part.thought:
                item = Item(kind=kind, id=id, text=part.text)  # type: ignore[arg-type]
            elif blob is not None and blob.mime_type.startswith("image/") and kind == "user":
                item = Item(kind="user", id=id, image=blob.data, mime=blob.mime_type)
            elif (called := part.function_call) is not None:
                conversation.call(called.id or id, called.name, called.args or {})
            elif (answered := part.function_response) is not None:
                conversation.result(answered.id or id, answered.name, _output(answered))
            if item is not None:
                conversation.extend([item])
                session._connection.item(item)

    async def _updated(self, update: g.ContextUpdate) -> None:
        assert self._remote is not None
        instructions = update.system_instruction.text if update.system_instruction is not None else None
        tools = None
        if update.tools is not None:
            tools = self._remote.tools(tools_of(g.functions_of(update.tools.tools)))
        await self._live().update(instructions=instructions, tools=tools)

    # ------------------------------------------------------------------ the socket

    async def run(self) -> None:
        """See Channel."""
        loop = asyncio.get_running_loop()
        limits = self._protocol.limits
        self._timers = [
            loop.call_later(max(0.0, limits.connection_s - limits.notice_s), self._go_away),
            loop.call_later(limits.connection_s, self._expire),
        ]
        reader = loop.create_task(self._read())
        try:
            await self._write()
        except SocketClosedError:
            self.port.ended("hangup")
        finally:
            for timer in self._timers:
                timer.cancel()
            reader.cancel()
            await asyncio.wait({reader})
            self._done.set()

    def _go_away(self) -> None:
        limits = self._protocol.limits
        self._protocol.go_away(min(limits.notice_s, limits.connection_s))
        self._ready.set()

    def _expire(self) -> None:
        self._protocol.close(faults.INTERNAL, faults.EXPIRED)
        self._ready.set()

    async def _read(self) -> None:
        try:
            while True:
                await self._take(self._protocol.receive(await self._socket.receive()))
        except SocketClosedError:
            self._closing = True
            self.port.ended("hangup")
        finally:
            self._ready.set()

    async def _write(self) -> None:
        protocol = self._protocol
        while True:
            self._ready.clear()
            if protocol.waiting > _QUEUED:
                await self._socket.close(faults.POLICY, "The client does not read.")
                self.port.ended("error")
                return
            while (frame := protocol.next_frame()) is not None:
                await self._socket.send(frame)
            if protocol.close_code is not None:
                await self._socket.close(protocol.close_code, protocol.close_reason)
                self.port.ended("hangup")
                return
            if self._closing:
                await self._socket.close(1000)
                return
            await self._ready.wait()

    async def close(self, reason: str) -> None:
        """See Channel."""
        self._closing = True
        self._ready.set()
        await self._done.wait()


def _renamed(conversation: bytes) -> bytes:
    """A conversation whose entries have ids that those to come will not have: a session numbers its turns from one."""
    state = msgspec.json.decode(conversation)
    for number, item in enumerate(state["items"]):
        if item["kind"] in ("user", "assistant", "note"):
            item["id"] = f"resumed-{number}"
    return msgspec.json.encode(state)


def _output(response: g.FunctionResponse) -> str:
    """A function's result as text: of `output` or `error` where there is nothing else, as google-genai wraps them."""
    value: object = response.response
    if isinstance(value, dict) and len(value) == 1:
        value = value.get("output", value.get("result", value.get("error", value)))
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
