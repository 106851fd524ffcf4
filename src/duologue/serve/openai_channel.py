"""A client of OpenAI Realtime as a channel of a session: its events become inputs, the session's events become the protocol's.

The floor is the session's. Where the client keeps answers to itself (`turn_detection` null, or `create_response` off) a turn
stays open until it asks for one: what it commits meanwhile, or what a pause ends, is a message and transcribed. The wire carries
bursts: audio leaves as fast as it is made; the client plays it, silences itself when the user speaks, and says by
`conversation.item.truncate` how much was heard.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections import deque

import msgspec
from msgspec import UNSET

from ..audio import Resampler, alaw_decode, ulaw_decode
from ..channels.base import Channel, Traits
from ..channels.link import Socket, SocketClosedError
from ..engine.conversation import Item as Entry
from ..errors import DuologueError
from ..events import (
    ErrorEvent,
    Event,
    ImageInput,
    InterruptInput,
    Interruption,
    ResponseFinished,
    ResponseStarted,
    ResponseText,
    SessionEnded,
    SessionStarted,
    TextInput,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    UsageReported,
    UserSpeechStarted,
    UserSpeechStopped,
    UserTranscript,
)
from ..session.definition import TurnTaking
from ..session.session import Session
from ..wire.openai_realtime import (
    RATE,
    Answers,
    AudioAppended,
    AudioCleared,
    AudioCommitted,
    CancelWanted,
    Configured,
    Item,
    ItemGone,
    ItemMade,
    Refusal,
    Request,
    ResponseParams,
    ResponseWanted,
    ServerProtocol,
    Truncated,
    Usage,
)
from ..wire.openai_realtime.config import AudioFormat
from ..wire.openai_realtime.faults import envelope
from .openai_config import turn_taking
from .openai_hearing import Hearing
from .openai_replies import Replies, Reply
from .openai_tools import RemoteTools

logger = logging.getLogger("duologue.serve.openai")

#: messages that wait for a client that does not read; one more ends its call
_QUEUED = 20_000
#: what an agent says of its own accord, which no client of the vendor's expects
_OWN = frozenset({"greeting", "say", "idle", "filler", "farewell"})


class RealtimeChannel(Channel):
    """One client, on one socket.

    Args:
        socket: its WebSocket.
        protocol: its link.
        first: what its first message asked for.
        remote: the tools that it runs itself; None where the agent is served, which has its own.
    """

    name = "openai-realtime"

    def __init__(
        self, socket: Socket, protocol: ServerProtocol, first: list[Request], remote: RemoteTools | None
    ) -> None:
        #: the session, before it starts; and how turns are taken where the client says nothing else
        self.session: Session | None = None
        self.turn_taking = TurnTaking()
        self._socket = socket
        self._protocol = protocol
        self._answers = Answers(protocol)
        self._replies = Replies(self._answers)
        self._first = first
        self._remote = remote
        self._ready = asyncio.Event()
        self._own: Reply | None = None  # what the agent says of its own accord
        self._settled = asyncio.Event()  # set whenever a response may have ended
        self._done = asyncio.Event()
        self._closing = False
        self._speaks = protocol.config.output_modalities == ["audio"]
        self._wanted: deque[ResponseParams] = deque()  # answers asked for that have not begun
        self._asked_turns: set[str] = set()  # turns that the client asked to be answered
        self._early: dict[str, list[tuple[bytes, int]]] = {}  # audio that overtook its response's first event
        self._early_calls: list[ToolStarted] = []  # calls of an answer that waited for its turn to be committed
        self._working: Reply | None = None  # an answer whose tools are out, or have not been spoken of
        self._reported = False
        self._running: set[str] = set()  # the agent's tools
        self._sounding: set[str] = set()  # responses that somebody may be hearing
        self._rate = RATE
        self._hearing = Hearing(protocol, self)
        self._asking = False  # within the step that ends a turn at the client's request
        self._text: tuple[str, str] | None = None  # id and text of a typed message that may become a turn
        self._clearing = False
        self._cancelled = False
        self._decoders: dict[str, Resampler] = {}

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(input_rate=RATE, output_rate=RATE if self._speaks else None, pacing="burst", clears=True)

    @property
    def sounding(self) -> bool:
        """Whether somebody may be hearing the agent."""
        return bool(self._sounding)

    def wake(self) -> None:
        """There may be something to send."""
        self._ready.set()

    def _live(self) -> Session:
        assert self.session is not None
        return self.session

    # ------------------------------------------------------------------ from the session

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""
        protocol = self._protocol
        match event:
            case SessionStarted():
                self._rate = event.input_rate
            case UserSpeechStarted():
                self._hearing.speech_started(event.position * 1000 // self._rate)
            case UserSpeechStopped():
                self._hearing.speech_stopped(event.position * 1000 // self._rate)
            case TurnCommitted():
                self._committed(event)
            case TurnDiscarded():
                self._hearing.discarded()
            case UserTranscript(final=True):
                self._hearing.messages.recognised(event.turn, event.text)
            case Interruption(stage="yield"):
                self._hearing.tell_start()
            case ResponseStarted():
                self._response_started(event)
            case ResponseText():
                if (reply := self._replies.get(event.response)) is not None:
                    self._replies.text(reply, event.text)
            case ResponseFinished():
                self._response_finished(event)
            case ToolStarted():
                if (reply := self._replies.get(event.response)) is not None:
                    self._call(reply, event)
                else:
                    self._early_calls.append(event)
            case ToolFinished() if self._remote is None:
                self._tool_finished(event)
            case UsageReported():
                before = self._replies.usage or Usage()
                given, made = before.input_tokens + event.input_tokens, before.output_tokens + event.output_tokens
                self._replies.usage = Usage(input_tokens=given, output_tokens=made, total_tokens=given + made)
            case ErrorEvent():
                protocol.failed(event.message, code=event.code)
            case SessionEnded():
                protocol.close(1011 if event.reason == "error" else 1000, event.reason)
        self._hearing.settle()
        self._settled.set()
        self._ready.set()

    def _committed(self, event: TurnCommitted) -> None:
        self._finish_work()
        if self._asking:
            self._asked_turns = {event.turn}
        self._hearing.committed(event)

    def _response_started(self, event: ResponseStarted) -> None:
        asked = event.origin == "respond" or event.turn in self._asked_turns
        asked = asked or (event.origin == "tool" and self._remote is not None)
        params = self._wanted.popleft() if asked and self._wanted else ResponseParams()
        before = self._working
        if before is not None and event.origin in ("tool", "filler", "farewell"):
            reply = self._working = self._replies.go_on(before, event.response)
            self._reported = event.origin != "filler"
        else:
            self._finish_work()
            reply = self._replies.begin(event.response, params)
            if event.origin in _OWN:
                self._own = reply
        for pcm, position in self._early.pop(event.response, ()):
            self._replies.audio(reply, pcm, position)
        for call in self._early_calls:
            if call.response == event.response:
                self._call(reply, call)
        self._early_calls.clear()

    def _call(self, reply: Reply, event: ToolStarted) -> None:
        if self._remote is not None:
            arguments = msgspec.json.encode(event.arguments).decode()
            self._replies.call(reply, event.call, event.name, arguments)
            return
        # An agent's tools are its own affair: to the client its answer goes on until it has told what they found.
        self._working, self._reported = reply, False
        self._running.add(event.call)

    def _tool_finished(self, event: ToolFinished) -> None:
        self._running.discard(event.call)
        if event.status == "cancelled" and not self._running:
            self._finish_work()

    def _finish_work(self) -> None:
        """Nothing more is to be told of the agent's tools."""
        reply, self._working = self._working, None
        self._running.clear()
        if reply is not None and self._live().conductor.responses.get(reply.response) is None:
            self._replies.end(reply, "completed")

    def _end(self, reply: Reply) -> None:
        """All of a response has been made. If the agent's tools are out, the client's response stays open for what they find."""
        if reply is not self._working:
            self._replies.end(reply, "completed")
        elif self._reported and not self._running:
            self._working = None
            self._replies.end(reply, "completed")

    def _response_finished(self, event: ResponseFinished) -> None:
        self._sounding.discard(event.response)
        if not self._sounding:
            self._hearing.tell_start()
        if (reply := self._replies.get(event.response)) is None:
            return
        if event.status == "completed":
            self._end(reply)
        elif event.status == "failed":
            self._replies.end(reply, "failed", error=("server_error", event.reason))
        else:
            self._replies.end(reply, "cancelled", "client_cancelled" if self._cancelled else "turn_detected")
        if event.status != "completed" and reply is self._working:
            self._working = None
        self._cancelled = False

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See Channel. Audio does not wait for the journal, and waits here for the event that announces it."""
        self._sounding.add(response)
        reply = self._replies.get(response)
        if reply is None:
            self._early.setdefault(response, []).append((pcm, position))
            return
        self._replies.audio(reply, pcm, position)
        self._ready.set()

    def all_sent(self, response: str) -> None:
        """See Channel. The response is over for the client as soon as it is made, not when it has been heard."""

        def end() -> None:
            if (reply := self._replies.get(response)) is not None:
                self._end(reply)
                self._settled.set()
                self._ready.set()

        # Behind the events of the response that are on their way through the journal.
        self._live().conductor.journal.when_durable(end)

    def clear(self, response: str) -> None:
        """See Channel. The client silences itself at `speech_started`, and its truncation says where it was."""
        self._clearing = True
        self._early.clear()

    # ------------------------------------------------------------------ from the client

    async def _take(self, requests: list[Request]) -> None:
        for request in requests:
            try:
                await self._act(request)
            except DuologueError as error:
                self._protocol.refuse(Refusal(error.code, str(error)))
        self._ready.set()

    async def _act(self, request: Request) -> None:
        match request:
            case AudioAppended():
                if not self._hearing.holds:
                    self._flush_text()
                self._hearing.append(self._decoded(request.audio, request.format))
            case AudioCommitted():
                if not self._hearing.holds:
                    self._flush_text()
                self._hearing.commit(request.item_id)
            case AudioCleared():
                self._hearing.clear()
            case ItemMade():
                self._item(request.item)
            case ItemGone():
                self._forget(request.item_id)
            case Truncated():
                self._truncated(request)
            case ResponseWanted():
                await self._respond(request.params)
            case CancelWanted():
                self._cancel()
            case Configured():
                await self._configured(request)

    def _decoded(self, audio: bytes, format: AudioFormat) -> bytes:
        if format.type == "audio/pcm":
            return audio
        low = ulaw_decode(audio) if format.type == "audio/pcmu" else alaw_decode(audio)
        return self._decoders.setdefault(format.type, Resampler(format.hz, RATE)).feed(low)

    def _item(self, item: Item) -> None:
        """An item of the client's is history; a typed message at the end becomes a turn if an answer to it is asked for."""
        session = self._live()
        self._flush_text()
        conversation = session.conductor.conversation
        assert item.id is not None
        entry: Entry | None = None
        if item.type == "function_call_output":
            if self._remote is not None:
                self._remote.arrived(str(item.call_id), str(item.output))
            return
        if item.type == "function_call":
            try:
                arguments = msgspec.json.decode(item.arguments or "{}", type=dict)
            except msgspec.MsgspecError:
                arguments = {}
            conversation.call(str(item.call_id), str(item.name), arguments)
            return
        for part in item.parts:
            if part.type == "input_audio" and part.audio:
                audio = self._decoded(part.audio, self._protocol.config.audio.input.format)
                self._hearing.message(item.id, audio)
            elif part.type == "input_image" and part.image_url:
                data, mime = _picture(part.image_url)
                self.port.input(ImageInput(data=data, mime=mime))
        text = item.text
        if item.role == "user" and text:
            self._text = (item.id, text)
            return
        if item.role == "assistant" and text:
            entry = Entry(kind="assistant", id=item.id, text=text)
        elif item.role == "system" and text:
            entry = Entry(kind="note", id=item.id, text=text)
        if entry is not None:
            conversation.extend([entry])
            session._connection.item(entry)

    def _flush_text(self) -> None:
        """A typed message that nobody asked to be answered is context."""
        if self._text is not None:
            (id, text), self._text = self._text, None
            entry = Entry(kind="user", id=id, text=text)
            session = self._live()
            session.conductor.conversation.extend([entry])
            session._connection.item(entry)

    def _forget(self, item_id: str) -> None:
        if self._text is not None and self._text[0] == item_id:
            self._text = None
            return
        conversation = self._live().conductor.conversation
        if self._hearing.forget(item_id):
            return
        turn = self._hearing.messages.turn_of(item_id) or item_id
        message = self._answers.message(item_id)
        reply = self._replies.get(message.owner) if message is not None else None
        if reply is not None:
            conversation.remove("assistant", reply.response)
        elif not any(conversation.remove(kind, turn) for kind in ("user", "assistant", "note")):
            logger.debug("an item that no history holds was deleted")

    async def _respond(self, params: ResponseParams) -> None:
        session = self._live()
        self._wanted.append(params)
        arrived, missing = self._remote.release() if self._remote is not None else (False, False)
        floor = session.conductor.floor
        before = floor.steps
        self._asking = True  # a model may answer within the step that ends the turn
        try:
            heard = self._hearing.hear_all()
            if self._text is not None:
                (_, text), self._text = self._text, None
                self.port.input(TextInput(text=text))
            elif (heard or self._hearing.holds) and floor.user_has_floor:
                self._hearing.end_turn()
        finally:
            self._asking = False
        if self._hearing.ended_since(before):
            self._asked_turns = {floor.turn}
            return
        self._hearing.messages.silent()
        if not arrived or missing:
            # All results of a request are answered by the session itself, together.
            await session.respond(params.instructions or "")

    def _cancel(self) -> None:
        current = self._replies.current
        self._cancelled = current is not None
        self.port.input(InterruptInput(reason="client_cancelled"))
        if current is None and self._wanted:
            self._answers.begin(self._wanted.popleft()).end("cancelled", reason="client_cancelled")
        elif current is not None and self._live().conductor.responses.get(current.response) is None:
            self._replies.end(current, "cancelled", "client_cancelled")

    def _truncated(self, request: Truncated) -> None:
        message = self._answers.message(request.item_id)
        reply = self._replies.get(message.owner) if message is not None else None
        if message is None or reply is None or reply.start is None:
            return
        samples = request.audio_end_ms * RATE // 1000
        session = self._live()
        if session.conductor.responses.get(reply.response) is None:
            # It is history already, by our estimate of what was heard. The client knows better.
            conversation = session.conductor.conversation
            conversation.assistant(reply.response, reply.script.heard(samples), complete=False)
            return
        if not self._clearing:
            self.port.input(InterruptInput(reason="the client truncated it"))
        self._cleared(reply, samples)

    def _cleared(self, reply: Reply, samples: int) -> None:
        if self._clearing and reply.start is not None:
            self._clearing = False
            self.port.cleared(reply.start + samples)

    async def _configured(self, request: Configured) -> None:
        """The client changed the session; what the agent decides stays the agent's."""
        patch, session, config = request.patch, self._live(), self._protocol.config
        if patch.audio is not UNSET and patch.audio.input is not UNSET:
            taking = turn_taking(self.turn_taking, config, own=self._remote is None)
            options = msgspec.to_builtins(taking.endpointing), msgspec.to_builtins(taking.interruption)
            session.conductor.fact("tune", *options)
            self._hearing.configured()
        if self._remote is None:
            return
        instructions = config.instructions if patch.instructions is not UNSET else None
        tools = self._remote.tools(config.tools) if patch.tools is not UNSET else None
        voice = None
        if patch.audio is not UNSET and patch.audio.output is not UNSET and patch.audio.output.voice is not UNSET:
            voice = config.voice if config.voice in session.definition.model.capabilities.voices else None
        if (instructions, tools, voice) != (None, None, None):
            await session.update(instructions=instructions, tools=tools, voice=voice)

    # ------------------------------------------------------------------ the socket

    async def run(self) -> None:
        """See Channel."""
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(self._protocol.limits.session_s, self._expire)
        reader = loop.create_task(self._read())
        try:
            await self._write()
        except SocketClosedError:
            self.port.ended("hangup")
        finally:
            expiry.cancel()
            self._hearing.stop_waiting()
            reader.cancel()
            await asyncio.wait({reader})
            self._done.set()

    def _expire(self) -> None:
        self._protocol.expire()
        self._ready.set()

    async def _read(self) -> None:
        try:
            # The first message configured the session before it was opened.
            await self._take([entry for entry in self._first if not isinstance(entry, Configured)])
            while True:
                message = await self._socket.receive()
                await self._settle(message)
                await self._take(self._protocol.receive(message))
        except SocketClosedError:
            self._closing = True
            self.port.ended("hangup")
        finally:
            self._ready.set()

    async def _settle(self, message: str | bytes) -> None:
        """An answer that is asked for while the agent greets waits until the greeting is made: no client expects one."""
        while (
            self._own is not None and self._own is self._replies.current and envelope(message)[0] == "response.create"
        ):
            self._settled.clear()
            await self._settled.wait()

    async def _write(self) -> None:
        protocol = self._protocol
        while True:
            self._ready.clear()
            if protocol.waiting > _QUEUED:
                await self._socket.close(1008, "the client does not read")
                self.port.ended("error")
                return
            while (frame := protocol.next_frame()) is not None:
                await self._socket.send(frame.decode())
            if protocol.close_code is not None:
                await self._socket.close(protocol.close_code, protocol.close_reason[:120])
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


def _picture(url: str) -> tuple[bytes, str]:
    """The bytes of a ``data:`` URL and their type. Raises Refusal for anything else."""
    head, _, data = url.partition(",")
    mime = head.removeprefix("data:").removesuffix(";base64")
    try:
        if not (head.startswith("data:") and head.endswith(";base64")):
            raise ValueError("not a data URL")
        return base64.b64decode(data, validate=True), mime or "image/png"
    except (ValueError, binascii.Error) as error:
        raise DuologueError(f"The picture is no base64 data URL: {error}.") from None
