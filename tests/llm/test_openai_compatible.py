"""Against a real HTTP server on loopback that speaks the format, well and badly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from duologue.errors import (
    ConfigurationError,
    CredentialsError,
    DuologueError,
    ModelConnectionError,
    ModelRequestError,
    ModelThrottledError,
    UnknownOptionError,
)
from duologue.speech.llm import (
    LLM,
    Finished,
    GenerateOptions,
    Message,
    OpenAICompatibleLLM,
    TextDelta,
    ToolCallRequest,
    Usage,
    discover_local,
    from_spec,
)
from duologue.speech.llm.discover import CANDIDATES, Candidate, find_local
from tests.llm.driver import SPECS

HELLO = [Message(role="user", content="Hello")]


class ChatServer:
    """A chat completions endpoint whose model's name says how to behave."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.disconnected = asyncio.Event()
        self.url = ""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/api/tags", self.tags),
            ]
        )

    async def models(self, request: Request) -> Response:
        if request.headers.get("authorization") == "Bearer wrong":
            return JSONResponse({"error": {"message": "bad key"}}, 401)
        data = [{"id": "embed-small", "object": "model"}, {"id": "good", "object": "model"}]
        return JSONResponse({"object": "list", "data": data})

    async def tags(self, request: Request) -> Response:
        return JSONResponse({"models": [{"name": "llama3.2", "digest": "abc"}]})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers.get("authorization"))
        match body["model"]:
            case "unauthorised":
                return JSONResponse({"error": {"message": "bad key"}}, 401)
            case "busy":
                return JSONResponse({"error": {"message": "slow down"}}, 429)
            case "broken":
                return PlainTextResponse("<html>oops</html>", 502)
            case "page":
                return PlainTextResponse("<html>hello</html>")
            case "silent":
                return StreamingResponse(self.silence(), media_type="text/event-stream")
            case "stalls":
                return StreamingResponse(self.chunks("Hel", None), media_type="text/event-stream")
            case "cut":
                return StreamingResponse(self.cut(), media_type="text/event-stream")
            case "calls":
                return StreamingResponse(self.tool_call(), media_type="text/event-stream")
            case _:
                return StreamingResponse(self.chunks("Hel", "lo."), media_type="text/event-stream")

    def _event(self, **fields: Any) -> bytes:
        return b"data: " + json.dumps(fields).encode() + b"\n\n"

    async def chunks(self, *texts: str | None) -> AsyncIterator[bytes]:
        try:
            for text in texts:
                if text is None:
                    await asyncio.Event().wait()
                yield self._event(choices=[{"delta": {"content": text}}])
            yield self._event(choices=[{"delta": {}, "finish_reason": "stop"}])
            yield self._event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.disconnected.set()
            raise

    async def silence(self) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def cut(self) -> AsyncIterator[bytes]:
        yield self._event(choices=[{"delta": {"content": "Hel"}}])

    async def tool_call(self) -> AsyncIterator[bytes]:
        piece = {"index": 0, "id": "c1", "function": {"name": "next_stop", "arguments": "{}"}}
        yield self._event(choices=[{"delta": {"tool_calls": [piece]}}])
        yield self._event(choices=[{"delta": {}, "finish_reason": "tool_calls"}])
        yield b"data: [DONE]\n\n"


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=0, lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    chat = ChatServer()
    async with serving(chat.app()) as port:
        chat.url = f"http://127.0.0.1:{port}/v1"
        yield chat


async def ask(server: ChatServer, model: str, options: GenerateOptions | None = None) -> list[Any]:
    llm = OpenAICompatibleLLM(model, base_url=server.url, api_key="sekrit")
    try:
        return [event async for event in llm.generate(HELLO, SPECS, options=options or GenerateOptions())]
    finally:
        await llm.aclose()


@pytest.mark.anyio
async def test_streams_text(server: ChatServer) -> None:
    assert await ask(server, "good") == [
        TextDelta(text="Hel"),
        TextDelta(text="lo."),
        Usage(input_tokens=3, output_tokens=2),
        Finished(),
    ]
    assert server.keys == ["Bearer sekrit"]
    assert server.requests[0]["messages"] == [{"role": "user", "content": "Hello"}]
    assert len(server.requests[0]["tools"]) == len(SPECS)


@pytest.mark.anyio
async def test_calls_a_tool(server: ChatServer) -> None:
    events = await ask(server, "calls")
    assert events == [ToolCallRequest(id="c1", name="next_stop"), Finished(reason="tool_calls")]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("model", "kind", "text"),
    [
        ("unauthorised", CredentialsError, "bad key"),
        ("busy", ModelThrottledError, "slow down"),
        ("broken", ModelConnectionError, "502"),
        ("page", ModelRequestError, "not with a stream"),
        ("cut", ModelConnectionError, "mid-answer"),
    ],
)
async def test_refusals_are_typed(server: ChatServer, model: str, kind: type[DuologueError], text: str) -> None:
    with pytest.raises(kind, match=text) as raised:
        await ask(server, model)
    assert "sekrit" not in str(raised.value)


