"""Request headers: which no application sees (the connection's own, the gateway's, credentials, what proxies add), and ours."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

#: what a foreign application is told of its session: the metadata that it was started with; the host's alone to send
METADATA = "x-duologue-session-metadata"
#: of the managed service's forbidden headers those that programs send
_NAMES = frozenset(
    {
        "connection", "content-length", "cookie", "expect", "forwarded", "host", "keep-alive", "origin",
        "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "via", "x-api-key", METADATA,
    }
)  # fmt: skip
_BEGINNINGS = ("sec-", "x-amz-", "x-amzn-", "x-forwarded-", "proxy-")
#: headers of this beginning are the application's own
CUSTOM = "x-amzn-bedrock-agentcore-runtime-custom-"


def restricted(name: str) -> bool:
    """Whether a header, its name in lower case, never reaches an application, even if its version lists it."""
    name = name.replace("_", "-")  # servers that follow CGI read both as one
    return name in _NAMES or (name.startswith(_BEGINNINGS) and not name.startswith(CUSTOM))


def metadata(of: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The header with a session's metadata: compact JSON in base64url without padding (RFC 4648, 5). () if there is none."""
    if not of:
        return ()
    return ((METADATA, base64.urlsafe_b64encode(msgspec.json.encode(of)).rstrip(b"=").decode()),)
