"""How strict the authority is."""

from __future__ import annotations

import msgspec

from .jwks import JwksTimes
from .oauth import LEEWAY_S


class AuthOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See :class:`duologue.host.auth.authority.HostAuthority`.

    Attributes:
        region: what signatures are scoped to where the request names no ARN.
        default_tenant: whose a runtime is that a token's holder names without an account; "": it must be named.
        require_signed_session: whether a signature must cover the session id that the request names.
        sessions_per_signature: for how many sessions one signature may be used where it does not cover the id. Stock
            clients sign whole seconds: two calls opened in one second have the same signature.
        unsigned_payload: whether UNSIGNED-PAYLOAD is taken, and then over TLS only.
        exclusive_modes: as the managed service, a runtime with an authorizer takes tokens and nothing else.
        require_audience: whether an authorizer must name an audience or clients.
        leeway_s: how far an issuer's clock may be off.
        jwks: how long keys of issuers are kept.
    """

    region: str = "us-east-1"
    default_tenant: str = ""
    require_signed_session: bool = False
    sessions_per_signature: int = 1
    unsigned_payload: bool = False
    exclusive_modes: bool = False
    require_audience: bool = True
    leeway_s: float = LEEWAY_S
    jwks: JwksTimes = JwksTimes()
