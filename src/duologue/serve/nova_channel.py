"""A client of Nova Sonic as a channel of a session: its events become inputs, the session's events become the protocol's.

The floor is the session's. The wire carries bursts: audio leaves as fast as it is made, each sentence behind its text, and the
client drops what it has not played when it is told of an interruption. How much it had played it has no way to say: what
counts as heard is our estimate.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Protocol

import msgspec

from ..audio import Resampler
from ..channels.base import Channel, Traits
from ..engine.conversation import Item
from ..errors import DuologueError
from ..events import (
    Event,
    Interruption,
    ResponseFinished,
    ResponseStarted,
    ResponseText,
    SessionEnded,
    SessionStarted,
    TextInput,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    UsageReported,
    UserSpeechStarted,
    UserSpeechStopped,
)
from ..session.session import Session
from ..wire.nova_sonic import ServerProtocol, StreamException
from ..wire.nova_sonic import sequence as s
from ..wire.nova_sonic.faults import TIMED_OUT
from .openai_tools import RemoteTools

logger = logging.getLogger("duologue.serve.nova")

#: events that wait for a client that does not read; one more ends its stream
_QUEUED = 20_000
#: Hz of the user's track; what a client sends at another rate is brought to it
INPUT_RATE = 16_000


class PeerGoneError(Exception):
    """The client is gone: nothing can be sent to it."""


class Peer(Protocol):
    """One client's stream: JSON texts of events both ways."""

    async def receive(self) -> bytes | None:
        """The next event; None when the client has ended its side. Raises StreamException for what is none, PeerGoneError."""

    async def send(self, event: bytes) -> None:
        """Send an event; waits while the client does not read. Raises PeerGoneError."""

    async def fail(self, exception: StreamException) -> None:
        """End the stream with an exception. Raises nothing."""

    async def finish(self) -> None:
        """End the stream. Raises nothing."""


