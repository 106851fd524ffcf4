"""The host's parsers, which an unknown caller reaches first: the gateway's head reader, and the requests that are fuzzed on.

Each parser makes its own inputs: valid ones (`valid`), and rounds of them that are damaged (`round`). What a parser says is
held against something that knows nothing of its insides: a second reader, or a list of what was signed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import h11

from benchmarks.fuzz_damage import Damage
from duologue.host.auth import app_subprotocols, redacted, session_of
from duologue.host.auth.credentials import find as credential_of
from duologue.host.gateway import routes
from duologue.host.gateway.head import HeadReader, body_length, forwarded, keeps, upgrades
from duologue.host.types import HostError, RequestHead

#: what of the host is fuzzed, and where each is
HOST_CODECS: dict[str, tuple[str, ...]] = {
    "gateway head": ("duologue/host/gateway/head.py", "duologue/host/gateway/routes.py"),
    "host signatures": ("duologue/host/auth/sigv4.py",),
    "host tokens": ("duologue/host/auth/oauth.py",),
    "host link": ("duologue/wire/hostlink/",),
}
#: the only statuses with which a head is refused
_STATUSES = frozenset({400, 403, 404, 405, 414, 417, 426, 431, 501, 505})
_LIMIT = 4096


#: of an upgrade's head, what the public SDK's helpers have clients send twice: the first one counts
_TWICE = frozenset({b"host", b"sec-websocket-version", b"user-agent", b"sec-websocket-key"})


def _once(data: bytes) -> bytes:
    """A head that was taken, without what it says again."""
    head, end, rest = data.partition(b"\r\n\r\n")
    kept: list[bytes] = []
    names: set[bytes] = set()
    for line in head.split(b"\r\n"):
        name = line.partition(b":")[0].lower()
        if name in _TWICE and name in names:
            continue
        names.add(name)
        kept.append(line)
    return b"\r\n".join(kept) + end + rest


@dataclass(slots=True)
class Tried:
    """One input, and what came of it. `find` says what was wrong about that, "" for nothing."""

    codec: str
    data: str | bytes
    framed: bool
    refused: bool
    took_s: float
    find: str = ""


class Parser(Protocol):
    """One of `HOST_CODECS`."""

    codec: str

    def valid(self) -> Iterator[Tried]:
        """The seeds as they are. One that is refused is a find."""
        ...

    def round(self) -> Iterator[Tried]:
        """Some damaged inputs."""
        ...


def crash(error: BaseException) -> str:
    """How an error that no parser may raise is called."""
    return f"{type(error).__name__}: {str(error)[:120]}"


def parsers(seed: int) -> list[Parser]:
    """All of them."""
    from benchmarks.fuzz_links import Links
    from benchmarks.fuzz_signed import Signatures
    from benchmarks.fuzz_tokens import JsonTokens

    return [kind(random.Random(f"{kind.__name__} {seed}")) for kind in (Heads, Signatures, JsonTokens, Links)]


# ---------------------------------------------------------------------- text


_PIECES = (
    *("", "\r\n", "\n", "\r", "\0", ":", " ", "\t", ",", ";", "=", "&", "%", "%2", "%2F", "%00", "%C3", "+", "/", "?"),
    *("#", "..", "A", "a", "0", "9" * 20, "\x80", "\xa0", "\xff", "é", '"', "\\", "{", "x" * 300),
)


def scrambled(chance: random.Random, text: str) -> str:
    """`text` with a few characters changed, dropped, doubled, put in, or cut off."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(text) + 1)
        match chance.randrange(6):
            case 0:
                text = text[:at] + chance.choice(_PIECES) + text[at:]
            case 1:
                text = text[:at] + text[at + chance.randrange(1, 4) :]
            case 2:
                text = text[:at] + chance.choice(_PIECES) + text[at + 1 :]
            case 3:
                text = text[:at] + text[at : at + 9] * 2 + text[at + 9 :]
            case 4:
                text = text[:at] + text[at : at + 1].swapcase() + text[at + 1 :]
            case _:
                other = chance.randrange(len(text) + 1)
                text = text[:at] + text[other : other + 5] + text[at + 5 :]
    return text


