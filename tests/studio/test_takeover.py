"""The talk page in a call whose server is killed and started again."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from duologue.audio import write_wav
from tests.browser import chromium

_SERVER = Path(__file__).parents[1] / "serve" / "takeover_server.py"


def started(port: int, journal: Path) -> subprocess.Popen[str]:
    """A server that serves."""
    process = subprocess.Popen(
        [sys.executable, str(_SERVER), str(port), str(journal)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "listens\n"
    return process


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Browser]:
    """A browser in a room where nobody speaks."""
    write_wav(tmp_path / "quiet.wav", bytes(2 * 16_000), 16_000)
    with chromium(microphone=tmp_path / "quiet.wav", loop=True) as browser:
        yield browser


def test_a_call_from_a_page_goes_on_in_the_next_server(quiet: Browser, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = started(port, tmp_path / "calls.db")
    context = quiet.new_context()
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    try:
        page.goto(f"http://127.0.0.1:{port}/")
        page.click("#talk")
        expect(page.locator(".agent .heard").last).to_have_text("Hello.")
        page.fill("#text", "the red house")
        page.press("#text", "Enter")
        expect(page.locator(".agent .heard").last).to_have_text("Known: the red house.")
        server.send_signal(signal.SIGKILL)
        server.wait()
        expect(page.locator("body")).not_to_have_attribute("data-state", "live")
        server = started(port, tmp_path / "calls.db")
        expect(page.locator("body")).to_have_attribute("data-state", "live", timeout=15_000)
        page.fill("#text", "what")
        page.press("#text", "Enter")
        expect(page.locator(".agent .heard").last).to_have_text("Known: the red house; what.", timeout=15_000)
        # What was shown before is shown once.
        texts = page.locator(".agent .heard").all_inner_texts()
        assert texts == ["Hello.", "Known: the red house.", "Known: the red house; what."]
    finally:
        context.close()
        server.kill()
        server.wait()
    assert not faults
