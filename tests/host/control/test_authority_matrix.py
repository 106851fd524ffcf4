"""Who may do what: every operation of the published description × role × tenant × credential.

What is expected is computed from the description alone: `x-duologue-role`, `x-duologue-scope` and what stands beside them.
An operation that somebody adds is in the matrix by being in the description.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from duologue.host.control.api import DESCRIPTION, OPERATIONS
from duologue.host.types import ROLES

from .parts import OTHER, SESSION, TENANT, Plane, plane

pytestmark = pytest.mark.anyio

OPS = [
    (method.upper(), path, operation)
    for path, methods in DESCRIPTION["paths"].items()
    for method, operation in methods.items()
]
#: who asks: the roles of a key on all runtimes; "peer" is the host's own user, "stranger" another one
CREDENTIALS = ["nobody", "bad key", "revoked", *ROLES, "other agent", "other tenant", "peer", "stranger"]
DIGEST = hashlib.sha256(b"no archive").hexdigest()
BODIES: dict[str, dict[str, Any]] = {
    "deploy": {"name": "delivery", "archive": DIGEST, "entry": "app.py"},
    "moveEndpoint": {"version": 1},
    "startSession": {"agent": "delivery"},
    "putSecret": {"value": "x"},
}


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path) as made:
        made.deployed()
        made.deployed("other")
        yield made


def client_of(made: Plane, credential: str) -> httpx.AsyncClient:
    if credential == "peer":
        return made.client(uid=0)
    if credential == "stranger":
        return made.client(uid=12345)
    if credential == "nobody":
        return made.client()
    if credential == "bad key":
        return made.client("dlk_" + "a" * 16 + "_" + "A" * 43)
    if credential == "revoked":
        key = made.keys.create("api", TENANT)
        made.keys.revoke(TENANT, key.key.id)
        return made.client(key.secret.reveal())
    if credential == "other agent":
        runtime = made.directory.runtime(TENANT, "other").id
        return made.client(made.key(*ROLES, runtime=runtime))
    if credential == "other tenant":
        return made.client(made.key(*ROLES, tenant=OTHER))
    return made.client(made.key(credential))  # type: ignore[arg-type]


def target(path: str) -> str:
    given = {
        "agent": "delivery",
        "agentRuntimeId": "delivery",
        "endpoint": "DEFAULT",
        "endpointName": "DEFAULT",
        "version": "1",
        "session": SESSION,
        "sha256": DIGEST,
        "key": "absent",
        "name": "absent",
    }
    return path.format(**given)


async def ask(
    client: httpx.AsyncClient, method: str, path: str, operation: dict[str, Any], tenant: str
) -> httpx.Response:
    more: dict[str, Any] = {"params": {"tenant": tenant}} if tenant and operation["x-duologue-role"] != "public" else {}
    content = operation.get("requestBody", {}).get("content", {})
    if operation["operationId"] in BODIES:
        more["json"] = BODIES[operation["operationId"]]
    elif "application/json" in content:
        more["content"], more["headers"] = b"{}", {"content-type": "application/json"}
    elif content:
        more["content"], more["headers"] = b"no archive", {"content-type": "application/gzip"}
    return await client.request(method, target(path), **more)


def allowed(operation: dict[str, Any], credential: str) -> bool | None:
    """Whether the description lets that credential in; None where the handler decides by what it finds."""
    role, scope = operation["x-duologue-role"], operation["x-duologue-scope"]
    if role == "public" or credential == "peer":
        return credential != "stranger" or role == "public"
    if credential in ("nobody", "bad key", "revoked", "stranger", "other tenant"):
        return False
    if credential == "other agent":
        # its roles are on another agent alone: lists and sessions show it nothing of this one
        return None if scope == "later" else False
    if credential == operation.get("x-duologue-own-role"):
        return None  # it depends on whose session it is
    return credential == role


def test_every_operation_is_described() -> None:
    assert len(OPS) == len(OPERATIONS)
    assert {operation["operationId"] for _, _, operation in OPS} == {operation.id for operation in OPERATIONS}
    assert all(operation["x-duologue-role"] in (*ROLES, "public") for _, _, operation in OPS)
    assert [operation["operationId"] for _, _, operation in OPS if operation["x-duologue-role"] == "public"] == [
        "openapi"
    ]


@pytest.mark.parametrize("credential", CREDENTIALS)
async def test_the_matrix(made: Plane, credential: str) -> None:
    wrong = []
    for method, path, operation in OPS:
        async with client_of(made, credential) as client:
            expected = allowed(operation, credential)
            answer = await ask(client, method, path, operation, "" if credential != "other tenant" else TENANT)
            let_in = answer.status_code not in (401, 403)
            if expected is not None and let_in != expected:
                wrong.append((operation["operationId"], answer.status_code, expected))
            if credential in ("nobody", "bad key", "revoked") and operation["x-duologue-role"] != "public":
                assert answer.status_code == 401, operation["operationId"]
            if not let_in:
                assert answer.headers["x-amzn-errortype"].endswith("Exception")
            if path.startswith("/agents/{agent}") and method == "DELETE" and let_in and "endpoint" not in path:
                made.deployed()
    assert wrong == []


@pytest.mark.parametrize("role", ROLES)
async def test_a_key_of_another_tenant_gets_nothing_of_this_one(made: Plane, role: Any) -> None:
    """It names this tenant, and then none: its own has no such agent."""
    async with made.client(made.key(role, tenant=OTHER)) as client:
        for method, path, operation in OPS:
            if operation["x-duologue-role"] != "public":
                answer = await ask(client, method, path, operation, TENANT)
                assert answer.status_code == 403, operation["operationId"]
            if "{agent" in path:
                answer = await ask(client, method, path, operation, "")
                assert answer.status_code in (403, 404), operation["operationId"]


async def test_other_agents_are_not_seen_by_keys_of_one(made: Plane) -> None:
    runtime = made.directory.runtime(TENANT, "other").id
    async with made.client(made.key(*ROLES, runtime=runtime)) as client:
        assert [agent["name"] for agent in (await client.get("/agents")).json()["agents"]] == ["other"]
        assert (await client.get("/agents/other")).status_code == 200
        # no difference between what is not there and what is another's
        assert (await client.get("/agents/delivery")).status_code == 403
        assert (await client.get("/agents/absent")).status_code == 403
        assert (await client.get(f"/sessions/{SESSION}")).status_code == 403
        assert (await client.post("/sessions", json={"agent": "delivery"})).status_code == 403
        started = await client.post("/sessions", json={"agent": "other"})
        assert started.status_code == 201
        listed = (await client.get("/sessions")).json()["sessions"]
        assert [row["session"] for row in listed] == [started.json()["session"]]
        assert (await client.post("/deployments", json=BODIES["deploy"])).status_code == 403


async def test_a_session_is_ended_by_its_principal_or_an_administrator(made: Plane) -> None:
    async with (
        made.client(made.key("invoke", subject="alice")) as alice,
        made.client(made.key("invoke", subject="bob")) as bob,
        made.client(made.key("admin")) as admin,
    ):
        ids = [(await alice.post("/sessions", json={"agent": "delivery"})).json()["session"] for _ in range(2)]
        assert (await bob.delete(f"/sessions/{ids[0]}")).status_code == 403
        assert (await bob.get(f"/sessions/{ids[0]}")).status_code == 403
        assert (await alice.get(f"/sessions/{ids[0]}")).json()["state"] == "live"
        assert (await alice.delete(f"/sessions/{ids[0]}")).json() == {"count": 1}
        assert (await admin.delete(f"/sessions/{ids[1]}")).json() == {"count": 1}
        assert (await admin.delete(f"/sessions/{ids[1]}")).json() == {"count": 0}


async def test_refusals_and_tails_are_in_the_audit_log(made: Plane) -> None:
    async with made.client(made.key("invoke")) as invoker, made.client(made.key("observe")) as observer:
        assert (await invoker.get("/keys")).status_code == 403
        session = (await invoker.post("/sessions", json={"agent": "delivery"})).json()["session"]
        assert (await observer.get(f"/sessions/{session}/tail", params={"follow": "false"})).status_code == 200
    async with made.client(uid=12345) as stranger:
        assert (await stranger.get("/status")).status_code == 403
    made.audit.flush()
    kept = [(entry.action, entry.outcome, entry.subject) for entry in made.audit.entries(TENANT)]
    assert ("authorise", "denied", f"{TENANT}/*") in kept
    assert ("session.tail", "ok", session) in kept
    assert ("peer", "denied", "") in kept
    assert made.audit.verify(TENANT).holds
