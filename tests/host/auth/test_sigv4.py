"""Signatures: what the stock clients make verifies, and nothing else does."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import boto3
import msgspec
import pytest
from bedrock_agentcore.runtime import AgentCoreRuntimeClient
from botocore.awsrequest import AWSResponse
from hypothesis import given
from hypothesis import strategies as st

from duologue.host.auth.sigv4 import (
    FirstSessions,
    check_scope,
    parse_authorization,
    parse_presigned,
    payload_hash,
    verify,
)
from duologue.host.types import HostError, NeedsBody, RequestHead
from duologue.wire.sigv4 import EMPTY_SHA256, canonical_query

from .helpers import ARN, NOW, REGION, SESSION, SESSION_NAME, head_of_url, presigned, refusal, signed

KEY = ("DLAK0123456789ABCDEF", "a/secret+key")
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
NAME = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz-_.~ +%:/é"), min_size=1, max_size=8)
QUERY = st.dictionaries(NAME, TEXT, max_size=5)
SEGMENT = st.text(st.sampled_from("abcXYZ019-_~:+%é "), min_size=1, max_size=12).map(lambda text: quote(text, safe=""))
PATH = st.lists(SEGMENT, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


def url_of(path: str, query: dict[str, str], *, host: str = "h.example:8443") -> str:
    encoded = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in query.items())
    return f"https://{host}{path}" + (f"?{encoded}" if encoded else "")


def good(head: RequestHead, *, payload: str = EMPTY_SHA256, secret: str = KEY[1]) -> bool:
    signature = parse_presigned(head) if "X-Amz-Signature" in head.target else parse_authorization(head)
    return verify(head, signature, secret, payload)


def changed(head: RequestHead, **fields: object) -> RequestHead:
    return msgspec.structs.replace(head, **fields)


# -- against botocore --------------------------------------------------------------------------------------------------


@given(path=PATH, query=QUERY, body=st.binary(max_size=40), value=st.text(st.sampled_from("ab  c,;="), max_size=10))
def test_what_botocore_signs_in_headers_verifies(path: str, query: dict[str, str], body: bytes, value: str) -> None:
    head = signed(KEY, url_of(path, query), method="POST", headers={"x-own": f"v{value}"}, body=body)
    payload = hashlib.sha256(body).hexdigest()
    assert good(head, payload=payload)
    assert not good(head, payload=hashlib.sha256(body + b"!").hexdigest())
    assert not good(head, payload=payload, secret="another")
    assert not good(changed(head, method="GET"), payload=payload)
    assert not good(changed(head, target=f"{head.target}{'&' if query else '?'}more=1"), payload=payload)
    assert not good(changed(head, target="/x" + head.target), payload=payload)


@given(path=PATH, query=QUERY.filter(lambda q: not any(k.lower().startswith("x-amz") for k in q)))
def test_what_botocore_presigns_verifies(path: str, query: dict[str, str]) -> None:
    head = presigned(KEY, url_of(path, query))
    assert good(head)
    assert not good(changed(head, target=head.target.replace("X-Amz-Expires=300", "X-Amz-Expires=299")))
    assert not good(changed(head, target=head.target + "&more=1"))
    assert not good(changed(head, headers=(("host", "other.example"),)))


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_two_queries_have_one_canonical_form_only_if_they_say_the_same(one: bytes, two: bytes) -> None:
    forms = [canonical_query("v=" + "".join(f"%{byte:02x}" for byte in value)) for value in (one, two)]
    assert (forms[0] == forms[1]) == (one == two)


def test_a_plus_is_not_a_space() -> None:
    assert canonical_query("a=1+2") == canonical_query("a=1%2B2") != canonical_query("a=1%202")


# -- against the SDK and boto3 -----------------------------------------------------------------------------------------


@pytest.fixture
def sdk() -> AgentCoreRuntimeClient:
    return AgentCoreRuntimeClient(REGION, session=boto3.Session(*KEY, region_name=REGION))


@pytest.fixture
def sdk_with_token() -> AgentCoreRuntimeClient:
    return AgentCoreRuntimeClient(REGION, session=boto3.Session(*KEY, "sts/token+=", region_name=REGION))


def time_of(date: str) -> float:
    return datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize("name", ["sdk", "sdk_with_token"])
@pytest.mark.parametrize("qualifier", [None, "a b+c~d"])
def test_the_sdk_s_headers_verify(name: str, qualifier: str | None, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(name)
    url, headers = client.generate_ws_connection(ARN, session_id=SESSION, endpoint_name=qualifier)
    head = head_of_url(url, headers)
    signature = parse_authorization(head)
    check_scope(signature, region=REGION, now=time_of(signature.date))
    assert verify(head, signature, KEY[1], EMPTY_SHA256)
    assert "%3A" in head.target


@pytest.mark.parametrize("name", ["sdk", "sdk_with_token"])
def test_the_sdk_s_urls_verify(name: str, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(name)
    url = client.generate_presigned_url(
        ARN, session_id=SESSION, endpoint_name="DEFAULT", custom_headers={"a b": "c+d~e%f é"}, expires=120
    )
    head = head_of_url(url)
    signature = parse_presigned(head)
    check_scope(signature, region=REGION, now=time_of(signature.date) + 120)
    assert verify(head, signature, KEY[1], EMPTY_SHA256)
    assert not verify(
        changed(head, target=head.target.replace(SESSION, SESSION[:-1] + "1")), signature, KEY[1], EMPTY_SHA256
    )


class Answer:
    def stream(self) -> list[bytes]:
        return [b"{}"]


def test_boto3_s_invocation_verifies_once_the_body_is_hashed() -> None:
    session = boto3.Session(*KEY, region_name=REGION)
    client = session.client("bedrock-agentcore", endpoint_url="https://h.example:8443")
    caught: list[RequestHead] = []
    bodies: list[bytes] = []

    def send(request: object, **_: object) -> AWSResponse:
        headers = {k: v.decode() if isinstance(v, bytes) else v for k, v in request.headers.items()}  # type: ignore[attr-defined]
        caught.append(head_of_url(request.url, headers, method=request.method))  # type: ignore[attr-defined]
        bodies.append(request.body)  # type: ignore[attr-defined]
        return AWSResponse(request.url, 200, {}, Answer())  # type: ignore[attr-defined]

    client.meta.events.register("before-send.bedrock-agentcore.*", send)
    client.stop_runtime_session(agentRuntimeArn=ARN, runtimeSessionId=SESSION, qualifier="DEFAULT")
    client.meta.events.unregister("before-send.bedrock-agentcore.*", send)
    (head,), (body,) = caught, bodies
    signature = parse_authorization(head)
    assert SESSION_NAME.lower() in signature.signed
    with pytest.raises(NeedsBody):
        payload_hash(head, signature, None, unsigned_allowed=False)
    payload = payload_hash(head, signature, hashlib.sha256(body).hexdigest(), unsigned_allowed=False)
    assert verify(head, signature, KEY[1], payload)


# -- scope and time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"service": "bedrock"}, "correct service"),
        ({"region": "eu-west-1"}, "valid region"),
        ({"now": NOW - 301}, "expired"),
        ({"now": NOW + 301}, "not yet current"),
    ],
)
@pytest.mark.parametrize("make", [signed, presigned])
def test_signatures_for_elsewhere_or_another_time_are_refused(
    make: object, change: dict[str, object], text: str
) -> None:
    head = make(KEY, **change)  # type: ignore[operator]
    signature = parse_presigned(head) if make is presigned else parse_authorization(head)
    with pytest.raises(HostError, match=text) as error:
        check_scope(signature, region=REGION, now=NOW)
    assert refusal(error) == (403, "InvalidSignatureException")


@pytest.mark.parametrize("off", [-300, -1, 0, 1, 300])
def test_a_clock_may_be_off_by_five_minutes(off: int) -> None:
    check_scope(parse_authorization(signed(KEY, now=NOW + off)), region=REGION, now=NOW)


@pytest.mark.parametrize("expires", [1, 300])
def test_a_url_is_good_until_it_expires(expires: int) -> None:
    signature = parse_presigned(presigned(KEY, expires=expires))
    check_scope(signature, region=REGION, now=NOW + expires)
    with pytest.raises(HostError, match="expired"):
        check_scope(signature, region=REGION, now=NOW + expires + 0.5)


@pytest.mark.parametrize("expires", [0, 301, -1, 10**12])
def test_expiries_outside_the_bounds_are_refused(expires: int) -> None:
    with pytest.raises(HostError, match="between 1 and 300") as error:
        parse_presigned(presigned(KEY, expires=expires))
    assert refusal(error) == (403, "InvalidSignatureException")


def test_the_day_of_the_scope_is_that_of_the_date() -> None:
    signature = parse_authorization(signed(KEY))
    other = msgspec.structs.replace(signature, scope=msgspec.structs.replace(signature.scope, date="20200101"))
    with pytest.raises(HostError, match="does not match YYYYMMDD"):
        check_scope(other, region=REGION, now=NOW)


# -- parts that do not fit ---------------------------------------------------------------------------------------------


def authorization(head: RequestHead) -> str:
    return head.header("authorization")


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        (r"SignedHeaders=[^,]*", "SignedHeaders=x-amz-date"),
        (r"SignedHeaders=[^,]*", "SignedHeaders=host;host"),
        (r"SignedHeaders=[^,]*", "SignedHeaders=Host"),
        (r"SignedHeaders=[^,]*, ", ""),
        (r"Signature=.*", "Signature=00"),
        (r"Signature=(.*)", r"Signature=\1, Signature=\1"),
        (r"Credential=[^,]*", "Credential=AK"),
        (r"Credential=[^,]*", "Credential=/20270115/us-west-2/bedrock-agentcore/aws4_request"),
        (r"Credential=([^,]*)/aws4_request", r"Credential=\1/aws4"),
        (r"^AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"),
        (r"$", ", Extra=1"),
    ],
)
def test_a_header_that_is_not_whole_is_refused(pattern: str, instead: str) -> None:
    head = signed(KEY)
    bad = re.sub(pattern, instead, authorization(head), count=1)
    headers = tuple((k, bad if k == "authorization" else v) for k, v in head.headers)
    with pytest.raises(HostError) as error:
        parse_authorization(changed(head, headers=headers))
    assert refusal(error) == (403, "IncompleteSignatureException")


@pytest.mark.parametrize("name", ["authorization", "x-amz-date"])
def test_a_header_sent_twice_is_refused(name: str) -> None:
    head = signed(KEY)
    with pytest.raises(HostError, match="more than once") as error:
        parse_authorization(changed(head, headers=(*head.headers, (name, head.header(name)))))
    assert refusal(error) == (400, "ValidationException")


@pytest.mark.parametrize(
    "extra", ["X-Amz-Signature=00", "x-amz-expires=1", "X-Amz-Date=20200101T000000Z", "x%2Damz-credential=a"]
)
def test_a_query_that_says_it_twice_is_refused(extra: str) -> None:
    head = presigned(KEY)
    with pytest.raises(HostError, match="exactly once") as error:
        parse_presigned(changed(head, target=f"{head.target}&{extra}"))
    assert refusal(error) == (403, "IncompleteSignatureException")


def test_a_signed_header_that_is_not_there_does_not_verify() -> None:
    head = signed(KEY, headers={"x-own": ""})
    assert good(head)
    assert not good(changed(head, headers=tuple(pair for pair in head.headers if pair[0] != "x-own")))


def test_the_host_verifies_with_and_without_its_port_and_not_with_another() -> None:
    for head in (signed(KEY, "https://h.example:8443/a"), presigned(KEY, "https://h.example:8443/a")):
        assert urlsplit("//" + head.header("host")).port == 8443
        assert good(head)
        other = tuple((k, "h.example:9" if k == "host" else v) for k, v in head.headers)
        assert good(changed(head, headers=other)) == ("X-Amz-Signature" in head.target)


# -- payloads ----------------------------------------------------------------------------------------------------------


def test_the_declared_hash_must_be_the_body_s() -> None:
    digest = hashlib.sha256(b"body").hexdigest()
    head = signed(KEY, method="POST", headers={"x-amz-content-sha256": digest}, body=b"body")
    signature = parse_authorization(head)
    assert payload_hash(head, signature, None, unsigned_allowed=False) == digest
    assert payload_hash(head, signature, digest, unsigned_allowed=False) == digest
    with pytest.raises(HostError, match="does not match what was computed"):
        payload_hash(head, signature, hashlib.sha256(b"other").hexdigest(), unsigned_allowed=False)


@pytest.mark.parametrize("declared", ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "abc", "A" * 64, "UNSIGNED-PAYLOAD"])
def test_other_declarations_are_refused(declared: str) -> None:
    head = signed(KEY, method="POST", headers={"x-amz-content-sha256": declared}, body=b"body")
    with pytest.raises(HostError) as error:
        payload_hash(head, parse_authorization(head), None, unsigned_allowed=False)
    assert refusal(error) == (403, "InvalidSignatureException")


def test_a_hash_is_not_declared_for_a_body_that_is_not_there() -> None:
    head = signed(KEY, headers={"x-amz-content-sha256": hashlib.sha256(b"x").hexdigest()})
    with pytest.raises(HostError):
        payload_hash(head, parse_authorization(head), None, unsigned_allowed=False)


def test_an_unsigned_payload_is_taken_where_it_is_allowed() -> None:
    head = signed(KEY, method="POST", headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}, body=b"body")
    payload = payload_hash(head, parse_authorization(head), None, unsigned_allowed=True)
    assert good(head, payload=payload)


# -- first sessions ----------------------------------------------------------------------------------------------------


def test_a_signature_is_tied_to_its_first_session() -> None:
    first = FirstSessions()
    assert first.admit("sig", "a", until=10, now=0)
    assert first.admit("sig", "a", until=10, now=1)
    assert not first.admit("sig", "b", until=10, now=2)
    assert first.admit("sig", "b", until=20, now=11)


def test_more_sessions_may_be_allowed() -> None:
    first = FirstSessions(sessions=2)
    assert [first.admit("sig", name, until=10, now=0) for name in "abcb"] == [True, True, False, True]


def test_of_too_many_signatures_the_oldest_is_forgotten_and_counted() -> None:
    first = FirstSessions(2)
    for signature in "abc":
        assert first.admit(signature, "one", until=10, now=0)
    assert first.forgotten == 1
    assert not first.admit("b", "two", until=10, now=1)
    assert first.admit("a", "two", until=10, now=1)  # nothing is known of it any more
    assert first.forgotten == 2
    assert first.admit("d", "one", until=20, now=11)  # the others are over: that they go is no loss
    assert (first.forgotten, len(first._seen)) == (2, 1)


STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 5)), max_size=60)


@given(STEPS)
def test_no_signature_wanders_while_it_is_good(steps: list[tuple[int, int, int]]) -> None:
    first, now, ties = FirstSessions(), 0.0, dict[int, tuple[float, int]]()
    for signature, session, passed in steps:
        now += passed
        until, tied = ties.get(signature, (-1.0, session))
        admitted = first.admit(str(signature), str(session), until=until if until >= now else now + 10, now=now)
        if until >= now:
            assert admitted == (tied == session)
        else:
            assert admitted
            ties[signature] = (now + 10, session)
    assert first.forgotten == 0


@given(STEPS)
def test_the_memory_of_signatures_is_bounded(steps: list[tuple[int, int, int]]) -> None:
    first, now = FirstSessions(size=4), 0.0
    for signature, session, passed in steps:
        now += passed
        first.admit(str(signature), str(session), until=now + 10, now=now)
        assert len(first._seen) <= 4
