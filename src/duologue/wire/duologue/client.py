"""The client's side of a call, without I/O. One object for the whole call, over all its links.

The driver owns sockets and clock::

    call = ClientProtocol(input=AudioSpec(rate=16000), output=AudioSpec(rate=24000))
    call.connect(now)                                       # after opening a WebSocket: hello is ready to be written
    for message in call.receive_text(text, now): ...        # the first is Welcome
    while (frame := call.next_frame(now)) is not None: ...  # str: text, bytes: binary
    call.disconnected(now)                                  # the WebSocket is gone: connect again if may_resume(now)

What is sent while there is no link waits: audio in a bounded queue whose oldest part is dropped first and shows as a
step of the capture position, inputs behind it in order. ProtocolError with `close_code` means that this link must
end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from duologue.engine.clocksync import ClockSync
from duologue.engine.delivery import Gap, Inbox, Item, Outbox, Position
from duologue.engine.link import Grace
from duologue.errors import AudioFormatError, LimitExceededError, ProtocolError
from duologue.events import AnyEvent, Input, ResponseAudio, decode_event, encode
from duologue.wire.duologue import messages as m
from duologue.wire.duologue.clears import Clears
from duologue.wire.duologue.frames import (
    LAST,
    decode_agent_audio,
    encode_user_audio,
    too_big,
)
from duologue.wire.duologue.link import Link, Refused, gap_message
from duologue.wire.duologue.options import FRAME_BYTES, VERSIONS
from duologue.wire.duologue.userqueue import UserQueue

#: a server's text message may be this long; events are far below
_TEXT_BYTES = 16 << 20
_MAX_ERRORS = 64
#: how long the welcome of a new call may take, seconds
OPENING_S = 10.0
#: response numbers that are remembered
_MAX_NUMBERS = 1024
#: the message around an input is shorter than this, bytes
_WRAPPING = 100


class AgentAudio(NamedTuple):
    """Audio of `response` from sample `offset` on, to be played at `position` of the track; `last`: the response ends
    with it.
    """

    pcm: bytes
    position: int
    response: str
    offset: int
    last: bool


class EventReceived(NamedTuple):
    """An event at position (`epoch`, `n`)."""

    epoch: int
    n: int
    event: AnyEvent


class Skipped(NamedTuple):
    """An event that this version does not know or cannot read; its position counts as received."""

    epoch: int
    n: int
    reason: str


type FromServer = (
    m.Welcome
    | AgentAudio
    | EventReceived
    | Skipped
    | m.Clear
    | m.Duck
    | m.GapMessage
    | m.GoingAway
    | m.AuthRefreshed
    | m.ErrorMessage
    | m.Bye
    | Refused
)


class ClientProtocol:
    """One call, seen from the client. See the module's text for its use.

    Args:
        input, output: audio up and down (None: none).
        client: name and version, for the server's log.
        capabilities: `acks` promises calls of :meth:`played`, `duck` that Duck is obeyed.
        token: credential, where no header carries it.
        metadata: JSON for the agent's factory.
        keep_s: user audio kept for a replay, and again as much waiting for transmission.
        wake: called when a frame became ready.

    Attributes:
        session, epoch: from the welcome.
        capture: position after the last sample that was handed in.
        clear_dropped: samples of the agent that arrived after they had been cleared.
    """

    def __init__(
        self,
        *,
        input: m.AudioSpec | None,
        output: m.AudioSpec | None,
        client: m.ClientInfo | None = None,
        capabilities: m.Capabilities | None = None,
        token: str = "",
        metadata: Mapping[str, Any] | None = None,
        keep_s: float = 30.0,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self.input = input
        self.output = output
        self.token = token
        self._client = client or m.ClientInfo()
        self._capabilities = capabilities or m.Capabilities(acks=True, duck=True)
        self._metadata = metadata or {}
        self._keep = max(1, int(keep_s * (input.rate if input else 0)))
        self._wake = wake
        self.session = ""
        self.epoch = 0
        self.capture = 0
        self.clear_dropped = 0
        self.over = False
        self._resume_token = ""
        self._outbox = Outbox()
        self._gaps: list[Gap] = []  # of the last replay; the next one reports those again that were not confirmed
        self._lost_samples = 0  # of gaps that were confirmed
        self._inbox = Inbox()
        self._events: int | None = 0  # had so far, or lost in gaps; None: nobody knows any more
        self._grace = Grace(0.0)
        self._link: Link | None = None
        self._welcomed = False
        self._queue = UserQueue(self._keep)
        self._text_bytes = m.Limits().text_bytes
        self._replay: deque[Item | Gap] = deque()
        self._numbers: dict[int, str] = {}
        self._played = m.Played(e=0, position=0)
        self._clears = Clears()
        self._duck = 0

    # -- links ---------------------------------------------------------------------------------------------------------

    def connect(self, now: float, *, patience: float = OPENING_S) -> None:
        """A new WebSocket is open: state who we are, and what we have if the call goes on. `patience`: seconds to wait for
        the welcome. Raises ProtocolError if the call is over.
        """
        if self.over:
            raise ProtocolError("This call is over.", hint="Start a new one.", code="closed")
        self._link = link = Link(max_errors=_MAX_ERRORS, deadline=now + patience, wake=self._wake)
        self._welcomed = False
        self._numbers.clear()
        self._replay.clear()
        resume = None
        if self.session:
            resume = m.Resume(
                session=self.session,
                token=self._resume_token,
                last=self._inbox.last,
                played=self._played.position,
                events=self._events,
            )
        link.send(
            m.Hello(
                versions=list(VERSIONS),
                input=self.input,
                output=self.output,
                client=self._client,
                capabilities=self._capabilities,
                token=self.token,
                metadata=self._metadata,
                resume=resume,
            )
        )

    def disconnected(self, now: float) -> None:
        """The WebSocket is gone."""
        if self._link is not None:
            self._link = None
            self._welcomed = False
            if self.session:
                self._grace.start(now)

    def may_resume(self, now: float) -> bool:
        """Whether the call may still be resumed."""
        return bool(self.session) and not self.over and not self._grace.expired(now)

    @property
    def connected(self) -> bool:
        """Whether a link is open and welcomed."""
        return self._welcomed

    @property
    def close_code(self) -> int | None:
        """Set once the present link must end."""
        return self._link.close_code if self._link is not None else None

    @property
    def clock(self) -> ClockSync | None:
        """The server's clock against ours, on the present link."""
        return self._link.clock if self._link is not None else None

    # -- sending -------------------------------------------------------------------------------------------------------

    def send_audio(self, pcm: bytes, *, position: int | None = None) -> int:
        """Queue user audio captured from `position` on (None: right after what came before); returns samples dropped
        for it.

        Raises AudioFormatError for an odd byte count, or if this call has no user audio; ProtocolError if `position`
        goes back.
        """
        if self.input is None:
            raise AudioFormatError("This call has no user audio.", hint="Connect with an input rate.")
        if len(pcm) & 1:
            raise AudioFormatError(f"PCM16 has two bytes a sample, not {len(pcm)} in all.", hint="Send whole samples.")
        at = self.capture if position is None else position
        if at < self.capture:
            raise ProtocolError(f"Audio captured at {at} cannot follow audio up to {self.capture}.", code="position")
        self.capture = at + (len(pcm) >> 1)
        dropped = self._queue.put_audio(pcm, at)
        self._notify()
        return dropped

    @property
    def dropped_samples(self) -> int:
        """User audio that was lost: the queue was full, or a replay had to begin after what was transmitted in vain."""
        return self._queue.dropped_samples + self._lost_samples + sum(max(0, gap.samples) for gap in self._gaps)

    @property
    def unconfirmed_samples(self) -> int:
        """User audio that is kept: it waits for transmission, or for the server's acknowledgement."""
        return self._queue.samples + self._outbox.samples

    def send_input(self, message: Input) -> None:
        """Queue anything that is not audio.

        Raises LimitExceededError if it is longer than the server takes, or too many inputs wait.
        """
        text = encode(message).decode()
        # Sent all the same, it would end this link, and be replayed on the next.
        if len(text.encode()) + _WRAPPING > self._text_bytes:
            raise LimitExceededError(
                f"An input of {len(text)} characters is too long; the server takes {self._text_bytes} bytes.",
                hint="Send a smaller picture or a shorter text.",
            )
        self._queue.put_input(text)
        self._notify()

    def played(self, position: int, at: float) -> None:
        """Everything before `position` of the track was rendered, at `at` of our clock. Older news is ignored."""
        if position > self._played.position:
            self._played = m.Played(e=self.epoch, position=position, at=at)
            if self._welcomed and self._link is not None:
                self._link.send(self._played)

    def cleared(self, c: int, played: int, at: float) -> None:
        """Clear `c` was carried out; `played` is the first position that was not rendered."""
        message = m.Cleared(c=c, e=self.epoch, played=played, at=at)
        self._clears.answer(message)
        if self._welcomed and self._link is not None:
            self._link.send(message)

    def refresh(self, token: str) -> None:
        """Give the running call a new credential; AuthRefreshed or an error `auth` answers."""
        if self.token:  # else a header carries it
            self.token = token
        if self._welcomed and self._link is not None:
            self._link.send(m.AuthRefresh(token=token))

    def hang_up(self, code: str = "hangup", message: str = "") -> None:
        """End the call. The driver writes what `next_frame` still gives and closes with 1000."""
        self.over = True
        if self._link is not None and self._link.close_code is None:
            self._link.send(m.Bye(code=code, message=message))
            self._link.close_code = 1000

    def next_frame(self, now: float) -> str | bytes | None:
        """The next frame to be written, numbered at this moment. None: nothing is ready."""
        link = self._link
        if link is None:
            return None
        frame = link.next_control(self._inbox if self._welcomed else None, now)
        if frame is not None or not self._welcomed or link.close_code is not None:
            return frame
        if self._replay:
            part = self._replay.popleft()
            if isinstance(part, Gap):
                return m.encode(gap_message(part, self.input.rate if self.input else 0))
            return part.data
        item = self._queue.take()
        if item is None:
            return None
        data, position = item
        epoch, n = self._outbox.next()
        if isinstance(data, bytes):
            audio = encode_user_audio(epoch, n, position, data)
            self._outbox.push_audio(audio, len(data) >> 1, position)
            return audio
        text = m.encode_input(epoch, n, data)
        self._outbox.push_event(text)
        return text

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive_bytes(self, data: bytes, now: float) -> list[FromServer]:
        """A binary message. Returns what it says; raises ProtocolError if the link must end."""
        link = self._receiving(now)
        if link is None:
            return []
        if not self._welcomed:
            return [*link.refuse(_before_welcome("Audio"))]
        if len(data) > FRAME_BYTES:
            return [*link.refuse(too_big(len(data), FRAME_BYTES))]
        try:
            epoch, n, position, number, offset, flags, pcm = decode_agent_audio(data)
        except ProtocolError as error:
            return [*link.refuse(error, "audio")]
        response = self._numbers.get(number)
        try:
            if not self._inbox.accept(epoch, n, now):
                return []
            if len(pcm) & 1 or self.output is None or response is None:
                raise self._bad_frame(pcm, number)
        except ProtocolError as error:
            return [*link.refuse(error, f"{epoch}:{n}", len(pcm) >> 1)]
        below = self._clears.below(position, response)
        if below:
            return self._late(pcm, position, response, offset, flags, below)
        return [AgentAudio(pcm, position, response, offset, bool(flags & LAST))]

    def receive_text(self, text: str, now: float) -> list[FromServer]:
        """A text message. Returns what it says; raises ProtocolError if the link must end."""
        link = self._receiving(now)
        if link is None:
            return []
        ref = ""
        try:
            message = m.downstream.decode(text, _TEXT_BYTES)
            ref = m.tag(message)
            return self._handle(message, link, now)
        except ProtocolError as error:
            if link.close_code is not None:
                raise
            return [*link.refuse(error, ref)]

    def _receiving(self, now: float) -> Link | None:
        link = self._link
        if link is None or link.close_code is not None:
            return None
        link.received(now)
        return link

    def _handle(self, message: m.Downstream, link: Link, now: float) -> list[FromServer]:
        if isinstance(message, m.ErrorMessage):
            return [message]
        if isinstance(message, m.Welcome):
            return self._welcome(message, link, now)
        if isinstance(message, m.Bye):
            self.over = True
            link.close_code = 1000
            return [message]
        if not self._welcomed:
            raise _before_welcome(f"A message {m.tag(message)}")
        match message:
            case m.EventMessage():
                return self._event(message, now)
            case m.Ack(e=e, n=n):
                self._outbox.ack(Position(e, n))
            case m.Ping():
                link.ping(message, now)
            case m.Pong():
                link.pong(message, now)
            case m.ResponseNumber(number=number, response=response):
                self._numbers[number] = response
                if len(self._numbers) > _MAX_NUMBERS:
                    del self._numbers[next(iter(self._numbers))]
            case m.Clear():
                return self._clear(message, link)
            case m.Duck(c=c):
                if c <= self._duck:
                    return []
                self._duck = c
                return [message]
            case m.GapMessage(first=first, last=last, events=events):
                if self._inbox.accept_gap(Position(*first), Position(*last), now):
                    if self._events is not None:
                        self._events = self._events + events if events >= 0 else None
                    return [message]
            case _:
                return [message]
        return []

    def _welcome(self, message: m.Welcome, link: Link, now: float) -> list[FromServer]:
        if self._welcomed or message.resumed != bool(self.session) or message.version not in VERSIONS:
            raise _out_of_place()
        if self.session:
            if message.session != self.session:
                raise _out_of_place()
            self._inbox.announce(message.epoch)
            last = Position(*message.last)
            self._lost_samples += sum(max(0, gap.samples) for gap in self._gaps if gap.last <= last)
            wanted = message.recall
            self._replay = deque(self._outbox.replay(last) if wanted is None else self._outbox.recall(wanted))
            self._gaps = [part for part in self._replay if isinstance(part, Gap)]
            self._outbox.ack(last)
            if message.epoch > self.epoch:
                self._outbox.advance(message.epoch)
        else:
            self.session = message.session
            self._outbox = Outbox(epoch=message.epoch, audio_samples=self._keep, past=True)
            self._inbox = Inbox(epoch=message.epoch)
        self.epoch = message.epoch
        self._resume_token = message.token
        self._text_bytes = message.limits.text_bytes
        self._grace = Grace(message.grace_s)
        self._welcomed = True
        link.opened(heartbeat_s=message.heartbeat_s, miss_s=message.miss_s, now=now)
        return [message]

    def _event(self, message: m.EventMessage, now: float) -> list[FromServer]:
        if not self._inbox.accept(message.e, message.n, now):
            return []
        if self._events is not None:
            self._events += 1
        try:
            event = decode_event(bytes(message.event))
        except (msgspec.MsgspecError, RecursionError) as error:
            return [Skipped(message.e, message.n, str(error)[:200])]
        if isinstance(event, ResponseAudio):
            return [Skipped(message.e, message.n, "audio came as text")]
        return [EventReceived(message.e, message.n, event)]

    def _clear(self, message: m.Clear, link: Link) -> list[FromServer]:
        if self._clears.is_new(message):
            return [message]
        answer = self._clears.answered(message.c)
        if answer is not None:
            link.send(answer)
        return []

    def _late(self, pcm: bytes, position: int, response: str, offset: int, flags: int, below: int) -> list[FromServer]:
        """Audio that was cleared before it came: drop it, or what of it lies below the line."""
        gone = min(len(pcm) >> 1, below)
        self.clear_dropped += gone
        if 2 * gone == len(pcm):
            return []
        return [AgentAudio(pcm[2 * gone :], position + gone, response, offset + gone, bool(flags & LAST))]

    def _bad_frame(self, pcm: bytes, number: int) -> ProtocolError:
        if len(pcm) & 1:
            return ProtocolError(f"A payload has {len(pcm)} bytes.", hint="Send whole samples.", code="audio_format")
        if self.output is None:
            return ProtocolError("Audio came where none was agreed.", code="audio_format")
        return ProtocolError(
            f"Response number {number} was not declared on this link.", hint="Send `response` first.", code="response"
        )

    # -- time ----------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When :meth:`tick` has something to do; None without a link."""
        if self._link is None:
            return None
        return self._link.next_deadline(self._inbox if self._welcomed else None)

    def tick(self, now: float) -> None:
        """Heartbeat and deadlines. Raises ProtocolError if the link is dead, or was never welcomed."""
        if self._link is not None:
            self._link.tick(self._inbox if self._welcomed else None, now, what="welcome")

    def _notify(self) -> None:
        if self._wake is not None and self._welcomed:
            self._wake()


def _before_welcome(what: str) -> ProtocolError:
    return ProtocolError(f"{what} came before welcome.", hint="Welcome comes first.", code="handshake", close_code=4000)


def _out_of_place() -> ProtocolError:
    return ProtocolError(
        "A welcome does not answer our hello.", hint="This is not the call's server.", code="handshake", close_code=4000
    )
