"""Which credential a request shows. Exactly one: a request that shows two is refused, since two parts could each believe
another.

==================  ==============================================================================================
signature           ``Authorization: AWS4-HMAC-SHA256 …``, or ``X-Amz-Signature`` and its company in the query
token or API key    ``Authorization: Bearer …``; a browser's ``Sec-WebSocket-Protocol:
                    base64UrlBearerAuthorization.<base64url of it>, base64UrlBearerAuthorization``
API key             ``x-api-key``; where clients of other wires send theirs: ``x-goog-api-key`` or ``?key=`` (Gemini),
                    ``openai-insecure-api-key.<key>`` among the subprotocols (OpenAI)
ticket              ``?ticket=``
==================  ==============================================================================================
"""

from __future__ import annotations

import base64
import re
from typing import Literal
from urllib.parse import unquote

import msgspec

from ...wire.sigv4 import ALGORITHM
from ..types import Kind, RequestHead
from . import errors
from .sigv4 import query_values, single
from .vault import Secret

#: the subprotocol that tells a token is among the offers, and the only one answered
SENTINEL = "base64UrlBearerAuthorization"
#: longest encoded token among the subprotocols, and longest token in a header, characters
MAX_ENCODED = 4_096
MAX_TOKEN = 8_192

_SOCKETS: tuple[Kind, ...] = ("ws", "openai", "gemini")
_OPENAI = "openai-insecure-api-key."
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_HIDDEN = {"ticket", "key", "x-amz-signature", "x-amz-security-token", "x-amz-credential", "token", "access_token"}


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A credential as shown. `text` is the token, key or ticket; empty for signatures, which are read from the head."""

    form: Literal["sigv4", "presigned", "bearer", "api-key", "ticket"]
    text: Secret = msgspec.field(default_factory=lambda: Secret(""))
    subprotocol: str = ""


def find(head: RequestHead, kind: Kind) -> Shown | None:
    """The credential of a request; None if it shows none.

    Raises:
        HostError: 400 where it cannot be read, or shows more than one; 403 for an unknown Authorization scheme.
    """
    shown: list[Shown] = []
    if header := single(head, "authorization"):
        shown.append(_authorization(header))
    if any(query_values(head.query, name) for name in ("X-Amz-Signature", "X-Amz-Algorithm", "X-Amz-Credential")):
        shown.append(Shown(form="presigned"))
    if (token := subprotocol_token(head)) is not None:
        shown.append(Shown(form="bearer", text=token, subprotocol=SENTINEL))
    for name in ("x-api-key", *(["x-goog-api-key"] if kind == "gemini" else ())):
        if value := single(head, name):
            shown.append(_text("api-key", value, name))
    # elsewhere the query is the app's
    if kind in _SOCKETS and (text := _query_text(head, "ticket")):
        shown.append(_text("ticket", text, "ticket"))
    if kind == "gemini" and (text := _query_text(head, "key")):
        shown.append(_text("api-key", text, "key"))
    if kind == "openai":
        keys = [offer.removeprefix(_OPENAI) for offer in offers(head) if offer.startswith(_OPENAI)]
        shown += [_text("api-key", key, "sec-websocket-protocol") for key in keys]
    if len(shown) > 1:
        raise errors.invalid("The request shows more than one credential: send one.")
    return shown[0] if shown else None


def _authorization(header: str) -> Shown:
    scheme, _, rest = header.partition(" ")
    if scheme == ALGORITHM:
        return Shown(form="sigv4")
    if scheme.lower() == "bearer":
        token = rest.strip(" ")
        if len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
            raise errors.unparsable_token()
        return Shown(form="bearer", text=Secret(token))
    raise errors.denied(f"Authorization must begin with Bearer or {ALGORITHM}.")


def _query_text(head: RequestHead, name: str) -> str:
    values = query_values(head.query, name)
    if len(values) > 1:
        raise errors.invalid(f"The query names {name} more than once.", field=name)
    return values[0] if values else ""


def _text(form: Literal["api-key", "ticket"], value: str, where: str) -> Shown:
    if len(value) > 512 or not value.isascii() or not value.isprintable():
        raise errors.invalid(f"What {where} holds is no credential of this host.", field=where)
    return Shown(form=form, text=Secret(value))


def offers(head: RequestHead) -> list[str]:
    """The subprotocols offered, in order."""
    lines = [value for name, value in head.headers if name == "sec-websocket-protocol"]
    return [offer for line in lines for piece in line.split(",") if (offer := piece.strip(" \t"))]


def subprotocol_token(head: RequestHead) -> Secret | None:
    """The bearer token among the subprotocols; None if there is none.

    Raises:
        HostError: 400 for a token without the sentinel, two tokens, bad base64url, or more than 4,096 characters.
    """
    offered = offers(head)
    encoded = [offer.removeprefix(f"{SENTINEL}.") for offer in offered if offer.startswith(f"{SENTINEL}.")]
    if not encoded:
        return None
    field = "Sec-WebSocket-Protocol"
    if SENTINEL not in offered:
        raise errors.invalid(f"A token among the subprotocols needs {SENTINEL} beside it.", field=field)
    if len(encoded) > 1:
        raise errors.invalid("There are two tokens among the subprotocols.", field=field)
    if len(encoded[0]) > MAX_ENCODED:
        raise errors.invalid(f"The encoded token is longer than {MAX_ENCODED} characters.", field=field)
    token = decode_base64url(encoded[0])
    text = token.decode("latin-1") if token is not None else ""
    if not _TOKEN.fullmatch(text):
        raise errors.invalid("The token among the subprotocols is no base64url of one.", field=field)
    return Secret(text)


def decode_base64url(text: str) -> bytes | None:
    """Unpadded base64url, strictly: None for other characters, an impossible length, or bits that are cut off."""
    if not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        return None
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return data if base64.urlsafe_b64encode(data).rstrip(b"=").decode() == text else None


def app_subprotocols(head: RequestHead) -> list[str]:
    """The offers that an app may see: without credentials."""
    hidden = (SENTINEL, _OPENAI)
    return [offer for offer in offers(head) if not offer.startswith(hidden)]


def redacted(target: str) -> str:
    """A request target for logs: the values of credentials in the query are left out."""
    path, mark, query = target.partition("?")
    parts = []
    for part in query.split("&") if mark else ():
        name, equals, _ = part.partition("=")
        parts.append(f"{name}=…" if equals and unquote(name).lower() in _HIDDEN else part)
    return path + mark + "&".join(parts)
