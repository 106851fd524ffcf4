"""Invocations and their kin through the gateway, by real clients over loopback, to an unmodified app of the public SDK."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from bedrock_agentcore import BedrockAgentCoreApp
from botocore.config import Config
from botocore.exceptions import ClientError

from duologue.host.gateway import GatewayLimits
from duologue.host.gateway.upstream import Upstream
from duologue.host.types import HostError
from tests.host.gateway.parts import (
    ARN,
    KEY,
    RUNTIME,
    SESSION,
    SESSION_HEADER,
    TENANT,
    app_behind,
    client,
    world,
)

pytestmark = pytest.mark.anyio


class App:
    """An app of the SDK, and what it saw."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.go = asyncio.Event()
        self.app = BedrockAgentCoreApp()

        @self.app.entrypoint
        async def entry(payload: Any, context: Any) -> Any:
            self.calls.append((payload, context.session_id, dict(context.request_headers or {})))
            if payload.get("fail"):
                raise ValueError("broken inside")
            if payload.get("stream"):
                return self.stream()
            if payload.get("breaks"):
                return self.breaks()
            return {"echo": payload, "session": context.session_id}

    async def stream(self) -> AsyncIterator[str]:
        """The second piece waits until the test has seen the first."""
        yield "first"
        while not self.go.is_set():  # noqa: ASYNC110 (the SDK runs this on a loop of its own)
            await asyncio.sleep(0.005)
        yield "second"

    async def breaks(self) -> AsyncIterator[dict[str, str]]:
        """Fails after its first piece."""
        yield {"a": "ø\n"}
        raise ValueError("broken inside")


@pytest.fixture
def app() -> App:
    """A fresh one."""
    return App()


async def test_json_in_and_out_with_the_session(app: App) -> None:
    async with world() as w, app_behind(w, app.app), client(w) as http:
        answer = await http.post(w.invoke, json={"a": "ø"}, headers={**KEY, SESSION_HEADER: SESSION})
        assert answer.status_code == 200
        assert answer.json() == {"echo": {"a": "ø"}, "session": SESSION}
        assert answer.headers[SESSION_HEADER] == SESSION
        assert answer.headers["x-amzn-requestid"]
        allocated = await http.post(w.invoke, json={}, headers=KEY)
        assert allocated.headers[SESSION_HEADER] == app.calls[1][1] == "allocated-" + "0" * 32
        assert w.count("requests.invocations") == 2
    assert w.rooms.open == {}


async def test_the_connection_is_kept_and_each_request_authenticated(app: App) -> None:
    async with world() as w, app_behind(w, app.app), client(w) as http:
        for _ in range(3):
            assert (await http.post(w.invoke, json={}, headers=KEY)).status_code == 200
        assert w.count("accepted") == 1
        refused = await http.post(w.invoke, json={}, headers={"Authorization": "Bearer bad"})
        assert refused.status_code == 401
        assert len(app.calls) == 3


