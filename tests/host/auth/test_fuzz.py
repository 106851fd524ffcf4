"""Every parser that an unknown caller reaches: whatever is sent ends in a credential or a typed refusal."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.host.auth import SENTINEL, USER_HEADER, app_subprotocols, redacted
from duologue.host.auth.credentials import decode_base64url, find, subprotocol_token
from duologue.host.auth.oauth import parse_header
from duologue.host.auth.origin import normalised, origin_of
from duologue.host.auth.sigv4 import (
    check_scope,
    parse_authorization,
    parse_presigned,
    payload_hash,
    session_of,
    verify,
)
from duologue.host.types import HostError, Kind, NeedsBody, RequestHead

from .helpers import NOW, REGION, RUNTIME, SESSION, SESSION_NAME, World, head, presigned, route, signed

KEY = ("DLAK0123456789ABCDEF", "secret")
PATH = f"/runtimes/{RUNTIME}/ws"
#: what a head reader lets through: latin-1 without control characters
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=80)
ASCII = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60)
NAMES = st.sampled_from(
    [
        *("authorization", "x-amz-date", "x-api-key", "x-goog-api-key", "sec-websocket-protocol", "origin", "host"),
        *(SESSION_NAME.lower(), USER_HEADER, "x-amz-content-sha256", "content-length"),
    ]
)
KINDS: st.SearchStrategy[Kind] = st.sampled_from(["invocations", "ws", "stop", "connect", "openai", "gemini"])
GOOD_HEADER, GOOD_QUERY = signed(KEY), presigned(KEY)


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """`text` with a few of its characters changed, dropped, doubled or cut off: most of it still parses."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(text) - 1, 0)))
        piece = draw(
            st.sampled_from(["", "=", ",", "&", ";", "/", "%", "%2", ".", "0", "A", " ", "\xff", text[at : at + 9] * 2])
        )
        text = text[:at] + piece + text[at + draw(st.integers(0, 2)) :]
    return text


def tried[T](parse: Callable[[], T]) -> tuple[T | None, HostError | None]:
    """What a parser gave, or how it refused; nothing else may come of it."""
    try:
        return parse(), None
    except HostError as error:
        return None, error


def judge(sent: RequestHead) -> bool:
    """Whether a signature verifies; refusals are typed."""

    def judged() -> bool:
        signature = parse_presigned(sent) if "X-Amz-Signature" in sent.target else parse_authorization(sent)
        check_scope(signature, region=REGION, now=NOW)
        try:
            payload = payload_hash(sent, signature, None, unsigned_allowed=False)
        except NeedsBody:
            return False
        # the id is not signed: it chooses the secret
        return signature.access_id == KEY[0] and verify(sent, signature, KEY[1], payload)

    good, error = tried(judged)
    assert error is None or (error.status in (400, 403) and error.type)
    return bool(good)


@given(mutated(GOOD_HEADER.header("authorization")), mutated(GOOD_HEADER.header("x-amz-date")))
def test_no_mutation_of_a_signed_header_verifies(authorization: str, date: str) -> None:
    def with_(name: str, value: str) -> RequestHead:
        headers = tuple((k, value if k == name else v) for k, v in GOOD_HEADER.headers)
        return msgspec.structs.replace(GOOD_HEADER, headers=headers)

    same = "".join(authorization.split()) == "".join(GOOD_HEADER.header("authorization").split())
    assert not judge(with_("authorization", authorization)) or same
    assert not judge(with_("x-amz-date", date)) or date == GOOD_HEADER.header("x-amz-date")


@pytest.mark.parametrize("space", ["\xa0", "\x85", ""])
def test_only_spaces_and_tabs_are_white_space_in_a_signed_header(space: str) -> None:
    sent = signed(KEY, headers={"x-thing": "a b"})

    def with_(value: str) -> RequestHead:
        return msgspec.structs.replace(
            sent, headers=tuple((k, value if k == "x-thing" else v) for k, v in sent.headers)
        )

    assert judge(with_(" a \t b "))
    assert not judge(with_(f"a{space}b"))


@given(mutated(GOOD_QUERY.target))
def test_no_mutation_of_a_presigned_url_verifies_unless_it_says_the_same(target: str) -> None:
    if not target.isascii():
        return  # refused before any parser
    if judge(msgspec.structs.replace(GOOD_QUERY, target=target)):
        # an empty query part, another order or another spelling of the same bytes changes nothing that is signed
        assert sorted(filter(None, target.partition("?")[2].split("&"))) == sorted(
            GOOD_QUERY.target.partition("?")[2].split("&")
        )


