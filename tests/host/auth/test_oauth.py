"""Tokens: whose are taken, and that nothing in a token decides how it is checked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import OctKey, OKPKey
from joserfc.jws import JWSRegistry

from duologue.host.auth import Fetcher, FetchError, JwksTimes, parse_auth
from duologue.host.auth.authorizer import CustomJWTAuthorizer
from duologue.host.auth.fetch import public
from duologue.host.auth.jwks import Issuers, usable_keys
from duologue.host.auth.oauth import Tokens
from duologue.host.types import HostError

from .helpers import NOW, Clock, Provider, ec, refusal, rsa, token

RSA, EC, STRANGER = rsa("one"), ec("two"), rsa("one")


class Rig:
    """An identity provider and what checks its tokens."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.clock, self.ticks = Clock(), Clock(0.0)
        self.issuers = Issuers(provider.fetcher(), times=JwksTimes(), clock=self.ticks)
        self.tokens = Tokens(self.issuers, clock=self.clock)

    def config(self, **fields: Any) -> CustomJWTAuthorizer:
        given = fields or {"allowedAudience": ["agents"]}
        auth = {"customJWTAuthorizer": {"discoveryUrl": self.provider.discovery, **given}}
        found = parse_auth(auth, require_audience=False).jwt
        assert found is not None
        return found

    async def check(self, text: str, **fields: Any) -> Any:
        return await self.tokens.check(text, self.config(**fields))

    def token(self, key: Any = RSA, **options: Any) -> str:
        return token(key, self.provider.issuer, **options)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Provider().running() as provider:
        provider.publish(RSA, EC)
        made = Rig(provider)
        yield made
        await made.issuers.aclose()


pytestmark = pytest.mark.anyio


# -- good tokens -------------------------------------------------------------------------------------------------------


async def test_tokens_of_the_issuer_s_keys_are_good(rig: Rig) -> None:
    found = await rig.check(rig.token(scope="a b"))
    assert (found.issuer, found.subject, found.scopes) == (rig.provider.issuer, "alice", ("a", "b"))
    assert found.expires == NOW + 3600 + 30
    assert (await rig.check(rig.token(EC, alg="ES256", kid="two"))).subject == "alice"
    assert rig.provider.asked == ["/.well-known/openid-configuration", "/jwks"]


async def test_a_token_without_key_id_is_checked_by_the_only_key_of_its_type(rig: Rig) -> None:
    assert (await rig.check(rig.token(kid=None))).subject == "alice"
    rig.provider.publish(RSA, rsa("three"))
    rig.ticks.now += 3600
    with pytest.raises(HostError, match="key is unknown"):
        await rig.check(rig.token(kid=None))


async def test_other_algorithms_are_a_matter_of_configuration(rig: Rig) -> None:
    okp = OKPKey.generate_key("Ed25519", {"kid": "ed"})
    rig.provider.publish(RSA, okp)
    for key, alg, kid in ((RSA, "PS384", "one"), (okp, "Ed25519", "ed")):
        text = rig.token(key, alg=alg, kid=kid)
        assert (await rig.check(text, allowedAudience=["agents"], algorithms=[alg])).subject == "alice"
        with pytest.raises(HostError, match="is not allowed"):
            await rig.check(text)


# -- forged ------------------------------------------------------------------------------------------------------------


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None) -> str:
    text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    signature = b64(hmac.digest(secret, text.encode(), "sha256")) if secret is not None else ""
    return f"{text}.{signature}"


async def test_confused_algorithms_are_refused(rig: Rig) -> None:
    claims = {"iss": rig.provider.issuer, "sub": "eve", "aud": "agents", "exp": NOW + 60}
    secrets = [RSA.as_pem(private=False), json.dumps(RSA.as_dict(private=False)).encode(), b""]
    forged = [by_hand({"alg": alg, "kid": "one"}, claims, secret) for alg in ("HS256", "HS512") for secret in secrets]
    forged += [by_hand({"alg": alg, "kid": "one"}, claims, None) for alg in ("none", "None", "NONE", "")]
    forged += [by_hand({"alg": "RS256", "kid": "one"}, claims, secret) for secret in (*secrets, None)]
    # an RSA key named with an elliptic algorithm
    forged.append(by_hand({"alg": "ES256", "kid": "one"}, claims, secrets[0]))
    for text in forged:
        with pytest.raises(HostError) as error:
            await rig.check(text)
        assert refusal(error) == (401, "UnauthorizedException")


