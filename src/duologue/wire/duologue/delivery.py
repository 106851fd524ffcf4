"""What a server keeps of one client across its links: what it sent, what it received, and what still waits.

The session's side of the call lives here and may be used whether a client is there or not. Two lanes wait for
transmission: events, and audio; events go first, and a number is assigned when a frame leaves. Without a link events
are numbered at once, so that the outbox bounds them and a resume reports what it had to let go; audio waits, since
playout freezes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from duologue.engine.delivery import Inbox, Outbox, Position
from duologue.engine.link import Grace, ResumeTokens
from duologue.errors import AudioFormatError, LimitExceededError, ProtocolError
from duologue.wire.duologue.frames import LAST, MAX_PAYLOAD
from duologue.wire.duologue.messages import AudioSpec, Capabilities, Clear, Duck, Message, encode_event
from duologue.wire.duologue.options import ServerOptions

# A named tuple's own constructor is a Python function.
_make = tuple.__new__

if TYPE_CHECKING:
    from duologue.wire.duologue.server import ServerProtocol

#: an acknowledgement falls due so long after the first message it covers; its driver has the rest of 250 ms to write it
ACK_AFTER_S = 0.2
#: audio that may have been sent beyond what the client has rendered (`LedgerOptions.unacknowledged_max_s`), and some more
_AHEAD_S = 4.0
#: clears that may wait for their answer; a client that answers none is estimated anyway
_MAX_CLEARS = 32
#: response numbers that are remembered; audio of more responses is never in flight at once
_MAX_NUMBERS = 64


class Queued(NamedTuple):
    """Audio that waits for transmission."""

    pcm: bytes
    position: int
    response: str
    offset: int
    flags: int


class ServerDelivery:
    """One client of a session, over all its links.

    Args:
        session: id of the call, stated to the client.
        token: the first resume token, an unguessable secret. Each opening replaces it.
        input, output: agreed formats (None: no audio in that direction).
        capabilities: what the client said it can do.
        epoch: the owner of the session, at least 1.

    Attributes:
        outbox, inbox: the two sequences.
        position: end of the listener's track, queued audio included; `transmitted`: end of what went out.
        played: playout position last acknowledged.
        capture: end of the user's track as received.
        link: the protocol side that is attached now, if any.
        opened: whether one ever was; until then events wait for the first, which has nothing to catch up with.
        grace: runs while no link is attached.
        dropped: samples of queued audio that a clear took before they were transmitted.
    """

    def __init__(
        self,
        *,
        session: str,
        token: str,
        input: AudioSpec | None,
        output: AudioSpec | None,
        capabilities: Capabilities | None = None,
        epoch: int = 1,
        options: ServerOptions | None = None,
    ) -> None:
        self.options = options or ServerOptions()
        self.session = session
        self.input = input
        self.output = output
        self.capabilities = capabilities or Capabilities()
        self.tokens = ResumeTokens(token)
        self.grace = Grace(self.options.grace_s)
        rate = output.rate if output else 0
        self._most_samples = self.options.queue_audio_s * rate
        self.outbox = Outbox(
            epoch=epoch,
            audio_samples=max(1, int(self.options.keep_audio_s * rate)),
            event_bytes=self.options.keep_event_bytes,
        )
        self.inbox = Inbox(epoch=epoch, ack_after_s=ACK_AFTER_S)
        self.link: ServerProtocol | None = None
        self.opened = False
        self.position = 0
        self.transmitted = 0
        self.played = 0
        self.capture = 0
        self.dropped = 0
        self.events: deque[str] = deque()
        self.audio: deque[Queued] = deque()
        self.queued_samples = 0
        self.controls = 0
        self.clears: dict[int, Clear] = {}
        self.gain: Duck | None = None
        self._numbers: dict[str, int] = {}
        self._last_number = 0
        #: of a client that another owner had before: from where on its audio is wanted again, until it has come back once
        self.recall: int | None = None
        #: inputs up to this position had been taken before
        self.taken = (0, 0)

    @property
    def epoch(self) -> int:
        return self.outbox.sent.epoch

    def inherit(self, played: int, wanted: int, taken: tuple[int, int]) -> None:
        """Take a client over from an owner that was lost, which has rendered `played`.

        It is to send its audio from capture position `wanted` on again; inputs up to position `taken` are not taken again. The
        listener's track goes on beyond whatever may have been sent.
        """
        self.recall, self.taken = wanted, taken
        self.inbox = Inbox(epoch=self.epoch, last=Position(1, 0), ack_after_s=ACK_AFTER_S)
        rate = self.output.rate if self.output else 0
        self.position = self.transmitted = self.played = played + int(_AHEAD_S * rate)
        self.opened = True

    def advance(self, epoch: int) -> None:
        """A new owner. Raises ProtocolError if `epoch` does not follow."""
        self.outbox.advance(epoch)
        self.inbox.announce(epoch)

    # -- what the session sends --------------------------------------------------------------------------------------

    def send_event(self, event: bytes | str) -> None:
        """Queue an event given as its JSON (`duologue.events.encode`, done once for all listeners).

        A client that does not read until the queue is full has its link closed (4011); it may resume.
        """
        text = event if isinstance(event, str) else event.decode()
        link = self.link
        if link is None and self.opened:
            self._number(text)
            return
        self.events.append(text)
        if link is None:
            return
        if len(self.events) > self.options.queue_events:
            link.slow()
        else:
            link.notify()

    def send_audio(
        self, pcm: bytes, *, response: str, offset: int, position: int | None = None, last: bool = False
    ) -> int:
        """Queue audio of `response`, samples from `offset` on, at `position` of the listener's track (None: its end).

        `last` marks the end of the response; `pcm` may then be empty. Returns the position.

        Raises:
            AudioFormatError: odd byte count, or this client takes no audio.
            LimitExceededError: more than `queue_audio_s` would wait; stop generating until the client is back.
            ProtocolError: `position` lies before the end of the track.
        """
        if self.output is None:
            raise AudioFormatError("This client takes no audio.", hint="Send it events only.")
        if len(pcm) & 1:
            raise AudioFormatError(f"PCM16 has two bytes a sample, not {len(pcm)} in all.", hint="Send whole samples.")
        at = self.position if position is None else position
        if at < self.position:
            raise ProtocolError(f"Audio at {at} cannot follow audio up to {self.position}.", hint="A track only grows.")
        size = len(pcm)
        samples = size >> 1
        if self.queued_samples + samples > self._most_samples:
            raise LimitExceededError(
                f"{self.options.queue_audio_s} s of audio wait for the client already.",
                hint="Stop generating, and go on when it has caught up.",
            )
        self.position = at + samples
        told = bool(self.audio)  # a link that still has some to write needs no telling
        if size <= MAX_PAYLOAD:
            self.audio.append(_make(Queued, (pcm, at, response, offset, LAST if last else 0)))
        else:
            for start in range(0, size, MAX_PAYLOAD):
                done = start + MAX_PAYLOAD >= size
                piece = pcm[start : start + MAX_PAYLOAD]
                half = start >> 1
                self.audio.append(Queued(piece, at + half, response, offset + half, LAST if last and done else 0))
        self.queued_samples += samples
        if not told and self.link is not None:
            self.link.notify()
        return at

    def clear(self, response: str = "") -> Clear:
        """Silence `response` (or everything) at the client: what waits is dropped, what it has it drops and answers
        `cleared`.
        """
        kept: deque[Queued] = deque()
        for queued in self.audio:
            if response and queued.response != response:
                kept.append(queued)
            else:
                self.queued_samples -= len(queued.pcm) >> 1
                self.dropped += len(queued.pcm) >> 1
        self.audio = kept
        # What stays queued of other responses lies at higher positions than what was transmitted, and must survive.
        before = min((queued.position for queued in kept), default=self.position)
        self.outbox.clear_audio(before, response)
        self.controls += 1
        message = Clear(c=self.controls, before=before, response=response)
        self.clears[message.c] = message
        if len(self.clears) > _MAX_CLEARS:
            del self.clears[next(iter(self.clears))]
        self._control(message)
        if self.link is not None:
            self.link.replay_again()
        return message

    def duck(self, gain_db: float, *, ramp_ms: int = 0) -> None:
        """Render at `gain_db` (at most 0; 0: as it is) from now on; nothing is sent to a client that cannot."""
        if not self.capabilities.duck:
            return
        self.controls += 1
        self.gain = Duck(c=self.controls, gain_db=gain_db, ramp_ms=ramp_ms)
        self._control(self.gain)

    # -- for the protocol side -----------------------------------------------------------------------------------------

    def detach(self, link: ServerProtocol, now: float) -> None:
        """`link` is gone: the grace period begins, unless another link has taken over already."""
        if self.link is not link:
            return
        self.link = None
        self.grace.start(now)
        self.flush_events()

    def flush_events(self) -> None:
        """Number the events that no link has transmitted, so that a replay has them."""
        while self.events:
            self._number(self.events.popleft())

    def number(self, response: str) -> int:
        """The number that frames of `response` carry."""
        number = self._numbers.get(response)
        if number is None:
            self._last_number = number = self._last_number + 1
            self._numbers[response] = number
            if len(self._numbers) > _MAX_NUMBERS:
                del self._numbers[next(iter(self._numbers))]
        return number

    def _number(self, text: str) -> None:
        epoch, n = self.outbox.next()
        self.outbox.push_event(encode_event(epoch, n, text))

    def _control(self, message: Message) -> None:
        if self.link is not None:
            self.link.send_control(message)
