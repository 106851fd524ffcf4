"""A real headless Chromium for tests, with a WAV file as its microphone.

A browser that cannot be started is a failure, not a reason to skip: the talk page is only tested here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Playwright, sync_playwright

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)


def executable() -> str:
    """The system's Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    return "/usr/bin/chromium"


_running: list[Playwright] = []


@contextmanager
def _playwright() -> Iterator[Playwright]:
    """One driver for all browsers of a thread: it holds the thread's event loop, so there cannot be two, and no async
    test can run beside it.
    """
    if _running:
        yield _running[0]
        return
    with sync_playwright() as playwright:
        _running.append(playwright)
        try:
            yield playwright
        finally:
            _running.clear()


@contextmanager
def chromium(*, microphone: Path | None = None, loop: bool = False) -> Iterator[Browser]:
    """A browser with a fresh profile. A fixture that holds one is of module scope at most: see `_playwright`.

    Args:
        microphone: what it hears, a PCM16 WAV file; it plays from the moment a page opens the microphone. None: the
            beeps of Chromium's own fake device.
        loop: whether the file begins anew at its end; otherwise silence follows.
    """
    flags = list(_FLAGS)
    if microphone is not None:
        flags.append(f"--use-file-for-fake-audio-capture={microphone}{'' if loop else '%noloop'}")
    with _playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=flags)
        try:
            yield browser
        finally:
            browser.close()
