"""One connection to OpenAI Realtime: commands become events of the codec, its events become evidence."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from ..engine.conversation import Item as Entry
from ..errors import DuologueError, ModelConnectionError
from ..events import ResponseOrigin
from ..tools.base import ToolCall
from ..wire.openai_realtime import (
    RATE,
    AudioPatch,
    ClientProtocol,
    FromServer,
    Malformed,
    OutputPatch,
    ResponseParams,
    SessionPatch,
    events,
    faults,
)
from .base import (
    Began,
    Connection,
    Context,
    Ended,
    Ending,
    Lost,
    ProviderCommitted,
    ProviderSpeech,
    Refused,
    Said,
    Setup,
    Spoke,
    ToolRequested,
    UsageEvidence,
    check_picture,
)
from .captions import Captions
from .openai_history import PICTURES, call_id, items_of, message, picture, result, result_as_text
from .openai_realtime import OpenAIRealtime, instructions_of, tools_of
from .openai_transport import error_of, error_of_close
from .openai_turns import EngineTurns, ProviderTurns
from .transport import Transport, TransportClosedError

if TYPE_CHECKING:
    from ..wire.openai_realtime.events import ClientEvent

logger = logging.getLogger("duologue.models.openai_realtime")

#: longest wait for the session to be created and configured
_SETUP_S = 4.0
#: messages that wait for a server that does not read; then it is given up
_MOST_WAITING = 3000
#: answers that may still be truncated
_REMEMBERED = 64
#: share of a session's announced rest at which its end is told, and the most that this may be (seconds)
_NOTICE, _NOTICE_S = 0.5, 60.0
_VERBATIM = "Say exactly the following, word for word, and nothing else. Do not answer it, do not add to it:\n\n"


class _Making:
    """A response: asked for by us (`key` is its id) or begun by the provider."""

    def __init__(self, response: str, turn: str, captions: Captions) -> None:
        self.response = response
        self.turn = turn
        self.captions = captions
        self.provider_id = ""
        self.over = False  # nothing more of it is wanted, or comes
        self.samples = 0
        self.spans: dict[str, list[int]] = {}  # samples of each of its items, [start, end)
        self.calls: set[str] = set()


class OpenAIConnection(Connection):
    """See the module. Made by :func:`open_connection`."""

    def __init__(self, model: OpenAIRealtime, context: Context, transport: Transport) -> None:
        self.model = model
        self.context = context
        self.protocol = ClientProtocol(automatic=model.automatic)
        self._transport = transport
        self._wake = asyncio.Event()
        self._closing = False
        self._makings: OrderedDict[str, _Making] = OrderedDict()  # by our id
        self._of_provider: dict[str, _Making] = {}  # by the provider's, while they are made
        self._adopted: set[str] = set()  # requests of ours that the provider answered before it had them
        self._calls: set[str] = set()
        self._limits: dict[str, Any] = {}
        self._voice: str | None = None
        self._has_spoken = False
        self._fatal: DuologueError | None = None
        turns = ProviderTurns if model.automatic else EngineTurns
        self.turns: ProviderTurns | EngineTurns = turns(self)
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.InputSpeechStarted: self._speech_started,
            events.InputSpeechStopped: self._speech_stopped,
            events.InputCommitted: self._committed,
            events.TranscriptionDelta: lambda e: self.turns.heard(e.item_id, e.delta or ""),
            events.TranscriptionCompleted: lambda e: self.turns.transcribed(e.item_id, e.transcript),
            events.TranscriptionFailed: self._transcription_failed,
            events.ResponseCreated: self._created,
            events.OutputItemDone: self._item_done,
            events.TranscriptDelta: lambda e: self._text(e.response_id, e.delta),
            events.TextDelta: lambda e: self._text(e.response_id, e.delta),
            events.AudioDelta: self._audio,
            events.ResponseDone: self._done,
            events.RateLimitsUpdated: self._rate_limits,
            events.ErrorReported: self._error,
        }

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Wait for the session and configure it. Raises a typed error within seconds."""
        async with asyncio.timeout(_SETUP_S):
            await self._until(lambda event: isinstance(event, events.SessionCreated), "")
            setup = self.context.setup()
            self._voice = setup.voice
            sent = self.protocol.update(self.model.patch(setup, speaks=self.context.speaks))
            await self._flush()
            await self._until(lambda event: isinstance(event, events.SessionUpdated), sent)
        self.context.spawn(self._read, "reading from OpenAI")
        self.context.spawn(self._write, "writing to OpenAI")
        self._watch_expiry()

    async def _until(self, over: Callable[[FromServer], bool], sent: str) -> None:
        while True:
            try:
                event = self.protocol.receive(await self._transport.receive())
            except TransportClosedError as closed:
                raise error_of_close(closed.code, closed.reason) from None
            if event is None:
                continue
            if over(event):
                return
            if isinstance(event, events.ErrorReported) and event.error.event_id in (None, sent):
                raise error_of(event.error.code, event.error.message, type=event.error.type)

    def _watch_expiry(self) -> None:
        """Servers say when a session ends. That is told in time for the next one to be opened."""
        expires = self.protocol.session.get("expires_at")
        left = expires - time.time() if isinstance(expires, int | float) else 0.0
        if not 0.0 < left < (self.model.capabilities.connection_s or 0.0) - _NOTICE_S:
            return  # the declared limit is nearer, or nothing is known
        notice = min(_NOTICE_S, left * _NOTICE)

        async def tell() -> None:
            await asyncio.sleep(left - notice)
            self.context.report(Ending(in_s=notice, reason="the session expires"))

        self.context.spawn(tell, "waiting for the session to expire")

    async def _read(self) -> None:
        while not self._closing:
            try:
                received = await self._transport.receive()
            except TransportClosedError as closed:
                self.protocol.closed()
                if not self._closing:
                    error = self._fatal or error_of_close(closed.code, closed.reason)
                    self.context.report(Lost(error=error))
                return
            event = self.protocol.receive(received)
            if isinstance(event, Malformed):
                logger.debug("a message that is none: %s: %s", event.type, event.why)
            elif event is not None and (handler := self._handlers.get(type(event))) is not None:
                handler(event)
            self._wake.set()

    async def _write(self) -> None:
        while not self._closing:
            self._wake.clear()
            if self.protocol.waiting > _MOST_WAITING:
                raise ModelConnectionError("OpenAI does not read what is sent.")
            try:
                await self._flush()
            except TransportClosedError:
                return  # the reader learns of it too, and why
            await self._wake.wait()

    async def _flush(self) -> None:
        while (frame := self.protocol.next_frame()) is not None:
            await self._transport.send(frame)

    def lost(self, error: DuologueError) -> None:
        """The connection is of no use any more."""
        self._fatal = error
        self.context.report(Lost(error=error))

    async def close(self) -> None:
        """See Connection."""
        self._closing = True
        self.protocol.closed()
        self._wake.set()
        await self._transport.close()

    @property
    def usable(self) -> bool:
        """Whether anything can be sent."""
        return self.protocol.state == "open"

    # ------------------------------------------------------------------ the user

    def audio(self, pcm: bytes, position: int) -> None:
        """See Connection."""
        if self.usable:
            self.turns.audio(pcm, position)
            self._wake.set()

    def text(self, turn: str, text: str) -> None:
        """See Connection."""
        if self.usable:
            self.turns.typed()
            self.protocol.create(message("user", text))
            self._wake.set()

    def image(self, data: bytes, mime: str) -> None:
        """See Connection."""
        check_picture(data, mime, PICTURES)
        if self.usable:
            self.protocol.create(picture(data, mime))
            self._wake.set()

    def item(self, item: Entry) -> None:
        """See Connection."""
        self._put([item])

    def begin(self, history: Sequence[Entry]) -> None:
        """See Connection."""
        self._put(history)

    def _put(self, entries: Sequence[Entry]) -> None:
        if not self.usable:
            return
        items, calls = items_of(entries)
        self._calls |= calls
        for item in items:
            self.protocol.create(item)
        self._wake.set()

    def prepare(self, turn: str, *, reply: bool) -> None:
        """See Connection."""
        if self.usable:
            self.turns.prepare(turn)
            self._wake.set()

    def commit(self, turn: str) -> None:
        """See Connection."""
        if self.usable:
            self.turns.commit(turn)
            self._wake.set()

    def reopen(self, turn: str) -> None:
        """See Connection."""
        if not self.usable:
            return
        for making in [making for making in self._makings.values() if making.turn == turn]:
            self.cancel(making.response)
            for item in making.spans:
                self.protocol.delete(item)
        self.turns.reopen(turn)

    def discard(self, turn: str) -> None:
        """See Connection."""
        if self.usable:
            self.turns.discard(turn)
            self._wake.set()

    # ------------------------------------------------------------------ answers

    def ask(self, response: str, turn: str, origin: ResponseOrigin, params: ResponseParams) -> None:
        """Ask for an answer, under our own id."""
        self._making(response, turn)
        self.context.report(Began(response=response, turn=turn, origin=origin))
        if self._makings[response].over:
            return  # the session has no room for it
        self.protocol.respond(response, params)
        self._wake.set()

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection. A response's own instructions replace the session's, so they come with them."""
        if self.usable:
            session = instructions_of(self.context.setup())
            told = f"{session}\n\n{instructions}".strip() if instructions else None
            self.ask(response, "", origin, ResponseParams(instructions=told))

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection. The provider has no verbatim speech: it is instructed."""
        if self.usable:
            self.ask(response, "", origin, ResponseParams(instructions=_VERBATIM + text, tool_choice="none"))

    def cancel(self, response: str) -> None:
        """See Connection."""
        making = self._makings.get(response)
        if making is None or making.over:
            return
        making.over = True
        if self.usable:
            if making.provider_id:
                self.protocol.cancel(making.provider_id)
            else:
                self.protocol.drop(response)
            self._wake.set()
        self.context.report(Ended(response=response, status="cancelled"))

    def truncate(self, response: str, samples: int) -> None:
        """See Connection."""
        making = self._makings.get(response)
        if making is None or not self.usable:
            return
        for item, (start, end) in making.spans.items():
            if samples < end:
                self.protocol.truncate(item, max(0, samples - start) * 1000 // RATE)
        self._wake.set()

    def tool_result(self, call: str, name: str, text: str, *, error: bool) -> None:
        """See Connection."""
        if self.usable:
            known = call_id(call) in self._calls
            self.protocol.create(result(call, text, error=error) if known else result_as_text(name, text))
            self._wake.set()

    def update(self, setup: Setup) -> None:
        """See Connection. A voice that has spoken cannot be changed: the next connection has the new one."""
        if not self.usable:
            return
        other, self._voice = setup.voice != self._voice, setup.voice
        fresh = other and not self._has_spoken
        output = AudioPatch(output=OutputPatch(voice=setup.voice or self.model.voice))
        self.protocol.update(
            SessionPatch(
                type="realtime",
                instructions=instructions_of(setup),
                tools=tools_of(setup),
                audio=output if fresh else UNSET,
            )
        )
        self._wake.set()
        if other and self._has_spoken:
            self.context.report(Ending(in_s=_NOTICE_S, reason="another voice"))

    def _making(self, response: str, turn: str) -> _Making:
        report = self.context.report
        making = _Making(response, turn, Captions(RATE, lambda text: report(Said(response=response, text=text))))
        self._makings[response] = making
        if len(self._makings) > _REMEMBERED:
            self._makings.popitem(last=False)
        return making

    # ------------------------------------------------------------------ what the provider says

    def _speech_started(self, event: events.InputSpeechStarted) -> None:
        self.turns.speaking = True
        position = self.protocol.position_of(event.audio_start_ms)
        self.context.report(ProviderSpeech(fact="started", position=position))

    def _speech_stopped(self, event: events.InputSpeechStopped) -> None:
        position = self.protocol.position_of(event.audio_end_ms)
        self.context.report(ProviderSpeech(fact="stopped", position=position))

    def _committed(self, event: events.InputCommitted) -> None:
        self.turns.speaking = False
        self.turns.committed(event.item_id)

    def provider_committed(self) -> None:
        """The provider has ended the turn, and answers it."""
        self.context.report(ProviderCommitted())

    def _transcription_failed(self, event: events.TranscriptionFailed) -> None:
        logger.debug("transcription failed: %s", event.error.code)
        self.turns.transcribed(event.item_id, "")

    def _created(self, event: events.ResponseCreated) -> None:
        id = event.response.id
        key = self.protocol.key_of(id)
        making = self._makings.get(key)
        if key in self._adopted or (making is not None and making.over):
            self._adopted.discard(key)
            self.protocol.cancel(id)
            return
        if making is None:
            making = self._begun_by_provider()
        making.provider_id = id
        self._of_provider[id] = making
        if making.over:
            self.protocol.cancel(id)

    def _begun_by_provider(self) -> _Making:
        turn = self.turns.unanswered
        self.turns.unanswered = ""
        for making in self._makings.values():
            if turn and making.turn == turn and not making.provider_id and not making.over:
                # Both have answered the turn: the provider by itself, and at our request that it had not seen yet.
                if not self.protocol.drop(making.response):
                    self._adopted.add(making.response)
                return making
        making = self._making(self.context.next_response(), turn)
        self.context.report(Began(response=making.response, turn=turn))
        return making

    def _text(self, id: str, delta: str) -> None:
        making = self._of_provider.get(id)
        if making is not None and not making.over:
            making.captions.text(delta)

    def _audio(self, event: events.AudioDelta) -> None:
        making = self._of_provider.get(event.response_id)
        if making is None:
            return
        self._has_spoken = True
        samples = len(event.delta) // 2
        span = making.spans.setdefault(event.item_id, [making.samples, making.samples])
        making.samples += samples
        span[1] = making.samples
        if not making.over:
            making.captions.audio(samples)
            self.context.report(Spoke(response=making.response, pcm=event.delta))

    def _item_done(self, event: events.OutputItemDone) -> None:
        making = self._of_provider.get(event.response_id)
        if making is not None and not making.over:
            self._call(making, event.item)

    def _call(self, making: _Making, item: Any) -> None:
        if item.type != "function_call" or not item.call_id or item.call_id in making.calls:
            return
        making.calls.add(item.call_id)
        self._calls.add(item.call_id)
        call = ToolCall(id=item.call_id, name=item.name or "", arguments=item.arguments or "{}")
        self.context.report(ToolRequested(response=making.response, call=call))

    def _done(self, event: events.ResponseDone) -> None:
        response = event.response
        making = self._of_provider.pop(response.id, None)
        if (usage := response.usage) is not None and usage.total_tokens:
            details = {**msgspec.to_builtins(usage), **self._limits}
            self.context.report(
                UsageEvidence(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, details=details)
            )
        if making is None or making.over:
            return
        for item in response.output:
            self._call(making, item)
        making.captions.flush()
        making.over = True
        details_ = response.status_details
        if response.status == "failed":
            failure = details_.error if details_ is not None else None
            code, text = (failure.code, failure.message) if failure is not None else (None, None)
            error = error_of(code, text or "the response failed", type=failure.type if failure else None)
            self.context.report(Ended(response=making.response, status="failed", error=error))
        elif response.status == "cancelled":
            self.context.report(Ended(response=making.response, status="cancelled"))
        else:
            self.context.report(Ended(response=making.response))

    def _rate_limits(self, event: events.RateLimitsUpdated) -> None:
        self._limits = {"rate_limits": msgspec.to_builtins(event.rate_limits)}

    def _error(self, event: events.ErrorReported) -> None:
        """An error event. Most end nothing; what crossed the provider's own doings is dropped or made again by the codec."""
        for key in self._adopted.copy():
            if self.protocol.drop(key):
                self._adopted.discard(key)
        detail = event.error
        if detail.code in faults.HARMLESS:
            logger.debug("harmless: %s", detail.code)
            return
        error = error_of(detail.code, detail.message, type=detail.type)
        making = self._makings.get(self.protocol.take_refused(event))
        if detail.code == faults.SESSION_EXPIRED:
            self.lost(error)
        elif making is not None and not making.over:
            making.over = True
            self.context.report(Ended(response=making.response, status="failed", error=error))
        else:
            self.context.report(Refused(error=error))


class RawConnection:
    """A connection without a session: typed vendor events both ways. Made by :meth:`OpenAIRealtime.connect`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.protocol = ClientProtocol()

    async def send(self, event: ClientEvent) -> None:
        """Send an event (see `duologue.wire.openai_realtime.events`). Raises ProtocolError before `session.created` came."""
        self.protocol.send(event)
        while (frame := self.protocol.next_frame()) is not None:
            await self._transport.send(frame)

    async def __aiter__(self) -> AsyncIterator[FromServer]:
        """The server's events, until the link ends."""
        while True:
            try:
                received = await self._transport.receive()
            except TransportClosedError as closed:
                self.protocol.closed()
                if closed.code == 1000:
                    return
                raise error_of_close(closed.code, closed.reason) from None
            if (event := self.protocol.receive(received)) is not None:
                yield event

    async def close(self) -> None:
        """End the link."""
        self.protocol.closed()
        await self._transport.close()


async def open_connection(model: OpenAIRealtime, context: Context) -> Connection:
    """Connect and configure. Raises a typed error within seconds; then nothing is left open."""
    transport = await model.transport()
    connection = OpenAIConnection(model, context, transport)
    try:
        await connection.start()
    except BaseException as error:
        await transport.close()
        if isinstance(error, TimeoutError):
            raise ModelConnectionError(f"OpenAI did not set the session up within {_SETUP_S:g} s.") from None
        if isinstance(error, TransportClosedError):
            raise error_of_close(error.code, error.reason) from None
        raise
    return connection
