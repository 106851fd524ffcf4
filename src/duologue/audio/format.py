"""What a piece of audio is: its rate, channels and encoding, and the checks that keep anything else out.

Audio in the house is PCM16: signed, little-endian, mono unless stated, carried as `bytes`. Lengths and positions are
counts of samples *per channel* at the track's own rate; seconds are derived from them and never the other way round.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from duologue.errors import AudioFormatError

type Encoding = Literal["pcm16", "ulaw", "alaw"]

MIN_RATE = 8_000
MAX_RATE = 48_000

_SAMPLE_BYTES: dict[str, int] = {"pcm16": 2, "ulaw": 1, "alaw": 1}


def check_rate(rate: int) -> int:
    """Return `rate` if it is a sample rate that the house takes (8,000 to 48,000 Hz), else raise AudioFormatError."""
    if isinstance(rate, bool) or not isinstance(rate, int):
        raise AudioFormatError(
            f"A sample rate must be a whole number of Hz, not {rate!r}.", hint="For example 16000 or 24000."
        )
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioFormatError(
            f"The sample rate {rate} Hz is outside {MIN_RATE} to {MAX_RATE} Hz.",
            hint="Resample before sending, or name one of 8000, 16000, 24000, 44100 and 48000.",
        )
    return rate


class Format(msgspec.Struct, frozen=True):
    """The format of a track: `rate` in Hz (8,000 to 48,000), `channels` (1 or 2), `encoding`.

    G.711 (`ulaw`, `alaw`) is mono at 8,000 Hz as telephony has it (ITU-T G.711). Raises AudioFormatError for a format
    that cannot be.
    """

    rate: int
    channels: int = 1
    encoding: Encoding = "pcm16"

    def __post_init__(self) -> None:
        check_rate(self.rate)
        if self.encoding not in _SAMPLE_BYTES:
            raise AudioFormatError(
                f"The encoding {self.encoding!r} is unknown.", hint=f"Use one of {', '.join(_SAMPLE_BYTES)}."
            )
        if self.channels not in (1, 2):
            raise AudioFormatError(f"{self.channels} channels are not supported.", hint="Use 1 (mono) or 2 (stereo).")
        if self.encoding != "pcm16" and (self.rate != 8_000 or self.channels != 1):
            raise AudioFormatError(
                f"G.711 {self.encoding} is mono at 8000 Hz, not {self.channels} channel(s) at {self.rate} Hz.",
                hint="Use Format(8000, encoding=...), or pcm16 for other rates.",
            )

    @property
    def frame_bytes(self) -> int:
        """Bytes that one sample of every channel takes."""
        return _SAMPLE_BYTES[self.encoding] * self.channels

    def samples(self, data: bytes) -> int:
        """How many samples a channel `data` holds; raises AudioFormatError when it ends inside a sample."""
        self.check(data)
        return len(data) // self.frame_bytes

    def size(self, samples: int) -> int:
        """How many bytes `samples` samples a channel take."""
        return samples * self.frame_bytes

    def seconds(self, samples: int) -> float:
        """How long `samples` samples a channel last."""
        return samples / self.rate

    def at(self, seconds: float) -> int:
        """The sample position nearest to `seconds`."""
        return round(seconds * self.rate)

    def check(self, data: bytes) -> bytes:
        """Return `data` if it is a whole number of samples of this format, else raise AudioFormatError."""
        if self.encoding == "pcm16":
            return check_pcm16(data, channels=self.channels)
        _check_bytes(data)
        return data


def check_pcm16(data: bytes, *, channels: int = 1) -> bytes:
    """Return `data` if it can be PCM16 audio of `channels` interleaved channels, else raise AudioFormatError.

    What cannot be told from the bytes alone (stereo sent as mono of even length) is not caught here; the rate and
    channel count that a peer declares are checked by :func:`check_declared`.
    """
    _check_bytes(data)
    if len(data) % 2:
        raise AudioFormatError(
            f"PCM16 audio has two bytes a sample, but {len(data)} bytes were given.",
            hint="Send whole samples, little-endian; carry an odd trailing byte over into the next chunk.",
        )
    if len(data) % (2 * channels):
        raise AudioFormatError(
            f"{len(data)} bytes are not a whole number of {channels}-channel PCM16 frames.",
            hint=f"Send interleaved samples, {2 * channels} bytes for each point in time.",
        )
    return data


def check_declared(agreed: Format, *, rate: int, channels: int = 1, encoding: str = "pcm16") -> None:
    """Raise AudioFormatError unless what a peer says of its audio is what was agreed for the track."""
    if channels != agreed.channels:
        names = {1: "mono", 2: "stereo"}
        raise AudioFormatError(
            f"{names.get(channels, f'{channels}-channel')} audio came where {names[agreed.channels]} was agreed.",
            hint="Mix down to mono before sending." if agreed.channels == 1 else "Interleave both channels.",
        )
    if encoding != agreed.encoding:
        raise AudioFormatError(
            f"{encoding} audio came where {agreed.encoding} was agreed.",
            hint="Convert before sending, or agree on that encoding when the track is opened.",
        )
    if rate != agreed.rate:
        raise AudioFormatError(
            f"Audio at {rate} Hz came where {agreed.rate} Hz was agreed.",
            hint="Resample before sending, or agree on that rate when the track is opened.",
        )


def _check_bytes(data: object) -> None:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise AudioFormatError(
            f"Audio must be bytes, not {type(data).__name__}.", hint="Text goes in as a text input, not as audio."
        )
