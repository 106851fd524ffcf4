"""Clients that mean harm, in a process of their own: `python -m benchmarks.hosted.attackers KIND HOST PORT PATH KEY SECONDS`.

They keep to a rate that leaves the machine's cores to the host: what is to be seen is what a connection costs, not who computes
faster. Prints how often what happened, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

_UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: {nonce}\r\n{more}\r\n"
)
_NONCE = "AAAAAAAAAAAAAAAAAAAAAA=="
#: new connections a second of those who come and go, and connections of those who stay
_RATE, _STAY, _DEAF = 400, 300, 40
#: frames of each of those who do not read
_FRAMES = 50


class Attack:
    """What all have: the address, the end, and the count."""

    def __init__(self, host: str, port: int, path: str, key: str, seconds: float) -> None:
        self.host, self.port, self.path, self.key = host, port, path, key
        self.seconds = seconds
        self.seen: Counter[str] = Counter()
        self.chance = os.urandom

    async def run(self, one: Callable[[], Coroutine[Any, Any, None]], *, stay: int = 0) -> None:
        """`stay` of them at a time as soon as one is gone; 0: so many a second."""
        end = asyncio.get_running_loop().time() + self.seconds
        tasks: set[asyncio.Task[None]] = set()

        async def again() -> None:
            while asyncio.get_running_loop().time() < end:
                await one()
                await asyncio.sleep(0.05)

        if stay:
            tasks = {asyncio.create_task(again()) for _ in range(stay)}
            await asyncio.sleep(self.seconds)
        else:
            while asyncio.get_running_loop().time() < end:
                for _ in range(_RATE // 50):
                    task = asyncio.create_task(one())
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            writer.write(data)
        except OSError as error:
            self.seen[type(error).__name__] += 1
            return None
        return reader, writer

    async def _answer(self, data: bytes) -> None:
        if (pair := await self._send(data)) is None:
            return
        reader, writer = pair
        try:
            async with asyncio.timeout(5.0):
                head = await reader.read(4096)
            self.seen[head.split(b"\r", 1)[0].decode("latin-1")[:16] or "closed"] += 1
        except (OSError, TimeoutError) as error:
            self.seen[type(error).__name__] += 1
        finally:
            writer.close()

    # ------------------------------------------------------------------ kinds

    async def forged(self) -> None:
        """Upgrades with a key that is none."""
        key = f"Authorization: Bearer dk_{os.urandom(24).hex()}\r\n"
        head = _UPGRADE.format(path=self.path, host=self.host, nonce=_NONCE, more=key)
        await self.run(lambda: self._answer(head.encode()))

    async def garbage(self) -> None:
        """Bytes."""
        await self.run(lambda: self._answer(os.urandom(600) + b"\r\n\r\n"))

    async def slow(self) -> None:
        """Heads of which a byte comes each second."""

        async def drip() -> None:
            if (pair := await self._send(b"GET / HTTP/1.1\r\nX: ")) is None:
                return
            reader, writer = pair
            try:
                while True:
                    writer.write(b"a")
                    await writer.drain()
                    try:
                        async with asyncio.timeout(1.0):
                            left = await reader.read(4096)
                    except TimeoutError:
                        continue
                    self.seen[left.split(b"\r", 1)[0].decode("latin-1")[:16] or "closed"] += 1
                    return
            except OSError as error:
                self.seen[type(error).__name__] += 1
            finally:
                writer.close()

        await self.run(drip, stay=_STAY)

    async def deaf(self) -> None:
        """Callers with a good key who ask for much and read nothing."""

        async def call() -> None:
            head = _UPGRADE.format(
                path=self.path, host=self.host, nonce=_NONCE, more=f"Authorization: Bearer {self.key}\r\n"
            )
            if (pair := await self._send(head.encode())) is None:
                return
            reader, writer = pair
            try:
                self.seen[(await reader.readline()).decode("latin-1")[:12]] += 1
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                hello = b'{"type":"hello","versions":[1],"input":{"rate":16000},"output":{"rate":24000}}'
                writer.write(_frame(hello))
                for n in range(1, _FRAMES):
                    text = b'{"type":"input","e":1,"n":%d,"input":{"type":"input.text","text":"and what then"}}' % n
                    writer.write(_frame(text))
                    await writer.drain()
                    await asyncio.sleep(0.5)
            except OSError as error:
                self.seen[type(error).__name__] += 1
            finally:
                writer.transport.abort()

        await self.run(call, stay=_DEAF)


def _frame(text: bytes) -> bytes:
    """A masked text frame, the mask being zero (RFC 6455, section 5.2)."""
    size = len(text)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    return b"\x81" + length + b"\0\0\0\0" + text


def main() -> None:
    kind, host, port, path, key, seconds = sys.argv[1:]
    attack = Attack(host, int(port), path, key, float(seconds))
    asyncio.run(getattr(attack, kind)())
    print(json.dumps(dict(attack.seen.most_common(6))))


if __name__ == "__main__":
    main()
