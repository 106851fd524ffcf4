"""The order in which a client must send: one state machine, used from both ends.

The server refuses with it what the service would refuse, in the service's words; the client refuses the same before anything is
sent. `strict` adds what documentation asks for and the service lets pass: our own client keeps to it.

==========  ============================================================================================
NEW         sessionStart opens the session
SESSION     promptStart opens the prompt
PROMPT      blocks: SYSTEM once, then history (TEXT, not interactive, USER first), then the one AUDIO block; while that
            stays open, interactive TEXT and TOOL blocks come and go
CLOSING     promptEnd has come
OVER        sessionEnd has come (or Strands' connectionEnd)
==========  ============================================================================================
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from . import inputs as i
from .faults import (
    EMPTY_CONTENT,
    HISTORY,
    NO_CONTENT,
    OPEN_CONTENTS,
    SECOND_SYSTEM,
    TOOL_RESPONSE,
    invalid,
)
from .voices import NOVA_1, RATES

#: audio that must have been sent before text of the user is answered, milliseconds
TEXT_NEEDS_AUDIO_MS = 68
#: names of blocks that are remembered, so that none is used twice
_NAMES = 4096


class Phase(StrEnum):
    """See the module's table."""

    NEW = "new"
    SESSION = "session"
    PROMPT = "prompt"
    CLOSING = "closing"
    OVER = "over"


class SequenceLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes of UTF-8: of one textInput of the history, and of the history in all.

    The defaults are what the service is seen to take; its documentation says 1 KB and 40 KB (:data:`DOCUMENTED`).
    """

    text_bytes: int = 50 * 1024
    history_bytes: int = 200 * 1024


DOCUMENTED = SequenceLimits(text_bytes=1024, history_bytes=40 * 1024)


# ---------------------------------------------------------------------- what events amount to


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what a client's events amount to."""


class SessionOpened(Taken, frozen=True, kw_only=True):
    """The session has begun."""

    start: i.SessionStart


class PromptOpened(Taken, frozen=True, kw_only=True):
    """Formats, voice and tools are known."""

    prompt: i.PromptStart


class Instructed(Taken, frozen=True, kw_only=True):
    """The SYSTEM text."""

    text: str


class Remembered(Taken, frozen=True, kw_only=True):
    """An entry of the history."""

    role: i.Role
    text: str


class AudioOpened(Taken, frozen=True, kw_only=True):
    """The user's audio begins, at `rate` Hz."""

    rate: int


class Heard(Taken, frozen=True, kw_only=True):
    """User audio, PCM16 mono."""

    pcm: bytes


class Typed(Taken, frozen=True, kw_only=True):
    """Text of the user. `answered`: enough audio has been sent for the model to generate at all."""

    text: str
    answered: bool


class Answered(Taken, frozen=True, kw_only=True):
    """A tool's result: JSON text."""

    tool_use_id: str
    content: str


class AudioClosed(Taken, frozen=True, kw_only=True):
    """No more audio will come."""


class PromptClosed(Taken, frozen=True, kw_only=True):
    """Nothing more will be asked."""


class SessionClosed(Taken, frozen=True, kw_only=True):
    """It is over."""


class _Block:
    __slots__ = ("data", "name", "pieces", "start")

    def __init__(self, start: i.ContentStart) -> None:
        self.start = start
        self.name = start.content_name
        self.pieces: list[str] = []
        self.data = False

    @property
    def is_history(self) -> bool:
        start = self.start
        return start.type == "TEXT" and not start.interactive and start.role in ("USER", "ASSISTANT")


