"""The recordings of people that the package ``moonshine-voice`` carries, at 16 kHz, and what is said in them."""

from __future__ import annotations

from functools import cache

import moonshine_voice

from duologue.audio import read_wav, resample

#: (text, start, end) in seconds of ``beckett.wav``
BECKETT = [
    ("ever tried", 0.15, 1.26),
    ("ever failed", 1.70, 2.86),
    ("no matter", 3.32, 4.27),
    ("try again", 4.70, 5.52),
    ("fail again", 6.66, 7.47),
    ("fail better", 8.01, 8.94),
]

TWO_CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
    "foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of light, it was "
    "the season of darkness, it was the spring of hope, it was the winter of despair, we had everything before "
    "us, we had nothing before us, we were all going direct to heaven, we were all going direct the other way. In "
    "short, the period was so far like the present period, that some of its noisiest authorities insisted on its "
    "being received, for good or for evil, in the superlative degree of comparison only."
)


@cache
def recording(name: str) -> bytes:
    wav = read_wav(moonshine_voice.get_assets_path() / f"{name}.wav")
    return resample(wav.pcm, wav.rate, 16_000)


def beckett() -> bytes:
    return recording("beckett")


def two_cities() -> bytes:
    return recording("two_cities")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, for comparing."""
    kept = "".join(char if char.isalnum() or char == "'" else " " for char in text.lower())
    return kept.split()
