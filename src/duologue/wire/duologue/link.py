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
        close_code: set once the link must end: the driver sends what `next_frame` still gives, and closes with it.
        clock: the peer's clock against ours.
        errors: non-fatal errors of the other side.
    """

    __slots__ = ("_control", "_deadline", "_heartbeat", "_max_errors", "clock", "close_code", "errors", "wake")

    def __init__(self, *, max_errors: int, deadline: float, wake: Callable[[], None] | None = None) -> None:
        self._control: deque[str] = deque()
        self._heartbeat: Heartbeat | None = None
        self._deadline: float | None = deadline
        self._max_errors = max_errors
        self.close_code: int | None = None
        self.clock = ClockSync()
        self.errors = 0
        self.wake = wake

    def opened(self, *, heartbeat_s: float, miss_s: float, now: float) -> None:
        """The opening is done: the heartbeat begins with a ping."""
        self._deadline = None
        self._heartbeat = Heartbeat(every=heartbeat_s, miss=miss_s, now=now)

    def send(self, message: Message) -> None:
        """Queue a control message; it overtakes everything that has a number."""
        self._control.append(encode(message))
        self.notify()

    def notify(self) -> None:
        """Something may be ready to be written."""
        if self.wake is not None:
            self.wake()

    def next_control(self, inbox: Inbox | None, now: float) -> str | None:
        """The next control message to be written, acknowledgements that are due included."""
        if self._control:
            return self._control.popleft()
        if inbox is not None and self.close_code is None:
            ack = inbox.ack_due(now)
            if ack is not None:
                return encode(Ack(e=ack[0], n=ack[1]))
        return None

    def received(self, now: float) -> None:
        """Something arrived."""
        if self._heartbeat is not None:
            self._heartbeat.received(now)

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
        if self._heartbeat is None:
            return self._deadline if self._deadline is not None else float("inf")
        due = self._heartbeat.next_deadline()
        ack = inbox.next_deadline() if inbox is not None else None
        return due if ack is None or ack > due else ack

    def tick(self, now: float, *, what: str) -> None:
        """Ping when due. Raises ProtocolError when the link is dead (4010) or was never opened (4006)."""
        if self.close_code is not None:
            return
        if self._heartbeat is None:
            if self._deadline is not None and now >= self._deadline:
                self._deadline = None
                self.refuse(
                    ProtocolError(
                        f"No {what} came in time.", hint="Open the call first.", code="handshake", close_code=4006
                    )
                )
            return
        beat = self._heartbeat.tick(now)
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


def gap_message(gap: Gap, rate: int) -> GapMessage:
    """The message that stands for `gap` in the sequence; `rate` is that of the direction's audio (0: it has none)."""
    ms = gap.samples * 1000 // rate if rate and gap.samples > 0 else gap.samples
    return GapMessage(
        first=gap.first, last=gap.last, events=gap.events, samples=gap.samples, ms=ms, position=gap.track, why=gap.why
    )
