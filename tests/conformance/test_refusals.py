"""What providers refuse: the same errors for each, of types of their own, within five seconds, with what was tried.

Our servers refuse keys, models and quota as the vendors do, through the vendors' own SDKs where there are any; what only a vendor
has (access that is not enabled, a spent quota) is refused here in the vendor's words.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from duologue import Agent
from duologue.errors import ConfigurationError, CredentialsError, DuologueError, ModelThrottledError
from duologue.events import ConnectionRotated, ResponseFinished
from duologue.models import GeminiLive, NovaSonic, OpenAIRealtime
from duologue.models.base import Model, Setup
from duologue.models.refusals import (
    AccessNotEnabledError,
    MissingCredentialsError,
    QuotaError,
    RegionError,
    UnknownModelError,
)
from duologue.serve import ServeOptions, serving
from duologue.serve.nova_http import RefusedError
from duologue.serve.nova_sonic import NovaServer
from duologue.wire.gemini_live import ServerLimits as GeminiLimits
from duologue.wire.openai_realtime import ServerLimits as OpenAILimits
from tests.conformance.parts import Talker
from tests.real_clients.nova_server import KEY, nova, use_credentials

pytestmark = pytest.mark.anyio
#: within what time a refusal must be told, seconds
IN_TIME_S = 5.0


async def _refusal(model: Model) -> DuologueError:
    """What starting a call says."""
    with pytest.raises(DuologueError) as refused:
        async with asyncio.timeout(IN_TIME_S), Agent(model=model).session(text_only=True):
            pass
    return refused.value


@asynccontextmanager
async def _served(rate: int, **options: Any) -> AsyncIterator[str]:
    agent = Agent(model=Talker(rate), name="provider")
    async with serving(agent, ServeOptions(port=0, studio=False, as_model=True, **options)) as server:
        yield server.url


@asynccontextmanager
async def _refusing(
    status: int = 0, body: str = "", *, code: int = 0, reason: str = "", first: str = ""
) -> AsyncIterator[str]:
    """A server that refuses in a vendor's words: the handshake with `status`, or the session with a close."""

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(status, body) if status else None

    async def close(connection: ServerConnection) -> None:
        if first:
            await connection.send(first)
        else:
            await connection.recv()
        await connection.close(code or 1000, reason)

    async with websockets.serve(close, "127.0.0.1", 0, process_request=refuse) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def _openai(url: str, **options: Any) -> OpenAIRealtime:
    return OpenAIRealtime(**{"api_key": "k", **options}, base_url=f"{url}/v1")


def _gemini(url: str, **options: Any) -> GeminiLive:
    return GeminiLive(**{"api_key": "k", **options}, base_url=url)


# ---------------------------------------------------------------------- no credentials


async def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OPENAI_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    use_credentials(monkeypatch, tmp_path, "", "")
    for model, tried in (
        (OpenAIRealtime(), ("api_key", "OPENAI_API_KEY")),
        (GeminiLive(), ("api_key", "GOOGLE_API_KEY", "GEMINI_API_KEY")),
        (NovaSonic(region="us-east-1"), ("AWS_ACCESS_KEY_ID", "SSO", "~/.aws/credentials", "container", "instance")),
    ):
        error = await _refusal(model)
        assert type(error) is MissingCredentialsError
        with pytest.raises(MissingCredentialsError) as at_start:
            await model.warm_up()
        assert str(at_start.value) == str(error), "a server that is to serve it says so when it starts"
        assert error.code == "credentials_missing"
        assert not error.retryable
        for way in tried:
            assert way in str(error), f"{model.name}: {error}"


async def test_a_key_that_is_made_anew_for_each_connection_is_not_asked_for_before() -> None:
    async def key() -> str:
        raise AssertionError("nobody connects")

    await OpenAIRealtime(api_key=key).warm_up()
    await GeminiLive(api_key=key).warm_up()
    with pytest.raises(ConfigurationError):
        await GeminiLive(api_key=key, base_url="nowhere").warm_up()


# ---------------------------------------------------------------------- wrong credentials


