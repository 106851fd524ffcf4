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
from collections.abc import Sequence
from typing import Protocol

import msgspec

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
    ProviderCommitted,
    ProviderSpeech,
    Said,
    Setup,
    SpeechWindow,
    Spoke,
    ToolRequested,
)
from .kept import Kept
from .links import Link, Owed
from .opening import Opener
from .stall import StallWatch

logger = logging.getLogger("duologue.models.supervisor")

#: length of a piece of a replay: the fewer, the sooner the link has caught up
_REPLAY_S = 0.2
#: after the position at which the user is said to have stopped, what may still belong to the turn (seconds)
_TAIL_S = 0.2
#: how long after the agent has fallen silent its echo is heard at most, seconds
_ECHO_S = 0.6
#: responses of whose other name is kept
_REMEMBERED = 64
#: instruction to a link that takes over in the middle of an answer
_GO_ON = (
    "You were cut off in the middle of your last answer. Go on from where it stopped, without greeting or repeating."
)
#: the same, where no word of that answer is known: it is not in the history, and would be looked for in the one before
_ANEW = "Your answer to what the user said last was cut off as it began. Give it again, without greeting."


class Overseer(Protocol):
    """What the supervisor tells the session."""

    def rotated(self, generation: int, model: Model, reason: str, replayed_ms: int) -> None:
        """Another link is in use from now on."""

    def trouble(self, generation: int, model: Model, reason: str, retry_in_s: float) -> None:
        """A link was lost or could not be opened; `retry_in_s` is negative when nothing more is tried."""


