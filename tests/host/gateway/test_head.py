"""Heads: what is one HTTP/1.1 request to every reader passes; all else is refused by status."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.host.gateway.head import HeadReader, body_length, forwarded, keeps, upgrades
from duologue.host.types import HostError, RequestHead

GOOD = b"GET /runtimes/a/ws?x=1 HTTP/1.1\r\nHost: example.org:8080\r\nX-Thing:  a b \r\n\r\n"
FIREFOX = (
    b"GET /ws HTTP/1.1\r\nHost: localhost:1\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n"
    b"Sec-WebSocket-Version: 13\r\nOrigin: https://a.example\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: keep-alive, Upgrade\r\nPragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n"
)


def read(data: bytes, **more: object) -> RequestHead:
    """The head in `data`, whole."""
    head = HeadReader(**more).feed(data)  # type: ignore[arg-type]
    assert head is not None
    return head


def status(data: bytes) -> int:
    """How it is refused; 0 if it is not."""
    try:
        HeadReader().feed(data)
    except HostError as error:
        return error.status if error.type == "ValidationException" else -1
    return 0


def test_a_head_in_pieces_is_the_head_at_once() -> None:
    reader = HeadReader(peer="1.2.3.4", tls=True)
    for at in range(len(GOOD) - 1):
        assert reader.feed(GOOD[at : at + 1]) is None
    head = reader.feed(GOOD[-1:] + b"body")
    assert head == read(GOOD, peer="1.2.3.4", tls=True)
    assert reader.rest == b"body"
    assert (head.path, head.query, head.header("x-thing")) == ("/runtimes/a/ws", "x=1", "a b")


def test_firefox_asks_for_an_upgrade_as_chrome_does() -> None:
    assert upgrades(read(FIREFOX))
    assert upgrades(read(FIREFOX.replace(b"keep-alive, Upgrade", b"upgrade")))
    assert not upgrades(read(GOOD))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"websocket\r\n", b"websocket\r\nContent-Length: 3\r\n", 400),
        (b"GET", b"POST", 400),
        (b"Version: 13", b"Version: 8", 426),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"short", 400),
        (b"keep-alive, Upgrade", b"keep-alive", 400),
    ],
)
def test_an_upgrade_that_is_wrong(old: bytes, new: bytes, expected: int) -> None:
    with pytest.raises(HostError) as caught:
        upgrades(read(FIREFOX.replace(old, new)))
    assert caught.value.status == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (GOOD.replace(b"\r\n", b"\n"), 400),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/2"), 400),
        (GOOD.replace(b"GET ", b"get "), 400),
        (GOOD.replace(b"GET /", b"GET http://a/"), 400),
        (GOOD.replace(b"GET /", b"GET  /"), 400),
        (GOOD.replace(b"/ws", b"/w\x00s"), 400),
        (GOOD.replace(b"/ws", b"/ws#a"), 400),
        (GOOD.replace(b"/ws", "/wß".encode()), 400),
        (GOOD.replace(b"X-Thing:", b" folded:"), 400),
        (GOOD.replace(b"X-Thing:", b"X-Thing :"), 400),
        (GOOD.replace(b"X-Thing:", b":"), 400),
        (GOOD.replace(b"a b", b"a\rb"), 400),
        (GOOD.replace(b"a b", b"a\x00b"), 400),
        (GOOD.replace(b"a b", b"a\nb"), 400),
        (GOOD.replace(b"Host: example.org:8080\r\n", b""), 400),
        (GOOD.replace(b"example.org:8080", b"a b"), 400),
        (GOOD.replace(b"example.org:8080", b"u@h"), 400),
        (GOOD.replace(b"X-Thing", b"Host"), 400),
        (GOOD.replace(b"X-Thing:  a b", b"Content-Length: 1\r\nContent-Length: 1"), 400),
        (GOOD.replace(b"X-Thing:  a b", b"Content-Length: +1"), 400),
        (GOOD.replace(b"X-Thing:  a b", b"Content-Length: 1, 1"), 400),
        (GOOD.replace(b"X-Thing:  a b", b"Content-Length: 1\r\nTransfer-Encoding: chunked"), 400),
        (GOOD.replace(b"X-Thing:  a b", b"Transfer-Encoding: gzip, chunked"), 501),
        (GOOD.replace(b"X-Thing:  a b", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400),
        (GOOD.replace(b"X-Thing:  a b", b"Expect: tea"), 417),
        (GOOD.replace(b"X-Thing:  a b", b"Authorization: a\r\nAuthorization: b"), 400),
        (GOOD.replace(b"X-Thing:  a b \r\n", b"".join(b"x-%d: 1\r\n" % n for n in range(101))), 431),
        (b"GET /" + b"a" * 20_000, 414),
        (GOOD[:-2] + b"x: " + b"a" * 20_000, 431),
        (GOOD[:-4] + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"\r\n" + GOOD, 400),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(data: bytes, expected: int) -> None:
    assert status(data) == expected


def test_what_the_sdks_helpers_say_twice_is_said_once() -> None:
    """`websockets.connect(url, additional_headers=headers)` with the helpers' headers, as the SDK itself does it."""
    first = b"dGhlIHNhbXBsZSBub25jZQ=="
    twice = FIREFOX.replace(b"\r\n\r\n", b"\r\nHost: localhost:1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")  # fmt: skip
    assert twice != FIREFOX
    head = read(twice)
    assert upgrades(head)
    for name, value in (
        ("host", "localhost:1"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", first.decode()),
    ):
        assert [text for key, text in head.headers if key == name] == [value]
    other_host = twice.replace(b"\r\nHost: localhost:1\r\nUpgrade", b"\r\nHost: localhost:2\r\nUpgrade")
    assert status(other_host) == 400
    plain = GOOD.replace(b"\r\n\r\n", b"\r\nHost: example.org:8080\r\n\r\n")
    assert plain != GOOD
    assert status(plain) == 400, "only of an upgrade"


def test_lengths_and_keeping() -> None:
    assert body_length(read(GOOD)) == 0
    assert body_length(read(GOOD.replace(b"X-Thing:  a b", b"Content-Length: 12"))) == 12
    assert body_length(read(GOOD.replace(b"X-Thing:  a b", b"Transfer-Encoding: chunked"))) is None
    assert keeps(read(GOOD))
    assert not keeps(read(GOOD.replace(b"X-Thing:  a b", b"Connection: Close")))


def test_forwarded_headers_are_those_of_the_last_proxy() -> None:
    head = read(GOOD.replace(b"X-Thing:  a b", b"X-Forwarded-For: 6.6.6.6, 9.9.9.9\r\nX-Forwarded-Proto: https"))
    assert (forwarded(head).peer, forwarded(head).tls) == ("9.9.9.9", True)


@given(st.integers(0, 2**32))
def test_whatever_comes_is_a_head_or_refused(seed: int) -> None:
    dice = random.Random(seed)
    data = bytearray(dice.choice([GOOD, FIREFOX]))
    for _ in range(dice.randrange(4)):
        at = dice.randrange(len(data))
        what = dice.randrange(4)
        if what == 0:
            data[at] = dice.randrange(256)
        elif what == 1:
            del data[at : at + dice.randrange(8)]
        elif what == 2:
            data[at:at] = dice.choice([b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"Content-Length: 5\r\n", b"\xff"])
        else:
            data[at:at] = data[at : at + 40]
    reader = HeadReader(limit=2048)
    at = 0
    head = None
    try:
        while head is None and at < len(data):
            size = dice.randrange(1, 200)
            head = reader.feed(bytes(data[at : at + size]))
            at += size
    except HostError:
        return
    if head is not None:
        assert head.target.startswith("/")
        assert head.header("host")
        assert not any(ord(c) < 32 and c != "\t" for _, value in head.headers for c in value)
        assert len([1 for name, _ in head.headers if name in ("host", "content-length")]) <= 2
