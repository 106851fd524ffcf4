"""WebSockets through the gateway: to an unmodified app of the public SDK, and over a link to a Duologue worker."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET
from socket import socket as Socket
from typing import Any

import pytest
import trustme
import uvloop
from bedrock_agentcore import BedrockAgentCoreApp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode

from duologue.host.gateway import GatewayLimits, GatewayOptions
from duologue.host.gateway.carriers import LinkCarrier
from duologue.host.types import HostError
from duologue.wire.hostlink import Closed, Message, Opened, RefreshAnswered
from tests.host.gateway.parts import (
    ARN,
    KEY,
    RUNTIME,
    SESSION,
    SESSION_HEADER,
    TENANT,
    Worker,
    World,
    app_behind,
    client,
    echo,
    world,
)

pytestmark = pytest.mark.anyio


class App:
    """An app of the SDK that says each message back, and how its sockets ended."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.opened: list[Any] = []
        self.over = asyncio.Event()
        self.app = BedrockAgentCoreApp()

        @self.app.websocket
        async def handler(websocket: Any, context: Any) -> None:
            offered = websocket.scope["subprotocols"]
            self.opened.append((context.session_id, dict(websocket.headers), offered))
            await websocket.accept(subprotocol=offered[0] if offered else None)
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    self.ended.append(message["code"])
                    self.over.set()
                    return
                if message.get("text") == "raise":
                    raise RuntimeError("inside")
                if message.get("text") == "close":
                    await websocket.close(4321, "enough")
                    return
                if len(message.get("bytes") or b"") == 70_000:
                    await websocket.send_text("70000")  # in one frame it would be over the limit
                elif message.get("text") is not None:
                    await websocket.send_text(message["text"])
                else:
                    await websocket.send_bytes(message["bytes"])


@pytest.fixture
def app() -> App:
    """A fresh one."""
    return App()


@contextlib.asynccontextmanager
async def talk(world: World, url: str = "", headers: Any = KEY, **more: Any) -> AsyncIterator[ClientConnection]:
    """A client's socket."""
    async with connect(url or world.ws, additional_headers=headers, proxy=None, max_size=None, **more) as socket:
        yield socket


