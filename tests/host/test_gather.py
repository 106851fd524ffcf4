"""When an end of a link writes, on virtual time."""

import asyncio
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from duologue.host.gather import FEW, WAIT_S, Gather
from duologue.testing.clock import run_virtual


@given(st.lists(st.floats(0.0, 0.01), max_size=40), st.booleans())
def test_all_that_is_asked_for_is_written_soon_and_seldom(gaps: list[float], many: bool) -> None:
    async def link() -> None:
        loop = asyncio.get_running_loop()
        asked: list[float] = []
        flushed: list[float] = []
        gather = Gather(loop, lambda: flushed.append(loop.time()))
        for gap in gaps:
            await asyncio.sleep(gap)
            asked.append(loop.time())
            gather.soon(FEW if many else FEW - 1)
            gather.soon(FEW if many else FEW - 1)
        await asyncio.sleep(1.0)
        assert len(flushed) <= len(asked)
        for at in asked:
            after = min((when for when in flushed if when >= at), default=None)
            assert after is not None
            assert after - at <= (WAIT_S if many else 0.0) + 1e-9
        if many:
            assert all(b - a >= WAIT_S - 1e-9 for a, b in pairwise(flushed))

    run_virtual(link())