async def test_a_key_that_the_token_brings_is_not_used(rig: Rig) -> None:
    mine = STRANGER.as_dict(private=False)
    for extra in (
        {"jwk": mine},
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example"},
        {"kid": "../one"},
    ):
        claims = json.dumps({"iss": rig.provider.issuer, "sub": "eve", "aud": "agents", "exp": NOW + 60})
        registry = JWSRegistry(algorithms=["RS256"], strict_check_header=False)
        text = jws.serialize_compact({"alg": "RS256", "kid": "one", **extra}, claims, STRANGER, registry=registry)
        with pytest.raises(HostError) as error:
            await rig.check(text)
        assert error.value.status == 401
    assert set(rig.provider.asked) == {"/.well-known/openid-configuration", "/jwks"}


async def test_what_changes_the_meaning_of_a_signature_is_refused(rig: Rig) -> None:
    claims = {"iss": rig.provider.issuer, "sub": "eve", "aud": "agents", "exp": NOW + 60}
    for extra in ({"crit": ["exp"]}, {"b64": False}, {"crit": ["b64"], "b64": False}, {"crit": []}):
        with pytest.raises(HostError, match="Failed to parse token") as error:
            await rig.check(by_hand({"alg": "RS256", "kid": "one", **extra}, claims, b"x"))
        assert refusal(error) == (403, "AccessDeniedException")


async def test_a_changed_token_is_refused(rig: Rig) -> None:
    head, body, signature = rig.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    other = b64(json.dumps({**claims, "sub": "root"}).encode())
    flipped = b64(bytes(255 - byte for byte in base64.urlsafe_b64decode(signature + "==")))
    for text in (f"{head}.{other}.{signature}", f"{head}.{body}.{flipped}", f"{head}.{body}.", rig.token(STRANGER)):
        with pytest.raises(HostError, match="signature is not valid") as error:
            await rig.check(text)
        assert refusal(error) == (401, "UnauthorizedException")


# -- claims ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "text"),
    [
        ({"iss": "https://other.example"}, "'iss'"),
        ({"iss": None}, "'iss'"),
        ({"exp": NOW - 30}, "expired"),
        ({"exp": None}, "expired"),
        ({"exp": True}, "'exp' is no time"),
        ({"exp": "1900000000"}, "'exp' is no time"),
        ({"exp": 1e300}, "'exp' is no time"),
        ({"exp": 10**400}, "'exp' is no time"),
        ({"nbf": -(10**400)}, "'nbf' is no time"),
        ({"nbf": NOW + 31}, "not valid yet"),
        ({"iat": NOW + 31}, "not valid yet"),
        ({"aud": "others"}, "Claim 'aud' value mismatch with configuration."),
        ({"aud": None}, "'aud'"),
        ({"aud": ["others", 5]}, "'aud'"),
        ({"aud": {"agents": 1}}, "'aud'"),
        ({"sub": None}, "'sub'"),
        ({"sub": 5}, "'sub'"),
        ({"sub": ""}, "'sub'"),
        ({"sub": "a\nb"}, "'sub'"),
    ],
)
async def test_claims_that_do_not_fit_are_refused(rig: Rig, claims: dict[str, Any], text: str) -> None:
    with pytest.raises(HostError, match=text) as error:
        await rig.check(rig.token(**claims))
    assert refusal(error) == (401, "UnauthorizedException")


async def test_clocks_may_be_off_by_half_a_minute(rig: Rig) -> None:
    assert await rig.check(rig.token(exp=NOW - 29, nbf=NOW + 30, iat=NOW + 30))


