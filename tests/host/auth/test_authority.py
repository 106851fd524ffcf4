"""The authority as the gateway meets it: every kind of credential, and everybody else's."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from duologue.errors import StoreError
from duologue.host.auth import HOST_TENANT, SENTINEL, AuthOptions, redacted
from duologue.host.auth.client_secrets import ClientSecrets
from duologue.host.types import Authority, Grant, HostError, NeedsBody, Principal, RequestHead
from duologue.store import SQLiteStore

from .helpers import (
    NOW,
    OTHER,
    REGION,
    RUNTIME,
    SESSION,
    SESSION_NAME,
    TENANT,
    Provider,
    World,
    ec,
    head,
    presigned,
    refusal,
    route,
    rsa,
    signed,
    token,
)

pytestmark = pytest.mark.anyio

RSA = rsa("one")
USER = "X-Amzn-Bedrock-AgentCore-Runtime-User-Id"
ORIGIN = "https://app.example"
PATH = f"/runtimes/{RUNTIME}/ws"


def bearer(text: str, **more: str) -> RequestHead:
    return head(PATH, {"authorization": f"Bearer {text}", **more})


def offered(text: str, *more: str) -> RequestHead:
    encoded = base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
    return head(PATH, {"sec-websocket-protocol": ", ".join((f"{SENTINEL}.{encoded}", *more))})


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def oauth() -> AsyncIterator[tuple[World, Provider]]:
    async with Provider().running() as provider:
        provider.publish(RSA)
        made = World(fetcher=provider.fetcher())
        config = {"discoveryUrl": provider.discovery, "allowedAudience": ["agents"]}
        made.spec = msgspec.structs.replace(made.spec, auth={"customJWTAuthorizer": config})
        yield made, provider
        await made.authority.aclose()


async def refused(world: World, sent: RequestHead, **options: Any) -> HostError:
    with pytest.raises(HostError) as error:
        await world.authority.authenticate(sent, options.pop("to", route()), **options)
    return error.value


def test_it_is_an_authority(world: World) -> None:
    authority: Authority = world.authority
    assert authority is world.authority


# -- signatures and keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [signed, presigned])
async def test_a_signature_tells_who_sends(world: World, make: Any) -> None:
    credentials = world.access(subject="robot", grants=(Grant(role="invoke"), Grant(role="observe", runtime=RUNTIME)))
    found = await world.authority.authenticate(make(credentials), route())
    assert found.principal == Principal(tenant=TENANT, issuer="keys", subject="robot")
    assert found.mode == ("sigv4" if make is signed else "presigned")
    assert found.credential == f"access:{credentials[0]}"
    world.authority.authorise(found, "observe", TENANT, RUNTIME)
    with pytest.raises(HostError, match="not authorized to perform"):
        world.authority.authorise(found, "observe", TENANT, "other-abcdefghij")


async def test_two_credentials_of_a_subject_are_one_principal(world: World) -> None:
    by_signature = await world.authority.authenticate(signed(world.access(subject="robot")), route())
    by_key = await world.authority.authenticate(bearer(world.api(subject="robot")), route())
    assert by_signature.principal == by_key.principal


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
async def test_an_api_key_tells_who_sends(world: World, name: str) -> None:
    key = world.api()
    found = await world.authority.authenticate(
        head(PATH, {name: f"Bearer {key}" if name == "authorization" else key}), route()
    )
    assert (found.mode, found.principal.tenant) == ("key", TENANT)


async def test_keys_come_as_other_wires_clients_send_them(world: World) -> None:
    key = world.api()
    sent = {
        "gemini": [head(f"{PATH}?key={key}"), head(PATH, {"x-goog-api-key": key}), bearer(key)],
        "openai": [
            head(PATH, {"sec-websocket-protocol": f"realtime, openai-insecure-api-key.{key}, openai-beta.realtime-v1"})
        ],
    }
    for kind, heads in sent.items():
        for one in heads:
            assert (await world.authority.authenticate(one, route(kind))).mode == "key"
            if "authorization" not in dict(one.headers):
                assert (await refused(world, one)).status == 401


async def test_an_unknown_revoked_or_foreign_key_is_refused(world: World) -> None:
    id, secret = world.access()
    error = await refused(world, signed(("DLAKAAAAAAAAAAAAAAAA", secret)))
    assert (error.status, error.type) == (403, "UnrecognizedClientException")
    error = await refused(world, signed((id, "wrong")))
    assert (error.status, error.type) == (403, "InvalidSignatureException")
    world.authority.keys.revoke(TENANT, id)
    assert (await refused(world, signed((id, secret)))).type == "UnrecognizedClientException"
    assert (await refused(world, bearer("dlk_" + "a" * 16 + "_" + "b" * 43))).status == 401


@pytest.mark.parametrize("kind", ["access", "api"])
async def test_another_tenant_s_key_opens_nothing_and_learns_nothing(world: World, kind: str) -> None:
    sent = signed(world.access(OTHER)) if kind == "access" else bearer(world.api(OTHER))
    for runtime in (RUNTIME, "unknown-abcdefghij"):
        error = await refused(world, sent, to=route(runtime=runtime))
        assert (error.status, error.type) == (403, "AccessDeniedException")
    # without an account in the path it is the key's own: and there is no such runtime
    assert (await refused(world, sent, to=route(tenant=""))).status == 404
    world.audit.flush()
    assert [e.reason for e in world.audit.entries(OTHER)][-2:] == ["AccessDeniedException"] * 2


async def test_roles_are_not_ordered_and_denials_are_audited(world: World) -> None:
    found = await world.authority.authenticate(bearer(world.api(grants=(Grant(role="admin"),))), route())
    for role in ("invoke", "observe", "deploy"):
        with pytest.raises(HostError) as error:
            world.authority.authorise(found, role, TENANT, RUNTIME)  # type: ignore[arg-type]
        assert refusal(error) == (403, "AccessDeniedException")
    world.authority.authorise(found, "admin", TENANT, "*")
    with pytest.raises(HostError):
        world.authority.authorise(found, "admin", OTHER, "*")
    world.audit.flush()
    denials = [entry for entry in world.audit.entries(TENANT) if entry.outcome == "denied"]
    assert [(e.action, e.reason, e.actor) for e in denials] == [
        ("authorise", reason, found.principal.id) for reason in ("invoke", "observe", "deploy", "admin")
    ]


async def test_a_body_without_a_declared_hash_is_asked_for(world: World) -> None:
    sent = signed(world.access(), method="POST", body=b'{"prompt": "hi"}')
    with pytest.raises(NeedsBody):
        await world.authority.authenticate(sent, route("invocations"))
    good = hashlib.sha256(b'{"prompt": "hi"}').hexdigest()
    assert await world.authority.authenticate(sent, route("invocations"), body_sha256=good)
    bad = hashlib.sha256(b'{"prompt": "ho"}').hexdigest()
    assert (await refused(world, sent, to=route("invocations"), body_sha256=bad)).type == "InvalidSignatureException"


async def test_an_unsigned_payload_needs_the_option_and_tls(world: World) -> None:
    credentials = world.access()
    sent = signed(credentials, method="POST", headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}, body=b"x")
    assert (await refused(world, sent)).type == "InvalidSignatureException"
    world.options = msgspec.structs.replace(world.options, unsigned_payload=True)
    world.authority = world.another()
    assert await world.authority.authenticate(sent, route())
    assert (await refused(world, msgspec.structs.replace(sent, tls=False))).type == "InvalidSignatureException"


# -- sessions and users ------------------------------------------------------------------------------------------------


async def test_a_replayed_signature_stays_with_its_first_session(world: World) -> None:
    sent = signed(world.access(), unsigned={SESSION_NAME: SESSION})
    found = await world.authority.authenticate(sent, route())
    assert (found.session, found.signed_session) == ("", False)
    assert await world.authority.authenticate(sent, route())
    other = tuple((k, SESSION + "x" if k == SESSION_NAME.lower() else v) for k, v in sent.headers)
    error = await refused(world, msgspec.structs.replace(sent, headers=other))
    assert (error.status, error.type) == (403, "InvalidSignatureException")
    none = tuple(pair for pair in sent.headers if pair[0] != SESSION_NAME.lower())
    assert (await refused(world, msgspec.structs.replace(sent, headers=none))).status == 403


async def test_a_signed_session_is_the_only_one(world: World) -> None:
    credentials = world.access()
    in_header = signed(credentials, headers={SESSION_NAME: SESSION})
    in_query = presigned(credentials, f"https://h.example{PATH}?{SESSION_NAME}={SESSION}")
    for sent in (in_header, in_query):
        found = await world.authority.authenticate(sent, route())
        assert (found.session, found.signed_session) == (SESSION, True)
        changed = msgspec.structs.replace(
            sent,
            target=sent.target.replace(SESSION, SESSION + "x"),
            headers=tuple((k, v.replace(SESSION, SESSION + "x")) for k, v in sent.headers),
        )
        assert (await refused(world, changed)).type == "InvalidSignatureException"


async def test_a_signed_session_may_be_demanded(world: World) -> None:
    world.options = msgspec.structs.replace(world.options, require_signed_session=True)
    world.authority = world.another()
    credentials = world.access()
    assert await world.authority.authenticate(signed(credentials, headers={SESSION_NAME: SESSION}), route())
    assert await world.authority.authenticate(signed(credentials), route())
    error = await refused(world, signed(credentials, unsigned={SESSION_NAME: SESSION}))
    assert "must cover the session id" in error.message


async def test_two_session_ids_are_one_too_many(world: World) -> None:
    sent = head(f"{PATH}?{SESSION_NAME}={SESSION}x", {"x-api-key": world.api(), SESSION_NAME: SESSION})
    error = await refused(world, sent)
    assert (error.status, error.type) == (400, "ValidationException")
    same = head(f"{PATH}?{SESSION_NAME}={SESSION}", {"x-api-key": world.api(), SESSION_NAME: SESSION})
    assert await world.authority.authenticate(same, route())


async def test_only_trusted_keys_act_for_users(world: World) -> None:
    trusted = world.access(for_users=True, subject="backend")
    found = await world.authority.authenticate(signed(trusted, headers={USER: "alice"}), route())
    assert found.principal.user == "alice"
    assert found.principal.id.endswith("/backend/alice")
    assert (await refused(world, signed(world.access(), headers={USER: "alice"}))).status == 403
    # who replays the request must not choose the user
    error = await refused(world, signed(trusted, unsigned={USER: "alice"}))
    assert error.type == "IncompleteSignatureException"
    assert (await refused(world, signed(trusted, headers={USER: "a" * 1025}))).status == 400
    api = world.api(for_users=True)
    assert (await world.authority.authenticate(bearer(api, **{USER: "bob"}), route())).principal.user == "bob"


def test_no_two_principals_share_an_id() -> None:
    parts = ["a", "a/b", "b", "a%2Fb", "", "https://x", "https://x/a"]
    made = [Principal(tenant="t", issuer=i, subject=s, user=u) for i in parts for s in parts for u in parts]
    assert len({one.id for one in made}) == len(made)


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_a_token_tells_who_sends(oauth: tuple[World, Provider]) -> None:
    world, provider = oauth
    text = token(RSA, provider.issuer, scope="talk")
    for sent, answer in (
        (bearer(text), ""),
        (offered(text, SENTINEL), SENTINEL),
        (offered(text, SENTINEL, "x"), SENTINEL),
    ):
        found = await world.authority.authenticate(sent, route())
        assert found.principal == Principal(tenant=TENANT, issuer=provider.issuer, subject="alice")
        assert (found.mode, found.subprotocol, found.scopes, found.expires) == ("oauth", answer, ("talk",), NOW + 3630)
        world.authority.authorise(found, "invoke", TENANT, RUNTIME)
        with pytest.raises(HostError):
            world.authority.authorise(found, "invoke", TENANT, "other-abcdefghij")
        assert text not in repr(found)
    assert (await refused(world, bearer(text, **{USER: "root"}))).status == 403


async def test_refusals_of_tokens_are_the_observed_ones(oauth: tuple[World, Provider]) -> None:
    world, provider = oauth
    error = await refused(world, head(PATH))
    challenge = dict(error.headers)["www-authenticate"]
    assert error.status == 401
    assert error.body == {"jsonrpc": "2.0", "error": {"code": -32001, "message": "Missing Authentication Token"}}
    metadata = (
        f"https://h.example/runtimes/{RUNTIME}/invocations/.well-known/oauth-protected-resource?qualifier=DEFAULT"
    )
    assert challenge == f'Bearer resource_metadata="{metadata}"'
    error = await refused(world, bearer("garbage"))
    assert (error.status, error.message) == (403, "OAuth authorization failed: Failed to parse token")
    error = await refused(world, bearer(token(RSA, provider.issuer, aud="others")))
    assert (error.status, error.message) == (401, "Claim 'aud' value mismatch with configuration.")
    assert 'error="invalid_token"' in dict(error.headers)["www-authenticate"]


async def test_the_metadata_says_who_issues_tokens(oauth: tuple[World, Provider]) -> None:
    world, provider = oauth
    target = f"/runtimes/{RUNTIME}/invocations/.well-known/oauth-protected-resource?qualifier=DEFAULT"
    found = await world.authority.protected_resource(head(target), route("metadata"))
    assert found == {
        "authorization_servers": [provider.issuer],
        "resource": f"https://h.example/runtimes/{RUNTIME}/invocations",
    }
    world.spec = msgspec.structs.replace(world.spec, auth={})
    with pytest.raises(HostError) as error:
        await world.authority.protected_resource(head(target), route("metadata"))
    assert refusal(error) == (404, "ResourceNotFoundException")


@pytest.mark.parametrize("host", ['h" x="', "h.example/x", "", "h\nx", "a" * 300])
async def test_a_strange_host_does_not_get_into_a_challenge(world: World, host: str) -> None:
    error = await refused(world, head(PATH, (("host", host),)))
    assert dict(error.headers)["www-authenticate"] == "Bearer"


async def test_several_modes_on_one_endpoint_or_one(oauth: tuple[World, Provider]) -> None:
    world, provider = oauth
    assert await world.authority.authenticate(signed(world.access()), route())
    assert await world.authority.authenticate(bearer(world.api()), route())
    world.options = msgspec.structs.replace(world.options, exclusive_modes=True)
    world.authority = world.another(provider.fetcher())
    for sent in (signed(world.access()), presigned(world.access()), bearer(world.api())):
        error = await refused(world, sent)
        assert error.status == 403
        assert error.message.startswith("Authorization method mismatch")
    assert await world.authority.authenticate(bearer(token(RSA, provider.issuer)), route())
    world.spec = msgspec.structs.replace(world.spec, auth={})
    for sent in (bearer(token(RSA, provider.issuer)), bearer("a-key-cut-short")):
        error = await refused(world, sent)
        assert error.message.startswith("Authorization method mismatch")
        assert "API key: they begin with dlk_" in str(error)
    await world.authority.aclose()


@pytest.mark.parametrize(
    ("offer", "text"),
    [
        (f"{SENTINEL}.YWJj", "needs base64UrlBearerAuthorization"),
        (f"{SENTINEL}.YWJj, {SENTINEL}.YWJj, {SENTINEL}", "two tokens"),
        (f"{SENTINEL}.YWJj=, {SENTINEL}", "no base64url"),
        (f"{SENTINEL}.Y+/j, {SENTINEL}", "no base64url"),
        (f"{SENTINEL}.YWJ, {SENTINEL}", "no base64url"),
        (f"{SENTINEL}., {SENTINEL}", "no base64url"),
        (f"{SENTINEL}.{'A' * 4097}, {SENTINEL}", "longer than 4096"),
    ],
)
async def test_subprotocols_that_hold_no_token_are_refused(world: World, offer: str, text: str) -> None:
    error = await refused(world, head(PATH, {"sec-websocket-protocol": offer}))
    assert (error.status, error.type) == (400, "ValidationException")
    assert text in error.message


async def test_the_sentinel_alone_is_no_credential(world: World) -> None:
    assert (await refused(world, head(PATH, {"sec-websocket-protocol": SENTINEL}))).status == 401


async def test_two_credentials_are_one_too_many(world: World) -> None:
    credentials, key = world.access(), world.api()
    mixed = [
        msgspec.structs.replace(signed(credentials), headers=(*signed(credentials).headers, ("x-api-key", key))),
        msgspec.structs.replace(presigned(credentials), headers=bearer(key).headers),
        head(f"{PATH}?ticket=x", {"x-api-key": key}),
    ]
    for sent in mixed:
        assert (await refused(world, sent)).status == 400


async def test_other_schemes_are_refused(world: World) -> None:
    assert (await refused(world, head(PATH, {"authorization": "Basic YTpi"}))).status == 403


# -- refresh -----------------------------------------------------------------------------------------------------------


async def test_a_refreshed_token_keeps_who_it_is_and_widens_nothing(oauth: tuple[World, Provider]) -> None:
    world, provider = oauth
    first = await world.authority.authenticate(
        bearer(token(RSA, provider.issuer, scope="talk listen"), **{SESSION_NAME: SESSION}), route()
    )
    world.clock.now += 3000
    newer = token(RSA, provider.issuer, now=world.clock.now, scope="talk admin")
    found = await world.authority.refresh(first, newer)
    assert (found.principal, found.scopes, found.expires) == (first.principal, ("talk",), world.clock.now + 3630)
    assert found.credential != first.credential
    again = await world.authority.refresh(found, token(RSA, provider.issuer, now=world.clock.now, scope="talk listen"))
    assert again.scopes == ("talk",)
    with pytest.raises(HostError) as error:
        await world.authority.refresh(first, token(RSA, provider.issuer, now=world.clock.now, sub="mallory"))
    assert refusal(error) == (403, "AccessDeniedException")
    for bad in (token(RSA, provider.issuer, now=NOW - 9999), token(ec("one"), provider.issuer, alg="ES256")):
        with pytest.raises(HostError) as error:
            await world.authority.refresh(first, bad)
        assert refusal(error) == (401, "UnauthorizedException")


async def test_a_key_is_refreshed_by_a_key_of_the_same_subject(world: World) -> None:
    grants = (Grant(role="invoke"), Grant(role="observe"))
    first = await world.authority.authenticate(bearer(world.api(subject="robot", grants=grants)), route())
    found = await world.authority.refresh(first, world.api(subject="robot", expires=NOW + 60))
    assert (found.grants, found.expires) == ((Grant(role="invoke"),), NOW + 60)
    with pytest.raises(HostError) as error:
        await world.authority.refresh(first, world.api(subject="other"))
    assert refusal(error) == (403, "AccessDeniedException")
    with pytest.raises(HostError) as error:
        await world.authority.refresh(first, world.api(OTHER, subject="robot"))
    assert refusal(error) == (403, "AccessDeniedException")


# -- origins and tickets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [ORIGIN, "https://APP.example", "https://app.example:443"])
async def test_listed_origins_may_connect(world: World, origin: str) -> None:
    assert await world.authority.authenticate(bearer(world.api(), origin=origin), route())


@pytest.mark.parametrize(
    "origin",
    [
        *("null", "", "https://evil.example", "http://app.example", "https://app.example:8443", "app.example"),
        *("https://app.example.evil.example", "https://app.example@evil.example", "https://app.example/x"),
        *("https://[", "https://app.example:x"),
    ],
)
async def test_other_origins_may_not(world: World, origin: str) -> None:
    error = await refused(world, bearer(world.api(), origin=origin))
    assert (error.status, error.type) == (403, "AccessDeniedException")
    world.spec = msgspec.structs.replace(world.spec, origins=("*", "null"))
    if origin in ("null", ""):
        assert (await refused(world, bearer(world.api(), origin=origin))).status == 403


async def ticket(world: World, *, origin: str = ORIGIN, key: str = "") -> str:
    found = await world.authority.authenticate(bearer(key or world.api(subject="page")), route("connect"))
    return await world.authority.ticket(
        found, tenant=TENANT, runtime=RUNTIME, qualifier="DEFAULT", session=SESSION, origin=origin
    )


def shown(text: str, *, origin: str = ORIGIN, session: str = "") -> RequestHead:
    query = f"ticket={text}" + (f"&{SESSION_NAME}={session}" if session else "")
    return head(f"{PATH}?{query}", {"origin": origin} if origin else {})


async def test_a_ticket_opens_its_session_once(world: World) -> None:
    text = await ticket(world)
    found = await world.authority.authenticate(shown(text, session=SESSION), route())
    assert (found.mode, found.session, found.origin, found.principal.subject) == ("ticket", SESSION, ORIGIN, "page")
    await world.authority.spend(found)
    assert (await refused(world, shown(text))).status == 403
    with pytest.raises(HostError) as error:
        await world.authority.spend(found)
    assert refusal(error) == (403, "AccessDeniedException")
    with pytest.raises(HostError, match="gives no tickets"):
        await world.authority.ticket(
            found, tenant=TENANT, runtime=RUNTIME, qualifier="DEFAULT", session=SESSION, origin=""
        )


async def test_of_many_gateways_one_spends_a_ticket(tmp_path: Path) -> None:
    worlds = [World(SQLiteStore(tmp_path / "host.db")) for _ in range(4)]
    text = await ticket(worlds[0])
    found = [await world.authority.authenticate(shown(text), route()) for world in worlds]
    spent = 0
    for world, identity in zip(worlds, found, strict=True):
        try:
            await world.authority.spend(identity)
            spent += 1
        except HostError:
            continue
    assert spent == 1


async def test_a_ticket_is_for_its_session_origin_runtime_and_time(world: World) -> None:
    text = await ticket(world)
    for sent in (
        shown(text, session=SESSION + "x"),
        shown(text, origin=""),
        shown(text, origin="https://evil.example"),
        shown(text[:-1] + ("_" if text[-1] != "_" else "-")),
        shown("dlt_short"),
    ):
        assert (await refused(world, sent)).status == 403
    assert (await refused(world, shown(text), to=route(runtime="other-abcdefghij"))).status == 403
    assert (await refused(world, shown(text), to=route(qualifier="blue"))).status == 403
    assert (await refused(world, shown(text), to=route("invocations"))).status == 401
    assert (await refused(world, shown(text), to=route(tenant=OTHER))).status == 403
    assert await world.authority.authenticate(shown(text), route())
    found = await world.authority.authenticate(shown(text), route())
    world.clock.now += 30
    assert (await refused(world, shown(text))).status == 403
    with pytest.raises(HostError):
        await world.authority.spend(found)
    await ticket(world)
    assert len(world.store.rows(HOST_TENANT, "auth/ticket/")) == 1


async def test_a_ticket_ends_with_its_credential_and_names_no_users(world: World) -> None:
    text = await ticket(world, key=world.api(expires=NOW + 5, for_users=True))
    sent = shown(text)
    assert await world.authority.authenticate(sent, route())
    assert (
        await refused(world, msgspec.structs.replace(sent, headers=(*sent.headers, (USER.lower(), "x"))))
    ).status == 403
    world.clock.now += 5
    assert (await refused(world, sent)).status == 401


# -- client secrets ----------------------------------------------------------------------------------------------------


async def client_secret(world: World, *, key: str = "", seconds: float = 600) -> str:
    found = await world.authority.authenticate(bearer(key or world.api(subject="shop")), route("client_secrets"))
    text, until = await world.authority.client_secret(
        found, tenant=TENANT, runtime=RUNTIME, qualifier="DEFAULT", session='{"instructions":"x"}', seconds=seconds
    )
    assert until <= world.clock.now + seconds
    return text


async def test_a_client_secret_opens_the_openai_wire_of_its_runtime_for_its_time(world: World) -> None:
    text = await client_secret(world)
    offered = head(PATH, {"sec-websocket-protocol": f"realtime, openai-insecure-api-key.{text}", "origin": ORIGIN})
    for sent in (bearer(text), offered, offered):
        found = await world.authority.authenticate(sent, route("openai"))
        assert (found.principal.subject, found.preset, found.mode) == ("shop", '{"instructions":"x"}', "ticket")
        assert found.grants == (Grant(role="invoke", runtime=RUNTIME),)
        assert not found.once
    # neither another wire or agent, nor another page, nor more secrets
    for kind in ("ws", "invocations", "gemini", "client_secrets"):
        assert (await refused(world, bearer(text), to=route(kind))).status in (401, 403)
    assert (await refused(world, bearer(text), to=route("openai", qualifier="blue"))).status == 403
    assert (await refused(world, bearer(text), to=route("openai", tenant=OTHER))).status == 403
    evil = head(PATH, {"authorization": f"Bearer {text}", "origin": "https://evil.example"})
    assert (await refused(world, evil, to=route("openai"))).status == 403
    for make in (world.authority.client_secret, world.authority.ticket):
        more: Any = {"seconds": 60} if make == world.authority.client_secret else {"origin": ""}
        with pytest.raises(HostError, match="A ticket gives no"):
            await make(found, tenant=TENANT, runtime=RUNTIME, qualifier="DEFAULT", session="", **more)
    assert text not in str([row.value for row in world.store.rows(HOST_TENANT, "")])
    world.clock.now += 600
    assert (await refused(world, bearer(text), to=route("openai"))).status == 401
    await client_secret(world)
    assert len(world.store.rows(HOST_TENANT, "auth/client-secret/")) == 1
    for wrong in ("ek_", "ek_" + "a" * 43, text + "a"):
        assert (await refused(world, bearer(wrong), to=route("openai"))).status == 401


async def test_a_client_secret_ends_with_the_key_it_was_made_with(world: World) -> None:
    text = await client_secret(world, key=world.api(expires=NOW + 5))
    world.clock.now += 5
    assert (await refused(world, bearer(text), to=route("openai"))).status == 401
    made = world.authority.keys.create("api", TENANT)
    text = await client_secret(world, key=made.secret.reveal())
    assert await world.authority.authenticate(bearer(text), route("openai"))
    world.authority.keys.revoke(TENANT, made.key.id)
    assert (await refused(world, bearer(text), to=route("openai"))).status == 401


async def test_there_are_only_so_many_client_secrets(world: World) -> None:
    world.authority.client_secrets = ClientSecrets(world.store, clock=world.clock, most=2)
    for _ in range(2):
        await client_secret(world)
    with pytest.raises(HostError) as error:
        await client_secret(world)
    assert refusal(error) == (503, "ServiceUnavailableException")
    world.clock.now += 600
    assert await client_secret(world)


async def test_only_who_may_invoke_gets_a_ticket(world: World) -> None:
    with pytest.raises(HostError) as error:
        await ticket(world, key=world.api(grants=(Grant(role="observe"),)))
    assert refusal(error) == (403, "AccessDeniedException")


# -- what is left behind -----------------------------------------------------------------------------------------------


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_nothing_shown_is_logged_or_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="duologue")
    world = World(SQLiteStore(tmp_path / "host.db"))
    id, secret = world.access()
    key = world.api(subject="page")
    text = await ticket(world, key=key)
    identities = [
        await world.authority.authenticate(signed((id, secret)), route()),
        await world.authority.authenticate(bearer(key), route()),
        await world.authority.authenticate(shown(text), route()),
    ]
    for sent in (signed((id, secret + "x")), bearer(key + "x"), shown(text, origin="https://evil.example")):
        await refused(world, sent)
    world.audit.close()
    left = on_disk(tmp_path) + caplog.text.encode() + repr(identities).encode()
    for hidden in (secret, key, key[21:], text, text[4:]):
        assert hidden.encode() not in left
    assert world.audit.verify(TENANT).holds
    assert world.audit.verify(HOST_TENANT).records == 3


async def test_refusals_are_counted_and_audited_without_trusting_the_caller(world: World) -> None:
    for _ in range(3):
        await refused(world, bearer("garbage"), to=route(tenant="999999999999"))
    await refused(world, head(PATH))
    world.audit.flush()
    assert world.authority.refused["UnauthorizedException"] == 1
    assert world.store.journals("999999999999") == []
    entries = list(world.audit.entries(HOST_TENANT))
    assert [(e.peer, e.reason) for e in entries][-1] == ("192.0.2.7", "UnauthorizedException")


async def test_a_store_that_fails_is_the_host_s_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = world.api()

    def fail(tenant: str, key: str) -> None:
        raise StoreError("The disk at /secret/path is gone.")

    monkeypatch.setattr(world.store, "get", fail)
    error = await refused(world, bearer(key))
    assert (error.status, error.type) == (500, "InternalServerException")
    assert "/secret" not in error.message


def test_targets_are_redacted_for_logs() -> None:
    target = "/runtimes/a/ws?qualifier=x&ticket=T&X-Amz-Signature=S&x-amz-security%2dtoken=Q&key=K&empty"
    assert (
        redacted(target) == "/runtimes/a/ws?qualifier=x&ticket=…&X-Amz-Signature=…&x-amz-security%2dtoken=…&key=…&empty"
    )
    assert redacted("/plain") == "/plain"


async def test_a_token_needs_a_tenant_from_somewhere() -> None:
    world = World(options=AuthOptions(region=REGION))
    assert (await refused(world, bearer("a.b.c"), to=route(tenant=""))).status == 400