@dataclass(slots=True)
class Text:
    """A request as it is sent, in parts that can be changed."""

    method: str
    path: str
    query: list[str]
    headers: list[tuple[str, str]]
    body: bytes = b""
    version: str = "HTTP/1.1"

    def copy(self) -> Text:
        """One whose lists are its own."""
        return Text(self.method, self.path, list(self.query), list(self.headers), self.body, self.version)

    @property
    def target(self) -> str:
        """Path and query."""
        return self.path + ("?" + "&".join(self.query) if self.query else "")

    def head(self) -> bytes:
        """The head's bytes. What latin-1 cannot say becomes a question mark."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        return f"{self.method} {self.target} {self.version}\r\n{lines}\r\n".encode("latin-1", "replace")

    @classmethod
    def of(cls, head: RequestHead, body: bytes = b"") -> Text:
        """What a head was read from."""
        return cls(head.method, head.path, head.query.split("&") if head.query else [], list(head.headers), body)


# ---------------------------------------------------------------------- heads


_BROWSER = [
    ("Host", "localhost:8080"),
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Origin", "https://a.example"),
    ("User-Agent", "Mozilla/5.0 \xe9"),
]
_ARN = "arn%3Aaws%3Abedrock-agentcore%3Aus-west-2%3A123456789012%3Aruntime%2Fdelivery-abcdefghij"
_OFFER = "base64UrlBearerAuthorization"
_SEEDS = [
    Text("GET", "/runtimes/a/ws", [], _BROWSER),
    Text(
        "GET",
        f"/runtimes/{_ARN}/ws",
        ["qualifier=DEFAULT", "x=%20y&ticket=abc"],
        [*_BROWSER, ("Sec-WebSocket-Extensions", "permessage-deflate"), ("Cookie", "a=1"), ("Cookie", "b=2")],
    ),
    Text("GET", "/runtimes/a/ws", [], [*_BROWSER, ("Sec-WebSocket-Protocol", f"{_OFFER}.YWJj, {_OFFER}, chat")]),
    Text(
        "GET",
        "/runtimes/a/v1/realtime",
        ["model=x"],
        [*_BROWSER, ("Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.dlk_x")],
    ),
    Text(
        "GET",
        "/runtimes/a/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
        ["key=dlk_x"],
        _BROWSER,
    ),
    Text(
        "POST",
        f"/runtimes/{_ARN}/invocations",
        ["accountId=123456789012"],
        [
            ("Host", "[::1]:80"),
            ("Content-Length", "7"),
            ("Content-Type", "application/json"),
            ("Expect", "100-continue"),
            ("X-Forwarded-For", "6.6.6.6, 9.9.9.9"),
            ("X-Forwarded-Proto", "https"),
            ("X-Amzn-Bedrock-AgentCore-Runtime-Session-Id", "s" * 33),
        ],
        b'{"a":1}',
    ),
    Text(
        "POST",
        "/runtimes/a/stopruntimesession",
        ["qualifier=prod"],
        [("host", "h.example"), ("transfer-encoding", "chunked"), ("connection", "close"), ("x-api-key", "dlk_x")],
        b"0\r\n\r\n",
    ),
    Text("OPTIONS", "/runtimes/a/connect", [], [("Host", "h"), ("Access-Control-Request-Method", "POST")]),
    Text("GET", "/runtimes/a/invocations/.well-known/oauth-protected-resource", [], [("Host", "h"), ("Accept", "*/*")]),
]
_NAMES = (
    *("Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Expect", "Authorization", "Cookie"),
    *("X-Forwarded-For", "X-Forwarded-Proto", "X-Thing", "Sec-WebSocket-Key", "Sec-WebSocket-Protocol", "X-Amz-Date"),
    *("X-Api-Key", "X-Goog-Api-Key", "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id", "", "X Y", "X\xe9"),
)
_VALUES = (
    *("", "0", "5", "+5", "0x5", "5, 5", "9" * 16, "chunked", "Chunked", "gzip, chunked", "identity", "close", "a b"),
    *(
        "websocket",
        "upgrade",
        "Upgrade, close",
        "100-continue",
        "tea",
        "h",
        "h:1",
        "[::1]",
        "h:123456",
        "u@h",
        "a,b,,c",
    ),
    *("http", "https", "Bearer abc", "Basic abc", "AWS4-HMAC-SHA256 x", "\xa0", "a\tb", "A" * 3000),
    *(f"{_OFFER}.YWJj", f"{_OFFER}, {_OFFER}.YW=", "openai-insecure-api-key.\xe9", "dlk_" + "x" * 600),
)


def changed(chance: random.Random, text: Text) -> None:
    """Change one thing of a request."""
    headers = text.headers
    at = chance.randrange(len(headers) + 1)
    match chance.randrange(12):
        case 0:
            text.method = chance.choice(("GET", "POST", "get", "PUT", "OPTIONS", "", "GE T", "X" * 21, "G\0"))
        case 1:
            text.path = scrambled(chance, text.path) if chance.random() < 0.95 else text.path + "a" * 5000
        case 2:
            names = ("qualifier=x", "qualifier=%ff", "accountId=1", "accountId=210987654321", "ticket=x", "key=y", "&")
            text.query.insert(chance.randrange(len(text.query) + 1), chance.choice(names))
        case 3 if text.query:
            index = chance.randrange(len(text.query))
            text.query[index] = scrambled(chance, text.query[index])
        case 4 if text.query:
            del text.query[chance.randrange(len(text.query))]
        case 5 if headers:
            del headers[at % len(headers)]
        case 6 if headers:
            headers.insert(at, chance.choice(headers))
        case 7 if headers:
            name, value = headers[at % len(headers)]
            headers[at % len(headers)] = (name, scrambled(chance, value))
        case 8 if headers:
            name, value = headers[at % len(headers)]
            headers[at % len(headers)] = (scrambled(chance, name), value)
        case 9:
            text.version = chance.choice(("HTTP/1.1", "HTTP/1.0", "HTTP/2", "http/1.1", "", "HTTP/1.1 ", "HTTP/9.9"))
        case 10:
            headers += [(f"X-{number}", "") for number in range(chance.choice((1, 50, 101)))]
        case _:
            headers.insert(at, (chance.choice(_NAMES), chance.choice(_VALUES)))


class Heads:
    """The head reader, and what reads on in the head at once: the routes, and which credential it shows."""

    codec = "gateway head"

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._damage = Damage(chance, [])

    def valid(self) -> Iterator[Tried]:
        """Requests of browsers and SDKs."""
        for text in _SEEDS:
            tried = self._try(text.head() + text.body)
            if tried.refused:
                tried.find = f"a valid head is refused: {tried.find}"
            yield tried

    def round(self) -> Iterator[Tried]:
        """One head, damaged in its parts, in its bytes, or in both."""
        chance = self._chance
        text = chance.choice(_SEEDS).copy()
        whole = chance.random() < 0.85
        if whole:
            for _ in range(chance.choice((1, 1, 2, 3))):
                changed(chance, text)
        data = text.head() + text.body
        if chance.random() < (0.1 if whole else 1):
            data = self._damage.scrambled(data)
        yield self._try(data)

    def _try(self, data: bytes) -> Tried:
        began = time.perf_counter()
        head, refused, rest, find = self._read(data, pieces=True)
        if head is not None:
            for work in (upgrades, keeps, body_length, forwarded, session_of, app_subprotocols):
                refused |= bool(what := self._ask(work, head))  # type: ignore[arg-type]
                find = find or what.removeprefix("typed")
            refused |= bool(what := self._ask(lambda head: credential_of(head, routes.find(head).kind), head))
            find = find or what.removeprefix("typed")
            redacted(head.target)
        took = time.perf_counter() - began
        find = find or self._otherwise(data, head, rest)
        end = data.find(b"\r\n\r\n")
        return Tried(self.codec, data, end >= 0 and end + 4 <= _LIMIT, refused, took, find)

    def _read(self, data: bytes, *, pieces: bool) -> tuple[RequestHead | None, bool, bytes, str]:
        """The head, whether it was refused, what came after it, and what was wrong."""
        reader, at = HeadReader(_LIMIT, peer="192.0.2.7"), 0
        try:
            while at < len(data):
                size = self._chance.choice((1, 2, 7, 40, 400, 4000)) if pieces else len(data)
                head = reader.feed(data[at : at + size])
                at += size
                if head is not None:
                    return head, False, reader.rest + data[at:], ""
        except HostError as error:
            return None, True, b"", "" if error.status in _STATUSES else f"status {error.status}"
        except Exception as error:
            return None, True, b"", crash(error)
        return None, False, b"", ""

    def _ask(self, work: Callable[[RequestHead], object], head: RequestHead) -> str:
        """ "" if it answers, "typed" if it refuses as it may, or how it fails."""
        try:
            work(head)
        except HostError as error:
            return "typed" if error.status in _STATUSES else f"status {error.status}"
        except Exception as error:
            return crash(error)
        return ""

    def _otherwise(self, data: bytes, head: RequestHead | None, rest: bytes) -> str:
        """Whether the same bytes mean something else at once, or to another reader of HTTP."""
        at_once, _, rest_at_once, find = self._read(data, pieces=False)
        if find:
            return find
        if (at_once, rest_at_once) != (head, rest):
            return "pieces are read otherwise than the whole"
        if head is None:
            return ""
        other = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 17)
        try:
            other.receive_data(_once(data))
            event = other.next_event()
        except h11.RemoteProtocolError as error:
            return f"h11 refuses what is taken: {error}"
        if not isinstance(event, h11.Request):
            return "h11 waits for more"
        # a transfer coding's name has no case, and h11 tells it in small letters
        headers = [(name, value.lower() if name == "transfer-encoding" else value) for name, value in head.headers]
        mine = (head.method, head.target, headers)
        theirs = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
        if mine != (event.method.decode(), event.target.decode(), theirs):
            return "h11 reads another head"
        return ""
