"""The talk page in a browser, as the tests use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page

from tests.studio.server import TESTS, Scripted

#: of the listener's track
RATE = 24_000


def steady(samples: int, value: int = 8000) -> bytes:
    """Audio without a single zero, so that what was rendered can be counted."""
    return value.to_bytes(2, "little", signed=True) * samples


@contextmanager
def talk_page(browser: Browser, server: Scripted, **context: Any) -> Iterator[Page]:
    """The page, idle, with a tap behind its playback. What it complains of or fetches elsewhere fails the test."""
    opened = browser.new_context(**context)
    page = opened.new_page()
    complaints: list[str] = []

    def console(message: ConsoleMessage) -> None:
        # That a connection was reset is what some tests are about.
        if message.type in ("error", "warning") and "WebSocket connection to" not in message.text:
            complaints.append(message.text)

    page.on("console", console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request", lambda request: complaints.append(request.url) if not request.url.startswith(server.url) else None
    )
    page.add_init_script(path=TESTS / "tap.js")
    page.goto(server.url)
    try:
        yield page
    except BaseException as error:
        outbox = server.delivery.outbox if server.delivery is not None else None
        reach = f"sent {outbox.sent}, acknowledged {outbox.acked}" if outbox is not None else "no call"
        error.add_note(f"the page complained: {complaints}; the server: {server.faults}; {reach}, {server.links} links")
        raise
    opened.close()
    assert not complaints


def call(page: Page, server: Scripted) -> None:
    """Press the button, and wait until the call is open."""
    page.click("#talk")
    page.wait_for_selector("body[data-state=live]")
    server.wait(lambda: server.delivery is not None, "a call")


def rendered(page: Page) -> tuple[int, list[tuple[int, list[float]]]]:
    """What went to the sound card: the context's rate, and stretches of samples that were not 0, each with its frame."""
    rate, blocks = page.evaluate("[tap.rate, tap.blocks.map((block) => [block.frame, [...block.samples]])]")
    stretches: list[tuple[int, list[float]]] = []
    for frame, samples in blocks:
        if stretches and stretches[-1][0] + len(stretches[-1][1]) == frame:
            stretches[-1][1].extend(samples)
        else:
            stretches.append((frame, list(samples)))
    return rate, stretches


def track_samples(page: Page) -> float:
    """How much of the listener's track was rendered, in samples at its rate."""
    rate, stretches = rendered(page)
    return sum(sample != 0 for _, samples in stretches for sample in samples) * RATE / rate
