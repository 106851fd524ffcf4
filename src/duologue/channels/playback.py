"""Playing what a session sends to a listener, and telling it what was heard: what every channel with ears shares."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from pathlib import Path

from ..audio import WavWriter
from ..audio.playback import PlaybackDevice
from ..errors import ConfigurationError
from .base import Port

#: time between acknowledgements while something plays
REPORT_S = 0.1
#: how often a virtual device is run
_RUN_S = 0.02
#: a duck is a ramp, not a click
_DUCK_MS = 40
_EVERYTHING = 1 << 62
#: silence is written in pieces of this many samples
_SILENCE = 1 << 16


class Playback:
    """Connects a :class:`PlaybackDevice` to a session's port: audio in, acknowledgements out.

    A virtual device is run by :meth:`run`, a sound card pulls by itself. Acknowledged is what was *audible*: what the
    device has taken and not yet played out is not.
    """

    def __init__(self, device: PlaybackDevice, port: Port) -> None:
        self.device = device
        self._port = port
        self._reported = 0
        self._work = asyncio.Event()

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See :meth:`duologue.channels.base.Channel.audio`."""
        self.device.write(pcm, position=position, response=response, offset=offset, now=_now())
        self._work.set()

    def clear(self) -> None:
        """Drop everything that was not taken, and answer with where playout stopped."""
        played = self.device.clear(_EVERYTHING, now=_now())
        self._reported = max(self._reported, played)
        self._port.cleared(played)

    def duck(self, gain_db: float) -> None:
        """See :meth:`duologue.channels.base.Channel.duck`."""
        self.device.duck(gain_db, ramp_ms=_DUCK_MS, now=_now())

    async def run(self) -> None:
        """Play and acknowledge until cancelled."""
        device = self.device
        while True:
            await self._work.wait()
            self._work.clear()
            next_report = _now() + REPORT_S
            while True:
                now = _now()
                device.run(now)
                heard = device.audible(now)
                dry = not device.waiting and heard >= device.position
                if heard > self._reported and (dry or now >= next_report):
                    self._reported = heard
                    self._port.played(heard)
                    next_report = now + REPORT_S
                if dry:
                    break
                dry_at = device.dry_at()
                until = now + _RUN_S if dry_at is None or dry_at <= now else min(now + _RUN_S, dry_at)
                await asyncio.sleep(max(until - now, 0.001))


async def beside(work: Awaitable[None], other: Awaitable[None]) -> None:
    """Do `work` while `other` runs; ends with the first of them, raising its error as it is (a group would hide it)."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(other)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


class TimelineWriter:
    """A WAV file on the clock: each run of samples lands where it sounded, with silence between.

    Use :meth:`sink` as the sink of a :class:`PlaybackDevice`. Raises ConfigurationError if the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], rate: int, start: float) -> None:
        try:
            self._writer = WavWriter(path, rate)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}.") from None
        self._rate = rate
        self._start = start
        self._flushed = 0
        self._closed = False

    @property
    def seconds(self) -> float:
        """How much has been written."""
        return self._writer.samples / self._rate

    def sink(self, pcm: bytes, at: float) -> None:
        """PCM16 mono whose first sample sounds at `at`, on the clock of `start`."""
        # Each run's time is rounded to a sample by itself; runs that follow each other must not gain or lose one.
        if (gap := round((at - self._start) * self._rate) - self._writer.samples) > 1:
            self._silence(gap)
        self._writer.write(pcm)
        if self._writer.samples - self._flushed > self._rate:
            self._flushed = self._writer.samples
            self._writer.flush()

    def close(self, now: float) -> None:
        """Write the silence up to `now`, and close. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._silence(round((now - self._start) * self._rate) - self._writer.samples)
            self._writer.close()

    def _silence(self, samples: int) -> None:
        while samples > 0:
            part = min(samples, _SILENCE)
            self._writer.write(bytes(2 * part))
            samples -= part


def check_writable(path: str | os.PathLike[str]) -> Path:
    """`path` if a file can be written there; raises ConfigurationError otherwise. Nothing is created."""
    target = Path(path)
    parent = target.absolute().parent
    if not parent.is_dir():
        raise ConfigurationError(f"There is no directory {parent}.", hint="Make it first, or name another file.")
    if target.is_dir() or not os.access(target if target.exists() else parent, os.W_OK):
        raise ConfigurationError(f"{target} cannot be written.", hint="Name a file in a directory of yours.")
    return target


def _now() -> float:
    return asyncio.get_running_loop().time()
