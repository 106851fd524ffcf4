"""Who may use the server: `Host`, `Origin` and key, checked before anything else is looked at."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from ..errors import ProtocolError
from .options import ServeOptions

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


def _name(host: str) -> str:
    """The host of a `Host` header, without port, lower-case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.rsplit(":", 1)[0] if host.count(":") == 1 else host


class Guard:
    """Checks requests against :class:`ServeOptions`."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._hosts = {*_LOOPBACK, options.host.lower(), *(host.lower() for host in options.hosts)}
        # A server on all addresses, or behind a proxy with authentication on, is reached by names it cannot know.
        self._any_host = options.host in ("0.0.0.0", "::") and not options.hosts
        self._origins = {origin.lower().rstrip("/") for origin in options.origins}

    def refusal(self, headers: dict[str, str]) -> tuple[int, str] | None:
        """An HTTP status and text if the request may not be served for where it comes from, else None.

        A page of another site that was made to resolve to this machine sends its own `Host`; a page that connects across
        sites sends its own `Origin`. Programs send no `Origin`.
        """
        host = headers.get("host", "")
        if not self._any_host and _name(host) not in self._hosts:
            return 421, f"This server does not answer to the name {_name(host)!r}. Allow it with --host-name."
        origin = headers.get("origin")
        if origin is not None:
            if origin == "null":
                return 403, "A page without an origin may not connect."
            if urlsplit(origin).netloc.lower() != host.lower() and origin.lower().rstrip("/") not in self._origins:
                return 403, f"Pages of {origin} may not connect. Allow them with --origin."
        return None

    def authorised(self, headers: dict[str, str]) -> bool:
        """Whether the request's header presents the key (or none is wanted)."""
        scheme, _, credential = headers.get("authorization", "").partition(" ")
        return not self._options.key or (scheme.lower() == "bearer" and self._is_key(credential.strip()))

    def check_token(self, headers: dict[str, str], token: str) -> None:
        """Raises ProtocolError (4003) if neither header nor `token` presents the key."""
        if not self.authorised(headers) and not self._is_key(token):
            raise ProtocolError(
                "This server wants a key.",
                hint="Send it as `Authorization: Bearer`, or as `token` in hello.",
                code="auth",
                close_code=4003,
            )

    def _is_key(self, credential: str) -> bool:
        return hmac.compare_digest(credential.encode(), self._options.key.encode())