async def test_the_first_piece_of_a_stream_comes_before_the_second_is_made(app: App) -> None:
    async with (
        world() as w,
        app_behind(w, app.app),
        client(w) as http,
        http.stream("POST", w.invoke, json={"stream": True}, headers=KEY) as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b'data: "first"\n\n'
        app.go.set()
        assert b"".join([piece async for piece in pieces]) == b'data: "second"\n\n'


async def test_answers_pass_byte_for_byte(app: App) -> None:
    """As the SDK writes them: JSON that is not ASCII, a stream that fails in the middle."""
    async with world() as w, app_behind(w, app.app), client(w) as http:
        whole = await http.post(w.invoke, json={"a": "ø"}, headers={**KEY, SESSION_HEADER: SESSION})
        assert whole.content == f'{{"echo": {{"a": "ø"}}, "session": "{SESSION}"}}'.encode()
        assert whole.headers["content-type"] == "application/json"
        stream = await http.post(w.invoke, json={"breaks": True}, headers=KEY)
        assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert stream.content.decode() == (
            'data: {"a": "ø\\n"}\n\ndata: {"error": "broken inside", "error_type": "ValueError", '
            '"message": "An error occurred during streaming"}\n\n'
        )


async def test_what_the_app_does_not_understand_is_424_and_its_owner_sees_its_words(app: App) -> None:
    async with world() as w, client(w) as http:
        w.keys.roles = ("invoke", "observe")
        async with app_behind(w, app.app):
            answer = await http.post(w.invoke, content=b"{", headers={**KEY, "content-type": "application/json"})
            assert (answer.status_code, answer.json()["cause"]["status"]) == (424, 400)
            assert '"error":"Invalid JSON"' in answer.json()["cause"]["body"]
        async with app_behind(w, BedrockAgentCoreApp()):
            answer = await http.post(w.invoke, json={}, headers=KEY)
            assert answer.json()["cause"] == {"status": 500, "body": '{"error":"No entrypoint defined"}'}


async def test_a_client_that_leaves_a_stream_is_noticed(app: App) -> None:
    async with world() as w, app_behind(w, app.app), client(w) as http:
        async with http.stream("POST", w.invoke, json={"stream": True}, headers=KEY) as answer:
            await anext(answer.aiter_raw())
        await w.rooms.empty()
        app.go.set()
        assert (await http.post(w.invoke, json={}, headers=KEY)).status_code == 200


@pytest.mark.parametrize("roles", [("invoke",), ("invoke", "observe")])
async def test_an_agents_error_is_424_and_its_owner_sees_the_cause(app: App, roles: tuple[str, ...]) -> None:
    async with world() as w, app_behind(w, app.app), client(w) as http:
        w.keys.roles = roles
        answer = await http.post(w.invoke, json={"fail": 1}, headers=KEY)
        assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (424, "RuntimeClientError")
        assert answer.json()["message"] == "Received error (500) from runtime."
        cause = answer.json().get("cause")
        assert cause == ({"status": 500, "body": '{"error":"broken inside"}'} if "observe" in roles else None)
        assert w.count("failed.424") == 1
        assert len(app.calls) == 1


async def test_the_answer_of_an_agent_that_hangs_up_on_the_body_is_heard(tmp_path: Path) -> None:
    hung_up = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    async def body() -> AsyncIterator[bytes]:
        await hung_up.wait()
        yield b"x" * 10
        yield b"y" * 10

    async with await asyncio.start_unix_server(serve, tmp_path / "agent"):
        upstream = Upstream(str(tmp_path / "agent"), idle_s=10.0)
        upstream.open()
        try:
            await upstream.send("POST", "/invocations", [("content-length", "20")], body())
            assert (await upstream.head()).status_code == 200
            assert b"".join([piece async for piece in upstream.body()]) == b"ok"
        finally:
            upstream.close()


async def test_an_agent_that_dies_is_424_and_one_that_is_not_there_503(app: App) -> None:
    seen: list[bytes] = []

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
        await writer.drain()
        writer.close()

    async with world() as w, client(w) as http:
        w.rooms.http = str(w.directory / "none.sock")
        answer = await http.post(w.invoke, json={}, headers=KEY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        w.rooms.http = str(w.directory / "a.sock")
        async with await asyncio.start_unix_server(dies, w.rooms.http):
            answer = await http.post(w.invoke, json={}, headers=KEY)
        assert answer.status_code == 424
        assert len(seen) == 1
        w.rooms.http = str(w.directory / "b.sock")
        import httpx

        async with await asyncio.start_unix_server(breaks_off, w.rooms.http):
            with pytest.raises(httpx.RemoteProtocolError):
                await http.post(w.invoke, json={}, headers=KEY)


async def test_only_allowed_headers_pass_both_ways() -> None:
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            got.append({name.decode(): value.decode() for name, value in scope["headers"]})
            await send(
                {
                    "type": "http.response.start",
                    "status": 201,
                    "headers": [(b"content-type", b"text/x"), (b"set-cookie", b"a=b"), (b"x-inner", b"1")],
                }
            )
            await send({"type": "http.response.body", "body": b"ok"})

    async with world(headers=("X-Mine",)) as w, app_behind(w, app), client(w) as http:
        answer = await http.post(
            w.invoke,
            content=b"\0raw",
            headers={**KEY, "X-Mine": "1", "X-Yours": "2", "Cookie": "c=d", "Content-Type": "a/b"},
        )
        assert (answer.status_code, answer.text, answer.headers["content-type"]) == (201, "ok", "text/x")
        assert "set-cookie" not in answer.headers
        assert "x-inner" not in answer.headers
        assert set(got[0]) == {
            "host", "connection", "content-length", "content-type", "accept", "x-mine", SESSION_HEADER.lower(),
            "x-amzn-bedrock-agentcore-runtime-request-id",
        }  # fmt: skip


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("path", "headers", "status", "type"),
    [
        (f"/runtimes/{RUNTIME}/invocations?accountId={TENANT}", {}, 401, "UnauthorizedException"),
        (f"/runtimes/{RUNTIME}/invocations?accountId=210987654321", KEY, 403, "AccessDeniedException"),
        ("/runtimes/unknown/invocations", KEY, 404, "ResourceNotFoundException"),
        (f"/runtimes/{RUNTIME}/invocations?qualifier=none", KEY, 404, "ResourceNotFoundException"),
        (f"/runtimes/{RUNTIME}/invocations", {**KEY, SESSION_HEADER: "short"}, 400, "ValidationException"),
        (f"/runtimes/{RUNTIME}/ws", KEY, 405, "ValidationException"),
        ("/nothing", KEY, 404, "ResourceNotFoundException"),
    ],
)
async def test_refusals_have_the_documented_shape(
    app: App, path: str, headers: dict[str, str], status: int, type: str
) -> None:
    async with world() as w, app_behind(w, app.app), client(w) as http:
        answer = await http.post(w.url + path, json={}, headers=headers)
        assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (status, type)
        assert answer.json()["message"]
        assert answer.headers["x-amzn-requestid"]
        assert w.count(f"refused.{status}.{type}") == 1
    assert app.calls == []
    assert w.rooms.open == {}


async def test_another_principals_session_and_placements_refusals(app: App) -> None:
    async with world() as w, app_behind(w, app.app), client(w) as http:
        assert (await http.post(w.invoke, json={}, headers={**KEY, SESSION_HEADER: SESSION})).status_code == 200
        other = {"Authorization": "Bearer other", SESSION_HEADER: SESSION}
        assert (await http.post(w.invoke, json={}, headers=other)).status_code == 403
        w.rooms.failure = HostError(503, "ServiceUnavailableException", "full", headers=(("Retry-After", "7"),))
        answer = await http.post(w.invoke, json={}, headers=KEY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


async def test_bodies_too_long(app: App) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield bytes(100)

    async with world(GatewayLimits(payload_bytes=500)) as w, app_behind(w, app.app), client(w) as http:
        assert (await http.post(w.invoke, content=bytes(501), headers=KEY)).status_code == 413
        # an agent that was reached: 424, which clients do not try again
        assert (await http.post(w.invoke, content=endless(), headers=KEY)).status_code == 424
    assert app.calls == []


async def test_connections_and_rates_of_a_principal(app: App) -> None:
    limits = GatewayLimits(per_principal=1, requests_per_s=0.001)
    async with world(limits) as w, app_behind(w, app.app), client(w) as http:
        app.go.set()
        assert (await http.post(w.invoke, json={}, headers=KEY)).status_code == 200
        again = await http.post(w.invoke, json={}, headers=KEY)
        assert (again.status_code, again.headers["x-amzn-errortype"]) == (429, "ThrottlingException")
        app.go.clear()
        other = {"Authorization": "Bearer other"}
        async with http.stream("POST", w.invoke, json={"stream": 1}, headers=other) as answer:
            await anext(answer.aiter_raw())
            w.gateway.admission._admitted._rates.clear()
            assert (await http.post(w.invoke, json={}, headers=other)).status_code == 429
        app.go.set()


# --------------------------------------------------------------------------- signatures that cover the body


async def test_a_signed_body_is_verified_before_the_agent_sees_it(app: App) -> None:
    signed = {"Authorization": "AWS4-HMAC-SHA256 x", "Content-Type": "application/json"}
    async with world() as w, app_behind(w, app.app), client(w) as http:
        good = await http.post(w.invoke, content=b'{"prompt": "signed"}', headers=signed)
        assert good.json()["echo"] == {"prompt": "signed"}
        bad = await http.post(w.invoke, content=b'{"prompt": "forged"}', headers=signed)
        assert (bad.status_code, bad.headers["x-amzn-errortype"]) == (403, "InvalidSignatureException")
        assert len(app.calls) == 1
    async with world(GatewayLimits(spool_bytes=40)) as w, app_behind(w, app.app), client(w) as http:
        full = await http.post(w.invoke, content=b'{"prompt": "signed"}', headers=signed)
        assert full.status_code == 429


async def test_a_declared_hash_is_held_to(app: App) -> None:
    body = b'{"prompt": "declared"}'
    headers = {
        "Authorization": "AWS4-HMAC-SHA256 x",
        "Content-Type": "application/json",
        "X-Amz-Content-Sha256": hashlib.sha256(body).hexdigest(),
    }
    async with world() as w, app_behind(w, app.app), client(w) as http:
        assert (await http.post(w.invoke, content=body, headers=headers)).status_code == 200
        forged = await http.post(w.invoke, content=body.replace(b"d", b"D"), headers=headers)
        assert forged.status_code == 424
        assert len(app.calls) == 1


async def test_boto3_invokes_streams_and_stops(app: App) -> None:
    async with world() as w, app_behind(w, app.app):
        # a bearer stands in for the signature, which is the authority's to judge
        boto = boto3.client(
            "bedrock-agentcore",
            region_name="us-east-1",
            endpoint_url=w.url,
            aws_access_key_id="AKIDEXAMPLE",
            aws_secret_access_key="secret",
            config=Config(retries={"max_attempts": 1}, proxies={}),
        )

        def run() -> tuple[Any, list[bytes], int, str]:
            arguments = {"agentRuntimeArn": ARN, "runtimeSessionId": SESSION, "contentType": "application/json"}
            first = boto.invoke_agent_runtime(**arguments, payload=b'{"prompt": "signed"}')
            stopped = boto.stop_runtime_session(agentRuntimeArn=ARN, runtimeSessionId=SESSION)
            with pytest.raises(ClientError) as caught:
                boto.stop_runtime_session(agentRuntimeArn=ARN, runtimeSessionId=SESSION)
            code = caught.value.response["Error"]["Code"]
            return first["runtimeSessionId"], list(first["response"].iter_lines()), stopped["statusCode"], code

        original = w.keys.authenticate

        async def lenient(head: Any, route: Any, *, body_sha256: str | None = None) -> Any:
            if route.kind == "stop":
                return w.keys.identity("signer", mode="sigv4")
            return await original(head, route, body_sha256=body_sha256)

        w.keys.authenticate = lenient  # type: ignore[method-assign]
        session, lines, stopped, code = await asyncio.to_thread(run)
        assert session == SESSION
        assert b'"prompt": "signed"' in lines[0]
        assert (stopped, code) == (200, "ResourceNotFoundException")


# --------------------------------------------------------------------------- tickets, CORS, metadata


async def test_preflight_and_cors_for_listed_pages(app: App) -> None:
    page = {"Origin": "https://talk.example"}
    async with world(origins=("https://talk.example",)) as w, app_behind(w, app.app), client(w) as http:
        flight = await http.options(w.invoke, headers=page)
        assert (flight.status_code, flight.headers["access-control-allow-origin"]) == (204, "https://talk.example")
        assert "authorization" in flight.headers["access-control-allow-headers"]
        answer = await http.post(w.invoke, json={}, headers={**KEY, **page})
        assert answer.headers["access-control-allow-origin"] == "https://talk.example"
        refused = await http.post(w.invoke, json={}, headers=page)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://talk.example"
        for origin in ("https://evil.example", "null"):
            answer = await http.post(w.invoke, json={}, headers={**KEY, "Origin": origin})
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers
            assert (
                "access-control-allow-origin" not in (await http.options(w.invoke, headers={"Origin": origin})).headers
            )


async def test_metadata_of_a_runtime_that_takes_tokens() -> None:
    auth = {"customJWTAuthorizer": {"discoveryUrl": "https://id.example/.well-known/openid-configuration"}}
    path = f"/runtimes/{RUNTIME}/invocations/.well-known/oauth-protected-resource?accountId={TENANT}"
    async with world(auth=auth) as w, client(w) as http:
        document = (await http.get(w.url + path)).json()
        assert document["authorization_servers"] == ["https://id.example"]
        assert document["resource"].startswith(f"{w.url}/runtimes/{RUNTIME}/invocations")
    async with world() as w, client(w) as http:
        assert (await http.get(w.url + path)).status_code == 404


async def test_ping_and_drain(app: App) -> None:
    async with world() as w, app_behind(w, app.app), client(w) as http:
        assert (await http.get(w.url + "/ping")).json() == {"status": "Healthy"}
        w.gateway.draining = True
        assert (await http.get(w.url + "/ping")).status_code == 503
        assert (await http.post(w.invoke, json={}, headers=KEY)).status_code == 503
