"""What history says was heard, against what the playback device rendered.

`Cascade.local()` speaks a long answer over a real WebSocket; at a random point the caller interrupts, by voice or by a button.
What history then holds is compared with the audio captured behind the playback device:

audio   milliseconds of the answer, as history says and as rendered
words   how many words of the answer; those in the captured audio are found by an independent recogniser, as the beginning of
        the text that comes nearest to what it understood. A word that was cut in two counts either way: the recogniser is
        asked twice, the second time without the last 0.2 s, and history may hold what lies between its answers

The link is shaped in the client, message by message and in order: jitter, lag each way, and acknowledgements of playout that
are never sent: half of the reports, and where it says so the answers to `clear` as well, so that history is an estimate.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.harness import Options, Result, cores, main, percentile, pinned, split_cores
from benchmarks.rig import MIC_RATE, Caller, Ear, rig
from benchmarks.speakers import VOICES, Speakers, Utterance
from duologue.agent import Agent
from duologue.client import LinkClosedError, Transport, connect, websocket
from duologue.events import ResponseFinished
from duologue.models import Cascade
from duologue.speech.llm.scripted import ScriptedLLM
from duologue.testing.audio import recognise
from duologue.testing.words import normalise

REACH_MS, REACH_WORDS = 100.0, 1
RATE = 24_000
CUT_WORD_S = 0.2
ANSWER = (
    "From here you drive straight on, past the fire station, until you come to the roundabout. Take the second exit, and go "
    "over the bridge, where the road gets narrow. Turn left at the traffic lights, and follow the river for about a mile. "
    "When you see the old lighthouse, slow down, because the turn is easy to miss."
)
STOPS = ("Stop, wait a second.", "Hold on, how many boxes is it?", "No, that is not what I meant.")


@dataclass(frozen=True)
class Shape:
    """What the link does to messages: seconds each way, and shares of what is lost."""

    lag_s: float = 0.0
    jitter_s: float = 0.0
    lose_played: float = 0.0
    lose_cleared: float = 0.0


#: here the cut can only be estimated: shown, but no part of the reach
UNANSWERED = "… and no answer to clear"
SHAPES = {
    "loopback": Shape(),
    "jitter up to 120 ms": Shape(jitter_s=0.120),
    "300 ms lag each way": Shape(lag_s=0.300),
    "half of the acknowledgements lost": Shape(lag_s=0.040, lose_played=0.5),
    "all of it at once": Shape(lag_s=0.300, jitter_s=0.120, lose_played=0.5),
    UNANSWERED: Shape(lag_s=0.300, jitter_s=0.120, lose_played=0.5, lose_cleared=1.0),
}


class Shaped:
    """A transport that delays whole messages each way, in order, and loses acknowledgements."""

    def __init__(self, inner: Transport, shape: Shape, seed: int) -> None:
        self._inner = inner
        self._shape = shape
        self._chance = random.Random(seed)
        self._out: asyncio.Queue[tuple[float, str | bytes]] = asyncio.Queue()
        self._in: asyncio.Queue[tuple[float, str | bytes | LinkClosedError]] = asyncio.Queue()
        self._due = [0.0, 0.0]
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    def _when(self, way: int) -> float:
        shape, now = self._shape, asyncio.get_running_loop().time()
        self._due[way] = max(self._due[way], now + shape.lag_s + self._chance.uniform(0.0, shape.jitter_s))
        return self._due[way]

    async def send(self, frame: str | bytes) -> None:
        """See Transport."""
        if isinstance(frame, str):
            lose = 0.0
            if frame.startswith('{"type":"played"'):
                lose = self._shape.lose_played
            elif frame.startswith('{"type":"cleared"'):
                lose = self._shape.lose_cleared
            if lose and self._chance.random() < lose:
                return
        self._out.put_nowait((self._when(0), frame))

    async def recv(self) -> str | bytes:
        """See Transport."""
        due, item = await self._in.get()
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        if isinstance(item, LinkClosedError):
            raise item
        return item

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """See Transport."""
        while not self._out.empty():  # noqa: ASYNC110 - the queue is shared with the shaper, which knows no one to tell
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await self._inner.close(code, reason)

    async def _write(self) -> None:
        try:
            while True:
                due, frame = await self._out.get()
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
                await self._inner.send(frame)
        except LinkClosedError:
            return  # the reader hears of it too

    async def _read(self) -> None:
        try:
            while True:
                frame = await self._inner.recv()
                self._in.put_nowait((self._when(1), frame))
        except LinkClosedError as error:
            self._in.put_nowait((self._when(1), error))


def talkative_agent() -> Agent:
    """Speaks at once, and for long."""
    llm = ScriptedLLM(lambda _: "Fine.", first_token_s=0.2)
    return Agent(model=Cascade.local(llm=llm), greeting=ANSWER, idle_prompt="")


@dataclass
class Cut:
    """One interrupted answer."""

    shape: str
    history_ms: float
    rendered_ms: float
    history: str
    estimated: bool
    captured: bytes
    words_off: int = 0

    @property
    def error_ms(self) -> float:
        """Positive: history holds more than was heard."""
        return self.history_ms - self.rendered_ms


async def hold_call(url: str, name: str, said: Utterance, after: float, seed: int, by_voice: bool) -> Cut | None:
    """Listen for `after` seconds, interrupt, and compare. None if the answer was not interrupted."""
    loop = asyncio.get_running_loop()
    shape = SHAPES[name]

    async def connector(address: str, headers: Mapping[str, str]) -> Transport:
        return Shaped(await websocket(address, headers), shape, seed)

    ear = Ear(RATE)
    opened = connect(url, input_rate=MIC_RATE, output_rate=RATE, sink=ear, connector=connector)
    async with opened as call, Caller(call, ear, seed=seed) as caller:
        if not await caller.until(lambda: ear.pieces, 10.0):
            return None
        await asyncio.sleep(max(0.0, ear.pieces[0][0] + after - loop.time()))
        if by_voice:
            caller.say(said.pcm)
        else:
            await call.interrupt()

        def cut() -> ResponseFinished | None:
            finished = (e for e in caller.events if isinstance(e, ResponseFinished) and e.text)
            return next((e for e in finished if ANSWER.startswith(e.text)), None)

        await caller.until(cut, 8.0)
        finished = cut()
        if finished is None or finished.status != "interrupted" or call.playout is None:
            return None
        runs = [run for run in call.playout.log if run.response == finished.response]
        rendered = max((run.offset + run.samples for run in runs), default=0)
        until = max((run.at + run.samples / RATE for run in runs), default=0.0)
        return Cut(
            name,
            finished.heard_ms,
            1000 * rendered / RATE,
            finished.heard,
            finished.estimated,
            b"".join(pcm for at, pcm in ear.pieces if at < until),
        )


def words_heard(captured: bytes, text: str) -> int:
    """How many words of `text` are in the audio: those of its beginning that comes nearest to what is recognised."""
    recognised = normalise(recognise(captured + bytes(RATE), RATE)) if captured else []
    words = normalise(text)
    # Edit distances of every beginning of the text to all that was recognised, as the last column of the usual table.
    column = list(range(len(words) + 1))
    for number, heard in enumerate(recognised, 1):
        previous, column[0] = column[0], number
        for place, word in enumerate(words, 1):
            previous, column[place] = (
                column[place],
                min(column[place] + 1, column[place - 1] + 1, previous + (word != heard)),
            )
    return min(range(len(words) + 1), key=lambda place: (column[place], abs(place - len(recognised))))


async def run(options: Options) -> list[Cut]:
    count = 3 if options.quick else 12
    _, load = split_cores()
    chance = random.Random(options.seed)
    speakers = Speakers()
    said = [await speakers.say(text, voice) for text in STOPS for voice in VOICES[:3]]
    await speakers.close()
    found: list[Cut] = []
    async with rig(talkative_agent, cores=cores()) as server:
        with pinned(load):
            plans = [(name, number) for number in range(count) for name in SHAPES]
            chance.shuffle(plans)
            for first in range(0, len(plans), 4):
                calls = [
                    hold_call(
                        server.url,
                        name,
                        chance.choice(said),
                        chance.uniform(0.7, 5.0 if options.quick else 11.0),
                        chance.randrange(1 << 30),
                        number % 2 == 0,
                    )
                    for name, number in plans[first : first + 4]
                ]
                found += [cut for cut in await asyncio.gather(*calls) if cut is not None]
    for cut in found:
        held = len(normalise(cut.history))
        most = words_heard(cut.captured, ANSWER)
        least = min(most, words_heard(cut.captured[: -2 * int(CUT_WORD_S * RATE)], ANSWER))
        cut.words_off = min(held - least, 0) + max(held - most, 0)
    return found


def measure(options: Options) -> Result:
    found = asyncio.run(run(options))
    rows = []
    for name in SHAPES:
        cuts = [cut for cut in found if cut.shape == name]
        off = [cut.error_ms for cut in cuts]
        size = [abs(error) for error in off]
        missed = [abs(cut.words_off) for cut in cuts]
        rows.append(
            [
                name,
                len(cuts),
                sum(cut.estimated for cut in cuts),
                percentile(off, 50),
                percentile(size, 95),
                max(size, default=None),
                max(missed, default=None),
                sum(count > REACH_WORDS for count in missed),
            ]
        )
    judged = [cut for cut in found if cut.shape != UNANSWERED]
    worst = max((abs(cut.error_ms) for cut in judged), default=float("inf"))
    words = max((abs(cut.words_off) for cut in judged), default=99)
    fine = worst <= REACH_MS and words <= REACH_WORDS
    return Result(
        figure={"worst_ms": worst, "worst_words": words},
        unit="ms, words",
        reach="history against rendered audio <= 100 ms and <= 1 word at the cut, the worst of all",
        holds=None if options.quick and fine else fine,
        n=len(judged),
        columns=["link", "n", "estimated", "median ms", "p95 of |ms|", "worst ms", "worst words", "> 1 word"],
        rows=rows,
        notes=["Positive: history holds more than was heard. estimated: no acknowledgement confirmed the cut."],
        packages=["moonshine-voice", "piper-tts", "websockets"],
        details={
            name: {
                "ms": [round(cut.error_ms, 1) for cut in found if cut.shape == name],
                "words": [cut.words_off for cut in found if cut.shape == name],
            }
            for name in SHAPES
        },
    )


if __name__ == "__main__":
    main("heard", __doc__, measure)
