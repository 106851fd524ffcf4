"""What of a request reaches the application: the session's id, the allowed headers, the query without credentials."""

from __future__ import annotations

import re
from urllib.parse import urlencode

from ..headers import CUSTOM as _CUSTOM
from ..headers import restricted
from ..types import HostError, Identity, RequestHead
from . import routes
from .head import tokens

PREFIX = "x-amzn-bedrock-agentcore-runtime-"
SESSION = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
REQUEST = "X-Amzn-Bedrock-AgentCore-Runtime-Request-Id"
_SESSION_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]*\Z")
#: always passed, with the longest value that is
_TRACING = {"x-amzn-trace-id": 128, "traceparent": 128, "tracestate": 512, "baggage": 8192}
_BODY = ("content-type", "accept", "mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name")
_LONGEST = 4096
#: parameters that are for the gateway: credentials and where to
_OURS = frozenset(
    {"qualifier", "accountid", "ticket", "token", "access_token", "key", "api_key", PREFIX + "session-id"}
)
#: subprotocols that carry a credential, or say that another one does
_CREDENTIAL = ("base64urlbearerauthorization", "openai-insecure-api-key.")


def session_id(head: RequestHead, identity: Identity | None = None) -> str:
    """The session that a request names in header or query, "" if none.

    Raises HostError 400 for an id out of shape or two that differ, 403 if the credential is for another session.
    """
    in_header = head.header(SESSION.lower())
    in_query = ""
    for name, value in routes.query_pairs(head):
        if name.lower() == SESSION.lower():
            if in_query and in_query != value:
                raise _bad("The query names two sessions.")
            in_query = value
    if in_header and in_query and in_header != in_query:
        raise _bad("Header and query name different sessions.")
    id = in_header or in_query
    if id:
        if len(id) < 33:
            raise _bad("runtimeSessionId must have length greater than or equal to 33.")
        if len(id) > 256:
            raise _bad("runtimeSessionId must have length less than or equal to 256.")
        if not _SESSION_ID.match(id):
            raise _bad("runtimeSessionId must satisfy the pattern [a-zA-Z0-9][a-zA-Z0-9-_]*.")
    if identity is not None and identity.session:
        if id and id != identity.session:
            raise HostError(403, "AccessDeniedException", "The credential is for another session.")
        return identity.session
    return id


def headers(
    head: RequestHead, listed: tuple[str, ...], identity: Identity, *, session: str, request: str
) -> list[tuple[str, str]]:
    """Headers for the application, names lower-case: tracing, content, custom ones, and those that its version lists.

    `listed` holds names, or beginnings of names that end in ``*``. `Authorization` passes only if listed, and only a
    bearer token: a signature or a key is never shown. Raises HostError 400 for a value that is too long.
    """
    exact = {name.lower() for name in listed if not name.endswith("*")}
    starts = tuple(name[:-1].lower() for name in listed if name.endswith("*") and len(name) > 1)
    out: list[tuple[str, str]] = [(SESSION.lower(), session), (REQUEST.lower(), request)]

    def take(name: str, value: str, longest: int) -> None:
        if len(value) > longest:
            raise _bad(f"The header {name!r} is longer than {longest} bytes.")
        out.append((name, value))

    for name, value in head.headers:
        if name in _TRACING:
            take(name, value, _TRACING[name])
        elif name in _BODY or name.startswith(_CUSTOM):
            take(name, value, _LONGEST)
        elif name == "authorization":
            if name in exact and identity.mode == "oauth" and value[:7].lower() == "bearer ":
                take(name, value, 2 * _LONGEST)
        elif restricted(name):
            continue
        elif name in exact or (starts and name.startswith(starts)):
            take(name, value, _LONGEST)
    for name, value in routes.query_pairs(head):
        if name.lower().startswith(_CUSTOM) and len(name) > len(_CUSTOM):
            if not re.match(r"[A-Za-z0-9_-]{1,256}\Z", name) or not value.isprintable():
                raise _bad("A custom header in the query is malformed.")
            take(name.lower(), value, _LONGEST)
    return out


def query(head: RequestHead) -> str:
    """The query for a Duologue agent: without credentials, signatures and what the gateway itself reads."""
    pairs = [
        (name, value)
        for name, value in routes.query_pairs(head)
        if name.lower() not in _OURS and not name.lower().startswith(("x-amz-", _CUSTOM))
    ]
    return urlencode(pairs)


def subprotocols(head: RequestHead) -> tuple[str, ...]:
    """Those offered, without credentials. Raises HostError 400 for one that is no token."""
    offered = tokens(head, "sec-websocket-protocol")
    if any(not re.match(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,8192}\Z", name) for name in offered):
        raise _bad("Sec-WebSocket-Protocol is malformed.")
    return tuple(name for name in offered if not name.lower().startswith(_CREDENTIAL))


def _bad(message: str) -> HostError:
    return HostError(400, "ValidationException", message)
