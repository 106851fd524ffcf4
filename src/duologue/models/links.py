"""What the supervisor keeps of each link below it, and of the answer that is owed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..audio import Resampler
from ..engine.conversation import Item
from ..errors import DuologueError, ModelConnectionError
from ..events import ResponseOrigin
from .base import Connection, Evidence, Lost, Model, ProviderSpeech, Setup, SpeechWindow, Spoke, SpokenWord

if TYPE_CHECKING:
    from .supervisor import Supervisor

logger = logging.getLogger("duologue.models.supervisor")


class Owed:
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

    def is_answered_by(self, response: str, turn: str) -> bool:
        """Whether a response (which answers `turn`, if any) is this answer."""
        return turn == self.turn if self.kind == "turn" else response == self.response


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

    def rescaled(self, evidence: SpeechWindow | ProviderSpeech) -> SpeechWindow | ProviderSpeech:
        """Its positions at the session's rate."""
        mine, theirs = self.input_rate, self._supervisor.capabilities.input_rate
        if mine == theirs:
            return evidence
        factor = theirs / mine
        if isinstance(evidence, ProviderSpeech):
            return ProviderSpeech(fact=evidence.fact, position=round(evidence.position * factor))
        start, end = round(evidence.start * factor), round(evidence.end * factor)
        return SpeechWindow(start=start, end=end, probability=evidence.probability)
