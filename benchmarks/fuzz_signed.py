"""Requests signed with AWS Signature Version 4 by botocore, in headers and in the query, and then altered.

What a signature covers is written down here once more, without the host's code: the method, the path, the query but for the
signature itself, the headers that are named as signed, and the body. A request that verifies and says anything else in one
of them than the request that was signed is a find. Not covered, as the vendor has it: the order and the spelling
(percent-encoding) of query parameters, white space around and within header values, and a port that the client did not sign.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from unittest import mock
from urllib.parse import quote, unquote_to_bytes, urlsplit

from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from benchmarks.fuzz_damage import Damage
from benchmarks.fuzz_host import Text, Tried, changed, crash, scrambled
from duologue.host.auth.sigv4 import (
    SESSION_HEADER,
    FirstSessions,
    Signature,
    check_scope,
    parse_authorization,
    parse_presigned,
    payload_hash,
    session_of,
    session_signed,
    verify,
)
from duologue.host.gateway.head import HeadReader
from duologue.host.types import HostError, NeedsBody, RequestHead

_NOW, _REGION, _SERVICE = 1_800_000_000.0, "us-west-2", "bedrock-agentcore"
_KEYS = {"DLAK0123456789ABCDEF": "first/secret+key", "DLAKFEDCBA9876543210": "another"}
_URL = "https://h.example/runtimes/delivery-abcdefghij"
_SESSION = "s" * 40
_UNSIGNED = "UNSIGNED-PAYLOAD"
_PART = re.compile(r"(Credential|SignedHeaders|Signature)=([^,]*)")
#: longest head; and how many signatures are remembered with their first session
_LIMIT, _REMEMBERED = 8192, 64


@dataclass(frozen=True, slots=True)
class Seed:
    """A request as a client signed it. `value`: the signature. `signed`: the names of its signed headers."""

    text: Text
    key: str
    value: str
    presigned: bool
    signed: tuple[str, ...]
    meaning: tuple[object, ...]


class Signatures:
    """What reads a signature, and judges it, as the authority does one after the other."""

    codec = "host signatures"

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._damage = Damage(chance, [])
        self._first = FirstSessions(_REMEMBERED, sessions=2)
        self._now = _NOW
        with mock.patch("botocore.auth.get_current_datetime", return_value=datetime.fromtimestamp(_NOW, UTC)):
            self._seeds = list(_seeds())
        self._signed = {seed.value: seed for seed in self._seeds}

    def valid(self) -> Iterator[Tried]:
        """What botocore signed."""
        for seed in self._seeds:
            tried, accepted = self._try(_read(seed.text.head()), seed.text, unsigned=True)
            if not accepted:
                tried.find = tried.find or "a valid signature is refused"
            yield tried

    def round(self) -> Iterator[Tried]:
        """One request, altered."""
        chance = self._chance
        seed = chance.choice(self._seeds)
        text = seed.text.copy()
        if chance.random() < 0.9:
            for _ in range(chance.choice((1, 1, 2, 3))):
                self._alter(text)
        data = text.head()
        if chance.random() < 0.05:
            data = self._damage.scrambled(data)
        head = _read(data)
        if head is None and chance.random() < 0.3 and text.target.isascii():
            # as a reader would give it that lets more pass
            headers = tuple((name.lower(), value) for name, value in text.headers)
            head = RequestHead(method=text.method, target=text.target, headers=headers, tls=True)
        yield self._try(head, text, unsigned=chance.random() < 0.7)[0]

    # ------------------------------------------------------------------ judging

    def _try(self, head: RequestHead | None, text: Text, *, unsigned: bool) -> tuple[Tried, bool]:
        """`unsigned`: whether a body may go unsigned."""
        tried = Tried(self.codec, text.head() + text.body, head is not None, True, 0.0)
        if head is None:
            return tried, False
        body = text.body if _has_body(head) else b""
        accepted, signature = False, None
        began = time.perf_counter()
        try:
            session_of(head)
            signature = parse_presigned(head) if "X-Amz-Signature" in head.target else parse_authorization(head)
            accepted = self._judge(head, signature, body, unsigned)
        except HostError as error:
            if error.status not in (400, 403):
                tried.find = f"status {error.status}"
        except Exception as error:
            tried.find = crash(error)
        tried.took_s = time.perf_counter() - began
        tried.refused = not accepted
        if accepted:
            assert signature is not None
            tried.find = self._altered(head, signature, body)
        return tried, accepted

    def _judge(self, head: RequestHead, signature: Signature, body: bytes, unsigned: bool) -> bool:
        check_scope(signature, region=_REGION, now=_NOW)
        whole = hashlib.sha256(body).hexdigest()
        # the body is known from the first, or only asked for
        known = whole if self._chance.random() < 0.3 else None
        try:
            payload = payload_hash(head, signature, known, unsigned_allowed=unsigned)
        except NeedsBody:
            payload = payload_hash(head, signature, whole, unsigned_allowed=unsigned)
        secret = _KEYS.get(signature.access_id)
        if secret is None or not verify(head, signature, secret, payload):
            return False
        # a body whose hash was declared is hashed as it passes, and not passed on to its end if it is another
        return payload in (_UNSIGNED, whole)

    def _altered(self, head: RequestHead, signature: Signature, body: bytes) -> str:
        """What a request that was taken says otherwise than the one that was signed."""
        seed = self._signed.get(signature.value)
        if seed is None:
            return "accepted though nobody made the signature"
        if set(signature.signed) != set(seed.signed) or signature.access_id != seed.key:
            return "accepted though altered: another key, or other signed headers"
        now = _meaning(head, body, seed.signed, seed.presigned, seed.meaning)
        names = ("method", "path", "query", "headers", "body")
        for name, meant, found in zip(names, seed.meaning, now, strict=True):
            if meant != found:
                return f"accepted though altered: {name}"
        session = session_of(head)
        if session_signed(head, signature) and session and not _names_session(seed, session):
            return "accepted though altered: the session"
        self._now += self._chance.choice((0.0, 1.0, 300.0))
        admitted = [
            self._first.admit(signature.value, each, until=self._now + 300, now=self._now) for each in ("a", "b", "c")
        ]
        if all(admitted):
            return "one signature is good for more sessions than it may be"
        other = hashlib.sha256(str(self._now).encode()).hexdigest()
        self._first.admit(other, session, until=self._now + self._chance.choice((1, 10_000)), now=self._now)
        return ""

    # ------------------------------------------------------------------ altering

    def _alter(self, text: Text) -> None:
        chance, headers = self._chance, text.headers
        match chance.randrange(8):
            case 0 | 1:
                changed(chance, text)
            case 2 | 3:
                self._alter_signature(text)
            case 4:
                self._respell(text)
            case 5:
                text.body = self._damage.scrambled(text.body) if chance.random() < 0.5 else b""
                length = chance.choice((len(text.body), 0, 1))
                text.headers[:] = [pair for pair in headers if pair[0] != "content-length"]
                text.headers.append(("content-length", str(length)))
            case 6:
                other = chance.choice(self._seeds).text
                if chance.random() < 0.5:
                    headers[:] = [
                        (n, dict(other.headers).get(n, v) if chance.random() < 0.4 else v) for n, v in headers
                    ]
                else:
                    headers += [pair for pair in other.headers if chance.random() < 0.3 and pair not in headers]
            case _:
                if chance.random() < 0.3:
                    dates = ("20270115T080001Z", "20270115T090000Z", "20270115T070000Z", "20270115T086000Z", "x")
                    date = chance.choice(dates)
                    headers[:] = [(name, date if name == "x-amz-date" else value) for name, value in headers]
                    return
                value = chance.choice(
                    ("", _SESSION, "t" * 40, _UNSIGNED, hashlib.sha256(text.body).hexdigest(), "alice")
                )
                name = chance.choice(
                    (SESSION_HEADER, "x-amz-content-sha256", "x-amz-security-token", "x-amz-date", "cookie")
                )
                if chance.random() < 0.5:
                    text.query.append(f"{chance.choice((name, name.title(), 'X-Amz-Date'))}={quote(value)}")
                else:
                    headers.append((name, value))

    def _alter_signature(self, text: Text) -> None:
        """One of its fields, in the header or the query."""
        chance = self._chance
        for index, (name, value) in enumerate(text.headers):
            if name == "authorization":
                found = list(_PART.finditer(value))
                if not found:
                    return
                field = chance.choice(found)
                if chance.random() < 0.1:
                    text.headers[index] = (name, value.replace(field[0], "").replace(", ,", ",").rstrip(", "))
                    return
                text.headers[index] = (
                    name, value[: field.start(2)] + self._field(field[1], field[2]) + value[field.end(2) :]
                )  # fmt: skip
                return
        signed = [index for index, part in enumerate(text.query) if part.lower().startswith("x-amz-")]
        if signed:
            index = chance.choice(signed)
            name, _, value = text.query[index].partition("=")
            field_name = name.removeprefix("X-Amz-")
            decoded = unquote_to_bytes(value).decode("latin-1")
            text.query[index] = (
                f"{name}={quote(self._field(field_name, decoded), safe='', encoding='latin-1', errors='replace')}"
            )

    def _field(self, name: str, value: str) -> str:
        chance = self._chance
        if name == "Credential" and chance.random() < 0.8:
            parts = value.split("/")
            at = chance.randrange(len(parts))
            parts[at] = chance.choice(("20270115", "20270116", "us-east-1", "s3", "aws4_request", "", *_KEYS, "DLAK"))
            return "/".join(parts)
        if name == "SignedHeaders" and chance.random() < 0.8:
            names = value.split(";")
            match chance.randrange(4):
                case 0:
                    chance.shuffle(names)
                case 1:
                    del names[chance.randrange(len(names))]
                case 2:
                    names.append(chance.choice((*names, "cookie", "content-length", "X-Amz-Date", "")))
                case _:
                    names = [each.upper() for each in names]
            return ";".join(names)
        if name == "Signature" and chance.random() < 0.8 and value:
            at = chance.randrange(len(value))
            digit = chance.choice("0123456789abcdefABCDEF")
            return chance.choice((value[:at] + digit + value[at + 1 :], value.upper(), value[:-1], "0" * 64))
        if name in ("Date", "Expires"):
            return chance.choice(
                ("20270115T080001Z", "20270230T000000Z", "1", "0", "301", "300", "x", "20270115T090000Z")
            )
        return scrambled(chance, value)

    def _respell(self, text: Text) -> None:
        """Say the same otherwise, or nearly the same."""
        chance = self._chance
        match chance.randrange(6):
            case 0:
                chance.shuffle(text.query)
            case 1 if text.query:
                index = chance.randrange(len(text.query))
                name, equals, value = text.query[index].partition("=")
                spelled = "".join(f"%{ord(c):02X}" if chance.random() < 0.5 and c.isalnum() else c for c in name)
                text.query[index] = spelled + equals + value
            case 2 if text.query:
                index = chance.randrange(len(text.query))
                old, new = chance.choice((("%20", "+"), ("+", "%20"), ("%", "%25"), ("%2F", "/"), ("=", "")))
                text.query[index] = text.query[index].replace(old, new)
            case 3:
                old, new = chance.choice((("/", "//"), ("/", "/./"), ("d", "%64"), ("%3A", ":"), (":", "%3A")))
                text.path = text.path.replace(old, new, 1)
            case 4 if text.headers:
                at = chance.randrange(len(text.headers))
                name, value = text.headers[at]
                space = chance.choice(("  ", "\t", "\xa0", "\x85", ""))
                text.headers[at] = (name.title(), f" {value.replace(' ', space)} ")
            case 5 if text.headers:
                at = chance.randrange(len(text.headers))
                text.headers += [text.headers.pop(at)]
            case _:
                text.query = [*text.query, ""]


def _read(data: bytes) -> RequestHead | None:
    """A head as the gateway reads it; None if it is refused."""
    try:
        return HeadReader(_LIMIT).feed(data)
    except HostError:
        return None


# ---------------------------------------------------------------------- what is signed


def _has_body(head: RequestHead) -> bool:
    """Whether a body follows."""
    return head.header("content-length", "0") != "0" or bool(head.header("transfer-encoding"))


def _meaning(
    head: RequestHead, body: bytes, signed: tuple[str, ...], presigned: bool, seed: tuple[object, ...] = ()
) -> tuple[object, ...]:
    """Method, path, query, signed headers, and the body's hash. A port that was not signed is left out."""
    pairs = [part.partition("=")[::2] for part in head.query.split("&")] if head.query else []
    query = sorted((unquote_to_bytes(name), unquote_to_bytes(value)) for name, value in pairs)
    if presigned:
        query = [(name, value) for name, value in query if name != b"X-Amz-Signature"]
    headers: dict[str, str] = {}
    for name in signed:
        value = ",".join(value for key, value in head.headers if key == name)
        headers[name] = re.sub(r"[ \t]+", " ", value).strip(" ")
    port = re.compile(r":[0-9]+\Z")
    if presigned or (seed and isinstance(was := seed[3], dict) and not port.search(was["host"])):
        headers["host"] = port.sub("", headers["host"])
    declared = head.header("x-amz-content-sha256")
    payload = _UNSIGNED if declared == _UNSIGNED else hashlib.sha256(body).hexdigest()
    return head.method, head.path, query, headers, payload


