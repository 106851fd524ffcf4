"""WAV files of PCM16, mono or stereo, 8 to 48 kHz: written as a stream, read strictly.

Format: RIFF/WAVE as in "Multimedia Programming Interface and Data Specifications 1.0" (IBM, Microsoft, 1991), with the
`WAVE_FORMAT_EXTENSIBLE` header read too when it stands for PCM.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from duologue.audio.format import Format, check_pcm16
from duologue.errors import AudioFormatError

_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_FMT = struct.Struct("<HHIIHH")
_PCM, _EXTENSIBLE = 1, 0xFFFE
#: the tail of KSDATAFORMAT_SUBTYPE_PCM; the two bytes before it are the format tag
_SUBTYPE_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_CONVERT = "Convert it, for example with: ffmpeg -i INPUT -ac 1 -ar 16000 -c:a pcm_s16le OUTPUT.wav"


class Wav(NamedTuple):
    """A whole file: `pcm` is PCM16, interleaved if `channels` is 2."""

    rate: int
    channels: int
    pcm: bytes

    @property
    def samples(self) -> int:
        """Samples a channel."""
        return len(self.pcm) // (2 * self.channels)

    @property
    def seconds(self) -> float:
        return self.samples / self.rate


class WavWriter:
    """Writes PCM16 to a WAV file as it comes.

    The sizes in the header are put right by :meth:`flush` and :meth:`close`, so a file is readable up to the last of
    those even if the process dies. A context manager; `close` is safe to call twice.

    Args:
        target: a path, or a binary file that is open for writing and can seek (it stays open).
    """

    def __init__(self, target: str | os.PathLike[str] | BinaryIO, rate: int, *, channels: int = 1) -> None:
        self.format = Format(rate, channels)
        if isinstance(target, str | os.PathLike):
            self._file: BinaryIO = Path(target).open("wb")  # noqa: SIM115 (closed by close())
            self._owned = True
        else:
            self._file = target
            self._owned = False
        self._origin = self._file.tell()
        self._bytes = 0
        self._closed = False
        self._file.write(self._header())

    @property
    def samples(self) -> int:
        """Samples a channel written so far."""
        return self._bytes // self.format.frame_bytes

    def write(self, pcm: bytes) -> None:
        """Append PCM16 (interleaved if stereo). Raises AudioFormatError for a part of a sample, or after close."""
        if self._closed:
            raise AudioFormatError("The WAV file is closed.", hint="Write before close, or open another file.")
        check_pcm16(pcm, channels=self.format.channels)
        if self._bytes + len(pcm) > 0xFFFF_FFFF - _HEADER.size:
            raise AudioFormatError("A WAV file holds at most 4 GiB.", hint="Go on in a second file.")
        self._file.write(pcm)
        self._bytes += len(pcm)

    def flush(self) -> None:
        """Put the header right for what is written so far, and hand everything to the operating system."""
        if self._closed:
            return
        end = self._file.tell()
        self._file.seek(self._origin)
        self._file.write(self._header())
        self._file.seek(end)
        self._file.flush()

    def close(self) -> None:
        """Put the header right and close the file if it was opened here."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            if self._owned:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _header(self) -> bytes:
        rate, channels = self.format.rate, self.format.channels
        block = 2 * channels
        return _HEADER.pack(
            b"RIFF",
            _HEADER.size - 8 + self._bytes,
            b"WAVE",
            b"fmt ",
            _FMT.size,
            _PCM,
            channels,
            rate,
            rate * block,
            block,
            16,
            b"data",
            self._bytes,
        )


def write_wav(target: str | os.PathLike[str] | BinaryIO, pcm: bytes, rate: int, *, channels: int = 1) -> None:
    """Write a whole PCM16 recording (interleaved if `channels` is 2)."""
    with WavWriter(target, rate, channels=channels) as writer:
        writer.write(pcm)


def read_wav(source: str | os.PathLike[str] | BinaryIO) -> Wav:
    """Read a PCM16 WAV file, mono or stereo, 8 to 48 kHz.

    Raises AudioFormatError for anything else, saying what was found and how to convert it. A `data` chunk whose size
    was never filled in (a recording that was cut off) or that goes past the end of the file is read to the file's last
    whole sample. A missing or unreadable file is an OSError.
    """
    if isinstance(source, str | os.PathLike):
        data, name = Path(source).read_bytes(), f"{os.fspath(source)!r}"
    else:
        data, name = source.read(), "The file"
    return parse_wav(data, name=name)


def parse_wav(data: bytes, *, name: str = "The audio") -> Wav:
    """What :func:`read_wav` does, for bytes in memory; `name` begins the error messages."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise AudioFormatError(f"{name} is not a WAV file.", hint=_CONVERT)
    agreed: Format | None = None
    at = 12
    while at + 8 <= len(data):
        tag, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = at + 8
        if tag == b"fmt ":
            agreed = _parse_fmt(data[body : body + size], name)
        elif tag == b"data":
            if agreed is None:
                raise AudioFormatError(f"{name} has its data before its format.", hint=_CONVERT)
            pcm = data[body:] if size in (0, 0xFFFF_FFFF) else data[body : body + size]
            return Wav(agreed.rate, agreed.channels, pcm[: len(pcm) - len(pcm) % agreed.frame_bytes])
        at = body + size + size % 2  # chunks are padded to an even size
    raise AudioFormatError(f"{name} has no {'format' if agreed is None else 'data'} in it.", hint=_CONVERT)


def _parse_fmt(body: bytes, name: str) -> Format:
    if len(body) < _FMT.size:
        raise AudioFormatError(f"{name} has a format chunk that is cut short.", hint=_CONVERT)
    tag, channels, rate, _, _, bits = _FMT.unpack_from(body)
    if tag == _EXTENSIBLE and body[26:40] == _SUBTYPE_TAIL:
        tag = int.from_bytes(body[24:26], "little")
    if tag != _PCM or bits != 16:
        found = f"{bits}-bit PCM" if tag == _PCM else f"audio of WAVE format {tag:#06x}"
        raise AudioFormatError(f"{name} holds {found}, not 16-bit PCM.", hint=_CONVERT)
    try:
        return Format(rate, channels)
    except AudioFormatError as error:
        raise AudioFormatError(f"{name}: {error.message}", hint=_CONVERT) from None
