"""How a participant is reached. A channel carries; it never steps the floor.

The session gives each channel a :class:`Port` to push what comes from its participant, and calls the channel's plain,
non-blocking methods with what goes to it. A channel that cannot keep up queues within its own bound and drops or closes; it
never delays the session or another channel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from ..errors import DuologueError
from ..events import Event, Input

Pacing = Literal["paced", "burst", "none"]


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel carries and how.

    Attributes:
        input_rate: Hz of the user audio it brings; None if it brings none.
        output_rate: Hz of the audio it wants; None if it wants none. 0 leaves it to the model.
        pacing: `paced` by our estimate of playout, `burst` as fast as it is made, `none` without audio.
        acknowledges: reports what was really played.
        clears: answers a clear with the position at which playout stopped.
        ducks: attenuates by itself at once; else the session attenuates what it sends.
        addressee: whether history follows what this listener heard. One a session; the first that wants audio otherwise.
        lag_s: time from handing over to rendering where nothing is acknowledged.
        essential: the session ends when this channel ends.
    """

    input_rate: int | None = None
    output_rate: int | None = None
    pacing: Pacing = "none"
    acknowledges: bool = False
    clears: bool = False
    ducks: bool = False
    addressee: bool = False
    lag_s: float = 0.0
    essential: bool = True


class Port(Protocol):
    """The session as one channel sees it. Call on the session's event loop; nothing blocks."""

    def audio(self, pcm: bytes, position: int | None = None) -> None:
        """User audio at the channel's input rate; `position`: capture position of its first sample (None: contiguous).

        Raises AudioFormatError for odd byte counts; audio beyond the bound is dropped and counted.
        """

    def input(self, message: Input) -> None:
        """Anything else from the participant. Raises a typed error that the channel passes to the participant."""

    def refused(self, error: DuologueError) -> None:
        """An input could not be taken, and this channel cannot tell its participant: tell everybody who can act."""

    def played(self, position: int, at: float | None = None) -> None:
        """Everything before this track position has been rendered, `at` this time of our clock, where that is known.

        Raises ProtocolError if it was never sent.
        """

    def cleared(self, position: int) -> None:
        """A clear was carried out; playout stopped at this track position."""

    def away(self) -> None:
        """The link to the participant dropped; it may come back."""

    def back(self, *, gap_events: int = 0, gap_ms: int = 0) -> None:
        """The participant is back; what could not be replayed to it."""

    def ended(self, reason: str = "client_left") -> None:
        """The participant has left for good."""

    def took(self, epoch: int, n: int) -> None:
        """An input at this position was taken, or refused: journal it, so that another owner does not take it again."""

    async def keep(self, state: bytes, told: int) -> None:
        """Journal what another owner needs to have the participant back (JSON), and how many events they have been given so far.

        Returns once it is durable, or cannot become so.
        """


class Channel(ABC):
    """One way of reaching one participant."""

    #: names the participant in events and logs
    name: str = "channel"

    @property
    @abstractmethod
    def traits(self) -> Traits:
        """What it carries. Known once :meth:`start` has returned."""

    @property
    def way_s(self) -> float:
        """Seconds that a message takes to the participant, as far as the channel knows; 0.0 if it does not."""
        return 0.0

    @property
    def begins_at(self) -> int:
        """Where on the listener's track the agent's audio begins, in samples: beyond what another owner may have sent."""
        return 0

    @property
    def behind_s(self) -> float:
        """How old the user's audio may be when it begins to come, seconds: what a client has kept comes as fast as it can."""
        return 0.0

    @property
    def losses(self) -> Mapping[str, int]:
        """What it has thrown away since it began, by kind (`output_samples`, `events`, ...), for the turn record."""
        return {}

    async def start(self, port: Port) -> None:
        """Open it. Raises a typed error if it cannot work; called before the conversation begins."""
        self.port = port

    def opened_at(self, rate: int) -> None:  # noqa: B027 - one that named a rate knows it
        """The agent's audio will come at `rate` Hz; for a channel that left it to the model."""

    async def run(self) -> None:  # noqa: B027 - a channel without an input has nothing to run
        """Carry until the participant leaves. Cancelled when the session ends. Runs in the session's task group."""

    def event(self, event: Event, encoded: bytes) -> None:  # noqa: B027 - an input has nobody to tell
        """An event, and its JSON. Not :class:`duologue.events.ResponseAudio`, which comes by :meth:`audio`."""

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:  # noqa: B027
        """Audio to be played: samples from `offset` of `response`, at `position` of the listener's track."""

    def all_sent(self, response: str) -> None:  # noqa: B027
        """All audio of `response` was handed over; nothing more of it comes, unless a false barge-in goes back."""

    def clear(self, response: str) -> None:  # noqa: B027
        """Silence now: drop everything not rendered; then `port.cleared(position)` if `traits.clears`."""

    def duck(self, gain_db: float) -> None:  # noqa: B027
        """Render at this gain from now on (0: as it is)."""

    def going_away(self, in_s: float, reason: str) -> None:  # noqa: B027
        """The session will end soon."""

    async def close(self, reason: str) -> None:  # noqa: B027
        """The session has ended. Bounded, idempotent; flushes what is still owed."""