STRING_IS = {
    "inboundTokenClaimName": "team",
    "inboundTokenClaimValueType": "STRING",
    "authorizingClaimMatchValue": {"claimMatchValue": {"matchValueString": "red"}, "claimMatchOperator": "EQUALS"},
}
CONTAINS = {
    "inboundTokenClaimName": "groups",
    "inboundTokenClaimValueType": "STRING_ARRAY",
    "authorizingClaimMatchValue": {"claimMatchValue": {"matchValueString": "a"}, "claimMatchOperator": "CONTAINS"},
}
CONTAINS_ANY = {
    "inboundTokenClaimName": "groups",
    "inboundTokenClaimValueType": "STRING_ARRAY",
    "authorizingClaimMatchValue": {
        "claimMatchValue": {"matchValueStringList": ["a", "b"]},
        "claimMatchOperator": "CONTAINS_ANY",
    },
}
CHECKS: list[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = [
    ({"allowedAudience": ["x", "y"]}, {"aud": ["z", "y"]}, [{"aud": "z"}, {"aud": []}]),
    (
        {"allowedClients": ["app"]},
        {"client_id": "app"},
        [{"client_id": "other"}, {}, {"azp": "app"}, {"cid": "app"}, {"client_id": ["app"]}],
    ),
    ({"allowedScopes": ["talk"]}, {"scope": "read talk"}, [{"scope": "talkative"}, {}, {"scope": 5}]),
    ({"allowedScopes": ["talk"]}, {"scp": ["talk"]}, [{"scp": "read"}, {"scp": [5]}]),
    ({"customClaims": [STRING_IS]}, {"team": "red"}, [{"team": "blue"}, {"team": ["red"]}, {}]),
    ({"customClaims": [CONTAINS]}, {"groups": ["z", "a"]}, [{"groups": ["b"]}, {"groups": "a"}, {}]),
    ({"customClaims": [CONTAINS_ANY]}, {"groups": ["b"]}, [{"groups": []}, {"groups": ["c"]}]),
]


@pytest.mark.parametrize(("config", "good", "bad"), CHECKS)
async def test_each_check_alone(
    rig: Rig, config: dict[str, Any], good: dict[str, Any], bad: list[dict[str, Any]]
) -> None:
    assert await rig.check(rig.token(**good), **config)
    for claims in bad:
        with pytest.raises(HostError, match="value mismatch with configuration"):
            await rig.check(rig.token(**claims), **config)


async def test_all_checks_together(rig: Rig) -> None:
    config = {
        "allowedAudience": ["agents"],
        "allowedClients": ["app"],
        "allowedScopes": ["talk"],
        "customClaims": [STRING_IS, CONTAINS],
    }
    good = {"client_id": "app", "scope": "talk", "team": "red", "groups": ["a"]}
    assert await rig.check(rig.token(**good), **config)
    for name in good:
        with pytest.raises(HostError, match="mismatch"):
            await rig.check(rig.token(**{**good, name: None}), **config)


async def test_other_claims_may_name_the_client(rig: Rig) -> None:
    config = {"allowedClients": ["app"], "clientClaims": ["client_id", "azp"]}
    assert await rig.check(rig.token(azp="app"), **config)
    with pytest.raises(HostError, match="'client_id'"):
        await rig.check(rig.token(client_id="other", azp="app"), **config)


BASE = {"discoveryUrl": "https://idp.example/.well-known/openid-configuration", "allowedAudience": ["a"]}


@pytest.mark.parametrize(
    "auth",
    [
        {"customJWTAuthorizer": {**BASE, "discoveryUrl": "http://idp.example/.well-known/openid-configuration"}},
        {"customJWTAuthorizer": {**BASE, "discoveryUrl": "https://idp.example/openid"}},
        {"customJWTAuthorizer": {**BASE, "discoveryUrl": "https://u:p@idp.example/.well-known/openid-configuration"}},
        {"customJWTAuthorizer": {"discoveryUrl": BASE["discoveryUrl"]}},
        {"customJWTAuthorizer": {"discoveryUrl": BASE["discoveryUrl"], "allowedScopes": ["a"]}},
        {"customJWTAuthorizer": {**BASE, "algorithms": ["HS256"]}},
        {"customJWTAuthorizer": {**BASE, "algorithms": ["none"]}},
        {"customJWTAuthorizer": {**BASE, "algorithms": []}},
        {"customJWTAuthorizer": {**BASE, "clientClaims": []}},
        {"customJWTAuthorizer": {**BASE, "privateEndpoint": {}}},
        {"customJWTAuthorizer": {**BASE, "allowedAudiences": ["a"]}},
        {
            "customJWTAuthorizer": {
                **BASE,
                "customClaims": [{**STRING_IS, "inboundTokenClaimValueType": "STRING_ARRAY"}],
            }
        },
        {"customJWTAuthorizer": "x"},
        {"customJwtAuthorizer": BASE},
        {"customJWTAuthorizer": BASE, "modes": ["sigv4"]},
        {"modes": ["oauth"]},
        {"modes": []},
        {"modes": ["magic"]},
    ],
)
def test_a_configuration_that_cannot_be_is_refused(auth: dict[str, Any]) -> None:
    with pytest.raises(HostError) as error:
        parse_auth(auth)
    assert refusal(error) == (400, "ValidationException")


def test_modes() -> None:
    assert parse_auth({}).modes == ("sigv4", "key")
    assert parse_auth({"customJWTAuthorizer": BASE}).modes == ("sigv4", "key", "oauth")
    assert parse_auth({"customJWTAuthorizer": BASE}, exclusive=True).modes == ("oauth",)
    assert parse_auth({"customJWTAuthorizer": BASE, "modes": ["oauth"]}).modes == ("oauth",)


# -- keys of issuers ---------------------------------------------------------------------------------------------------


async def test_an_unknown_key_id_fetches_once_in_a_while(rig: Rig) -> None:
    await rig.check(rig.token())
    rig.ticks.now += 31
    later = rsa("later")
    rig.provider.publish(RSA, later)
    assert (await rig.check(rig.token(later, kid="later"))).subject == "alice"
    assert rig.issuers.fetches == 2
    flood = [rig.check(rig.token(STRANGER, kid=f"unknown-{index}")) for index in range(50)]
    answers = await asyncio.gather(*flood, return_exceptions=True)
    assert all(isinstance(answer, HostError) and answer.status == 401 for answer in answers)
    assert rig.issuers.fetches == 2
    rig.ticks.now += 31
    answers = await asyncio.gather(
        *(rig.check(rig.token(STRANGER, kid=f"unknown-{index}")) for index in range(50)), return_exceptions=True
    )
    assert all(isinstance(answer, HostError) and answer.status == 401 for answer in answers)
    assert rig.issuers.fetches == 3


async def test_many_callers_wait_for_one_fetch(rig: Rig) -> None:
    rig.provider.gate.clear()
    waiting = [asyncio.create_task(rig.check(rig.token())) for _ in range(20)]
    await rig.provider.came.wait()
    waiting[0].cancel()
    rig.provider.gate.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer.subject for answer in answers[1:]] == ["alice"] * 19  # type: ignore[union-attr]
    assert rig.issuers.fetches == 1


