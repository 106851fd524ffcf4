"""Answers that the gateway gives itself: errors in the documented shape, and JSON."""

from __future__ import annotations

import http
import uuid
from typing import Any

import msgspec

from ..types import HostError

Headers = tuple[tuple[str, str], ...]


def request_id() -> str:
    """A new id of a request."""
    return str(uuid.uuid4())


def failed() -> HostError:
    """What a client is told of an error that nobody expected."""
    return HostError(500, "InternalServerException", "The host failed; its log says how.")


def error(failure: HostError, *, id: str = "", extra: Headers = ()) -> tuple[int, Headers, bytes]:
    """Status, headers and body: ``{"message": …}`` (or the error's own), `x-amzn-ErrorType`, `x-amzn-RequestId`."""
    body = failure.body if failure.body is not None else {"message": str(failure)}
    headers = (
        ("content-type", "application/json"),
        ("x-amzn-ErrorType", failure.type),
        ("x-amzn-RequestId", id or request_id()),
        *failure.headers,
        *extra,
    )
    return failure.status, headers, msgspec.json.encode(body)


def json(value: Any, *, id: str, status: int = 200, extra: Headers = ()) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a plain answer."""
    return (
        status,
        (("content-type", "application/json"), ("x-amzn-RequestId", id), *extra),
        msgspec.json.encode(value),
    )


def raw(answer: tuple[int, Headers, bytes]) -> bytes:
    """The answer as bytes of HTTP/1.1, after which the connection is closed."""
    status, headers, body = answer
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {status} {phrase}"]
    lines += [f"{clean(name)}: {clean(value)}" for name, value in headers]
    lines += [f"content-length: {len(body)}", "connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + body


def clean(text: str) -> str:
    """Without what would end a header line."""
    return "".join(char for char in text if char.isprintable())


def asgi_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """As ASGI wants them."""
    return [
        (clean(name).lower().encode("latin-1", "replace"), clean(value).encode("latin-1", "replace"))
        for name, value in headers
    ]
