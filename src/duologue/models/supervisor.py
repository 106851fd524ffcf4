"""The supervisor: one connection for the session, however many there are below it.

It owns every link to a provider, for every model alike: opens, rotates, recovers and fails over (when is decided by the pure
:mod:`duologue.engine.rotation`), replays to a new link what the old one did not answer, and fences off what an old link
still says. The session sees one :class:`Connection` that stays.

What is replayed. User audio is kept from the *watermark* on: the last sample of the last turn whose answer has sounded. A
link that takes over gets the history (with tool calls), then the audio after the watermark, in order, once; so a sentence
that was cut in two by a lost link is heard whole by the next. If the turn was over already, it is answered again: by its
text where that is known, else by its audio.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Protocol

import msgspec

from ..engine.rotation import CutOver, GiveUp, Open, Order, Rotation, RotationOptions
from ..errors import DuologueError, ModelConnectionError
from ..events import ResponseOrigin
from .account import Account, Owed
from .base import (
    Began,
    Capabilities,
    Connection,
    Context,
    Ended,
    Ending,
    Evidence,
    Lost,
    Model,
    ProviderCommitted,
    ProviderSpeech,
    Setup,
    SpeechWindow,
    Spoke,
)
from .kept import Kept
from .links import Link
from .opening import Opener
from .relay import Relay
from .stall import StallWatch

logger = logging.getLogger("duologue.models.supervisor")

#: how long after the agent has fallen silent its echo is heard at most, seconds
_ECHO_S = 0.6


class Overseer(Protocol):
    """What the supervisor tells the session."""

    def rotated(self, generation: int, model: Model, reason: str, replayed_ms: int) -> None:
        """Another link is in use from now on."""

    def trouble(self, generation: int, model: Model, reason: str, retry_in_s: float) -> None:
        """A link was lost or could not be opened; `retry_in_s` is negative when nothing more is tried."""


class Supervisor(Relay):
    """See the module. Use: ``await supervisor.open()``, then as any connection."""

    def __init__(
        self,
        model: Model,
        context: Context,
        overseer: Overseer,
        *,
        options: RotationOptions | None = None,
        dice: float | None = None,
    ) -> None:
        self.model = model
        self.models = model.candidates
        self.context = context
        self.capabilities: Capabilities = model.capabilities
        self._overseer = overseer
        self._rotation = Rotation(
            options or RotationOptions(), len(self.models), random.random() if dice is None else dice
        )
        self._loop = asyncio.get_running_loop()
        self._active: Link | None = None
        self._generation = 0
        self._timer: asyncio.TimerHandle | None = None
        self._opener = Opener(context, self)
        self._stall = StallWatch(self._loop, self._now, self._stalled)
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._last_error: DuologueError | None = None
        keep = any(not candidate.capabilities.in_process for candidate in self.models)
        self._kept = Kept(self.capabilities.input_rate) if keep else None
        self._position = 0
        self._account = Account(self.capabilities.input_rate)
        self._setups = 0  # changes of instructions, tools or voice so far
        self._calm, self._owing = True, False  # what the rotation was told
        self._typed = ""
        self._quiet = True
        self._closed = False

    @property
    def active(self) -> Model | None:
        """The model in use."""
        return self._active.model if self._active is not None else None

    @property
    def active_name(self) -> str:
        """Name of the model in use; of the first candidate before there is one."""
        return (self.active or self.models[0]).name

    @property
    def generation(self) -> int:
        """The generation in use."""
        return self._active.generation if self._active is not None else 0

    async def open(self) -> None:
        """Open the first link. Raises the last error when no candidate can be reached."""
        self._obey(self._rotation.start(self._now()))
        await self._first

    def _now(self) -> float:
        return self.context.now()

    # ------------------------------------------------------------------ orders

    def _obey(self, orders: list[Order]) -> None:
        for order in orders:
            if isinstance(order, Open):
                self._open(order)
            elif isinstance(order, CutOver):
                self._cut_over(order)
            elif isinstance(order, GiveUp):
                self._give_up(order)
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._rotation.next_deadline()
        if due < float("inf") and not self._closed:
            self._timer = self._loop.call_at(due, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._obey(self._rotation.wake(max(self._now(), self._rotation.next_deadline())))

    def _open(self, order: Open) -> None:
        self._generation += 1
        model = self.models[order.candidate]
        link = Link(self, model, self._generation)
        link.setups = self._setups
        logger.debug("generation %d: opening %s (%s)", link.generation, model.name, order.reason)
        self._opener.open(link, order.patience_s)

    def opened(self, link: Link) -> None:
        """See Opened."""
        self._obey(self._rotation.opened(link.model.capabilities.connection_s, self._now()))
        if link.setups != self._setups and not link.dead:
            self._catch_up(link)

    def attempt_failed(self, link: Link, error: BaseException, *, elsewhere: bool = False) -> None:
        """See Opened."""
        link.dead = True
        typed = error if isinstance(error, DuologueError) else ModelConnectionError(f"{link.model.name}: {error!r}")
        self._last_error = typed
        orders = self._rotation.failed(str(typed), typed.retryable, self._now(), elsewhere=elsewhere)
        if self._active is not None or not any(isinstance(order, GiveUp) for order in orders):
            wait = max(0.0, self._rotation.next_deadline() - self._now())
            self._overseer.trouble(link.generation, link.model, str(typed), wait if wait < 1e9 else 0.0)
        self._obey(orders)

    def _give_up(self, order: GiveUp) -> None:
        error = self._last_error or ModelConnectionError(order.reason)
        if not self._first.done():
            self._first.set_exception(error)
            return
        self._overseer.trouble(self._generation, self.models[self._rotation.candidate], str(error), -1.0)
        self.context.report(Lost(error=error))

    # ------------------------------------------------------------------ cutting over

    def _cut_over(self, order: CutOver) -> None:
        link, old = self._opener.take(), self._active
        assert link.connection is not None
        self._active = link
        if old is not None:
            self._opener.retire(old, "closing the connection before")
        ends, interrupted = self._account.cut()
        for ended in ends:
            self.context.report(ended)
        owed, history = self._account.owed, list(self.context.history())
        interrupted = interrupted and owed is not None
        text = "" if interrupted or owed is None else owed.said(history)
        if owed is not None and text:
            # The turn is put to the new link by its text: it must not be in the history too.
            history = [item for item in history if not (item.kind == "user" and item.id == owed.turn)]
        start = end = self._position
        if self._kept is not None:
            start, end = self._kept.after(max(self._account.answered_to, owed.end if owed is not None and text else 0))
        link.replayed_to = end
        link.repeats = owed is not None and owed.kind == "turn"
        if old is None and not self._first.done():
            self._first.set_result(None)
        else:
            reason = order.reason + (" (forced)" if order.forced else "")
            ms = (end - start) * 1000 // self.capabilities.input_rate
            self._overseer.rotated(link.generation, link.model, reason, ms)
        link.connection.begin(history)
        if self._kept is not None:
            link.replay(self._kept, start, end)
        self._pay(link, interrupted, text)

    def _pay(self, link: Link, interrupted: bool, text: str) -> None:
        """An answer was owed by the link before: have the new one give it."""
        owed = self._account.owed
        assert link.connection is not None
        if owed is None:
            return
        if interrupted:
            owed = self._account.go_on(owed, self.context.next_response())
        self._watch()
        if owed.kind != "turn":
            self._ask(link, owed)
            return
        if text:
            link.connection.text(owed.turn, text)
        link.connection.commit(owed.turn)

    def _ask(self, link: Link, owed: Owed) -> None:
        """Ask for an answer that is to no turn, unless the user has gone on meanwhile and would be interrupted by it.

        As long as the agent can be heard, what sounds may be its echo. That is known once it is silent.
        """
        if self._closed or link.dead or link is not self._active or self._account.owed is not owed:
            return
        assert link.connection is not None
        if self._kept is not None and self._kept.judge(self._account.answered_to)[0]:
            known_at = self._stall.plays_to + _ECHO_S
            if self._now() < known_at:
                self._loop.call_at(known_at, self._ask, link, owed)
                return
            unnoticed = self._account.waive()
            self._settled()
            if unnoticed:
                self.context.report(Ended(response=unnoticed, status="cancelled"))
        elif owed.kind == "say":
            link.connection.say(owed.response, owed.text, owed.origin)
        else:
            link.connection.respond(owed.response, owed.instructions, owed.origin)

    # ------------------------------------------------------------------ evidence

    def evidence(self, link: Link, evidence: Evidence) -> None:
        """Take what a link reports, if it is the one in use."""
        # A window comes thirty times a second, and is no sign of life from the provider.
        if type(evidence) is SpeechWindow and link is self._active:
            if (window := link.news(evidence, self._account)) is not None:
                self.context.report(window)
            return
        if isinstance(evidence, Lost):
            self._link_lost(link, evidence.error)
            return
        if link is not self._active:
            return
        if isinstance(evidence, Ending):
            self._obey(self._rotation.ending(evidence.in_s, self._now()))
            return
        self._alive()
        if isinstance(evidence, ProviderSpeech | ProviderCommitted):
            if (news := link.news(evidence, self._account)) is not None:
                self.context.report(news)
            return
        if (response := getattr(evidence, "response", None)) is None:
            self.context.report(evidence)
            return
        if isinstance(evidence, Began) and self._account.takes_up(evidence):
            return
        if (ours := self._account.ours(response)) != response:
            evidence = msgspec.structs.replace(evidence, response=ours)
        if isinstance(evidence, Spoke) and self._account.makes(evidence.response):
            self._stall.spoke(len(evidence.pcm) / 2 / link.output_rate)
        elif isinstance(evidence, Ended) and (tail := link.tail(evidence.response)):
            self.context.report(Spoke(response=evidence.response, pcm=tail))
        if self._account.note(evidence, speaks=self.context.speaks):
            self._settled()
        self._alive()
        self.context.report(evidence if not isinstance(evidence, Spoke) else link.converted(evidence))

    def _link_lost(self, link: Link, error: DuologueError, *, stalled: bool = False) -> None:
        if link.dead:
            return
        self._last_error = error
        self._opener.retire(link, "closing a lost connection")
        if link is self._active:
            self._stall.stop()
            self._overseer.trouble(link.generation, link.model, str(error), 0.0)
            self._obey(self._rotation.lost(str(error), self._now(), elsewhere=stalled))
        elif link is self._opener.next and link.ready:
            self._obey(self._rotation.failed(str(error), error.retryable, self._now()))

    def _settled(self) -> None:
        """Nothing is owed any more."""
        self._stall.stop()
        self._tell_quiet()

    # ------------------------------------------------------------------ stall

    def _watch(self) -> None:
        self._stall.stop()
        if (
            self._account.owed is not None
            and self._active is not None
            and not self._active.model.capabilities.in_process
        ):
            self._stall.begin()

    def _alive(self) -> None:
        """The provider has said something."""
        if self._stall.on:
            self._stall.alive(self.context.speaks and self._account.sounds)

    def _stalled(self) -> None:
        if self._active is not None:
            error = ModelConnectionError(f"{self._active.model.name} said nothing for too long: an answer is due.")
            self._link_lost(self._active, error, stalled=True)

    # ------------------------------------------------------------------ commands

    def audio(self, pcm: bytes, position: int) -> None:
        """See Connection. Kept for a replay as long as it is unanswered; passed on at once if a link is in use."""
        self._position = position + (len(pcm) >> 1)
        link = self._active
        live = link is not None and not link.dead
        if (kept := self._kept) is not None:
            kept.write(pcm, position)
            if live and self._quiet and self._account.owed is None:
                kept.nobody_speaks(self._account.heard_to)
            self._tell_quiet()
        if live and (link := self._active) is not None and not link.dead:  # what is calm enough may change the link
            link.audio(pcm, position)

    def quiet(self, quiet: bool) -> None:
        """See Connection."""
        self._quiet = quiet
        self._tell_quiet()

    def _tell_quiet(self) -> None:
        """A change goes unnoticed where nobody speaks and no link owes anything."""
        account = self._account
        sounds, waits = self._kept.judge(account.answered_to) if self._kept is not None else (False, False)
        owing = waits or account.owed is not None
        calm = self._quiet and not owing and not sounds
        if calm is not self._calm or owing is not self._owing:
            self._calm, self._owing = calm, owing
            self._obey(self._rotation.quiet(calm, self._now(), owing=owing))

    def live(self) -> Connection | None:
        """See Relay."""
        link = self._active
        return link.connection if link is not None and not link.dead else None

    def _expect(self) -> None:
        """An answer is owed from now on."""
        self._tell_quiet()
        self._watch()

    def text(self, turn: str, text: str) -> None:
        """See Connection."""
        self._typed = text
        if (live := self.live()) is not None:
            live.text(turn, text)

    def commit(self, turn: str) -> None:
        """See Connection."""
        typed, self._typed = self._typed, ""
        if self._account.commit(turn, typed, self._position):
            self._expect()
        else:
            self._settled()
        if (live := self.live()) is not None:
            live.commit(turn)

    def reopen(self, turn: str) -> None:
        """See Connection."""
        self._account.reopen()
        self._settled()
        if (live := self.live()) is not None:
            live.reopen(turn)

    def discard(self, turn: str) -> None:
        """See Connection."""
        self._account.discard()
        if (live := self.live()) is not None:
            live.discard(turn)

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        owed = Owed("respond", response=response, instructions=instructions, origin=origin, end=self._position)
        self._account.owe(owed)
        self._expect()
        if (live := self.live()) is not None:
            live.respond(response, instructions, origin)

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        if self._account.owed is None:
            self._account.owe(Owed("say", response=response, text=text, origin=origin, end=self._position))
            self._expect()
        if (live := self.live()) is not None:
            live.say(response, text, origin)

    def cancel(self, response: str) -> None:
        """See Connection."""
        if self._account.cancel(response):
            self._settled()
        if (live := self.live()) is not None:
            live.cancel(self._account.theirs(response))

    def truncate(self, response: str, samples: int) -> None:
        """See Connection."""
        link = self._active
        if link is not None and (live := self.live()) is not None:
            live.truncate(self._account.theirs(response), samples * link.output_rate // self.capabilities.output_rate)

    def update(self, setup: Setup) -> None:
        """See Connection. A model that cannot be told on a live link is given a new one."""
        self._setups += 1
        link, following = self._active, self._opener.next
        if link is None:
            return
        if link.model.capabilities.can_update and (live := self.live()) is not None:
            live.update(setup)
            if following is not None and following.ready and not following.dead:
                self._catch_up(following)
        else:
            self._obey(self._rotation.renew("instructions, tools or voice changed", self._now()))

    def _catch_up(self, link: Link) -> None:
        """A successor was opened before the last change of instructions, tools or voice."""
        assert link.connection is not None
        link.setups = self._setups
        if link.model.capabilities.can_update:
            link.connection.update(self.context.setup())
        else:
            self._obey(self._rotation.renew("instructions, tools or voice changed", self._now()))

    def prefer(self, candidate: int) -> None:
        """Go (back) to this candidate by a planned rotation."""
        self._obey(self._rotation.prefer(candidate, self._now()))

    async def close(self) -> None:
        """See Connection."""
        self._closed = True
        self._opener.close()
        self._rotation.close()
        self._stall.stop()
        if self._timer is not None:
            self._timer.cancel()
        for link in (self._active, self._opener.next):
            if link is not None:
                await self._opener.close_link(link)