async def test_old_keys_go_on_while_the_issuer_is_away_and_not_for_ever(rig: Rig) -> None:
    await rig.check(rig.token())
    del rig.provider.documents["/jwks"]
    rig.ticks.now += 700
    assert await rig.check(rig.token())
    assert rig.issuers.fetches == 2
    assert await rig.check(rig.token())
    assert rig.issuers.fetches == 2
    rig.ticks.now += 86_400
    with pytest.raises(HostError) as error:
        await rig.check(rig.token())
    assert refusal(error) == (503, "ServiceUnavailableException")
    assert "localhost" not in error.value.message
    rig.provider.publish(RSA)
    rig.ticks.now += 600
    assert await rig.check(rig.token())


async def test_a_withdrawn_key_is_over_when_the_keys_are_fetched_anew(rig: Rig) -> None:
    assert await rig.check(rig.token())
    rig.provider.publish(EC)
    rig.ticks.now += 601
    with pytest.raises(HostError, match="key is unknown"):
        await rig.check(rig.token())


async def test_attempts_wait_longer_after_each_failure(rig: Rig) -> None:
    del rig.provider.documents["/jwks"]
    for _ in range(400):
        with pytest.raises(HostError):
            await rig.check(rig.token())
        rig.ticks.now += 1
    assert rig.issuers.fetches == 7  # at 0, 5, 15, 35, 75, 155, 315