async def ended(socket: ClientConnection) -> tuple[int | None, str]:
    """Code and reason of the close that comes."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await socket.recv()
    return socket.close_code, socket.close_reason or ""


async def refusal(world: World, url: str = "", headers: Any = KEY, **more: Any) -> Any:
    """The HTTP answer that refuses an upgrade."""
    with pytest.raises(InvalidStatus) as caught:
        async with talk(world, url, headers, **more):
            pass
    return caught.value.response


# --------------------------------------------------------------------------- foreign apps


async def test_text_and_binary_pass_unchanged(app: App) -> None:
    async with world() as w, app_behind(w, app.app), talk(w, headers={**KEY, SESSION_HEADER: SESSION}) as socket:
        assert socket.response is not None
        assert socket.response.headers[SESSION_HEADER] == SESSION
        assert "Sec-WebSocket-Extensions" not in socket.response.headers
        for message in ("häl\0lo", b"\x00\xff" * 700, "", b"", "x" * 60_000):
            await socket.send(message)
            assert await socket.recv() == message
        await (await socket.ping())
        await socket.send(["frag", "men", "ted"])
        assert await socket.recv() == "fragmented"
        assert app.opened[0][0] == SESSION
        assert "authorization" not in app.opened[0][1]
        assert "sec-websocket-extensions" not in app.opened[0][1]
        await socket.close(4001, "mine")
        await app.over.wait()
        assert app.ended == [4001]
        await w.rooms.empty()


@pytest.mark.parametrize("id", [ARN, ARN.replace(":", "%3A").replace("/", "%2F")])
async def test_targets_as_browsers_and_sdks_write_them(app: App, id: str) -> None:
    custom = "X-Amzn-Bedrock-AgentCore-Runtime-Custom-Lang"
    async with world() as w, app_behind(w, app.app):
        url = f"ws://127.0.0.1:{w.port}/runtimes/{id}/ws?qualifier=DEFAULT&{SESSION_HEADER}={SESSION}&{custom}=no"
        async with talk(w, url) as socket:
            await socket.send("x")
            assert await socket.recv() == "x"
        assert app.opened[0][0] == SESSION
        assert app.opened[0][1][custom.lower()] == "no"


async def test_a_subprotocol_is_negotiated_end_to_end(app: App) -> None:
    async with world() as w, app_behind(w, app.app):
        async with talk(w, subprotocols=["chat", "other"]) as socket:
            assert socket.subprotocol == "chat"
        assert app.opened[0][2] == ["chat", "other"]


async def test_a_browsers_token_is_echoed_as_the_sentinel_alone(app: App, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    token = base64.urlsafe_b64encode(b"very-secret").rstrip(b"=").decode()
    offered = [f"base64UrlBearerAuthorization.{token}", "base64UrlBearerAuthorization"]
    async with world() as w, app_behind(w, app.app), talk(w, headers={}, subprotocols=offered) as socket:
        assert socket.subprotocol == "base64UrlBearerAuthorization"
        assert token not in str(socket.response)
        assert app.opened[0][2] == []
        assert token not in str(app.opened)
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith("websockets.client")]
    assert token not in "".join(ours)


async def test_an_app_may_say_all_it_has_to_say_at_once() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "sold out"})
            await send({"type": "websocket.close", "code": 4000, "reason": "come back"})

    async with world() as w, app_behind(w, app), talk(w) as socket:
        assert await socket.recv() == "sold out"
        assert await ended(socket) == (4000, "come back")
        await w.rooms.empty()


async def test_the_apps_closes_reach_the_client(app: App) -> None:
    async with world() as w, app_behind(w, app.app):
        async with talk(w) as socket:
            await socket.send("close")
            assert await ended(socket) == (4321, "enough")
        async with talk(w) as socket:
            await socket.send("raise")
            assert (await ended(socket))[0] == 1011
        await w.rooms.empty()


async def test_refusals_before_the_upgrade_are_http(app: App) -> None:
    silent = BedrockAgentCoreApp()
    async with world() as w, app_behind(w, silent):
        assert (await refusal(w)).status_code == 403  # no handler
        unknown = await refusal(w, w.ws.replace(RUNTIME, "unknown-0123456789"))
        assert (unknown.status_code, unknown.headers["x-amzn-ErrorType"]) == (404, "ResourceNotFoundException")
        missing = await refusal(w, headers={})
        assert (missing.status_code, missing.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert (await refusal(w, headers={**KEY, SESSION_HEADER: "short"})).status_code == 400
        assert (await refusal(w, w.ws.replace("/ws?", "/invocations?"))).status_code == 405
        assert (
            await refusal(w, w.ws.replace("/ws?", "/v1/realtime?"))
        ).status_code == 404  # a foreign app has no such wire
        w.rooms.failure = HostError(409, "RetryableConflictException", "wait", headers=(("Retry-After", "2"),))
        assert (await refusal(w)).headers["Retry-After"] == "2"
        w.rooms.failure = None
        w.rooms.http = "/nonexistent"
        assert (await refusal(w)).status_code == 503
        await w.rooms.empty()
        assert w.gateway.addresses.total == 0


async def test_origins(app: App) -> None:
    async with world(origins=("https://talk.example",)) as w, app_behind(w, app.app):
        async with talk(w, origin="https://talk.example"):
            pass
        for origin in ("https://evil.example", "null"):
            assert (await refusal(w, origin=origin)).status_code == 403


async def test_a_ticket_is_good_once_for_its_session_and_page(app: App) -> None:
    page = {"Origin": "https://talk.example"}
    async with world(origins=("https://talk.example",)) as w, app_behind(w, app.app), client(w) as http:
        url = w.invoke.replace("/invocations", "/connect")
        answer = (await http.post(url, headers={**KEY, **page, SESSION_HEADER: SESSION})).json()
        assert (answer["session"], answer["expires_in"]) == (SESSION, 30)
        assert list(w.rooms.open.values()) == ["connect"]  # its slot
        wrong = await refusal(w, answer["url"], {"Origin": "https://evil.example"})
        assert wrong.status_code == 403
        async with talk(w, answer["url"], page):
            assert app.opened[0][0] == SESSION
            assert list(w.rooms.open.values()) == ["ws"]
        assert (await refusal(w, answer["url"], page)).status_code == 403
        assert w.keys.spent == [answer["ticket"]]
        await w.rooms.empty()


# --------------------------------------------------------------------------- limits


async def test_a_frame_at_the_limit_passes_and_one_byte_more_does_not(app: App) -> None:
    async with world(GatewayLimits.strict()) as w, app_behind(w, app.app):
        async with talk(w) as socket:
            await socket.send(b"x" * 65_536)
            assert len(await socket.recv()) == 65_536
            await socket.send([b"x" * 40_000, b"x" * 30_000])
            assert await socket.recv() == "70000"
            await socket.send(b"x" * 65_537)
            assert await ended(socket) == (1009, "message size limit of 64 KB for a message frame is exceeded")
        await app.over.wait()
        assert w.count("closed.1009") == 1
        assert app.ended
        assert app.ended != [1000]


async def test_one_frame_too_many_in_a_second(app: App) -> None:
    limits = GatewayLimits(frames_per_s=50, on_rate="close")
    async with world(limits) as w, app_behind(w, app.app), talk(w) as socket:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(200):
                await socket.send(b"x")
        code, reason = await ended(socket)
        assert (code, "50 frames per second" in reason) == (1008, True)


class Hand:
    """A loop whose clock is moved by hand."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.call_later = loop.call_later
        self.now = 1000.0

    def time(self) -> float:
        return self.now


