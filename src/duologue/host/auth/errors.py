"""What a refused caller is told. Names, statuses and texts are the managed service's where it was observed.

Source: AWS "Common Errors" for signatures; live captures for tokens (JSON-RPC body of the missing token, 403 for one that
cannot be parsed, 401 for a claim that does not match).
"""

from __future__ import annotations

import re

from ..types import HostError, RequestHead, Role, Route

_HOST = re.compile(r"[A-Za-z0-9.\-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")

#: what a role is called in a refusal: the service's actions where it has one
ACTIONS: dict[Role, str] = {
    "invoke": "bedrock-agentcore:InvokeAgentRuntime",
    "observe": "duologue:Observe",
    "deploy": "bedrock-agentcore:UpdateAgentRuntime",
    "admin": "duologue:Administer",
}


def invalid(message: str, *, field: str = "") -> HostError:
    """400: the request contradicts itself or cannot be read."""
    body = {"message": message, "reason": "fieldValidationFailed" if field else "cannotParse"}
    if field:
        return HostError(
            400, "ValidationException", message, body={**body, "fieldList": [{"name": field, "message": message}]}
        )
    return HostError(400, "ValidationException", message, body=body)


def denied(message: str, hint: str = "") -> HostError:
    """403: known, but not allowed; or a credential that is not good here."""
    return HostError(403, "AccessDeniedException", message, hint=hint)


def not_allowed(principal: str, role: Role, runtime: str) -> HostError:
    """403: no grant covers it."""
    return denied(f"User: {principal} is not authorized to perform: {ACTIONS[role]} on resource: {runtime or '*'}")


def incomplete_signature(message: str) -> HostError:
    return HostError(403, "IncompleteSignatureException", message)


def bad_signature(message: str = "") -> HostError:
    return HostError(
        403,
        "InvalidSignatureException",
        message
        or "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
        "Access Key and signing method. Consult the service documentation for details.",
    )


def unknown_key() -> HostError:
    """403: no such access key, or it was revoked or has expired."""
    return HostError(403, "UnrecognizedClientException", "The security token included in the request is invalid.")


def mode_mismatch(hint: str = "") -> HostError:
    return denied(
        "Authorization method mismatch. The agent is configured for a different authorization method than what was used "
        "in your request. Check the agent's authorization configuration and ensure your request uses the matching "
        "method (OAuth or SigV4)",
        hint,
    )


def unparsable_token() -> HostError:
    return denied("OAuth authorization failed: Failed to parse token")


def missing_token(head: RequestHead, route: Route) -> HostError:
    """401: no credential at all. The body is JSON-RPC for every protocol, as captured."""
    return HostError(
        401,
        "UnauthorizedException",
        "Missing Authentication Token",
        headers=(("www-authenticate", challenge(head, route)),),
        body={"jsonrpc": "2.0", "error": {"code": -32001, "message": "Missing Authentication Token"}},
    )


def bad_token(message: str, head: RequestHead | None = None, route: Route | None = None) -> HostError:
    """401: a token or key that is not, or no longer, good."""
    challenged = challenge(head, route, error="invalid_token") if head and route else 'Bearer error="invalid_token"'
    return HostError(401, "UnauthorizedException", message, headers=(("www-authenticate", challenged),))


def keys_unavailable() -> HostError:
    return HostError(
        503,
        "ServiceUnavailableException",
        "The keys of the authorization server could not be fetched. Try again later.",
        headers=(("retry-after", "10"),),
    )


def broken() -> HostError:
    """500: the host's own fault; what it was is in its log."""
    return HostError(500, "InternalServerException", "The credential could not be checked.")


def resource_url(head: RequestHead, route: Route) -> str:
    """The URL of the runtime as the client addressed it; "" if that cannot be told safely (RFC 9728's `resource`)."""
    host = head.header("host")
    path = head.path
    at = path.find("/runtimes/")
    if not _HOST.fullmatch(host) or at < 0 or route.kind not in ("invocations", "ws", "stop", "connect", "metadata"):
        return ""
    base = path[:at] + "/runtimes/" + re.split(r"/(?=invocations|ws|stopruntimesession|connect)", path[at + 10 :])[0]
    if not re.fullmatch(r"[A-Za-z0-9/:._~%\-]+", base):
        return ""
    return f"{'https' if head.tls else 'http'}://{host}{base}/invocations"


def metadata_url(head: RequestHead, route: Route) -> str:
    """Where the runtime's protected-resource metadata is; "" as above."""
    url = resource_url(head, route)
    if not url:
        return ""
    return f"{url}/.well-known/oauth-protected-resource?qualifier={route.qualifier}"


def challenge(head: RequestHead, route: Route, *, error: str = "") -> str:
    """The value of WWW-Authenticate (RFC 6750, RFC 9728)."""
    parts = [f'error="{error}"'] if error else []
    if url := metadata_url(head, route):
        parts.append(f'resource_metadata="{url}"')
    return "Bearer " + ", ".join(parts) if parts else "Bearer"
