"""Where a page comes from that connects: the Origin header, which browsers send and pages cannot change."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from ..types import RequestHead
from .errors import denied
from .sigv4 import single

_PORTS = {"http": 80, "https": 443}


def origin_of(head: RequestHead) -> str:
    """The request's Origin, normalised; "" if there is none.

    Raises:
        HostError: 403 for `null` (a sandboxed frame, a file, a redirect: anybody), and for what is no origin.
    """
    text = single(head, "origin")
    if not text and not any(name == "origin" for name, _ in head.headers):
        return ""
    found = normalised(text)
    if not found:
        raise denied("Pages without an origin may not connect.")
    return found


def check_origin(origin: str, listed: Iterable[str]) -> None:
    """Whether pages of `origin` may use a runtime; `*` lists all.

    Raises:
        HostError: 403.
    """
    names = {name if name == "*" else normalised(name) for name in listed}
    if origin and origin not in names and "*" not in names:
        raise denied(f"Pages of {origin} may not connect to this agent: its origins do not list them.")


def normalised(text: str) -> str:
    """An origin as scheme://host[:port], lower-case, without the scheme's own port; "" for what is none."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return ""
    bare = not (parts.path.rstrip("/") or parts.query or parts.fragment or "@" in parts.netloc)
    if (
        not parts.hostname
        or not bare
        or not parts.scheme
        or not text.isascii()
        or not text.isprintable()
        or " " in text
    ):
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    own = port is None or port == _PORTS.get(parts.scheme)
    return f"{parts.scheme}://{host}" if own else f"{parts.scheme}://{host}:{port}"
