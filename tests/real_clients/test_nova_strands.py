"""The bidirectional agent of strands-agents, unmodified, talks to our server as if it were Amazon's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from strands.bidi.models import BedrockNovaSonicModel, bedrock

from tests.real_clients.nova_server import KEY, RATE, SECRET, nova
from tests.real_clients.strands_call import StrandsCall

NAME = "bedrock-runtime.us-east-1.amazonaws.com"
ROOT = Path(__file__).parents[2]


def _namespaces() -> bool:
    """Whether a process may have a network and a hosts file of its own here: by root, mostly, and not in every container."""
    try:
        tried = subprocess.run(["unshare", "--mount", "--net", "ip", "link", "set", "lo", "up"], capture_output=True)
    except FileNotFoundError:
        return False
    return tried.returncode == 0


def _by_name(home: Path) -> list[str]:
    """A call to the vendor's own address, which leads to this machine in a namespace. Returns the server's history."""
    hosts = home / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {NAME}\n")
    script = (
        f"ip link set lo up && mount --bind {hosts} /etc/hosts && "
        f"exec {sys.executable} -m tests.real_clients.strands_nova {home} {NAME}"
    )
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    assert line is not None, done.stderr[-3000:]
    texts: list[str] = json.loads(line.removeprefix("RESULT "))
    return texts


async def _by_option(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A call with the address replaced in the SDK's configuration, which strands gives no option for."""
    async with nova(monkeypatch, home) as server:
        config = bedrock.AsyncBedrockRuntimeConfig

        class Redirected(config):  # type: ignore[misc, valid-type]
            @classmethod
            async def resolve(cls, **options: object) -> object:
                return await config.resolve(**{**options, "endpoint_uri": server.url})

        monkeypatch.setattr(bedrock, "AsyncBedrockRuntimeConfig", Redirected)
        call = StrandsCall(BedrockNovaSonicModel(model_id="amazon.nova-2-sonic-v1:0", region="us-east-1"), RATE)
        texts = await call.run(lambda: next(iter(server.server.sessions._calls.values())).session.history)
    call.check()
    return texts


@pytest.mark.anyio
async def test_an_unmodified_strands_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = _by_name(tmp_path) if _namespaces() else await _by_option(tmp_path, monkeypatch)
    assert texts[:3] == ["My name is Ada.", "Hello Ada.", "tell me a story"]


@pytest.mark.anyio
async def test_a_strands_agent_with_another_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = await _by_option(tmp_path, monkeypatch)
    assert texts[:3] == ["My name is Ada.", "Hello Ada.", "tell me a story"]
