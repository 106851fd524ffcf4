"""How many full sessions one core carries, and what memory a session takes.

A real host (`duologue host`: control, one gateway process, workers, inference service) runs on one core; callers run on another,
in this process. Each session is a call of protocol v1 that sends a frame each 20 ms (16 kHz) and is spoken to all the time
(24 kHz): it asks something, is answered for a minute, and interrupts the answer to ask again each 20 s. Playout is reported ten
times a second, cleared and acknowledged as clients do. Behind it are floor, ledger, pacing, turn records, and the journal in
SQLite, group-committed as in production. The model is scripted (`hosted/agent.py`): nothing is inferred, so that what is
measured is our own code. "Silero" hears every window with the network that `Cascade.local()` uses, where it uses it: in the
worker, beside the session. Its callers speak with the synthesiser's voice.

CPU is user and system time of the processes from /proc/PID/stat while all sessions are in full swing, over sessions and
seconds; its inverse is sessions a core. Sockets are loopback without TLS, which proxies in front often carry; a row has it.
"shared" is one process for up to a hundred sessions, "process" one for each.

How late frames came, against the pace of the track, is in `hosted/callers.py`. "Held" is the largest number of sessions tried,
on the one core together, at which the 99th percentile of that was at most 40 ms and nothing was lost, doubled or dry. Where that
was not so while the machine itself stood still (`hosted/stalls.py`), it is tried again, three times at most; notes say how often.

Memory: every session asked for a minute's answer of which 20 s are made ahead; what the worker's private memory (smaps_rollup)
has grown by for each session since the worker had one, 20 s of speech queued, a few seconds of the user's audio kept.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field

from benchmarks.harness import Options, Result, main, pinned, split_cores
from benchmarks.hosted.callers import Callers, round_of
from benchmarks.hosted.host import Host, cpu_by_role, hosting, private_mb
from benchmarks.hosted.stalls import Watch, watching
from benchmarks.hosted.tally import Tally
from benchmarks.rig import MIC_RATE
from benchmarks.speakers import VOICES, Speakers
from duologue.host.workers.isolation import new_loop

REACH_PLAIN, REACH_VAD, REACH_MB, LATE_S = 200, 100, 1.5, 0.040
ROUND_S, ASK_S, LONG_S = 20.0, 1.2, 60.0
SAID = "No, stop, and tell me the one after."
_TRIES = 3
#: what an answer made ahead and a turn take to begin
_SETTLE_S = 4.0


@dataclass(frozen=True)
class Setting:
    """What is measured: tier of the workers, whether Silero hears, how many sessions are tried one after the other."""

    name: str
    tier: str
    vad: bool
    steps: tuple[int, ...]


@dataclass
class Step:
    """So many sessions for a while. `cpu` is in seconds a session-second, by process."""

    sessions: int
    seconds: float
    cpu: dict[str, float]
    generator: float
    tally: Tally

    @property
    def total(self) -> float:
        return self.cpu["gateway"] + self.cpu["worker"]

    @property
    def held(self) -> bool:
        """Whether everything came, in time."""
        return self.tally.late.percentile(99) <= LATE_S and not self.tally.losses and not self.tally.dry

    def row(self, name: str) -> list[object]:
        late, tally = self.tally.late.ms, self.tally
        return [
            name,
            self.sessions,
            round(tally.sent / self.seconds / self.sessions, 1),
            round(tally.received / self.seconds / self.sessions, 1),
            1000 * self.cpu["gateway"],
            1000 * self.cpu["worker"],
            int(1 / self.cpu["worker"]),
            int(1 / self.total),
            f"{late['p95']:g} / {late['p99']:g}",
            tally.losses + tally.dry,
        ]


@dataclass
class Found:
    """What came of a setting."""

    setting: Setting
    steps: list[Step] = field(default_factory=list)
    again: int = 0
    account: dict[str, int] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return max((step.sessions for step in self.steps if step.held), default=0)

    @property
    def basis(self) -> Step:
        """The largest load that was carried in time; the smallest, if none was."""
        return max((step for step in self.steps if step.held), key=lambda step: step.sessions, default=self.steps[0])


async def speech() -> bytes:
    """What callers say where a network hears them: 16 kHz."""
    speakers = Speakers()
    try:
        said = await speakers.say(SAID, VOICES[0])
    finally:
        await speakers.close()
    return said.pcm[: 2 * said.end + 2 * (MIC_RATE // 10)]


def rounds(sound: float | bytes) -> tuple[list[bytes], list[bytes]]:
    """The round that a caller repeats, and what it says before the first."""
    return round_of(ROUND_S, [(0.0, 1, sound)]), round_of(4.0, [(0.5, 1, sound)])


async def measure_step(host: Host, callers: Callers, sessions: int, seconds: float, settle_s: float) -> Step:
    """Let so many sessions run."""
    await callers.grow(sessions)
    await asyncio.sleep(settle_s)
    processes = host.processes()
    callers.look()
    before, began, used = cpu_by_role(processes), time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    tally = callers.look()
    after, took, used = cpu_by_role(processes), time.monotonic() - began, time.process_time() - used
    cpu = {role: (after[role] - before[role]) / took / sessions for role in after}
    return Step(sessions, took, cpu, used / took, tally)


async def measure_setting(
    host: Host, watch: Watch, setting: Setting, sound: bytes, seconds: float, settle_s: float
) -> Found:
    """Raise the number of sessions until frames come late."""
    environment = {"LONG_S": f"{LONG_S:g}", "VAD": str(int(setting.vad))}
    url = await host.deploy(re.sub(r"\W+", "_", setting.name), tier=setting.tier, environment=environment)
    frames, first = rounds(sound if setting.vad else ASK_S)
    callers = Callers(url, host.key, host.trust, frames, first=first)
    found = Found(setting)
    try:
        for sessions in setting.steps:
            for _ in range(_TRIES):
                watch.stalls.clear()
                step = await measure_step(host, callers, sessions, seconds, settle_s)
                if step.held or not watch.stalls:
                    break
                found.again += 1
            found.steps.append(step)
            if not step.held:
                break
        found.account = await callers.reckon()
    finally:
        await callers.hang_up()
    await host.settle()
    return found


async def measure_memory(host: Host, sessions: int) -> tuple[float, float]:
    """MB of the shared worker with one session, and how much each further session adds, 20 s of speech queued in each."""
    url = await host.deploy("memory", tier="shared", environment={"LONG_S": f"{LONG_S:g}"})
    frames, first = round_of(ROUND_S, []), round_of(4.0, [(0.5, 1, ASK_S)])
    callers = Callers(url, host.key, host.trust, frames, first=first)

    def look() -> dict[int, float]:
        return {pid: private_mb([pid]) for pid, role in host.processes().items() if role == "worker"}

    try:
        await callers.grow(1)
        await asyncio.sleep(_SETTLE_S)
        one = look()
        await callers.grow(1 + sessions)
        await asyncio.sleep(_SETTLE_S)
        many = look()
    finally:
        await callers.hang_up()
    await host.settle()
    serving = max(one.keys() & many.keys(), key=lambda pid: many[pid] - one[pid])  # others are kept ready
    return one[serving], (many[serving] - one[serving]) / sessions


async def run(options: Options) -> tuple[list[Found], tuple[float, float], int]:
    quick = options.quick
    measured, load = split_cores()
    sound = await speech()
    plain = [
        Setting("shared", "shared", False, (50,) if quick else (25, 50, 75, 100, 125, 150, 175, 200)),
        Setting("shared, Silero", "shared", True, (25,) if quick else (25, 50, 60, 70, 80, 90, 100)),
        Setting("process", "process", False, (10,) if quick else (25, 50, 75)),
        Setting("process, Silero", "process", True, (25, 50)),
    ]
    encrypted = Setting("shared, TLS", "shared", False, (25,) if quick else (25, 50, 75))
    seconds, settle_s = (2.5, 3.5) if quick else (20.0, 6.0)
    queued = 10 if quick else 50
    found = []
    async with watching(measured) as watch:
        with pinned(load):
            async with hosting(measured, tls=False, gateways=1) as host:
                for setting in plain[:3] if quick else plain:
                    found.append(await measure_setting(host, watch, setting, sound, seconds, settle_s))
                memory = await measure_memory(host, queued)
            async with hosting(measured, tls=True, gateways=1) as host:
                found.append(await measure_setting(host, watch, encrypted, sound, seconds, settle_s))
    return found, memory, queued


def measure(options: Options) -> Result:
    """See the module."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        found, (one_mb, more_mb), queued = runner.run(run(options))
    by_name = {one.setting.name: one for one in found}
    plain, vad = by_name["shared"], by_name["shared, Silero"]
    figure = {
        "worker_sessions_a_core": int(1 / plain.basis.cpu["worker"]),
        "gateway_sessions_a_core": int(1 / plain.basis.cpu["gateway"]),
        "sessions_a_core": int(1 / plain.basis.total),
        "vad_worker_sessions_a_core": int(1 / vad.basis.cpu["worker"]),
        "vad_sessions_a_core": int(1 / vad.basis.total),
        "held": plain.held,
        "vad_held": vad.held,
        "queued_mb": more_mb,
    }
    holds = (
        figure["sessions_a_core"] >= REACH_PLAIN and figure["vad_sessions_a_core"] >= REACH_VAD and more_mb <= REACH_MB
    )
    accounts = [one.account for one in found]
    missing = sum(account["sent"] - account["arrived"] for account in accounts)
    return Result(
        figure=figure,
        unit="sessions; queued_mb: MB",
        reach=f">= {REACH_PLAIN} sessions a core, gateway and worker together, >= {REACH_VAD} with Silero; <= {REACH_MB} MB each",
        holds=None if options.quick else holds,
        n=sum(step.tally.sent + step.tally.received for one in found for step in one.steps),
        columns=(
            "workers",
            "sessions",
            "frames/s up",
            "down",
            "gateway ms/s",
            "worker ms/s",
            "a core, worker",
            "both",
            "late ms p95 / p99",
            "losses",
        ),
        rows=[step.row(one.setting.name) for one in found for step in one.steps],
        notes=(
            "ms/s: CPU of a session in each second. both: gateway and workers on the same core, by that CPU.",
            "Held at p99 <= 40 ms on one core: " + ", ".join(f"{one.setting.name} {one.held}" for one in found) + ".",
            f"Memory: a shared worker with one session {one_mb:.1f} MB, each of {queued} more {more_mb:.2f} MB, "
            "20 s of speech queued.",
            f"Of the callers' samples {missing} did not reach the agent; "
            f"{sum(account['missing'] + account['twice'] for account in accounts)} were missing or twice by position.",
            f"Tried again because the machine stood still: {sum(one.again for one in found)} times.",
            "TLS is off except where said. No network infers anything except Silero where said.",
        ),
        packages=("picows", "uvloop", "msgspec", "onnxruntime"),
        details={
            one.setting.name: {
                "held": one.held,
                "account": one.account,
                "steps": [
                    {
                        "sessions": step.sessions,
                        "cpu_ms": {role: 1000 * cost for role, cost in step.cpu.items()},
                        "generator_cores": step.generator,
                        "late_ms": step.tally.late.ms,
                        "round_trip_ms": step.tally.trip.ms,
                        "generator_late_ms": step.tally.ticks.ms,
                        "losses": step.tally.losses,
                        "dry": step.tally.dry,
                    }
                    for step in one.steps
                ],
            }
            for one in found
        },
    )


if __name__ == "__main__":
    main("density", __doc__, measure)
