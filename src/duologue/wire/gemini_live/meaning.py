"""What a server's messages amount to, one thing after the other. No I/O.

A message may hold several fields. They are taken apart in an order in which each makes sense: an interruption before all else
(what comes with it, and after it up to the end of the turn, is of the answer that it cut), a transcript before the audio that
speaks it, the end of a turn after its content, and usage last, whatever it rode on.
"""

from __future__ import annotations

import msgspec

from . import messages as g
from .client import OUTPUT_RATE, is_audio, rate_of
from .form import duration


class Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what a message amounts to."""


class Ready(Meaning, frozen=True, kw_only=True):
    """The session is set up."""

    session_id: str


class Interrupted(Meaning, frozen=True, kw_only=True):
    """The user cut the answer short: nothing that is not rendered yet may be."""


class Activity(Meaning, frozen=True, kw_only=True):
    """The service's detection: the user started or stopped, `offset_s` into the audio sent on this link (None: unsaid)."""

    started: bool
    offset_s: float | None


class UserWords(Meaning, frozen=True, kw_only=True):
    """A further piece of what the user said, or (`interim`) all of it as it looks for now."""

    text: str
    finished: bool = False
    interim: bool = False


class ModelWords(Meaning, frozen=True, kw_only=True):
    """A further piece of what the model says: transcript of its audio, or the answer itself where it is text."""

    text: str


class ModelAudio(Meaning, frozen=True, kw_only=True):
    """PCM16 mono."""

    pcm: bytes
    rate: int


class Called(Meaning, frozen=True, kw_only=True):
    """The model wants functions called."""

    calls: tuple[g.FunctionCall, ...]


class Withdrawn(Meaning, frozen=True, kw_only=True):
    """These calls are not wanted any more."""

    ids: tuple[str, ...]


class Generated(Meaning, frozen=True, kw_only=True):
    """The answer is made; the turn goes on until the service thinks that it was played."""


class TurnOver(Meaning, frozen=True, kw_only=True):
    """The model's turn is over. `reason`: why, where it was no ordinary end. `empty`: it was none, nothing came in it."""

    reason: str = ""
    empty: bool = False


class Resumable(Meaning, frozen=True, kw_only=True):
    """From here the session can be resumed with `handle`."""

    handle: str


class GoingAway(Meaning, frozen=True, kw_only=True):
    """The connection will be closed in `in_s` seconds."""

    in_s: float


class Used(Meaning, frozen=True, kw_only=True):
    """Tokens."""

    usage: g.UsageMetadata


class Meanings:
    """Takes the messages of one link, in order.

    Attributes:
        open: whether a turn of the model is under way.
        stale: pieces of an interrupted answer that came after the interruption.
    """

    def __init__(self) -> None:
        self.open = False
        self.stale = 0
        self._cut = False

    def take(self, message: g.ServerMessage) -> list[Meaning]:
        """What `message` amounts to."""
        out: list[Meaning] = []
        if message.setup_complete is not None:
            out.append(Ready(session_id=message.setup_complete.session_id or ""))
        content = message.server_content
        if content is not None and content.interrupted:
            self._cut = self.open = True
            out.append(Interrupted())
        if (activity := message.voice_activity) is not None and activity.voice_activity_type.startswith("ACTIVITY_"):
            started = activity.voice_activity_type == "ACTIVITY_START"
            out.append(Activity(started=started, offset_s=duration(activity.audio_offset)))
        if content is not None:
            self._user(content, out)
            self._model(content, out)
        if message.tool_call is not None and message.tool_call.function_calls:
            self._made(Called(calls=tuple(message.tool_call.function_calls)), out)
        if content is not None:
            self._ends(content, out)
        if message.tool_call_cancellation is not None and message.tool_call_cancellation.ids:
            out.append(Withdrawn(ids=tuple(message.tool_call_cancellation.ids)))
        if (update := message.session_resumption_update) is not None and update.resumable and update.new_handle:
            out.append(Resumable(handle=update.new_handle))
        if message.go_away is not None:
            out.append(GoingAway(in_s=max(0.0, duration(message.go_away.time_left) or 0.0)))
        if message.usage_metadata is not None:
            out.append(Used(usage=message.usage_metadata))
        return out

    def _user(self, content: g.ServerContent, out: list[Meaning]) -> None:
        if (interim := content.interim_input_transcription) is not None and interim.text:
            out.append(UserWords(text=interim.text, interim=True))
        if (heard := content.input_transcription) is not None and (heard.text or heard.finished):
            out.append(UserWords(text=heard.text, finished=heard.finished))

    def _model(self, content: g.ServerContent, out: list[Meaning]) -> None:
        if (said := content.output_transcription) is not None and said.text:
            self._made(ModelWords(text=said.text), out)
        for part in content.model_turn.parts if content.model_turn is not None else ():
            if part.thought:
                continue
            if part.text:
                self._made(ModelWords(text=part.text), out)
            blob = part.inline_data
            if blob is not None and blob.data and is_audio(blob):
                rate = rate_of(blob.mime_type, OUTPUT_RATE) or OUTPUT_RATE
                self._made(ModelAudio(pcm=blob.data, rate=rate), out)

    def _made(self, meaning: Meaning, out: list[Meaning]) -> None:
        if self._cut:
            self.stale += 1
        else:
            self.open = True
            out.append(meaning)

    def _ends(self, content: g.ServerContent, out: list[Meaning]) -> None:
        if content.generation_complete and not self._cut:
            out.append(Generated())
        if content.turn_complete:
            out.append(TurnOver(reason=content.turn_complete_reason or "", empty=not self.open))
            self._cut = self.open = False
