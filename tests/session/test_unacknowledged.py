"""A listener that acknowledges playout and then stops: it goes on hearing, by estimates, and the application is told."""

from __future__ import annotations

from itertools import pairwise

import pytest

from duologue.events import ResponseFinished, TurnMeasured
from duologue.testing.scripted import Reply, ScriptedCaller
from tests.session.calls import LONG, STOP, hold, line, make, run

pytestmark = pytest.mark.virtual


def falls_silent(after: int, until: int = 1 << 30, until_s: float = 30.0) -> ScriptedCaller:
    """Acknowledgements from number `after` up to `until` are never sent; one is due each 100 ms of the call."""
    return ScriptedCaller([line(1.0, STOP, 1.2)], until_s=until_s, lose=lambda n: after <= n < until)


def gaps(caller: ScriptedCaller) -> list[float]:
    """Silences longer than two frames in what the device played."""
    times = [at for at, *_ in caller.rendered]
    return [later - at for at, later in pairwise(times) if later - at > 0.05]


async def test_it_hears_everything_after_one_bounded_gap() -> None:
    caller = falls_silent(after=5)
    call = await run(make(answer=lambda text, _: Reply(text=LONG + LONG), caller=caller))
    (error,) = [event for event in caller.errors if event.code == "unacknowledged"]
    assert error.ref == "caller"
    assert not error.fatal
    (finished,) = caller.of(ResponseFinished)
    assert (finished.status, finished.estimated) == ("completed", True)
    assert call.history[-1] == ("assistant", LONG + LONG)
    assert sum(samples for *_, samples in caller.rendered) == finished.heard_ms * 24
    (gap,) = gaps(caller)
    assert gap < 2.2, "two seconds may be unacknowledged, and after four estimates are used"
    (record,) = [event.record for event in caller.of(TurnMeasured)]
    assert record["unacknowledged"] == 1


async def test_one_that_acknowledges_again_is_believed_again() -> None:
    caller = falls_silent(after=5, until=60)
    await run(make(answer=lambda text, _: Reply(text=LONG * 2), caller=caller))
    (finished,) = caller.of(ResponseFinished)
    assert (finished.status, finished.estimated) == ("completed", False)
    assert len([event for event in caller.errors if event.code == "unacknowledged"]) == 1


async def test_a_cut_is_an_estimate_then() -> None:
    caller = falls_silent(after=5)
    caller.lines = [*caller.lines, line(9.0, STOP, 1.2)]
    call = make(answer=lambda text, _: Reply(text=LONG * 4), caller=caller)
    listener_at: list[int] = []
    async with call.session as session:
        await hold(call, 8.9)
        listener_at.append(call.session.conductor.responses.listeners[0].ledger.acknowledged)
        await session.wait()
    first = caller.of(ResponseFinished)[0]
    assert first.status == "interrupted"
    heard_ms = sum(samples for at, id, _, samples in caller.rendered if id == first.response) / 24
    assert first.heard_ms == pytest.approx(heard_ms, abs=60)
    assert first.heard_ms * 24 > listener_at[0]


async def test_short_answers_are_all_heard_and_it_is_said_once() -> None:
    caller = falls_silent(after=0, until_s=42.0)
    caller.lines = [line(1.0 + 8 * index, STOP, 1.2) for index in range(5)]
    call = await run(make(caller=caller))
    assert [event.status for event in caller.of(ResponseFinished)] == ["completed"] * 5
    assert all(event.estimated for event in caller.of(ResponseFinished))
    assert len({id for _, id, *_ in caller.rendered}) == 5
    assert [event.code for event in caller.errors] == ["unacknowledged"]
    assert call.session.ended is not None


async def test_a_lost_last_acknowledgement_is_no_silence() -> None:
    caller = ScriptedCaller(
        [line(1.0, STOP, 1.2), line(12.0, STOP, 1.2)], until_s=20, lose=lambda n: 12 <= n < 40
    )  # those of the end of the first answer, and then none for as long as nothing is played
    await run(make(caller=caller))
    assert len(caller.of(ResponseFinished)) == 2
    assert caller.errors == []
