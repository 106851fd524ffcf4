"""The supervisor: one connection for the session, however many there are below it.

It owns every link to a provider, for every model alike: opens, rotates, recovers and fails over (when is decided by the pure
:mod:`duologue.engine.rotation`), replays to a new link what the old one did not answer, and fences off what an old link
still says. The session sees one :class:`Connection` that stays.

What is replayed. User audio is kept from the *watermark* on: the last sample of the last turn that was answered in full. A
link that takes over gets the history (with tool calls), then the audio after the watermark, in order, once; so a sentence
that was cut in two by a lost link is heard whole by the next. If the turn was over already, it is answered again: by its
text where that is known, else by its audio.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

from ..audio import Resampler, Ring
from ..engine.conversation import Item
from ..engine.rotation import CutOver, GiveUp, Open, Order, Rotation, RotationOptions
from ..errors import DuologueError, ModelConnectionError
from ..events import ResponseOrigin
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
    ProviderSpeech,
    Setup,
    SpeechWindow,
    Spoke,
    SpokenWord,
)

logger = logging.getLogger("duologue.models.supervisor")

#: longest wait for a link to open; the vendors' libraries would wait up to for ever
_OPEN_S = 10.0
#: longest wait for a link to close
_CLOSE_S = 3.0
#: user audio kept for a replay, seconds
_KEEP_S = 60.0
#: user audio before the present that a link which takes over in a quiet moment is given: an onset may be under way
_PREROLL_S = 1.0
#: an answer is owed and the provider has said nothing for so long: it has stalled
STALL_S = 8.0
#: instruction to a link that takes over in the middle of an answer
_GO_ON = (
    "You were cut off in the middle of your last answer. Go on from where it stopped, without greeting or repeating."
)


class Overseer(Protocol):
    """What the supervisor tells the session."""

    def rotated(self, generation: int, model: Model, reason: str, replayed_ms: int) -> None:
        """Another link is in use from now on."""

    def trouble(self, generation: int, model: Model, reason: str, retry_in_s: float) -> None:
        """A link was lost or could not be opened; `retry_in_s` is negative when nothing more is tried."""


class _Owed:
    """An answer that a link owes: to a turn, or to a command."""

    __slots__ = ("end", "instructions", "kind", "origin", "response", "text", "turn")

    def __init__(
        self,
        kind: Literal["turn", "respond", "say"],
        *,
        turn: str = "",
        response: str = "",
        text: str = "",
        end: int = 0,
    ) -> None:
        self.kind = kind
        self.turn = turn
        self.response = response
        self.text = text
        self.end = end  # position of the end of the turn on the user's track
        self.origin: ResponseOrigin = "turn"
        self.instructions = ""


class _Link:
    """One connection below the supervisor, and the session as that connection sees it."""

    def __init__(self, supervisor: Supervisor, model: Model, generation: int) -> None:
        self._supervisor = supervisor
        self.model = model
        self.generation = generation
        self.connection: Connection | None = None
        self.ready = False
        self.dead = False
        mine, theirs = model.capabilities, supervisor.capabilities
        self._up = Resampler(theirs.input_rate, mine.input_rate) if mine.input_rate != theirs.input_rate else None
        self.input_rate = mine.input_rate
        self.output_rate = mine.output_rate
        self.down: dict[str, Resampler] = {}
        self._position: int | None = None

    def audio(self, pcm: bytes, position: int) -> None:
        """User audio at the session's rate."""
        assert self.connection is not None
        if self._up is None:
            self.connection.audio(pcm, position)
            return
        if self._position is None:
            self._position = position * self.input_rate // self._supervisor.capabilities.input_rate
        pcm = self._up.feed(pcm)
        if pcm:
            self.connection.audio(pcm, self._position)
            self._position += len(pcm) // 2

    # the context of the connection

    @property
    def speaks(self) -> bool:
        return self._supervisor.context.speaks

    def report(self, evidence: Evidence) -> None:
        if not self.dead:
            self._supervisor.evidence(self, evidence)

    def next_response(self) -> str:
        return self._supervisor.context.next_response()

    def history(self) -> Sequence[Item]:
        return self._supervisor.context.history()

    def setup(self) -> Setup:
        return self._supervisor.context.setup()

    def room(self, response: str) -> Awaitable[None]:
        return self._supervisor.context.room(response)

    def now(self) -> float:
        return self._supervisor.context.now()

    def spawn(self, run: Callable[[], Awaitable[None]], name: str) -> None:
        async def guarded() -> None:
            try:
                await run()
            except Exception as error:
                logger.debug("generation %d: %s failed", self.generation, name, exc_info=True)
                lost = error if isinstance(error, DuologueError) else ModelConnectionError(f"{name} failed: {error!r}")
                self.report(Lost(error=lost))

        self._supervisor.context.spawn(guarded, name)


