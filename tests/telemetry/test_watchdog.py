"""The watchdog finds and names what blocks; the clock is the test's."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest

from duologue.errors import ConfigurationError
from duologue.telemetry import Stall, StallWatchdog


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Victim:
    """A thread that beats once, then stands in `culprit` until it is let go."""

    def __init__(self, watchdog: StallWatchdog) -> None:
        self.watchdog = watchdog
        self.inside = threading.Event()
        self.go = threading.Event()
        self.thread = threading.Thread(target=self.culprit, args=("a caller's secret",))
        self.thread.start()
        assert self.inside.wait(20)

    def culprit(self, what_was_said: str) -> None:
        self.watchdog.beat()
        self.inside.set()
        assert self.go.wait(20)

    def end(self) -> None:
        self.go.set()
        self.thread.join()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watchdog(clock: Clock) -> StallWatchdog:
    return StallWatchdog(0.1, clock=clock)


@pytest.fixture
def victim(watchdog: StallWatchdog) -> Iterator[Victim]:
    victim = Victim(watchdog)
    yield victim
    victim.end()


def look(watchdog: StallWatchdog, clock: Clock, until: float) -> list[Stall]:
    """Look every 25 ms until the clock reads `until`."""
    found = []
    while clock.now < until - 1e-9:
        clock.now = min(clock.now + 0.025, until)
        if (stall := watchdog.check()) is not None:
            found.append(stall)
    return found


def test_the_culprit_is_named_once(
    watchdog: StallWatchdog, clock: Clock, victim: Victim, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "duologue.telemetry"):
        found = look(watchdog, clock, 100.5)
    assert len(found) == 1
    (stall,) = found
    assert (stall.kind, stall.began) == ("loop", 100.0)
    assert 0.1 < stall.seconds < 0.151
    assert any("Victim.culprit (test_watchdog.py:" in frame for frame in stall.stack)
    assert len(caplog.records) == 1
    assert "Victim.culprit" in caplog.text
    assert "secret" not in caplog.text
    assert watchdog.stalls == 1
    assert watchdog.stalled_seconds == pytest.approx(0.5)
    assert watchdog.worst is not None
    assert watchdog.worst.seconds == pytest.approx(0.5)


def test_each_stall_is_one(watchdog: StallWatchdog, clock: Clock) -> None:
    watchdog.beat()
    assert len(look(watchdog, clock, 100.2)) == 1
    watchdog.beat()
    assert look(watchdog, clock, 100.3) == []
    watchdog.beat()
    assert len(look(watchdog, clock, 100.6)) == 1
    assert watchdog.stalls == 2
    assert watchdog.stalled_seconds == pytest.approx(0.5)
    assert watchdog.worst is not None
    assert watchdog.worst.began == pytest.approx(100.3)


def test_a_loop_that_beats_is_no_stall(watchdog: StallWatchdog, clock: Clock) -> None:
    for step in range(1, 20):
        watchdog.beat()
        assert look(watchdog, clock, 100 + step * 0.075) == []
    assert watchdog.stalls == 0


def test_a_watchdog_that_was_late_itself_blames_the_process(watchdog: StallWatchdog, clock: Clock) -> None:
    watchdog.beat()
    watchdog.check()
    clock.now += 3600
    stall = watchdog.check()
    assert stall is not None
    assert stall.kind == "process"


def test_nothing_watched_nothing_found(watchdog: StallWatchdog, clock: Clock) -> None:
    assert look(watchdog, clock, 105) == []


def test_a_real_loop_that_is_blocked() -> None:
    found: list[Stall] = []
    seen = threading.Event()

    def report(stall: Stall) -> None:
        found.append(stall)
        seen.set()
        raise LookupError("a callback that fails does not end the watch")

    def blocks_the_loop() -> None:
        assert seen.wait(30)
        seen.clear()

    async def main() -> None:
        watchdog = StallWatchdog(0.02, on_stall=report)
        watchdog.start()
        for _ in range(2):
            asyncio.get_running_loop().call_soon(blocks_the_loop)
            await asyncio.sleep(0.05)
        watchdog.stop()
        assert watchdog.stalls >= 2

    asyncio.run(main())
    blamed = [stall for stall in found if any("blocks_the_loop" in frame for frame in stall.stack)]
    assert len(blamed) >= 2
    assert not any("asyncio" in frame for stall in blamed for frame in stall.stack if "run" not in frame)


def test_a_threshold_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        StallWatchdog(0)
