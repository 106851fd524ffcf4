"""Plays the agent's audio and tells the server what was heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from duologue.audio.playback import PlaybackDevice, Rendered
from duologue.wire.duologue import AgentAudio, Clear, Duck

#: how often playout is acknowledged while something plays
REPORT_S = 0.1
#: how often the device is run when somebody listens to its output
_SINK_S = 0.02


class Playout:
    """Drives a :class:`PlaybackDevice` on the event loop's clock.

    Attributes:
        device: what plays; `device.log` says what was rendered when.
        silenced: for each clear, the time when it came and the first position that was not rendered.
    """

    def __init__(self, device: PlaybackDevice, *, live: bool, report: Callable[[int, float], None]) -> None:
        """`live`: run the device often enough for a sink; `report` takes (position, time) acknowledgements."""
        self.device = device
        self.silenced: list[tuple[float, int]] = []
        self._live = live
        self._report = report
        self._reported = 0
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def position(self) -> int:
        """First position of the track that is not audible yet."""
        return self.device.audible(asyncio.get_running_loop().time())

    @property
    def log(self) -> list[Rendered]:
        """What was rendered so far, up to now."""
        self.device.run(asyncio.get_running_loop().time())
        return list(self.device.log)

    async def drained(self) -> None:
        """Wait until everything received so far has been played (or cleared)."""
        await self._idle.wait()

    def write(self, audio: AgentAudio, now: float) -> None:
        """Queue audio for playing."""
        self.device.write(
            audio.pcm,
            position=audio.position,
            response=audio.response,
            offset=audio.offset,
            now=now,
        )
        if self._idle.is_set() and self.device.waiting:
            self._idle.clear()
            self._work.set()

    def clear(self, message: Clear, now: float) -> int:
        """Fall silent at once; returns the first position that was not rendered."""
        played = self.device.clear(message.before, response=message.response, now=now)
        self.silenced.append((now, played))
        del self.silenced[:-1000]
        return played

    def duck(self, message: Duck, now: float) -> None:
        """Change the loudness."""
        self.device.duck(message.gain_db, ramp_ms=message.ramp_ms, now=now)

    async def run(self) -> None:
        """Play until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._work.wait()
            self._work.clear()
            next_report = loop.time() + REPORT_S
            while True:
                now = loop.time()
                self.device.run(now)
                heard = self.device.audible(now)
                dry = not self.device.waiting and heard >= self.device.position
                if (now >= next_report or dry) and heard > self._reported:
                    self._reported = heard
                    self._report(heard, now)
                    next_report = now + REPORT_S
                if dry:
                    break
                until = min(next_report, now + _SINK_S) if self._live else next_report
                dry_at = self.device.dry_at()
                if dry_at is not None and dry_at > now:
                    until = min(until, dry_at)
                # A report that had nothing new to say must not be due again at once.
                next_report = max(next_report, now + _SINK_S)
                await asyncio.sleep(max(until - now, 0.001))
            self._idle.set()
