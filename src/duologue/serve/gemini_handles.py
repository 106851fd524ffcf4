"""Where sessions of Gemini Live can be resumed: what the conversation was when a handle was given out."""

from __future__ import annotations

import secrets
from collections import OrderedDict

import msgspec

#: handles that are good at a time, and bytes of what they stand for; the oldest go
_MOST = 10_000
_BYTES = 64 << 20


class _Kept(msgspec.Struct):
    conversation: bytes
    principal: str
    until: float


class Handles:
    """The handles of one server. `principal` is the key that a client came with: nobody resumes another's session."""

    def __init__(self, handle_s: float) -> None:
        self._handle_s = handle_s
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0

    def give(self, conversation: bytes, principal: str, now: float) -> str:
        """A handle for the conversation as it is."""
        handle = secrets.token_urlsafe(24)
        self._kept[handle] = _Kept(conversation, principal, now + self._handle_s)
        self._bytes += len(conversation)
        while len(self._kept) > _MOST or self._bytes > _BYTES or next(iter(self._kept.values())).until < now:
            self._drop(next(iter(self._kept)))
            if not self._kept:
                return ""  # it alone is too much
        return handle

    def take(self, handle: str, principal: str, now: float) -> bytes | None:
        """The conversation that a handle stands for; None if it is good for nothing. It may be used again."""
        kept = self._kept.get(handle)
        if kept is None or kept.until < now or kept.principal != principal:
            return None
        return kept.conversation

    def drop(self, handle: str) -> None:
        """A newer one has taken its place."""
        if handle in self._kept:
            self._drop(handle)

    def _drop(self, handle: str) -> None:
        self._bytes -= len(self._kept.pop(handle).conversation)