@pytest.mark.filterwarnings("ignore:Key size should be")
def test_only_keys_that_can_verify_are_taken() -> None:
    good = RSA.as_dict(private=False)
    small = {**good, "n": b64(RSA.public_key.public_numbers().n.to_bytes(256)[-128:])}
    bad = [
        OctKey.generate_key(256).as_dict(private=True),
        small,
        {**good, "use": "enc"},
        {**good, "key_ops": ["encrypt"]},
        {**good, "n": "AA"},
        {**good, "e": 5},
        {**good, "kid": 5},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "off the curve"},
        {"kty": "OKP", "crv": "nothing", "x": "AA"},
        "text",
        None,
    ]
    kept = usable_keys([*bad, good, EC.as_dict(private=True)])
    assert [kid for kid, _ in kept] == ["one", "two"]
    assert not any(key.is_private for _, key in kept)
    assert len(usable_keys([good] * 500)) == 100


# -- fetching ----------------------------------------------------------------------------------------------------------


async def refuses(fetcher: Fetcher, url: str, text: str) -> None:
    with pytest.raises(FetchError, match=text):
        await fetcher.json(url)


async def test_what_is_fetched_is_bounded_in_every_way(rig: Rig) -> None:
    provider, fetcher = rig.provider, rig.provider.fetcher()

    async def redirect(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: /jwks\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" " * 65_536)
            await writer.drain()

    async def silent(writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()

    provider.documents |= {
        "/r": redirect,
        "/e": endless,
        "/s": silent,
        "/l": b"[]",
        "/d": b"[" * 100_000,
        "/x": b"\xff",
    }
    await refuses(fetcher, f"{provider.issuer}/r", "answered 302")
    await refuses(fetcher, f"{provider.issuer}/e", "longer than")
    await refuses(provider.fetcher(deadline_s=0.05), f"{provider.issuer}/s", "TimeoutError|ReadTimeout|ConnectTimeout")
    await refuses(fetcher, f"{provider.issuer}/l", "no JSON object")
    await refuses(fetcher, f"{provider.issuer}/d", "no JSON")
    await refuses(fetcher, f"{provider.issuer}/x", "no JSON")
    assert "/jwks" not in provider.asked


async def test_loopback_is_refused_unless_it_is_allowed(rig: Rig) -> None:
    await refuses(rig.provider.fetcher(private_addresses=False), rig.provider.discovery, "not public")
    assert rig.provider.asked == []


async def test_a_certificate_of_another_authority_is_refused(rig: Rig) -> None:
    await refuses(Fetcher(private_addresses=True), rig.provider.discovery, "ConnectError")


@pytest.mark.parametrize(
    "url",
    ["http://a.example/x", "https:///x", "https://u@a.example/", "https://a.example/#x", "file:///etc/passwd", "x"],
)
async def test_other_urls_are_refused(url: str) -> None:
    await refuses(Fetcher(), url, "URL")


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *("::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::", "ff02::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_that_are_public(address: str) -> None:
    assert public(address)


async def test_no_token_is_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    text = rig.token()
    await rig.check(text)
    with pytest.raises(HostError) as error:
        await rig.check(text + "AAAA")
    parts = [*text.split("."), hashlib.sha256(text.encode()).hexdigest()]
    assert not any(part in caplog.text or part in str(error.value) for part in parts)
