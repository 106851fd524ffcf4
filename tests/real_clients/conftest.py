"""What the clients of others leave behind."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Let awscrt's threads finish what a test gave up.

    A wait for its futures that is cancelled cancels them too, and the CRT sets them all the same when its handshake has
    failed, up to 22 s later and in whichever test is running by then: an InvalidStateError that nobody can catch.
    """
    config.addinivalue_line(
        "filterwarnings",
        r"ignore:Exception ignored in. <class .concurrent\.futures\._base\.InvalidStateError.>"
        ":pytest.PytestUnraisableExceptionWarning",
    )
