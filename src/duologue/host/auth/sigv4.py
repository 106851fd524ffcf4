"""AWS Signature Version 4 as the stock clients send it: in headers, or pre-signed in the query.

Source: AWS General Reference, "Signature Version 4 signing process"; the service's quirks were found in its SDK's output:
the path is encoded twice, a pre-signed URL signs the host without its port, and the session id of ``/ws`` in header mode
is not signed at all.

Pure: bytes and times come in, a verdict goes out. The parsers take anything a head may hold and raise HostError.
"""

from __future__ import annotations

import hmac
import re
from collections import OrderedDict
from datetime import UTC, datetime
from urllib.parse import unquote

import msgspec

from ...wire.sigv4 import (
    ALGORITHM,
    EMPTY_SHA256,
    Scope,
    canonical_query,
    canonical_request,
    request_signature,
    signing_key,
)
from ..types import NeedsBody, RequestHead
from . import errors

SERVICE = "bedrock-agentcore"
SESSION_HEADER = "x-amzn-bedrock-agentcore-runtime-session-id"
USER_HEADER = "x-amzn-bedrock-agentcore-runtime-user-id"
#: how far a client's clock may be off, seconds
SKEW_S = 300.0
MAX_EXPIRES_S = 300
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"

_PART = re.compile(r"\s*(Credential|SignedHeaders|Signature)=([^\s,]+)\s*")
_ACCESS_ID = re.compile(r"[A-Za-z0-9]{4,128}")
_SIGNED = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+(;[a-z0-9!#$%&'*+.^_`|~-]+)*")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_DATE = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_QUERY_FIELDS = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Signature")


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says of its signature.

    `expires` is the seconds that a pre-signed URL is good for, None in header mode. `signed` are the names of the signed
    headers, in the order of the signature.
    """

    access_id: str
    scope: Scope
    date: str
    signed: tuple[str, ...]
    value: str
    expires: int | None = None

    @property
    def presigned(self) -> bool:
        return self.expires is not None


def single(head: RequestHead, name: str) -> str:
    """The only header called `name`, "" if there is none.

    Raises:
        HostError: 400, there are several: one part would check the first, and another use the last.
    """
    found = [value for key, value in head.headers if key == name]
    if len(found) > 1:
        raise errors.invalid(f"The header {name} was sent more than once.", field=name)
    return found[0] if found else ""


def query_values(query: str, name: str) -> list[str]:
    """The decoded values of a query parameter, whose name is compared without regard to case as a header's is."""
    wanted = name.lower()
    values = []
    for part in query.split("&") if query else ():
        key, _, value = part.partition("=")
        if unquote(key).lower() == wanted:
            values.append(unquote(value))
    return values


def parse_authorization(head: RequestHead) -> Signature:
    """The signature in ``Authorization: AWS4-HMAC-SHA256 …``.

    Raises:
        HostError: 403 IncompleteSignatureException, 400 for a header sent twice.
    """
    scheme, _, rest = single(head, "authorization").partition(" ")
    if scheme != ALGORITHM:
        raise errors.incomplete_signature(f"The Authorization header does not begin with {ALGORITHM}.")
    parts: dict[str, str] = {}
    for piece in rest.split(","):
        found = _PART.fullmatch(piece)
        if found is None or found[1] in parts:
            raise errors.incomplete_signature("The Authorization header cannot be read.")
        parts[found[1]] = found[2]
    if len(parts) != 3:
        raise errors.incomplete_signature(
            "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters."
        )
    return _signature(parts["Credential"], single(head, "x-amz-date"), parts["SignedHeaders"], parts["Signature"], None)


def parse_presigned(head: RequestHead) -> Signature:
    """The signature in the query.

    Raises:
        HostError: 403 IncompleteSignatureException; InvalidSignatureException where `X-Amz-Expires` is not 1 to 300.
    """
    given = {}
    for name in (*_QUERY_FIELDS, "X-Amz-Expires"):
        values = [v for part in head.query.split("&") for k, _, v in [part.partition("=")] if unquote(k) == name]
        if len(values) != 1 or len(query_values(head.query, name)) != 1:
            raise errors.incomplete_signature(f"The query needs {name} exactly once.")
        given[name] = unquote(values[0])
    if given["X-Amz-Algorithm"] != ALGORITHM:
        raise errors.incomplete_signature(f"X-Amz-Algorithm must be {ALGORITHM}.")
    expires = given["X-Amz-Expires"]
    if not re.fullmatch(r"[0-9]{1,9}", expires) or not 1 <= int(expires) <= MAX_EXPIRES_S:
        raise errors.bad_signature(f"X-Amz-Expires must be between 1 and {MAX_EXPIRES_S} seconds.")
    return _signature(
        given["X-Amz-Credential"],
        given["X-Amz-Date"],
        given["X-Amz-SignedHeaders"],
        given["X-Amz-Signature"],
        int(expires),
    )


def _signature(credential: str, date: str, signed: str, value: str, expires: int | None) -> Signature:
    access_id, _, rest = credential.partition("/")
    scope = Scope.parse(rest)
    if scope is None or not _ACCESS_ID.fullmatch(access_id):
        raise errors.incomplete_signature("The credential scope cannot be read.")
    if not _DATE.fullmatch(date):
        raise errors.incomplete_signature("X-Amz-Date must be in ISO-8601 'basic format', YYYYMMDDTHHMMSSZ.")
    if not _SIGNED.fullmatch(signed) or not _HEX64.fullmatch(value):
        raise errors.incomplete_signature("The signed headers or the signature cannot be read.")
    names = tuple(signed.split(";"))
    if "host" not in names or len(set(names)) != len(names):
        raise errors.incomplete_signature("'host' must be a signed header, and none may be signed twice.")
    return Signature(access_id=access_id, scope=scope, date=date, signed=names, value=value, expires=expires)


def check_scope(signature: Signature, *, region: str, now: float) -> None:
    """Service, region, day and time.

    Raises:
        HostError: 403 InvalidSignatureException.
    """
    scope = signature.scope
    if scope.service != SERVICE:
        raise errors.bad_signature(f"Credential should be scoped to correct service: '{SERVICE}'.")
    if scope.region != region:
        raise errors.bad_signature(f"Credential should be scoped to a valid region, not '{scope.region[:40]}'.")
    if scope.date != signature.date[:8]:
        raise errors.bad_signature("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date.")
    try:
        sent = datetime.strptime(signature.date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise errors.incomplete_signature("X-Amz-Date is no date.") from None
    last = sent + (SKEW_S if signature.expires is None else signature.expires)
    if now > last:
        raise errors.bad_signature(f"Signature expired: {signature.date} is too long ago.")
    if now < sent - SKEW_S:
        raise errors.bad_signature(f"Signature not yet current: {signature.date} is still to come.")


def payload_hash(head: RequestHead, signature: Signature, body_sha256: str | None, *, unsigned_allowed: bool) -> str:
    """The hash that the signature covers.

    Raises:
        NeedsBody: the body's hash is needed and not declared.
        HostError: 403, the declared hash is not the body's, or is a form that is not taken.
    """
    declared = single(head, "x-amz-content-sha256")
    if declared == UNSIGNED_PAYLOAD:
        if not unsigned_allowed:
            raise errors.bad_signature("Unsigned payloads are not accepted here: sign the payload's hash.")
        return declared
    if declared:
        if not _HEX64.fullmatch(declared):
            raise errors.bad_signature("x-amz-content-sha256 must be the SHA-256 of the payload, in lower-case hex.")
        if not hmac.compare_digest(declared, body_sha256 or declared):
            raise errors.bad_signature("The provided 'x-amz-content-sha256' header does not match what was computed.")
        if not has_body(head) and declared != EMPTY_SHA256:
            raise errors.bad_signature("The provided 'x-amz-content-sha256' header does not match what was computed.")
        return declared
    if body_sha256 is not None:
        return body_sha256
    if has_body(head):
        raise NeedsBody
    return EMPTY_SHA256


def has_body(head: RequestHead) -> bool:
    """Whether a body follows the head."""
    return single(head, "content-length").strip() not in ("", "0") or any(
        k == "transfer-encoding" for k, _ in head.headers
    )


def verify(head: RequestHead, signature: Signature, secret: str, payload: str) -> bool:
    """Whether `secret` made the signature. Constant time in the signature's value."""
    headers: dict[str, str] = {}
    for name, value in head.headers:
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    if any(name not in headers for name in signature.signed):
        return False
    key = signing_key(secret, signature.scope)
    good = False
    for host in _hosts(headers["host"]):
        for query in _queries(head.query, signature):
            text = canonical_request(
                head.method, head.path, query, {**headers, "host": host}, signature.signed, payload
            )
            made = request_signature(key, signature.date, signature.scope, text)
            good |= hmac.compare_digest(made, signature.value)
    return good


def _queries(query: str, signature: Signature) -> list[str]:
    """What may have been signed as query: the canonical form, and, in headers, its parts as sent.

    The stock SDK writes a space as `+` there, and botocore signs a query that it is given as text as it stands.
    """
    if signature.presigned:
        return [canonical_query(query, without=("X-Amz-Signature",))]
    parts = sorted(part.partition("=")[::2] for part in query.split("&")) if query else []
    return list(dict.fromkeys((canonical_query(query), "&".join(f"{name}={value}" for name, value in parts))))


def _hosts(host: str) -> list[str]:
    """What may have been signed as host: as sent, and without the port."""
    bare, colon, port = host.rpartition(":")
    return [host, bare] if colon and port.isdecimal() and bare else [host]


def session_of(head: RequestHead) -> str:
    """The session id that a request names, in the header or the query; "" if none.

    Raises:
        HostError: 400, it names two.
    """
    named = {value for value in (single(head, SESSION_HEADER), *query_values(head.query, SESSION_HEADER)) if value}
    if len(named) > 1:
        raise errors.invalid("The request names two session ids.", field="runtimeSessionId")
    return named.pop() if named else ""


def session_signed(head: RequestHead, signature: Signature) -> bool:
    """Whether the session id is covered: a signed header, or anywhere in the query, which is signed as a whole."""
    return SESSION_HEADER in signature.signed or any(query_values(head.query, SESSION_HEADER))


class FirstSessions:
    """Which session each signature was first used for, while it could be replayed.

    Bounded: past `size` live signatures the oldest is forgotten, and counted in `forgotten`. One process's memory: the
    processes of a gateway do not share it.
    """

    def __init__(self, size: int = 65_536, *, sessions: int = 1) -> None:
        self._size = size
        self._sessions = sessions
        self._seen: OrderedDict[str, tuple[float, set[str]]] = OrderedDict()
        self.forgotten = 0

    def admit(self, value: str, session: str, *, until: float, now: float) -> bool:
        """Note a good signature's use; False if it was used for other sessions already."""
        known = self._seen.get(value)
        if known is None or known[0] < now:
            self._seen.pop(value, None)
            self._make_room(now)
            self._seen[value] = (until, {session})
            return True
        if session in known[1]:
            return True
        if len(known[1]) >= self._sessions:
            return False
        known[1].add(session)
        return True

    def _make_room(self, now: float) -> None:
        while self._seen:
            value, (until, _) = next(iter(self._seen.items()))
            if until >= now and len(self._seen) < self._size:
                return
            self.forgotten += until >= now
            del self._seen[value]
