"""OpenAI Realtime (GA) as a model, and every server that speaks its protocol.

Two ways to take turns. With `turn_detection` (the vendor's server or semantic VAD) the provider decides and answers by itself;
the floor observes. With ``turn_detection=None``, or a detection whose `create_response` is off, the engine decides: our own
voice activity detection and the provider's transcript move the floor, and an answer is asked for when it says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET

from ..errors import ConfigurationError, check_options
from ..wire.openai_realtime import (
    RATE,
    VOICES,
    AudioPatch,
    FunctionChoice,
    FunctionTool,
    InputPatch,
    NoiseReduction,
    OutputPatch,
    SemanticVAD,
    ServerVAD,
    SessionPatch,
    Tool,
    Transcription,
    TurnDetection,
)
from .base import Audio, Capabilities, Connection, Context, Model, Setup, check_rate
from .transport import Transport, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..speech.base import VAD
    from .openai_connection import RawConnection

#: longest life of a connection at the vendor, seconds
SESSION_S = 3600.0
_OPTIONS = (
    *("model", "voice", "api_key", "base_url", "organization", "project", "audio", "turn_detection", "transcription"),
    *("noise_reduction", "max_output_tokens", "speed", "reasoning", "tool_choice", "output_modalities", "session_s"),
    *("vad", "on_wire", "connector"),
)


class OpenAIRealtime(Model):
    """OpenAI Realtime. Options have the vendor's names; see `docs/models.md`.

    Args:
        model: the vendor's name of a model.
        voice: one of the vendor's voices, or the id of one of your own. `Agent(voice=)` goes before it.
        api_key: default `OPENAI_API_KEY`; a function is asked anew for each connection.
        base_url: of a compatible server, such as ``http://localhost:8080/v1``; default `OPENAI_BASE_URL`, else the vendor.
        organization, project: as the vendor's; default `OPENAI_ORG_ID`, `OPENAI_PROJECT_ID`.
        audio: rates are 24 kHz both ways, the only PCM that the vendor takes; `voice` as above.
        turn_detection: ``"server_vad"``, ``"semantic_vad"``, one of their option structs or a mapping; None: the engine decides.
        transcription: transcribes the user, beside the model; None: nobody knows what they said. Where the engine decides
            turns this is its evidence; without it a turn ends by hand or after the hard maximum of silence.
        noise_reduction: ``"near_field"``, ``"far_field"`` or None.
        max_output_tokens: 1 to 4096, or ``"inf"``.
        speed: 0.25 to 1.5.
        reasoning: effort of models that reason.
        tool_choice: ``"auto"``, ``"none"``, ``"required"``, or the name of a tool that must be called.
        output_modalities: ``("audio",)`` or ``("text",)``.
        session_s: longest life of a connection, seconds; a session that lives longer goes on over the next one.
        vad: makes our own voice activity detector; default: Silero where the engine decides, else none.
        on_wire: sees every frame of every connection.
        connector: opens what carries a connection; default: the vendor's SDK.

    Raises:
        UnknownOptionError, ConfigurationError: what cannot work.
    """

    name = "openai-realtime"

    def __init__(
        self,
        *,
        model: str = "gpt-realtime",
        voice: str = "marin",
        api_key: str | Callable[[], Awaitable[str]] | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        audio: Audio | None = None,
        turn_detection: TurnDetection | str | Mapping[str, Any] | None = "server_vad",
        transcription: Transcription | str | None = "gpt-4o-mini-transcribe",
        noise_reduction: Literal["near_field", "far_field"] | None = None,
        max_output_tokens: int | Literal["inf"] = "inf",
        speed: float = 1.0,
        reasoning: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None,
        tool_choice: str = "auto",
        output_modalities: tuple[Literal["audio", "text"], ...] = ("audio",),
        session_s: float = SESSION_S,
        vad: Callable[[], VAD] | None = None,
        on_wire: Watch | None = None,
        connector: Callable[[OpenAIRealtime], Awaitable[Transport]] | None = None,
        **unknown: object,
    ) -> None:
        check_options("OpenAIRealtime", unknown, _OPTIONS)
        audio = audio or Audio()
        check_rate("OpenAI Realtime", audio.input_rate, (RATE,), RATE)
        check_rate("OpenAI Realtime", audio.output_rate, (RATE,), RATE)
        if output_modalities not in (("audio",), ("text",)):
            raise ConfigurationError(f"output_modalities={output_modalities!r}.", hint='Use ("audio",) or ("text",).')
        if not 0.25 <= speed <= 1.5:
            raise ConfigurationError(f"A speed of {speed} is out of range.", hint="Use 0.25 to 1.5.")
        if isinstance(max_output_tokens, int) and not 1 <= max_output_tokens <= 4096:
            raise ConfigurationError(f"max_output_tokens={max_output_tokens}.", hint='Use 1 to 4096, or "inf".')
        self.model = model
        self.voice = audio.voice or voice
        self.api_key = api_key
        self.base_url = base_url
        self.organization = organization
        self.project = project
        self.turn_detection = _turn_detection(turn_detection)
        self.transcription = Transcription(model=transcription) if isinstance(transcription, str) else transcription
        self.noise_reduction = NoiseReduction(type=noise_reduction) if noise_reduction is not None else None
        self.max_output_tokens = max_output_tokens
        self.speed = speed
        self.reasoning = reasoning
        self.tool_choice = tool_choice
        self.output_modalities: tuple[Literal["audio", "text"], ...] = output_modalities
        self.vad = vad
        self.on_wire = on_wire
        self._connector = connector
        detection = self.turn_detection
        #: whether the provider answers by itself
        self.automatic = detection is not None and detection.create_response
        self._capabilities = Capabilities(
            authority="provider" if self.automatic else "engine",
            input_rate=RATE,
            output_rate=RATE,
            can_disable_detection=True,
            can_cancel=True,
            can_truncate=True,
            inputs=frozenset({"audio", "text", "image", "sensor"}),
            say="instructed",
            connection_s=session_s,
            can_update=True,
            # Of the model's 28,672 tokens of input the conversation that goes on needs its share.
            history_bytes=64_000,
            voices=VOICES if base_url is None and self.voice in VOICES else (),
        )

    @property
    def capabilities(self) -> Capabilities:
        """See Model."""
        return self._capabilities

    async def open(self, context: Context) -> Connection:
        """See Model."""
        from .openai_connection import open_connection

        return await open_connection(self, context)

    async def warm_up(self) -> None:
        """See Model. Loads the SDK, which takes a second, and finds out whether there is a key.

        A function that makes keys is asked by connections alone.
        """
        if self._connector is None:
            from .openai_transport import key_of, load_sdk

            await asyncio.to_thread(load_sdk)
            if not callable(self.api_key):
                key_of(self.api_key)

    @asynccontextmanager
    async def connect(self, *, on_wire: Watch | None = None) -> AsyncIterator[RawConnection]:
        """A connection in your own hands, without a session: typed vendor events both ways. `on_wire` sees each frame."""
        from .openai_connection import RawConnection

        raw = RawConnection(await self.transport(on_wire))
        try:
            yield raw
        finally:
            await raw.close()

    async def transport(self, on_wire: Watch | None = None) -> Transport:
        """Open what carries a connection. Raises a typed error within seconds."""
        from .transport import Watched

        if self._connector is not None:
            transport = await self._connector(self)
        else:
            from .openai_transport import connect_sdk

            transport = await connect_sdk(self)
        watch = on_wire or self.on_wire
        return transport if watch is None else Watched(transport, watch)

    def make_vad(self) -> VAD | None:
        """A detector of our own, where there is to be one."""
        if self.vad is not None:
            return self.vad()
        if self.automatic:
            return None
        from ..speech.vad import SileroVAD

        return SileroVAD()

    def patch(self, setup: Setup, *, speaks: bool) -> SessionPatch:
        """The session as a connection is to have it."""
        choice = self.tool_choice
        return SessionPatch(
            type="realtime",
            output_modalities=list(self.output_modalities) if speaks else ["text"],
            instructions=instructions_of(setup),
            audio=AudioPatch(
                input=InputPatch(
                    noise_reduction=self.noise_reduction,
                    transcription=self._transcription(setup.language),
                    turn_detection=self.turn_detection,
                ),
                output=OutputPatch(voice=setup.voice or self.voice, speed=self.speed),
            ),
            tools=tools_of(setup),
            tool_choice=choice if choice in ("auto", "none", "required") else FunctionChoice(name=choice),  # type: ignore[arg-type]
            max_output_tokens=self.max_output_tokens,
            reasoning={"effort": self.reasoning} if self.reasoning is not None else UNSET,
        )

    def _transcription(self, language: str | None) -> Transcription | None:
        if self.transcription is None or language is None or self.transcription.language:
            return self.transcription
        return msgspec.structs.replace(self.transcription, language=language.split("-")[0])


def instructions_of(setup: Setup) -> str:
    """What the model is told, with the language where one is agreed."""
    if setup.language is None:
        return setup.instructions
    return f"{setup.instructions}\nSpeak the language {setup.language}.".strip()


def tools_of(setup: Setup) -> list[Tool]:
    """The tools as the vendor takes them."""
    return [
        FunctionTool(name=tool.name, description=tool.description, parameters=tool.parameters) for tool in setup.tools
    ]


def _turn_detection(given: TurnDetection | str | Mapping[str, Any] | None) -> TurnDetection | None:
    if given is None or isinstance(given, ServerVAD | SemanticVAD):
        return given
    if isinstance(given, str):
        given = {"type": given}
    try:
        detection: TurnDetection = msgspec.convert(given, TurnDetection)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"turn_detection={dict(given)!r}: {error}.",
            hint='Use "server_vad", "semantic_vad", their options, or None.',
        ) from None
    return detection
