"""Many sessions for as long as it is told to: `python -m benchmarks.load --sessions 200 --minutes 10 [--tls]`.

A whole host on this machine (control, gateway processes, workers, journal in SQLite; `--tls` as clients meet it, else without),
and callers in this process, all on the same cores unless `--apart` gives callers the last one for themselves. Microphones are
always open: 50 frames a second from each caller, and 50 to each while its agent speaks. `--barge-ins` times a minute each
caller asks something, and as often interrupts the answer and is answered anew; `--share` is how much of the time its agent
speaks. The model is scripted: its evidence of turns is marks in the audio (`hosted/agent.py`), or with `--vad` Silero's
judgement of a synthetic voice. Nothing else is inferred.

Each minute a line: cores that gateways, workers, control and callers took, memory, how late frames came (see
`hosted/callers.py`), round trips, and what was lost or came twice: events and frames by their numbers, samples of the agent by
position and by content. At the end the agents say what arrived of the callers' audio, and one JSON line says it all. `holds`:
nothing was lost, doubled, wrong or dry, no call ended unasked, and lateness was at most 40 ms (p99). When the machine itself
stood still, which nothing that runs on it can make up for, is said beside it (`machine_stalls_ms`, see `hosted/stalls.py`).

Not one of the benchmarks that `python -m benchmarks` runs. It ends by itself, and with it every process it began.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from benchmarks.density import LATE_S, speech
from benchmarks.harness import cores, machine, pinned, versions
from benchmarks.hosted.callers import FRAME_S, Callers, round_of
from benchmarks.hosted.host import Host, cpu_by_role, hosting, private_mb
from benchmarks.hosted.stalls import watching
from benchmarks.hosted.tally import Tally
from duologue.host.workers.isolation import new_loop

#: how long a question and an interruption take, and an answer to begin after them
_ASK_S, _CUT_S, _PAUSE_S = 1.2, 1.4, 0.8
#: an answer that is to be interrupted goes on for so much longer
_BEYOND_S = 15.0
#: how long calls run before the first minute is counted
_SETTLE_S = 5.0


class Meter:
    """What processes cost between one look and the next."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._cpu: Mapping[str, float] = {}
        self._own = 0.0
        self._at = 0.0
        self.look()

    def look(self) -> dict[str, Any]:
        """Cores by kind of process, and their memory in MB, since the last look."""
        processes = self._host.processes()
        now, own, cpu = time.monotonic(), time.process_time(), cpu_by_role(processes)
        took = max(now - self._at, 1e-9)
        found: dict[str, Any] = {
            "cpu": {role: round((cpu[role] - self._cpu.get(role, 0.0)) / took, 3) for role in sorted(cpu)}
            | {"callers": round((own - self._own) / took, 3)},
            "mb": {
                role: round(private_mb([pid for pid, what in processes.items() if what == role]))
                for role in sorted(cpu)
            },
            "processes": len(processes),
        }
        self._cpu, self._own, self._at = cpu, own, now
        return found


def told(tally: Tally, sessions: int, seconds: float) -> dict[str, Any]:
    """What callers counted, for a line."""
    return {
        "late_ms": tally.late.ms,
        "round_trip_ms": tally.trip.ms,
        "callers_late_ms": tally.ticks.ms,
        "up_per_s": round(tally.sent / seconds / sessions, 2),
        "down_per_s": round(tally.received / seconds / sessions, 2),
        "share_agent": round(tally.received * FRAME_S / seconds / sessions, 3),
        "share_caller": round((tally.sent - tally.silent) * FRAME_S / seconds / sessions, 3),
        "barge_ins_per_min": round(tally.events["interruption.yield"] / sessions / seconds * 60, 2),
        "lost": tally.lost,
        "doubled": tally.doubled,
        "lost_samples": tally.lost_samples,
        "doubled_samples": tally.doubled_samples,
        "wrong_frames": tally.wrong,
        "dry": tally.dry,
        "gone": tally.gone,
        "errors": dict(tally.errors),
    }


def plan(given: argparse.Namespace, sound: bytes) -> tuple[list[bytes], dict[str, str]]:
    """The round of a caller, and the settings of the agent: a question, half the agent's share of an answer, an interruption,
    the other half, silence. Raises SystemExit for a round that has no room for it.
    """
    period = 60.0 / given.barge_ins
    half = period * given.share / 2
    cut_at = _ASK_S + _PAUSE_S + half
    if cut_at + _CUT_S + _PAUSE_S + half > period:
        raise SystemExit(
            f"{given.barge_ins:g} barge-ins a minute leave no room for agents that speak {given.share:.0%}."
        )
    ask, cut = (sound, sound) if given.vad else (_ASK_S, _CUT_S)
    frames = round_of(period, [(0.0, 1, ask), (cut_at, 2, cut)])
    settings = {"LONG_S": f"{half + _BEYOND_S:.2f}", "SHORT_S": f"{half:.2f}", "VAD": str(int(given.vad))}
    return frames, settings


