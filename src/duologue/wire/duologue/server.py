"""The server's side of one link, without I/O.

The driver owns the socket and the clock::

    link = ServerProtocol(now=now, wake=writable.set)
    for message in link.receive_text(text, now): ...        # the first is Hello
    link.welcome(delivery, token=secret, now=now)           # or link.refuse(error)
    while (frame := link.next_frame(now)) is not None:      # str: text, bytes: binary
        await socket.send(frame)                            # one at a time, so that control can overtake
    link.tick(now)                                          # when now >= link.next_deadline()

What ends the link is raised as ProtocolError with `close_code`, here and from `tick`; `link.close_code` keeps it. The
driver writes what `next_frame` still gives (the error for the client), closes, and calls ``delivery.detach(link,
now)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from duologue.engine.clocksync import ClockSync
from duologue.engine.delivery import Gap, Item, Position
from duologue.errors import ProtocolError
from duologue.events import AnyInput, AudioInput, decode_input
from duologue.wire.duologue.delivery import ServerDelivery
from duologue.wire.duologue.frames import UserAudio, decode_user_audio, too_big
from duologue.wire.duologue.link import Link, Refused
from duologue.wire.duologue.messages import (
    Ack,
    AuthRefresh,
    AuthRefreshed,
    Bye,
    Cleared,
    ErrorMessage,
    GapMessage,
    GoingAway,
    Hello,
    InputMessage,
    Limits,
    Message,
    Ping,
    Played,
    Pong,
    Upstream,
    Welcome,
    encode,
    tag,
    upstream,
)
from duologue.wire.duologue.options import FRAME_BYTES, VERSIONS, ServerOptions, TokenBucket
from duologue.wire.duologue.sending import Sender

_METADATA_BYTES = 4096


class InputReceived(NamedTuple):
    """An input at position (`epoch`, `n`)."""

    epoch: int
    n: int
    input: AnyInput


class Replay(NamedTuple):
    """What a welcome owes a resumed client: `events` and `samples` it will get, and what is lost to it (`gap_…`)."""

    events: int
    samples: int
    gap_events: int
    gap_ms: int


type FromClient = (
    Hello | UserAudio | InputReceived | Played | Cleared | GapMessage | AuthRefresh | Bye | ErrorMessage | Refused
)


class ServerProtocol:
    """One WebSocket, seen from the server. See the module's text for its use.

    Args:
        now: when the WebSocket opened; `hello` must come within `options.handshake_s`.
        wake: called when a frame became ready by the session's doing.
    """

    def __init__(
        self, *, now: float, options: ServerOptions | None = None, wake: Callable[[], None] | None = None
    ) -> None:
        self.options = options or ServerOptions()
        self.hello: Hello | None = None
        self.delivery: ServerDelivery | None = None
        self._link = Link(max_errors=self.options.max_errors, deadline=now + self.options.handshake_s, wake=wake)
        #: to be called when something has become ready to be written
        self.notify = self._link.wake
        self._bucket = TokenBucket(self.options.messages_per_s, self.options.burst, now)
        self._sender: Sender | None = None
        self._confirmed = False
        self._farewell: Bye | None = None

    @property
    def close_code(self) -> int | None:
        """Set once this link must end."""
        return self._link.close_code

    @property
    def clock(self) -> ClockSync:
        """The client's clock against ours."""
        return self._link.clock

    # -- opening -------------------------------------------------------------------------------------------------------

    def welcome(
        self,
        delivery: ServerDelivery,
        *,
        token: str,
        now: float,
        notice: str = "",
        auth_expires_in_s: float | None = None,
    ) -> Replay:
        """Answer `hello`: attach `delivery`, new or to be resumed; `token` is the new resume token, an unguessable
        secret.

        A link that was attached is told to close with 4009. Raises ProtocolError if the resume is refused.
        """
        hello = self.hello
        if hello is None or self.delivery is not None:
            raise ProtocolError("There is no hello to answer.", hint="Call welcome once, after Hello.")
        parts: list[Item | Gap] = []
        if hello.resume is not None:
            try:
                parts = self._resume(hello, delivery)
            except ProtocolError as error:
                self.refuse(error)
                raise
        delivery.tokens.rotate(token)
        if delivery.link is not None:
            delivery.link.replaced()
            delivery.detach(delivery.link, now)
        delivery.grace.cancel()
        self.delivery = delivery
        delivery.link = self
        delivery.opened = True
        self._sender = Sender(delivery, Position(*hello.resume.last) if hello.resume else Position(0, 0), parts)
        options = self.options
        self._link.send(
            Welcome(
                version=VERSIONS[-1],
                session=delivery.session,
                epoch=delivery.epoch,
                token=token,
                resumed=hello.resume is not None,
                input=delivery.input,
                output=delivery.output,
                last=delivery.inbox.ack_now(),
                position=delivery.position,
                grace_s=options.grace_s,
                heartbeat_s=options.heartbeat_s,
                miss_s=options.miss_s,
                limits=Limits(
                    frame_bytes=FRAME_BYTES,
                    text_bytes=options.text_bytes,
                    messages_per_s=options.messages_per_s,
                    burst=options.burst,
                ),
                notice=notice,
                auth_expires_in_s=auth_expires_in_s,
                recall=delivery.recall if delivery.inbox.last == (1, 0) else None,
            )
        )
        self._link.opened(heartbeat_s=options.heartbeat_s, miss_s=options.miss_s, now=now)
        if hello.resume is None:
            return Replay(0, 0, 0, 0)
        for clear in delivery.clears.values():
            self._link.send(clear)
        if delivery.gain is not None and delivery.gain.gain_db:
            self._link.send(delivery.gain)
        return self._report(parts, delivery)

    def _resume(self, hello: Hello, delivery: ServerDelivery) -> list[Item | Gap]:
        resume = hello.resume
        assert resume is not None
        if resume.session != delivery.session or not delivery.tokens.accepts(resume.token):
            raise resume_refused()
        if hello.input != delivery.input or hello.output != delivery.output:
            raise ProtocolError(
                "A resume must keep the audio formats of its call.",
                hint="Start a new call.",
                code="resume",
                close_code=4004,
            )
        if resume.played > delivery.transmitted:
            raise ProtocolError(
                f"Playout of {resume.played} was reported; {delivery.transmitted} were sent.",
                hint="Start a new call.",
                code="resume",
                close_code=4004,
            )
        # The client brings what it kept, perhaps over several links that did not live to take it.
        self._bucket.grant(self.options.messages_per_s * self.options.grace_s)
        # What the old link had still queued gets its numbers now, so that the replay has it too.
        delivery.flush_events()
        last = Position(*resume.last)
        parts = delivery.outbox.replay(last)
        if delivery.recall is not None and resume.events is not None:
            # Whatever was sent in vain by the owner before: its events come again, under positions of this one.
            parts = [
                part._replace(events=0) if isinstance(part, Gap) and part.why == "unknown" else part for part in parts
            ]
        delivery.outbox.ack(last)
        delivery.played = max(delivery.played, resume.played)
        return parts

    def _report(self, parts: list[Item | Gap], delivery: ServerDelivery) -> Replay:
        events = samples = gap_events = gap_samples = 0
        for part in parts:
            if isinstance(part, Item):
                events += not part.key
                samples += part.samples
            elif part.why != "cleared":
                gap_events += max(0, part.events)
                gap_samples += max(0, part.samples)
        rate = delivery.output.rate if delivery.output else 1
        return Replay(events, samples, gap_events, gap_samples * 1000 // rate)

    def refuse(self, error: ProtocolError) -> None:
        """Refuse the client, or end its link: it gets `error`, and `close_code` is set (4000 if the error has none)."""
        code = error.close_code or 4000
        self._link.send(ErrorMessage(code=error.code, message=str(error), fatal=True))
        self._link.close_code = code

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive_bytes(self, data: bytes, now: float) -> list[FromClient]:
        """A binary message. Returns what it says; raises ProtocolError if the link must end."""
        link = self._link
        if not self._arrived(now):
            return []
        delivery = self.delivery
        if delivery is None:
            return [*link.refuse(_too_early("Audio"))]
        if len(data) > FRAME_BYTES:
            return [*link.refuse(too_big(len(data), FRAME_BYTES))]
        try:
            audio = decode_user_audio(data)
        except ProtocolError as error:
            return [*link.refuse(error, ref="audio")]
        epoch, n, position, pcm = audio
        size = len(pcm)
        try:
            if not delivery.inbox.accept(epoch, n, now):
                return []
            if size & 1 or not size or delivery.input is None:
                raise _bad_audio(pcm)
            if position < delivery.capture:
                raise ProtocolError(
                    f"Audio captured at {position} came after audio up to {delivery.capture}.",
                    hint="The capture position counts every sample once.",
                    code="position",
                )
        except ProtocolError as error:
            return [*link.refuse(error, f"{epoch}:{n}", size >> 1)]
        delivery.capture = position + (size >> 1)
        return [audio]

    def receive_text(self, text: str, now: float) -> list[FromClient]:
        """A text message. Returns what it says; raises ProtocolError if the link must end."""
        if not self._arrived(now):
            return []
        link = self._link
        message: Upstream | None = None
        try:
            message = upstream.decode(text, self.options.text_bytes)
            if self.delivery is None or isinstance(message, Hello):
                return [self._opening(message)]
            return self._handle(message, self.delivery, now)
        except ProtocolError as error:
            if link.close_code is not None:
                raise
            if self.delivery is None and error.close_code is None:
                error = ProtocolError(error.message, hint=error.hint, code=error.code, close_code=4000)
            return [*link.refuse(error, "" if message is None else tag(message))]

    def _arrived(self, now: float) -> bool:
        """Whether what arrived counts: not after the end of the link, when messages may still be in flight."""
        link = self._link
        if link.close_code is not None:
            return False
        if (heartbeat := link.heartbeat) is not None:
            heartbeat.received(now)
        if not self._bucket.take(now):
            link.refuse(
                ProtocolError(
                    f"More than {self.options.messages_per_s:g} messages a second came.",
                    hint="Send audio in frames of 20 ms or more.",
                    code="rate",
                    close_code=4008,
                )
            )
        if not self._confirmed and self.delivery is not None:
            self._confirmed = True
            self.delivery.tokens.confirm()
        return True

    def _opening(self, message: Upstream) -> Hello:
        if not isinstance(message, Hello) or self.hello is not None:
            raise _too_early(f"A message {tag(message)}")
        if not set(message.versions) & set(VERSIONS):
            raise ProtocolError(
                f"Versions {message.versions} are not spoken here.",
                hint=f"This server speaks {', '.join(map(str, VERSIONS))}.",
                code="version",
                close_code=4001,
            )
        if len(msgspec.json.encode(message.metadata)) > _METADATA_BYTES:
            raise ProtocolError("The metadata is too long.", hint=f"At most {_METADATA_BYTES} bytes.", code="handshake")
        self.hello = message
        return message

    def _handle(self, message: Upstream, delivery: ServerDelivery, now: float) -> list[FromClient]:
        link = self._link
        match message:
            case InputMessage():
                return self._input(message, delivery, now)
            case Ack(e=e, n=n):
                delivery.outbox.ack(Position(e, n))
                return []
            case Played(position=position):
                if position > delivery.transmitted:
                    raise ProtocolError(
                        f"Playout of {position} was acknowledged; {delivery.transmitted} were sent.",
                        hint="Acknowledge what was rendered.",
                        code="played_unsent",
                    )
                if position < delivery.played:
                    return []
                delivery.played = position
                return [message]
            case Cleared(c=c, played=played):
                return self._cleared(message, c, played, delivery)
            case Ping():
                link.ping(message, now)
                return []
            case Pong():
                link.pong(message, now)
                return []
            case GapMessage(first=first, last=last):
                return [message] if delivery.inbox.accept_gap(Position(*first), Position(*last), now) else []
            case Bye():
                link.close_code = 1000
                return [message]
            case _:
                return [message]

    def _input(self, message: InputMessage, delivery: ServerDelivery, now: float) -> list[FromClient]:
        if not delivery.inbox.accept(message.e, message.n, now):
            return []
        if (message.e, message.n) <= delivery.taken:
            return []
        ref = f"{message.e}:{message.n}"
        try:
            decoded = decode_input(bytes(message.input))
        except (msgspec.MsgspecError, RecursionError) as error:
            broken = ProtocolError(
                f"The input cannot be taken: {str(error)[:200]}.",
                hint="See duologue.events.json_schema().",
                code="input",
            )
            return [*self._link.refuse(broken, ref)]
        if isinstance(decoded, AudioInput):
            text = ProtocolError("Audio came as text.", hint="Send it in binary frames.", code="input")
            return [*self._link.refuse(text, ref)]
        return [InputReceived(message.e, message.n, decoded)]

    def _cleared(self, message: Cleared, c: int, played: int, delivery: ServerDelivery) -> list[FromClient]:
        if c not in delivery.clears:
            if c > delivery.controls:
                raise ProtocolError(f"Clear {c} was never sent.", hint="Answer with its `c`.", code="cleared_unknown")
            return []
        if played > delivery.transmitted:
            raise ProtocolError(
                f"A clear was answered with {played}; {delivery.transmitted} were sent.",
                hint="Answer with the first position that was not rendered.",
                code="played_unsent",
            )
        del delivery.clears[c]
        return [message]

    # -- sending -------------------------------------------------------------------------------------------------------

    def send_control(self, message: Message) -> None:
        """Queue a control message ahead of everything that has a number."""
        self._link.send(message)

    def going_away(self, in_s: float, reason: str) -> None:
        """This link will be closed in `in_s` seconds; the client should resume elsewhere."""
        self._link.send(GoingAway(in_s=in_s, reason=reason))

    def auth_refreshed(self, expires_in_s: float | None = None) -> None:
        """The new credential was accepted."""
        self._link.send(AuthRefreshed(expires_in_s=expires_in_s))

    def error(self, code: str, message: str, *, ref: str = "") -> None:
        """Tell the client of something that did not work; the call goes on."""
        self._link.send(ErrorMessage(code=code, message=message, ref=ref))

    def bye(self, code: str, message: str = "") -> None:
        """The call is over: what is queued of events still goes out, then `bye`, then the link is to be closed with
        1000.
        """
        if self._link.close_code is None:
            self._farewell = Bye(code=code, message=message)
            self.notify()

    def next_frame(self, now: float) -> str | bytes | None:
        """The next frame to be written, numbered at this moment: control first, then events, then audio. None:
        nothing is ready.
        """
        link, sender, delivery = self._link, self._sender, self.delivery
        if link.control or (delivery is not None and now >= delivery.inbox.ack_at):
            frame = link.next_control(delivery.inbox if delivery is not None else None, now)
            if frame is not None:
                return frame
        if sender is None or delivery is None or link.close_code is not None or delivery.link is not self:
            return None
        sequenced = sender.next()
        if sequenced is not None:
            return sequenced
        if self._farewell is not None:
            link.close_code = 1000
            return encode(self._farewell)
        return None

    def replay_again(self) -> None:
        """Audio was cleared, which a replay must not bring back."""
        if self._sender is not None:
            self._sender.again()

    def slow(self) -> None:
        """The client does not read: end its link; it may resume."""
        if self._link.close_code is None:
            self.refuse(
                ProtocolError(
                    "Too many events wait for this client.", hint="Read faster.", code="slow", close_code=4011
                )
            )

    def lost(self, code: int = 1006) -> None:
        """The WebSocket has ended with `code`: nothing more is written or taken."""
        if self._link.close_code is None:
            self._link.close_code = code
            self.notify()

    def replaced(self) -> None:
        """A newer link of the same call has come."""
        if self._link.close_code is None:
            self._link.close_code = 4009
            self.notify()

    # -- time ----------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When :meth:`tick` or :meth:`next_frame` has something to do, if nothing else happens."""
        return self._link.next_deadline(self.delivery.inbox if self.delivery else None)

    def tick(self, now: float) -> None:
        """Heartbeat and deadlines. Raises ProtocolError if the link is dead or was never opened."""
        self._link.tick(self.delivery.inbox if self.delivery else None, now, what="hello")


def resume_refused() -> ProtocolError:
    """The error for a resume of a call that is unknown, over, or not this client's: it does not say which."""
    return ProtocolError("This call cannot be resumed.", hint="Start a new one.", code="resume", close_code=4004)


def _too_early(what: str) -> ProtocolError:
    return ProtocolError(
        f"{what} came where the opening stands.",
        hint="Send hello once, and nothing else before welcome.",
        code="handshake",
        close_code=4000,
    )


def _bad_audio(pcm: bytes) -> ProtocolError:
    what = f"a payload of {len(pcm)} bytes" if len(pcm) & 1 or not pcm else "audio where none was agreed"
    return ProtocolError(
        f"A frame had {what}.", hint="Send whole PCM16 samples, in the agreed direction.", code="audio_format"
    )
