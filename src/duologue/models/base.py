"""What a model is to a session: commands in, evidence and audio out, and a declaration of what it can.

A :class:`Model` is a definition (options, credentials) shared by sessions; :meth:`Model.open` gives a :class:`Connection`, one
live link with a generation. A connection never steps the floor: it reports *evidence* and takes *commands*. Both are plain
calls that do not block. Commands are queued inside the connection; evidence goes to the session's sink, on the event loop.

A connection that the session has left behind is fenced off: its sink ignores it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from ..engine.conversation import Item
from ..engine.floor import ProviderFact
from ..errors import ConfigurationError, DuologueError, UnsupportedInputError
from ..events import ResponseOrigin
from ..tools.base import ToolCall, ToolSpec

InputKind = Literal["audio", "text", "image", "sensor"]


class Audio(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Audio options of a model. Rates in Hz; None leaves the model's own. `voice` is a name the model knows."""

    input_rate: int | None = None
    output_rate: int | None = None
    voice: str | None = None


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a model can, declared. Rates are in Hz of PCM16 mono, limits in seconds, bytes and entries.

    Attributes:
        authority: who decides turns: the engine, or the provider's own detection.
        can_disable_detection: whether the provider's detection can be switched off, giving the engine authority.
        can_cancel: a running response can be cancelled at the provider.
        can_truncate: the provider can be told how much of a response was heard.
        word_times: responses come with times of their words.
        inputs: what it takes.
        say: how a verbatim `say` is done: by the model itself, by instruction, or by local synthesis.
        connection_s: longest life of a connection; None if unlimited.
        in_process: it runs here and is not lost: user audio need not be kept for a replay.
        can_update: instructions and tools can be changed on a live connection; otherwise they are by rotation.
        history_bytes, history_items, history_text: limits of replayed history (of all, in entries, of one entry).
        voices, languages: names it knows; empty if open-ended.
    """

    authority: Literal["engine", "provider"]
    input_rate: int
    output_rate: int
    can_disable_detection: bool = False
    can_cancel: bool = True
    can_truncate: bool = False
    word_times: bool = False
    inputs: frozenset[InputKind] = frozenset({"audio", "text"})
    say: Literal["native", "instructed", "local"] = "native"
    connection_s: float | None = None
    in_process: bool = False
    can_update: bool = False
    history_bytes: int | None = None
    history_items: int | None = None
    history_text: int | None = None
    voices: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection starts with: instructions, tools, and the history that it goes on from."""

    instructions: str = ""
    tools: tuple[ToolSpec, ...] = ()
    history: tuple[Item, ...] = ()
    voice: str | None = None
    language: str | None = None


# ---------------------------------------------------------------------- evidence


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what a connection reports."""


class SpeechWindow(Evidence, frozen=True, kw_only=True):
    """A window `[start, end)` of the user's track, in samples at the model's input rate, and its speech probability."""

    start: int
    end: int
    probability: float


class Recognised(Evidence, frozen=True, kw_only=True):
    """What the user has said in the current turn: so far, or (`final`) up to the present pause. `turn` "": the current one."""

    text: str
    final: bool = False
    turn: str = ""


class TurnProbability(Evidence, frozen=True, kw_only=True):
    """How probable it is that the user's turn is over."""

    probability: float


class ProviderSpeech(Evidence, frozen=True, kw_only=True):
    """What the provider's own turn detection says. `position`: sample on the user's track."""

    fact: ProviderFact
    position: int = 0


class ProviderCommitted(Evidence, frozen=True, kw_only=True):
    """The provider considers the user's turn over and will answer it."""

    reason: str = "provider: turn over"


class Began(Evidence, frozen=True, kw_only=True):
    """A response begins. `turn`: the user's turn it answers ("" if none); until that is committed it stays behind the gate."""

    response: str
    turn: str = ""
    origin: ResponseOrigin = "turn"


class Said(Evidence, frozen=True, kw_only=True):
    """The audio that follows speaks `text`."""

    response: str
    text: str


class SpokenWord(msgspec.Struct, frozen=True, array_like=True):
    """A word and the samples it is spoken at, relative to the chunk that carries it."""

    text: str
    start: int
    end: int


class Spoke(Evidence, frozen=True, kw_only=True):
    """Audio of a response, at the model's output rate."""

    response: str
    pcm: bytes
    words: tuple[SpokenWord, ...] = ()


class Ended(Evidence, frozen=True, kw_only=True):
    """No more of this response will be made."""

    response: str
    status: Literal["completed", "cancelled", "failed"] = "completed"
    error: DuologueError | None = None


class ToolRequested(Evidence, frozen=True, kw_only=True):
    """The model wants a tool run."""

    response: str
    call: ToolCall


class ToolWithdrawn(Evidence, frozen=True, kw_only=True):
    """The model no longer wants the result of these calls."""

    calls: tuple[str, ...]


class UsageEvidence(Evidence, frozen=True, kw_only=True):
    """Tokens counted by the provider since the last report."""

    input_tokens: int = 0
    output_tokens: int = 0
    details: Mapping[str, Any] = {}


class Measured(Evidence, frozen=True, kw_only=True):
    """A point of the latency waterfall of a turn, on the monotonic clock: `stt_final`, `llm_first_token`, ..."""

    point: str
    now: float
    turn: str = ""


class Refused(Evidence, frozen=True, kw_only=True):
    """The provider would not take something; the conversation goes on without it."""

    error: DuologueError


class Ending(Evidence, frozen=True, kw_only=True):
    """The connection will end in `in_s` seconds."""

    in_s: float
    reason: str


