"""What the supervisor keeps of each link below it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..audio import Resampler
from ..engine.conversation import Item
from ..errors import DuologueError, ModelConnectionError
from .account import Account
from .base import (
    Connection,
    Evidence,
    Lost,
    Model,
    ProviderCommitted,
    ProviderSpeech,
    Setup,
    SpeechWindow,
    Spoke,
    SpokenWord,
)
from .kept import Kept

if TYPE_CHECKING:
    from .supervisor import Supervisor

logger = logging.getLogger("duologue.models.supervisor")

#: length of a piece of a replay: the fewer, the sooner the link has caught up
_REPLAY_S = 0.2


class Link:
    """One connection below the supervisor, and the session as that connection sees it."""

    def __init__(self, supervisor: Supervisor, model: Model, generation: int) -> None:
        self._supervisor = supervisor
        self.model = model
        self.generation = generation
        self.connection: Connection | None = None
        self.ready = False
        self.dead = False
        self.setups = 0  # the change of instructions, tools or voice that it knows of
        mine, theirs = model.capabilities, supervisor.capabilities
        self._up = Resampler(theirs.input_rate, mine.input_rate) if mine.input_rate != theirs.input_rate else None
        self.input_rate = mine.input_rate
        self.output_rate = mine.output_rate
        self._down: dict[str, Resampler] = {}
        self._position: int | None = None
        #: where its replay ended: what it says of earlier speech the floor may know already
        self.replayed_to = 0
        #: whether a committed turn was owed when it took over, and nothing new was said since
        self.repeats = False

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

    def replay(self, kept: Kept, start: int, end: int) -> None:
        """Give it what the user has said in [start, end)."""
        step = int(_REPLAY_S * self._supervisor.capabilities.input_rate)
        for position in range(start, end, step):
            self.audio(kept.read(position, min(step, end - position)), position)

    # the context of the connection

    @property
    def memory(self) -> dict[str, Any]:
        return self._supervisor.context.memory

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

    # what it reports, in the session's terms

    def converted(self, spoke: Spoke) -> Spoke:
        """Its audio at the session's rate."""
        rate, target = self.output_rate, self._supervisor.capabilities.output_rate
        if rate == target:
            return spoke
        resampler = self._down.setdefault(spoke.response, Resampler(rate, target))
        words = tuple(SpokenWord(w.text, w.start * target // rate, w.end * target // rate) for w in spoke.words)
        return Spoke(response=spoke.response, pcm=resampler.feed(spoke.pcm), words=words)

    def tail(self, response: str) -> bytes:
        """What conversion holds of a response that has ended."""
        resampler = self._down.pop(response, None)
        return resampler.flush() if resampler is not None else b""

    def news(self, evidence: SpeechWindow | ProviderSpeech | ProviderCommitted, account: Account) -> Evidence | None:
        """What it says of the user, as far as the floor does not know it: a replay is heard a second time."""
        if isinstance(evidence, ProviderCommitted):
            return None if self.repeats else evidence
        evidence = self._rescaled(evidence)
        known = min(self.replayed_to, account.committed_to)
        if isinstance(evidence, SpeechWindow):
            if evidence.end <= max(account.heard_to, known):
                return None
            account.heard(evidence.end)
        elif evidence.position < known:
            return None
        elif evidence.fact == "started":
            self.repeats = False
        elif evidence.fact == "stopped":
            account.stopped(evidence.position)
        return evidence

    def _rescaled(self, evidence: SpeechWindow | ProviderSpeech) -> SpeechWindow | ProviderSpeech:
        """Its positions at the session's rate."""
        mine, theirs = self.input_rate, self._supervisor.capabilities.input_rate
        if mine == theirs:
            return evidence
        factor = theirs / mine
        if isinstance(evidence, ProviderSpeech):
            return ProviderSpeech(fact=evidence.fact, position=round(evidence.position * factor))
        start, end = round(evidence.start * factor), round(evidence.end * factor)
        return SpeechWindow(start=start, end=end, probability=evidence.probability)