async def test_in_strict_mode_250_frames_pass_in_a_second_and_the_251st_does_not(app: App) -> None:
    async with world(GatewayLimits.strict()) as w, app_behind(w, app.app), talk(w, ping_interval=None) as socket:
        (served,) = w.gateway.sockets.open_now
        clock = Hand(served._loop)
        served._loop = clock  # type: ignore[assignment]

        async def pass_on(frames: int) -> None:
            for n in range(frames):
                await socket.send(str(n))
            assert [await socket.recv() for _ in range(frames)] == [str(n) for n in range(frames)]

        await pass_on(250)
        clock.now += 1.0
        await pass_on(249)
        clock.now += 0.99
        await pass_on(1)
        await socket.send("one too many")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert await ended(socket) == (1008, "Max frame rate of 250 frames per second is exceeded")
        assert w.count("closed.1008") == 1


async def test_a_client_that_is_too_fast_is_slowed_down(app: App) -> None:
    limits = GatewayLimits(frames_per_s=200, on_rate="pause")
    async with world(limits) as w, app_behind(w, app.app), talk(w) as socket:

        async def send() -> None:
            for n in range(300):
                await socket.send(str(n))

        task = asyncio.create_task(send())
        assert [await socket.recv() for _ in range(300)] == [str(n) for n in range(300)]
        await task
        assert w.count("paused.rate") >= 1


async def test_age(app: App) -> None:
    async with world(GatewayLimits(socket_s=0.05)) as w, app_behind(w, app.app), talk(w) as socket:
        assert await ended(socket) == (1008, "Max connection duration of 0.05 seconds is exceeded")
    strict = GatewayLimits.strict()
    assert (strict.socket_s, strict.frames_per_s, strict.on_rate) == (3600, 250, "close")


async def test_a_credential_that_ends_in_a_call(app: App) -> None:
    async with world() as w, app_behind(w, app.app):
        w.keys.expires = time.time() + 0.05
        async with talk(w) as socket:
            assert (await ended(socket))[0] == 1008


# --------------------------------------------------------------------------- links


def narrow(port: int = 0) -> Socket:
    """A socket whose buffers in the kernel are small: connected to a port, or listening."""
    made = Socket()
    made.setsockopt(SOL_SOCKET, SO_RCVBUF, 64 << 10)
    made.setsockopt(SOL_SOCKET, SO_SNDBUF, 64 << 10)
    if port:
        made.connect(("127.0.0.1", port))
    else:
        made.bind(("127.0.0.1", 0))
        made.listen()
    return made


