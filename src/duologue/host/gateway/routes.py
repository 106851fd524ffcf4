"""Targets of the public listener: ``/runtimes/{id}/…``, where `id` is an ARN, percent-encoded or raw, or a bare agent id.

======================================================  ==============  ======
path after ``/runtimes/{id}``                           kind            method
======================================================  ==============  ======
``/invocations``                                        invocations     POST
``/ws``                                                 ws              GET
``/stopruntimesession``                                 stop            POST
``/connect``                                            connect         POST
``/v1/realtime``                                        openai          GET
``/v1/realtime/client_secrets``                         client_secrets  POST
``…GenerativeService.BidiGenerateContent`` and alike    gemini          GET
``/invocations/.well-known/oauth-protected-resource``   metadata        GET
======================================================  ==============  ======
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote_to_bytes

from ..types import HostError, Kind, RequestHead, Route

_PATHS: tuple[tuple[str, Kind, str], ...] = (
    (r"/invocations/\.well-known/oauth-protected-resource", "metadata", "GET"),
    (r"/invocations", "invocations", "POST"),
    (r"/ws", "ws", "GET"),
    (r"/stopruntimesession", "stop", "POST"),
    (r"/connect", "connect", "POST"),
    (r"/v1/realtime", "openai", "GET"),
    (r"/v1/realtime/client_secrets", "client_secrets", "POST"),
    (
        r"(?:/ws)?/google[./][A-Za-z0-9./]{1,80}(?:GenerativeService\.BidiGenerateContent(?:Constrained)?"
        r"|LlmBidiService/BidiGenerateContent)",
        "gemini",
        "GET",
    ),
)
_COMPILED = tuple((re.compile(rf"/runtimes/(.+?)({path})\Z"), kind, method) for path, kind, method in _PATHS)
_ARN = re.compile(
    r"arn:[a-z0-9-]{1,32}:bedrock-agentcore:([a-z0-9-]{1,32}):([0-9]{12}):runtime/([A-Za-z][A-Za-z0-9_-]{0,99})\Z"
)
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}\Z")
_ACCOUNT = re.compile(r"[0-9]{12}\Z")
_QUALIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}\Z")


def query_pairs(head: RequestHead) -> list[tuple[str, str]]:
    """The query's names and values, decoded; raises HostError 400 if it is malformed or too long a list."""
    try:
        return parse_qsl(head.query, keep_blank_values=True, max_num_fields=200, errors="strict")
    except ValueError:
        raise HostError(400, "ValidationException", "The query is malformed.") from None


def query_value(pairs: list[tuple[str, str]], name: str) -> str:
    """The value of a query parameter, "" if absent. Raises HostError 400 if it is given twice."""
    values = [value for key, value in pairs if key == name]
    if len(values) > 1:
        raise HostError(400, "ValidationException", f"The query has {name} twice.")
    return values[0] if values else ""


def find(head: RequestHead) -> Route:
    """Where a request goes. Raises HostError 400, 404 or 405."""
    try:
        # Only the id is ever encoded; decoded as a whole, an encoded `/` cannot make another path of it.
        path = unquote_to_bytes(head.path).decode()
    except UnicodeDecodeError:
        raise HostError(400, "ValidationException", "The path is not UTF-8.") from None
    for pattern, kind, method in _COMPILED:
        found = pattern.match(path)
        if found is None:
            continue
        if head.method not in (method, "OPTIONS"):
            raise HostError(405, "ValidationException", f"Use {method} for this path.", headers=(("Allow", method),))
        return _route(head, found[1], kind, found[2])
    raise HostError(404, "ResourceNotFoundException", "There is nothing at this path.")


def _route(head: RequestHead, id: str, kind: Kind, rest: str) -> Route:
    pairs = query_pairs(head)
    account, qualifier = query_value(pairs, "accountId"), query_value(pairs, "qualifier") or "DEFAULT"
    if account and not _ACCOUNT.match(account):
        raise HostError(400, "ValidationException", "accountId is 12 digits.")
    if not _QUALIFIER.match(qualifier):
        raise HostError(400, "ValidationException", "qualifier is not the name of an endpoint.")
    arn = _ARN.match(id)
    if arn is not None:
        if account and account != arn[2]:
            raise HostError(400, "ValidationException", "accountId is another one than the ARN's.")
        return Route(kind=kind, region=arn[1], tenant=arn[2], runtime=arn[3], qualifier=qualifier, rest=rest)
    if not _ID.match(id):
        raise HostError(404, "ResourceNotFoundException", "There is no such runtime.")
    return Route(kind=kind, runtime=id, tenant=account, qualifier=qualifier, rest=rest)
