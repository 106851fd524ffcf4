"""Who takes part in a session, over which channel: opened, told, away, back, gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..channels.base import Channel
from ..channels.program import Program
from ..errors import ConfigurationError, DuologueError
from ..events import EndReason, ErrorEvent, Event, Input, ListenerAway, ListenerBack
from .playout import Listener
from .ports import SessionPort

if TYPE_CHECKING:
    from .intake import Intake
    from .session import Session

logger = logging.getLogger("duologue.session")

#: time from handing over to rendering that is assumed of a listener until it has acknowledged something
_LAG_S = 0.06


class Participants:
    """The channels of one session.

    A program that has the session in its hands takes part like anybody else, through `program`; it carries audio if it is alone.
    """

    def __init__(self, session: Session, channels: Sequence[Channel], *, text_only: bool) -> None:
        self._session = session
        self.channels = list(channels)
        program = next((channel for channel in self.channels if isinstance(channel, Program)), None)
        if program is None:
            program = Program(audio=not self.channels and not text_only)
            self.channels.append(program)
        self.program = program
        #: whether anybody hears the agent; if not, answers are only text
        self.speaks = not text_only and any(channel.traits.output_rate is not None for channel in self.channels)
        self.ports: dict[Channel, SessionPort] = {}
        self._away: dict[Channel, asyncio.TimerHandle] = {}

    async def open(self, intake: Intake, output_rate: int) -> None:
        """Open every channel. Raises a typed error if one cannot work, or two want to be the addressee."""
        session = self._session
        responses = session.conductor.responses
        for channel in self.channels:
            port = SessionPort(channel, intake, self, session.conductor.now)
            await channel.start(port)
            port.open()
            self.ports[channel] = port
            traits = channel.traits
            if traits.output_rate is None or not self.speaks:
                continue
            rate = traits.output_rate or output_rate
            channel.opened_at(rate)
            lag = traits.lag_s or (_LAG_S if traits.acknowledges else 0.0)
            port.listener = Listener(channel, responses, asyncio.get_running_loop(), rate=rate, lag_s=lag)
            responses.listeners.append(port.listener)
        if listeners := responses.listeners:
            chosen = [listener for listener in listeners if listener.traits.addressee]
            if len(chosen) > 1:
                raise ConfigurationError("Two channels want to be the addressee.", hint="History can follow only one.")
            responses.addressee = _best(chosen or listeners)

    def run(self) -> None:
        """Let every channel carry."""
        for channel in list(self.channels):
            self._session.spawn(lambda channel=channel: self._run(channel), f"channel {channel.name}")  # type: ignore[misc]

    async def _run(self, channel: Channel) -> None:
        try:
            await channel.run()
        except Exception as error:
            self.failed(channel, error)

    def close(self) -> None:
        """Nobody is waited for any more."""
        for timer in self._away.values():
            timer.cancel()

    # ------------------------------------------------------------------ what they are told

    def release(self, event: Event, encoded: bytes) -> None:
        """An event is durable: tell the channels. One that fails is not the others' problem."""
        for channel in self.channels:
            try:
                channel.event(event, encoded)
            except Exception:
                logger.debug("%s: channel %s could not take an event", self._session.id, channel.name, exc_info=True)
                self._session.conductor.measures.dropped(f"events:{channel.name}")

    def losses(self) -> dict[str, int]:
        """What channels have thrown away since the session began, by kind; and how often the addressee ran dry."""
        found = {f"{kind}:{channel.name}": n for channel in self.channels for kind, n in channel.losses.items()}
        if (addressee := self._session.conductor.responses.addressee) is not None:
            found["underruns"] = addressee.ledger.underruns
        return found

    # ------------------------------------------------------------------ what becomes of them (Attendance)

    def input(self, message: Input) -> None:
        """An input that is not audio."""
        self._session.user_input(message)

    def refused(self, error: DuologueError) -> None:
        """Something a participant sent could not be taken; tell everybody who can act."""
        self._session.emit_error(ErrorEvent(code=error.code, message=str(error)))

    def away(self, channel: Channel) -> None:
        """A participant's link dropped: playout freezes, patience begins."""
        session = self._session
        if channel in self._away or session.ended is not None:
            return
        grace = session.definition.limits.grace_s
        self._away[channel] = asyncio.get_running_loop().call_later(grace, self.ended, channel, "client_left")
        if (listener := self.ports[channel].listener) is not None:
            listener.away = True
        session.conductor.emit(ListenerAway(participant=channel.name, grace_s=grace))

    def back(self, channel: Channel, gap_events: int, gap_ms: int) -> None:
        """The participant is back."""
        timer = self._away.pop(channel, None)
        if timer is not None:
            timer.cancel()
        if (listener := self.ports[channel].listener) is not None:
            listener.returned()
        self._session.conductor.emit(ListenerBack(participant=channel.name, gap_events=gap_events, gap_ms=gap_ms))

    def ended(self, channel: Channel, reason: str) -> None:
        """The participant has left for good; the last essential one takes the session with it."""
        if (timer := self._away.pop(channel, None)) is not None:
            timer.cancel()
        if (listener := self.ports[channel].listener) is not None:
            listener.away = True
        if not channel.traits.essential:
            if listener is not None:
                responses = self._session.conductor.responses
                responses.remove(listener, _best([entry for entry in responses.listeners if entry is not listener]))
        else:
            ends: EndReason = "error" if reason == "error" else ("hangup" if reason == "hangup" else "client_left")
            self._session.end(ends, f"{channel.name}: {reason}")

    def failed(self, channel: Channel, error: Exception) -> None:
        """A channel raised: tell everybody, and go on without it unless it is essential."""
        if not isinstance(error, DuologueError):
            logger.debug("%s: channel %s failed", self._session.id, channel.name, exc_info=error)
        code = error.code if isinstance(error, DuologueError) else "channel"
        self._session.emit_error(ErrorEvent(code=code, message=f"Channel {channel.name}: {error}"))
        self.ended(channel, "error")


def _best(listeners: Sequence[Listener]) -> Listener | None:
    """Whom history follows: ears rather than programs, and ears that report rather than ears that are guessed at."""
    return min(
        listeners,
        key=lambda entry: (not entry.traits.acknowledges, isinstance(entry.channel, Program)),
        default=None,
    )
