"""What the tests of the authority share: a clock to set, heads as clients send them, an identity provider over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import trustme
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from duologue.host.auth import Audit, AuthOptions, Fetcher, HostAuthority, HostKeys, Vault
from duologue.host.types import HostError, RequestHead, Route, VersionSpec
from duologue.store import MemoryStore, Store

TENANT = "123456789012"
OTHER = "210987654321"
RUNTIME = "delivery-abcdefghij"
REGION = "us-west-2"
ARN = f"arn:aws:bedrock-agentcore:{REGION}:{TENANT}:runtime/{RUNTIME}"
SESSION = "session-" + "0" * 32
SESSION_NAME = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
NOW = 1_800_000_000.0


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def route(kind: Any = "ws", *, tenant: str = TENANT, runtime: str = RUNTIME, qualifier: str = "DEFAULT") -> Route:
    return Route(kind=kind, runtime=runtime, tenant=tenant, region=REGION, qualifier=qualifier)


def head(
    target: str = "/runtimes/x/ws", headers: Any = (), *, method: str = "GET", host: str = "h.example", tls: bool = True
) -> RequestHead:
    """A head as the reader gives it: names lower-case, `host` first unless it is among the headers."""
    pairs = tuple((name.lower(), value) for name, value in (headers.items() if isinstance(headers, dict) else headers))
    if not any(name == "host" for name, _ in pairs):
        pairs = (("host", host), *pairs)
    return RequestHead(method=method, target=target, headers=pairs, peer="192.0.2.7", tls=tls)


def head_of_url(url: str, headers: dict[str, str] | None = None, *, method: str = "GET") -> RequestHead:
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    return head(target, headers or {}, method=method, host=parts.netloc)


@contextlib.contextmanager
def _time(now: float) -> Iterator[None]:
    """botocore's clock, set."""
    with mock.patch("botocore.auth.get_current_datetime", return_value=datetime.fromtimestamp(now, UTC)):
        yield


def signed(
    credentials: tuple[str, str],
    url: str = f"https://h.example/runtimes/{RUNTIME}/ws",
    *,
    now: float = NOW,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    unsigned: dict[str, str] | None = None,
    body: bytes = b"",
    region: str = REGION,
    service: str = "bedrock-agentcore",
    token: str | None = None,
) -> RequestHead:
    """A request signed in its headers by botocore."""
    named = {"host": urlsplit(url).netloc, **(headers or {})}
    request = AWSRequest(method=method, url=url, headers=named, data=body or None)
    with _time(now):
        SigV4Auth(Credentials(*credentials, token), service, region).add_auth(request)
    sent = {**dict(request.headers.items()), **(unsigned or {})}
    if body:
        sent["content-length"] = str(len(body))
    return head_of_url(url, sent, method=method)


def presigned(
    credentials: tuple[str, str],
    url: str = f"https://h.example/runtimes/{RUNTIME}/ws",
    *,
    now: float = NOW,
    expires: int = 300,
    token: str | None = None,
    region: str = REGION,
    service: str = "bedrock-agentcore",
) -> RequestHead:
    """A URL signed by botocore; the host is signed without its port, as the service's SDK does."""
    request = AWSRequest(method="GET", url=url, headers={"host": urlsplit(url).hostname})
    with _time(now):
        SigV4QueryAuth(Credentials(*credentials, token), service, region, expires=expires).add_auth(request)
    return head_of_url(request.url, {"host": urlsplit(url).netloc})


class World:
    """An authority with everything it needs, in memory."""

    def __init__(
        self, store: Store | None = None, *, options: AuthOptions | None = None, fetcher: Fetcher | None = None
    ) -> None:
        self.clock = Clock()
        self.store = store or MemoryStore()
        self.vault = Vault(HostKeys({"k": b"k" * 32}, "k"))
        self.audit = Audit(self.store, clock=self.clock)
        self.spec = VersionSpec(
            tenant=TENANT,
            runtime=RUNTIME,
            version=1,
            digest="sha256:0",
            kind="agent",
            source="/nowhere",
            origins=("https://app.example",),
        )
        self.options = options or AuthOptions(region=REGION, default_tenant=TENANT)
        self.authority = self.another(fetcher)

    def another(self, fetcher: Fetcher | None = None) -> HostAuthority:
        """One more authority on the same store, as another gateway process has."""
        return HostAuthority(
            self.store,
            self.vault,
            self.audit,
            versions=self.version,
            options=self.options,
            fetcher=fetcher,
            clock=self.clock,
        )

    async def version(self, tenant: str, runtime: str, qualifier: str) -> VersionSpec:
        if (tenant, runtime, qualifier) != (self.spec.tenant, self.spec.runtime, "DEFAULT"):
            raise HostError(404, "ResourceNotFoundException", "No endpoint or agent found")
        return self.spec

    def access(self, tenant: str = TENANT, **options: Any) -> tuple[str, str]:
        made = self.authority.keys.create("access", tenant, **options)
        return made.key.id, made.secret.reveal()

    def api(self, tenant: str = TENANT, **options: Any) -> str:
        return self.authority.keys.create("api", tenant, **options).secret.reveal()


class Provider:
    """An identity provider: real TLS on a loopback port; `documents` may be changed while it runs.

    A value of `documents` is an object (sent as JSON), bytes (sent as they are), or a function that writes the answer.
    """

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.documents: dict[str, Any] = {}
        self.asked: list[str] = []
        self.keys: list[Any] = []
        self.port = 0
        self.came = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def issuer(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def discovery(self) -> str:
        return f"{self.issuer}/.well-known/openid-configuration"

    def publish(self, *keys: Any) -> None:
        self.documents["/jwks"] = {"keys": [key.as_dict(private=False) for key in keys]}

    def fetcher(self, **options: Any) -> Fetcher:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return Fetcher(tls=context, **{"private_addresses": True, **options})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Provider]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("localhost").configure_cert(context)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        self.documents["/.well-known/openid-configuration"] = {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/jwks",
        }
        try:
            yield self
        finally:
            self.gate.set()
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            path = request.split(b" ", 2)[1].decode()
            self.asked.append(path)
            self.came.set()
            await self.gate.wait()
            found = self.documents.get(path)
            if callable(found):
                await found(writer)
            elif found is None:
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            else:
                body = found if isinstance(found, bytes) else json.dumps(found).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def token(
    key: Any, issuer: str, *, alg: str = "RS256", kid: str | None = "one", now: float = NOW, **claims: Any
) -> str:
    """A token that is good for an hour, with `claims` on top; a claim of None is left out."""
    content = {"iss": issuer, "sub": "alice", "aud": "agents", "exp": now + 3600, **claims}
    header = {"alg": alg, **({"kid": kid} if kid is not None else {})}
    return jwt.encode(header, {k: v for k, v in content.items() if v is not None}, key, algorithms=[alg])


def rsa(kid: str = "one") -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid})


def ec(kid: str = "two") -> ECKey:
    return ECKey.generate_key("P-256", {"kid": kid})


def refusal(error: Any) -> tuple[int, str]:
    """Status and name of a caught HostError."""
    assert isinstance(error.value, HostError)
    return error.value.status, error.value.type