class InputSequence:
    """See the module. :meth:`take` each event in order.

    Args:
        model: the model's id; the first generation takes what later ones refuse.
        strict: also refuse what is merely documented: history that does not alternate or comes late, an AUDIO block left
            open at the end.
    """

    def __init__(self, model: str, *, strict: bool = False, limits: SequenceLimits | None = None) -> None:
        self.phase = Phase.NEW
        self.model = model
        self.strict = strict
        self.limits = limits or SequenceLimits()
        self.rate = 0  # of the user's audio; 0 before there is any
        self.samples = 0  # of the user's audio so far
        #: tool uses that were asked for and not answered
        self.tool_uses: set[str] = set()
        self._prompt = ""
        self._open: dict[str, _Block] = {}
        self._names: set[str] = set()
        self._audio_name = ""
        self._instructed = False
        self._last_role = ""
        self._history = 0

    @property
    def audio_open(self) -> bool:
        """Whether audio may be sent now."""
        return self._audio_name in self._open

    @property
    def heard_ms(self) -> int:
        """Audio so far, milliseconds."""
        return self.samples * 1000 // self.rate if self.rate else 0

    def tool_asked(self, tool_use_id: str) -> None:
        """The model has asked for a tool: exactly one result is due."""
        self.tool_uses.add(tool_use_id)

    def take(self, event: i.Input) -> list[Taken]:
        """What `event` amounts to. Raises StreamException, after which the stream is over."""
        match event:
            case i.AudioInput():
                return self._audio(event)
            case i.SessionStart():
                return self._session(event)
            case i.PromptStart():
                return self._prompt_start(event)
            case i.ContentStart():
                return self._content(event)
            case i.TextInput():
                return self._text(event)
            case i.ToolResult():
                return self._result(event)
            case i.ContentEnd():
                return self._content_end(event)
            case i.PromptEnd():
                return self._prompt_end(event)
            case i.SessionEnd() | i.ConnectionEnd():
                return self._end()
        return []

    # ------------------------------------------------------------------ steps

    def _session(self, event: i.SessionStart) -> list[Taken]:
        self._expect(Phase.NEW)
        if event.endpointing_sensitivity is not None and self.model != NOVA_1:
            raise invalid()  # later generations want it nested
        config = event.inference_configuration or i.InferenceConfiguration()
        for value, least, most in (
            (config.max_tokens, 1, 10_000),
            (config.top_p, 0.0, 1.0),
            (config.temperature, 0.0, 1.0),
        ):
            if value is not None and not least <= value <= most:
                raise invalid()
        self.phase = Phase.SESSION
        return [SessionOpened(start=event)]

    def _prompt_start(self, event: i.PromptStart) -> list[Taken]:
        self._expect(Phase.SESSION)
        audio = event.audio_output_configuration
        if not event.prompt_name or (audio is not None and audio.sample_rate_hertz not in RATES):
            raise invalid()
        if event.tool_configuration is not None:
            for tool in event.tool_configuration.tools:
                try:
                    tool.tool_spec.schema()
                except ValueError as error:
                    raise invalid(f"Invalid input request: {error}.") from None
        self._prompt = event.prompt_name
        self.phase = Phase.PROMPT
        return [PromptOpened(prompt=event)]

    def _content(self, event: i.ContentStart) -> list[Taken]:
        self._in_prompt(event.prompt_name)
        if not event.content_name or event.content_name in self._names or len(self._names) >= _NAMES:
            raise invalid()
        block = _Block(event)
        taken: list[Taken] = []
        if event.type == "AUDIO":
            config = event.audio_input_configuration
            if event.role != "USER" or config is None or config.sample_rate_hertz not in RATES or self._audio_name:
                raise invalid()  # one container holds the audio of the whole session
            self.rate = config.sample_rate_hertz
            self._audio_name = event.content_name
            taken.append(AudioOpened(rate=self.rate))
        elif event.type == "TOOL":
            result = event.tool_result_input_configuration
            if event.role != "TOOL" or result is None or result.tool_use_id not in self.tool_uses:
                raise invalid()
        elif event.role == "SYSTEM":
            if self._instructed:
                raise invalid(SECOND_SYSTEM)
            self._instructed = True
        elif event.role == "TOOL" or (event.interactive and event.role == "ASSISTANT"):
            raise invalid()
        elif block.is_history:
            self._check_history(event.role)
        self._names.add(event.content_name)
        self._open[event.content_name] = block
        return taken

    def _check_history(self, role: str) -> None:
        first = not self._last_role
        if (first and role != "USER") or (self.strict and (role == self._last_role or self._audio_name)):
            raise invalid()
        self._last_role = role

    def _text(self, event: i.TextInput) -> list[Taken]:
        block = self._block(event.prompt_name, event.content_name, "TEXT")
        if block.is_history:
            size = len(event.content.encode(errors="replace"))
            self._history += size
            if size > self.limits.text_bytes or self._history > self.limits.history_bytes:
                raise invalid(HISTORY)
        block.data = True  # even if it is empty: Strands sends an empty SYSTEM text where there are no instructions
        block.pieces.append(event.content)
        return []

    def _audio(self, event: i.AudioInput) -> list[Taken]:
        block = self._block(event.prompt_name, event.content_name, "AUDIO")
        if len(event.content) & 1:
            raise invalid()
        if not event.content:
            return []
        block.data = True
        self.samples += len(event.content) // 2
        return [Heard(pcm=event.content)]

    def _result(self, event: i.ToolResult) -> list[Taken]:
        block = self._block(event.prompt_name, event.content_name, "TOOL")
        config = block.start.tool_result_input_configuration
        assert config is not None
        if config.tool_use_id not in self.tool_uses:
            raise invalid()  # answered already
        try:
            msgspec.json.decode(event.content)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            raise invalid(TOOL_RESPONSE) from None
        self.tool_uses.discard(config.tool_use_id)
        block.data = True
        return [Answered(tool_use_id=config.tool_use_id, content=event.content)]

    def _content_end(self, event: i.ContentEnd) -> list[Taken]:
        block = self._block(event.prompt_name, event.content_name, None)
        if not block.data:
            raise invalid(EMPTY_CONTENT.format(name=event.content_name))
        del self._open[event.content_name]
        start, text = block.start, "".join(block.pieces)
        if start.type == "AUDIO":
            return [AudioClosed()]
        if start.type == "TOOL":
            return []
        if start.role in ("SYSTEM", "SYSTEM_SPEECH"):
            return [Instructed(text=text)]
        if block.is_history:
            return [Remembered(role=start.role, text=text)]
        return [Typed(text=text, answered=self.heard_ms >= TEXT_NEEDS_AUDIO_MS)]

    def _prompt_end(self, event: i.PromptEnd) -> list[Taken]:
        self._in_prompt(event.prompt_name)
        left = set(self._open)
        if not self.strict:
            left.discard(self._audio_name)  # Pipecat leaves it open when it hangs up
        if left:
            raise invalid(OPEN_CONTENTS)
        closed = [AudioClosed()] if self.audio_open else []
        self._open.clear()
        self.phase = Phase.CLOSING
        return [*closed, PromptClosed()]

    def _end(self) -> list[Taken]:
        if self.phase is Phase.OVER or (self.strict and self.phase is not Phase.CLOSING):
            raise invalid()
        self.phase = Phase.OVER
        return [SessionClosed()]

    # ------------------------------------------------------------------ checks

    def _expect(self, phase: Phase) -> None:
        if self.phase is not phase:
            raise invalid()

    def _in_prompt(self, name: str) -> None:
        if self.phase is not Phase.PROMPT or name != self._prompt:
            raise invalid()

    def _block(self, prompt: str, name: str, kind: str | None) -> _Block:
        self._in_prompt(prompt)
        block = self._open.get(name)
        if block is None:
            raise invalid(NO_CONTENT.format(name=name))
        if kind is not None and block.start.type != kind:
            raise invalid()
        return block