class Lost(Evidence, frozen=True, kw_only=True):
    """The connection ended unasked. Nothing follows it."""

    error: DuologueError


class Context(Protocol):
    """What a connection may ask of the session that it serves."""

    generation: int

    @property
    def memory(self) -> dict[str, Any]:
        """What one connection leaves to those after it in the same session, by model (such as a handle to resume with)."""

    @property
    def speaks(self) -> bool:
        """Whether anybody hears the agent; if not, answers are only text."""

    def report(self, evidence: Evidence) -> None:
        """Take evidence. On the event loop; does not block. Ignored from an old generation."""

    def next_response(self) -> str:
        """A fresh response id."""

    def history(self) -> Sequence[Item]:
        """The conversation as of now: finished answers as heard, unfinished ones as planned."""

    def setup(self) -> Setup:
        """Instructions and tools as of now."""

    def room(self, response: str) -> Awaitable[None]:
        """Wait until more audio of this response is wanted (back-pressure for models that run ahead of real time)."""

    def now(self) -> float:
        """The monotonic clock."""

    def spawn(self, run: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a task inside the session's own task group. Its error is the connection's loss."""


class Connection(ABC):
    """One live link to a model. Commands do not block and may come at any time after `open`."""

    @abstractmethod
    def audio(self, pcm: bytes, position: int) -> None:
        """User audio at the model's input rate; `position` is its first sample on the user's track."""

    @abstractmethod
    def text(self, turn: str, text: str) -> None:
        """A typed turn of the user; `commit` follows."""

    def image(self, data: bytes, mime: str) -> None:
        """A picture, in the history by itself. Raises UnsupportedInputError where the model takes none, or not such a one."""
        raise UnsupportedInputError("This model takes no images.", hint="Use a model whose `inputs` include 'image'.")

    def item(self, item: Item) -> None:  # noqa: B027 - models that ask for the history when they answer have it already
        """An entry came into the history by itself (a note, a reading, a seed). It is context, and is not answered."""

    def prepare(self, turn: str, *, reply: bool) -> None:  # noqa: B027 - models with their own detection need not act
        """The user paused: settle what was said; if `reply`, begin an answer that stays behind the gate."""

    @abstractmethod
    def commit(self, turn: str) -> None:
        """The turn is over: answer it."""

    def reopen(self, turn: str) -> None:  # noqa: B027
        """The user goes on with a committed turn that was not answered audibly: take the answer back."""

    def discard(self, turn: str) -> None:  # noqa: B027
        """The turn was none: forget what was said in it."""

    @abstractmethod
    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """Make an answer without a turn of the user: after tool results, a greeting, an idle prompt."""

    @abstractmethod
    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """Speak `text` verbatim, by whatever way `Capabilities.say` declares."""

    @abstractmethod
    def cancel(self, response: str) -> None:
        """Make no more of this response."""

    def truncate(self, response: str, samples: int) -> None:  # noqa: B027
        """The listener heard only the first `samples` (model's output rate) of this response."""

    def begin(self, history: Sequence[Item]) -> None:  # noqa: B027 - local models ask for the history when they answer
        """This connection is the one in use from now on; `history` is what it goes on from. Comes before any audio."""

    def quiet(self, quiet: bool) -> None:  # noqa: B027
        """Whether a change of connection would go unnoticed now. For the supervisor."""

    def tool_result(self, call: str, name: str, text: str, *, error: bool) -> None:  # noqa: B027
        """A tool answered; it is in the history already. `respond` follows when the floor allows."""

    def update(self, setup: Setup) -> None:  # noqa: B027
        """Instructions, tools or voice changed."""

    def hear_out(self) -> None:  # noqa: B027 - most report what they make of audio in the call that brings it, or cannot hurry
        """Report now what can be told of the audio so far: what comes next happened after it."""

    def input_ended(self) -> None:  # noqa: B027
        """The user's track has ended or is muted."""

    @abstractmethod
    async def close(self) -> None:
        """End the link. Bounded, idempotent."""


class Model(ABC):
    """A definition from which connections are opened; immutable and shared by sessions."""

    #: short name for logs, events and records
    name: str = "model"
    #: what an honest interface says first about this model; "" if there is nothing to say
    notice: str = ""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What it can, known before anything is opened."""

    @property
    def candidates(self) -> tuple[Model, ...]:
        """The models behind this one, in order of preference: itself, unless it is a fallback over several."""
        return (self,)

    @abstractmethod
    async def open(self, context: Context) -> Connection:
        """Open a connection; `begin` follows when it is put to use, at once or later.

        Bounded in time; raises a ModelError that says what was tried.
        """

    async def warm_up(self) -> None:  # noqa: B027 - most have nothing to warm
        """Load what the first call would otherwise wait for."""

    async def aclose(self) -> None:  # noqa: B027
        """Let go of what is shared by the connections."""


def check_picture(data: bytes, mime: str, allowed: Sequence[str]) -> None:
    """Raises UnsupportedInputError for a picture that a model does not take. `allowed`: media types."""
    if not data or mime not in allowed:
        what = f"of type {mime!r}" if data else "without content"
        raise UnsupportedInputError(f"A picture {what} is not taken.", hint=f"Send {' or '.join(allowed)}.")


def check_rate(name: str, rate: int | None, allowed: Sequence[int], default: int) -> int:
    """A model's rate from its options. Raises ConfigurationError for one that it does not offer."""
    if rate is None:
        return default
    if rate not in allowed:
        raise ConfigurationError(
            f"{name} does not work at {rate} Hz.", hint=f"Use one of {', '.join(map(str, allowed))}."
        )
    return rate
