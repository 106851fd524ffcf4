"""The driver of a link on virtual time: what it owes the protocol by the clock."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any, cast

import pytest

from duologue.channels.base import Port
from duologue.channels.link import SocketClosedError, run_link
from duologue.channels.websocket import WebSocketChannel
from duologue.testing.clock import run_virtual
from duologue.wire.duologue import ServerDelivery, ServerProtocol
from duologue.wire.duologue.frames import encode_user_audio

HELLO = json.dumps({"type": "hello", "versions": [1], "input": {"rate": 16_000}, "output": {"rate": 24_000}})


class Wire:
    """A socket in memory. Keeps when each text message came out of it."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[str | bytes] = asyncio.Queue()
        self.out: list[tuple[float, dict[str, Any]]] = []
        self.closed: int | None = None

    async def receive(self) -> str | bytes:
        message = await self.inbox.get()
        if not message:
            raise SocketClosedError(1006)
        return message

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.out.append((asyncio.get_running_loop().time(), json.loads(message)))

    async def close(self, code: int, reason: str = "") -> None:
        self.closed = code


class Ear:
    """A port that only counts."""

    def __init__(self) -> None:
        self.samples = 0
        self.told: list[str] = []

    def audio(self, pcm: bytes, position: int | None = None) -> None:
        self.samples += len(pcm) // 2

    def ended(self, reason: str = "client_left") -> None:
        self.told.append(reason)

    def away(self) -> None:
        self.told.append("away")


class Opener:
    def __init__(self) -> None:
        self.ear = Ear()

    async def open(self, link: ServerProtocol) -> WebSocketChannel:
        assert link.hello is not None
        hello = link.hello
        channel = WebSocketChannel(
            ServerDelivery(
                session="s", token="t", input=hello.input, output=hello.output, capabilities=hello.capabilities
            )
        )
        await channel.start(cast(Port, self.ear))
        return channel


@pytest.mark.parametrize("offset", [0.0, 0.007, 0.013, 0.049, 0.111, 0.19])
@pytest.mark.parametrize("frames", [1, 7, 200])
def test_every_frame_is_acknowledged_within_250_ms(offset: float, frames: int) -> None:
    """While frames flow, and after the last of them, when nothing else would have the link look."""

    async def call() -> None:
        loop, wire, opener = asyncio.get_running_loop(), Wire(), Opener()
        driver = loop.create_task(run_link(wire, HELLO, opener, notice=lambda channel: ""))
        await asyncio.sleep(1.0 + offset)
        sent: deque[tuple[float, int]] = deque()
        for n in range(frames):
            sent.append((loop.time(), n + 1))
            wire.inbox.put_nowait(encode_user_audio(1, n + 1, n * 320, bytes(640)))
            wire.inbox.put_nowait(json.dumps({"type": "ping", "t": loop.time()}))
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert opener.ear.samples == frames * 320
        acks = [(at, message["n"]) for at, message in wire.out if message["type"] == "ack"]
        for at, n in sent:
            first = min(when for when, upto in acks if upto >= n)
            assert first - at <= 0.25 + 1e-9
        assert len(acks) <= frames / 10 + 1, "not one a frame"
        wire.inbox.put_nowait('{"type":"bye","code":"done"}')
        await driver
        assert wire.closed == 1000
        assert opener.ear.told == ["hangup"]

    run_virtual(call())


def test_a_client_that_says_nothing_is_found_dead_and_its_link_is_closed() -> None:
    async def call() -> None:
        loop, wire, opener = asyncio.get_running_loop(), Wire(), Opener()
        await run_link(wire, HELLO, opener, notice=lambda channel: "")
        assert 3.0 <= loop.time() <= 6.0
        assert wire.closed == 4010
        assert opener.ear.told == ["away"]
        assert any(message.get("code") == "link_dead" for _, message in wire.out)

    run_virtual(call())
