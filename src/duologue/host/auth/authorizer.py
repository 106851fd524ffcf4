"""The configuration of token checking, in the managed service's names (`customJWTAuthorizer`), and the checks of claims.

Source: `bedrock-agentcore-control` 2023-06-05, shape CustomJWTAuthorizerConfiguration. Ours on top, beside it: `modes`
(which credentials the runtime takes), and inside it `algorithms` and `clientClaims`.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from ...errors import DuologueError, check_options
from .errors import invalid
from .fetch import split_https

AuthMode = Literal["sigv4", "key", "oauth"]
#: signatures by public keys; symmetric ones would make every verifier a forger
ALGORITHMS: tuple[str, ...] = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
_DISCOVERY = re.compile(r"[^\s?#]+/\.well-known/(openid-configuration|oauth-authorization-server)(/[^\s?#]+)?")
#: parts of the service's shape that mean its own network and identities
_FOREIGN = ("privateEndpoint", "privateEndpointOverrides", "certificateConfigurations", "allowedWorkloadConfiguration")


class _Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    pass


class ClaimMatchValue(_Struct, frozen=True, kw_only=True):
    """One of the two."""

    match_value_string: str | None = None
    match_value_string_list: tuple[str, ...] | None = None


class AuthorizingClaimMatchValue(_Struct, frozen=True, kw_only=True):
    claim_match_value: ClaimMatchValue
    claim_match_operator: Literal["EQUALS", "CONTAINS", "CONTAINS_ANY"]


class CustomClaim(_Struct, frozen=True, kw_only=True):
    """A claim that must match: STRING with EQUALS, STRING_ARRAY with CONTAINS or CONTAINS_ANY."""

    inbound_token_claim_name: str
    inbound_token_claim_value_type: Literal["STRING", "STRING_ARRAY"]
    authorizing_claim_match_value: AuthorizingClaimMatchValue

    def matches(self, claims: dict[str, Any]) -> bool:
        """Whether the claim is there, of its type, and has a wanted value."""
        value = claims.get(self.inbound_token_claim_name)
        wanted = self.authorizing_claim_match_value.claim_match_value
        if self.inbound_token_claim_value_type == "STRING":
            return isinstance(value, str) and value == wanted.match_value_string
        if not isinstance(value, list):
            return False
        any_of = (
            (wanted.match_value_string,) if wanted.match_value_string is not None else wanted.match_value_string_list
        )
        return any(item in value for item in any_of or ())

    def fault(self) -> str:
        """What is wrong with it; "" if nothing."""
        match = self.authorizing_claim_match_value
        operator, value = match.claim_match_operator, match.claim_match_value
        if not self.inbound_token_claim_name:
            return "inboundTokenClaimName is empty"
        if (self.inbound_token_claim_value_type == "STRING") != (operator == "EQUALS"):
            return "STRING goes with EQUALS, STRING_ARRAY with CONTAINS or CONTAINS_ANY"
        if operator == "CONTAINS_ANY":
            return (
                ""
                if value.match_value_string_list and value.match_value_string is None
                else "give matchValueStringList"
            )
        return "" if value.match_value_string and value.match_value_string_list is None else "give matchValueString"


class CustomJWTAuthorizer(_Struct, frozen=True, kw_only=True):
    """Whose tokens are taken, and which of them. Every configured check must pass.

    Attributes:
        algorithms: of signatures; only of public keys.
        client_claims: claims that may name the client, in order; the first one present decides.
    """

    discovery_url: str
    allowed_audience: tuple[str, ...] = ()
    allowed_clients: tuple[str, ...] = ()
    allowed_scopes: tuple[str, ...] = ()
    custom_claims: tuple[CustomClaim, ...] = ()
    advertised_scope_mapping: dict[str, Any] = {}
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    client_claims: tuple[str, ...] = ("client_id",)

    def mismatch(self, claims: dict[str, Any]) -> str:
        """The claim that does not match the configuration; "" if all do."""
        if self.allowed_audience and not set(_texts(claims.get("aud"))) & set(self.allowed_audience):
            return "aud"
        if self.allowed_clients:
            name = next((name for name in self.client_claims if name in claims), self.client_claims[0])
            if claims.get(name) not in self.allowed_clients:
                return name
        if self.allowed_scopes and not set(scopes_of(claims)) & set(self.allowed_scopes):
            return "scope"
        return next((c.inbound_token_claim_name for c in self.custom_claims if not c.matches(claims)), "")


class RuntimeAuth(msgspec.Struct, frozen=True, kw_only=True):
    """Which credentials a runtime takes. `jwt` is None where tokens are not taken."""

    modes: tuple[AuthMode, ...]
    jwt: CustomJWTAuthorizer | None = None


def parse_auth(auth: dict[str, Any], *, require_audience: bool = True, exclusive: bool = False) -> RuntimeAuth:
    """A runtime's configuration: ``{"customJWTAuthorizer": {…}, "modes": ["sigv4", "key", "oauth"]}``, or ``{}``.

    Args:
        require_audience: whether tokens must be meant for somebody here, by `allowedAudience` or `allowedClients`.
        exclusive: as the managed service has it, a runtime with an authorizer takes tokens and nothing else.

    Raises:
        HostError: 400 ValidationException that says what is wrong.
    """
    try:
        check_options("authorizerConfiguration", auth, ("customJWTAuthorizer", "modes"))
    except DuologueError as error:
        raise invalid(str(error), field="authorizerConfiguration") from None
    found = auth.get("customJWTAuthorizer")
    jwt = None if found is None else _parse_jwt(found, require_audience)
    known: tuple[AuthMode, ...] = (
        ("sigv4", "key") if jwt is None else ("oauth",) if exclusive else ("sigv4", "key", "oauth")
    )
    try:
        modes = msgspec.convert(auth.get("modes", known), tuple[AuthMode, ...])
    except msgspec.ValidationError:
        raise invalid("modes may hold sigv4, key and oauth.", field="authorizerConfiguration.modes") from None
    if not modes or ("oauth" in modes) != (jwt is not None) or not set(modes) <= set(known):
        raise invalid(
            "modes must hold oauth exactly where customJWTAuthorizer is given, and nothing else if modes exclude each other.",
            field="authorizerConfiguration.modes",
        )
    return RuntimeAuth(modes=modes, jwt=jwt)


def _parse_jwt(found: Any, require_audience: bool) -> CustomJWTAuthorizer:
    field = "authorizerConfiguration.customJWTAuthorizer"
    foreign = next((name for name in _FOREIGN if isinstance(found, dict) and name in found), None)
    if foreign:
        raise invalid(f"{foreign} means the managed service's own network; leave it out.", field=f"{field}.{foreign}")
    try:
        jwt = msgspec.convert(found, CustomJWTAuthorizer)
    except msgspec.ValidationError as error:
        raise invalid(f"customJWTAuthorizer cannot be read: {error}", field=field) from None
    if not _DISCOVERY.fullmatch(jwt.discovery_url) or not _is_https(jwt.discovery_url):
        raise invalid(
            "discoveryUrl must be https and end in /.well-known/openid-configuration.", field=f"{field}.discoveryUrl"
        )
    if not (jwt.allowed_audience or jwt.allowed_clients or jwt.allowed_scopes or jwt.custom_claims):
        raise invalid(
            "Give at least one of allowedAudience, allowedClients, allowedScopes and customClaims.", field=field
        )
    if require_audience and not (jwt.allowed_audience or jwt.allowed_clients):
        raise invalid("Give allowedAudience or allowedClients: tokens meant for others would pass.", field=field)
    if not jwt.algorithms or not set(jwt.algorithms) <= set(ALGORITHMS):
        raise invalid(f"algorithms may hold {', '.join(ALGORITHMS)}.", field=f"{field}.algorithms")
    if not jwt.client_claims or not all(jwt.client_claims):
        raise invalid("clientClaims must name a claim.", field=f"{field}.clientClaims")
    for claim in jwt.custom_claims:
        if fault := claim.fault():
            raise invalid(f"customClaims: {fault}.", field=f"{field}.customClaims")
    return jwt


def _is_https(url: str) -> bool:
    try:
        split_https(url)
    except DuologueError:
        return False
    return True


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def scopes_of(claims: dict[str, Any]) -> tuple[str, ...]:
    """The scopes of a token: `scope`, separated by spaces, or `scp`, a text or a list."""
    value = claims.get("scope", claims.get("scp"))
    if isinstance(value, str):
        return tuple(value.split())
    return tuple(_texts(value))