async def test_over_a_link_with_many_streams_on_one_connection() -> None:
    worker = Worker(echo)
    async with world() as w, worker.behind(w), contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(talk(w)) for _ in range(20)]
        for n, socket in enumerate(sockets):
            await socket.send(f"hello {n}")
            await socket.send(bytes([n]) * 1000)
        for n, socket in enumerate(sockets):
            assert await socket.recv() == f"hello {n}"
            assert await socket.recv() == bytes([n]) * 1000
        assert len(worker.connections) == 1
        await sockets[0].send([b"a", b"b", b"c"])
        assert await sockets[0].recv() == b"abc"
        opened = next(e for e in worker.connections[0].events if isinstance(e, Opened)).open
        assert (opened.kind, opened.path, opened.epoch) == ("ws", "/ws", 1)
        assert opened.principal == f"{TENANT}/keys/good"


async def test_served_wires_and_their_subprotocols_over_a_link() -> None:
    worker = Worker(echo)
    gemini = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
    async with world() as w, worker.behind(w):
        offered = ["realtime", "openai-insecure-api-key.sk-secret"]
        url = w.ws.replace("/ws?", "/v1/realtime?") + "&model=m"
        async with talk(w, url, subprotocols=offered) as socket:
            assert socket.subprotocol == "realtime"
        async with talk(w, w.ws.replace("/ws?", gemini + "?") + "&key=secret"):
            pass
        first, second = (e.open for e in worker.connections[0].events if isinstance(e, Opened))
        assert (first.kind, first.path, first.query) == ("openai", "/v1/realtime", "model=m")
        assert (second.kind, second.path, second.query) == ("gemini", gemini, "")
        assert "secret" not in str((first, second))


async def test_closes_go_both_ways_over_a_link() -> None:
    closed: list[Closed] = []
    seen = asyncio.Event()

    def serve(end: Any, event: Any) -> None:
        if isinstance(event, Message) and event.data == b"close":
            end.link.send(event.stream, "last")
            end.link.close(event.stream, 4013, "full")
        elif isinstance(event, Closed):
            closed.append(event)
            seen.set()
        else:
            echo(end, event)

    worker = Worker(serve)
    async with world() as w, worker.behind(w):
        async with talk(w) as socket:
            await socket.send("close")
            assert await socket.recv() == "last"
            assert await ended(socket) == (4013, "full")
        async with talk(w) as socket:
            await socket.close(4002, "bye")
        await seen.wait()
        assert (closed[0].code, closed[0].reason) == (4002, "bye")
        seen.clear()
        async with talk(w) as socket:
            socket.transport.abort()
            await seen.wait()
        assert closed[1].code == 1006
        await w.rooms.empty()


