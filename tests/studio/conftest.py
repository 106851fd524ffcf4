"""A browser for all tests of the talk page, and a scripted server for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser import chromium
from tests.studio.server import Scripted


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium with its own beeping microphone."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server that takes one call."""
    with Scripted(notice="A script answers, not a language model.") as server:
        yield server
