"""OpenAI's SDK as the carrier of a connection: it finds credentials and opens the socket, the codec is ours."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import (
    CredentialsError,
    MissingDependencyError,
    ModelConnectionError,
    ModelError,
    ModelRequestError,
    ModelThrottledError,
)
from .refusals import AccessNotEnabledError, MissingCredentialsError, QuotaError, UnknownModelError
from .transport import Transport, TransportClosedError

if TYPE_CHECKING:
    from .openai_realtime import OpenAIRealtime

#: longest wait for the socket to open; the supervisor's own bound is longer
_OPEN_S = 4.0
#: longest message taken, bytes: a server sends seconds of audio in one
_MOST = 32 << 20

_CREDENTIALS = frozenset({"invalid_api_key", "invalid_authentication", "account_deactivated"})
_ACCESS = frozenset({"permission_denied", "model_not_available", "unsupported_country_region_territory"})
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_BUSY = frozenset({"rate_limit_exceeded", "slow_down"})
_UNKNOWN = frozenset({"model_not_found"})
_AGAIN = frozenset({"session_expired", "server_error", "internal_error"})


def error_of(code: str | None, message: str, *, type: str | None = None) -> ModelError:
    """The typed error for what the vendor reports."""
    what = f"OpenAI: {message}" + (f" ({code})" if code else "")
    if code in _CREDENTIALS:
        return CredentialsError(what, hint="Check the API key.")
    if code in _ACCESS:
        return AccessNotEnabledError(what, hint="Check that the key's project may use this model.")
    if code in _QUOTA:
        return QuotaError(what, hint="Check plan and billing.")
    if code in _BUSY:
        return ModelThrottledError(what, hint="Try later, or ask for higher limits.")
    if code in _UNKNOWN:
        return UnknownModelError(what, hint="Check the model's name, and that your project may use it.")
    if code in _AGAIN or type == "server_error":
        return ModelConnectionError(what)
    return ModelRequestError(what)


def error_of_close(code: int, reason: str) -> ModelError:
    """The typed error for a link that was closed. The vendor names the cause in the reason, as `type.code`."""
    for name in reason.replace(":", ".").split("."):
        if name.strip() in _CREDENTIALS | _ACCESS | _QUOTA | _BUSY | _UNKNOWN:
            return error_of(name.strip(), reason)
    return ModelConnectionError(f"OpenAI closed the connection with {code} {reason}".strip() + ".")


def error_of_status(status: int, body: str, where: str, tried: str = "") -> ModelError:
    """The typed error for a refused handshake. `tried`: the model that was asked for and where the key came from."""
    text = f"{where} refused the connection{tried} with HTTP {status}: {body[:300]}".rstrip(": ")
    code = _code_in(body)
    if status == 429:
        kind = QuotaError if code in _QUOTA else ModelThrottledError
        return kind(text, hint="Check plan and limits, or try later.")
    if code is not None and type(known := error_of(code, "")) not in (ModelConnectionError, ModelRequestError):
        return type(known)(text, hint=known.hint)
    if status == 401:
        return CredentialsError(text, hint="Check the API key.")
    if status == 403:
        return AccessNotEnabledError(text, hint="Check that the key's project may use this model.")
    if status >= 500:
        return ModelConnectionError(text)
    return ModelRequestError(text, hint="Check model name and base_url.")


def _code_in(body: str) -> str | None:
    """The vendor's code in the body of a refusal."""
    try:
        code = msgspec.json.decode(body, type=_Refusal).error.code
    except msgspec.MsgspecError:
        return None
    return code


class _Error(msgspec.Struct):
    code: str | None = None


class _Refusal(msgspec.Struct):
    error: _Error


class SdkTransport:
    """A realtime connection of the SDK."""

    def __init__(self, connection: Any, client: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        self._connection = connection
        self._client = client
        self._closed_error = ConnectionClosed

    async def send(self, message: str) -> None:
        """See Transport."""
        try:
            await self._connection.send_raw(message)
        except self._closed_error as error:
            raise _closed(error) from None

    async def receive(self) -> str | bytes:
        """See Transport."""
        try:
            data: bytes = await self._connection.recv_bytes()
        except self._closed_error as error:
            raise _closed(error) from None
        return data

    async def close(self) -> None:
        """See Transport."""
        await self._connection.close()
        await self._client.close()


def _closed(error: Any) -> TransportClosedError:
    frame = error.rcvd or error.sent
    return TransportClosedError(frame.code, frame.reason) if frame is not None else TransportClosedError()


def load_sdk() -> Any:
    """The SDK, loaded: about a second the first time. Raises MissingDependencyError."""
    try:
        import openai
        import openai.resources.realtime
        import websockets.exceptions  # noqa: F401 - what the SDK connects with
    except ImportError as error:
        raise MissingDependencyError(
            "OpenAI Realtime needs the package openai.", hint="Install it with: pip install 'duologue[openai]'"
        ) from error
    return openai


def key_of(given: str | None) -> tuple[str, str]:
    """The key, and where it was found. `given`: by the option. Raises MissingCredentialsError."""
    if given:
        return given, "the option api_key"
    if key := os.environ.get("OPENAI_API_KEY"):
        return key, "OPENAI_API_KEY"
    raise MissingCredentialsError(
        "There is no OpenAI API key. Tried: the option api_key, the environment variable OPENAI_API_KEY.",
        hint="Set one of them.",
    )


async def connect_sdk(model: OpenAIRealtime) -> Transport:
    """Open a connection through the SDK. Raises CredentialsError and others within seconds."""
    openai = load_sdk()
    from websockets.exceptions import InvalidStatus

    key = model.api_key() if callable(model.api_key) else model.api_key
    api_key, source = key_of(key if key is None or isinstance(key, str) else await key)
    client = openai.AsyncOpenAI(
        api_key=api_key, base_url=model.base_url, organization=model.organization, project=model.project, max_retries=0
    )
    where = str(client.base_url)
    manager = client.realtime.connect(model=model.model, websocket_connection_options={"max_size": _MOST})
    try:
        async with asyncio.timeout(_OPEN_S):
            connection = await manager.enter()
    except BaseException as error:
        await client.close()
        if isinstance(error, InvalidStatus):
            tried = f" for {model.model} with the key of {source}"
            raise error_of_status(error.response.status_code, _text(error.response.body), where, tried) from None
        if isinstance(error, OSError | TimeoutError):
            raise ModelConnectionError(f"{where} could not be reached: {error or type(error).__name__}.") from error
        raise
    return SdkTransport(connection, client)


def _text(body: Any) -> str:
    return bytes(body).decode(errors="replace") if body else ""
