"""The control API: what it refuses of where requests come from, what operations do, and that it keeps its description."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.server import ServerConnection, serve

from duologue.errors import StoreError
from duologue.host.control.api import ControlAPI
from duologue.host.control.archive import pack
from duologue.host.control.listen import on_unix, peer_user
from duologue.host.gateway.routes import find
from duologue.host.types import HostError, RequestHead
from duologue.store import SQLiteStore

from .parts import SESSION, TENANT, Plane, plane

pytestmark = pytest.mark.anyio


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path) as made:
        made.deployed()
        yield made


@pytest.fixture
async def peer(made: Plane) -> AsyncIterator[httpx.AsyncClient]:
    async with made.client(uid=0) as client:
        yield client


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io:80"])
async def test_it_answers_to_its_own_names_only(peer: httpx.AsyncClient, host: str) -> None:
    assert (await peer.get("/status", headers={"host": host})).status_code == 421


@pytest.mark.parametrize("origin", ["https://localhost", "null", "https://evil.example"])
async def test_pages_are_refused(peer: httpx.AsyncClient, origin: str) -> None:
    assert (await peer.get("/status", headers={"origin": origin})).status_code == 403


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_bodies_are_json(peer: httpx.AsyncClient, media: str) -> None:
    answer = await peer.post("/sessions", content=b'{"agent": "delivery"}', headers={"content-type": media})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "no JSON"),
        (b'{"agent": 1}', "str"),
        (b"{}", "agent"),
        (b'{"agent": "delivery", "chanel": "join"}', "chanel"),
        (b'{"metadata": {"a": ' + b"[" * 100_000, "deep"),
        (b'{"agent": "\xff"}', ""),
    ],
)
async def test_what_is_wrong_with_a_body_is_said(peer: httpx.AsyncClient, body: bytes, said: str) -> None:
    answer = await peer.post("/sessions", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (400, "ValidationException")
    assert said in answer.json()["message"]


async def test_bodies_are_bounded(peer: httpx.AsyncClient) -> None:
    body = b'{"agent": "' + b"x" * (1 << 20) + b'"}'
    answer = await peer.post("/sessions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 413


async def test_no_cookie_is_set_and_nothing_is_cached(peer: httpx.AsyncClient) -> None:
    answer = await peer.get("/status")
    assert "set-cookie" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["account"] == TENANT


async def test_what_fails_is_logged_with_the_tenant(
    made: Plane, peer: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failure: Exception = RuntimeError("inside")

    async def broken(*_: Any) -> Any:
        raise failure

    monkeypatch.setattr(made.placement, "assign", broken)
    assert (await peer.post("/sessions", json={"agent": "delivery"})).status_code == 500
    failure = StoreError("The disk is full.")
    assert (await peer.post("/sessions", json={"agent": "delivery"})).status_code == 503
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"control API: POST /sessions failed, for tenant {TENANT}",
        f"control API, for tenant {TENANT}: The disk is full.",
    ]


async def test_the_socket_tells_whose_process_connects(made: Plane, tmp_path: Path) -> None:
    seen: list[int] = []
    api = ControlAPI(made.control, peers=True)

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        seen.append(peer_user(scope))
        await api(scope, receive, send)

    path = tmp_path / "control.sock"
    async with on_unix(noting, path):
        assert path.stat().st_mode & 0o777 == 0o600
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/agents")).json()["agents"][0]["name"] == "delivery"
    assert seen == [os.geteuid()]
    assert peer_user({"client": ("uid:", 1)}) == peer_user({"client": ("127.0.0.1", 1)}) == peer_user({}) == -1


# --------------------------------------------------------------------------- operations


async def test_an_archive_is_sent_then_deployed_then_rolled_back(
    made: Plane, peer: httpx.AsyncClient, tmp_path: Path
) -> None:
    folder = tmp_path / "agent"
    await asyncio.to_thread(folder.mkdir)
    for text in ("one = 1\n", "two = 2\n"):
        await asyncio.to_thread((folder / "app.py").write_text, text)
        archive = await asyncio.to_thread(pack, folder)
        digest = hashlib.sha256(archive).hexdigest()
        sent = await peer.put(f"/archives/{digest}", content=archive, headers={"content-type": "application/gzip"})
        assert (sent.status_code, sent.json()) == (201, {"sha256": digest, "bytes": len(archive)})
        wanted = {"name": "fresh", "archive": digest, "entry": "app.py", "environment": {"MODE": "quiet"}}
        made_version = await peer.post("/deployments", json=wanted)
        assert made_version.status_code == 201
    view = made_version.json()
    assert (view["version"], view["endpoints"], view["environment"], view["by"]) == (
        2,
        ["DEFAULT"],
        ["MODE"],
        f"{TENANT}/peer/uid:0",
    )
    assert "quiet" not in made_version.text
    assert (await peer.post("/agents/fresh/rollback", json={})).json()["version"] == 1
    assert (await peer.get("/agents/fresh")).json()["endpoints"] == {"DEFAULT": 1}
    assert [row["version"] for row in (await peer.get("/agents/fresh/versions")).json()["versions"]] == [1, 2]
    pinned = await peer.put("/agents/fresh/endpoints/pinned", json={"version": 2})
    assert pinned.json()["arn"].endswith("/runtime-endpoint/pinned")
    assert (await peer.delete("/agents/fresh/endpoints/DEFAULT")).status_code == 409
    assert (await peer.delete("/agents/fresh/endpoints/pinned")).status_code == 200
    assert (await peer.delete("/agents/fresh")).status_code == 200
    assert (await peer.get("/agents/fresh")).status_code == 404


async def test_an_archive_that_is_not_what_it_says_is_not_kept(made: Plane, peer: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/zip"}
    assert (await peer.put(f"/archives/{'0' * 64}", content=b"abc", headers=headers)).status_code == 400
    assert (await peer.put(f"/archives/{'0' * 63}", content=b"abc", headers=headers)).status_code == 400
    spooled = [path async for path in anyio.Path(made.data / "archives").rglob("*")]
    assert [path.name for path in spooled] == [TENANT]


async def test_sessions_are_listed_in_pages_described_and_drained(peer: httpx.AsyncClient) -> None:
    for letter in "abc":
        body = {"agent": "delivery", "session": letter * 33, "metadata": {"caller": letter}}
        started = await peer.post("/sessions", json=body)
        assert started.json()["url"].startswith("wss://agents.example.com/runtimes/delivery-")
        assert started.json()["url"].endswith(f"/ws?qualifier=DEFAULT&accountId={TENANT}")
    page = (await peer.get("/sessions", params={"limit": 2})).json()
    rest = (await peer.get("/sessions", params={"limit": 2, "after": page["next"]})).json()
    assert [row["session"][0] for row in page["sessions"] + rest["sessions"]] == ["a", "b", "c"]
    assert rest["next"] == ""
    shown = (await peer.get(f"/sessions/{'a' * 33}")).json()
    assert (shown["metadata"], shown["channel"], shown["epoch"], shown["open"]) == ({"caller": "a"}, "join", 1, 0)
    assert (await peer.post("/sessions/drain", json={"session": "a" * 33})).json() == {"count": 1}
    assert (await peer.post("/sessions/drain", json={"agent": "delivery"})).json()["count"] == 2
    assert (await peer.get("/sessions", params={"state": "nonsense"})).status_code == 400


async def test_keys_and_secrets_are_shown_once_or_never(made: Plane, peer: httpx.AsyncClient) -> None:
    answer = await peer.post("/keys", json={"roles": ["observe"], "agent": "delivery", "label": "desk"})
    key = answer.json()
    async with made.client(key["secret"]) as client:
        assert (await client.get("/agents/delivery")).status_code == 200
        assert (await client.get("/status")).status_code == 403
    assert key["secret"] not in (await peer.get("/keys")).text
    assert (await peer.delete(f"/keys/{key['key']['id']}")).status_code == 200
    async with made.client(key["secret"]) as client:
        assert (await client.get("/agents/delivery")).status_code == 401
    assert (await peer.put("/secrets/crm", json={"value": "hush-hush"})).status_code == 200
    assert (await peer.get("/secrets")).json()["secrets"][0]["name"] == "crm"
    assert (await peer.put("/secrets/crm", json={"value": 5})).status_code == 400
    log = await peer.get("/audit")
    assert {"key.create", "key.revoke", "secret.put"} <= {entry["action"] for entry in log.json()["entries"]}
    assert "hush-hush" not in log.text


async def test_a_tail_shows_events_from_the_journal_and_ends_with_the_session(
    made: Plane, peer: httpx.AsyncClient
) -> None:
    started = (await peer.post("/sessions", json={"agent": "delivery"})).json()
    path, session = made.control.journal(TENANT), started["session"]
    journal = await asyncio.to_thread(SQLiteStore, path)
    journal.claim(TENANT, session)
    records = [b'{"kind":"windows"}', *(b'{"kind":"event","event":{"n":%d}}' % n for n in range(3))]
    journal.append(TENANT, session, 1, records)
    once = await peer.get(f"/sessions/{session}/tail", params={"follow": "false"})
    assert once.headers["content-type"].startswith("text/event-stream")
    assert once.text == 'id: 1\ndata: {"n":0}\n\nid: 2\ndata: {"n":1}\n\nid: 3\ndata: {"n":2}\n\n'
    later = await peer.get(f"/sessions/{session}/tail", params={"follow": "false"}, headers={"last-event-id": "2"})
    assert later.text == 'id: 3\ndata: {"n":2}\n\n'
    following = asyncio.create_task(peer.get(f"/sessions/{session}/tail"))
    journal.append(TENANT, session, 1, [b'{"kind":"event","event":{"n":3}}'])
    await peer.delete(f"/sessions/{session}")
    assert (await following).text.endswith('id: 4\ndata: {"n":3}\n\n')
    journal.close()


async def test_a_journal_that_cannot_be_read_ends_its_tail(made: Plane, peer: httpx.AsyncClient) -> None:
    session = (await peer.post("/sessions", json={"agent": "delivery"})).json()["session"]
    path = made.control.journal(TENANT)
    (await asyncio.to_thread(SQLiteStore, path)).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE chunk")
    async with asyncio.timeout(20):  # the session goes on
        told = (await peer.get(f"/sessions/{session}/tail")).text
    assert told.startswith("event: error\ndata: ")
    assert told.count("\n\n") == 1


async def test_an_invocation_is_passed_on_and_its_failures_are_424(
    made: Plane, peer: httpx.AsyncClient, tmp_path: Path
) -> None:
    async def invocations(request: Request) -> Response:
        body = await request.json()
        session = request.headers["x-amzn-bedrock-agentcore-runtime-session-id"]
        return JSONResponse({"said": body, "session": session}, 200 if body else 500)

    made.fleet.http = str(tmp_path / "w.http")
    async with on_unix(Starlette(routes=[Route("/invocations", invocations, methods=["POST"])]), tmp_path / "w.http"):
        answer = await peer.post("/agents/delivery/invocations", json={"prompt": "hi"})
        session = answer.headers["x-amzn-bedrock-agentcore-runtime-session-id"]
        assert answer.json() == {"said": {"prompt": "hi"}, "session": session}
        headers = {"x-amzn-bedrock-agentcore-runtime-session-id": session}
        failed = await peer.post("/agents/delivery/invocations", json=None, content=b"0", headers=headers)
        assert failed.status_code == 424
    gone = await peer.post("/agents/delivery/invocations", json={}, headers=headers)
    assert (gone.status_code, gone.headers["x-amzn-errortype"]) == (424, "RuntimeClientError")
    assert made.fleet.workers[0].in_use == 0


# --------------------------------------------------------------------------- dialling out


@pytest.mark.parametrize(
    "participant",
    [
        {},
        {"url": 5},
        {"url": "https://a.example.com"},
        {"url": "ws://a.example.com"},
        {"url": "wss://user@a.example.com"},
        {"url": "wss://169.254.169.254/"},
        {"url": "wss://example.com.evil.org/"},
        {"url": "wss://a.example.com:99999/"},
        {"url": "wss://a.example.com", "headers": {"a\r\nb": "c"}},
        {"url": "wss://a.example.com", "headers": {"a": "b\r\nc"}},
        {"url": "wss://a.example.com", "extra": 1},
    ],
)
async def test_whom_a_host_may_not_dial(peer: httpx.AsyncClient, made: Plane, participant: dict[str, Any]) -> None:
    body = {"agent": "delivery", "channel": "websocket", "participant": participant}
    assert (await peer.post("/sessions", json=body)).status_code == 400
    assert made.fleet.starts == []


async def test_dialling_out_joins_the_participants_socket_to_the_agents(
    made: Plane, peer: httpx.AsyncClient, tmp_path: Path
) -> None:
    heard: asyncio.Queue[str | bytes] = asyncio.Queue()

    async def agent(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello from " + websocket.headers["x-amzn-bedrock-agentcore-runtime-session-id"])
        await websocket.send_text(websocket.headers["x-duologue-session-metadata"])
        await websocket.send_bytes(await websocket.receive_bytes())
        await websocket.close(4321, "done")

    async def participant(connection: ServerConnection) -> None:
        assert connection.request is not None
        heard.put_nowait(connection.request.headers["x-desk"])
        heard.put_nowait(await connection.recv())
        heard.put_nowait(await connection.recv())
        await connection.send(b"\0\1")
        heard.put_nowait(await connection.recv())
        await connection.wait_closed()
        heard.put_nowait(str(connection.close_code))

    made.deployed(kind="asgi", entry="app.py:app")
    made.fleet.http = str(tmp_path / "w.http")
    app = Starlette(routes=[WebSocketRoute("/ws", agent)])
    async with (
        serve(participant, "localhost", 0) as server,
        on_unix(app, tmp_path / "w.http", websockets=True),
    ):
        port = next(iter(server.sockets)).getsockname()[1]
        who = {"url": f"ws://localhost:{port}", "headers": {"x-desk": "7"}}
        body = {"agent": "delivery", "channel": "websocket", "participant": who, "metadata": {"desk": 7}}
        started = await peer.post("/sessions", json=body)
        assert started.status_code == 201
        said = [await heard.get() for _ in range(5)]
        assert said == ["7", f"hello from {started.json()['session']}", "eyJkZXNrIjo3fQ", b"\0\1", "4321"]
        body["participant"] = {"url": "ws://localhost:9"}
        assert (await peer.post("/sessions", json=body)).status_code == 424
        assert made.placement.count == 1  # the one that could not reach anybody was ended


@pytest.mark.parametrize("participant", [{"name": "x"}, {"origin": 1}, {"origin": "null"}, {"origin": "https://a/b"}])
async def test_who_joins_is_described_by_the_origin_of_their_page_alone(
    peer: httpx.AsyncClient, made: Plane, participant: dict[str, Any]
) -> None:
    assert (await peer.post("/sessions", json={"agent": "delivery", "participant": participant})).status_code == 400
    assert made.fleet.starts == []


@pytest.mark.parametrize("origin", ["", "https://app.example.com"])
async def test_who_joins_does_so_with_a_ticket_for_that_session_once(
    peer: httpx.AsyncClient, made: Plane, origin: str
) -> None:
    """Also of a session that the host's own user started, who has no credential for the public listener."""
    made.deployed(origins=("https://app.example.com",))
    participant = {"origin": origin} if origin else {}
    started = (await peer.post("/sessions", json={"agent": "delivery", "participant": participant})).json()
    target = f"{started['url'].partition('.com')[2]}&ticket={started['ticket']}"
    headers = (("host", "agents.example.com"), *((("origin", origin),) if origin else ()))
    head = RequestHead(method="GET", target=target, headers=headers, peer="10.0.0.1", tls=True)
    identity = await made.authority.authenticate(head, find(head))
    assert (identity.principal.id, identity.session) == (started["principal"], started["session"])
    assert {grant.role for grant in identity.grants} == {"invoke"}
    await made.authority.spend(identity)
    with pytest.raises(HostError) as caught:
        await made.authority.authenticate(head, find(head))
    assert caught.value.status == 403
    assert "ticket" not in (await peer.get(f"/sessions/{started['session']}")).json()["url"]
    assert (await peer.get(f"/sessions/{started['session']}")).json()["ticket"] == ""


async def test_session_ids_in_use_with_two_agents_must_say_whose(made: Plane, peer: httpx.AsyncClient) -> None:
    made.deployed("other")
    for name in ("delivery", "other"):
        await peer.post("/sessions", json={"agent": name, "session": SESSION})
    assert (await peer.get(f"/sessions/{SESSION}")).status_code == 409
    assert (await peer.get(f"/sessions/{SESSION}", params={"agent": "other"})).json()["name"] == "other"


async def test_draining_the_host_is_its_own_accounts(made: Plane, peer: httpx.AsyncClient) -> None:
    assert (await peer.post("/drain", params={"tenant": "9" * 12})).status_code == 400
    assert (await peer.post("/drain")).status_code == 202
    assert made.drains == 1
