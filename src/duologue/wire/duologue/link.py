"""What both sides do alike on one WebSocket: control lane, heartbeat, clock, and the answer to a broken rule."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from duologue.engine.clocksync import ClockSync
from duologue.engine.delivery import Gap, Inbox
from duologue.engine.link import Beat, Heartbeat
from duologue.errors import ProtocolError
from duologue.wire.duologue.messages import Ack, ErrorMessage, GapMessage, Message, Ping, Pong, encode


class Refused(NamedTuple):
    """Something came that could not be taken; its sender has been told, and the link goes on. `samples`: audio
    dropped.
    """

    error: ProtocolError
    samples: int = 0


class Link:
    """The part of a protocol side that lives as long as its WebSocket.

    Args:
        max_errors: non-fatal errors of the other side before the link is closed with 4002.
        wake: called when a frame became ready outside of the I/O driver's own calls.

    Attributes:
        control: control messages that wait, encoded.
        heartbeat: runs once the opening is done.
        close_code: set once the link must end: the driver sends what `next_frame` still gives, and closes with it.
        clock: the peer's clock against ours.
        errors: non-fatal errors of the other side.
    """

    __slots__ = ("_deadline", "_max_errors", "clock", "close_code", "control", "errors", "heartbeat", "wake")

    def __init__(self, *, max_errors: int, deadline: float, wake: Callable[[], None] | None = None) -> None:
        self.control: deque[str] = deque()
        self.heartbeat: Heartbeat | None = None
        self._deadline: float | None = deadline
        self._max_errors = max_errors
        self.close_code: int | None = None
        self.clock = ClockSync()
        self.errors = 0
        self.wake: Callable[[], None] = wake or _nobody

    def opened(self, *, heartbeat_s: float, miss_s: float, now: float) -> None:
        """The opening is done: the heartbeat begins with a ping."""
        self._deadline = None
        self.heartbeat = Heartbeat(every=heartbeat_s, miss=miss_s, now=now)

    def send(self, message: Message) -> None:
        """Queue a control message; it overtakes everything that has a number."""
        self.control.append(encode(message))
        self.wake()

    def next_control(self, inbox: Inbox | None, now: float) -> str | None:
        """The next control message to be written, acknowledgements that are due included."""
        if self.control:
            return self.control.popleft()
        if inbox is not None and now >= inbox.ack_at and self.close_code is None:
            epoch, n = inbox.ack_now()
            return encode(Ack(e=epoch, n=n))
        return None

    def received(self, now: float) -> None:
        """Something arrived."""
        if self.heartbeat is not None:
            self.heartbeat.received(now)

    def ping(self, message: Ping, now: float) -> None:
        """Answer a ping."""
        self.send(Pong(t=message.t, r=now))

    def pong(self, message: Pong, now: float) -> None:
        """Take a clock sample."""
        self.clock.pong(message.t, message.r, now)

    def refuse(self, error: ProtocolError, ref: str = "", samples: int = 0) -> list[Refused]:
        """Tell the other side of its error. Raises it again if it ends the link, having set `close_code`."""
        if error.close_code is None:
            self.errors += 1
            if self.errors > self._max_errors:
                error = ProtocolError(
                    f"{self.errors} errors on one link; the last: {error.message}",
                    hint="Mend this client.",
                    code="too_many_errors",
                    close_code=4002,
                )
        fatal = error.close_code is not None
        self.send(ErrorMessage(code=error.code, message=str(error), fatal=fatal, ref=ref))
        if fatal:
            self.close_code = error.close_code
            raise error
        return [Refused(error, samples)]

    def next_deadline(self, inbox: Inbox | None) -> float:
        """When :meth:`tick` has something to do."""
        if self.heartbeat is None:
            return self._deadline if self._deadline is not None else float("inf")
        due = self.heartbeat.next_deadline()
        return due if inbox is None or inbox.ack_at > due else inbox.ack_at

    def tick(self, inbox: Inbox | None, now: float, *, what: str) -> None:
        """Ping when due, and have an acknowledgement written that is due. Raises ProtocolError when the link is dead
        (4010) or was never opened (4006).
        """
        if self.close_code is not None:
            return
        if inbox is not None and now >= inbox.ack_at:
            self.wake()
        if self.heartbeat is None:
            if self._deadline is not None and now >= self._deadline:
                self._deadline = None
                self.refuse(
                    ProtocolError(
                        f"No {what} came in time.", hint="Open the call first.", code="handshake", close_code=4006
                    )
                )
            return
        beat = self.heartbeat.tick(now)
        if beat is Beat.PING:
            self.send(Ping(t=now))
        elif beat is Beat.DEAD:
            self.refuse(
                ProtocolError(
                    "Nothing was received for too long; the link is taken for dead.",
                    hint="Resume on a new link.",
                    code="link_dead",
                    close_code=4010,
                )
            )


def _nobody() -> None:
    """Whom a link tells that drives its I/O by itself."""


def gap_message(gap: Gap, rate: int) -> GapMessage:
    """The message that stands for `gap` in the sequence; `rate` is that of the direction's audio (0: it has none)."""
    ms = gap.samples * 1000 // rate if rate and gap.samples > 0 else gap.samples
    return GapMessage(
        first=gap.first, last=gap.last, events=gap.events, samples=gap.samples, ms=ms, position=gap.track, why=gap.why
    )
