"""Gemini Live as a model, and every server that speaks its protocol (BidiGenerateContent).

Two ways to take turns. With automatic activity detection (the default) the provider decides and answers by itself; the floor
observes. With ``automatic_activity_detection={"disabled": True}`` the engine decides: our own voice activity detection and the
provider's transcript move the floor, and the provider is told where the user begins and ends.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ..errors import ConfigurationError, check_options
from ..wire.gemini_live import OUTPUT_RATE, VOICES, from_json_schema
from ..wire.gemini_live import messages as g
from .base import Audio, Capabilities, Connection, Context, Model, Setup, check_rate
from .transport import Transport, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..speech.base import VAD
    from .gemini_open import RawConnection

#: native rate of the model's ears, Hz
INPUT_RATE = 16_000
#: life of a connection at the vendor, seconds (about; the vendor says before)
SESSION_S = 600.0
#: the context is compressed at so many tokens, to so many, unless said otherwise (of 128,000)
_COMPRESSION = g.ContextWindowCompression(trigger_tokens=100_000, sliding_window=g.SlidingWindow(target_tokens=50_000))
#: most of a history that is sent, bytes
_HISTORY_BYTES = 128_000
_OPTIONS = (
    *("model", "voice", "api_key", "api_version", "base_url", "audio", "language_code", "temperature", "top_p"),
    *("top_k", "max_output_tokens", "seed", "thinking", "media_resolution", "response_modalities"),
    *("automatic_activity_detection", "activity_handling", "turn_coverage", "context_window_compression"),
    *("session_resumption", "enable_affective_dialog", "proactive_audio", "input_audio_transcription"),
    *("output_audio_transcription", "function_behavior", "scheduling", "google_search", "session_s", "vad"),
    *("on_wire", "connector"),
)


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What generations of the model do differently (google-genai 3.4; Pipecat 1.14).

    Attributes:
        history_first: `clientContent` is only for the history, before anything else, as `historyConfig` says (3.x).
        background_tools: the conversation goes on while functions run that are declared so (2.5).
        context_update: instructions and tools can be changed in mid-session (3.8).
    """

    history_first: bool = False
    background_tools: bool = False
    context_update: bool = False

    @classmethod
    def of(cls, model: str) -> Abilities:
        """Those of a model by its name; a name that says no generation is taken for 2.5."""
        found = re.search(r"gemini-(?:live-)?(\d+)(?:\.(\d+))?", model)
        generation = (int(found.group(1)), int(found.group(2) or 0)) if found is not None else (2, 5)
        return cls(
            history_first=generation >= (3, 0),
            background_tools=generation == (2, 5),
            context_update=generation >= (3, 8),
        )