class _Made:
    """What a response under way has come to."""

    __slots__ = ("audible", "calls", "loose", "text", "turn")

    def __init__(self, began: Began) -> None:
        self.turn = began.turn
        #: the provider made it by itself and says of no turn that it answers it: it answers the one that is owed
        self.loose = began.origin == "turn" and not began.turn
        self.text = False
        self.audible = False
        self.calls = False


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
        self._active: Link | None = None
        self._generation = 0
        self._timer: asyncio.TimerHandle | None = None
        self._opener = Opener(context, self)
        self._stall = StallWatch(self._loop, self._now, self._stalled)
        self._ahead: dict[str, str] = {}  # finished answers to turns that are not over yet: response, turn
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._last_error: DuologueError | None = None
        keep = any(not candidate.capabilities.in_process for candidate in self.models)
        self._kept = Kept(self.capabilities.input_rate) if keep else None
        self._position = 0
        self._owed: Owed | None = None
        self._in_flight: dict[str, _Made] = {}  # responses that the link in use is making
        self._wordless = False  # whether no word is known of the one that was cut off last
        self._reuse = ""  # a response that the link before had begun, for the one in use to make
        self._alias: dict[str, str] = {}  # by the link's id of such a response: the session's
        self._committed_to = 0  # position of the end of the last committed turn
        self._heard_to = 0  # position of the end of the last window reported
        self._stopped_at = 0  # position at which a provider last heard the user stop
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
        interrupted = self._end_in_flight()
        owed, history = self._owed, list(self.context.history())
        text = "" if interrupted else self._text_of(owed, history)
        if owed is not None and text:
            # The turn is put to the new link by its text: it must not be in the history too.
            history = [item for item in history if not (item.kind == "user" and item.id == owed.turn)]
        start, end = self._unanswered(owed.end if owed is not None and text else 0)
        link.replayed_to = end
        link.repeats = owed is not None and owed.kind == "turn"
        if old is None and not self._first.done():
            self._first.set_result(None)
        else:
            reason = order.reason + (" (forced)" if order.forced else "")
            ms = (end - start) * 1000 // self.capabilities.input_rate
            self._overseer.rotated(link.generation, link.model, reason, ms)
        link.connection.begin(history)
        self._replay(link, start, end)
        self._pay(link, interrupted, text)

    def _text_of(self, owed: Owed | None, history: Sequence[Item]) -> str:
        """What the user said in the turn that is owed an answer, if that is known."""
        if owed is None or owed.kind != "turn":
            return ""
        said = (item.text for item in reversed(history) if item.kind == "user" and item.id == owed.turn)
        return next(said, "") or owed.text

    def _end_in_flight(self) -> bool:
        """What the link before was making ends where it is. Whether something of it can be heard, and was to go on."""
        interrupted = False
        owed, self._reuse = self._owed, ""
        for response, made in list(self._in_flight.items()):
            del self._in_flight[response]
            if made.calls:
                # Its tools run, and their results will be answered. Asked again, it would call them twice.
                self._owed = None
                self.context.report(Ended(response=response))
            elif made.audible:
                interrupted, self._wordless = True, not made.text
                self.context.report(Ended(response=response))
            elif owed is not None and not made.text and owed.is_answered_by(response, made.turn):
                self._reuse = response  # nobody has noticed anything of it: the next link makes it
            else:
                self.context.report(Ended(response=response, status="cancelled"))
        return interrupted and self._owed is not None

    def _unanswered(self, after: int) -> tuple[int, int]:
        """The user audio that nobody answered, from position `after` on."""
        return (self._position, self._position) if self._kept is None else self._kept.unanswered(after)

    def _replay(self, link: Link, start: int, end: int) -> None:
        """Give the new link the user audio that nobody answered."""
        if self._kept is None:
            return
        step = int(_REPLAY_S * self.capabilities.input_rate)
        for position in range(start, end, step):
            link.audio(self._kept.read(position, min(step, end - position)), position)

    def _pay(self, link: Link, interrupted: bool, text: str) -> None:
        """An answer was owed by the link before: have the new one give it."""
        owed = self._owed
        assert link.connection is not None
        if owed is None:
            return
        if interrupted:
            owed = self._owed = Owed("respond", response=self.context.next_response(), end=owed.end)
            owed.instructions, owed.origin = _ANEW if self._wordless else _GO_ON, "turn"
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
        if self._closed or link.dead or link is not self._active or self._owed is not owed:
            return
        assert link.connection is not None
        if self._kept is not None and self._kept.judge()[0]:
            known_at = self._stall.plays_to + _ECHO_S
            if self._now() < known_at:
                self._loop.call_at(known_at, self._ask, link, owed)
                return
            reuse, self._reuse = self._reuse, ""
            self._settled()
            if reuse:
                self.context.report(Ended(response=reuse, status="cancelled"))
        elif owed.kind == "say":
            link.connection.say(owed.response, owed.text, owed.origin)
        else:
            link.connection.respond(owed.response, owed.instructions, owed.origin)

    # ------------------------------------------------------------------ evidence

    def evidence(self, link: Link, evidence: Evidence) -> None:
        """Take what a link reports, if it is the one in use."""
        # A window comes thirty times a second, and is no sign of life from the provider.
        if type(evidence) is SpeechWindow and link is self._active:
            if (window := self._news(link, evidence)) is not None:
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
            if (news := self._news(link, evidence)) is not None:
                self.context.report(news)
            return
        if (response := getattr(evidence, "response", None)) is None:
            self.context.report(evidence)
            return
        if isinstance(evidence, Began) and self._begun_again(evidence):
            return
        if (ours := self._alias.get(response)) is not None:
            evidence = msgspec.structs.replace(evidence, response=ours)
        self._note(link, evidence)
        self._alive()
        self.context.report(evidence if not isinstance(evidence, Spoke) else link.converted(evidence))

    def _news(self, link: Link, evidence: SpeechWindow | ProviderSpeech | ProviderCommitted) -> Evidence | None:
        """What a link says of the user, as far as the floor does not know it: a replay is heard a second time."""
        if isinstance(evidence, ProviderCommitted):
            return None if link.repeats else evidence
        evidence = link.rescaled(evidence)
        known = min(link.replayed_to, self._committed_to)
        if isinstance(evidence, SpeechWindow):
            if evidence.end <= max(self._heard_to, known):
                return None
            self._heard_to = evidence.end
        elif evidence.position < known:
            return None
        elif evidence.fact == "started":
            link.repeats = False
        elif evidence.fact == "stopped":
            self._stopped_at = evidence.position
        return evidence

    def _begun_again(self, began: Began) -> bool:
        """Whether this is the response that the link before had begun, and nobody has noticed anything of."""
        reuse, owed = self._reuse, self._owed
        if not reuse or owed is None or not owed.is_answered_by(began.response, began.turn):
            return False
        self._reuse = ""
        if began.response != reuse:
            self._alias[began.response] = reuse
            while len(self._alias) > _REMEMBERED:
                del self._alias[next(iter(self._alias))]
        self._in_flight[reuse] = _Made(began)
        return True

    def _note(self, link: Link, evidence: Evidence) -> None:
        """Keep account of the responses under way."""
        match evidence:
            case Began():
                self._in_flight[evidence.response] = _Made(evidence)
                if evidence.turn in self._ahead.values():  # it replaces what was made before
                    self._ahead = {response: turn for response, turn in self._ahead.items() if turn != evidence.turn}
            case Said() if (made := self._in_flight.get(evidence.response)) is not None:
                made.text = True
                made.audible = made.audible or not self.context.speaks
            case Spoke() if (made := self._in_flight.get(evidence.response)) is not None:
                self._stall.spoke(len(evidence.pcm) / 2 / link.output_rate)
                if (
                    not made.audible
                    and (owed := self._owed) is not None
                    and self._answers(made, evidence.response, owed)
                ):
                    self._sounded(owed)
                made.audible = True
            case ToolRequested() if (made := self._in_flight.get(evidence.response)) is not None:
                made.calls = True
            case Ended():
                if tail := link.tail(evidence.response):
                    self.context.report(Spoke(response=evidence.response, pcm=tail))
                self._answered(evidence)

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

    def _answered(self, ended: Ended) -> None:
        """A response is over: what it answered need not be replayed any more."""
        made = self._in_flight.pop(ended.response, None)
        owed = self._owed
        if ended.status != "completed":
            self._ahead.pop(ended.response, None)
        elif made is not None and made.turn and (owed is None or owed.turn != made.turn):
            # A speculative answer was made before its turn is over: nothing will be owed when it is.
            self._ahead[ended.response] = made.turn
        if owed is None or made is None:
            return
        if not self._answers(made, ended.response, owed):
            return
        if owed.kind == "turn":
            self._sounded(owed)
        self._settled()

    def _answers(self, made: _Made, response: str, owed: Owed) -> bool:
        return (made.loose and owed.kind == "turn") or owed.is_answered_by(response, made.turn)

    def _sounded(self, owed: Owed) -> None:
        """The answer has begun to sound: what it answers is not to be heard by another link as well."""
        if self._kept is not None and owed.kind == "turn":
            self._kept.answered(owed.end)

    def _settled(self) -> None:
        """Nothing is owed any more."""
        self._owed = None
        self._stall.stop()
        self._tell_quiet()

    # ------------------------------------------------------------------ stall

    def _watch(self) -> None:
        self._stall.stop()
        if self._owed is not None and self._active is not None and not self._active.model.capabilities.in_process:
            self._stall.begin()

    def _alive(self) -> None:
        """The provider has said something."""
        if self._stall.on:
            audible = (made.audible and not made.calls for made in self._in_flight.values())
            self._stall.alive(self.context.speaks and any(audible))

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
            if live and self._quiet and self._owed is None:
                kept.nobody_speaks(self._heard_to)
            self._tell_quiet()
        if live and (link := self._active) is not None and not link.dead:  # what is calm enough may change the link
            link.audio(pcm, position)

    def quiet(self, quiet: bool) -> None:
        """See Connection."""
        self._quiet = quiet
        self._tell_quiet()

    def _tell_quiet(self) -> None:
        """A change goes unnoticed where nobody speaks and no link owes anything."""
        sounds, waits = self._kept.judge() if self._kept is not None else (False, False)
        owing = waits or self._owed is not None
        calm = self._quiet and not owing and not sounds
        if calm is not self._calm or owing is not self._owing:
            self._calm, self._owing = calm, owing
            self._obey(self._rotation.quiet(calm, self._now(), owing=owing))

    def _live(self) -> Connection | None:
        """The link in use, if there is one that is not lost."""
        link = self._active
        return link.connection if link is not None and not link.dead else None

    def _owe(self, owed: Owed) -> None:
        self._owed = owed
        self._reuse = ""
        self._tell_quiet()
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
        owed = Owed("turn", turn=turn, text=typed, end=self._end_of_turn())
        if turn in self._ahead.values():
            self._sounded(owed)
            self._settled()
        else:
            if any(made.audible and made.turn == turn for made in self._in_flight.values()):
                self._sounded(owed)
            self._owe(owed)
        self._committed_to = owed.end
        self._ahead.clear()
        if (live := self._live()) is not None:
            live.commit(turn)

    def _end_of_turn(self) -> int:
        """Where the turn that is being committed ends. What follows may be the beginning of another one already."""
        for told in (self._stopped_at, self._heard_to):
            if self._committed_to < told:
                return min(self._position, told + int(_TAIL_S * self.capabilities.input_rate))
        return self._position

    def reopen(self, turn: str) -> None:
        """See Connection."""
        if self._kept is not None:
            self._kept.reopened()
        self._settled()
        self._ahead.clear()
        if (live := self._live()) is not None:
            live.reopen(turn)

    def discard(self, turn: str) -> None:
        """See Connection."""
        self._ahead.clear()
        if (live := self._live()) is not None:
            live.discard(turn)

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        owed = Owed("respond", response=response, end=self._position)
        owed.instructions, owed.origin = instructions, origin
        self._owe(owed)
        if (live := self._live()) is not None:
            live.respond(response, instructions, origin)

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        owed = Owed("say", response=response, text=text, end=self._position)
        owed.origin = origin
        if self._owed is None:
            self._owe(owed)
        if (live := self._live()) is not None:
            live.say(response, text, origin)

    def cancel(self, response: str) -> None:
        """See Connection."""
        made = self._in_flight.pop(response, None)
        self._ahead.pop(response, None)
        owed = self._owed
        if owed is not None and (made is None or owed.is_answered_by(response, made.turn)) and not self._in_flight:
            self._settled()
        if response == self._reuse:
            self._reuse = ""
        if (live := self._live()) is not None:
            live.cancel(self._theirs(response))

    def truncate(self, response: str, samples: int) -> None:
        """See Connection."""
        link = self._active
        if link is not None and (live := self._live()) is not None:
            live.truncate(self._theirs(response), samples * link.output_rate // self.capabilities.output_rate)

    def _theirs(self, response: str) -> str:
        """The id under which the link in use knows a response."""
        return next((theirs for theirs, ours in self._alias.items() if ours == response), response)

    def tool_result(self, call: str, name: str, text: str, *, error: bool) -> None:
        """See Connection. Without a link the result waits in the history, which the next one is given."""
        if (live := self._live()) is not None:
            live.tool_result(call, name, text, error=error)

    def update(self, setup: Setup) -> None:
        """See Connection. A model that cannot be told on a live link is given a new one."""
        self._setups += 1
        link, following = self._active, self._opener.next
        if link is None:
            return
        if link.model.capabilities.can_update and (live := self._live()) is not None:
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

    def hear_out(self) -> None:
        """See Connection."""
        if (live := self._live()) is not None:
            live.hear_out()

    def input_ended(self) -> None:
        """See Connection."""
        if (live := self._live()) is not None:
            live.input_ended()

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
