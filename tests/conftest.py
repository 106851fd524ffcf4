"""What every test shares: async tests marked `@pytest.mark.anyio` run on asyncio."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Wall-clock deadlines for an example would make tests fail on a busy machine; pytest-timeout catches what hangs.
settings.register_profile("house", deadline=None)
settings.register_profile("soak", deadline=None, max_examples=10_000)
settings.load_profile("house")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
