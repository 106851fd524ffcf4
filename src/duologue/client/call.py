"""A call from Python: connects, speaks, plays, resumes by itself when the network breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

from duologue.audio.playback import PlaybackDevice, Sink
from duologue.client.errors import CallLostError, CallRefusedError, ConnectError
from duologue.client.link import FAREWELL_S, LinkDriver
from duologue.client.playout import Playout
from duologue.client.transport import Connector, websocket
from duologue.errors import DuologueError, SessionClosedError
from duologue.events import (
    AnyEvent,
    ApprovalInput,
    ErrorEvent,
    ImageInput,
    Input,
    InterruptInput,
    ResponseAudio,
    SessionGoingAway,
    TextInput,
)
from duologue.wire.duologue import (
    AgentAudio,
    AudioSpec,
    AuthRefreshed,
    Bye,
    Capabilities,
    Clear,
    ClientInfo,
    ClientProtocol,
    Duck,
    ErrorMessage,
    EventReceived,
    FromServer,
    GapMessage,
    GoingAway,
    Refused,
    Skipped,
    Then,
    Welcome,
    after_close,
)
from duologue.wire.duologue.closing import NOT_RESUMABLE

_log = logging.getLogger("duologue.client")

#: waits before the attempts to resume; the last one repeats (`docs/protocol.md`, section 8)
_BACKOFF_S = (0.0, 0.25, 0.5, 1.0, 2.0)
_JITTER = 0.25
#: how long the first attempt to resume may take to open a socket, and again to be welcomed on it, seconds
_RESUME_S = 3.0
#: a link that lasted so long makes the next attempt a first one
_STABLE_S = 1.0


def _lost(gap: GapMessage) -> str:
    """What a gap says, in words."""
    if gap.samples < 0:
        events = "Events and audio" if gap.events < 0 else "Audio"
        return f"{events} on the way from the session's owner before may be lost."
    return f"{gap.events} events and {gap.ms} ms of audio were lost in a cut."


class Call:
    """One call. Made by :func:`connect`; an asynchronous context manager and an asynchronous iterator of events.

    Sending never waits for the network: what cannot leave is kept within bounds, and what had to be dropped is counted.

    Attributes:
        playout: the playback device's driver; None if the call takes no agent audio.
        session: id of the call.
        notice: what an honest interface shows first.
        resumes: how often the link was renewed.
        dropped_events: events dropped because nobody read them.
        errors: what the server or we refused, as text, newest last (bounded).
    """

    def __init__(
        self,
        url: str,
        *,
        input_rate: int | None,
        output_rate: int | None,
        token: str | None,
        headers: Mapping[str, str] | None,
        metadata: Mapping[str, Any] | None,
        name: str,
        sink: Sink | None,
        device: PlaybackDevice | None,
        receive_audio: bool,
        event_buffer: int,
        keep_s: float,
        open_timeout_s: float,
        connector: Connector,
        seed: int | None,
    ) -> None:
        self._url = url
        self._headers = dict(headers or {})
        if token:
            self._headers.setdefault("Authorization", f"Bearer {token}")
        self._connector = connector
        self._open_timeout_s = open_timeout_s
        self._receive_audio = receive_audio
        self._sink = sink
        self._device = device
        self._output_rate = output_rate
        self._random = random.Random(seed)
        self._writable = asyncio.Event()
        self._protocol = ClientProtocol(
            input=AudioSpec(rate=input_rate) if input_rate else None,
            output=AudioSpec(rate=output_rate) if output_rate else None,
            client=ClientInfo(name=name),
            capabilities=Capabilities(acks=bool(output_rate), duck=bool(output_rate)),
            metadata=metadata,
            keep_s=keep_s,
            wake=self._writable.set,
        )
        self._driver = LinkDriver(self._protocol, self._writable, self._take, lambda text: self.errors.append(text))
        self._events: deque[AnyEvent] = deque()
        self._event_buffer = event_buffer
        self._readable = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._opened: asyncio.Future[None] | None = None
        self._refreshed: asyncio.Future[float | None] | None = None
        self._failure: DuologueError | None = None
        self._done = False
        self._fatal = ""
        self._fatal_text = ""
        self.playout: Playout | None = None
        self.session = ""
        self.notice = ""
        self.resumes = 0
        self.dropped_events = 0
        self.errors: deque[str] = deque(maxlen=100)

    # -- life ----------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._opened = loop.create_future()
        if self._output_rate:
            device = self._device or PlaybackDevice(self._output_rate, now=loop.time(), sink=self._sink)
            live = self._sink is not None or self._device is not None
            self.playout = Playout(device, live=live, report=self._protocol.played)
            self._tasks.append(loop.create_task(self.playout.run(), name="duologue-playout"))
        self._tasks.append(loop.create_task(self._run(), name="duologue-call"))
        try:
            await self._opened
        except BaseException:
            await self._cancel()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.hang_up()

    async def hang_up(self) -> None:
        """End the call. Safe at any time, and more than once."""
        if not self._done and not self._protocol.over:
            self._protocol.hang_up()
            self._writable.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_S):
                    while not self._done:
                        await self._wait_readable()
        await self._cancel()

    async def _wait_readable(self) -> None:
        self._readable.clear()
        await self._readable.wait()

    async def _cancel(self) -> None:
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        await self._driver.aclose()
        self._finish(None)

    # -- sending -------------------------------------------------------------------------------------------------------

    async def send_audio(self, pcm: bytes, *, position: int | None = None) -> int:
        """Send user audio (PCM16 mono at the input rate), captured at `position` of the track (None: contiguous).

        Returns how many samples of older audio were dropped to make room. Raises AudioFormatError for an odd byte
        count, SessionClosedError (or why the call ended) when it is over.
        """
        self._check_open()
        return self._protocol.send_audio(pcm, position=position)

    async def send(self, message: Input) -> None:
        """Send any input but audio."""
        self._check_open()
        self._protocol.send_input(message)

    async def send_text(self, text: str) -> None:
        """Send a typed turn."""
        await self.send(TextInput(text=text))

    async def send_image(self, data: bytes, *, mime: str = "image/jpeg", respond: bool = False) -> None:
        """Send a picture."""
        await self.send(ImageInput(data=data, mime=mime, respond=respond))

    async def interrupt(self) -> None:
        """Ask the agent to stop speaking."""
        await self.send(InterruptInput())

    async def approve(self, call: str, approved: bool = True, *, note: str = "") -> None:
        """Answer a tool that waits for approval."""
        await self.send(ApprovalInput(call=call, approved=approved, note=note))

    async def refresh_token(self, token: str) -> float | None:
        """Give the running call a new credential. Returns the seconds it is good for, if the server says so.

        Raises CallRefusedError if it was not accepted (the old one stays in force).
        """
        self._check_open()
        self._refreshed = asyncio.get_running_loop().create_future()
        self._protocol.refresh(token)
        good_for = await self._refreshed
        self._headers["Authorization"] = f"Bearer {token}"  # for the next link
        return good_for

    @property
    def dropped_samples(self) -> int:
        """User audio that was lost because nothing got through for longer than `keep_s`."""
        return self._protocol.dropped_samples

    @property
    def unconfirmed_s(self) -> float:
        """Seconds of user audio that the server has not confirmed yet: how far a bad link is behind."""
        protocol = self._protocol
        return protocol.unconfirmed_samples / protocol.input.rate if protocol.input is not None else 0.0

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._done or self._protocol.over:
            raise SessionClosedError("This call is over.", hint="Start a new one.")

    # -- receiving -----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[AnyEvent]:
        return self

    async def __anext__(self) -> AnyEvent:
        """The next event. Ends with the call; raises why it ended if it was lost or refused."""
        while not self._events:
            if self._done:
                if self._failure is not None:
                    raise self._failure
                raise StopAsyncIteration
            await self._wait_readable()
        return self._events.popleft()

    def _emit(self, event: AnyEvent) -> None:
        if len(self._events) >= self._event_buffer:
            self._events.popleft()
            self.dropped_events += 1
        self._events.append(event)
        self._readable.set()

    def _take(self, messages: list[FromServer], now: float) -> None:
        for message in messages:
            match message:
                case AgentAudio():
                    self._audio(message, now)
                case EventReceived(event=event):
                    self._emit(event)
                case Clear(c=c):
                    played = self.playout.clear(message, now) if self.playout else 0
                    self._protocol.cleared(c, played, now)
                case Duck() if self.playout:
                    self.playout.duck(message, now)
                case Welcome():
                    self._welcomed(message)
                case GapMessage() if message.why != "cleared":
                    self._emit(ErrorEvent(code="gap", message=_lost(message)))
                case GoingAway():
                    self._emit(SessionGoingAway(in_s=message.in_s, reason=message.reason))
                case ErrorMessage():
                    self._error(message)
                case AuthRefreshed():
                    self._settle_refresh(message.expires_in_s, None)
                case Refused(error=error):
                    self.errors.append(str(error))
                case Skipped(reason=reason):
                    self.errors.append(f"skipped an event: {reason}")
                case Bye():
                    _log.debug("the server ended the call: %s", message.code)
                case _:
                    pass

    def _audio(self, audio: AgentAudio, now: float) -> None:
        if self.playout is not None:
            self.playout.write(audio, now)
        if self._receive_audio and audio.pcm:
            self._emit(
                ResponseAudio(
                    response=audio.response,
                    pcm=audio.pcm,
                    rate=self._output_rate or 0,
                    offset=audio.offset,
                    position=audio.position,
                )
            )

    def _welcomed(self, message: Welcome) -> None:
        if message.resumed:
            self.resumes += 1
            # A `duck` back to normal may have died with the link; the server states it again if it is not.
            if self.playout is not None:
                self.playout.device.duck(0.0, now=asyncio.get_running_loop().time())
        self.session = message.session
        self.notice = message.notice
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _error(self, message: ErrorMessage) -> None:
        self.errors.append(f"{message.code}: {message.message}")
        if message.fatal:
            self._fatal, self._fatal_text = message.code, message.message
        elif message.code == "auth":
            refusal = CallRefusedError(message.message, code="auth")
            self._settle_refresh(None, refusal)
        self._emit(ErrorEvent(code=message.code, message=message.message, fatal=message.fatal, ref=message.ref))

    def _settle_refresh(self, expires_in_s: float | None, error: DuologueError | None) -> None:
        waiting = self._refreshed
        if waiting is not None and not waiting.done():
            if error is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(expires_in_s)

    # -- links ---------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._links()
        except DuologueError as error:
            self._finish(error)
        except asyncio.CancelledError:
            self._finish(None)
            raise
        except Exception as error:  # a fault of ours must reach whoever awaits the call
            lost = CallLostError(f"The client failed: {error!r}.")
            lost.__cause__ = error
            self._finish(lost)
        else:
            self._finish(None)

    async def _links(self) -> None:
        loop = asyncio.get_running_loop()
        protocol = self._protocol
        attempt = 0
        while True:
            try:
                # A black hole in the middle of a resume must not use the grace period up; a slow link gets more each time.
                patience = (
                    min(self._open_timeout_s, _RESUME_S * 2**attempt) if protocol.session else self._open_timeout_s
                )
                async with asyncio.timeout(patience):
                    transport = await self._connector(self._url, self._headers)
            except (ConnectError, TimeoutError) as error:
                if not protocol.session:
                    if isinstance(error, ConnectError):
                        raise
                    raise ConnectError(f"{self._url} did not answer in time.", hint="Is the address right?") from error
                _log.debug("%s: resume failed: %s", protocol.session, error)
            else:
                opened, fresh, resumes = loop.time(), not protocol.session, self.resumes
                code = await self._driver.carry(transport, patience)
                _log.debug("%s: link closed with %d", protocol.session or "call", code)
                if self._ended(code):
                    return
                if loop.time() - opened >= _STABLE_S and (fresh or self.resumes > resumes):
                    attempt = 0
            if protocol.over:
                return
            wait = _BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)]
            attempt += 1
            await asyncio.sleep(wait * (1 + _JITTER * self._random.random()))
            if not protocol.may_resume(loop.time()):
                raise CallLostError("The call could not be resumed in time.", hint="Start a new one.")

    def _ended(self, code: int) -> bool:
        """Whether the call is over after its link closed with `code`. Raises if it was refused."""
        then = after_close(code, self._fatal)
        if self._protocol.over or then is Then.OVER:
            return True
        text = self._fatal_text or f"The server closed the link with {code}."
        if code == NOT_RESUMABLE and self._protocol.session:
            raise CallLostError(text)
        if then is Then.STOP:
            raise CallRefusedError(text, code=self._fatal or "refused", close_code=code)
        if not self._protocol.session:
            raise ConnectError(text, hint="Try again later.")
        self._fatal = self._fatal_text = ""
        return False

    def _finish(self, failure: DuologueError | None) -> None:
        if not self._done:
            self._done = True
            self._failure = failure
            self._settle_refresh(None, failure or SessionClosedError("This call is over."))
            if self._refreshed is not None and self._refreshed.done():
                self._refreshed.exception()
            if self._opened is not None and not self._opened.done():
                self._opened.set_exception(failure or SessionClosedError("The call ended before it was open."))
        self._readable.set()


def connect(
    url: str,
    *,
    input_rate: int | None = 16_000,
    output_rate: int | None = 24_000,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    name: str = "duologue-python",
    sink: Sink | None = None,
    device: PlaybackDevice | None = None,
    receive_audio: bool = False,
    event_buffer: int = 1024,
    keep_s: float = 30.0,
    open_timeout_s: float = 10.0,
    connector: Connector = websocket,
    seed: int | None = None,
) -> Call:
    """A call to a Duologue server, to be used as ``async with connect("ws://localhost:8080/ws") as call:``.

    Args:
        url: `ws://` or `wss://` address.
        input_rate, output_rate: Hz of audio each way, 8,000 to 48,000; None: none.
        token: credential, sent as a bearer header (not in the opening, which the agent's code could read).
        headers: further HTTP headers.
        metadata: JSON for the agent's factory.
        sink: gets what is rendered as (PCM16 mono, time of its first sample), in real time.
        device: plays instead of a virtual device of our own; its rate must be `output_rate`.
        receive_audio: also yield the agent's audio as ResponseAudio events.
        event_buffer: events that wait for their reader; beyond, the oldest is dropped and counted.
        keep_s: seconds of user audio kept while the link is away, and for its replay.
        open_timeout_s: for opening a WebSocket.
        connector: opens the transport; for links without a network.
        seed: of the jitter between attempts to resume.

    Entering raises ConnectError or CallRefusedError. Iterating raises CallLostError when a cut outlasted the grace
    period.
    """
    return Call(
        url,
        input_rate=input_rate,
        output_rate=output_rate,
        token=token,
        headers=headers,
        metadata=metadata,
        name=name,
        sink=sink,
        device=device,
        receive_audio=receive_audio,
        event_buffer=event_buffer,
        keep_s=keep_s,
        open_timeout_s=open_timeout_s,
        connector=connector,
        seed=seed,
    )