@given(st.lists(st.tuples(NAMES, VALUE), max_size=6), ASCII, KINDS)
def test_any_head_ends_in_a_credential_or_a_refusal(headers: list[tuple[str, str]], query: str, kind: Kind) -> None:
    sent = head(f"{PATH}?{query}", headers)
    for parse in (lambda: find(sent, kind), lambda: session_of(sent), lambda: origin_of(sent), lambda: judge(sent)):
        _, error = tried(parse)
        assert error is None or error.status in (400, 403)
    assert isinstance(redacted(sent.target), str)
    assert not any(SENTINEL in offer for offer in app_subprotocols(sent))


WORLD = World()


@pytest.mark.anyio
@given(
    st.lists(st.tuples(NAMES, VALUE | st.sampled_from(["Bearer a.b.c", "Bearer dlk_x", "null", SESSION])), max_size=4),
    st.sampled_from(["", "ticket=x", "key=y", "X-Amz-Signature=0", f"{SESSION_NAME}=z"]) | ASCII,
    KINDS,
)
async def test_nobody_unknown_is_let_in(headers: list[tuple[str, str]], query: str, kind: Kind) -> None:
    with pytest.raises((HostError, NeedsBody)) as error:
        await WORLD.authority.authenticate(head(f"{PATH}?{query}", headers), route(kind))
    if isinstance(error.value, HostError):
        assert error.value.status in (400, 401, 403)


# -- tokens ------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
HEADER = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), JSON | ASCII, max_size=5)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@given(HEADER, JSON, st.binary(max_size=20))
def test_any_compact_form_is_read_or_refused(header: dict[str, object], claims: object, signature: bytes) -> None:
    text = ".".join((b64(json.dumps(header).encode()), b64(json.dumps(claims).encode()), b64(signature)))
    found, error = tried(lambda: parse_header(text))
    if found is None:
        assert error is not None
        assert (error.status, error.message) == (403, "OAuth authorization failed: Failed to parse token")
        return
    assert found.alg == header["alg"]
    assert found.kid == header.get("kid", "")
    assert isinstance(claims, dict)
    assert not {"crit", "b64"} & set(header)


@given(st.text(max_size=60) | ASCII | mutated("eyJhbGciOiJSUzI1NiJ9.e30.AAAA"))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    found, error = tried(lambda: parse_header(text))
    assert (found is None) == (error is not None and error.status == 403)


def test_deep_or_long_tokens_are_refused() -> None:
    for part in (b"[" * 3000, b'{"alg":' * 800, b'{"a":"' + b"x" * 5000 + b'"}', b'{"alg":"RS256","alg":5}', b"\xff"):
        with pytest.raises(HostError):
            parse_header(f"{b64(part)}.e30.AAAA")
    with pytest.raises(HostError):
        parse_header("eyJhbGciOiJSUzI1NiJ9." + "A" * 9000 + ".AAAA")


@given(st.binary(max_size=40))
def test_base64url_is_read_back_and_one_text_alone_means_it(data: bytes) -> None:
    text = b64(data)
    assert decode_base64url(text) == (data or None)
    assert decode_base64url(text + "=") is None
    if len(text) % 4:
        last = "AQgw"
        spellings = [text[:-1] + other for other in last if other != text[-1]]
        assert data not in [decode_base64url(spelling) for spelling in spellings]


@given(
    st.lists(
        st.sampled_from([SENTINEL, f"{SENTINEL}.YWJj", f"{SENTINEL}.", "chat", "", " ", f"{SENTINEL}.é"]), max_size=5
    )
)
def test_any_offer_is_a_token_or_none_or_refused(offered: list[str]) -> None:
    sent = head(PATH, [("sec-websocket-protocol", ",".join(offered))])
    found, error = tried(lambda: subprotocol_token(sent))
    if error is not None:
        assert error.status == 400
        return
    tokens = offered.count(f"{SENTINEL}.YWJj")
    assert (found.reveal() if found else None) == ("abc" if tokens else None)
    assert tokens <= 1
    assert not tokens or SENTINEL in offered


@given(st.text(max_size=40) | mutated("https://app.example:8443"))
def test_any_origin_is_normalised_or_none(text: str) -> None:
    found = normalised(text)
    assert normalised(found) == found
