"""Any server that speaks OpenAI's chat completions: OpenAI itself, Ollama, llama.cpp, vLLM, LM Studio and others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Never

import httpx
import msgspec

from duologue.errors import (
    ConfigurationError,
    CredentialsError,
    ModelConnectionError,
    ModelRequestError,
    check_options,
)
from duologue.speech.llm.base import DEFAULT_OPTIONS, GenerateOptions, LLMEvent, Message
from duologue.speech.llm.chat_stream import ChatStream, error_from_body, request_body
from duologue.speech.llm.discover import CANDIDATES, Candidate, Found, find_local
from duologue.speech.llm.sse import SSEParser
from duologue.tools.base import ToolSpec

logger = logging.getLogger("duologue.speech.llm")

MAX_ERROR_BYTES = 64 * 1024

#: prefix of a spec -> base address, and the environment variable that holds its key
KNOWN_SERVERS: dict[str, tuple[str, str]] = {
    "ollama": ("http://127.0.0.1:11434/v1", ""),
    "llamacpp": ("http://127.0.0.1:8080/v1", ""),
    "vllm": ("http://127.0.0.1:8000/v1", ""),
    "lmstudio": ("http://127.0.0.1:1234/v1", ""),
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": ("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "deepseek": ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "together": ("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "cerebras": ("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
}


class OpenAICompatibleLLM:
    """A chat model behind an HTTP address.

    Args:
        model: the model's name at the server.
        base_url: the address up to and including `/v1`.
        api_key: sent as a bearer token; None sends none.
        name: for logs and turn records; by default the model's name.
        connect_timeout_s: seconds until the server must have accepted the connection.
        max_connections: requests at the same time; more wait for a turn within the first-token timeout.
        options: for every generation that is not given its own.

    Raises:
        ConfigurationError: an address or option that cannot work.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = "https://api.openai.com/v1",
        api_key: str | None = None,
        name: str = "",
        connect_timeout_s: float = 5.0,
        max_connections: int = 100,
        options: GenerateOptions = DEFAULT_OPTIONS,
        **unknown: Never,
    ) -> None:
        check_options("OpenAICompatibleLLM", unknown, _OPTIONS)
        if not model:
            raise ConfigurationError("The model has no name.", hint="For instance from_spec('ollama/llama3.2').")
        if not base_url.startswith(("http://", "https://")):
            raise ConfigurationError(f"{base_url!r} is no HTTP address.", hint="Write http://host:port/v1.")
        if connect_timeout_s <= 0 or max_connections < 1:
            raise ConfigurationError("connect_timeout_s must be positive, and max_connections at least 1.")
        self._model = model
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._name = name or model
        self._options = options
        self._connect_timeout_s = connect_timeout_s
        self._limits = httpx.Limits(max_connections=max_connections, keepalive_expiry=60.0)
        self._client: httpx.AsyncClient | None = None
        self._client_loop: asyncio.AbstractEventLoop | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_language_model(self) -> bool:
        return True

    @property
    def model(self) -> str:
        """The model's name at the server."""
        return self._model

    @property
    def base_url(self) -> str:
        """The address up to and including `/v1`."""
        return self._base_url

    def describe(self) -> str:
        """What answers and where, in one line."""
        host = httpx.URL(self._base_url).netloc.decode()
        return f"The language model {self._model} at {host} answers."

    def __repr__(self) -> str:  # never the key
        return f"OpenAICompatibleLLM({self._model!r}, base_url={self._base_url!r})"

    async def warm_up(self) -> None:
        """Open a connection ahead of the first turn; a server that is not there is found out here.

        Raises:
            ModelConnectionError: it cannot be reached.
            CredentialsError: it refuses the key.
        """
        try:
            response = await self._http().get("/models", timeout=self._connect_timeout_s)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        if response.status_code in (401, 403):
            raise _error(response.status_code, response.content)

    async def aclose(self) -> None:
        """Close the connections. A later generation opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._client_loop is asyncio.get_running_loop():
            await client.aclose()

    async def generate(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        options: GenerateOptions = DEFAULT_OPTIONS,
    ) -> AsyncGenerator[LLMEvent, None]:
        """Stream an answer. Closing the generator closes the request, which stops the server.

        Raises (while iterating):
            ModelConnectionError: the server cannot be reached, stalls, or ends in mid-answer.
            CredentialsError, ModelThrottledError, ModelRequestError: it refuses.
        """
        if options is DEFAULT_OPTIONS:
            options = self._options
        body = msgspec.json.encode(request_body(self._model, messages, tools, options))
        parser, stream = SSEParser(), ChatStream(f"call_{uuid.uuid4().hex[:12]}")
        began = time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            response = await self._open(stack, body, options)
            pieces = response.aiter_bytes()
            timeout = options.first_token_timeout_s
            while not stream.done:
                piece = await self._next(pieces, timeout)
                if piece is None:
                    break
                for event in parser.feed(piece):
                    for found in stream.feed(event.data):
                        if timeout == options.first_token_timeout_s:
                            logger.debug("%s: first token after %.3f s", self._name, time.monotonic() - began)
                        timeout = options.stall_timeout_s
                        yield found
            for found in stream.finish():
                yield found

    async def _open(self, stack: contextlib.AsyncExitStack, body: bytes, options: GenerateOptions) -> httpx.Response:
        request = self._http().stream("POST", "/chat/completions", content=body)
        try:
            async with asyncio.timeout(options.first_token_timeout_s):
                response = await stack.enter_async_context(request)
                if response.status_code != 200:
                    content = b""
                    async for piece in response.aiter_bytes():
                        content += piece
                        if len(content) > MAX_ERROR_BYTES:
                            break
                    raise _error(response.status_code, content)
        except TimeoutError:
            raise self._stalled(options.first_token_timeout_s) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        kind = response.headers.get("content-type", "")
        if "text/event-stream" not in kind:
            raise ModelRequestError(
                f"The model server answered with {kind or 'no content type'}, not with a stream of events.",
                hint="Is the address that of an OpenAI-compatible endpoint, ending in /v1?",
            )
        return response

    async def _next(self, pieces: AsyncIterator[bytes], timeout: float) -> bytes | None:
        try:
            async with asyncio.timeout(timeout):
                return await anext(pieces, None)
        except TimeoutError:
            raise self._stalled(timeout) from None
        except httpx.TransportError as error:
            raise ModelConnectionError(
                f"The model server dropped the answer: {_words(error)}.", hint="Try again."
            ) from error

    def _http(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._client_loop is not loop:  # connections belong to one loop
            headers = {"Content-Type": "application/json"}
            if self._api_key:
                headers["Authorization"] = f"Bearer {self._api_key}"
            self._client = httpx.AsyncClient(
                base_url=self._base_url,
                headers=headers,
                limits=self._limits,
                timeout=httpx.Timeout(None, connect=self._connect_timeout_s),
                trust_env=not _is_loopback(self._base_url),
            )
            self._client_loop = loop
        return self._client

    def _unreachable(self, error: Exception) -> ModelConnectionError:
        return ModelConnectionError(
            f"The model server at {self._base_url} cannot be reached: {_words(error)}.",
            hint="Start it, or check the address.",
        )

    def _stalled(self, seconds: float) -> ModelConnectionError:
        return ModelConnectionError(
            f"The model server at {self._base_url} sent nothing for {seconds:g} seconds.",
            hint="A smaller model answers sooner.",
        )


def discover_local(
    *, timeout_s: float = 0.15, candidates: Sequence[Candidate] = CANDIDATES
) -> OpenAICompatibleLLM | None:
    """A model of a server that runs on this machine (Ollama, llama.cpp, vLLM, LM Studio, in this order); None without.

    Takes at most `timeout_s` seconds, and may be called with or without a running event loop. Never raises.
    """
    found: list[Found | None] = []
    # a thread, since a loop may be running here already
    asker = threading.Thread(
        target=lambda: found.append(asyncio.run(find_local(timeout_s=timeout_s, candidates=candidates))), daemon=True
    )
    asker.start()
    asker.join(timeout_s + 1.0)
    if not found or found[0] is None:
        return None
    kind, port, model = found[0]
    return OpenAICompatibleLLM(model, base_url=f"http://127.0.0.1:{port}/v1", name=f"{kind}/{model}")


_OPTIONS = ("base_url", "api_key", "name", "connect_timeout_s", "max_connections", "options")


def from_spec(spec: str, *, api_key: str | None = None) -> OpenAICompatibleLLM:
    """A model from one line of text.

    `ollama/llama3.2`, `openai/gpt-4o-mini` and the like (see :data:`KNOWN_SERVERS`; keys come from the environment,
    such as `OPENAI_API_KEY`), or an address with the model after `#`: `http://host:8000/v1#my-model`.

    Raises:
        ConfigurationError: the text is no such line.
        CredentialsError: the key is not in the environment.
    """
    if spec.startswith(("http://", "https://")):
        address, _, model = spec.partition("#")
        if not model:
            raise ConfigurationError(
                f"{spec!r} names no model.", hint=f"Write {address.rstrip('/')}#name-of-the-model."
            )
        return OpenAICompatibleLLM(model, base_url=address, api_key=api_key)
    server, _, model = spec.partition("/")
    if server not in KNOWN_SERVERS or not model:
        known = ", ".join(f"{name}/..." for name in KNOWN_SERVERS)
        raise ConfigurationError(
            f"llm={spec!r} names no server that is known.", hint=f"Write {known} or http://host/v1#model."
        )
    base_url, variable = KNOWN_SERVERS[server]
    if variable and api_key is None:
        api_key = os.environ.get(variable)
        if not api_key:
            raise CredentialsError(f"{spec} needs a key, and {variable} is not set.", hint=f"Set {variable}.")
    return OpenAICompatibleLLM(model, base_url=base_url, api_key=api_key, name=spec)


def _is_loopback(address: str) -> bool:
    """A proxy from the environment has no business on the way to this machine."""
    return httpx.URL(address).host in ("127.0.0.1", "localhost", "::1")


def _error(status: int, content: bytes) -> Exception:
    try:
        body: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        body = " ".join(content.decode(errors="replace").split())
    return error_from_body(status, body)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
