"""GeminiLive over real sockets: errors that come within seconds, and a call that outlives its connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from duologue import Agent
from duologue.errors import (
    CredentialsError,
    DuologueError,
    ModelConnectionError,
    ModelRequestError,
    ModelThrottledError,
)
from duologue.events import ConnectionRotated, ResponseFinished
from duologue.models import GeminiLive
from duologue.serve import ServeOptions, serving
from duologue.wire.gemini_live import ServerLimits
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def _provider(**options: Any) -> AsyncIterator[str]:
    agent = Agent(model=Scripted(UTTERANCES, echo, rate=16_000), name="provider")
    async with serving(agent, ServeOptions(port=0, studio=False, as_model=True, **options)) as server:
        yield server.url


@asynccontextmanager
async def _strange(
    handle: Callable[[ServerConnection], Awaitable[None]] | None = None, status: int | None = None, body: str = ""
) -> AsyncIterator[str]:
    """A server that does what no good one does."""

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(status, body) if status is not None else None

    async def idle(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with websockets.serve(handle or idle, "127.0.0.1", 0, process_request=refuse) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def _closes(code: int, reason: str) -> Callable[[ServerConnection], Awaitable[None]]:
    async def close(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.close(code, reason)

    return close


async def _fails(model: GeminiLive) -> DuologueError:
    with pytest.raises(DuologueError) as failure:
        async with asyncio.timeout(8), Agent(model=model).session():
            pass
    return failure.value


async def test_a_missing_key_is_said_at_once_with_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    error = await _fails(GeminiLive())
    assert isinstance(error, CredentialsError)
    for tried in ("api_key", "GOOGLE_API_KEY", "GEMINI_API_KEY"):
        assert tried in str(error)


async def test_a_wrong_key_is_a_credentials_error() -> None:
    async with _provider(key="sesame") as url:
        assert isinstance(await _fails(GeminiLive(api_key="wrong", base_url=url)), CredentialsError)


async def test_a_key_may_come_from_a_function() -> None:
    async def key() -> str:
        return "sesame"

    async with _provider(key="sesame") as url:
        async with GeminiLive(api_key=key, base_url=url).connect() as connection:
            first = await anext(aiter(connection))
        assert first.setup_complete is not None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (1008, "models/gemini-0 is not found for API version v1beta, or is not supported.", ModelRequestError),
        (1011, "You exceeded your current quota, please check your plan and billing details.", ModelThrottledError),
        (1007, "API key not valid. Please pass a valid API key.", CredentialsError),
    ],
)
async def test_a_setup_that_is_refused_says_why(code: int, reason: str, kind: type[DuologueError]) -> None:
    async with _strange(_closes(code, reason)) as url:
        error = await _fails(GeminiLive(api_key="x", base_url=url)) if kind is not ModelThrottledError else None
        if error is None:  # worth retrying: the supervisor goes on for a while, one attempt tells at once
            with pytest.raises(ModelThrottledError) as failure:
                await GeminiLive(api_key="x", base_url=url).open(_Context())  # type: ignore[arg-type]
            error = failure.value
    assert isinstance(error, kind)
    assert reason.split(".")[0] in str(error)


@pytest.mark.parametrize(("status", "kind"), [(403, CredentialsError), (404, ModelRequestError)])
async def test_a_refused_handshake(status: int, kind: type[DuologueError]) -> None:
    async with _strange(status=status) as url:
        assert isinstance(await _fails(GeminiLive(api_key="x", base_url=url)), kind)


class _Context:
    """As much of a session as an attempt to open needs."""

    speaks = True

    def __init__(self) -> None:
        self.memory: dict[str, Any] = {}

    def now(self) -> float:
        return 0.0

    def setup(self) -> Any:
        from duologue.models.base import Setup

        return Setup()


async def test_a_server_that_says_nothing_is_given_up_within_seconds() -> None:
    async with _strange() as url:
        with pytest.raises(ModelConnectionError, match="did not set the session up"):
            async with asyncio.timeout(6):
                await GeminiLive(api_key="x", base_url=url).open(_Context())  # type: ignore[arg-type]


async def test_nobody_there() -> None:
    with pytest.raises(ModelConnectionError, match="could not be reached"):
        await GeminiLive(api_key="x", base_url="http://127.0.0.1:9").open(_Context())  # type: ignore[arg-type]


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    async with _provider(tls=True, certificate_directory=str(tmp_path)) as url:
        with pytest.raises(ModelConnectionError, match="certificate"):
            await GeminiLive(api_key="x", base_url=url).open(_Context())  # type: ignore[arg-type]


async def test_a_call_outlives_its_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = ServerLimits(connection_s=2.0, notice_s=1.0)
    agent = Agent(model=Scripted(UTTERANCES, echo, rate=16_000), name="provider")
    options = ServeOptions(
        port=0, studio=False, as_model=True, gemini=limits, tls=True, certificate_directory=str(tmp_path)
    )
    async with serving(agent, options) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
        model = GeminiLive(api_key="x", base_url=server.url, session_s=2.0)
        async with Agent(model=model, idle_prompt="").session(text_only=True) as session:
            answers: list[str] = []
            rotations = 0
            await session.send("one")
            async with asyncio.timeout(20):
                async for event in session.receive():
                    if isinstance(event, ConnectionRotated):
                        rotations += 1
                        await session.send(f"after {rotations}")
                    elif isinstance(event, ResponseFinished):
                        answers.append(event.text)
                        if rotations == 2 and event.text.endswith("after 2."):
                            break
    assert answers == ["You said one.", "You said after 1.", "You said after 2."]
    assert [item.text for item in session.history if item.kind == "user"] == ["one", "after 1", "after 2"]