async def run(given: argparse.Namespace) -> bool:
    """Hold the calls, and say how it was. Whether nothing was wrong."""
    sessions: int = given.sessions
    frames, settings = plan(given, await speech() if given.vad else b"")
    usable = cores()
    apart = given.apart and len(usable) > 1
    served, ours = (usable[:-1], usable[-1:]) if apart else (usable, usable)
    gateways = given.gateways or max(1, len(served))
    total = Tally()
    minutes: list[dict[str, Any]] = []
    stalls: list[float] = []
    async with (
        watching(usable) as watch,
        hosting(served, tls=given.tls, gateways=gateways, sessions=sessions + 10) as host,
    ):
        url = await host.deploy("load", tier=given.tier, environment=settings)
        with pinned(ours) if apart else nullcontext():
            callers = Callers(url, host.key, host.trust, frames)
            began = time.monotonic()
            await callers.grow(sessions)
            joined_s = time.monotonic() - began
            print(json.dumps({"joined": sessions, "seconds": round(joined_s, 1)}), flush=True)
            await asyncio.sleep(_SETTLE_S)
            total.merge(callers.look())  # its times are not counted, its losses are
            total.late, total.trip, total.ticks = Tally().late, Tally().trip, Tally().ticks
            early = total.events.copy(), total.received, total.sent, total.silent
            total.events.clear()
            total.received = total.sent = total.silent = 0
            meter, start = Meter(host), time.monotonic()
            watch.stalls.clear()
            end = start + 60 * given.minutes
            while (left := end - time.monotonic()) > 0.5:
                at = time.monotonic()
                await asyncio.sleep(min(60.0, left))
                tally = callers.look()
                line = {
                    "minute": round((time.monotonic() - start) / 60, 2),
                    **meter.look(),
                    **told(tally, sessions, time.monotonic() - at),
                    "machine_stalls_ms": [round(1000 * stall) for stall in watch.stalls],
                }
                stalls += watch.stalls
                watch.stalls.clear()
                print(json.dumps(line), flush=True)
                minutes.append(line)
                total.merge(tally)
            seconds = time.monotonic() - start
            account = await callers.reckon()
            status = await host.status()
            last = callers.look()
            await callers.hang_up()
        await host.settle()
    for name in ("lost", "doubled", "lost_samples", "doubled_samples", "wrong", "gone"):
        setattr(total, name, getattr(total, name) + getattr(last, name))
    missing = account["sent"] - account["arrived"]
    fine = (
        not total.losses
        and not total.dry
        and not missing
        and not account["missing"]
        and not account["twice"]
        and not account["silent"]
        and total.late.percentile(99) <= LATE_S
    )
    line = {
        "name": "load",
        "holds": fine,
        "sessions": sessions,
        "minutes": round(seconds / 60, 2),
        "tls": given.tls,
        "tier": given.tier,
        "model": "scripted, Silero" if given.vad else "scripted",
        "gateways": gateways,
        "callers_apart": apart,
        "joined_s": round(joined_s, 1),
        **told(total, sessions, seconds),
        "caller_samples": account | {"lost": missing},
        "machine_stalls_ms": [round(1000 * stall) for stall in stalls] if watch.possible else None,
        "cpu": _mean([one["cpu"] for one in minutes]),
        "mb": minutes[-1]["mb"] if minutes else {},
        "turns": total.events["turn.committed"],
        "false_barge_ins": total.events["interruption.resume"],
        "before_the_first_minute": {"received": early[1], "sent": early[2]},
        "capacity": status["parts"]["capacity"],
        "machine": machine(),
        "versions": versions("picows", "uvloop", "onnxruntime"),
    }
    print(json.dumps(line), flush=True)
    return fine


def _mean(cpu: list[dict[str, float]]) -> dict[str, float]:
    return {role: round(sum(one.get(role, 0.0) for one in cpu) / len(cpu), 3) for role in (cpu[0] if cpu else ())}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=200, help="calls at the same time")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long")
    parser.add_argument("--tls", action="store_true", help="over TLS, with a certificate for development")
    parser.add_argument("--share", type=float, default=0.4, help="of the time that agents speak")
    parser.add_argument("--barge-ins", type=float, default=1.0, help="of each caller, a minute")
    parser.add_argument("--vad", action="store_true", help="Silero hears each caller")
    parser.add_argument("--tier", choices=("shared", "process"), default="shared", help="what sessions run in")
    parser.add_argument("--gateways", type=int, default=0, help="processes (default: one a core)")
    parser.add_argument("--apart", action="store_true", help="callers have the last core for themselves")
    given = parser.parse_args()
    if given.sessions < 1 or given.barge_ins <= 0 or not 0 < given.share < 1:
        parser.error("--sessions is 1 or more, --barge-ins above 0, --share between 0 and 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the host is ended, too
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return 0 if runner.run(run(given)) else 1
