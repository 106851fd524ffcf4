"""Who takes part in a session, over which channel: opened, told, away, back, gone."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ..channels.base import Channel
from ..channels.program import Program
from ..errors import ConfigurationError, DuologueError
from ..events import (
    EndReason,
    ErrorEvent,
    Event,
    Input,
    ListenerAway,
    ListenerBack,
    ListenerJoined,
    SessionWaiting,
    encode,
)
from .journal import Reached, Taken
from .playout import Listener
from .ports import SessionPort

if TYPE_CHECKING:
    from .intake import Intake
    from .session import Session

logger = logging.getLogger("duologue.session")

#: time from handing over to rendering that is assumed of a listener until it has acknowledged something
_LAG_S = 0.06


class _Over(NamedTuple):
    """How the call ended that a session has outlived."""

    reason: EndReason
    detail: str


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
        self._output_rate = 0
        self._lost: Counter[str] = Counter()  # by channels that are gone
        self._over: _Over | None = None  # everybody has left, and the session stays
        self._attending = 0  # programs that read answers meanwhile
        self._attended = False
        self._patience: asyncio.TimerHandle | None = None

    async def open(self, intake: Intake, output_rate: int) -> None:
        """Open every channel. Raises a typed error if one cannot work, or two want to be the addressee."""
        self._output_rate = output_rate
        for channel in self.channels:
            await self._admit(channel, intake, joins=False)
        self._choose_addressee()

    async def _admit(self, channel: Channel, intake: Intake, *, joins: bool) -> SessionPort:
        """Open a channel; from now on it is heard and listened to."""
        session = self._session
        port = SessionPort(channel, intake, self, session.conductor.now, joins=joins)
        await channel.start(port)
        port.open()
        self.ports[channel] = port
        traits = channel.traits
        if traits.output_rate is not None and (self.speaks or joins):
            responses = session.conductor.responses
            rate = traits.output_rate or self._output_rate
            channel.opened_at(rate)
            lag = traits.lag_s or (_LAG_S if traits.acknowledges else 0.0)
            port.listener = Listener(channel, responses, asyncio.get_running_loop(), rate=rate, lag_s=lag)
            port.listener.ledger.begin_at(channel.begins_at)
            responses.add(port.listener)
        return port

    def _choose_addressee(self) -> None:
        """History follows who wants it to, or else who hears best."""
        responses = self._session.conductor.responses
        if listeners := responses.listeners:
            chosen = [listener for listener in listeners if listener.traits.addressee]
            if len(chosen) > 1:
                raise ConfigurationError("Two channels want to be the addressee.", hint="History can follow only one.")
            responses.addressee = _best(chosen or listeners)

    def run(self) -> None:
        """Let every channel carry."""
        for channel in list(self.channels):
            self._spawn(channel)

    def _spawn(self, channel: Channel) -> None:
        self._session.spawn(lambda: self._run(channel), f"channel {channel.name}")

    async def _run(self, channel: Channel) -> None:
        try:
            await channel.run()
        except Exception as error:
            self.failed(channel, error)

    def close(self) -> None:
        """Nobody is waited for any more."""
        for timer in self._away.values():
            timer.cancel()
        self._be_patient(None)

    # ------------------------------------------------------------------ coming into a session that runs

    async def join(self, channel: Channel) -> None:
        """Take a channel into the session, in the midst of it. See :meth:`Session.join`.

        It is told how the session began and which long runs are under way, and everything that happens from now on.
        """
        session = self._session
        over, self._over = self._over, None  # who comes second is to find that somebody has come
        self._be_patient(None)
        try:
            port = await self._admit(channel, session.intake, joins=True)
            try:
                session.check_open()
                self._follow(port)
            except BaseException:
                self._dismiss(channel)
                raise
        except BaseException:
            self._over = over
            self.reconsider()
            raise
        self.channels.append(channel)
        for told in (session.started, *session.toolbench.under_way()):
            self._tell(channel, told, encode(told))
        session.conductor.emit(ListenerJoined(participant=channel.name))
        if over is not None:
            self._attended = False
            session.intake.unmute()
        self._somebody()
        self._spawn(channel)
        session.conductor.speaking.joined()
        session.conductor.settle_idleness()

    def _follow(self, port: SessionPort) -> None:
        """Whom history follows now that somebody has joined: nobody else while an answer is being heard."""
        session = self._session
        responses = session.conductor.responses
        if port.listener is not None and (port.listener.traits.addressee or not responses.owed):
            self._choose_addressee()
        speaks = any(entry.channel.traits.output_rate is not None for entry in self.ports.values())
        if speaks != self.speaks:
            self.speaks = session.conductor.speaking.speaks = speaks
            session.setup_changed()

    def _somebody(self) -> None:
        """Somebody is there to be answered: the model may have what it was not given while nobody was."""
        session = self._session
        if not session.conductor.present:
            session.conductor.present = True
            session.toolbench.joined(session.generation)

    @property
    def waiting(self) -> bool:
        """Whether everybody has left and the session stays."""
        return self._over is not None

    @contextmanager
    def attended(self) -> Iterator[None]:
        """A program reads answers meanwhile: in a session that everybody has left, they are made for it."""
        self._attending += 1
        if self._over is not None:
            self._attend()
        try:
            yield
        finally:
            self._attending -= 1
            if self._over is not None and not self._attending:
                self._session.conductor.present = False
                self._session.conductor.settle_idleness()
                self.reconsider()

    def _attend(self) -> None:
        self._attended = True
        self._be_patient(None)
        self._somebody()

    # ------------------------------------------------------------------ staying when everybody has left

    def stay(self, reason: EndReason, detail: str) -> bool:
        """The call is over. Whether the session stays: for a long run, or to tell of one; then nobody takes part any more."""
        session = self._session
        conductor, toolbench = session.conductor, session.toolbench
        news = conductor.speaking.news()
        if not (toolbench.lasting or news):
            return False
        waits = self._over is not None
        self._over = _Over(reason, detail)
        conductor.vacate("everybody has left")
        for channel in [channel for channel in self.channels if channel.traits.essential]:
            self._dismiss(channel)
            self.channels.remove(channel)
            session.spawn(lambda channel=channel: session.bounded(channel.close(reason)), f"closing {channel.name}")  # type: ignore[misc]
        conductor.settle_floor("everybody has left")
        toolbench.vacated()
        if not waits:
            calls = tuple(started.call for started in toolbench.lasting)
            limit = session.definition.limits.untold_s
            conductor.emit(SessionWaiting(reason=reason, calls=(*calls, *sorted(news)), untold_s=limit))
        if self._attending:
            self._attend()
        self.reconsider()
        return True

    def _dismiss(self, channel: Channel) -> None:
        """The channel is out: nobody hears it, and it hears nothing."""
        if (timer := self._away.pop(channel, None)) is not None:
            timer.cancel()
        if (port := self.ports.pop(channel, None)) is None:
            return
        port.close()
        self._lost.update(_losses(channel))
        if (listener := port.listener) is not None:
            responses = self._session.conductor.responses
            responses.remove(listener, _best([entry for entry in responses.listeners if entry is not listener]))

    def reconsider(self) -> None:
        """A long run is done, or a program has gone: is there a reason left to stay?"""
        session = self._session
        if self._over is None or self._attending or session.toolbench.lasting or session.closing:
            return
        if self._attended or session.conductor.speaking.lasting:
            self._be_patient(session.definition.limits.untold_s)
        else:
            session.end(*self._over)

    def _be_patient(self, seconds: float | None) -> None:
        """End in so many seconds, counted from the first time; None: not any more."""
        if seconds is None:
            if self._patience is not None:
                self._patience.cancel()
            self._patience = None
        elif self._patience is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(seconds, self._session.end, "idle", "nobody came back")

    # ------------------------------------------------------------------ what they are told

    def release(self, event: Event, encoded: bytes) -> None:
        """An event is durable: tell the channels. One that fails is not the others' problem."""
        for channel in list(self.channels):
            self._tell(channel, event, encoded)

    def _tell(self, channel: Channel, event: Event, encoded: bytes) -> None:
        try:
            channel.event(event, encoded)
        except Exception:
            logger.debug("%s: channel %s could not take an event", self._session.id, channel.name, exc_info=True)
            self._session.conductor.measures.dropped(f"events:{channel.name}")

    def losses(self) -> dict[str, int]:
        """What channels have thrown away since the session began, by kind; and how often the addressee ran dry."""
        found = dict(self._lost)
        for channel in self.channels:
            for name, n in _losses(channel).items():
                found[name] = found.get(name, 0) + n
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
        if channel in self._away or channel not in self.ports or session.ended is not None:
            return
        grace = session.definition.limits.grace_s
        self._away[channel] = asyncio.get_running_loop().call_later(grace, self.ended, channel, "client_left")
        if (listener := self.ports[channel].listener) is not None:
            listener.away = True
        session.conductor.emit(ListenerAway(participant=channel.name, grace_s=grace))

    def back(self, channel: Channel, gap_events: int, gap_ms: int) -> None:
        """The participant is back."""
        if channel not in self.ports:
            return
        timer = self._away.pop(channel, None)
        if timer is not None:
            timer.cancel()
        if (listener := self.ports[channel].listener) is not None:
            listener.returned()
        self._session.conductor.emit(ListenerBack(participant=channel.name, gap_events=gap_events, gap_ms=gap_ms))

    def ended(self, channel: Channel, reason: str) -> None:
        """The participant has left for good. With an essential one the call is over."""
        if (port := self.ports.get(channel)) is None:
            return
        if (timer := self._away.pop(channel, None)) is not None:
            timer.cancel()
        if (listener := port.listener) is not None:
            listener.away = True
        if not channel.traits.essential:
            if listener is not None:
                responses = self._session.conductor.responses
                responses.remove(listener, _best([entry for entry in responses.listeners if entry is not listener]))
        else:
            ends: EndReason = "error" if reason == "error" else ("hangup" if reason == "hangup" else "client_left")
            self._session.call_over(ends, f"{channel.name}: {reason}")

    def took(self, channel: Channel, epoch: int, n: int) -> None:
        """Journal that an input was taken. What it has set off was journaled just now, so both are committed at once."""
        self._session.conductor.journal.record(Taken(channel.name, epoch, n))

    async def keep(self, channel: Channel, state: bytes, told: int) -> None:
        """Journal how a participant is had back."""
        journal = self._session.conductor.journal
        if not journal.durable:
            return
        durable = asyncio.get_running_loop().create_future()
        journal.record(Reached(channel.name, told + journal.pending, msgspec.Raw(state)))
        journal.when_durable(lambda: None if durable.done() else durable.set_result(None))
        ending = asyncio.ensure_future(self._session.over())
        try:
            await asyncio.wait({durable, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()

    def failed(self, channel: Channel, error: Exception) -> None:
        """A channel raised: tell everybody, and go on without it unless it is essential."""
        if not isinstance(error, DuologueError):
            logger.debug("%s: channel %s failed", self._session.id, channel.name, exc_info=error)
        code = error.code if isinstance(error, DuologueError) else "channel"
        self._session.emit_error(ErrorEvent(code=code, message=f"Channel {channel.name}: {error}"))
        self.ended(channel, "error")


def _losses(channel: Channel) -> dict[str, int]:
    return {f"{kind}:{channel.name}": n for kind, n in channel.losses.items()}


def _best(listeners: Sequence[Listener]) -> Listener | None:
    """Whom history follows: ears rather than programs, and ears that report rather than ears that are guessed at."""
    return min(
        listeners,
        key=lambda entry: (not entry.traits.acknowledges, isinstance(entry.channel, Program)),
        default=None,
    )
