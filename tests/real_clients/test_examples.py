"""The examples of other people's clients run as they are printed, offline; those for Nova Sonic: `test_nova_examples.py`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.anyio
EXAMPLES = Path(__file__).parents[2] / "examples"
DUOLOGUE = [sys.executable, "-m", "duologue.cli"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def run(home: Path, script: str, *arguments: str, **environment: str) -> str:
    """What an example prints. It must leave an answer that can be heard."""
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), **environment}
    process = await asyncio.create_subprocess_exec(*command, cwd=home, env=environment, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    assert (home / "answer.wav").stat().st_size > 10_000
    return out.decode()


@contextlib.asynccontextmanager
async def started(home: Path, *command: str, says: str, **environment: str) -> AsyncIterator[None]:
    """A server in a process of its own, once it has said so."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), **environment}
    process = await asyncio.create_subprocess_exec(*command, cwd=home, env=environment, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(60):
            await _said(process, says)
        yield
    finally:
        process.terminate()
        await process.communicate()


async def _said(process: Process, words: str) -> None:
    streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]

    async def look(stream: asyncio.StreamReader) -> bool:
        async for line in stream:
            if words in line.decode():
                return True
        return False

    looking = [asyncio.ensure_future(look(stream)) for stream in streams]
    for done in asyncio.as_completed(looking):
        if await done:
            break
    else:
        raise AssertionError(f"The server ended before it said {words!r}.")
    for task in looking:
        task.cancel()
    await asyncio.wait(looking)


async def test_openai(tmp_path: Path) -> None:
    port = str(free_port())
    serve = [*DUOLOGUE, "serve", str(EXAMPLES / "delivery.py"), "--port", port, "--no-nova"]
    async with started(tmp_path, *serve, says="Served as"):
        url = f"http://127.0.0.1:{port}/v1"
        shown = await run(tmp_path, "openai_client.py", "what's my next stop", OPENAI_BASE_URL=url)
    assert "Harbour Street" in shown


async def test_gemini(tmp_path: Path) -> None:
    url = f"https://localhost:{free_port()}"
    serve = [sys.executable, str(EXAMPLES / "gemini_client.py"), "serve"]
    async with started(tmp_path, *serve, says="Gemini Live at", GOOGLE_GEMINI_BASE_URL=url):
        shown = await run(tmp_path, "gemini_client.py", "what's my next stop", GOOGLE_GEMINI_BASE_URL=url)
    assert "Harbour Street" in shown


@pytest.mark.parametrize("wire", ["openai", "gemini", "nova"])
async def test_strands(tmp_path: Path, wire: str) -> None:
    shown = await run(tmp_path, "strands_client.py", wire, "What is my next stop?")
    assert "user: What is my next stop?" in shown
    assert "12 Harbour Street, Oslo" in shown, "the tool that strands ran was spoken of"
