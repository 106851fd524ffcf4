"""Targets, session ids and what of a request an application sees."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import pytest

from duologue.host.gateway import passing, routes
from duologue.host.headers import metadata
from duologue.host.types import Grant, HostError, Identity, Principal, RequestHead, Route
from tests.host.gateway.parts import ARN, RUNTIME, SESSION, SESSION_HEADER, TENANT

ME = Identity(
    principal=Principal(tenant=TENANT, issuer="keys", subject="me"),
    grants=(Grant(role="invoke"),),
    credential="k",
    mode="key",
)


def head(target: str, method: str = "GET", **headers: str) -> RequestHead:
    """A request."""
    return RequestHead(
        method=method, target=target, headers=tuple((k.replace("_", "-").lower(), v) for k, v in headers.items())
    )


@pytest.mark.parametrize("id", [ARN, quote(ARN, safe=""), quote(ARN, safe="/")])
def test_an_arn_encoded_or_raw(id: str) -> None:
    route = routes.find(head(f"/runtimes/{id}/ws"))
    assert route == Route(kind="ws", runtime=RUNTIME, tenant=TENANT, region="us-east-1", rest="/ws")


def test_a_bare_id_with_an_account_and_a_qualifier() -> None:
    route = routes.find(head(f"/runtimes/{RUNTIME}/invocations?qualifier=prod&accountId={TENANT}", "POST"))
    assert (route.tenant, route.qualifier, route.kind) == (TENANT, "prod", "invocations")
    assert routes.find(head(f"/runtimes/{RUNTIME}/connect", "POST")).tenant == ""


@pytest.mark.parametrize(
    ("path", "method", "kind"),
    [
        ("/stopruntimesession", "POST", "stop"),
        ("/connect", "POST", "connect"),
        ("/v1/realtime", "GET", "openai"),
        ("/v1/realtime/client_secrets", "POST", "client_secrets"),
        ("/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent", "GET", "gemini"),
        ("//ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent", "GET", ""),
        ("/ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent", "GET", "gemini"),
        ("/invocations/.well-known/oauth-protected-resource", "GET", "metadata"),
        ("/ws/", "GET", ""),
        ("/ws/shells", "GET", ""),
        ("/v1/realtime/x", "GET", ""),
    ],
)
def test_paths(path: str, method: str, kind: str) -> None:
    if kind:
        assert routes.find(head(f"/runtimes/{RUNTIME}{path}", method)).kind == kind
    else:
        with pytest.raises(HostError) as caught:
            routes.find(head(f"/runtimes/{RUNTIME}{path}", method))
        assert caught.value.status == 404


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/", "GET", 404),
        ("/runtimes//ws", "GET", 404),
        ("/runtimes/%ff/ws", "GET", 400),
        ("/runtimes/a%2f..%2fb/ws", "GET", 404),
        (f"/runtimes/{RUNTIME}/ws", "POST", 405),
        (f"/runtimes/{RUNTIME}/invocations", "GET", 405),
        (f"/runtimes/{RUNTIME}/ws?accountId=1", "GET", 400),
        (f"/runtimes/{ARN}/ws?accountId=210987654321", "GET", 400),
        (f"/runtimes/{RUNTIME}/ws?qualifier=a%20b", "GET", 400),
        (f"/runtimes/{RUNTIME}/ws?qualifier=a&qualifier=b", "GET", 400),
        (f"/runtimes/{RUNTIME}/ws?" + "&".join("a=b" for _ in range(300)), "GET", 400),
    ],
)
def test_refused_targets(target: str, method: str, status: int) -> None:
    with pytest.raises(HostError) as caught:
        routes.find(head(target, method))
    assert caught.value.status == status


# --------------------------------------------------------------------------- session ids


@pytest.mark.parametrize("length", [33, 100, 256])
def test_session_ids_that_pass(length: int) -> None:
    id = "a" * length
    assert passing.session_id(head("/x", **{SESSION_HEADER: id})) == id
    assert passing.session_id(head(f"/x?{SESSION_HEADER}={id}")) == id
    assert passing.session_id(head(f"/x?{SESSION_HEADER}={id}", **{SESSION_HEADER: id})) == id


@pytest.mark.parametrize("id", ["a" * 32, "a" * 257, "-" + "a" * 40, "a" * 40 + ".", "ä" * 40])
def test_session_ids_that_do_not(id: str) -> None:
    with pytest.raises(HostError) as caught:
        passing.session_id(head("/x", **{SESSION_HEADER: id}))
    assert caught.value.status == 400


def test_two_ids_that_differ_and_none() -> None:
    with pytest.raises(HostError, match="different"):
        passing.session_id(head(f"/x?{SESSION_HEADER}={'b' * 40}", **{SESSION_HEADER: "a" * 40}))
    assert passing.session_id(head("/x")) == ""


def test_a_credential_for_one_session() -> None:
    bound = Identity(
        principal=ME.principal, grants=ME.grants, credential="t", mode="ticket", session=SESSION, signed_session=True
    )
    assert passing.session_id(head("/x"), bound) == SESSION
    with pytest.raises(HostError) as caught:
        passing.session_id(head("/x", **{SESSION_HEADER: "a" * 40}), bound)
    assert caught.value.status == 403


# --------------------------------------------------------------------------- headers


def seen(request: RequestHead, listed: tuple[str, ...] = (), who: Identity = ME) -> dict[str, str]:
    """What the application sees."""
    return dict(passing.headers(request, listed, who, session=SESSION, request="r1"))


def test_listed_headers_arrive_and_others_do_not() -> None:
    request = head("/x", X_Mine="1", X_Other="2", X_Twilio_Signature="3", Cookie="c", Host="h", Origin="o")
    out = seen(request, ("X-Mine", "X-Twilio-*", "Cookie", "Host", "Origin"))
    assert out == {
        SESSION_HEADER.lower(): SESSION,
        "x-amzn-bedrock-agentcore-runtime-request-id": "r1",
        "x-mine": "1",
        "x-twilio-signature": "3",
    }


def test_custom_headers_in_head_and_query() -> None:
    name = "X-Amzn-Bedrock-AgentCore-Runtime-Custom-Lang"
    assert seen(head("/x", **{name: "no"}))[name.lower()] == "no"
    assert seen(head(f"/x?{name}=nb%2BNO"))[name.lower()] == "nb+NO"
    with pytest.raises(HostError):
        seen(head(f"/x?{name}=a%0d%0ab"))


def test_a_signature_or_key_is_never_shown() -> None:
    oauth = Identity(principal=ME.principal, grants=ME.grants, credential="t", mode="oauth")
    token: dict[str, Any] = {"Authorization": "Bearer abc"}
    assert "authorization" not in seen(head("/x", **token), (), oauth)
    assert seen(head("/x", **token), ("Authorization",), oauth)["authorization"] == "Bearer abc"
    assert "authorization" not in seen(head("/x", **token), ("Authorization",), ME)
    assert "x-api-key" not in seen(head("/x", X_Api_Key="k"), ("x-api-key", "x-*"))
    assert "x-amz-security-token" not in seen(head("/x", X_Amz_Security_Token="k"), ("x-*",))


def test_what_the_host_alone_says_of_a_session_no_client_can_say() -> None:
    assert metadata({}) == ()
    ((name, value),) = metadata({"who": "Zoë", "desk": [1, None]})
    assert base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).decode() == '{"who":"Zoë","desk":[1,null]}'
    assert "=" not in value
    for sent in (name, name.replace("-", "_"), name.upper()):
        request = RequestHead(method="GET", target="/x", headers=((sent.lower(), "forged"), ("x-mine", "1")))
        assert "forged" not in seen(request, (sent, "x*")).values()


@pytest.mark.parametrize(("name", "longest"), [("traceparent", 128), ("baggage", 8192), ("X-Mine", 4096)])
def test_long_values_are_refused(name: str, longest: int) -> None:
    assert name.lower() in seen(head("/x", **{name: "a" * longest}), ("X-Mine",))
    with pytest.raises(HostError) as caught:
        seen(head("/x", **{name: "a" * (longest + 1)}), ("X-Mine",))
    assert caught.value.status == 400


def test_the_query_loses_what_is_the_gateways() -> None:
    target = f"/x?model=m&qualifier=q&ticket=t&key=k&X-Amz-Signature=s&{SESSION_HEADER}={SESSION}&b=c%26d"
    assert passing.query(head(target)) == "model=m&b=c%26d"


def test_credentials_are_no_subprotocols() -> None:
    request = head(
        "/x",
        Sec_WebSocket_Protocol="base64UrlBearerAuthorization.abc, base64UrlBearerAuthorization, chat, "
        "openai-insecure-api-key.k, realtime",
    )
    assert passing.subprotocols(request) == ("chat", "realtime")
    with pytest.raises(HostError):
        passing.subprotocols(head("/x", Sec_WebSocket_Protocol="a b"))