def _names_session(seed: Seed, session: str) -> bool:
    """Whether the request that was signed names a session."""
    named = [value for name, value in seed.text.headers if name == SESSION_HEADER]
    named += [part.partition("=")[2] for part in seed.text.query if part.lower().startswith(SESSION_HEADER)]
    return session in named


def _seeds() -> Iterator[Seed]:
    queries = ("", "?qualifier=DEFAULT&x=%20y&=z&c&a=1&a=0", "?x=a+b&y=%C3%A9&p=%2Fq")
    title = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
    for key in _KEYS:
        for query in queries:
            for host in ("h.example", "h.example:8443"):
                url = f"{_URL}/ws{query}".replace("h.example", host)
                yield _in_headers(key, url, {})
                yield _in_query(key, url)
        yield _in_headers(key, f"{_URL}/ws", {title: _SESSION, "X-Thing": "a  b c"})
        yield _in_headers(key, f"{_URL}/ws", {}, unsigned={title: _SESSION})
        yield _in_headers(key, f"{_URL}/ws", {}, token="session-token")
        yield _in_query(key, f"{_URL}/ws?{title}={_SESSION}")
        yield _in_query(key, f"{_URL}/ws", token="session/token+")
        for declared in ("", hashlib.sha256(b"body").hexdigest(), _UNSIGNED):
            named = {"X-Amz-Content-SHA256": declared} if declared else {}
            yield _in_headers(key, f"{_URL}/invocations", named, body=b"body")