async def test_a_worker_that_refuses_dies_or_breaks_the_rules(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(end: Any, event: Any) -> None:
        if isinstance(event, Opened):
            end.link.reject(event.stream, 503, "full", (("retry-after", "3"),))

    async with world() as w, Worker(refuse).behind(w):
        answer = await refusal(w)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    worker = Worker(echo)
    async with world() as w, worker.behind(w):
        async with talk(w) as first, talk(w) as second:
            worker.die()
            assert (await ended(first))[0] == (await ended(second))[0] == 1012
        async with talk(w) as socket:  # a new link to its successor at the same place
            await socket.send("again")
            assert await socket.recv() == "again"
            worker.connections[-1].transport.write(b"\xff" * 100)  # type: ignore[union-attr]
            assert (await ended(socket))[0] == 1012
        assert (w.count("failed.link.lost"), w.count("failed.link.frame")) == (1, 1)
        await w.rooms.empty()
    (said,) = (line for line in caplog.messages if line.startswith("link to "))
    assert said.startswith(f"link to the worker w1 of {TENANT}/{RUNTIME}:1 at ")


async def test_errors_that_nobody_expects_end_the_socket_and_are_logged_with_its_session(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> bool:
        raise RuntimeError("inside")

    monkeypatch.setattr(LinkCarrier, "frame", broken)
    async with world() as w, Worker(echo).behind(w), talk(w, headers={**KEY, SESSION_HEADER: SESSION}) as socket:
        monkeypatch.setattr(w.rooms, "closed", broken)
        await socket.send("x")
        assert await ended(socket) == (1011, "internal error")
    session = f"{TENANT}/{RUNTIME}/{SESSION}"
    said = [record.getMessage() for record in caplog.records if record.exc_info]
    assert said == [f"session {session}: a client's frame", f"a task for {session} failed"]


async def test_a_worker_that_does_not_read_stops_the_client() -> None:
    held: list[tuple[Any, Message]] = []

    def serve(end: Any, event: Any) -> None:
        if isinstance(event, Message):
            held.append((end, event))
        else:
            echo(end, event)

    worker = Worker(serve)
    async with (
        world(GatewayLimits(message_bytes=64 << 10, frame_bytes=64 << 10, frames_per_s=1_000_000)) as w,
        worker.behind(w),
        talk(w) as socket,
    ):
        total, sent = 1500, 0

        async def send() -> None:
            nonlocal sent
            for _ in range(total):
                await socket.send(bytes(10_000))
                sent += 1

        task = asyncio.create_task(send())
        (link,) = [t.result() for t in w.gateway.links._links.values()]
        while not (carried := next(iter(w.gateway.sockets.open_now)))._holds:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert "carrier" in carried._holds
        assert link.link.queued(1) <= link.link.options.max_queue
        taken = 0
        while taken < total and not (task.done() and task.exception()):
            while held:
                end, message = held.pop()
                end.link.consumed(message.stream, message.cost)
                end.flush()
                taken += 1
            await asyncio.sleep(0)
        await task
        assert sent == total


async def test_a_client_that_does_not_read_stops_the_worker() -> None:
    def serve(end: Any, event: Any) -> None:
        if isinstance(event, Opened):
            end.link.accept(event.stream)
            for n in range(400):
                end.link.send(event.stream, n.to_bytes(4) + bytes(9_996))

    worker = Worker(serve)
    async with (
        world(sockets=(narrow(),)) as w,
        worker.behind(w),
        talk(w, max_queue=1, sock=narrow(w.port)) as socket,
    ):
        while not next(iter(w.gateway.sockets.open_now)).full:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert worker.connections[0].link.queued(1) > 0
        for n in range(400):
            message = await socket.recv()
            assert message == n.to_bytes(4) + bytes(9_996)


async def test_a_client_that_never_reads_is_let_go() -> None:
    def serve(end: Any, event: Any) -> None:
        if isinstance(event, Opened):
            end.link.accept(event.stream)
            for _ in range(400):
                end.link.send(event.stream, bytes(10_000))

    async with world(GatewayLimits(slow_s=0.1), sockets=(narrow(),)) as w, Worker(serve).behind(w):
        reader, writer = await asyncio.open_connection(sock=narrow(w.port), limit=1024)
        writer.write(upgrade(w))
        await w.counted("dropped.slow-reader")
        await w.rooms.empty()
        writer.close()
        assert reader is not None


async def test_a_half_open_client_is_let_go() -> None:
    async with world(GatewayLimits(ping_s=0.05)) as w, Worker(echo).behind(w), talk(w, ping_interval=None) as alive:
        _, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(upgrade(w))  # and no answer to pings
        await w.counted("dropped.half-open")
        await alive.send("still here")
        assert await alive.recv() == "still here"
        writer.close()


async def test_refresh_in_a_call() -> None:
    answers: list[Any] = []
    seen = asyncio.Event()

    def serve(end: Any, event: Any) -> None:
        if isinstance(event, Message):
            end.link.refresh(event.stream, event.data.decode())
            end.link.consumed(event.stream, event.cost)
        elif isinstance(event, RefreshAnswered):
            answers.append(event.refreshed)
            seen.set()
        else:
            echo(end, event)

    async with world() as w, Worker(serve).behind(w):
        w.keys.expires = time.time() + 60
        async with talk(w) as socket:
            await socket.send("bad")
            await seen.wait()
            assert answers[0].error == "auth"
            seen.clear()
            await socket.send("newer")
            await seen.wait()
            assert (answers[1].error, answers[1].expires) == ("", None)
            assert "expiry" not in next(iter(w.gateway.sockets.open_now))._timers
        w.keys.expires = time.time() + 0.05
        async with talk(w) as socket:
            assert (await ended(socket))[0] == 4003


# --------------------------------------------------------------------------- clients of all sorts


def upgrade(w: World, connection: str = "Upgrade", extra: str = "") -> bytes:
    """The head of an upgrade."""
    return (
        f"GET {w.ws[w.ws.index('/runtimes') :]} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer good\r\n"
        f"Connection: {connection}\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
    ).encode()


async def test_firefox_and_a_frame_that_comes_with_the_head() -> None:
    async with world() as w, Worker(echo).behind(w):
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        head = upgrade(w, "keep-alive, Upgrade", "Sec-WebSocket-Extensions: permessage-deflate\r\n")
        writer.write(head + b"\x82\x83\0\0\0\0abc")
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer
        assert b"permessage-deflate" not in answer
        assert await reader.readexactly(5) == b"\x82\x03abc"
        writer.close()


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\x82\x03abc", 1002),  # not masked
        (b"\xc2\x80\0\0\0\0", 1002),  # a reserved bit
        (b"\x80\x80\0\0\0\0", 1002),  # goes on without a beginning
        (b"\x02\x80\0\0\0\0\x82\x80\0\0\0\0", 1002),  # begins within another
        (b"\x82\xff\0\0\0\0\0\x80\0\0\0\0\0\0", 1009),
    ],
)
async def test_broken_frames(frames: bytes, code: int) -> None:
    async with world() as w, Worker(echo).behind(w):
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(upgrade(w))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frames)
        header = await reader.readexactly(4)
        assert header[0] & 0x0F == Opcode.CLOSE
        assert int.from_bytes(header[2:4]) == code
        writer.close()
        await w.rooms.empty()


