"""Request headers that no application sees: the connection's own, the gateway's, credentials, what proxies add."""

from __future__ import annotations

#: of the managed service's forbidden headers those that programs send
_NAMES = frozenset(
    {
        "connection", "content-length", "cookie", "expect", "forwarded", "host", "keep-alive", "origin",
        "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "via", "x-api-key",
    }
)  # fmt: skip
_BEGINNINGS = ("sec-", "x-amz-", "x-amzn-", "x-forwarded-", "proxy-")
#: headers of this beginning are the application's own
CUSTOM = "x-amzn-bedrock-agentcore-runtime-custom-"


def restricted(name: str) -> bool:
    """Whether a header, its name in lower case, never reaches an application, even if its version lists it."""
    return name in _NAMES or (name.startswith(_BEGINNINGS) and not name.startswith(CUSTOM))