def _in_headers(
    key: str,
    url: str,
    headers: dict[str, str],
    *,
    unsigned: dict[str, str] | None = None,
    body: bytes = b"",
    token: str | None = None,
) -> Seed:
    method = "POST" if body else "GET"
    request = AWSRequest(method=method, url=url, headers={"host": urlsplit(url).netloc, **headers}, data=body or None)
    SigV4Auth(Credentials(key, _KEYS[key], token), _SERVICE, _REGION).add_auth(request)
    sent = {**dict(request.headers.items()), **(unsigned or {})}
    if body:
        sent["content-length"] = str(len(body))
    return _seed(key, url, method, sent, body, presigned=False)


def _in_query(key: str, url: str, *, token: str | None = None) -> Seed:
    """The host is signed without its port, as the service's SDK does."""
    request = AWSRequest(method="GET", url=url, headers={"host": urlsplit(url).hostname})
    SigV4QueryAuth(Credentials(key, _KEYS[key], token), _SERVICE, _REGION, expires=300).add_auth(request)
    return _seed(key, request.url, "GET", {"host": urlsplit(url).netloc}, b"", presigned=True)


def _seed(key: str, url: str, method: str, sent: dict[str, str], body: bytes, *, presigned: bool) -> Seed:
    parts = urlsplit(url)
    headers = tuple((name.lower(), value) for name, value in sent.items())
    head = RequestHead(
        method=method, target=parts.path + (f"?{parts.query}" if parts.query else ""), headers=headers, tls=True
    )
    found = parse_presigned(head) if presigned else parse_authorization(head)
    return Seed(
        Text.of(head, body), key, found.value, presigned, found.signed, _meaning(head, body, found.signed, presigned)
    )
