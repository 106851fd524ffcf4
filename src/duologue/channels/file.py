"""A recording as the caller, and a recording of what the agent said: a conversation without a sound card."""

from __future__ import annotations

import asyncio
import os

from ..audio import check_rate
from ..audio.playback import PlaybackDevice
from ..errors import ConfigurationError, check_options
from ..events import ActivityInput, Event
from .base import Channel, Port, Traits
from .playback import Playback, TimelineWriter, beside, check_writable
from .recording import Patience, RecordedCaller, Recording, Side
from .settling import Settling

_OPTIONS = ("input", "output", "output_rate", "side", "patience")
_Path = str | os.PathLike[str]


class File(Channel):
    """Plays a WAV file to the agent as a caller would speak, and writes what the agent said to another.

    The caller lets a greeting finish, speaks at the speed of speech, listens, and hangs up when nothing more is owed. The
    output has the call's own timeline, from its beginning: silences are in it, a barge-in cuts it where the agent fell
    silent, ducking is heard. Playout is acknowledged exactly. Everything waits on the event loop's clock only, so under a
    virtual clock a call takes as long as its computations.

    Args:
        input: a WAV file (PCM16, 8 to 48 kHz, mono or stereo); None: nobody speaks, the agent is only recorded.
        output: where to write what the agent said (WAV, PCM16 mono); None: nothing is.
        output_rate: Hz of that.
        side: what to take of a stereo input.
        patience: when the caller speaks and hangs up.

    Raises:
        ConfigurationError: no such input, an output that cannot be written, or neither.
        AudioFormatError: an input that is no such WAV file; it says how to convert it.
        UnknownOptionError: an option that does not exist.
    """

    name = "file"

    def __init__(
        self,
        *,
        input: _Path | None = None,
        output: _Path | None = None,
        output_rate: int = 24_000,
        side: Side = "mix",
        patience: Patience | None = None,
        **unknown: object,
    ) -> None:
        check_options("File", unknown, _OPTIONS)
        if input is None and output is None:
            raise ConfigurationError("File() has neither input nor output.", hint="Name a WAV file for one of them.")
        self._recording = Recording(input, side) if input is not None else None
        self._target = check_writable(output) if output is not None else None
        if self._target is not None and self._recording is not None and _same(self._target, self._recording.path):
            raise ConfigurationError("Input and output are the same file.", hint="Name another output.")
        self._rate = check_rate(output_rate)
        self._patience = patience or Patience()
        self._settling = Settling(0.0)
        self._writer: TimelineWriter | None = None
        self._playback: Playback | None = None

    @property
    def traits(self) -> Traits:
        """See Channel. A recorder beside a real listener does not acknowledge: history follows the listener."""
        calls = self._recording is not None
        return Traits(
            input_rate=self._recording.rate if self._recording is not None else None,
            output_rate=self._rate if self._target is not None else None,
            pacing="paced" if self._target is not None else "none",
            acknowledges=calls,
            clears=True,
            ducks=True,
            essential=calls,
        )

    async def start(self, port: Port) -> None:
        """See Channel."""
        await super().start(port)
        now = asyncio.get_running_loop().time()
        self._settling = Settling(now)
        if self._target is not None:
            self._writer = TimelineWriter(self._target, self._rate, now)
            device = PlaybackDevice(self._rate, now=now, sink=self._writer.sink, keep_log=4096)
            self._playback = Playback(device, port)

    async def run(self) -> None:
        """See Channel."""
        calling = self._call(self._recording) if self._recording is not None else None
        playing = self._playback.run() if self._playback is not None else None
        if calling is not None and playing is not None:
            await beside(calling, playing)
        elif (only := calling or playing) is not None:
            await only

    async def _call(self, recording: Recording) -> None:
        port = self.port

        async def send(pcm: bytes, position: int) -> None:
            port.audio(pcm, position)

        async def ended() -> None:
            port.input(ActivityInput(kind="ended"))

        await RecordedCaller(recording, self._settling, send, ended, self._patience).run()
        port.ended("hangup")

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""
        self._settling.take(event, asyncio.get_running_loop().time())

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See Channel."""
        if self._playback is not None:
            self._playback.audio(response, offset, position, pcm)

    def clear(self, response: str) -> None:
        """See Channel."""
        if self._playback is not None:
            self._playback.clear()

    def duck(self, gain_db: float) -> None:
        """See Channel."""
        if self._playback is not None:
            self._playback.duck(gain_db)

    async def close(self, reason: str) -> None:
        """See Channel."""
        if self._writer is not None and self._playback is not None:
            now = asyncio.get_running_loop().time()
            self._playback.device.run(now)
            self._writer.close(now)


def _same(one: os.PathLike[str], other: os.PathLike[str]) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
