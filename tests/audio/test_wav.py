"""WAV files: against the standard library's reader and writer, and with what is wrong with files."""

from __future__ import annotations

import io
import struct
import wave
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.audio import Wav, WavWriter, parse_wav, read_wav, write_wav
from duologue.errors import AudioFormatError

rates = st.integers(8_000, 48_000)
stereo_frames = st.lists(st.binary(min_size=4, max_size=4), max_size=50).map(b"".join)


def made_by_the_standard_library(rate: int, channels: int, width: int, data: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, width, rate, 0, "NONE", ""))
        writer.writeframes(data)
    return file.getvalue()


def chunk(tag: bytes, body: bytes) -> bytes:
    return tag + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def riff(*chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, chunks))) + b"WAVE" + b"".join(chunks)


def fmt(tag: int = 1, channels: int = 1, rate: int = 16_000, bits: int = 16, extra: bytes = b"") -> bytes:
    block = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits) + extra)


@given(rates, st.sampled_from([1, 2]), st.lists(stereo_frames, max_size=5))
def test_what_is_written_reads_the_same_here_and_in_the_standard_library(
    rate: int, channels: int, pieces: list[bytes]
) -> None:
    file, pcm = io.BytesIO(), b"".join(pieces)
    with WavWriter(file, rate, channels=channels) as writer:
        for piece in pieces:
            writer.write(piece)
    assert writer.samples == len(pcm) // (2 * channels)
    assert parse_wav(file.getvalue()) == Wav(rate, channels, pcm)
    with wave.open(io.BytesIO(file.getvalue())) as reader:
        assert (reader.getframerate(), reader.getnchannels(), reader.getsampwidth()) == (rate, channels, 2)
        assert reader.readframes(reader.getnframes()) == pcm


@given(rates, st.sampled_from([1, 2]), stereo_frames)
def test_files_of_the_standard_library_are_read(rate: int, channels: int, pcm: bytes) -> None:
    assert parse_wav(made_by_the_standard_library(rate, channels, 2, pcm)) == Wav(rate, channels, pcm)


@given(st.binary(max_size=200) | st.binary(max_size=120).map(lambda tail: riff(fmt()) + tail))
def test_any_bytes_are_read_or_refused_with_a_typed_error(data: bytes) -> None:
    try:
        found = parse_wav(data)
    except AudioFormatError as error:
        assert error.hint  # noqa: PT017 (either outcome is right)
    else:
        assert len(found.pcm) % (2 * found.channels) == 0


def test_a_file_can_be_read_up_to_the_last_flush(tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    writer = WavWriter(path, 16_000)
    writer.write(b"\1\0" * 100)
    writer.flush()
    assert read_wav(path).samples == 100
    writer.write(b"\2\0" * 50)
    writer.close()
    writer.close()
    writer.flush()
    assert read_wav(path) == Wav(16_000, 1, b"\1\0" * 100 + b"\2\0" * 50)
    assert read_wav(path).seconds == 150 / 16_000
    with pytest.raises(AudioFormatError, match="closed"):
        writer.write(b"\0\0")


def test_a_writer_leaves_a_file_that_it_did_not_open_open() -> None:
    file = io.BytesIO(b"before")
    file.seek(6)
    write_wav(file, b"\1\0", 8_000)
    file.seek(6)
    assert read_wav(file) == Wav(8_000, 1, b"\1\0")


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF, 1_000_000])
def test_a_recording_that_was_cut_off_is_read_to_its_last_whole_sample(size: int) -> None:
    data = riff(fmt()) + b"data" + struct.pack("<I", size) + b"\1\0\2\0\3"
    assert parse_wav(data).pcm == b"\1\0\2\0"


def test_other_chunks_are_passed_over_with_their_padding() -> None:
    data = riff(chunk(b"LIST", b"odd"), fmt(), chunk(b"fact", bytes(4)), chunk(b"data", b"\1\0"), chunk(b"id3 ", b"x"))
    assert parse_wav(data).pcm == b"\1\0"


def test_an_extensible_header_that_means_pcm_is_pcm() -> None:
    subtype = struct.pack("<HHI", 22, 16, 4) + bytes.fromhex("0100000000001000800000aa00389b71")
    assert parse_wav(riff(fmt(0xFFFE, extra=subtype), chunk(b"data", b"\1\0"))).pcm == b"\1\0"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a WAV file"),
        (b"ID3\x03 an mp3", "not a WAV file"),
        (riff(fmt(3, bits=32), chunk(b"data", bytes(4))), "WAVE format 0x0003"),
        (riff(fmt(7, bits=8), chunk(b"data", bytes(4))), "WAVE format 0x0007"),
        (riff(fmt(bits=24), chunk(b"data", bytes(6))), "24-bit PCM"),
        (riff(fmt(channels=6), chunk(b"data", bytes(12))), "6 channels"),
        (riff(fmt(rate=96_000), chunk(b"data", bytes(2))), "96000 Hz is outside"),
        (riff(fmt(0xFFFE, extra=bytes(24)), chunk(b"data", bytes(2))), "WAVE format 0xfffe"),
        (riff(chunk(b"fmt ", bytes(8)), chunk(b"data", bytes(2))), "cut short"),
        (riff(chunk(b"data", bytes(2)), fmt()), "data before its format"),
        (riff(chunk(b"LIST", bytes(2))), "no format"),
        (riff(fmt()), "no data"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(data: bytes, said: str) -> None:
    with pytest.raises(AudioFormatError, match=f"{said}.*ffmpeg"):
        parse_wav(data)


def test_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(AudioFormatError, match=r"notes\.txt"):
        read_wav(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError):
        read_wav(tmp_path / "missing.wav")


def test_half_a_stereo_frame_is_refused_and_the_file_stays_good() -> None:
    file = io.BytesIO()
    with WavWriter(file, 16_000, channels=2) as writer:
        writer.write(bytes(8))
        with pytest.raises(AudioFormatError, match="2-channel"):
            writer.write(bytes(6))
    assert parse_wav(file.getvalue()).samples == 2
