"""Audio in the house: formats, streaming resampling, G.711, framing, bounded rings, WAV files and levels.

Pure computation: no sockets, no devices, no clock. Importing it costs next to nothing: PyAV and NumPy are imported
by the first call that needs them.
"""

from duologue.audio.format import MAX_RATE, MIN_RATE, Encoding, Format, check_declared, check_pcm16, check_rate
from duologue.audio.framing import Framer
from duologue.audio.g711 import ALAW_SILENCE, ULAW_SILENCE, alaw_decode, alaw_encode, ulaw_decode, ulaw_encode
from duologue.audio.level import (
    SILENCE_DBFS,
    Span,
    apply_gain,
    fade_out,
    gain_from_db,
    mix,
    peak_dbfs,
    rms_dbfs,
    split_stereo,
    to_mono,
    to_stereo,
    voiced_spans,
)
from duologue.audio.reel import Reel
from duologue.audio.resample import Resampler, resample
from duologue.audio.ring import Ring
from duologue.audio.wav import Wav, WavWriter, parse_wav, read_wav, write_wav

__all__ = [
    "ALAW_SILENCE",
    "MAX_RATE",
    "MIN_RATE",
    "SILENCE_DBFS",
    "ULAW_SILENCE",
    "Encoding",
    "Format",
    "Framer",
    "Reel",
    "Resampler",
    "Ring",
    "Span",
    "Wav",
    "WavWriter",
    "alaw_decode",
    "alaw_encode",
    "apply_gain",
    "check_declared",
    "check_pcm16",
    "check_rate",
    "fade_out",
    "gain_from_db",
    "mix",
    "parse_wav",
    "peak_dbfs",
    "read_wav",
    "resample",
    "rms_dbfs",
    "split_stereo",
    "to_mono",
    "to_stereo",
    "ulaw_decode",
    "ulaw_encode",
    "voiced_spans",
    "write_wav",
]
