"""OpenAIRealtime through the vendor's SDK and real sockets: errors that come within seconds, and a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
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
from duologue.models import OpenAIRealtime
from duologue.models.base import Setup
from duologue.serve import ServeOptions, serving
from duologue.wire.openai_realtime import ServerLimits, events
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo

pytestmark = pytest.mark.anyio

CREATED = '{"type":"session.created","event_id":"e","session":{"id":"s"}}'


@asynccontextmanager
async def _provider(**options: Any) -> AsyncIterator[str]:
    agent = Agent(model=Scripted(UTTERANCES, echo), name="provider")
    async with serving(agent, ServeOptions(port=0, studio=False, as_model=True, **options)) as server:
        yield f"{server.url}/v1"


@asynccontextmanager
async def _strange(
    handle: Callable[[ServerConnection], Awaitable[None]] | None = None, status: int | None = None
) -> AsyncIterator[str]:
    """A server that does what no good one does."""

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(status, '{"error":{"code":"model_not_found"}}') if status is not None else None

    async def idle(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with websockets.serve(handle or idle, "127.0.0.1", 0, process_request=refuse) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1"


async def _fails(model: OpenAIRealtime) -> DuologueError:
    with pytest.raises(DuologueError) as failure:
        async with asyncio.timeout(8), Agent(model=model).session():
            pass
    return failure.value


async def test_a_missing_key_is_said_at_once_with_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    error = await _fails(OpenAIRealtime())
    assert isinstance(error, CredentialsError)
    assert "api_key" in str(error)
    assert "OPENAI_API_KEY" in str(error)


async def test_a_wrong_key_is_a_credentials_error() -> None:
    async with _provider(key="sesame") as url:
        assert isinstance(await _fails(OpenAIRealtime(api_key="wrong", base_url=url)), CredentialsError)


async def test_an_unknown_model_is_a_request_error_whether_refused_or_closed() -> None:
    async with _strange(status=404) as url:
        assert isinstance(await _fails(OpenAIRealtime(api_key="x", base_url=url, model="gpt-0")), ModelRequestError)

    async def closes(connection: ServerConnection) -> None:
        await connection.send(
            '{"type":"error","event_id":"e","error":{"type":"invalid_request_error","code":"model_not_found","message":"no"}}'
        )
        await connection.close(4000, "invalid_request_error.model_not_found")

    async with _strange(closes) as url:
        assert isinstance(await _fails(OpenAIRealtime(api_key="x", base_url=url, model="gpt-0")), ModelRequestError)


async def test_quota_and_rate_limits_are_throttling() -> None:
    async with _strange(status=429) as url:
        model = OpenAIRealtime(api_key="x", base_url=url)
        with pytest.raises(ModelThrottledError):
            await model.open(_NoContext())  # type: ignore[arg-type]


class _NoContext:
    speaks = True

    def setup(self) -> Any:
        return Setup()


async def test_a_server_that_says_nothing_is_given_up_within_seconds() -> None:
    async with _strange() as url:
        with pytest.raises(ModelConnectionError, match="did not set the session up"):
            async with asyncio.timeout(6):
                await OpenAIRealtime(api_key="x", base_url=url).open(_NoContext())  # type: ignore[arg-type]


async def test_a_session_that_is_refused_says_why() -> None:
    async def refuses(connection: ServerConnection) -> None:
        await connection.send(CREATED)
        await connection.recv()
        await connection.send(
            '{"type":"error","event_id":"e","error":{"code":"invalid_value","message":"no such voice","param":"voice"}}'
        )
        await connection.wait_closed()

    async with _strange(refuses) as url:
        with pytest.raises(ModelRequestError, match="no such voice"):
            await OpenAIRealtime(api_key="x", base_url=url).open(_NoContext())  # type: ignore[arg-type]


async def test_nobody_there() -> None:
    with pytest.raises(ModelConnectionError, match="could not be reached"):
        await OpenAIRealtime(api_key="x", base_url="http://127.0.0.1:9/v1").open(_NoContext())  # type: ignore[arg-type]


async def test_a_call_through_the_sdk_outlives_its_connections() -> None:
    async with _provider(openai=ServerLimits(session_s=2.0)) as url:
        model = OpenAIRealtime(api_key="x", base_url=url, session_s=2.0)
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
                        if rotations == 2:
                            break
        assert answers == ["You said one.", "You said after 1.", "You said after 2."]
        assert [item.text for item in session.history if item.kind == "user"] == ["one", "after 1", "after 2"]


async def test_a_connection_in_your_own_hands() -> None:
    frames: list[str] = []
    async with _provider() as url:
        model = OpenAIRealtime(
            api_key="x", base_url=url, on_wire=lambda direction, frame: frames.append(f"{direction} {frame!r}"[:60])
        )
        async with model.connect() as connection:
            async for event in connection:
                if isinstance(event, events.SessionCreated):
                    await connection.send(events.InputAudioClear())
                elif isinstance(event, events.InputCleared):
                    break
    assert any(frame.startswith("sent") for frame in frames)
    assert any(frame.startswith("received") for frame in frames)
