"""Addresses and credentials for calls to hosted agents, under the names that the vendor's client uses.

`AgentCoreRuntimeClient` of ``bedrock-agentcore`` refuses every host but AWS's; this one goes where it is told and gives the
same: ``generate_ws_connection``, ``generate_presigned_url``, ``generate_ws_connection_oauth``. Unlike the stock client it
signs the session id too, so that nobody can use the signature for another session.
"""

from __future__ import annotations

import base64
import datetime
import re
import secrets
import uuid
from collections.abc import Callable, Mapping
from urllib.parse import quote, urlsplit

from ..errors import ConfigurationError
from ..wire.sigv4 import (
    ALGORITHM,
    EMPTY_SHA256,
    Scope,
    canonical_query,
    canonical_request,
    request_signature,
    signing_key,
)

SESSION_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
_SERVICE = "bedrock-agentcore"
_ARN = re.compile(r"arn:[a-z-]+:bedrock-agentcore:[a-z0-9-]+:[0-9]{12}:runtime/[A-Za-z][A-Za-z0-9_-]{0,58}\Z")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,58}\Z")
#: longest life of a pre-signed URL, seconds
MAX_EXPIRES = 300


class RuntimeClient:
    """Makes URLs and headers for the WebSockets of a host.

    Args:
        endpoint: the host's public address, such as ``https://agents.example.com:8443``.
        access_key, secret_key: an access key that the host gave out (``duologue keys create --kind access``); wanted for
            signatures, not for tokens and API keys.
        region: that of the runtime's ARN.
        now: the time, UTC.

    Raises ConfigurationError: an endpoint that is none, or half a key.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        access_key: str = "",
        secret_key: str = "",
        region: str = "us-east-1",
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.netloc or parts.username is not None:
            raise ConfigurationError(
                f"{endpoint!r} is no address of a host.", hint="For example https://localhost:8443"
            )
        if bool(access_key) != bool(secret_key):
            raise ConfigurationError("An access key has two halves.", hint="Give access_key and secret_key.")
        self._scheme = "wss" if parts.scheme in ("https", "wss") else "ws"
        self._netloc = parts.netloc
        self._host = parts.hostname or ""
        self._access, self._secret = access_key, secret_key
        self._region = region
        self._now = now

    def __repr__(self) -> str:
        return f"RuntimeClient({self._scheme}://{self._netloc})"

    def generate_ws_connection(
        self, runtime_arn: str, session_id: str | None = None, endpoint_name: str | None = None
    ) -> tuple[str, dict[str, str]]:
        """URL and signed headers of a WebSocket; good for five minutes.

        Args:
            runtime_arn: the ARN, or the agent's name or id.
            session_id: 33 to 256 characters; made if not given.
            endpoint_name: the qualifier; None: DEFAULT.

        Raises ConfigurationError: no access key, or no ARN.
        """
        path, session = self._path(runtime_arn), session_id or str(uuid.uuid4())
        query = _encoded({"qualifier": endpoint_name} if endpoint_name else {})
        date, scope = self._scope()
        headers = {"host": self._netloc, "x-amz-date": date, SESSION_HEADER.lower(): session}
        signed = sorted(headers)
        canonical = canonical_request("GET", path, canonical_query(query), headers, signed, EMPTY_SHA256)
        signature = request_signature(signing_key(self._secret, scope), date, scope, canonical)
        made = {
            "Host": self._netloc,
            "X-Amz-Date": date,
            "Authorization": f"{ALGORITHM} Credential={self._access}/{scope}, SignedHeaders={';'.join(signed)}, "
            f"Signature={signature}",
            SESSION_HEADER: session,
            **_upgrade(),
        }
        return self._url(path, query), made

    def generate_presigned_url(
        self,
        runtime_arn: str,
        session_id: str | None = None,
        endpoint_name: str | None = None,
        custom_headers: Mapping[str, str] | None = None,
        expires: int = MAX_EXPIRES,
    ) -> str:
        """A URL that carries its signature, for a browser. Whoever has it can open that session until it expires.

        Args:
            custom_headers: more of the query, ``X-Amzn-Bedrock-AgentCore-Runtime-Custom-…``.
            expires: seconds, at most 300.

        Raises ConfigurationError: no access key, no ARN, or a longer life.
        """
        if not 1 <= expires <= MAX_EXPIRES:
            raise ConfigurationError(f"A URL is good for 1 to {MAX_EXPIRES} seconds, not {expires}.")
        path = self._path(runtime_arn)
        date, scope = self._scope()
        query = canonical_query(
            _encoded(
                {
                    **({"qualifier": endpoint_name} if endpoint_name else {}),
                    **(custom_headers or {}),
                    SESSION_HEADER: session_id or str(uuid.uuid4()),
                    "X-Amz-Algorithm": ALGORITHM,
                    "X-Amz-Credential": f"{self._access}/{scope}",
                    "X-Amz-Date": date,
                    "X-Amz-Expires": str(expires),
                    "X-Amz-SignedHeaders": "host",
                }
            )
        )
        canonical = canonical_request("GET", path, query, {"host": self._netloc}, ["host"], EMPTY_SHA256)
        signature = request_signature(signing_key(self._secret, scope), date, scope, canonical)
        return f"{self._url(path, query)}&X-Amz-Signature={signature}"

    def generate_ws_connection_oauth(
        self,
        runtime_arn: str,
        bearer_token: str,
        session_id: str | None = None,
        endpoint_name: str | None = None,
    ) -> tuple[str, dict[str, str]]:
        """URL and headers of a WebSocket with a token, or with an API key of the host.

        Raises ConfigurationError: an empty token, or no ARN.
        """
        if not bearer_token:
            raise ConfigurationError("The token is empty.", hint="Give a token, or an API key of the host.")
        path = self._path(runtime_arn)
        query = _encoded({"qualifier": endpoint_name} if endpoint_name else {})
        made = {
            "Host": self._netloc,
            "Authorization": f"Bearer {bearer_token}",
            SESSION_HEADER: session_id or str(uuid.uuid4()),
            **_upgrade(),
        }
        return self._url(path, query), made

    def _path(self, runtime: str) -> str:
        if not _ARN.match(runtime) and not _NAME.match(runtime):
            raise ConfigurationError(f"{runtime[:120]!r} is neither an ARN nor the name of an agent.")
        return f"/runtimes/{quote(runtime, safe='')}/ws"

    def _url(self, path: str, query: str) -> str:
        return f"{self._scheme}://{self._netloc}{path}" + (f"?{query}" if query else "")

    def _scope(self) -> tuple[str, Scope]:
        if not self._access:
            raise ConfigurationError(
                "Signing needs an access key.", hint="Make one with `duologue keys create --kind access`."
            )
        date = self._now().strftime("%Y%m%dT%H%M%SZ")
        return date, Scope(date[:8], self._region, _SERVICE)


def _encoded(query: Mapping[str, str]) -> str:
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query.items())


def _upgrade() -> dict[str, str]:
    return {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(),
    }


#: what `websockets` and other clients add by themselves: leave it out of their additional headers
HANDSHAKE = frozenset(("host", "upgrade", "connection", "sec-websocket-version", "sec-websocket-key"))


def additional_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of `headers` that a WebSocket library does not make by itself."""
    return {name: value for name, value in headers.items() if name.lower() not in HANDSHAKE}