async def test_tls(app: App) -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with world(tls=server) as w, app_behind(w, app.app):
        async with talk(w, ssl=trusting) as socket:
            await socket.send(b"x" * 200_000)
            assert await socket.recv() == b"x" * 200_000
        async with client(w, verify=trusting) as http:
            for _ in range(2):
                assert (await http.get(w.url + "/ping")).status_code == 200
            assert (await http.post(w.invoke, json={}, headers=KEY)).status_code == 424  # no entrypoint
        _, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await w.counted("dropped.tls")
        writer.close()
        await w.rooms.empty()


def test_all_of_it_on_uvloop(app: App) -> None:
    async def run() -> None:
        async with world() as w, Worker(echo).behind(w), talk(w) as socket:
            await socket.send("over uvloop")
            assert await socket.recv() == "over uvloop"
            await socket.close(1000)
            await w.rooms.empty()
        async with world() as w, app_behind(w, app.app), talk(w) as socket, client(w) as http:
            await socket.send(b"x" * 100_000)
            assert await socket.recv() == b"x" * 100_000
            for _ in range(2):
                answer = await http.post(w.invoke, json={}, headers=KEY)
                assert answer.headers["x-amzn-errortype"] == "RuntimeClientError"
            assert w.count("accepted") == 2

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def test_two_processes_may_share_a_port() -> None:
    async with world(options=GatewayOptions(port=0, reuse_port=True)) as one:
        options = GatewayOptions(port=one.port, reuse_port=True)
        async with world(options=options) as two:
            assert one.port == two.port


async def test_the_end_of_the_gateway_closes_sockets() -> None:
    async with contextlib.AsyncExitStack() as stack:
        w = await stack.enter_async_context(world())
        await stack.enter_async_context(Worker(echo).behind(w))
        socket = await stack.enter_async_context(talk(w))
        await w.gateway.drain(1.0)
        assert (await ended(socket))[0] == 1001
        assert w.rooms.open == {}