async def test_wrong_credentials_name_whose_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with _served(24_000, key="sesame") as url:
        error = await _refusal(_openai(url, api_key="k-wrong"))
        assert type(error) is CredentialsError
        for tried in ("gpt-realtime", "the option api_key", url.removeprefix("http://")):
            assert tried in str(error), str(error)
        assert "k-wrong" not in str(error), "a key is nobody's to read"
        monkeypatch.setenv("OPENAI_API_KEY", "another")
        assert "OPENAI_API_KEY" in str(await _refusal(_openai(url, api_key=None)))
    async with _served(16_000, key="sesame") as url:
        error = await _refusal(_gemini(url, api_key="k-wrong"))
        assert type(error) is CredentialsError
        assert "gemini-2.5-flash-native-audio-preview-12-2025" in str(error)
    async with nova(monkeypatch, tmp_path, keys={KEY: "ANOTHER"}) as server:
        error = await _refusal(NovaSonic(endpoint_url=server.url))
        assert type(error) is CredentialsError
        for tried in ("amazon.nova-2-sonic-v1:0", "us-east-1", "environment (AWS_ACCESS_KEY_ID)"):
            assert tried in str(error), str(error)


# ---------------------------------------------------------------------- region, model, access, quota

_CREATED = '{"type":"session.created","event_id":"e","session":{"id":"s"}}'
_OPENAI_CLOSES = {"code": 4000, "first": _CREATED}
_ENABLE = "Generative Language API has not been used in project 1 before or it is disabled."


