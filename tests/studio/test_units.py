"""The talk page's pure modules, tested in the browser that runs them."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.studio.server import TESTS, Scripted


@pytest.mark.parametrize("file", sorted(path.name for path in TESTS.glob("*.test.js")))
def test_module(file: str, browser: Browser, server: Scripted) -> None:
    page = browser.new_page()
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(f"{server.url}test/run.html?file={file}")
    try:
        page.wait_for_selector("[data-done]", state="attached", timeout=90_000)
    except Exception as error:
        raise AssertionError(f"{file} did not come to its end: {broken}") from error
    results = page.evaluate("window.results")
    page.close()
    assert results, f"{file} has no tests"
    failed = [f"{result['name']}: {result['error']}" for result in results if result["error"]]
    assert not failed, "\n".join(failed)
