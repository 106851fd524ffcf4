"""What participants say, type and send: given to the model if it takes it, refused with a typed error if not."""

from __future__ import annotations

import msgspec

from ..engine.conversation import Item
from ..errors import ConfigurationError, UnsupportedInputError
from ..events import ActivityInput, ApprovalInput, ImageInput, Input, InterruptInput, SensorInput, TextInput
from ..models.base import InputKind, Model
from ..models.supervisor import Supervisor
from .conductor import Conductor
from .toolbench import Toolbench


class Intake:
    """The way in of one session.

    Attributes:
        rate: Hz of the user audio that the model takes.
        upstream_s: how far user audio may come ahead of the clock, seconds.
        media_end: end of the user's track so far, in samples at `rate`.
    """

    def __init__(self, conductor: Conductor, toolbench: Toolbench, model: Model, *, upstream_s: float) -> None:
        self._conductor = conductor
        self._toolbench = toolbench
        self._model = model
        self._measures = conductor.measures
        self._connection: Supervisor | None = None
        self._muted = False
        self._anew = False  # what comes next comes of somebody else
        self.rate = model.capabilities.input_rate
        self.upstream_s = upstream_s
        self.media_end = 0

    def open(self, connection: Supervisor) -> None:
        """From now on what comes goes to `connection`; audio that came before is gone."""
        self._connection = connection

    def close(self) -> None:
        """No more audio is taken."""
        self._connection = None

    def begin_again(self) -> int:
        """Somebody who has joined is about to be heard: where on the model's track they begin."""
        self._anew = True
        return self.media_end

    def unmute(self) -> None:
        """Whoever speaks from now on is not the one who was muted."""
        self._muted = False

    def audio(self, pcm: bytes, position: int, now: float) -> None:
        """User audio at the model's input rate, which has arrived at `now`."""
        connection = self._connection
        if self._muted or connection is None:
            return
        end = position + (len(pcm) >> 1)
        base = now - end / self.rate
        if not self.media_end or self._anew or base < self._measures.media_base:
            self._anew = False
            # The earliest arrival says when the audio was captured; later ones were held up on their way.
            self._measures.media_base = base
        self.media_end = end
        connection.audio(pcm, position)

    def input(self, message: Input) -> None:
        """Anything else. Raises a typed error for what the model cannot take."""
        conductor = self._conductor
        assert self._connection is not None
        self._connection.hear_out()
        match message:
            case TextInput():
                self._typed(message.text)
            case ActivityInput(kind="end"):
                conductor.fact("input_ended")
            case ActivityInput(kind="mute" | "ended"):
                self._muted = True
                conductor.fact("input_ended")
                self._connection.input_ended()
            case ActivityInput():
                self._muted = False
            case InterruptInput():
                conductor.fact("interrupt", message.reason)
            case ApprovalInput():
                if not self._toolbench.decide(message):
                    raise ConfigurationError(f"No tool run {message.call!r} waits for approval.")
            case ImageInput():
                self._check_takes("image", "images")
                self._connection.image(message.data, message.mime)
                conductor.conversation.user(f"i{conductor.now():.3f}", "", image=message.data, mime=message.mime)
                if message.respond:
                    conductor.speaking.respond("")
            case SensorInput():
                self._check_takes("sensor", "sensor input")
                try:
                    text = f"{message.name}: {msgspec.json.encode(message.value).decode()}"
                except (TypeError, ValueError) as error:
                    raise ConfigurationError(f"The value of {message.name!r} is not JSON: {error}.") from None
                conductor.conversation.note(text)
                self._connection.item(Item(kind="note", text=text))
            case _:
                raise ConfigurationError(f"Nothing takes a {type(message).__name__} here.")

    def _check_takes(self, kind: InputKind, what: str) -> None:
        """Whether the model in use takes such an input. Raises UnsupportedInputError before anything is sent."""
        assert self._connection is not None
        model = self._connection.active or self._model
        if kind not in model.capabilities.inputs:
            raise UnsupportedInputError(
                f"{model.name} takes no {what}.", hint=f"Use a model whose `inputs` include {kind!r}."
            )

    def _typed(self, text: str) -> None:
        """A typed turn: committed at once, answered like a spoken one."""
        if not text.strip():
            raise ConfigurationError("An empty text is no turn.")
        assert self._connection is not None
        self._conductor.fact("typed", text)
        self._connection.text(self._conductor.floor.turn, text)
        self._conductor.fact("commit", "typed")

    def dropped(self, kind: str, count: int) -> None:
        """Something of the participant's was dropped."""
        self._measures.dropped(kind, count)
