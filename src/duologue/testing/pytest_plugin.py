"""pytest plugin: ``@pytest.mark.virtual`` runs an async test on virtual time.

Options of the marker are those of :func:`duologue.testing.clock.run_virtual`: `start` and `limit`, in seconds::

    @pytest.mark.virtual(limit=3600)
    async def test_an_hour() -> None:
        await asyncio.sleep(3599)

It also runs async tests under ``hypothesis.given``: each example gets a loop of its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest

from duologue.errors import UnknownOptionError, check_options
from duologue.testing.clock import run_virtual

__all__ = ["pytest_collection_modifyitems", "pytest_configure", "pytest_pyfunc_call", "run_virtual"]


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", "virtual(start=0.0, limit=86400.0): run this async test on virtual time, seconds"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a misspelt option when the test is collected, not when it runs."""
    for item in items:
        if (marker := item.get_closest_marker("virtual")) is not None:
            try:
                check_options("@pytest.mark.virtual", marker.kwargs, ("start", "limit"))
            except UnknownOptionError as error:
                raise pytest.UsageError(f"{item.nodeid}: {error}") from error
            if marker.args:
                raise pytest.UsageError(f"{item.nodeid}: the marker takes keywords only. Use limit=... or start=...")


def _on_virtual_time(
    test: Callable[..., Coroutine[Any, Any, None]], options: Mapping[str, float]
) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **arguments: Any) -> None:
        run_virtual(test(*args, **arguments), **options)

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked async test; leave every other test to pytest."""
    marker = pyfuncitem.get_closest_marker("virtual")
    if marker is None:
        return None
    given = getattr(pyfuncitem.obj, "hypothesis", None)
    if given is not None and inspect.iscoroutinefunction(given.inner_test):
        given.inner_test = _on_virtual_time(given.inner_test, marker.kwargs)
        return None
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    run_virtual(pyfuncitem.obj(**arguments), **marker.kwargs)
    return True