class Supervisor(Connection):
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
        self._active: _Link | None = None
        self._next: _Link | None = None
        self._generation = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._last_error: DuologueError | None = None
        keep = any(not candidate.capabilities.in_process for candidate in self.models)
        self._ring = Ring(int(_KEEP_S * self.capabilities.input_rate) * 2) if keep else None
        self._position = 0
        self._owed: _Owed | None = None
        self._in_flight: dict[str, bool] = {}  # responses the active link is making: whether audio came
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
                self._spawn_open(order)
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

    def _spawn_open(self, order: Open) -> None:
        self._generation += 1
        model = self.models[order.candidate]
        link = _Link(self, model, self._generation)
        self._next = link

        async def attempt() -> None:
            try:
                async with asyncio.timeout(_OPEN_S):
                    link.connection = await model.open(link)
            except Exception as error:
                self._attempt_failed(link, error)
                return
            if self._closed or link.dead or self._next is not link:
                await self._close_link(link)
                if link.dead and self._next is link:
                    self._attempt_failed(link, ModelConnectionError("The connection ended while it was being opened."))
                return
            link.ready = True
            self._obey(self._rotation.opened(model.capabilities.connection_s, self._now()))

        logger.debug("generation %d: opening %s (%s)", link.generation, model.name, order.reason)
        self.context.spawn(attempt, f"opening {model.name}")

    def _attempt_failed(self, link: _Link, error: BaseException) -> None:
        link.dead = True
        if isinstance(error, TimeoutError):
            error = ModelConnectionError(f"{link.model.name} did not open within {_OPEN_S:g} s.")
        typed = error if isinstance(error, DuologueError) else ModelConnectionError(f"{link.model.name}: {error!r}")
        self._last_error = typed
        orders = self._rotation.failed(str(typed), typed.retryable, self._now())
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
        link, old = self._next, self._active
        assert link is not None
        assert link.connection is not None
        self._next = None
        self._active = link
        if old is not None:
            old.dead = True
            self.context.spawn(lambda: self._close_link(old), "closing the connection before")
        interrupted = self._end_in_flight() if old is not None else False
        link.connection.begin(self.context.history())
        replayed = self._replay(link) if old is not None or self._position else 0
        if old is None and not self._first.done():
            self._first.set_result(None)
        else:
            reason = order.reason + (" (forced)" if order.forced else "")
            self._overseer.rotated(link.generation, link.model, reason, replayed * 1000 // self.capabilities.input_rate)
        self._pay(link, interrupted)

    def _end_in_flight(self) -> bool:
        """What the link before was making ends where it is. Whether something of it can be heard."""
        audible = False
        for response, audio in list(self._in_flight.items()):
            audible = audible or audio
            if audio:
                self.context.report(Ended(response=response))
        self._in_flight.clear()
        return audible

    def _replay(self, link: _Link) -> int:
        """Give the new link the user audio that nobody answered. Returns how many samples that was."""
        if self._ring is None:
            return 0
        ring = self._ring
        start, end = ring.start, ring.end
        step = self.capabilities.input_rate // 50
        for position in range(start, end, step):
            link.audio(ring.read_from(position, min(step, end - position)), position)
        return end - start

    def _pay(self, link: _Link, interrupted: bool) -> None:
        """An answer was owed by the link before: have the new one give it."""
        owed = self._owed
        assert link.connection is not None
        if owed is None:
            return
        if interrupted:
            link.connection.respond(self.context.next_response(), _GO_ON, "turn")
        elif owed.kind == "turn":
            if owed.text:
                link.connection.text(owed.turn, owed.text)
            link.connection.commit(owed.turn)
        elif owed.kind == "say":
            link.connection.say(owed.response, owed.text, owed.origin)
        else:
            link.connection.respond(owed.response, owed.instructions, owed.origin)
        self._watch()

    async def _close_link(self, link: _Link) -> None:
        link.dead = True
        if link.connection is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_S):
                await link.connection.close()
        except Exception as error:
            logger.debug("generation %d: closing: %r", link.generation, error)

    # ------------------------------------------------------------------ evidence

    def evidence(self, link: _Link, evidence: Evidence) -> None:
        """Take what a link reports, if it is the one in use."""
        if isinstance(evidence, Lost):
            self._link_lost(link, evidence.error)
            return
        if link is not self._active:
            return
        if isinstance(evidence, Ending):
            self._obey(self._rotation.ending(evidence.in_s, self._now()))
            return
        if isinstance(evidence, Spoke):
            self._in_flight[evidence.response] = True
            if link.output_rate != self.capabilities.output_rate:
                evidence = self._converted(link, evidence)
        elif isinstance(evidence, Began):
            self._in_flight[evidence.response] = False
        elif isinstance(evidence, Ended):
            self._answered(evidence)
            link.down.pop(evidence.response, None)
        elif isinstance(evidence, SpeechWindow | ProviderSpeech) and link.input_rate != self.capabilities.input_rate:
            evidence = _rescaled(evidence, self.capabilities.input_rate / link.input_rate)
        if self._stall is not None:
            self._watch()
        self.context.report(evidence)

    def _link_lost(self, link: _Link, error: DuologueError) -> None:
        if link.dead:
            return
        self._last_error = error
        link.dead = True
        self.context.spawn(lambda: self._close_link(link), "closing a lost connection")
        if link is self._active:
            self._unwatch()
            self._overseer.trouble(link.generation, link.model, str(error), 0.0)
            self._obey(self._rotation.lost(str(error), self._now()))
        elif link is self._next and link.ready:
            self._obey(self._rotation.failed(str(error), error.retryable, self._now()))

    def _answered(self, ended: Ended) -> None:
        """A response was made in full: what it answered need not be replayed any more."""
        self._in_flight.pop(ended.response, None)
        owed = self._owed
        if owed is not None and ended.status == "completed" and not self._in_flight:
            self._owed = None
            self._unwatch()
            if self._ring is not None and owed.kind == "turn":
                self._ring.discard_until(owed.end)

    def _converted(self, link: _Link, spoke: Spoke) -> Spoke:
        rate, target = link.output_rate, self.capabilities.output_rate
        resampler = link.down.setdefault(spoke.response, Resampler(rate, target))
        words = tuple(SpokenWord(w.text, w.start * target // rate, w.end * target // rate) for w in spoke.words)
        return Spoke(response=spoke.response, pcm=resampler.feed(spoke.pcm), words=words)

    # ------------------------------------------------------------------ stall

    def _watch(self) -> None:
        self._unwatch()
        if self._owed is not None and self._active is not None and not self._active.model.capabilities.in_process:
            self._stall = self._loop.call_later(STALL_S, self._stalled)

    def _unwatch(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _stalled(self) -> None:
        self._stall = None
        if self._active is not None:
            error = ModelConnectionError(f"{self._active.model.name} has said nothing for {STALL_S:g} s.")
            self._link_lost(self._active, error)

    # ------------------------------------------------------------------ commands

    def audio(self, pcm: bytes, position: int) -> None:
        """See Connection. Kept for a replay as long as it is unanswered; passed on at once if a link is in use."""
        self._position = position + len(pcm) // 2
        if self._ring is not None:
            if position != self._ring.end:
                # The track has a gap. What lies before it cannot be replayed in one piece with what follows.
                self._ring = Ring(int(_KEEP_S * self.capabilities.input_rate) * 2, position=position)
            self._ring.write(pcm)
            if self._quiet and self._owed is None:
                self._ring.discard_until(self._position - int(_PREROLL_S * self.capabilities.input_rate))
        if self._active is not None and not self._active.dead:
            self._active.audio(pcm, position)

    def quiet(self, quiet: bool) -> None:
        """See Connection."""
        if quiet != self._quiet:
            self._quiet = quiet
            self._obey(self._rotation.quiet(quiet and self._owed is None, self._now()))

    def _live(self) -> Connection | None:
        """The link in use, if there is one that is not lost."""
        link = self._active
        return link.connection if link is not None and not link.dead else None

    def _owe(self, owed: _Owed) -> None:
        self._owed = owed
        self._watch()

    def text(self, turn: str, text: str) -> None:
        """See Connection."""
        self._typed = text
        if (live := self._live()) is not None:
            live.text(turn, text)

    def image(self, data: bytes, mime: str) -> None:
        """See Connection."""
        if (live := self._live()) is not None:
            live.image(data, mime)
        elif "image" not in self.capabilities.inputs:
            super().image(data, mime)

    def item(self, item: Item) -> None:
        """See Connection."""
        if (live := self._live()) is not None:
            live.item(item)

    def prepare(self, turn: str, *, reply: bool) -> None:
        """See Connection."""
        if (live := self._live()) is not None:
            live.prepare(turn, reply=reply)

    def commit(self, turn: str) -> None:
        """See Connection."""
        typed, self._typed = self._typed, ""
        self._owe(_Owed("turn", turn=turn, text=typed, end=self._position))
        if (live := self._live()) is not None:
            live.commit(turn)

    def reopen(self, turn: str) -> None:
        """See Connection."""
        self._owed = None
        self._unwatch()
        if (live := self._live()) is not None:
            live.reopen(turn)

    def discard(self, turn: str) -> None:
        """See Connection."""
        if (live := self._live()) is not None:
            live.discard(turn)

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        owed = _Owed("respond", response=response, end=self._position)
        owed.instructions, owed.origin = instructions, origin
        self._owe(owed)
        if (live := self._live()) is not None:
            live.respond(response, instructions, origin)

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        owed = _Owed("say", response=response, text=text, end=self._position)
        owed.origin = origin
        if self._owed is None:
            self._owe(owed)
        if (live := self._live()) is not None:
            live.say(response, text, origin)

    def cancel(self, response: str) -> None:
        """See Connection."""
        self._in_flight.pop(response, None)
        if not self._in_flight:
            self._owed = None
            self._unwatch()
        if (live := self._live()) is not None:
            live.cancel(response)

    def truncate(self, response: str, samples: int) -> None:
        """See Connection."""
        link = self._active
        if link is not None and (live := self._live()) is not None:
            live.truncate(response, samples * link.output_rate // self.capabilities.output_rate)

    def tool_result(self, call: str, name: str, text: str, *, error: bool) -> None:
        """See Connection. Without a link the result waits in the history, which the next one is given."""
        if (live := self._live()) is not None:
            live.tool_result(call, name, text, error=error)

    def update(self, setup: Setup) -> None:
        """See Connection. A model that cannot be told on a live link is given a new one."""
        link = self._active
        if link is None:
            return
        if link.model.capabilities.can_update and (live := self._live()) is not None:
            live.update(setup)
        else:
            self._obey(self._rotation.renew("instructions, tools or voice changed", self._now()))

    def prefer(self, candidate: int) -> None:
        """Go (back) to this candidate by a planned rotation."""
        self._obey(self._rotation.prefer(candidate, self._now()))

    def input_ended(self) -> None:
        """See Connection."""
        if (live := self._live()) is not None:
            live.input_ended()

    async def close(self) -> None:
        """See Connection."""
        self._closed = True
        self._rotation.close()
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
        for link in (self._active, self._next):
            if link is not None:
                await self._close_link(link)


def _rescaled(evidence: SpeechWindow | ProviderSpeech, factor: float) -> Evidence:
    """Positions of a link's own input rate, at the session's."""
    if isinstance(evidence, ProviderSpeech):
        return ProviderSpeech(fact=evidence.fact, position=round(evidence.position * factor))
    return SpeechWindow(
        start=round(evidence.start * factor), end=round(evidence.end * factor), probability=evidence.probability
    )
