"""The examples for Nova Sonic run as they stand."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.real_clients.nova_server import KEY, SECRET, nova

pytestmark = pytest.mark.anyio
EXAMPLES = Path(__file__).parents[2] / "examples"


async def _run(script: str, question: str, directory: Path, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / script),
        question,
        cwd=directory,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    assert (directory / "answer.wav").stat().st_size > 10_000
    return out.decode()


async def test_every_step_in_your_own_hands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with nova(monkeypatch, tmp_path) as server:
        environment = {"NOVA_URL": server.url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        shown = await _run("native_sonic.py", "hello", tmp_path, **environment)
    assert "You said hello." in shown
    assert '-> {"event":{"sessionStart"' in shown
    assert '<- {"event":{"audioOutput"' in shown


async def test_the_vendors_client_talks_to_a_local_agent(tmp_path: Path) -> None:
    shown = await _run("nova_client.py", "where do I go next", tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert "12 Harbour Street" in shown
