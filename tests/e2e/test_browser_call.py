"""The talk page in a real Chromium, against the real server and real local speech."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from duologue.audio import resample, write_wav
from duologue.speech.piper import PiperTTS, PiperVoice
from tests.browser import chromium

ROOT = Path(__file__).parents[2]
RATE = 48_000
#: the page hears this: a question about the way (a long answer), then, over that answer, another question, and after a
#: while "yes": the small recogniser may have heard "stops or less", so that the agent asks whether that was meant
WAIT_S, OVER_S, YES_S, END_S = 7.0, 6.0, 4.5, 20.0


async def _speech(text: str) -> bytes:
    voice = PiperTTS(PiperVoice(pitch=1.18))
    pcm, rate = b"", voice.rate
    async for chunk in voice.synthesize(text):
        pcm += chunk.pcm
    await voice.close()
    return resample(pcm, rate, RATE)


def _silence(seconds: float) -> bytes:
    return bytes(int(seconds * RATE) * 2)


@pytest.fixture(scope="module")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    async def all_of_it() -> list[bytes]:
        return [
            await _speech(text) for text in ("How do I get there?", "Wait. How many stops are left?", "Yes, please.")
        ]

    asked, over, yes = asyncio.run(all_of_it())
    path = tmp_path_factory.mktemp("microphone") / "caller.wav"
    said = _silence(WAIT_S) + asked + _silence(OVER_S) + over + _silence(YES_S) + yes + _silence(END_S)
    write_wav(path, said, RATE)
    return path


@contextmanager
def _served() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "duologue.cli", "serve", str(ROOT / "examples" / "delivery.py"), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not listen"
            threading.Event().wait(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(20)


class _Proxy:
    """A relay to the server whose connections can be cut, as a network does."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.links = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._target))
                self.links += 1
                self._pairs.append((here, there))
                threading.Thread(target=self._relay, args=(here, there), daemon=True).start()
                threading.Thread(target=self._relay, args=(there, here), daemon=True).start()

    @staticmethod
    def _relay(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Reset every connection."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()


def _transcript(page: Page) -> str:
    return page.inner_text("#log")


@pytest.mark.timeout(240)
def test_a_spoken_call_in_the_browser(microphone: Path, tmp_path: Path) -> None:
    with _served() as port:
        proxy = _Proxy(port)
        try:
            with chromium(microphone=microphone) as browser:
                page = browser.new_page(viewport={"width": 900, "height": 900})
                page.goto(f"http://127.0.0.1:{proxy.port}/")
                page.click("#talk")
                # A question asked aloud is answered aloud: the tool of the agent runs, and its answer is being heard.
                expect(page.locator("#log")).to_contain_text("From Oxford Street", timeout=60_000)
                before = proxy.links
                # The caller speaks over the long answer: it is cut, and what was not heard is shown as such.
                expect(page.locator("#log")).to_contain_text("stops left", timeout=60_000)
                page.screenshot(path=tmp_path / "talk.png")
                text = _transcript(page)
                assert "phrase matcher" in page.inner_text("body")
                assert "get there" in text.lower()
                assert page.locator("#log .cut, #log s, #log del").count() > 0, page.inner_html("#log")
                # A cut network resumes: the same call, on a new link, and a typed turn is answered in it.
                proxy.cut()
                page.wait_for_selector("body[data-state=live]", timeout=30_000)
                page.fill("input[type=text], #text", "what's my next stop")
                page.keyboard.press("Enter")
                expect(page.locator("#log")).to_contain_text("Your next stop is", timeout=60_000)
                assert proxy.links > before
        finally:
            proxy.close()
    assert (tmp_path / "talk.png").stat().st_size > 10_000