@pytest.mark.parametrize(
    ("model", "server", "kind"),
    [
        (_openai, _refusing(404, '{"error":{"code":"model_not_found","message":"no"}}'), UnknownModelError),
        (_openai, _refusing(**_OPENAI_CLOSES, reason="invalid_request_error.model_not_found"), UnknownModelError),
        (_openai, _refusing(403, '{"error":{"code":null,"message":"no access"}}'), AccessNotEnabledError),
        (_openai, _refusing(429, '{"error":{"code":"insufficient_quota","message":"spent"}}'), QuotaError),
        (_openai, _refusing(**_OPENAI_CLOSES, reason="insufficient_quota.insufficient_quota"), QuotaError),
        (_gemini, _refusing(code=1008, reason="models/x is not found for API version v1beta"), UnknownModelError),
        (_gemini, _refusing(code=1008, reason=_ENABLE), AccessNotEnabledError),
        (_gemini, _refusing(403, "The caller does not have permission"), AccessNotEnabledError),
        (
            _gemini,
            _refusing(code=1011, reason="You exceeded your current quota, please check your plan and billing details."),
            QuotaError,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_refusals_of_openai_and_gemini(
    model: Callable[[str], Model], server: AbstractAsyncContextManager[str], kind: type[DuologueError]
) -> None:
    async with server as url:
        error = await _refusal(model(url))
    assert type(error) is kind
    assert not error.retryable
    assert error.hint


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (RefusedError(403, "AccessDeniedException", "You don't have access to the model."), AccessNotEnabledError),
        (RefusedError(404, "ResourceNotFoundException", "Could not resolve the model."), UnknownModelError),
        (RefusedError(400, "ServiceQuotaExceededException", "Too many connections."), QuotaError),
        (RefusedError(403, "ExpiredTokenException", "The security token has expired."), CredentialsError),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
async def test_refusals_of_nova_sonic_through_the_sdk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: RefusedError, kind: type[DuologueError]
) -> None:
    def refuse(*_: Any) -> Any:
        raise refused

    monkeypatch.setattr(NovaServer, "_admit", refuse)
    async with nova(monkeypatch, tmp_path) as server:
        error = await _refusal(NovaSonic(endpoint_url=server.url))
    assert type(error) is kind
    for tried in ("amazon.nova-2-sonic-v1:0", "us-east-1"):
        assert tried in str(error), str(error)


async def test_a_model_that_our_nova_server_does_not_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with nova(monkeypatch, tmp_path, models=("amazon.nova-2-5-sonic",)) as server:
        assert type(await _refusal(NovaSonic(endpoint_url=server.url))) is UnknownModelError


async def test_a_region_that_does_not_exist_or_does_not_have_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_credentials(monkeypatch, tmp_path)
    error = await _refusal(NovaSonic(region="us-esat-1"))
    assert type(error) is RegionError
    assert "us-east-1" in str(error)
    from duologue.models.nova_errors import error_of
    from duologue.models.transport import TransportClosedError

    # A region that AWS has and the model does not: its endpoint has no address.
    unresolved = TransportClosedError(reason="AWS_IO_DNS_INVALID_NAME")
    elsewhere = error_of(unresolved, model="amazon.nova-2-sonic-v1:0", region="sa-east-1")
    assert type(elsewhere) is RegionError
    assert "us-east-1" in str(elsewhere)
    assert error_of(unresolved, model="m", region="us-east-1").retryable, "there the network is what is missing"


# ---------------------------------------------------------------------- limits that pass by


class _Context:
    """As much of a session as an attempt to open needs."""

    speaks = True
    generation = 1

    def __init__(self) -> None:
        self.memory: dict[str, Any] = {}

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def setup(self) -> Setup:
        return Setup()

    def spawn(self, run: Callable[[], Awaitable[None]], name: str) -> None:
        self._task = asyncio.ensure_future(run())

    def report(self, evidence: Any) -> None: ...


async def test_a_rate_limit_is_worth_another_attempt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def attempt(model: Model) -> DuologueError:
        with pytest.raises(DuologueError) as refused:
            async with asyncio.timeout(IN_TIME_S):
                await model.open(_Context())  # type: ignore[arg-type]
        return refused.value

    async with _refusing(429, '{"error":{"code":"rate_limit_exceeded"}}') as url:
        errors = [await attempt(_openai(url))]
    async with _refusing(code=1011, reason="RESOURCE_EXHAUSTED") as url:
        errors.append(await attempt(_gemini(url)))
    async with nova(monkeypatch, tmp_path, max_sessions=0) as server:
        errors.append(await attempt(NovaSonic(endpoint_url=server.url)))
    for error in errors:
        assert type(error) is ModelThrottledError
        assert error.retryable


# ---------------------------------------------------------------------- in mid-call


@pytest.mark.parametrize("provider", ["openai", "gemini"])
async def test_a_key_is_asked_for_anew_by_each_connection(provider: str) -> None:
    """Keys that expire are renewed in mid-call: the old one is good for nothing when the next connection opens."""
    asked: list[str] = []

    async def key() -> str:
        asked.append("sesame")
        return asked[-1]

    limits: dict[str, Any] = (
        {"openai": OpenAILimits(session_s=2.0)} if provider == "openai" else {"gemini": GeminiLimits(connection_s=2.0)}
    )
    async with _served(24_000 if provider == "openai" else 16_000, key="sesame", **limits) as url:
        make = _openai if provider == "openai" else _gemini
        model = make(url, api_key=key, session_s=2.0)
        async with Agent(model=model, idle_prompt="").session(text_only=True) as session:
            async with asyncio.timeout(15):
                async for event in session.receive():
                    if isinstance(event, ConnectionRotated):
                        await session.send("hello there")
                    elif isinstance(event, ResponseFinished):
                        assert event.text == "You said hello there."
                        break
    assert len(asked) >= 2


async def test_aws_credentials_are_looked_up_anew_by_each_stream(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from duologue.wire.nova_sonic import StreamLimits

    keys = {KEY: "SECRETEXAMPLEKEY", "NEXT": "OTHERSECRET"}
    async with nova(monkeypatch, tmp_path, keys=keys) as server:
        model = NovaSonic(endpoint_url=server.url, limits=StreamLimits(connection_s=4.0))
        async with Agent(model=model, idle_prompt="").session(text_only=True) as session:
            use_credentials(monkeypatch, tmp_path, "NEXT", "OTHERSECRET")
            monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
            del keys[KEY]
            async with asyncio.timeout(20):
                async for event in session.receive():
                    if isinstance(event, ConnectionRotated):
                        await session.send("hello there")
                    elif isinstance(event, ResponseFinished):
                        assert event.text.strip() == "You said hello there."
                        break
