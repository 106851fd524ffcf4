"""The cascade's ears among those of many calls: evidence in order, before what happens after it, and none when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from duologue.models import Cascade
from duologue.models.base import Connection, Context, Evidence, Lost, SpeechWindow
from duologue.speech.listening import FEW, WAIT_S
from duologue.speech.vad import SileroNetwork, SileroVAD
from duologue.testing.clock import run_virtual
from tests.conformance.parts import LevelTTS, MarkSTT, Sure, TalkLLM
from tests.speech.recordings import beckett

SPEECH = beckett()
FRAME = 640


class Call:
    """What a connection needs of its session here."""

    def __init__(self) -> None:
        self.reported: list[Evidence] = []

    def report(self, evidence: Evidence) -> None:
        self.reported.append(evidence)

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def spawn(self, run: Callable[[], Awaitable[None]], name: str) -> None:
        """Recognition is not what is looked at."""

    @property
    def ends(self) -> list[int]:
        return [one.end for one in self.reported if isinstance(one, SpeechWindow)]


@asynccontextmanager
async def calls(count: int, vad: Callable[[], SileroVAD] = SileroVAD) -> AsyncIterator[list[tuple[Call, Connection]]]:
    model = Cascade(stt=MarkSTT(), llm=TalkLLM(), tts=LevelTTS(), vad=vad, end_of_turn=Sure())
    given = [Call() for _ in range(count)]
    opened = [(call, await model.open(cast(Context, call))) for call in given]
    yield opened
    for _, connection in opened:
        await connection.close()


def say(connection: Connection, frames: range) -> None:
    for frame in frames:
        connection.audio(SPEECH[frame * FRAME : (frame + 1) * FRAME], frame * FRAME // 2)


def test_many_calls_report_what_one_reports() -> None:
    async def evidence(count: int, pause: float) -> list[list[Evidence]]:
        async with calls(count) as given:
            for frame in range(100):
                for _, connection in given:
                    say(connection, range(frame, frame + 1))
                await asyncio.sleep(pause)
            return [call.reported for call, _ in given]

    alone = run_virtual(evidence(1, 0.0))[0]
    assert len(alone) == 100 * 320 // 512
    assert all(heard == alone for heard in run_virtual(evidence(FEW, 0.02)))


@pytest.mark.parametrize("what", ["hear_out", "input_ended", "gap"])
def test_what_was_said_before_is_reported_before(what: str) -> None:
    async def main() -> None:
        async with calls(FEW) as given:
            call, connection = given[0]
            say(connection, range(4))
            assert not call.ends
            if what == "gap":
                connection.audio(SPEECH[:1024], 50_000)
            else:
                getattr(connection, what)()
            assert call.ends == [512, 1024]
            await asyncio.sleep(WAIT_S)
            assert call.ends == [512, 1024, 50_512][: 3 if what == "gap" else 2]

    run_virtual(main())


def test_nothing_is_reported_after_the_end() -> None:
    async def main() -> None:
        async with calls(FEW) as given:
            call, connection = given[0]
            say(connection, range(4))
            await connection.close()
            await asyncio.sleep(WAIT_S)
            assert not call.reported

    run_virtual(main())


@pytest.mark.parametrize("count", [1, FEW])
def test_a_detector_that_fails_is_the_loss_of_each_connection(count: int) -> None:
    class Broken:
        def run(self, names: None, given: dict[str, Any]) -> Any:
            raise RuntimeError("out of order")

    class BrokenVAD(SileroVAD):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

    network = SileroNetwork(Broken())

    async def main() -> None:
        async with calls(count, BrokenVAD) as given:
            for _, connection in given:
                say(connection, range(2))
            await asyncio.sleep(WAIT_S)
            for call, _ in given:
                (lost,) = call.reported
                assert isinstance(lost, Lost)
                assert "out of order" in str(lost.error)

    run_virtual(main())
