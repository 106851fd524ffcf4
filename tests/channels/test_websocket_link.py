"""The driver of a link on virtual time: what it owes the protocol by the clock."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from duologue.channels.base import Port
from duologue.channels.link import DirectSocket, End, SocketClosedError, run_link
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


class DirectWire(Wire):
    """The same as a direct socket, which writes `room` messages a turn of the event loop."""

    def __init__(self, room: int = 1_000_000) -> None:
        super().__init__()
        self.room = self.left = room
        self.end: End | None = None
        self.asked = False
        self.posted = 0

    def attach(self, end: End) -> None:
        self.end = end
        self._feeding = asyncio.get_running_loop().create_task(self._feed())

    def detach(self) -> None:
        self.end = None
        self._feeding.cancel()

    async def _feed(self) -> None:
        while True:
            message = await self.inbox.get()
            if self.end is None:
                return
            if not message:
                self.end.gone(1006)
                return
            self.end.take(message)

    def ready(self) -> None:
        if not self.asked:
            self.asked = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self.asked = False
        self.left = self.room
        if self.end is not None:
            self.end.fill()

    def post(self, message: str | bytes) -> bool:
        assert self.left, "posted after it was told that there is no room"
        self.posted += 1
        self.left -= 1
        if isinstance(message, str):
            self.out.append((asyncio.get_running_loop().time(), json.loads(message)))
        if not self.left:
            self.ready()
        return self.left > 0


def narrow() -> DirectWire:
    """One message a turn."""
    return DirectWire(1)


SOCKETS = pytest.mark.parametrize("make", [Wire, DirectWire, narrow])


class Ear:
    """A port that only counts."""

    def __init__(self) -> None:
        self.samples = 0
        self.told: list[str] = []
        self.broken = False

    def audio(self, pcm: bytes, position: int | None = None) -> None:
        if self.broken:
            raise RuntimeError("a fault of ours")
        self.samples += len(pcm) // 2

    def ended(self, reason: str = "client_left") -> None:
        self.told.append(reason)

    def away(self) -> None:
        self.told.append("away")

    async def keep(self, state: bytes, told: int) -> None:
        """There is no journal."""

    def took(self, epoch: int, n: int) -> None:
        """There is no journal."""


class Opener:
    def __init__(self, refresh: Callable[[str], Awaitable[float | None]] | None = None) -> None:
        self.ear = Ear()
        self.refresh = refresh
        self.channel: WebSocketChannel | None = None

    async def open(self, link: ServerProtocol) -> WebSocketChannel:
        assert link.hello is not None
        hello = link.hello
        channel = WebSocketChannel(
            ServerDelivery(
                session="s", token="t", input=hello.input, output=hello.output, capabilities=hello.capabilities
            ),
            refresh=self.refresh,
        )
        self.channel = channel
        await channel.start(cast(Port, self.ear))
        return channel


@SOCKETS
@pytest.mark.parametrize("offset", [0.0, 0.007, 0.013, 0.049, 0.111, 0.19])
@pytest.mark.parametrize("frames", [1, 7, 200])
def test_every_frame_is_acknowledged_within_250_ms(make: Callable[[], Wire], offset: float, frames: int) -> None:
    """While frames flow, and after the last of them, when nothing else would have the link look."""

    async def call() -> None:
        loop, wire, opener = asyncio.get_running_loop(), make(), Opener()
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


@SOCKETS
def test_a_client_that_says_nothing_is_found_dead_and_its_link_is_closed(make: Callable[[], Wire]) -> None:
    async def call() -> None:
        loop, wire, opener = asyncio.get_running_loop(), make(), Opener()
        await run_link(wire, HELLO, opener, notice=lambda channel: "")
        assert 3.0 <= loop.time() <= 6.0
        assert wire.closed == 4010
        assert opener.ear.told == ["away"]
        assert any(message.get("code") == "link_dead" for _, message in wire.out)

    run_virtual(call())


def test_the_two_kinds_are_told_apart() -> None:
    async def call() -> None:
        assert isinstance(DirectWire(), DirectSocket)
        assert not isinstance(Wire(), DirectSocket)

    run_virtual(call())


@SOCKETS
def test_what_waits_is_written_in_order_though_little_goes_at_a_time(make: Callable[[], Wire]) -> None:
    async def call() -> None:
        wire, opener = make(), Opener()
        driver = asyncio.get_running_loop().create_task(run_link(wire, HELLO, opener, notice=lambda channel: ""))
        await asyncio.sleep(0.1)
        assert opener.channel is not None
        for n in range(40):
            opener.channel.delivery.send_event(json.dumps({"type": "notice", "text": str(n)}))
        await asyncio.sleep(0.1)
        texts = [message["event"]["text"] for _, message in wire.out if message["type"] == "event"]
        assert texts == [str(n) for n in range(40)]
        wire.inbox.put_nowait("")
        await driver
        assert opener.ear.told == ["away"]

    run_virtual(call())


@SOCKETS
def test_a_fault_of_ours_ends_the_link_and_tells_the_client(make: Callable[[], Wire]) -> None:
    """A reader that had died of it would leave a call that hears nothing."""

    async def call() -> None:
        wire, opener = make(), Opener()
        driver = asyncio.get_running_loop().create_task(run_link(wire, HELLO, opener, notice=lambda channel: ""))
        await asyncio.sleep(0.1)
        opener.ear.broken = True
        wire.inbox.put_nowait(encode_user_audio(1, 1, 0, bytes(640)))
        await driver
        assert wire.closed == 1011
        assert [message["code"] for _, message in wire.out if message["type"] == "error"] == ["internal"]
        assert opener.ear.told == ["away"]

    run_virtual(call())


@SOCKETS
def test_a_credential_is_verified_beside_the_call_one_at_a_time(make: Callable[[], Wire]) -> None:
    async def call() -> None:
        asked: list[str] = []

        async def refresh(token: str) -> float | None:
            asked.append(token)
            await asyncio.sleep(1.0)
            return 60.0

        wire, opener = make(), Opener(refresh)
        driver = asyncio.get_running_loop().create_task(run_link(wire, HELLO, opener, notice=lambda channel: ""))
        await asyncio.sleep(0.1)
        for token in ("one", "two"):
            wire.inbox.put_nowait(json.dumps({"type": "auth.refresh", "token": token}))
        wire.inbox.put_nowait(encode_user_audio(1, 1, 0, bytes(640)))
        await asyncio.sleep(0.5)
        assert opener.ear.samples == 320, "nobody waits for the verification"
        await asyncio.sleep(1.0)
        assert asked == ["one"]
        kinds = [message["type"] for _, message in wire.out if message["type"] in ("error", "auth.refreshed")]
        assert kinds == ["error", "auth.refreshed"]
        wire.inbox.put_nowait(json.dumps({"type": "auth.refresh", "token": "three"}))
        await asyncio.sleep(0.1)
        wire.inbox.put_nowait("")
        await driver
        assert asked == ["one", "three"]
        assert len(asyncio.all_tasks()) == 1, "the verification ends with its link"

    run_virtual(call())