class _Reply:
    """A response of the session on its way out: its sentences, and audio that waits for the text it belongs to."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.told = 0  # texts that were sent
        self.audio: deque[tuple[int, bytes]] = deque()  # texts that must have come before it; PCM


class NovaChannel(Channel):
    """One client, on one stream.

    Args:
        peer: its stream.
        protocol: which has seen its first events.
        first: what those amount to.
        remote: the tools that it runs itself; None where the agent is served, which has its own.
    """

    name = "nova-sonic"

    def __init__(self, peer: Peer, protocol: ServerProtocol, first: list[s.Taken], remote: RemoteTools | None) -> None:
        #: the session, before it starts
        self.session: Session | None = None
        self._peer = peer
        self._protocol = protocol
        self._first = first
        self._remote = remote
        self._ready = asyncio.Event()
        self._done = asyncio.Event()
        self._closing = False
        self._failure: StreamException | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rate = INPUT_RATE
        self._resampler: Resampler | None = None
        self._waiting: deque[bytes] = deque()
        self._replies: dict[str, _Reply] = {}
        self._sounding: set[str] = set()  # responses that somebody may be hearing
        self._started: float | None = None  # speech over the agent, not told yet
        self._stopped: float | None = None  # its end, not told before the turn is over
        self._told = False  # whether the client knows that the user speaks

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(input_rate=INPUT_RATE, output_rate=self._protocol.output_rate, pacing="burst")

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
                self._speech_started(event.position * 1000 / self._rate)
            case UserSpeechStopped():
                self._stopped = event.position * 1000 / self._rate
            case TurnCommitted():
                self._tell_start()
                self._tell_stop()
                protocol.user_said(event.text)
            case TurnDiscarded():
                self._started = None
                self._tell_stop()
            case Interruption(stage="yield"):
                self._tell_start()
            case ResponseStarted():
                self._reply(event.response)
            case ResponseText():
                reply = self._reply(event.response)
                reply.texts.append(event.text)
                self._flush(reply)
            case ToolStarted() if self._remote is not None:
                self._drain(event.response)
                protocol.tool_use(event.call, event.name, msgspec.json.encode(event.arguments).decode())
            case ResponseFinished():
                self._finished(event)
            case UsageReported():
                protocol.usage(event.input_tokens, event.output_tokens)
            case SessionEnded():
                self._ended(event)
        self._flow()

    def _reply(self, response: str) -> _Reply:
        return self._replies.setdefault(response, _Reply())

    def _speech_started(self, ms: float) -> None:
        self._stopped = None
        if self._told:
            return  # a pause inside the turn: the client has been told once
        self._started = ms
        if not self._sounding:
            self._tell_start()

    def _tell_start(self) -> None:
        """Clients silence themselves at this: over the agent it is told only once the floor is the user's."""
        if self._started is not None:
            self._protocol.user_started(self._started, asyncio.get_running_loop().time())
            self._told = True
            self._started = None

    def _tell_stop(self) -> None:
        if self._told:
            heard = float(self._protocol.sequence.heard_ms)
            self._protocol.user_stopped(heard if self._stopped is None else self._stopped, heard)
        self._told = False
        self._started = self._stopped = None

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See Channel. Audio does not wait for the journal; here it waits for the text that it speaks."""
        self._sounding.add(response)
        live = self._live().conductor.responses.get(response)
        reply = self._reply(response)
        pieces = live.script.pieces if live is not None else []
        starts = [piece.start * self._protocol.output_rate // live.rate - offset for piece in pieces] if live else []
        at, end = 0, len(pcm) // 2
        while at < end:  # a frame may hold the end of one sentence and the beginning of the next
            before = sum(start <= at for start in starts)
            upto = min([start for start in starts if at < start < end], default=end)
            reply.audio.append((before, pcm[at * 2 : upto * 2]))
            at = upto
        self._flush(reply)
        self._flow()

    def _flush(self, reply: _Reply) -> None:
        """Send what is complete: a sentence's text, then its audio."""
        while reply.audio and reply.audio[0][0] <= len(reply.texts):
            before, pcm = reply.audio.popleft()
            self._plan(reply, before)
            self._protocol.audio(pcm)

    def _plan(self, reply: _Reply, upto: int) -> None:
        text = "".join(reply.texts[reply.told : upto]).strip()
        reply.told = max(reply.told, upto)
        if text:
            self._protocol.plan(text)

    def _drain(self, response: str) -> None:
        """Send all that there is of a response: no more texts come before it."""
        reply = self._replies.get(response)
        if reply is None:
            return
        while reply.audio:
            before, pcm = reply.audio.popleft()
            self._plan(reply, min(before, len(reply.texts)))
            self._protocol.audio(pcm)
        self._plan(reply, len(reply.texts))

    def all_sent(self, response: str) -> None:
        """See Channel. The turn is over for the client as soon as it is made, not when it has been heard."""

        def end() -> None:
            if response in self._replies:
                self._drain(response)
                self._protocol.audio_end("END_TURN")
                del self._replies[response]
                self._flow()

        # Behind the events of the response that are on their way through the journal.
        self._live().conductor.journal.when_durable(end)

    def clear(self, response: str) -> None:
        """See Channel. The client drops what it has not played."""
        self._tell_start()
        self._replies.clear()
        self._protocol.interrupted()
        self._flow()

    def _finished(self, event: ResponseFinished) -> None:
        self._sounding.discard(event.response)
        if not self._sounding:
            self._tell_start()
        if event.status != "completed":
            self._replies.pop(event.response, None)
        self._protocol.spoken(event.heard)

    def _ended(self, event: SessionEnded) -> None:
        if event.reason == "error":
            self._fail(StreamException("modelStreamErrorException", event.detail or "The model failed."))
        elif event.reason == "limit":
            self._fail(StreamException("modelTimeoutException", TIMED_OUT))

    # ------------------------------------------------------------------ from the client

    def _act(self, taken: s.Taken) -> None:
        match taken:
            case s.Heard():
                pcm = self._resampler.feed(taken.pcm) if self._resampler is not None else taken.pcm
                if pcm:
                    self.port.audio(pcm)
            case s.AudioOpened():
                if taken.rate != INPUT_RATE:
                    self._resampler = Resampler(taken.rate, INPUT_RATE)
            case s.Typed(answered=True):
                self.port.input(TextInput(text=taken.text))
            case s.Typed():
                self._remember("user", taken.text)  # too little was heard for an answer
            case s.Remembered():
                self._remember("assistant" if taken.role == "ASSISTANT" else "user", taken.text)
            case s.Answered() if self._remote is not None:
                self._remote.arrived(taken.tool_use_id, taken.content)
                self._remote.release()
            case s.SessionClosed():
                self.port.ended("hangup")

    def _remember(self, kind: str, text: str) -> None:
        session = self._live()
        if text.strip():
            item = Item(kind="assistant" if kind == "assistant" else "user", id=f"given-{self._given()}", text=text)
            session.conductor.conversation.extend([item])
            session._connection.item(item)

    def _given(self) -> int:
        return sum(item.id.startswith("given-") for item in self._live().conductor.conversation.items)

    # ------------------------------------------------------------------ the stream

    def _flow(self) -> None:
        self._waiting.extend(self._protocol.take())
        if len(self._waiting) > _QUEUED:
            self._waiting.clear()
            self._fail(StreamException("internalServerException", "The client does not read."))
        self._ready.set()

    def _fail(self, failure: StreamException) -> None:
        """The stream ends with an exception; what waits goes first."""
        if self._failure is None:
            self._failure = failure
            self._ready.set()

    def _watch(self) -> None:
        """Look after the limits. Each frame of audio moves a deadline, so it is looked at again when the old one comes."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        try:
            if now >= self._protocol.next_deadline():
                self._protocol.wake(now)
        except StreamException as failure:
            self._fail(failure)
            return
        self._timer = loop.call_at(max(self._protocol.next_deadline(), now + 0.01), self._watch)

    async def run(self) -> None:
        """See Channel."""
        first, self._first = self._first, []
        reader: asyncio.Task[None] | None = None
        self._watch()
        try:
            for taken in first:
                self._act(taken)
            reader = asyncio.get_running_loop().create_task(self._read())
            await self._write()
        except PeerGoneError:
            self.port.ended("hangup")
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if reader is not None:
                reader.cancel()
                await asyncio.wait({reader})
            self._done.set()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while (payload := await self._peer.receive()) is not None:
                for taken in self._protocol.receive(payload, loop.time()):
                    try:
                        self._act(taken)
                    except DuologueError as error:
                        logger.debug("an input was refused: %s", error.code)
                self._flow()
        except StreamException as failure:
            self._fail(failure)
        except PeerGoneError:
            pass
        self.port.ended("hangup")

    async def _write(self) -> None:
        while True:
            self._ready.clear()
            while self._waiting:
                await self._peer.send(self._waiting.popleft())
            if self._failure is not None:
                await self._peer.fail(self._failure)
                self.port.ended("error")
                return
            if self._closing:
                await self._peer.finish()
                return
            await self._ready.wait()

    async def close(self, reason: str) -> None:
        """See Channel."""
        self._protocol.complete()
        self._flow()
        self._closing = True
        self._ready.set()
        await self._done.wait()
