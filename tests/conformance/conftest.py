"""`rig`: each model in turn; with ``--live PROVIDER`` the real provider instead, with the user's key."""

from __future__ import annotations

import pytest

from tests.conformance.rigs import LIVE, SCRIPTED, NoKeyError, Rig


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest."""
    parser.addoption(
        "--live",
        metavar="PROVIDER",
        choices=sorted(LIVE),
        help="hold the conformance calls with the real provider, with your key: it costs money, and real time",
    )


def _live(config: pytest.Config) -> str | None:
    # Where the whole suite runs this file is read too late for its option to be known; then nothing is live.
    live: str | None = config.getoption("--live", default=None)
    return live


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """See pytest."""
    if "rig" in metafunc.fixturenames:
        live = _live(metafunc.config)
        rigs = [LIVE[live]] if live else list(SCRIPTED)
        metafunc.parametrize("rig", rigs, ids=[f"live-{live}"] if live else [kind.name for kind in rigs], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A live run holds the common cases alone, and none without a key."""
    if (live := _live(config)) is None:
        return
    try:
        LIVE[live]().make()
    except NoKeyError as error:
        raise pytest.UsageError(str(error)) from None
    chosen = [item for item in items if "rig" in getattr(item, "fixturenames", ()) and "scripted" not in item.keywords]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
    for item in items:
        item.add_marker(pytest.mark.timeout(1500))


def pytest_configure(config: pytest.Config) -> None:
    """See pytest."""
    config.addinivalue_line(
        "markers", "scripted: looks behind the protocol, which a live provider does not let anybody do"
    )


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Rig:
    """A model under test."""
    made: Rig = request.param()
    return made
