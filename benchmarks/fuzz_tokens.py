"""Tokens: signed by the keys of an issuer that is at hand, and then altered, forged, or made anew with odd content.

What was honestly signed is known. A token that is taken although its header and claims were never signed by one of the
issuer's keys is a find; so is one whose claims, read once more, do not say what the configuration wants.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import random
import time
import warnings
from collections.abc import Iterator
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from benchmarks.fuzz_damage import Damage
from benchmarks.fuzz_host import Tried, crash, scrambled
from duologue.host.auth import Fetcher, FetchError, parse_auth
from duologue.host.auth.authorizer import ALGORITHMS, CustomJWTAuthorizer
from duologue.host.auth.jwks import Issuers
from duologue.host.auth.oauth import Tokens, protected_resource
from duologue.host.types import HostError

_NOW, _LEEWAY = 1_800_000_000, 30
_ISSUER = "https://issuer.example"
_DISCOVERY = f"{_ISSUER}/.well-known/openid-configuration"
_CLAIMS = ("iss", "sub", "aud", "exp", "nbf", "iat", "scope", "scp", "client_id", "team", "jti")
_ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, _NOW, _NOW + 29, _NOW - 29, _NOW + 31, 1e12, 1e300, 10**13, 10**400, -(10**400), "", "x"),
    *("\0", "agents", ["agents"], ["agents", 1, None], {}, [[]], _ISSUER, "a" * 300, str(_NOW + 60), "é\u202e"),
)
_HEADERS: tuple[tuple[str, Any], ...] = (
    ("crit", ["exp"]), ("crit", []), ("b64", False), ("typ", "at+jwt"), ("typ", 5), ("cty", "JWT"), ("jku", "https://e"),
    ("jwk", {"kty": "oct", "k": "AA"}), ("x5c", ["AA"]), ("x5u", 1), ("kid", "two"), ("kid", ""), ("kid", 7), ("kid", "ed"),
    ("alg", "HS256"), ("alg", "none"), ("alg", ""), ("alg", "ES384"), ("alg", "EdDSA"), ("alg", "RS256"), ("alg", 1),
    ("alg", "ES256"), ("alg", "PS512"), ("zip", "DEF"), ("enc", "A128GCM"), ("", ""),
)  # fmt: skip


class _Documents(Fetcher):
    """Answers at once, from a table."""

    def __init__(self, documents: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        self._documents = documents

    async def json(self, url: str) -> dict[str, Any]:
        """The document. Raises FetchError if there is none."""
        if url not in self._documents:
            raise FetchError(f"There is no {url}.")
        return self._documents[url]


class JsonTokens:
    """Reads and checks tokens under two configurations."""

    codec = "host tokens"

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._damage = Damage(chance, [])
        warnings.simplefilter("ignore", SecurityWarning)  # algorithms that should not be used are tried here
        self._rsa = RSAKey.generate_key(2048, {"kid": "one"})
        self._ec = ECKey.generate_key("P-256", {"kid": "two"})
        self._okp = OKPKey.generate_key("Ed25519", {"kid": "ed"})
        self._stranger = ECKey.generate_key("P-256", {"kid": "two"})
        public = [key.as_dict(private=False) for key in (self._rsa, self._ec, self._okp)]
        unusable = [{"kty": "oct", "k": "AA", "kid": "one"}, {**public[1], "kid": "two", "use": "enc"}]
        fetcher = _Documents(
            {
                _DISCOVERY: {"issuer": _ISSUER, "jwks_uri": f"{_ISSUER}/jwks"},
                f"{_ISSUER}/jwks": {"keys": [*public, *unusable]},
            }
        )
        self._loop = asyncio.new_event_loop()
        self._issuers = Issuers(fetcher, clock=lambda: 0.0)
        self._tokens = Tokens(self._issuers, clock=lambda: float(_NOW), leeway_s=_LEEWAY)
        strict = {
            "allowedClients": ["app"],
            "allowedScopes": ["call", "listen"],
            "customClaims": [
                {
                    "inboundTokenClaimName": "team",
                    "inboundTokenClaimValueType": "STRING_ARRAY",
                    "authorizingClaimMatchValue": {
                        "claimMatchOperator": "CONTAINS_ANY",
                        "claimMatchValue": {"matchValueStringList": ["a", "b"]},
                    },
                }
            ],
        }
        self._configurations = [_configuration({}), _configuration(strict)]
        self._odd_names = (*_CLAIMS, *(name for name, _ in _HEADERS))
        self._good = [(self._signed({"alg": alg, **kid}, self._content(**more)), more) for alg, kid, more in _GOOD]

    def valid(self) -> Iterator[Tried]:
        """Tokens that are good, and what the host says of their issuer."""
        for configuration in self._configurations:
            self._loop.run_until_complete(protected_resource("https://h.example", configuration, self._issuers))
        for token, more in self._good:
            configuration = self._configurations["team" in more]
            tried, accepted = self._try(token, configuration, honest=True)
            if not accepted:
                tried.find = tried.find or "a valid token is refused"
            yield tried

    def round(self) -> Iterator[Tried]:
        """One token that is no longer, or was never, what the issuer signed; or is, and says something odd."""
        chance = self._chance
        configuration = chance.choice(self._configurations)
        token, _ = chance.choice(self._good)
        kind = chance.randrange(8)
        if kind <= 1:
            header, claims = self._odd(token)
            made = self._signed(header, claims)
            yield self._try(made, configuration, honest=True)[0]
            return
        if kind == 2:
            token = self._forged(token)
        elif kind == 3:
            token = self._spliced(token)
        elif kind == 4:
            token = scrambled(chance, token)
        else:
            token = self._rewritten(token)
        honest = any(token.rpartition(".")[0] == good.rpartition(".")[0] for good, _ in self._good)
        yield self._try(token, configuration, honest=honest)[0]

    # ------------------------------------------------------------------ judging

    def _try(self, token: str, configuration: CustomJWTAuthorizer, *, honest: bool) -> tuple[Tried, bool]:
        """`honest`: a key of the issuer signed this header with these claims."""
        tried = Tried(self.codec, token, _is_compact(token), True, 0.0)
        accepted = False
        began = time.perf_counter()
        try:
            self._loop.run_until_complete(self._tokens.check(token, configuration))
            accepted = True
        except HostError as error:
            if error.status not in (401, 403):
                tried.find = f"status {error.status}"
        except Exception as error:
            tried.find = crash(error)
        tried.took_s = time.perf_counter() - began
        tried.refused = not accepted
        if accepted and not honest:
            tried.find = "accepted though altered"
        elif accepted and (what := _unwanted(token, configuration)):
            tried.find = f"accepted though its {what} is not what is wanted"
        return tried, accepted

    # ------------------------------------------------------------------ making

    def _content(self, **claims: Any) -> dict[str, Any]:
        content = {"iss": _ISSUER, "sub": "alice", "aud": "agents", "exp": _NOW + 3600, "client_id": "app", **claims}
        return {name: value for name, value in content.items() if value is not None}

    def _signed(self, header: dict[str, Any], claims: Any) -> str:
        """Signed by the issuer's key for the algorithm; by its elliptic one where that cannot be."""
        text = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
        keys = {"RS": self._rsa, "PS": self._rsa, "Ed": self._okp}
        alg = header.get("alg")
        key = keys.get(alg[:2], self._ec) if isinstance(alg, str) else self._ec
        try:
            registry = JWSRegistry(algorithms=[str(alg)], strict_check_header=False)
            return jws.serialize_compact(header, text, key, registry=registry)
        except (JoseError, ValueError, TypeError, KeyError):
            # what the library does not sign so is signed by hand
            signing = f"{_b64(json.dumps(header).encode())}.{_b64(text)}"
            algorithm = JWSRegistry(algorithms=["ES256"]).get_alg("ES256")
            return f"{signing}.{_b64(algorithm.sign(signing.encode(), self._ec))}"

    def _odd(self, token: str) -> tuple[dict[str, Any], Any]:
        """Header and claims of a token, to be signed; RSA is slow to sign, and seldom taken."""
        chance = self._chance
        header, claims = _parts(token)
        if header["alg"][:2] in ("RS", "PS") and chance.random() < 0.97:
            header |= {"alg": "ES256", "kid": "two"}
        for _ in range(chance.choice((0, 1, 1, 2))):
            name = chance.choice(_CLAIMS)
            if chance.random() < 0.3:
                claims.pop(name, None)
            else:
                claims[name] = chance.choice(_ODD)
        if chance.random() < 0.2:
            name, value = chance.choice(_HEADERS)
            header[name] = value
        if chance.random() < 0.1:
            odd = (b"", b"[]", b"null", b"{", b'{"a":1,}', b"\xff", b'{"exp":' + b"9" * 5000 + b"}", b"[" * 3000)
            return header, chance.choice((*odd, b'{"exp":1e400}', b'{"sub":"\\ud800"}', claims, [claims]))
        return header, claims

    def _rewritten(self, token: str) -> str:
        """Header or claims changed, with the signature that was there."""
        chance = self._chance
        header, claims = _parts(token)
        parts = token.split(".")
        if chance.random() < 0.5:
            if chance.random() < 0.6:
                name, value = chance.choice(_HEADERS)
                header[name] = value
            else:
                header = self._damage.changed(header)
            parts[0] = _b64(json.dumps(header, default=str).encode())
        else:
            changed = self._damage.changed(claims) if chance.random() < 0.5 else {**claims, "sub": "root"}
            parts[1] = _b64(json.dumps(changed, default=str).encode())
        return ".".join(parts)

    def _forged(self, token: str) -> str:
        """Signed by somebody else, or by what everybody may know."""
        chance = self._chance
        header, claims = _parts(token)
        claims["sub"] = "root"
        kind = chance.randrange(3)
        if kind == 0:
            header |= {"alg": "ES256", "kid": chance.choice(("two", "", "one", "new"))}
            if chance.random() < 0.5:
                header["jwk"] = self._stranger.as_dict(private=False)
            registry = JWSRegistry(algorithms=["ES256"], strict_check_header=False)
            return jws.serialize_compact(header, json.dumps(claims), self._stranger, registry=registry)
        header["alg"] = chance.choice(("HS256", "HS512", "none", "RS256", "ES256", "EdDSA", "hs256"))
        signing = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(claims).encode())}"
        secrets = (b"", self._rsa.as_pem(private=False), json.dumps(self._ec.as_dict(private=False)).encode())
        made = hmac.digest(chance.choice(secrets), signing.encode(), "sha256")
        return f"{signing}.{_b64(made) if kind == 1 else chance.choice(('', 'AA', _b64(bytes(64)), _b64(bytes(256))))}"

    def _spliced(self, token: str) -> str:
        """Parts of several tokens, or the same bytes spelled otherwise."""
        chance = self._chance
        parts, other = token.split("."), chance.choice(self._good)[0].split(".")
        at = chance.randrange(3)
        match chance.randrange(6):
            case 0:
                parts[at] = other[at]
            case 1:
                parts[at] = parts[at] + chance.choice(("=", "==", "A", "\n", " ", ".", "%3D"))
            case 2:
                parts[at] = parts[at].replace("-", "+").replace("_", "/")
            case 3:
                parts[at] = parts[at][:-1] + chance.choice("ABCDQRghwxyz0189-_")
            case 4:
                raw = bytearray(base64.urlsafe_b64decode(parts[2] + "=="))
                raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
                parts[2] = _b64(bytes(raw))
            case _:
                chance.shuffle(parts)
        return ".".join(parts)


