"""The sound devices of this machine, through PortAudio (package ``sounddevice``, extra ``mic``)."""

from __future__ import annotations

import asyncio
import difflib
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ..errors import ConfigurationError, DuologueError, MissingDependencyError

Kind = Literal["input", "output"]

_WITHOUT = "Without one: `duologue talk` in the browser, or with --file or --text."


class DeviceError(DuologueError):
    """A sound device could not be opened, or stopped working in mid-call."""

    code = "device"


class Device(NamedTuple):
    """A sound device: how many channels it has each way, its usual rate in Hz, whether it is the system's choice."""

    number: int
    name: str
    host: str
    inputs: int
    outputs: int
    rate: int
    default_input: bool
    default_output: bool


class SoundCard:
    """What we need of PortAudio.

    Args:
        api: the module ``sounddevice``, or one of its shape; None: import it.
        clock: the monotonic clock of the callbacks, in seconds; it must be that of the event loop.

    Raises:
        MissingDependencyError: the package, or the library under it, is not installed.
    """

    def __init__(self, api: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.api = api if api is not None else _import()
        self.clock = clock

    def devices(self) -> list[Device]:
        """All sound devices; empty on a machine without any."""
        try:
            found = list(self.api.query_devices())
            hosts = [host["name"] for host in self.api.query_hostapis()]
            chosen = self.api.default.device
        except self.api.PortAudioError as error:
            raise DeviceError(f"The sound system does not answer: {error}.", hint=_WITHOUT) from None
        defaults = {"input": chosen[0], "output": chosen[1]}
        return [
            Device(
                number=index,
                name=entry["name"],
                host=hosts[entry["hostapi"]],
                inputs=entry["max_input_channels"],
                outputs=entry["max_output_channels"],
                rate=round(entry["default_samplerate"]),
                default_input=index == defaults["input"],
                default_output=index == defaults["output"],
            )
            for index, entry in enumerate(found)
        ]

    def find(self, kind: Kind, wanted: int | str | None = None) -> Device:
        """The device to use: by number, by (a part of) its name, or the system's choice.

        Raises:
            MissingDependencyError: the machine has no such device at all.
            ConfigurationError: none that is called so.
        """
        devices = [device for device in self.devices() if (device.inputs if kind == "input" else device.outputs)]
        what = "microphone" if kind == "input" else "loudspeaker"
        if not devices:
            raise MissingDependencyError(
                f"This machine has no {what}.",
                hint=f"Connect one, or let this user and container see it (`duologue doctor`). {_WITHOUT}",
            )
        if wanted is None:
            default = (
                device for device in devices if (device.default_input if kind == "input" else device.default_output)
            )
            return next(default, devices[0])
        if isinstance(wanted, bool) or not isinstance(wanted, int | str):
            raise ConfigurationError(f"{kind}_device={wanted!r} is no device.", hint="Give its number or its name.")
        if isinstance(wanted, str) and wanted.isdecimal():
            wanted = int(wanted)
        if isinstance(wanted, int):
            matching = [device for device in devices if device.number == wanted]
        else:
            exact = [device for device in devices if device.name == wanted]
            matching = exact or [device for device in devices if wanted.lower() in device.name.lower()]
        if matching:
            return matching[0]
        near = difflib.get_close_matches(str(wanted), [device.name for device in devices], n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else "`duologue devices` lists them."
        raise ConfigurationError(f"There is no {what} {wanted!r}.", hint=hint)

    def rate(self, kind: Kind, device: Device, wanted: int) -> int:
        """The rate to open `device` at: `wanted` if it can, else its usual one (the caller resamples).

        Raises ConfigurationError for a device that works at neither.
        """
        check = self.api.check_input_settings if kind == "input" else self.api.check_output_settings
        why = ""
        for rate in (wanted, device.rate, 48_000, 44_100):
            if not 8_000 <= rate <= 48_000:
                continue
            try:
                check(device=device.number, channels=1, dtype="int16", samplerate=rate)
            except (self.api.PortAudioError, ValueError) as error:
                why = why or str(error)
            else:
                return rate
        raise ConfigurationError(f"{device.name} takes none of our formats: {why}.", hint="Choose another device.")

    def open(
        self,
        kind: Kind,
        device: Device,
        *,
        rate: int,
        frames: int,
        callback: Callable[..., None],
        finished: Callable[[], None],
    ) -> Any:
        """Open a stream of PCM16 mono; `frames` a callback. Raises DeviceError."""
        stream = self.api.RawInputStream if kind == "input" else self.api.RawOutputStream
        try:
            return stream(
                samplerate=rate,
                blocksize=frames,
                device=device.number,
                channels=1,
                dtype="int16",
                latency="low",
                callback=callback,
                finished_callback=finished,
            )
        except (self.api.PortAudioError, ValueError) as error:
            raise DeviceError(f"{device.name} could not be opened: {error}.", hint=permission_hint(kind)) from None


def permission_hint(kind: Kind) -> str:
    """What to do when a device is there and may not be used."""
    if kind == "output":
        return "Another program may hold it; close that, or choose another device."
    if sys.platform == "darwin":
        return "Allow the terminal to use the microphone: System Settings, Privacy & Security, Microphone."
    if sys.platform == "win32":
        return "Allow desktop apps to use the microphone: Settings, Privacy & security, Microphone."
    return "Another program may hold it, or this user may not use it (group `audio`); in a container, pass /dev/snd."


async def off_loop[T](work: Callable[[], T]) -> T:
    """Do something slow with the sound system in a thread: opening a device can take most of a second."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


def _import() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except ImportError:
        raise MissingDependencyError(
            "Sound devices need the package sounddevice.", hint=f'Install it: pip install "duologue[mic]". {_WITHOUT}'
        ) from None
    except OSError:
        raise MissingDependencyError(
            "Sound devices need the PortAudio library, which is not on this machine.",
            hint=f"Install it: apt install libportaudio2, dnf install portaudio, brew install portaudio. {_WITHOUT}",
        ) from None
