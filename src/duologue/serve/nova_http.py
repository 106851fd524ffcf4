"""Nova Sonic over HTTP/2: the request and its signature, frames in and out, and the vendor's errors before a stream begins."""

from __future__ import annotations

import contextlib
import hmac
import re
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import msgspec

from ..errors import ProtocolError
from ..wire.nova_sonic import (
    CONTENT_TYPE,
    ChunkVerifier,
    InputReader,
    StreamException,
    encode_chunk,
    encode_exception,
)
from ..wire.nova_sonic.faults import invalid
from ..wire.sigv4 import (
    ALGORITHM,
    STREAMING_EVENTS,
    Scope,
    canonical_query,
    canonical_request,
    request_signature,
    signing_key,
)
from .nova_channel import PeerGoneError

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_PATH = re.compile(r"/model/([^/]{1,512})/invoke-with-bidirectional-stream/?")
_AUTHORIZATION = re.compile(r"(\w+)=([^,\s]+)")
#: how far a request's clock may be off, seconds (the service's limit)
_SKEW_S = 300.0
#: what must have been signed
_SIGNED = {"host", "x-amz-date"}


class RefusedError(Exception):
    """A request that is refused before there is a stream: HTTP status, the service's name for it, and why."""

    def __init__(self, status: int, type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.message = message


def model_of(path: str) -> str | None:
    """The model that a path invokes (percent-encoded, as the SDK sends it); None for another path."""
    found = _PATH.fullmatch(path)
    return unquote(found.group(1)) if found else None


def verified(
    method: str, path: str, query: str, headers: Mapping[str, str], keys: Mapping[str, str], now: datetime
) -> ChunkVerifier:
    """Check a request's signature. Returns what checks its frames.

    Args:
        path: as it was sent, percent-encoded.
        keys: secret access keys by access key id.

    Raises:
        RefusedError: in the service's words.
    """
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme != ALGORITHM:
        raise RefusedError(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
    parts = dict(_AUTHORIZATION.findall(rest))
    key_id, _, scoped = parts.get("Credential", "").partition("/")
    scope, date = Scope.parse(scoped), headers.get("x-amz-date", "")
    signed = parts.get("SignedHeaders", "").split(";")
    if scope is None or scope.service != "bedrock" or not set(signed) >= _SIGNED or "Signature" not in parts:
        raise RefusedError(403, "IncompleteSignatureException", "The request signature is incomplete.")
    try:
        sent = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise RefusedError(403, "IncompleteSignatureException", "Date must be in ISO-8601 'basic format'.") from None
    if abs((now - sent).total_seconds()) > _SKEW_S or scope.date != date[:8]:
        raise RefusedError(403, "InvalidSignatureException", f"Signature expired: {date} is now too far off.")
    secret = keys.get(key_id)
    if secret is None:
        raise RefusedError(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
    payload = headers.get("x-amz-content-sha256", STREAMING_EVENTS)
    canonical = canonical_request(method, path, canonical_query(query), headers, signed, payload)
    made = request_signature(signing_key(secret, scope), date, scope, canonical)
    if not hmac.compare_digest(made.encode(), parts["Signature"].encode()):
        raise RefusedError(
            403,
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details.",
        )
    return ChunkVerifier(secret, scope, made)


async def refuse(send: Send, refused: RefusedError) -> None:
    """Answer a request that is refused."""
    headers = [
        (b"content-type", b"application/json"),
        (b"x-amzn-errortype", refused.type.encode()),
        (b"x-amzn-requestid", str(uuid.uuid4()).encode()),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": msgspec.json.encode({"message": refused.message})})


class HttpPeer:
    """A client's stream over one request. The answer begins with the client's first event, as the service's does."""

    def __init__(self, receive: Receive, send: Send, verifier: ChunkVerifier | None) -> None:
        self._receive = receive
        self._send = send
        self._reader = InputReader(verifier)
        self._events: deque[bytes] = deque()
        self._fault: StreamException | None = None
        self._ended = False
        self._begun = False
        self._over = False
        self.request_id = str(uuid.uuid4())

    async def receive(self) -> bytes | None:
        """See Peer."""
        while not self._events:
            if self._fault is not None:
                raise self._fault
            if self._ended or self._reader.ended:
                return None
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise PeerGoneError
            self._ended = not message.get("more_body", False)
            try:
                self._events.extend(self._reader.feed(message.get("body", b"")))
            except ProtocolError as error:
                # What came before the fault in the same bytes is lost with it: the stream cannot go on.
                self._fault = _as_exception(error)
        await self._begin()
        return self._events.popleft()

    async def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            headers = [
                (b"content-type", CONTENT_TYPE.encode()),
                (b"x-amzn-requestid", self.request_id.encode()),
            ]
            await self._put({"type": "http.response.start", "status": 200, "headers": headers})

    async def send(self, event: bytes) -> None:
        """See Peer."""
        await self._begin()
        await self._put({"type": "http.response.body", "body": encode_chunk(event), "more_body": True})

    async def _put(self, message: Any) -> None:
        if self._over:
            raise PeerGoneError
        try:
            await self._send(message)
        except OSError as error:
            raise PeerGoneError from error

    async def fail(self, exception: StreamException) -> None:
        """See Peer."""
        with contextlib.suppress(PeerGoneError):
            await self._begin()
            text = f"RequestId={self.request_id} : {exception.text}"
            frame = encode_exception(exception.type, text)
            await self._put({"type": "http.response.body", "body": frame, "more_body": True})
        await self.finish()

    async def finish(self) -> None:
        """See Peer."""
        with contextlib.suppress(PeerGoneError):
            await self._begin()
            await self._put({"type": "http.response.body", "body": b"", "more_body": False})
        self._over = True


def _as_exception(error: ProtocolError) -> StreamException:
    if error.code == "signature":
        return invalid("The request signature we calculated does not match the signature you provided.")
    return invalid()
