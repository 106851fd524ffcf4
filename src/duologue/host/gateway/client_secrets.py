"""``POST …/v1/realtime/client_secrets``: a secret with which a page opens the OpenAI wire of one runtime, in OpenAI's shapes."""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec

from ...wire.openai_realtime import SessionConfig, SessionPatch
from ...wire.openai_realtime.config import applied
from ..auth.client_secrets import MAX_S, MIN_S
from ..types import Authority, HostError, Identity, Route

#: longest body; what is passed on of it must fit the link's frame
MOST_BYTES = 32 << 10


class _Expiry(msgspec.Struct):
    seconds: int = 600
    anchor: str = "created_at"


class _Wanted(msgspec.Struct):
    expires_after: _Expiry = msgspec.field(default_factory=_Expiry)
    session: SessionPatch | None = None


async def make(authority: Authority, identity: Identity, route: Route, body: bytes) -> dict[str, Any]:
    """``{"expires_after"?, "session"?}`` in, ``{"value": "ek_…", "expires_at", "session"}`` out.

    Raises:
        HostError: 400 the body cannot be read, 403 as for :meth:`Authority.client_secret`.
    """
    try:
        wanted = msgspec.json.decode(body or b"{}", type=_Wanted)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(f"The body cannot be read: {error}") from None
    seconds = wanted.expires_after.seconds
    if not MIN_S <= seconds <= MAX_S:
        raise _bad(f"expires_after.seconds is {MIN_S} to {MAX_S}.")
    preset = msgspec.json.encode(wanted.session).decode() if wanted.session is not None else ""
    value, until = await authority.client_secret(
        identity,
        tenant=route.tenant,
        runtime=route.runtime,
        qualifier=route.qualifier,
        session=preset,
        seconds=seconds,
    )
    config = SessionConfig(id=f"sess_{secrets.token_hex(8)}", model="duologue", expires_at=int(time.time() + seconds))
    if wanted.session is not None:
        config = applied(config, wanted.session)
    return {"value": value, "expires_at": int(until), "session": msgspec.to_builtins(config)}


def _bad(message: str) -> HostError:
    return HostError(400, "ValidationException", message)