_GOOD: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("RS256", {"kid": "one"}, {}),
    ("RS512", {"kid": "one"}, {"aud": ["other", "agents"]}),
    ("PS256", {}, {"scope": "call listen"}),
    ("ES256", {"kid": "two"}, {"nbf": _NOW - 5, "iat": _NOW}),
    ("ES256", {"kid": "two", "typ": "at+jwt"}, {"team": ["b"], "scope": "call", "aud": None}),
    ("ES256", {}, {"team": ["a", "z"], "scp": ["listen"], "exp": _NOW + 0.5}),
    ("EdDSA", {"kid": "ed"}, {"exp": _NOW - _LEEWAY + 1}),
    ("Ed25519", {"kid": "ed"}, {"sub": "é" * 255}),
)


def _configuration(more: dict[str, Any]) -> CustomJWTAuthorizer:
    given = {"discoveryUrl": _DISCOVERY, "algorithms": list(ALGORITHMS), **(more or {"allowedAudience": ["agents"]})}
    found = parse_auth({"customJWTAuthorizer": given}).jwt
    assert found is not None
    return found


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, read with nothing of the host's."""
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return header, claims


def _is_compact(token: str) -> bool:
    """Whether it has the form of a token: three parts, the first two of them JSON objects."""
    try:
        header, claims = _parts(token)
    except (ValueError, RecursionError):
        return False
    return token.count(".") == 2 and isinstance(header, dict) and isinstance(claims, dict)


def _unwanted(token: str, configuration: CustomJWTAuthorizer) -> str:
    """The part of a token that was taken and should not have been; "" if all is well."""
    header, claims = _parts(token)
    if "crit" in header or "b64" in header or header["alg"] not in ALGORITHMS:
        return "header"
    if claims.get("iss") != _ISSUER:
        return "iss"
    times = {name: claims[name] for name in ("exp", "nbf", "iat") if claims.get(name) is not None}
    if any(type(value) not in (int, float) for value in times.values()):
        return "time"
    if times.get("exp", 0) <= _NOW - _LEEWAY or max(times.get("nbf", 0), times.get("iat", 0)) > _NOW + _LEEWAY:
        return "time"
    audience = claims.get("aud")
    if configuration.allowed_audience and "agents" not in (audience if isinstance(audience, list) else [audience]):
        return "aud"
    if configuration.allowed_clients and claims.get("client_id") != "app":
        return "client_id"
    if configuration.custom_claims and not {"a", "b"} & {item for item in claims["team"] if isinstance(item, str)}:
        return "team"
    subject = claims.get("sub")
    return "" if isinstance(subject, str) and 0 < len(subject) <= 255 else "sub"
