"""Tokens: JWTs in compact form, signed by an issuer that the runtime's configuration names.

Source: RFC 7515, 7519, 8725 (best current practice), 9068, 9728. The cryptography is joserfc's; what it is let near is
decided here: the algorithm comes from the configuration and the key from the issuer, never from the token.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from .authorizer import CustomJWTAuthorizer, scopes_of
from .credentials import MAX_TOKEN, decode_base64url
from .errors import bad_token, unparsable_token
from .jwks import Issuers, Keyring, VerificationKey

#: how far the issuer's clock may be off, seconds
LEEWAY_S = 30.0
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_MAX_HEADER = 4_096
#: what a time may be at most, seconds either way
_LATEST = 1e12


class TokenHeader(msgspec.Struct, frozen=True):
    """What is read of a token's header. `jku`, `jwk`, `x5u` and `x5c` are not: a token does not bring its own key."""

    alg: str
    kid: str = ""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token that was checked. `expires` is Unix time, leeway included."""

    issuer: str
    subject: str
    scopes: tuple[str, ...]
    expires: float
    claims: dict[str, Any]


class _Registry(JWSRegistry):
    max_header_length = _MAX_HEADER


def parse_header(token: str) -> TokenHeader:
    """The header of a compact JWS.

    Raises:
        HostError: 403 "Failed to parse token" for what is none: other parts than three, bad base64url, no JSON objects,
            `crit` or `b64`, which change what is signed.
    """
    parts = token.split(".")
    if len(token) > MAX_TOKEN or len(parts) != 3:
        raise unparsable_token()
    raw = [decode_base64url(part) for part in parts[:2]]
    if raw[0] is None or raw[1] is None or len(raw[0]) > _MAX_HEADER:
        raise unparsable_token()
    # an unsigned token has an empty third part: it is well-formed, and refused for its algorithm
    if parts[2] and decode_base64url(parts[2]) is None:
        raise unparsable_token()
    try:
        names = msgspec.json.decode(raw[0], type=dict[str, msgspec.Raw])
        header = msgspec.json.decode(raw[0], type=TokenHeader)
        msgspec.json.decode(raw[1], type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise unparsable_token() from None
    if "crit" in names or "b64" in names:
        raise unparsable_token()
    return header


class Tokens:
    """Checks tokens.

    Args:
        clock: wall time, seconds.
        leeway_s: how far the issuer's clock may be off.
    """

    def __init__(self, issuers: Issuers, *, clock: Callable[[], float] = time.time, leeway_s: float = LEEWAY_S) -> None:
        self.issuers = issuers
        self._clock = clock
        self._leeway_s = leeway_s

    async def check(self, token: str, authorizer: CustomJWTAuthorizer) -> Token:
        """The token's content, if it is good.

        Raises:
            HostError: 403 if it cannot be parsed, 401 if it is not good, 503 if its issuer's keys cannot be had.
        """
        header = parse_header(token)
        if header.alg not in authorizer.algorithms:
            raise bad_token(f"OAuth authorization failed: algorithm '{header.alg[:20]}' is not allowed")
        ring = await self.issuers.ring(authorizer.discovery_url)
        key_type = _KEY_TYPES[header.alg[:2]]
        if not ring.find(header.kid, key_type):
            ring = await self.issuers.again(authorizer.discovery_url, ring)
        claims = self._verified(token, header.alg, ring.find(header.kid, key_type))
        return self._judged(claims, ring, authorizer)

    def _verified(self, token: str, algorithm: str, keys: list[VerificationKey]) -> dict[str, Any]:
        if not keys:
            raise bad_token("OAuth authorization failed: the token's key is unknown")
        registry = _Registry(algorithms=[algorithm], strict_check_header=False)
        for key in keys:
            try:
                payload = jws.deserialize_compact(token, key, registry=registry).payload
            except (JoseError, ValueError, TypeError):
                continue
            try:
                claims = msgspec.json.decode(payload)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                raise unparsable_token() from None
            if not isinstance(claims, dict):
                raise unparsable_token()
            return claims
        raise bad_token("OAuth authorization failed: the token's signature is not valid")

    def _judged(self, claims: dict[str, Any], ring: Keyring, authorizer: CustomJWTAuthorizer) -> Token:
        now, leeway = self._clock(), self._leeway_s
        if claims.get("iss") != ring.issuer:
            raise bad_token("Claim 'iss' value mismatch with configuration.")
        expires = _time(claims, "exp")
        if expires is None or now >= expires + leeway:
            raise bad_token("OAuth authorization failed: the token has expired")
        not_before, issued = _time(claims, "nbf"), _time(claims, "iat")
        if (not_before is not None and now < not_before - leeway) or (issued is not None and now < issued - leeway):
            raise bad_token("OAuth authorization failed: the token is not valid yet")
        if mismatch := authorizer.mismatch(claims):
            raise bad_token(f"Claim '{mismatch}' value mismatch with configuration.")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
            raise bad_token("Claim 'sub' is missing.")
        return Token(
            issuer=ring.issuer, subject=subject, scopes=scopes_of(claims), expires=expires + leeway, claims=claims
        )


def _time(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    # JSON has integers that no float holds, so no float is made of it before it is known to be small
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LATEST:
        raise bad_token(f"Claim '{name}' is no time.")
    return float(value)


async def protected_resource(resource: str, authorizer: CustomJWTAuthorizer, issuers: Issuers) -> dict[str, Any]:
    """The protected-resource metadata (RFC 9728) of a runtime: who issues tokens for it.

    Raises:
        HostError: 503, the issuer's name cannot be had.
    """
    ring = await issuers.ring(authorizer.discovery_url)
    found: dict[str, Any] = {"authorization_servers": [ring.issuer], "resource": resource}
    if authorizer.allowed_scopes:
        found["scopes_supported"] = list(authorizer.allowed_scopes)
    return found
