"""What Duologue itself adds between a caller and a model: microphone to model, model to ear, and joining a call.

The model is a mirror: a marked frame of the caller's makes it answer at once, so that nothing it does takes time. The rest is
real: the Python client, a WebSocket over loopback, the server in another process with its floor, ledger, pacing and journal.

mic to model   from the moment at which the last sample of the marked frame was captured (a frame of 20 ms must be full before
               it can be sent: that is pacing) to the model's receiving it
model to ear   from the model's giving out the answer's first sample to its being rendered by the playback device, which takes
               samples every 10 ms as a sound card does
join           from the beginning of `connect` until the model has the caller's first frame and the caller hears the first
               sample of the greeting; for the mirror, and for `Cascade.local()` once the server has warmed it up
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness import Options, Result, cores, main, percentile, percentile_interval, pinned, split_cores
from benchmarks.rig import FRAME, MIC_RATE, Caller, Ear, Rig, rig
from duologue.agent import Agent
from duologue.client import connect
from duologue.events import ResponseOrigin
from duologue.models import Cascade
from duologue.models.base import Began, Capabilities, Connection, Context, Ended, Model, Said, Spoke
from duologue.serve.app import Server
from duologue.speech.llm.phrase import PhraseLLM

REACH_S, REACH_JOIN_S = 0.030, 0.500
_TONE = struct.pack("<h", 8000) * 4800  # 0.2 s at 24 kHz
_EVERY_S = 0.6
_GREETING = "Hello, who is there?"

#: when the model received each marked frame, and the first frame of each connection: of the server's process
marked: dict[int, float] = {}
first_frames: list[float] = []


class MirrorConnection(Connection):
    """Answers a frame of one value with a tone at once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last = 0
        self._begun = False

    def audio(self, pcm: bytes, position: int) -> None:
        """See Connection."""
        now = time.monotonic()
        if not self._begun:
            self._begun = True
            first_frames.append(now)
        value = struct.unpack_from("<h", pcm)[0]
        if value and value != self._last:
            marked[value] = now
            self._speak(self._context.next_response(), "respond")
        self._last = value

    def _speak(self, response: str, origin: ResponseOrigin) -> None:
        report = self._context.report
        report(Began(response=response, origin=origin))
        report(Said(response=response, text="Beep."))
        report(Spoke(response=response, pcm=_TONE))
        report(Ended(response=response))

    def text(self, turn: str, text: str) -> None:
        """See Connection."""

    def commit(self, turn: str) -> None:
        """See Connection."""

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        self._speak(response, origin)

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        self._speak(response, origin)

    def cancel(self, response: str) -> None:
        """See Connection."""

    async def close(self) -> None:
        """See Connection."""


class Mirror(Model):
    """See MirrorConnection."""

    name = "mirror"

    @property
    def capabilities(self) -> Capabilities:
        """See Model."""
        return Capabilities(authority="engine", input_rate=MIC_RATE, output_rate=24_000)

    async def open(self, context: Context) -> Connection:
        """See Model."""
        return MirrorConnection(context)


def mirror_agent() -> Agent:
    """The agent for the delays."""
    return Agent(model=Mirror(), greeting=_GREETING, idle_prompt="")


def local_agent() -> Agent:
    """The agent for joining a call with local speech."""
    return Agent(model=Cascade.local(llm=PhraseLLM()), greeting=_GREETING, idle_prompt="")


def _marked(server: Server) -> dict[int, float]:
    return marked


def _first_frames(server: Server) -> list[float]:
    return first_frames


@dataclass
class Beep:
    """One marked frame: when it was captured whole, and when its answer was heard."""

    value: int
    captured: float
    heard: float


async def hold_call(url: str, values: Sequence[int]) -> list[Beep]:
    """Send marked frames, one at a time, each at another place between two quanta of the device."""
    ear, found = Ear(24_000), []
    async with connect(url, input_rate=MIC_RATE, output_rate=24_000, sink=ear) as call:  # noqa: SIM117
        async with Caller(call, ear, noise_dbfs=None) as caller:
            await asyncio.sleep(_EVERY_S)
            for value in values:
                start = caller.say(struct.pack("<h", value) * FRAME)
                captured = caller.time_of(start + FRAME)
                await asyncio.sleep(_EVERY_S)
                heard = next((at for at, _ in ear.pieces if at >= captured), float("inf"))
                found.append(Beep(value, captured, heard))
    return found