@pytest.mark.anyio
@pytest.mark.parametrize("model", ["silent", "stalls"])
async def test_a_server_that_says_nothing_is_not_waited_for(server: ChatServer, model: str) -> None:
    options = GenerateOptions(first_token_timeout_s=0.2, stall_timeout_s=0.2)
    with pytest.raises(ModelConnectionError, match=r"sent nothing for 0\.2 seconds"):
        await ask(server, model, options)


@pytest.mark.anyio
async def test_closing_stops_the_server(server: ChatServer) -> None:
    llm = OpenAICompatibleLLM("stalls", base_url=server.url)
    stream = llm.generate(HELLO)
    assert await anext(stream) == TextDelta(text="Hel")
    await stream.aclose()
    await asyncio.wait_for(server.disconnected.wait(), 10)
    await llm.aclose()


@pytest.mark.anyio
async def test_nothing_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        llm = OpenAICompatibleLLM("m", base_url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
        with pytest.raises(ModelConnectionError, match="cannot be reached"):
            await anext(llm.generate(HELLO))
        with pytest.raises(ModelConnectionError, match="cannot be reached"):
            await llm.warm_up()
        await llm.aclose()


@pytest.mark.anyio
async def test_warm_up_finds_a_wrong_key(server: ChatServer) -> None:
    llm = OpenAICompatibleLLM("m", base_url=server.url, api_key="wrong")
    with pytest.raises(CredentialsError, match="bad key"):
        await llm.warm_up()
    await llm.aclose()


def at_port(candidate: Candidate, port: int) -> Candidate:
    return candidate._replace(port=port)


@pytest.mark.anyio
async def test_discovers_a_server_and_skips_models_that_cannot_chat(server: ChatServer) -> None:
    port = int(server.url.rsplit(":", 1)[1].removesuffix("/v1"))
    ollama, llamacpp, *_ = CANDIDATES
    found = await asyncio.to_thread(
        discover_local, timeout_s=5, candidates=[at_port(ollama, 9), at_port(llamacpp, port)]
    )
    assert found is not None
    assert (found.name, found.base_url) == ("llamacpp/good", server.url)
    found = await asyncio.to_thread(
        discover_local, timeout_s=5, candidates=[at_port(ollama, port), at_port(llamacpp, port)]
    )
    assert found is not None
    assert found.name == "ollama/llama3.2"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [
        PlainTextResponse("hello"),
        JSONResponse({"status": "Healthy"}),
        JSONResponse([]),
        JSONResponse({"object": "list", "data": []}),
        JSONResponse({"object": "list", "data": [{"id": "x"}, 3]}),
        JSONResponse({"models": [{"name": "x"}]}),
        Response(b"{", media_type="application/json"),
        JSONResponse({}, 404),
    ],
)
async def test_another_server_on_the_port_is_not_taken_for_a_model(answer: Response) -> None:
    async def respond(request: Request) -> Response:
        return answer

    async with serving(Starlette(routes=[Route("/{path:path}", respond)])) as port:
        candidates = [at_port(candidate, port) for candidate in CANDIDATES]
        assert await find_local(timeout_s=5, candidates=candidates) is None


@pytest.mark.anyio
async def test_discovery_does_not_wait_for_a_server_that_says_nothing() -> None:
    async def hang(request: Request) -> Response:
        await asyncio.Event().wait()
        return Response()

    async with serving(Starlette(routes=[Route("/{path:path}", hang)])) as port:
        candidates = [at_port(candidate, port) for candidate in CANDIDATES]
        assert await find_local(timeout_s=0.1, candidates=candidates) is None


def test_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sekrit")
    local = from_spec("ollama/llama3.2:3b")
    assert (local.model, local.base_url, local.name) == (
        "llama3.2:3b",
        "http://127.0.0.1:11434/v1",
        "ollama/llama3.2:3b",
    )
    assert "sekrit" not in repr(from_spec("openai/gpt-4o-mini")) + from_spec("openai/gpt-4o-mini").describe()
    assert from_spec("http://host:8000/v1/#my/model").model == "my/model"
    assert isinstance(local, LLM)


@pytest.mark.parametrize("spec", ["", "llama3.2", "nobody/model", "ollama/", "http://host/v1"])
def test_specs_that_name_nothing(spec: str) -> None:
    with pytest.raises(ConfigurationError):
        from_spec(spec)


def test_a_key_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(CredentialsError, match="OPENAI_API_KEY is not set"):
        from_spec("openai/gpt-4o-mini")


def test_options_are_strict() -> None:
    with pytest.raises(UnknownOptionError, match="Did you mean 'base_url'"):
        OpenAICompatibleLLM("m", base_ur="http://x")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no HTTP address"):
        OpenAICompatibleLLM("m", base_url="host:80")
