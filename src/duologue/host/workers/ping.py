"""Asking a foreign app's `/ping` over its Unix socket."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

_REQUEST = b"GET /ping HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n"
#: longest answer that is read
_LONGEST = 16 << 10


class Pong(msgspec.Struct, frozen=True):
    """What `/ping` answered: HTTP status, and whether it says HealthyBusy. Time stamps are ignored: see docs/host.md."""

    status: int
    busy: bool


class _Body(msgspec.Struct):
    status: str = ""


async def ping(path: str, timeout_s: float) -> Pong | None:
    """The answer; None if there was none in time. Never raises."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(path, limit=_LONGEST)
            try:
                writer.write(_REQUEST)
                return _parse(await _read(reader))
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        return None


async def _read(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    while len(answer) < _LONGEST:
        data = await reader.read(_LONGEST)
        if not data:
            break
        answer += data
    return answer


def _parse(answer: bytes) -> Pong:
    """Raises ValueError if this is no HTTP response. A body in chunks is small enough to be searched as it is."""
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1."):
        raise ValueError("no HTTP response")
    status = int(words[1])
    opening, closing = body.find(b"{"), body.rfind(b"}")
    busy = False
    with contextlib.suppress(msgspec.DecodeError):
        busy = msgspec.json.decode(body[opening : closing + 1], type=_Body).status == "HealthyBusy"
    return Pong(status, busy)
