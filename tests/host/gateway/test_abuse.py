"""Hostile clients: slow heads and bodies, floods, half-open connections, pipelining. Neighbours never notice."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from duologue.host.gateway import GatewayLimits, GatewayOptions
from tests.host.gateway.parts import KEY, RUNTIME, TENANT, World, app_behind, client, world

pytestmark = pytest.mark.anyio


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says how long the body was."""
    if scope["type"] != "http":
        return
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(str(size)))]})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def raw(w: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection."""
    return await asyncio.open_connection("127.0.0.1", w.port)


def head(w: World, *lines: str, path: str = "/invocations") -> bytes:
    """The head of a request."""
    start = f"POST /runtimes/agent-0123456789{path}?accountId={TENANT} HTTP/1.1"
    return "\r\n".join([start, "Host: h", "Authorization: Bearer good", *lines, "", ""]).encode()


async def status(reader: asyncio.StreamReader) -> int:
    """Of the next answer; its rest is read when its length is told."""
    answer = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    await reader.readexactly(length)
    return int(answer.split(b" ")[1])


async def test_a_slow_head_is_cut_and_neighbours_are_served() -> None:
    async with world(GatewayLimits(head_s=0.1)) as w, app_behind(w, app), client(w) as http:
        slow = [await raw(w) for _ in range(20)]
        for _, writer in slow:
            writer.write(b"POST /runtimes/a/invocations HTTP/1.1\r\nHost: ")
        silent = await raw(w)
        assert (await http.post(w.invoke, content=b"abc", headers=KEY)).text == "3"
        for reader, writer in slow:
            assert await status(reader) == 408
            assert await reader.read() == b""
            writer.close()
        assert await silent[0].read() == b""  # nothing was begun: nothing is said
        silent[1].close()
        assert w.count("refused.408.ValidationException") == 20
        assert w.count("dropped.idle") == 1


async def test_a_drop_at_a_time_does_not_extend_the_deadline() -> None:
    async with world(GatewayLimits(head_s=0.15)) as w:
        reader, writer = await raw(w)
        cut = asyncio.create_task(status(reader))
        with contextlib.suppress(OSError):
            for byte in b"GET /" + b"a" * 10_000:
                if cut.done():
                    break
                writer.write(bytes([byte]))
                await asyncio.sleep(0.005)
        assert await cut == 408
        writer.close()


async def test_a_slow_body() -> None:
    limits = GatewayLimits(body_grace_s=0.1, body_rate=1000)
    async with world(limits) as w, app_behind(w, app), client(w) as http:
        reader, writer = await raw(w)
        writer.write(head(w, "Content-Length: 100") + b"ab")
        assert await status(reader) == 424  # the agent had seen its head
        writer.close()
        reader, writer = await raw(w)
        writer.write(head(w, "Content-Length: 100").replace(b"Bearer good", b"AWS4-HMAC-SHA256 x") + b"ab")
        assert await status(reader) == 408  # spooled: it had not
        writer.close()
        assert w.gateway.http_config.loaded_app is not None
        assert (await http.post(w.invoke, content=b"abc", headers=KEY)).text == "3"
    assert w.rooms.open == {}


async def test_caps_on_the_unauthenticated() -> None:
    async with world(GatewayLimits(per_address=3)) as w, app_behind(w, app), client(w) as http:
        held = [await raw(w) for _ in range(3)]
        await w.counted("accepted")
        while w.gateway.addresses.total < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        reader, writer = await raw(w)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert w.count("dropped.address") == 1
        held[0][1].close()
        while w.gateway.addresses.total > 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert (await http.post(w.invoke, content=b"abc", headers=KEY)).text == "3"
        for _, writer in held[1:]:
            writer.close()
    async with world(GatewayLimits(unauthenticated=1)) as w:
        one = await raw(w)
        two = await raw(w)
        await w.counted("dropped.global")
        one[1].close()
        two[1].close()


async def test_those_who_are_admitted_do_not_count() -> None:
    async with world(GatewayLimits(per_address=2)) as w, app_behind(w, app):
        writers = []
        for _ in range(5):  # their bodies are on their way
            reader, writer = await raw(w)
            writer.write(head(w, "Content-Length: 3") + b"ab")
            while w.gateway.addresses.total:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            writers.append((reader, writer))
        for reader, writer in writers:
            writer.write(b"c")
            assert await status(reader) == 200
            writer.close()


async def test_clients_that_leave_at_any_time_leave_nothing() -> None:
    async with world() as w, app_behind(w, app):
        whole = head(w, "Content-Length: 4") + b"abcd"
        for cut in range(0, len(whole), 7):
            _, writer = await raw(w)
            writer.write(whole[:cut])
            await writer.drain()
            writer.transport.abort()
        w.keys.hold = asyncio.Event()  # and while they wait for admission
        _, writer = await raw(w)
        writer.write(whole)
        while not any(connection._task for connection in w.gateway.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        writer.transport.abort()
        while w.gateway.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await w.rooms.empty()
        assert w.gateway.addresses.total == 0


async def test_requests_sent_ahead_are_each_authenticated() -> None:
    async with world() as w, app_behind(w, app):
        reader, writer = await raw(w)
        good = head(w, "Content-Length: 2") + b"ab"
        writer.write(good + good + good.replace(b"good", b"bad") + good)
        assert [await status(reader) for _ in range(3)] == [200, 200, 401]
        assert await reader.read() == b""  # a refusal ends the connection
        writer.close()
        assert len(w.rooms.requests) == 2


async def test_a_request_behind_a_chunked_body_is_not_taken() -> None:
    async with world() as w, app_behind(w, app):
        reader, writer = await raw(w)
        writer.write(head(w, "Transfer-Encoding: chunked") + b"2\r\nab\r\n0\r\n\r\n" + head(w, "Content-Length: 0"))
        assert await status(reader) in (200, 400)
        await reader.read()
        writer.close()
        assert len(w.rooms.requests) <= 1
        reader, writer = await raw(w)
        writer.write(head(w, "Transfer-Encoding: chunked") + b"2\r\nab\r\n0\r\n\r\n")
        assert await status(reader) == 200
        writer.write(head(w, "Content-Length: 1") + b"a")  # on the kept connection
        assert await status(reader) == 200
        writer.close()


async def test_garbage_in_a_chunked_body() -> None:
    async with world() as w, app_behind(w, app):
        reader, writer = await raw(w)
        writer.write(head(w, "Transfer-Encoding: chunked") + b"zz\r\n")
        assert await status(reader) in (400, 424)
        writer.close()
    assert w.rooms.open == {}


async def test_an_upgrade_where_none_is_and_a_post_that_upgrades() -> None:
    async with world() as w, app_behind(w, app):
        reader, writer = await raw(w)
        writer.write(head(w, "Content-Length: 0", "Connection: Upgrade", "Upgrade: websocket"))
        assert await status(reader) == 400
        writer.close()
        reader, writer = await raw(w)
        writer.write(head(w, "Content-Length: 2", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c") + b"ab")
        assert await status(reader) == 200  # another upgrade is not one
        writer.close()


async def test_expect_continue() -> None:
    async with world() as w, app_behind(w, app):
        reader, writer = await raw(w)
        writer.write(head(w, "Content-Length: 2", "Expect: 100-continue"))
        assert await status(reader) == 100
        writer.write(b"ab")
        assert await status(reader) == 200
        writer.close()


async def test_an_answer_that_comes_before_the_body_is_seen() -> None:
    async with world(GatewayLimits(payload_bytes=1000)) as w:
        reader, writer = await raw(w)
        writer.write(head(w, "Content-Length: 100000") + bytes(50_000))
        assert await status(reader) == 413
        writer.close()


async def test_forwarded_headers_of_trusted_proxies_alone() -> None:
    seen: list[str] = []
    for trusted in ((), ("127.0.0.0/8",)):
        async with world(options=GatewayOptions(port=0, trusted_proxies=trusted)) as w, client(w) as http:
            original = w.keys.authenticate

            async def spy(request: Any, route: Any, *, body_sha256: Any = None, asked: Any = original) -> Any:
                seen.append(f"{request.peer} {request.tls}")
                return await asked(request, route, body_sha256=body_sha256)

            w.keys.authenticate = spy  # type: ignore[method-assign, assignment]
            forwarded = {"X-Forwarded-For": "8.8.8.8, 9.9.9.9", "X-Forwarded-Proto": "https"}
            await http.post(w.invoke, headers={**KEY, **forwarded})
    assert seen == ["127.0.0.1 False", "9.9.9.9 True"]


async def test_a_host_that_fails_is_500_and_says_nothing(caplog: Any) -> None:
    async with world() as w, client(w) as http:

        async def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("inner secret")

        w.rooms.assign = broken  # type: ignore[method-assign]
        for line in ("request {} of {}/{}", "request {} of tenant {}"):
            answer = await http.post(w.invoke, headers=KEY)
            assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (500, "InternalServerException")
            assert "secret" not in answer.text
            assert caplog.messages[-1] == line.format(answer.headers["x-amzn-requestid"], TENANT, RUNTIME)
            w.keys.authenticate = broken  # type: ignore[method-assign]
        assert "good" not in caplog.text