async def join(server: Rig, *, mirror: bool) -> float:
    """Seconds until audio has gone both ways."""
    loop = asyncio.get_running_loop()
    ear = Ear(24_000)
    began = loop.time()
    async with (
        connect(server.url, input_rate=MIC_RATE, output_rate=24_000, sink=ear) as call,
        Caller(call, ear) as caller,
    ):
        await caller.until(lambda: ear.pieces, 5.0)
        # The model has the first frame by then, or the server can say when it had: a frame is 20 ms, a greeting more.
        arrived = (await server.ask(_first_frames))[-1] if mirror else caller.time_of(FRAME)
        first = ear.pieces[0][0] if ear.pieces else float("inf")
    await asyncio.sleep(0.05)
    return max(first, arrived) - began


async def run(options: Options) -> tuple[dict[str, tuple[list[float], list[float]]], dict[str, list[float]]]:
    one_call, calls, joins = (12, 10, 5) if options.quick else (300, 20, 30)
    _, load = split_cores()
    delays: dict[str, tuple[list[float], list[float]]] = {}
    joined: dict[str, list[float]] = {}
    async with rig(mirror_agent, cores=cores()) as server:
        with pinned(load):
            values = iter(range(1, 30_000))
            alone = await hold_call(server.url, [next(values) for _ in range(one_call)])
            many = await asyncio.gather(
                *(hold_call(server.url, [next(values) for _ in range(max(5, one_call // 20))]) for _ in range(calls))
            )
            received = await server.ask(_marked)
            for name, beeps in (
                ("1 call", alone),
                (f"{calls} calls at once", [beep for each in many for beep in each]),
            ):
                delays[name] = (
                    [received[beep.value] - beep.captured for beep in beeps],
                    [beep.heard - received[beep.value] for beep in beeps],
                )
            joined["mirror"] = [await join(server, mirror=True) for _ in range(joins)]
    async with rig(local_agent, cores=cores()) as server:
        with pinned(load):
            joined["Cascade.local()"] = [await join(server, mirror=False) for _ in range(joins)]
    return delays, joined


def measure(options: Options) -> Result:
    delays, joined = asyncio.run(run(options))
    rows = []
    for name, (up, down) in delays.items():
        both = [a + b for a, b in zip(up, down, strict=True)]
        for part, values in (("mic to model", up), ("model to ear", down), ("both", both)):
            rows.append([f"{part}, {name}", len(values), *(1000 * percentile(values, share) for share in (50, 95, 99))])
    for name, values in joined.items():
        rows.append([f"join, {name}", len(values), *(1000 * percentile(values, share) for share in (50, 95, 99))])
    up, down = delays["1 call"]
    sums = [a + b for a, b in zip(up, down, strict=True)]
    low, both95, high = percentile_interval(sums, 95)
    slowest = max(percentile(values, 95) for values in joined.values())
    fast = both95 <= REACH_S and slowest <= REACH_JOIN_S
    return Result(
        figure={"both_p95_s": both95, "join_p95_s": slowest},
        unit="s",
        reach="microphone to model plus model to ear p95 <= 0.03 s; join <= 0.5 s (p95, the slower model)",
        holds=None if options.quick and fast else fast,
        n=len(sums),
        columns=["", "n", "median ms", "p95", "p99"],
        rows=rows,
        notes=[f"95 % interval of the p95, one call: {1000 * low:.1f}–{1000 * high:.1f} ms."],
        packages=["websockets", "uvicorn", "starlette"],
        details={
            name: {"mic_to_model_p95_s": percentile(up, 95), "model_to_ear_p95_s": percentile(down, 95)}
            for name, (up, down) in delays.items()
        },
    )


if __name__ == "__main__":
    main("added_latency", __doc__, measure)