class GeminiLive(Model):
    """Gemini Live. Options have the vendor's names; see `docs/models.md`.

    Args:
        model: the vendor's name of a model.
        voice: one of the vendor's prebuilt voices; None: the model's own. `Agent(voice=)` goes before it.
        api_key: default `GOOGLE_API_KEY`, then `GEMINI_API_KEY`; a function is asked anew for each connection. An ephemeral token
            (``auth_tokens/…``) is taken as well; it wants ``api_version="v1alpha"``.
        api_version: ``"v1"``, ``"v1beta"`` or ``"v1alpha"``; affective dialogue and proactive audio want the last.
        base_url: of a compatible server, such as ``http://localhost:8080``; default `GOOGLE_GEMINI_BASE_URL`, else the vendor.
        audio: rates are 16 kHz in and 24 kHz out; `voice` as above.
        language_code: BCP 47; models with native audio choose the language by themselves and do not take it.
        temperature, top_p, top_k, max_output_tokens, seed: sampling.
        thinking: `ThinkingConfig` or a mapping, such as ``{"thinking_budget": 0}``.
        media_resolution: of pictures: ``"MEDIA_RESOLUTION_LOW"``, …
        response_modalities: ``("AUDIO",)`` or ``("TEXT",)``.
        automatic_activity_detection: `AutomaticActivityDetection` or a mapping with the vendor's fields; ``{"disabled": True}``:
            the engine decides turns.
        activity_handling: ``"START_OF_ACTIVITY_INTERRUPTS"`` or ``"NO_INTERRUPTION"``.
        turn_coverage: what of the input counts as the user's turn.
        context_window_compression: `ContextWindowCompression` or a mapping; None: none, and a session ends after 15 minutes.
        session_resumption: the next connection takes the provider's state over by its handle, and is sent only what came since;
            False: it is sent the whole history.
        enable_affective_dialog, proactive_audio: as the vendor's.
        input_audio_transcription, output_audio_transcription: whether both sides are transcribed. Without the first nobody knows
            what the user said; without the second, what the agent did.
        function_behavior: ``"NON_BLOCKING"`` lets the conversation go on while tools run; ``"BLOCKING"`` has the model wait, and
            withdraw the calls when the user speaks. None: the first where the model can (2.5). `scheduling` says when it speaks
            of a result: ``"INTERRUPT"``, ``"WHEN_IDLE"`` (the vendor's default) or ``"SILENT"``.
        google_search: the model may search.
        session_s: life of a connection, seconds; a session that lives longer goes on over the next one.
        vad: makes our own voice activity detector; default: Silero where the engine decides, else none.
        on_wire: sees every frame of every connection.
        connector: opens what carries a connection; default: a WebSocket.

    Raises:
        UnknownOptionError, ConfigurationError: what cannot work.
    """

    name = "gemini-live"

    def __init__(
        self,
        *,
        model: str = "gemini-2.5-flash-native-audio-preview-12-2025",
        voice: str | None = None,
        api_key: str | Callable[[], Awaitable[str]] | None = None,
        api_version: Literal["v1", "v1beta", "v1alpha"] = "v1beta",
        base_url: str | None = None,
        audio: Audio | None = None,
        language_code: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: float | None = None,
        max_output_tokens: int | None = None,
        seed: int | None = None,
        thinking: g.ThinkingConfig | Mapping[str, Any] | None = None,
        media_resolution: g.MediaResolution | None = None,
        response_modalities: tuple[Literal["AUDIO", "TEXT"], ...] = ("AUDIO",),
        automatic_activity_detection: g.AutomaticActivityDetection | Mapping[str, Any] | None = None,
        activity_handling: g.ActivityHandling | None = None,
        turn_coverage: g.TurnCoverage | None = None,
        context_window_compression: g.ContextWindowCompression | Mapping[str, Any] | None = _COMPRESSION,
        session_resumption: bool = True,
        enable_affective_dialog: bool | None = None,
        proactive_audio: bool | None = None,
        input_audio_transcription: bool = True,
        output_audio_transcription: bool = True,
        function_behavior: Literal["BLOCKING", "NON_BLOCKING"] | None = None,
        scheduling: Literal["INTERRUPT", "WHEN_IDLE", "SILENT"] | None = None,
        google_search: bool = False,
        session_s: float = SESSION_S,
        vad: Callable[[], VAD] | None = None,
        on_wire: Watch | None = None,
        connector: Callable[[GeminiLive], Awaitable[Transport]] | None = None,
        **unknown: object,
    ) -> None:
        check_options("GeminiLive", unknown, _OPTIONS)
        audio = audio or Audio()
        check_rate("Gemini Live", audio.input_rate, (INPUT_RATE,), INPUT_RATE)
        check_rate("Gemini Live", audio.output_rate, (OUTPUT_RATE,), OUTPUT_RATE)
        if response_modalities not in (("AUDIO",), ("TEXT",)):
            raise ConfigurationError(
                f"response_modalities={response_modalities!r}.", hint='Use ("AUDIO",) or ("TEXT",).'
            )
        if api_version not in ("v1", "v1beta", "v1alpha"):
            raise ConfigurationError(f"api_version={api_version!r}.", hint='Use "v1", "v1beta" or "v1alpha".')
        self.model = model
        self.voice = audio.voice or voice
        self.api_key = api_key
        self.api_version = api_version
        self.base_url = base_url
        self.scheduling: g.Scheduling | None = scheduling
        self.session_resumption = session_resumption
        self.vad = vad
        self.on_wire = on_wire
        self.abilities = Abilities.of(model)
        self._connector = connector
        self._generation = g.GenerationConfig(
            response_modalities=list(response_modalities),
            temperature=_within("temperature", temperature, 0.0, 2.0),
            top_p=_within("top_p", top_p, 0.0, 1.0),
            top_k=_within("top_k", top_k, 1.0, 1e6),
            max_output_tokens=None
            if max_output_tokens is None
            else int(_within("max_output_tokens", max_output_tokens, 1, 1e6) or 1),
            seed=seed,
            media_resolution=_one_of("media_resolution", media_resolution, g.MediaResolution),
            thinking_config=_config("thinking", thinking, g.ThinkingConfig),
            enable_affective_dialog=enable_affective_dialog,
        )
        self._language_code = language_code
        detection = _config("automatic_activity_detection", automatic_activity_detection, g.AutomaticActivityDetection)
        #: whether the provider decides turns, and answers by itself
        self.automatic = detection is None or not detection.disabled
        if not self.automatic and turn_coverage is None:
            turn_coverage = "TURN_INCLUDES_ALL_INPUT"  # pictures come between activities; audio does not
        self._realtime = g.RealtimeInputConfig(
            automatic_activity_detection=detection,
            activity_handling=_one_of("activity_handling", activity_handling, g.ActivityHandling),
            turn_coverage=_one_of("turn_coverage", turn_coverage, g.TurnCoverage),
        )
        self._compression = _config(
            "context_window_compression", context_window_compression, g.ContextWindowCompression
        )
        self._proactivity = None if proactive_audio is None else g.Proactivity(proactive_audio=proactive_audio)
        self._transcribes = input_audio_transcription, output_audio_transcription
        if function_behavior is None and self.abilities.background_tools:
            function_behavior = "NON_BLOCKING"
        self._behavior = function_behavior
        #: whether the conversation goes on while tools run
        self.background = function_behavior == "NON_BLOCKING"
        self._google_search = google_search
        self._capabilities = Capabilities(
            authority="provider" if self.automatic else "engine",
            input_rate=INPUT_RATE,
            output_rate=OUTPUT_RATE,
            can_disable_detection=True,
            can_cancel=not self.automatic,
            inputs=frozenset({"audio", "text", "image", "sensor"}),
            say="instructed",
            connection_s=session_s,
            can_update=self.abilities.context_update,
            history_bytes=_HISTORY_BYTES,
            voices=VOICES if self.voice is None or self.voice in VOICES else (),
        )

    @property
    def capabilities(self) -> Capabilities:
        """See Model."""
        return self._capabilities

    @property
    def speaks(self) -> bool:
        """Whether answers are audio."""
        return self._generation.response_modalities == ["AUDIO"]

    async def open(self, context: Context) -> Connection:
        """See Model."""
        from .gemini_open import open_connection

        return await open_connection(self, context)

    async def warm_up(self) -> None:
        """See Model. Finds out whether there is a key, and whether the address is one.

        A function that makes keys is asked by connections alone.
        """
        if self._connector is None:
            from .gemini_transport import address, key_of

            key = "" if callable(self.api_key) else key_of(self.api_key)[0]
            address(self.base_url, self.api_version, key)

    @asynccontextmanager
    async def connect(
        self, setup: Setup | None = None, *, on_wire: Watch | None = None
    ) -> AsyncIterator[RawConnection]:
        """A connection in your own hands, without a session: typed vendor messages both ways. `on_wire` sees each frame."""
        from .gemini_open import RawConnection

        raw = RawConnection(await self.transport(on_wire), self.setup(setup or Setup()))
        try:
            await raw.begin()
            yield raw
        finally:
            await raw.close()

    async def transport(self, on_wire: Watch | None = None) -> Transport:
        """Open what carries a connection. Raises a typed error within seconds."""
        from .transport import Watched

        if self._connector is not None:
            transport = await self._connector(self)
        else:
            from .gemini_transport import connect

            transport = await connect(self)
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

    def setup(self, setup: Setup, handle: str | None = None) -> g.Setup:
        """The session as a connection is to have it; `handle`: of the state that it goes on from."""
        voice = setup.voice or self.voice
        speech = None
        if voice is not None or self._language_code is not None:
            chosen = (
                None if voice is None else g.VoiceConfig(prebuilt_voice_config=g.PrebuiltVoiceConfig(voice_name=voice))
            )
            speech = g.SpeechConfig(voice_config=chosen, language_code=self._language_code)
        heard, said = self._transcribes
        return g.Setup(
            model=self.model if "/" in self.model else f"models/{self.model}",
            generation_config=msgspec.structs.replace(self._generation, speech_config=speech),
            system_instruction=instructions_of(setup),
            tools=self.tools_of(setup) or None,
            realtime_input_config=self._realtime if self._realtime != g.RealtimeInputConfig() else None,
            session_resumption=g.SessionResumption(handle=handle) if self.session_resumption else None,
            context_window_compression=self._compression,
            input_audio_transcription={} if heard else None,
            output_audio_transcription={} if said and self.speaks else None,
            proactivity=self._proactivity,
            history_config=g.HistoryConfig(initial_history_in_client_content=True)
            if self.abilities.history_first
            else None,
        )

    def tools_of(self, setup: Setup) -> list[g.Tool]:
        """The tools as the vendor takes them."""
        declared = [
            g.FunctionDeclaration(
                name=tool.name,
                description=tool.description or None,
                parameters=from_json_schema(tool.parameters) if tool.parameters.get("properties") else None,
                behavior=self._behavior,
            )
            for tool in setup.tools
        ]
        tools = [g.Tool(function_declarations=declared)] if declared else []
        return [*tools, g.Tool(google_search={})] if self._google_search else tools


def instructions_of(setup: Setup) -> g.Content | None:
    """What the model is told, with the language where one is agreed."""
    text = setup.instructions
    if setup.language is not None:
        text = f"{text}\nSpeak the language {setup.language}.".strip()
    return g.Content(parts=[g.Part(text=text)]) if text else None


def _within(name: str, value: float | None, least: float, most: float) -> float | None:
    if value is not None and not least <= value <= most:
        raise ConfigurationError(f"{name}={value}.", hint=f"Use {least:g} to {most:g}.")
    return value


def _one_of[T](name: str, value: T, kind: Any) -> T:
    if value is not None and value not in kind.__args__:
        raise ConfigurationError(f"{name}={value!r}.", hint=f"Use one of {', '.join(kind.__args__)}.")
    return value


def _config[T: msgspec.Struct](name: str, given: T | Mapping[str, Any] | None, kind: type[T]) -> T | None:
    if given is None or isinstance(given, kind):
        return given
    assert isinstance(given, Mapping)
    check_options(name, given, kind.__struct_fields__)
    fields = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    try:
        return msgspec.convert({fields[key]: value for key, value in given.items()}, kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{name}={dict(given)!r}: {error}.") from None
