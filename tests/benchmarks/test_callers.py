"""The caller of the benchmarks: when it hangs up."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from benchmarks.callers import MarkedCaller
from benchmarks.marks import Answer
from benchmarks.providers import Stand, number_sound
from duologue.events import ResponseText
from duologue.testing.clock import run_virtual


class Port:
    """Answers the caller's first turn by sound at once, and says the words of it `late` seconds after."""

    def __init__(self, caller: MarkedCaller, stand: Stand, late: float) -> None:
        self.caller = caller
        self.stand = stand
        self.late = late
        self.hung_up = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None

    def audio(self, pcm: bytes, position: int) -> None:
        turns = self.caller.turns
        if turns and turns[-1].ended is not None and not self.stand.answers:
            self.caller.stop = True
            answered = Answer(number=1, link=1, runs=[(turns[-1].start, turns[-1].end)], words=[], think_s=0.0)
            self.stand.answers[1] = answered
            self.caller.audio("r1", 0, 0, struct.pack("<h", number_sound(1)) * 480)
            event = ResponseText(response="r1", text="Answer 1.", offset=0)
            asyncio.get_running_loop().call_later(self.late, self.caller.event, event, b"")

    def ended(self, reason: str) -> None:
        self.hung_up.set()


@pytest.mark.parametrize("late", [0.1, 3.0])
def test_a_caller_who_interrupts_does_not_hang_up_before_words_of_the_answer_have_come(late: float) -> None:
    async def run() -> None:
        stand = Stand(1)
        caller = MarkedCaller(stand, 16_000, 1, turn_s=(0.6, 1.0), barge_in=1.0)
        port = Port(caller, stand, late)
        await caller.start(port)  # type: ignore[arg-type]
        await asyncio.wait_for(caller.run(), 30)
        assert caller.heard() == [1]
        assert port.hung_up.is_set()

    run_virtual(run())
