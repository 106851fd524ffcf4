"""Control and gateways over a Unix socket: calls, refusals, deaths, versions."""

from __future__ import annotations

import asyncio
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from duologue.host.control.rpc import Hello, RpcError, RpcServer, peer_of, rpc_placement
from duologue.host.types import AssignRequest, HostError

from .parts import SESSION, TENANT, plane

pytestmark = pytest.mark.anyio
WHO = f"{TENANT}/keys/alice"
REQUEST = AssignRequest(tenant=TENANT, runtime="delivery", qualifier="DEFAULT", session=SESSION, principal=WHO)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.001)


async def test_a_gateway_has_the_whole_placement(tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    async with (
        plane(tmp_path) as made,
        RpcServer(tmp_path / "rpc", made.placement, report=lambda name, counts: told.append((name, counts))),
        rpc_placement(tmp_path / "rpc", "g0") as remote,
    ):
        spec = made.deployed(headers=("x-one",)).spec
        assert await remote.version(TENANT, "delivery", "DEFAULT") == spec
        assignment, same = await asyncio.gather(remote.assign(REQUEST), remote.assign(REQUEST))
        assert (assignment.worker, assignment.headers) == (same.worker, ("x-one",))
        handle = await remote.opened(assignment, "ws")
        assert made.fleet.workers[0].in_use == 1
        await remote.closed(handle)
        assert made.fleet.workers[0].in_use == 0
        await remote.report({"sockets": 3})
        assert told == [("g0", {"sockets": 3})]
        assert await remote.stop(TENANT, "delivery", SESSION, WHO)
        assert await remote.stop(TENANT, "delivery", SESSION, WHO)  # as it has ended
        assert not await remote.stop(TENANT, "delivery", "n" * 33, WHO)


async def test_refusals_arrive_whole(tmp_path: Path) -> None:
    async with (
        plane(tmp_path) as made,
        RpcServer(tmp_path / "rpc", made.placement),
        rpc_placement(tmp_path / "rpc", "g0") as remote,
    ):
        made.deployed()
        made.fleet.refuse = "Full."
        with pytest.raises(HostError, match="Full.") as caught:
            await remote.assign(REQUEST)
        assert (caught.value.status, caught.value.type) == (429, "ThrottlingException")
        assert caught.value.headers == (("Retry-After", "1"),)
        with pytest.raises(HostError) as caught:
            await remote.version(TENANT, "nothing", "DEFAULT")
        assert caught.value.status == 404


async def test_what_fails_is_logged_with_the_tenant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("inside")

    async with (
        plane(tmp_path) as made,
        RpcServer(tmp_path / "rpc", made.placement),
        rpc_placement(tmp_path / "rpc", "g0") as remote,
    ):
        made.deployed()
        assignment = await remote.assign(REQUEST)
        handle = await remote.opened(assignment, "ws")
        for method in ("version", "assign", "opened", "closed", "stop"):
            monkeypatch.setattr(made.placement, method, broken)
        for asked in (
            remote.version(TENANT, "delivery", "DEFAULT"),
            remote.assign(REQUEST),
            remote.opened(assignment, "ws"),
            remote.stop(TENANT, "delivery", SESSION, WHO),
        ):
            with pytest.raises(HostError):
                await asked
        await remote.closed(handle)
        monkeypatch.undo()
    said = [record.getMessage() for record in caplog.records if record.exc_info]
    methods = ("version", "assign", "opened", "stop", "closed")
    assert said == [f"rpc: {method} failed, for tenant {TENANT}" for method in methods]


async def test_what_a_dead_gateway_had_open_is_closed(tmp_path: Path) -> None:
    async with plane(tmp_path) as made, RpcServer(tmp_path / "rpc", made.placement):
        made.deployed()
        async with rpc_placement(tmp_path / "rpc", "g0") as remote:
            await remote.opened(await remote.assign(REQUEST), "ws")
            assert made.fleet.workers[0].in_use == 1
        await until(lambda: made.fleet.workers[0].in_use == 0)
        assert made.placement.count == 1


async def test_a_gateway_whose_control_is_gone_is_told(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        made.fleet.gate.clear()
        server = RpcServer(tmp_path / "rpc", made.placement)
        await server.__aenter__()
        async with rpc_placement(tmp_path / "rpc", "g0") as remote:
            waiting = asyncio.create_task(remote.assign(REQUEST))
            await until(lambda: bool(made.fleet.starts))
            await server.__aexit__()
            for work in (waiting, remote.assign(REQUEST)):
                with pytest.raises(HostError) as caught:
                    await work
                assert caught.value.status == 503
            assert remote.lost.is_set()
        made.fleet.gate.set()
        with pytest.raises(RpcError, match="cannot be reached"):
            async with rpc_placement(tmp_path / "rpc", "g0"):
                pass


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        struct.pack(">I", 2) + b"{}",
        struct.pack(">I", 3) + b"\xff\xff\xff",
        struct.pack(">I", 4) + b"[[[[",
    ],
)
async def test_bytes_that_are_no_frames_end_the_connection_alone(tmp_path: Path, sent: bytes) -> None:
    async with plane(tmp_path) as made, RpcServer(tmp_path / "rpc", made.placement):
        made.deployed()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "rpc")
        writer.write(sent)
        assert await reader.read() == b""
        writer.close()
        async with rpc_placement(tmp_path / "rpc", "g0") as remote:
            assert (await remote.version(TENANT, "delivery", "DEFAULT")).version == 1


async def test_another_schema_is_refused_by_both(tmp_path: Path) -> None:
    async with plane(tmp_path) as made, RpcServer(tmp_path / "rpc", made.placement):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "rpc")
        hello = msgspec.json.encode(Hello(gateway="old", schema=99))
        writer.write(struct.pack(">I", len(hello)) + hello)
        answer = await reader.read()
        assert msgspec.json.decode(answer[4:], type=Hello).schema == 1
        writer.close()

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(struct.pack(">I", len(hello)) + hello)
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(old, tmp_path / "old"):
        with pytest.raises(RpcError, match="schema 99"):
            async with rpc_placement(tmp_path / "old", "g0"):
                pass


async def test_the_socket_is_the_owners_alone_and_tells_who_connects(tmp_path: Path) -> None:
    async with plane(tmp_path) as made, RpcServer(tmp_path / "rpc", made.placement):
        assert stat.S_IMODE(os.stat(tmp_path / "rpc").st_mode) == 0o600
        reader, writer = await asyncio.open_unix_connection(tmp_path / "rpc")
        assert peer_of(writer.get_extra_info("socket")) == (os.geteuid(), os.getpid())
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
