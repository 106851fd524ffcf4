"""The sound card of this machine as a participant: its microphone speaks, its loudspeaker hears."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Mapping
from typing import Any

from ..audio import Ring, check_rate
from ..audio.playback import PlaybackDevice
from ..errors import ConfigurationError, check_options
from ..events import Event
from . import echo
from .base import Channel, Port, Traits
from .playback import Playback, beside
from .soundcard import Device, DeviceError, Kind, SoundCard, off_loop, permission_hint

logger = logging.getLogger("duologue.channels")

_OPTIONS = (
    "input_device",
    "output_device",
    "input_buffer_size",
    "output_buffer_size",
    "input_frames_per_buffer",
    "output_frames_per_buffer",
    "input_rate",
    "output_rate",
    "echo_cancellation",
    "sound_card",
)
#: what speech models take and make; a device that cannot is opened at its own rate, and the session resamples
_INPUT_RATE, _OUTPUT_RATE = 16_000, 24_000
_FRAME_S = 0.02
#: seconds of audio that the buffers hold unless told otherwise
_INPUT_S, _OUTPUT_S = 2.0, 2.0
#: the output buffer must take what a session sends ahead of the ear
_LEAST_OUTPUT_S = 0.3
_MAX_BLOCKS, _MAX_FRAMES = 100_000, 48_000


class Microphone(Channel):
    """Microphone and loudspeaker.

    The devices' threads only move samples between the card and two bounded buffers. A full input buffer drops its oldest
    samples, a full output buffer what comes; both are counted, and the agent is told where user audio is missing. What the
    loudspeaker has played is acknowledged to the sample, less the device's latency; a barge-in empties the output buffer at
    once.

    Args:
        input_device, output_device: number, or (a part of) the name, of a device; None: the system's choice.
        input_buffer_size, output_buffer_size: blocks that each buffer holds; None: 2 s.
        input_frames_per_buffer, output_frames_per_buffer: samples a block; None: 20 ms.
        input_rate, output_rate: Hz to ask the devices for; one that cannot is opened at its own, and resampled.
        echo_cancellation: take the agent's own voice out of the microphone; None: if the extra `aec` is installed.
        sound_card: another way to the devices.

    Raises:
        UnknownOptionError: an option that does not exist.
        MissingDependencyError: no PortAudio, no microphone or loudspeaker, or no echo canceller where one was asked for.
        ConfigurationError: a size or a device that cannot be.
        AudioFormatError: a rate outside 8,000 to 48,000 Hz.
    """

    name = "microphone"

    def __init__(
        self,
        *,
        input_device: int | str | None = None,
        output_device: int | str | None = None,
        input_buffer_size: int | None = None,
        output_buffer_size: int | None = None,
        input_frames_per_buffer: int | None = None,
        output_frames_per_buffer: int | None = None,
        input_rate: int = _INPUT_RATE,
        output_rate: int = _OUTPUT_RATE,
        echo_cancellation: bool | None = None,
        sound_card: SoundCard | None = None,
        **unknown: object,
    ) -> None:
        check_options("Microphone", unknown, _OPTIONS)
        _check_size("input_buffer_size", input_buffer_size, _MAX_BLOCKS)
        _check_size("output_buffer_size", output_buffer_size, _MAX_BLOCKS)
        _check_size("input_frames_per_buffer", input_frames_per_buffer, _MAX_FRAMES)
        _check_size("output_frames_per_buffer", output_frames_per_buffer, _MAX_FRAMES)
        check_rate(input_rate)
        check_rate(output_rate)
        self._card = sound_card or SoundCard()
        self.input_device: Device = self._card.find("input", input_device)
        self.output_device: Device = self._card.find("output", output_device)
        self.input_rate = self._card.rate("input", self.input_device, input_rate)
        self.output_rate = self._card.rate("output", self.output_device, output_rate)
        self._input_frames = input_frames_per_buffer or round(self.input_rate * _FRAME_S)
        self._output_frames = output_frames_per_buffer or round(self.output_rate * _FRAME_S)
        self._input_samples = _samples(input_buffer_size, self._input_frames, self.input_rate, _INPUT_S)
        self._output_samples = _samples(output_buffer_size, self._output_frames, self.output_rate, _OUTPUT_S)
        if self._output_samples < _LEAST_OUTPUT_S * self.output_rate:
            least = -(-int(_LEAST_OUTPUT_S * self.output_rate) // self._output_frames)
            raise ConfigurationError(
                f"An output buffer of {self._output_samples / self.output_rate:.2f} s is too small for speech.",
                hint=f"Use output_buffer_size={least} or more, for {self._output_frames} frames a buffer.",
            )
        if echo_cancellation and not echo.available():
            echo.EchoCanceller(self.input_rate, self.output_rate)  # raises, and says how to get it
        self.echo_cancelled = echo.available() if echo_cancellation is None else echo_cancellation
        self._lock = threading.Lock()
        self._ring = Ring(2 * self._input_samples)
        self._reference = Ring(2 * self.output_rate)
        self._captured = asyncio.Event()
        self._streams: list[Any] = []
        self._playback: Playback | None = None
        self._canceller: echo.EchoCanceller | None = None
        self._latency_s = {"input": 0.0, "output": 0.0}
        self._stopped: Kind | None = None
        self._failure: Exception | None = None
        self._closing = False
        self._overflows = 0
        self._told = False

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(
            input_rate=self.input_rate,
            output_rate=self.output_rate,
            pacing="paced",
            acknowledges=True,
            clears=True,
            ducks=True,
            lag_s=self._latency_s["output"],
        )

    @property
    def dropped(self) -> dict[str, int]:
        """What was dropped so far: samples in each direction, and overflows that the device itself reported."""
        out = self._playback.device.dropped_samples if self._playback is not None else 0
        return {"input_samples": self._ring.dropped, "output_samples": out, "input_overflows": self._overflows}

    @property
    def losses(self) -> Mapping[str, int]:
        """See Channel."""
        return self.dropped

    # ------------------------------------------------------------------ life

    async def start(self, port: Port) -> None:
        """See Channel. Raises DeviceError if a device cannot be opened."""
        await super().start(port)
        self._loop = asyncio.get_running_loop()
        device = PlaybackDevice(
            self.output_rate,
            now=self._loop.time(),
            buffer_s=self._output_samples / self.output_rate,
            keep_log=4096,
            virtual=False,
        )
        self._playback = Playback(device, port)
        try:
            await off_loop(self._open)
        except BaseException:
            await self.close("error")
            raise
        if self.echo_cancelled:
            delay = sum(self._latency_s.values())
            self._canceller = echo.EchoCanceller(self.input_rate, self.output_rate, round(delay * 1000))
        logger.debug(
            "microphone %s at %d Hz, loudspeaker %s at %d Hz, echo cancellation %s",
            self.input_device.name,
            self.input_rate,
            self.output_device.name,
            self.output_rate,
            "on" if self._canceller else "off",
        )

    def _open(self) -> None:
        card = self._card
        kinds: tuple[tuple[Kind, Device, int, int, Any], ...] = (
            ("output", self.output_device, self.output_rate, self._output_frames, self._render),
            ("input", self.input_device, self.input_rate, self._input_frames, self._capture),
        )
        for kind, device, rate, frames, callback in kinds:
            stream = card.open(
                kind,
                device,
                rate=rate,
                frames=frames,
                callback=callback,
                finished=functools.partial(self._finished, kind),
            )
            self._streams.append(stream)
            self._latency_s[kind] = max(0.0, float(stream.latency))
            try:
                stream.start()
            except card.api.PortAudioError as error:
                raise DeviceError(f"{device.name} could not be started: {error}.", hint=permission_hint(kind)) from None

    async def run(self) -> None:
        """See Channel. Raises DeviceError when a device stops working."""
        assert self._playback is not None
        await beside(self._pump(), self._playback.run())

    async def _pump(self) -> None:
        """Carry what was captured to the session."""
        sent = 0  # position after the last sample handed on
        while True:
            await self._captured.wait()
            self._captured.clear()
            if self._failure is not None:
                raise DeviceError(f"Audio could not be moved: {self._failure!r}.") from self._failure
            if self._stopped is not None:
                device = self.input_device if self._stopped == "input" else self.output_device
                raise DeviceError(f"{device.name} has stopped.", hint="Was it unplugged? Start the call again.")
            with self._lock:
                start = self._ring.start
                pcm = self._ring.read(len(self._ring))
                reference = self._reference.read(len(self._reference))
            if (canceller := self._canceller) is not None:
                canceller.played(reference)
                if start > sent:
                    canceller.gap()
                sent = start + len(pcm) // 2
                start -= canceller.held  # what it holds back comes out in front of what follows
                pcm = canceller.captured(pcm)
            if pcm:
                self.port.audio(pcm, start)

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See Channel."""
        assert self._playback is not None
        self._playback.audio(response, offset, position, pcm)
        if self._playback.device.dropped_samples and not self._told:
            self._told = True
            self.port.refused(
                DeviceError("The output buffer is full and audio is dropped.", hint="Raise output_buffer_size.")
            )

    def clear(self, response: str) -> None:
        """See Channel."""
        assert self._playback is not None
        self._playback.clear()

    def duck(self, gain_db: float) -> None:
        """See Channel."""
        assert self._playback is not None
        self._playback.duck(gain_db)

    async def close(self, reason: str) -> None:
        """See Channel."""
        self._closing = True
        streams, self._streams = self._streams, []
        for stream in streams:
            # Aborting drops what the card still holds; stopping would wait for it to be played.
            await off_loop(stream.abort)
            await off_loop(stream.close)

    # ------------------------------------------------------------------ the devices' threads

    def _capture(self, data: Any, frames: int, time: Any, status: Any) -> None:
        try:
            pcm = bytes(data)
            with self._lock:
                self._ring.write(pcm)
                if status.input_overflow:
                    self._overflows += 1
        except Exception as error:
            self._failure = error
        self._wake()

    def _render(self, data: Any, frames: int, time: Any, status: Any) -> None:
        assert self._playback is not None
        try:
            # Not every host states when the block will sound; the stream's latency then stands for it.
            ahead = time.outputBufferDacTime - time.currentTime
            at = self._card.clock() + (ahead if ahead > 0 else self._latency_s["output"])
            pcm = self._playback.device.pull(frames, at)
            data[:] = pcm
            if self.echo_cancelled:
                with self._lock:
                    self._reference.write(pcm)
        except Exception as error:
            self._failure = error
            self._wake()

    def _finished(self, kind: Kind) -> None:
        if not self._closing:
            self._stopped = kind
            self._wake()

    def _wake(self) -> None:
        if not self._closing and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._captured.set)


def _check_size(name: str, size: int | None, most: int) -> None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= most):
        raise ConfigurationError(f"{name}={size!r} is no size.", hint=f"Use a whole number from 1 to {most}.")


def _samples(blocks: int | None, frames: int, rate: int, seconds: float) -> int:
    return blocks * frames if blocks is not None else max(round(rate * seconds), 2 * frames)
