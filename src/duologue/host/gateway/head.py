"""Heads of HTTP/1.1 requests, read strictly and without I/O.

What two readers could understand differently is refused: bare LF, folded lines, repeated headers that mean one thing, a
length beside a transfer coding, targets that are not a path. See RFC 9112.
"""

from __future__ import annotations

import re

from ..types import HostError, RequestHead

#: most headers of a request
_MOST = 100
_METHOD = re.compile(rb"[A-Z]{1,20}\Z")
_TARGET = re.compile(rb"/[!\"$-~]*\Z")  # visible ASCII without `#`
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}\Z")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~-]{1,253})(:[0-9]{1,5})?\Z")
#: headers that may come several times: lists. All others that come twice are refused.
_LISTS = frozenset(
    {
        "accept", "accept-encoding", "accept-language", "access-control-request-headers", "baggage", "cache-control",
        "connection", "cookie", "forwarded", "keep-alive", "pragma", "sec-websocket-extensions",
        "sec-websocket-protocol", "te", "tracestate", "trailer", "upgrade", "via", "warning", "x-forwarded-for",
    }
)  # fmt: skip

#: The public SDK's helpers give headers of the upgrade to clients that send them as well, beside their own: the same again
#: means nothing else, and of two keys the first one is the client's own, by which it knows the answer.
_AGAIN = frozenset({"host", "sec-websocket-version", "user-agent"})
_FIRST = frozenset({"sec-websocket-key"})


class HeadReader:
    """Collects one head. What comes after it is in `rest`."""

    def __init__(self, limit: int = 16 << 10, *, peer: str = "", tls: bool = False) -> None:
        self._limit = limit
        self._peer = peer
        self._tls = tls
        self._buffer = bytearray()
        self._done = False
        #: bytes that came after the head
        self.rest = b""

    @property
    def begun(self) -> bool:
        """Whether anything came."""
        return bool(self._buffer) or self._done

    def feed(self, data: bytes) -> RequestHead | None:
        """The head once it is whole, else None. Raises HostError 400, 414, 431 or 505 for what is none."""
        assert not self._done, "the head is complete"
        start = max(0, len(self._buffer) - 3)
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n", start)
        if end < 0 or end + 4 > self._limit:
            if len(self._buffer) > self._limit or end >= 0:
                if b"\r\n" not in self._buffer[: self._limit]:
                    raise HostError(414, "ValidationException", "The request target is too long.")
                raise HostError(431, "ValidationException", f"The request's head is longer than {self._limit} bytes.")
            # What is no HTTP at all (a TLS greeting on a plain port) is not waited for.
            if not self._buffer[:1].isalpha() or (b"\n" in self._buffer and not _crlf(self._buffer)):
                raise _bad("This is not an HTTP/1.1 request.")
            return None
        self.rest = bytes(self._buffer[end + 4 :])
        head = bytes(self._buffer[:end])
        self._done = True
        return self._parse(head)

    def _parse(self, head: bytes) -> RequestHead:
        lines = head.split(b"\r\n")
        parts = lines[0].split(b" ")
        if len(parts) != 3 or not _METHOD.match(parts[0]):
            raise _bad("The request line is malformed.")
        method, target, version = parts
        if version != b"HTTP/1.1":
            if re.match(rb"HTTP/\d\.\d\Z", version):
                raise HostError(505, "ValidationException", "Only HTTP/1.1 is spoken here.")
            raise _bad("The request line is malformed.")
        if not _TARGET.match(target):
            raise _bad("The request target is not an absolute path of visible ASCII characters.")
        if len(lines) - 1 > _MOST:
            raise HostError(431, "ValidationException", f"The request has more than {_MOST} headers.")
        headers: list[tuple[str, str]] = []
        seen: set[str] = set()
        again = ""
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or not _NAME.match(name):
                raise _bad("A header line is malformed (or folded, which is obsolete).")
            value = value.strip(b" \t")
            if not _VALUE.match(value):
                raise _bad("A header's value has control characters.")
            key, text = name.decode("ascii").lower(), value.decode("latin-1")
            if key in seen and key not in _LISTS:
                if key in _FIRST or (key in _AGAIN and (key, text) in headers):
                    again = key
                    continue
                raise _bad(f"The header {key!r} is given twice.")
            seen.add(key)
            headers.append((key, text))
        made = RequestHead(
            method=method.decode(), target=target.decode(), headers=tuple(headers), peer=self._peer, tls=self._tls
        )
        _check(made, seen)
        if again and not upgrades(made):
            raise _bad(f"The header {again!r} is given twice.")
        return made


def _check(head: RequestHead, seen: set[str]) -> None:
    """What the headers must be for the message to have one meaning."""
    if not _HOST.match(head.header("host")):
        raise _bad("The request has no valid Host header.")
    length = head.header("content-length")
    if "content-length" in seen:
        if not re.match(r"[0-9]{1,15}\Z", length):
            raise _bad("Content-Length is not a number.")
        if "transfer-encoding" in seen:
            raise _bad("Content-Length and Transfer-Encoding do not go together.")
    if "transfer-encoding" in seen and head.header("transfer-encoding").lower() != "chunked":
        raise HostError(501, "ValidationException", "No transfer coding but chunked is known.")
    if head.header("expect", "100-continue").lower() != "100-continue":
        raise HostError(417, "ValidationException", "No expectation but 100-continue is known.")


def _crlf(buffer: bytearray) -> bool:
    """Whether every line so far ends as it must."""
    return buffer.count(b"\n") == buffer.count(b"\r\n")


def _bad(message: str) -> HostError:
    return HostError(400, "ValidationException", message)


def tokens(head: RequestHead, name: str) -> list[str]:
    """The elements of a list header, over all its lines, as sent."""
    return [token.strip() for key, value in head.headers if key == name for token in value.split(",") if token.strip()]


def body_length(head: RequestHead) -> int | None:
    """Bytes of the body; None if it comes in chunks."""
    if head.header("transfer-encoding"):
        return None
    return int(head.header("content-length", "0"))


def keeps(head: RequestHead) -> bool:
    """Whether the client wants to use the connection again."""
    return "close" not in (token.lower() for token in tokens(head, "connection"))


def upgrades(head: RequestHead) -> bool:
    """Whether it asks for a WebSocket. Raises HostError 400 or 426 if it does so wrongly."""
    if "websocket" not in (token.lower() for token in tokens(head, "upgrade")):
        return False
    if "upgrade" not in (token.lower() for token in tokens(head, "connection")):
        raise _bad("A WebSocket is asked for without `Connection: Upgrade`.")
    if head.method != "GET" or body_length(head) != 0:
        raise _bad("A WebSocket is opened with GET and no body.")
    if head.header("sec-websocket-version") != "13":
        raise HostError(
            426,
            "ValidationException",
            "Only version 13 of WebSocket is spoken.",
            headers=(("Sec-WebSocket-Version", "13"),),
        )
    if not re.match(r"[A-Za-z0-9+/]{21}[AQgw]==\Z", head.header("sec-websocket-key")):
        raise _bad("Sec-WebSocket-Key is not 16 bytes in base64.")
    return True


def forwarded(head: RequestHead) -> RequestHead:
    """The head as a trusted proxy meant it: the address that it saw, and whether that came over TLS."""
    last = tokens(head, "x-forwarded-for")
    scheme = head.header("x-forwarded-proto").lower()
    return RequestHead(
        method=head.method,
        target=head.target,
        headers=head.headers,
        peer=last[-1][:64] if last else head.peer,
        tls=scheme == "https" if scheme in ("http", "https") else head.tls,
    )
