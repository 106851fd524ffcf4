"""A sound card without sound: the shape of the module `sounddevice`, driven by hand on the event loop's clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any


class PortAudioError(Exception):
    """As sounddevice's."""


class Stream:
    """A stream that the test drives: `run` calls back for one block."""

    def __init__(self, api: FakeSound, kind: str, options: dict[str, Any]) -> None:
        self.api = api
        self.kind = kind
        self.rate: int = options["samplerate"]
        self.frames: int = options["blocksize"]
        self.callback: Callable[..., None] = options["callback"]
        self.finished: Callable[[], None] = options["finished_callback"]
        self.options = options
        self.latency = api.latency_s
        self.state = "open"

    def start(self) -> None:
        if self.api.refuses_to_start == self.kind:
            raise PortAudioError("Device unavailable")
        self.state = "running"

    def abort(self) -> None:
        self.state = "aborted"
        self.finished()

    def close(self) -> None:
        self.state = "closed"

    def capture(self, pcm: bytes, *, overflow: bool = False) -> None:
        """The microphone delivers a block."""
        status = SimpleNamespace(input_overflow=overflow)
        self.callback(memoryview(pcm), len(pcm) // 2, SimpleNamespace(), status)

    def render(self, *, frames: int = 0, dac: bool = True) -> bytes:
        """The loudspeaker wants a block; it sounds `latency_s` from now."""
        block = bytearray(2 * (frames or self.frames))
        current = 1000.0  # the card's own clock has nothing to do with ours
        times = SimpleNamespace(
            outputBufferDacTime=current + self.latency if dac else 0.0, currentTime=current if dac else 0.0
        )
        self.callback(memoryview(block), len(block) // 2, times, SimpleNamespace())
        return bytes(block)


class FakeSound:
    """Stands in for the module. Devices are (name, inputs, outputs, rate, rates it opens at)."""

    PortAudioError = PortAudioError

    def __init__(
        self,
        devices: Iterable[tuple[str, int, int, int, tuple[int, ...]]] = (
            ("Built-in Microphone", 1, 0, 48_000, (16_000, 48_000)),
            ("Built-in Output", 0, 2, 48_000, (24_000, 48_000)),
            ("USB Headset", 1, 1, 44_100, (44_100,)),
        ),
        default: tuple[int, int] = (0, 1),
        latency_s: float = 0.05,
    ) -> None:
        self._devices = list(devices)
        self.default = SimpleNamespace(device=default)
        self.latency_s = latency_s
        self.refuses_to_start = ""
        self.streams: dict[str, Stream] = {}

    def query_devices(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "hostapi": 0,
                "max_input_channels": inputs,
                "max_output_channels": outputs,
                "default_samplerate": float(rate),
            }
            for name, inputs, outputs, rate, _ in self._devices
        ]

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "Fake"}]

    def _check(self, *, device: int, channels: int, dtype: str, samplerate: int) -> None:
        assert (channels, dtype) == (1, "int16")
        if samplerate not in self._devices[device][4]:
            raise PortAudioError("Invalid sample rate")

    check_input_settings = check_output_settings = _check

    def RawInputStream(self, **options: Any) -> Stream:
        return self._open("input", options)

    def RawOutputStream(self, **options: Any) -> Stream:
        return self._open("output", options)

    def _open(self, kind: str, options: dict[str, Any]) -> Stream:
        stream = self.streams[kind] = Stream(self, kind, options)
        return stream
