"""Calls for tests: a scripted caller and a scripted model in a real session, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from duologue.channels.base import Channel
from duologue.engine.conversation import Item
from duologue.events import ResponseFinished, ResponseStarted
from duologue.models.base import Context
from duologue.session.definition import Definition
from duologue.session.session import Session
from duologue.testing.scripted import OUTPUT_RATE, Line, Reply, ScriptedCaller, ScriptedModel, Utterance

STOP = Utterance(text="what is my next stop")
UH_HUH = Utterance(text="uh-huh")
BARGE_IN = Utterance(text="stop please tell me less")
MARK = Utterance(text="mark the | last one complete")
OTHER = Utterance(text="what is the weather")
BYE = Utterance(text="goodbye")
NOISE = Utterance(text="")
LAST = Utterance(text="mark the last one | no | the one before")
ALL = (STOP, UH_HUH, BARGE_IN, MARK, OTHER, BYE, NOISE, LAST)

SHORT = "Twelve Harbour Street."
LONG = (
    "Your next stop is twelve Harbour Street, in Oslo, and after that there are many more stops, "
    "which I could list for you all day long."
)


def line(at_s: float, utterance: Utterance, seconds: float) -> Line:
    """`utterance` (one part of it) is said from `at_s` of the call on."""
    return Line(at_s=at_s, utterance=ALL.index(utterance) + 1, seconds=seconds)


#: a call with something of everything
EVENTFUL = [
    line(1.0, STOP, 1.2),
    line(5.0, UH_HUH, 0.35),
    line(8.0, BARGE_IN, 1.3),
    line(14.0, MARK, 0.7),
    line(15.6, MARK, 0.8),
    line(20.0, NOISE, 0.2),
    line(24.0, STOP, 0.8),
    line(25.2, BARGE_IN, 0.9),
]


@dataclass
class Call:
    """One call, made and over (or running, in a test that holds it)."""

    session: Session
    caller: ScriptedCaller
    model: ScriptedModel
    asked: list[str | None] = field(default_factory=list)

    @property
    def connection(self) -> Any:
        return self.model.connections[-1]

    @property
    def history(self) -> list[tuple[str, str]]:
        return [(item.kind, item.text) for item in self.items if item.kind in ("user", "assistant")]

    @property
    def items(self) -> tuple[Item, ...]:
        return self.session.history

    def finished(self, origin: str = "") -> list[ResponseFinished]:
        """The finished responses, in order; of one origin if that is given."""
        origins = {event.response: event.origin for event in self.caller.of(ResponseStarted)}
        return [
            event for event in self.caller.of(ResponseFinished) if not origin or origins.get(event.response) == origin
        ]

    def rendered(self, response: str) -> list[tuple[float, int, int]]:
        """What the caller's device played of a response: time (of the call), first sample, end."""
        return [
            (at - self.caller.begin, offset, offset + samples)
            for at, id, offset, samples in self.caller.rendered
            if id == response
        ]

    def silent_from(self, at_s: float) -> float:
        """When the caller's device last played a sample before `at_s`, plus the frame."""
        return max(at - self.caller.begin for at, *_ in self.caller.rendered if at - self.caller.begin < at_s) + 0.02


def make(
    lines: Sequence[Line] = (),
    answer: Callable[[str | None, Context], Reply] | None = None,
    *,
    until_s: float = 20.0,
    channels: Sequence[Channel] = (),
    caller: ScriptedCaller | None = None,
    session: dict[str, Any] | None = None,
    **definition: Any,
) -> Call:
    """A call that is not started. `answer`: what the model says to a text (None: to results and instructions)."""
    asked: list[str | None] = []

    def reply(text: str | None, context: Context) -> Reply:
        asked.append(text)
        if answer is not None:
            return answer(text, context)
        return Reply(text=SHORT)

    model = ScriptedModel(ALL, reply)
    caller = caller or ScriptedCaller(lines, until_s=until_s)
    definition.setdefault("name", "test")
    made = Session(
        Definition(model=model, **definition),
        [caller, *channels],
        **{"tool_runner": "inline", **(session or {})},
    )
    return Call(made, caller, model, asked)


async def run(call: Call) -> Call:
    """From start to hang-up."""
    async with call.session:
        await call.session.wait()
    return call


async def hold(call: Call, at_s: float) -> None:
    """Wait until `at_s` of a call that has been started."""
    await asyncio.sleep(max(0.0, call.session.conductor.base + at_s - asyncio.get_running_loop().time()))


def seconds(samples: int) -> float:
    return samples / OUTPUT_RATE
