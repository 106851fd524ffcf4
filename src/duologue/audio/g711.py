"""G.711 companding (ITU-T G.711): PCM16 mono to and from one byte a sample, as telephony carries it at 8 kHz."""

from __future__ import annotations

import audioop

from duologue.audio.format import check_pcm16

#: one sample of silence in each encoding
ULAW_SILENCE = b"\xff"
ALAW_SILENCE = b"\xd5"


def ulaw_encode(pcm: bytes) -> bytes:
    """PCM16 mono to μ-law, one byte a sample. Raises AudioFormatError for an odd number of bytes."""
    return audioop.lin2ulaw(check_pcm16(pcm), 2)


def ulaw_decode(data: bytes) -> bytes:
    """μ-law to PCM16 mono, two bytes a sample."""
    return audioop.ulaw2lin(data, 2)


def alaw_encode(pcm: bytes) -> bytes:
    """PCM16 mono to A-law, one byte a sample. Raises AudioFormatError for an odd number of bytes."""
    return audioop.lin2alaw(check_pcm16(pcm), 2)


def alaw_decode(data: bytes) -> bytes:
    """A-law to PCM16 mono, two bytes a sample."""
    return audioop.alaw2lin(data, 2)
