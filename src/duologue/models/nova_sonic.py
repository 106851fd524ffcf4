"""Amazon Nova Sonic as a model: speech to speech over a bidirectional stream of Amazon Bedrock.

The provider's own detection decides turns and interruptions; the floor observes. A stream lives eight minutes at most and ends
sooner when nobody speaks: the supervisor goes on over the next one before either happens. Options, limits and what rests on whose
word: `docs/models.md`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

import msgspec

from ..errors import ConfigurationError, MissingDependencyError, check_options
from ..wire.nova_sonic import LANGUAGES, MODELS, NOVA_1, NOVA_2, RATES, VOICE_IDS, StreamLimits, inputs, voice_for
from .base import Audio, Capabilities, Connection, Context, Model, Setup, check_rate
from .transport import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..speech.base import VAD
    from .nova_stream import NovaStream
    from .nova_transport import NovaTransport

#: bytes of history that are replayed; the documented limit is 40 KB in all, blocks and words of ours included
HISTORY_BYTES = 36_000
#: entries of it; each is three events, which a connection must be able to hold while the service takes them
HISTORY_ITEMS = 400
_OPTIONS = (
    *("model_id", "region", "profile", "endpoint_url", "voice", "audio", "temperature", "top_p", "max_tokens"),
    *("endpointing_sensitivity", "tool_choice", "limits", "vad", "on_wire", "connector"),
)


class NovaSonic(Model):
    """Amazon Nova Sonic 2 and 2.5.

    Args:
        model_id: ``"amazon.nova-2-sonic-v1:0"`` or ``"amazon.nova-2-5-sonic"``.
        region: of AWS; default: environment, then profile, then us-east-1.
        profile: of `~/.aws`; default `AWS_PROFILE`. Credentials are found as AWS's own tools find them.
        endpoint_url: of a compatible server, with TLS and HTTP/2; default `AWS_ENDPOINT_URL_BEDROCK_RUNTIME`, else AWS.
        voice: one of `duologue.wire.nova_sonic.VOICES`; default: one of the agent's language, else matthew. `Agent(voice=)` goes
            before it.
        audio: rates of 8, 16 or 24 kHz; 16 kHz in and 24 kHz out unless given.
        temperature, top_p: 0 to 1. max_tokens: 1 to 10,000, of one answer.
        endpointing_sensitivity: how long a pause ends a turn: HIGH about 1.5 s, MEDIUM 1.75 s, LOW 2 s; None: the model's own.
        tool_choice: ``"auto"``, ``"any"``, or the name of a tool that must be called.
        limits: of a stream, in seconds; the service's unless given.
        vad: makes a voice activity detector of our own, such as `SileroVAD`: it ducks the agent at the first sound, and notices a
            service that has gone deaf. Default: none.
        on_wire: sees the JSON of every event of every stream.
        connector: opens what carries a stream; default: the vendor's SDK.

    Raises:
        UnknownOptionError, ConfigurationError: what cannot work.
    """

    name = "nova-sonic"

    def __init__(
        self,
        *,
        model_id: str = NOVA_2,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
        voice: str | None = None,
        audio: Audio | None = None,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_tokens: int = 1024,
        endpointing_sensitivity: Literal["HIGH", "MEDIUM", "LOW"] | None = None,
        tool_choice: str = "auto",
        limits: StreamLimits | None = None,
        vad: Callable[[], VAD] | None = None,
        on_wire: Watch | None = None,
        connector: Callable[[NovaSonic], Awaitable[NovaTransport]] | None = None,
        **unknown: object,
    ) -> None:
        check_options("NovaSonic", unknown, _OPTIONS)
        audio = audio or Audio()
        input_rate = check_rate("Nova Sonic", audio.input_rate, RATES, 16_000)
        output_rate = check_rate("Nova Sonic", audio.output_rate, RATES, 24_000)
        if model_id == NOVA_1:
            raise ConfigurationError(f"{NOVA_1} has been withdrawn.", hint=f"Use {' or '.join(MODELS)}.")
        for option, value in (("temperature", temperature), ("top_p", top_p)):
            if not 0.0 <= value <= 1.0:
                raise ConfigurationError(f"{option}={value} is out of range.", hint="Use 0 to 1.")
        if not 1 <= max_tokens <= 10_000:
            raise ConfigurationError(f"max_tokens={max_tokens} is out of range.", hint="Use 1 to 10000.")
        if endpointing_sensitivity not in (None, "HIGH", "MEDIUM", "LOW"):
            raise ConfigurationError(
                f"endpointing_sensitivity={endpointing_sensitivity!r}.", hint="Use HIGH, MEDIUM or LOW."
            )
        chosen = audio.voice or voice
        if chosen is not None and chosen not in VOICE_IDS and endpoint_url is None:
            raise ConfigurationError(f"Nova Sonic has no voice {chosen!r}.", hint=f"Voices: {', '.join(VOICE_IDS)}.")
        if endpoint_url is not None and not endpoint_url.startswith("https://"):
            raise ConfigurationError(
                f"endpoint_url={endpoint_url!r} cannot work: the stream needs HTTP/2, which needs TLS.",
                hint="Use https://; SSL_CERT_FILE names the certificate of a server of your own.",
            )
        self.model_id = model_id
        self.region = region
        self.profile = profile
        self.endpoint_url = endpoint_url
        self.voice = chosen
        self.inference = inputs.InferenceConfiguration(max_tokens=max_tokens, top_p=top_p, temperature=temperature)
        self.endpointing_sensitivity: inputs.Sensitivity | None = endpointing_sensitivity
        self.tool_choice = tool_choice
        self.limits = limits or StreamLimits()
        self.vad = vad
        self.on_wire = on_wire
        self._connector = connector
        if connector is None:
            _check_installed()
        self._capabilities = Capabilities(
            authority="provider",
            input_rate=input_rate,
            output_rate=output_rate,
            can_disable_detection=False,
            can_cancel=False,
            can_truncate=False,
            inputs=frozenset({"audio", "text"}),
            say="instructed",
            connection_s=self.limits.connection_s,
            can_update=False,
            history_bytes=HISTORY_BYTES,
            history_items=HISTORY_ITEMS,
            voices=VOICE_IDS if endpoint_url is None else (),
            languages=LANGUAGES,
        )

    @property
    def capabilities(self) -> Capabilities:
        """See Model."""
        return self._capabilities

    async def open(self, context: Context) -> Connection:
        """See Model."""
        from .nova_connection import open_connection

        return await open_connection(self, context)

    async def warm_up(self) -> None:
        """See Model. Loads the SDK, which takes a second and more, and finds out whether there are credentials."""
        if self._connector is None:
            from .nova_credentials import find_identity
            from .nova_transport import load_sdk

            await asyncio.to_thread(load_sdk)
            await find_identity(region=self.region, profile=self.profile, known_region=self.endpoint_url is None)

    @asynccontextmanager
    async def connect(self, *, on_wire: Watch | None = None) -> AsyncIterator[NovaStream]:
        """A stream in your own hands, without a session: typed vendor events both ways. `on_wire` sees each of them."""
        from .nova_stream import NovaStream

        stream = NovaStream(await self.transport(on_wire), self.model_id)
        try:
            yield stream
        finally:
            await stream.close()

    async def transport(self, on_wire: Watch | None = None) -> NovaTransport:
        """Open what carries a stream. Raises a typed error within seconds."""
        from .nova_transport import WatchedNova, connect_sdk

        transport = await (self._connector(self) if self._connector is not None else connect_sdk(self))
        watch = on_wire or self.on_wire
        return transport if watch is None else WatchedNova(transport, watch)

    def voice_format(self, setup: Setup) -> inputs.VoiceFormat:
        """The audio that is asked for."""
        voice = setup.voice or self.voice or voice_for(setup.language, None)
        return inputs.VoiceFormat(sample_rate_hertz=self._capabilities.output_rate, voice_id=voice)

    def tools(self, setup: Setup) -> list[inputs.Tool]:
        """The tools as the service takes them: each schema as text."""
        return [
            inputs.Tool(
                tool_spec=inputs.ToolSpec(
                    name=tool.name,
                    description=tool.description or tool.name,
                    input_schema=inputs.InputSchema(json=msgspec.json.encode(tool.parameters).decode()),
                )
            )
            for tool in setup.tools
        ]

    def choice(self) -> inputs.ToolChoice:
        """The vendor's form of `tool_choice`."""
        if self.tool_choice == "auto":
            return inputs.ToolChoice(auto={})
        if self.tool_choice == "any":
            return inputs.ToolChoice(any={})
        return inputs.ToolChoice(tool=inputs.NamedTool(name=self.tool_choice))


def instructions_of(setup: Setup) -> str:
    """What the model is told, with the language where one is agreed."""
    if setup.language is None:
        return setup.instructions
    return f"{setup.instructions}\nSpeak the language {setup.language}.".strip()


def _check_installed() -> None:
    from importlib.util import find_spec

    for package in ("aws_sdk_bedrock_runtime", "awscrt", "botocore"):
        if find_spec(package) is None:
            raise MissingDependencyError(
                f"Nova Sonic needs the package {package.replace('_', '-')}.",
                hint="Install it with: pip install 'duologue[nova-sonic]'",
            )
