"""A WebSocket as the carrier of a connection to Gemini Live. The vendor's SDK keeps its own to itself; ours does as it does."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import (
    ConfigurationError,
    CredentialsError,
    ModelConnectionError,
    ModelError,
    ModelRequestError,
    ModelThrottledError,
)
from ..wire.gemini_live import faults
from .refusals import AccessNotEnabledError, MissingCredentialsError, QuotaError, UnknownModelError
from .transport import Transport, TransportClosedError

if TYPE_CHECKING:
    from .gemini_live import GeminiLive

#: longest wait for the socket to open
_OPEN_S = 3.5
_CLOSE_S = 1.0
#: longest message taken, bytes
_MOST = 32 << 20
_VENDOR = "https://generativelanguage.googleapis.com"
_QUOTA = ("exceeded your current quota", "billing", "plan ")
_BUSY = ("quota", "resource_exhausted", "resource exhausted", "rate limit", "too many")
_KEY = ("api key", "api_key", "credential", "unauthenticated", "auth token")
_ACCESS = ("permission", "not enabled", "has not been used in project", "is disabled", "location is not supported")
_MODEL = ("is not found", "not supported for", "unknown model", "no such model")
_TOKEN = "auth_tokens/"


def error_of_close(code: int, reason: str, tried: str = "") -> ModelError:
    """The typed error for a link that was closed: the protocol has no other way to say what is wrong.

    `tried`: the model that was asked for, and the version of the protocol.
    """
    text = reason.lower()
    what = f"Gemini closed the connection{tried} with {code} {reason}".rstrip() + ("" if reason.endswith(".") else ".")
    if any(word in text for word in _QUOTA):
        return QuotaError(what, hint="Check plan and billing.")
    if any(word in text for word in _BUSY):
        return ModelThrottledError(what, hint="Try later, or ask for higher limits.")
    if code in (faults.INVALID, faults.POLICY):
        if any(word in text for word in _MODEL):
            return UnknownModelError(what, hint="Check the model's name and api_version.")
        if any(word in text for word in _ACCESS):
            return AccessNotEnabledError(what, hint="Check that the key's project may use this model.")
        if any(word in text for word in _KEY):
            return CredentialsError(what, hint="Check the API key, and that it may use this model.")
        if code == faults.POLICY and not reason:
            return CredentialsError(what, hint="Check the API key, the model's name and api_version.")
        return ModelRequestError(what)
    return ModelConnectionError(what)


def error_of_status(status: int, body: str, where: str, tried: str = "") -> ModelError:
    """The typed error for a refused handshake. `tried`: the model that was asked for and where the key came from."""
    text = f"{where} refused the connection{tried} with HTTP {status}: {body[:300]}".rstrip(": ")
    if status == 403 and not any(word in body.lower() for word in _KEY):
        return AccessNotEnabledError(text, hint="Check that the key's project may use this model.")
    if status in (401, 403):
        return CredentialsError(text, hint="Check the API key, and that it may use this model.")
    if status == 429 and any(word in body.lower() for word in _QUOTA):
        return QuotaError(text, hint="Check plan and billing.")
    if status == 429:
        return ModelThrottledError(text, hint="Check plan and limits, or try later.")
    if status >= 500:
        return ModelConnectionError(text)
    if status == 400 and any(word in body.lower() for word in _KEY):
        return CredentialsError(text, hint="Check the API key.")
    return ModelRequestError(text, hint="Check base_url and api_version.")


class SocketTransport:
    """One WebSocket."""

    def __init__(self, socket: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        self._socket = socket
        self._closed_error = ConnectionClosed

    async def send(self, message: str) -> None:
        """See Transport."""
        try:
            await self._socket.send(message)
        except self._closed_error as error:
            raise _closed(error) from None

    async def receive(self) -> str | bytes:
        """See Transport."""
        try:
            data: str | bytes = await self._socket.recv(decode=False)
        except self._closed_error as error:
            raise _closed(error) from None
        return data

    async def close(self) -> None:
        """See Transport."""
        await self._socket.close()


def _closed(error: Any) -> TransportClosedError:
    frame = error.rcvd or error.sent
    return TransportClosedError(frame.code, frame.reason) if frame is not None else TransportClosedError()


def address(base_url: str | None, api_version: str, key: str) -> tuple[str, dict[str, str]]:
    """Where the endpoint is, and the headers that carry the key. Raises ConfigurationError for a base URL that is none."""
    base = base_url or os.environ.get("GOOGLE_GEMINI_BASE_URL") or _VENDOR
    parts = urlsplit(base)
    scheme = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ConfigurationError(f"base_url={base!r} is no URL of a server.", hint="Use https://host[:port].")
    method, headers = "BidiGenerateContent", {"x-goog-api-key": key}
    if key.startswith(_TOKEN):
        method, headers = "BidiGenerateContentConstrained", {"Authorization": f"Token {key}"}
    path = f"{parts.path.rstrip('/')}/ws/google.ai.generativelanguage.{api_version}.GenerativeService.{method}"
    return f"{scheme}://{parts.netloc}{path}", headers


def key_of(given: str | None) -> tuple[str, str]:
    """The key, and where it was found. `given`: by the option. Raises MissingCredentialsError."""
    if given:
        return given, "the option api_key"
    if key := os.environ.get("GOOGLE_API_KEY") or os.environ.get("GEMINI_API_KEY"):
        return key, "GOOGLE_API_KEY or GEMINI_API_KEY"
    raise MissingCredentialsError(
        "There is no Gemini API key. Tried: the option api_key, the environment variables GOOGLE_API_KEY and "
        "GEMINI_API_KEY.",
        hint="Set one of them.",
    )


async def connect(model: GeminiLive) -> Transport:
    """Open a WebSocket. Raises CredentialsError and others within seconds."""
    from websockets.asyncio.client import connect as open_socket
    from websockets.exceptions import InvalidHandshake, InvalidStatus

    given = model.api_key() if callable(model.api_key) else model.api_key
    key, source = key_of(given if given is None or isinstance(given, str) else await given)
    url, headers = address(model.base_url, model.api_version, key)
    where = url.split("/ws/")[0]
    try:
        socket = await open_socket(
            url,
            additional_headers=headers,
            max_size=_MOST,
            open_timeout=_OPEN_S,
            close_timeout=_CLOSE_S,
            ping_interval=None,  # a silent link is found by what it owes; the service pings by itself
            user_agent_header=None,
        )
    except InvalidStatus as refused:
        body = bytes(refused.response.body or b"").decode(errors="replace")
        tried = f" for {model.model} ({model.api_version}) with the key of {source}"
        raise error_of_status(refused.response.status_code, body, where, tried) from None
    except (OSError, TimeoutError, ssl.SSLError, InvalidHandshake) as error:
        raise ModelConnectionError(f"{where} could not be reached: {error or type(error).__name__}.") from error
    return SocketTransport(socket)
