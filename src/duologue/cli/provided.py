"""What `duologue serve` serves beside an app, and what it says about it: models by name, Nova Sonic's port, the addresses."""

from __future__ import annotations

import difflib
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from .. import models
from ..agent import Agent
from ..errors import ConfigurationError
from ..models import Model
from ..serve import RunningServer, ServeOptions
from ..serve.nova_sonic import NovaOptions, RunningNova, serving_nova
from ..wire.nova_sonic import StreamLimits
from .env import load_env
from .talk import free_port

_NOVA_PORT = 8443
#: access key id that goes with the server's key, where none is given
_NOVA_ID = "duologue"
_NAMES = ("local", "nova-sonic", "openai-realtime", "gemini-live")


async def model_agent(name: str) -> Agent:
    """An agent that is nothing but this model, ready. Raises ConfigurationError for an unknown one, and what opening raises."""
    load_env(Path.cwd())
    agent = Agent(model=_model(name), name=name)
    await agent.model.warm_up()
    return agent


def _model(name: str) -> Model:
    match name:
        case "local":
            return models.Cascade.local()
        case "nova-sonic":
            return models.NovaSonic()
        case "openai-realtime":
            return models.OpenAIRealtime()
        case "gemini-live":
            return models.GeminiLive()
    near = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]}?" if near else f"There is {', '.join(_NAMES)}."
    raise ConfigurationError(f"There is no model {name!r} to serve.", hint=hint)


class NovaPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and where Nova Sonic is served. `port`: None takes the usual one or a free one; `keys`: ID=SECRET each."""

    wanted: bool = True
    port: int | None = None
    keys: tuple[str, ...] = ()
    limits: StreamLimits = StreamLimits()

    def __post_init__(self) -> None:
        for text in self.keys:
            id, equals, secret = text.partition("=")
            if not (id and equals and secret):
                raise ConfigurationError("--nova-key is an access key id and a secret.", hint="Write ID=SECRET.")

    async def open(self, stack: AsyncExitStack, server: RunningServer, options: ServeOptions) -> RunningNova | str:
        """Serve the calls of `server` as Nova Sonic too. Where nobody asked and it cannot be: why not, in words."""
        if not self.wanted:
            return "not served (--no-nova)"
        keys = dict(text.split("=", 1) for text in self.keys)
        if not keys and options.key:
            keys = {_NOVA_ID: options.key}
        port = self.port
        if port is None:
            port = free_port(_NOVA_PORT) if options.is_loopback else _NOVA_PORT
        own = NovaOptions(
            host=options.host,
            port=port,
            keys=keys,
            no_auth=options.no_auth,
            as_model=options.as_model,
            max_sessions=options.max_sessions,
            limits=self.limits,
            certificate=options.certificate,
            certificate_key=options.certificate_key,
            certificate_directory=options.certificate_directory,
            names=options.hosts,
        )
        sessions = server.app.state.server.sessions  # type: ignore[attr-defined]
        try:
            return await stack.enter_async_context(serving_nova(sessions, own))
        except ConfigurationError as error:
            if self.port is not None or self.keys:
                raise
            return f"not served: {error}"


def announcement(server: RunningServer, nova: RunningNova | str, options: ServeOptions) -> list[str]:
    """Lines that say where each protocol is answered, and how to point the vendor's client there."""
    secure = "s" if server.ca_file or options.certificate else ""
    address = server.url.partition("://")[2]
    key = "the key" if options.key else "any"
    path = "/ws/google.ai.generativelanguage.{v1,v1beta,v1alpha}.GenerativeService.BidiGenerateContent"
    lines = [
        f"{server.url}  (clients: {server.ws_url})",
        f"OpenAI Realtime  ws{secure}://{address}/v1/realtime",
        f'    AsyncOpenAI(base_url="{server.url}/v1", api_key=…)  api_key: {key}',
        f"Gemini Live      ws{secure}://{address}{path}",
    ]
    if secure:
        lines.append(f'    genai.Client(api_key=…, http_options=HttpOptions(base_url="{server.url}"))  api_key: {key}')
    else:
        lines.append("    google-genai connects over TLS only: add --tls")
    if isinstance(nova, str):
        lines.append(f"Nova Sonic       {nova}")
        authority = server.ca_file
    else:
        ids = ", ".join(nova.server.options.keys)
        lines += [
            f"Nova Sonic       {nova.url}/model/{{id}}/invoke-with-bidirectional-stream",
            f'    AsyncBedrockRuntimeConfig.resolve(endpoint_uri="{nova.url}", transport=AWSCRTHTTPClient(), …)  '
            + (f"access key: {ids}" if ids else "credentials: any"),
        ]
        authority = nova.ca_file
    if authority is not None:
        lines.append(f"Clients trust the development certificate by SSL_CERT_FILE={authority}")
    what = (
        "a model: clients bring instructions, voice and tools"
        if options.as_model
        else "an agent: its instructions and tools are its own"
    )
    lines.append(f"Served as {what}. Ctrl+C ends it.")
    return lines
