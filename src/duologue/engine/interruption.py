"""How far a sound of the user may push the agent: duck, pause, yield, or nothing.

Interruption is graded because evidence arrives in grades. After `duck_ms` of speech the agent gets quieter, after `pause_ms`
it holds; only words, or speech that goes on for `yield_ms`, take the floor from it. A cough has no words and a backchannel
("uh-huh") none that ask for the floor: after those the agent goes on from the last word that was heard.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

Verdict = Literal["none", "duck", "pause", "yield"]

#: words that say "go on" in English; any utterance made only of these is a backchannel
BACKCHANNELS = frozenset(
    {
        *("uh", "huh", "uhhuh", "uh-huh", "mhm", "mm", "hmm", "hm", "mmhmm", "mm-hmm", "mmm", "hmmm", "um", "er"),
        *("ah", "aha", "ahh", "oh", "ooh", "wow", "really", "i", "see"),
        *("ok", "okay", "k", "yeah", "yep", "yup", "yes", "right", "sure", "alright", "gotcha"),
        *("cool", "great", "nice", "good", "fine"),
    }
)
#: a backchannel of more words than this is an utterance
_MOST_WORDS = 4
_WORD = re.compile(r"[\w'-]+")
#: sounds rather than words, however long drawn and however a recogniser spells them
_NOISE = re.compile(r"u+h+|u+m+|o+h+|a+h+|h*m+|e+r+m*|e+h+|h+u+h+|o+o+")


class InterruptionOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of interruption; durations are milliseconds of media time.

    Attributes:
        enabled: whether speech can interrupt the agent at all.
        duck_ms: speech after which the agent is attenuated; `duck_db` by how much.
        pause_ms: speech after which the agent holds.
        yield_ms: speech after which the agent gives up the floor, words or not.
        yield_words: words (other than backchannels) that take the floor at once.
        backchannel_ms: longest speech that recognised backchannels excuse.
        verdict_ms: silence after a sound for which recognition may still turn it into a barge-in.
        held_max_s: longest hold on the monotonic clock, should the input stall.
        boundary_ms: when less than this is left to play, words are the user's turn and never a backchannel ("yes", "uh-huh");
            sounds that answer nothing ("oh", "um") still are none.
    """

    enabled: bool = True
    duck_ms: float = 64.0
    duck_db: float = -9.0
    pause_ms: float = 128.0
    yield_ms: float = 700.0
    yield_words: int = 1
    backchannel_ms: float = 1300.0
    verdict_ms: float = 450.0
    held_max_s: float = 3.0
    boundary_ms: float = 700.0


def is_noise(text: str) -> bool:
    """Whether `text` is only sounds that answer nothing: "Oh", "Uh...", "hmm". "Uh-huh" is none: it may be a yes."""
    found = _WORD.findall(text.lower())
    return bool(found) and all(_NOISE.fullmatch(word) for word in found) and found[-1] != "huh"


def is_backchannel(text: str, words: frozenset[str] = BACKCHANNELS) -> bool:
    """Whether `text` is only listening noise. Empty text is not: it says nothing."""
    found = _WORD.findall(text.lower())
    return 0 < len(found) <= _MOST_WORDS and all(_listens(word, words) for word in found)


def wordy(text: str, words: frozenset[str] = BACKCHANNELS) -> int:
    """How many words of `text` are not listening noise."""
    return sum(not _listens(word, words) for word in _WORD.findall(text.lower()))


def _listens(word: str, words: frozenset[str]) -> bool:
    return word in words or all(_NOISE.fullmatch(part) for part in word.split("-"))


def grade(options: InterruptionOptions, speech_ms: float, text: str) -> Verdict:
    """How far speech of this length and with this recognised text (so far) pushes the agent."""
    if not options.enabled:
        return "none"
    if text and wordy(text) >= options.yield_words:
        return "yield"
    if speech_ms >= (options.backchannel_ms if is_backchannel(text) else options.yield_ms):
        return "yield"
    if speech_ms >= options.pause_ms:
        return "pause"
    return "duck" if speech_ms >= options.duck_ms else "none"
