"""Unmodified boto3 over TLS: the read side of `bedrock-agentcore-control` on the control listener."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import trustme
from botocore.config import Config
from botocore.exceptions import ClientError

from duologue.host.control.api import ControlAPI
from duologue.host.control.listen import on_tcp
from duologue.host.types import Grant

from .parts import OTHER, TENANT, Plane, plane

pytestmark = pytest.mark.anyio


@pytest.fixture
async def listener(tmp_path: Path) -> AsyncIterator[tuple[Plane, int, str]]:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with (
        plane(tmp_path) as made,
        on_tcp(
            ControlAPI(made.control, peers=False, tls=True), "127.0.0.1", 0, tmp_path / "cert.pem", tmp_path / "key.pem"
        ) as port,
    ):
        yield made, port, str(tmp_path / "ca.pem")


def client(made: Plane, port: int, ca: str, *, role: Any = "observe", tenant: str = TENANT, **change: str) -> Any:
    key = made.keys.create("access", tenant, grants=(Grant(role=role),))
    given = {"aws_access_key_id": key.key.id, "aws_secret_access_key": key.secret.reveal(), **change}
    return boto3.client(
        "bedrock-agentcore-control",
        endpoint_url=f"https://localhost:{port}",
        region_name="us-east-1",
        verify=ca,
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
        **given,
    )


async def test_runtimes_versions_and_endpoints_are_got_and_listed(listener: tuple[Plane, int, str]) -> None:
    made, port, ca = listener
    runtime = made.deployed(headers=("x-one",)).spec.runtime
    made.deployed(endpoint="pinned")
    made.deployed("other")
    arn = f"arn:aws:bedrock-agentcore:us-east-1:{TENANT}:runtime/{runtime}"

    closing = contextlib.ExitStack()

    def ask() -> None:
        sdk = client(made, port, ca)
        closing.callback(sdk.close)
        found = sdk.get_agent_runtime(agentRuntimeId=runtime)
        assert (found["agentRuntimeArn"], found["agentRuntimeVersion"], found["status"]) == (arn, "2", "READY")
        assert found["lifecycleConfiguration"] == {"idleRuntimeSessionTimeout": 900, "maxLifetime": 28_800}
        first = sdk.get_agent_runtime(agentRuntimeId=runtime, agentRuntimeVersion="1")
        assert first["requestHeaderConfiguration"] == {"requestHeaderAllowlist": ["x-one"]}
        pages = sdk.get_paginator("list_agent_runtimes").paginate(PaginationConfig={"PageSize": 1})
        assert sorted(row["agentRuntimeName"] for page in pages for row in page["agentRuntimes"]) == [
            "delivery",
            "other",
        ]
        versions = sdk.list_agent_runtime_versions(agentRuntimeId=runtime)["agentRuntimes"]
        assert [row["agentRuntimeVersion"] for row in versions] == ["1", "2"]
        endpoints = sdk.list_agent_runtime_endpoints(agentRuntimeId=runtime)["runtimeEndpoints"]
        assert [(row["name"], row["liveVersion"]) for row in endpoints] == [("DEFAULT", "1"), ("pinned", "2")]
        endpoint = sdk.get_agent_runtime_endpoint(agentRuntimeId=runtime, endpointName="pinned")
        assert endpoint["agentRuntimeEndpointArn"] == f"{arn}/runtime-endpoint/pinned"

    with closing:
        await asyncio.to_thread(ask)


async def test_what_it_may_not_is_told_in_its_own_words(listener: tuple[Plane, int, str]) -> None:
    made, port, ca = listener
    runtime = made.deployed().spec.runtime

    def refused(name: str, **change: Any) -> None:
        with contextlib.closing(client(made, port, ca, **change)) as sdk, pytest.raises(ClientError) as caught:
            sdk.get_agent_runtime(agentRuntimeId=runtime)
        assert caught.value.response["Error"]["Code"] == name

    await asyncio.to_thread(refused, "AccessDeniedException", role="invoke")
    await asyncio.to_thread(refused, "ResourceNotFoundException", tenant=OTHER)
    await asyncio.to_thread(refused, "InvalidSignatureException", aws_secret_access_key="x" * 40)
    await asyncio.to_thread(refused, "UnrecognizedClientException", aws_access_key_id="DLAK" + "A" * 16)
