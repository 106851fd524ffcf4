"""From text to what is spoken, and back: which word each phoneme belongs to, and how long to pause after it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# RMS of 10 ms below which a synthesiser is silent: -44 dBFS
_SILENCE = 0.006
_LEAD = 0.020
_TAIL = 0.050
_HEADROOM = 0.97
_WORD = re.compile(r"\S+")
_TITLE = re.compile(r"\b(Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Mt|Capt|Lt|Gen|Rev|Hon|vs|approx|dept|No)\.(?=\s+\S)")
# Not sounds: the marks of stress and length, punctuation that phonemisers pass through, and spaces.
_SOUNDLESS = frozenset(" ˈˌː,.;:?!…-–—'\"()‘’“”")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*\s*$")
_CLAUSE_END = re.compile(r"[,;:、，；：–—-][\"'”’)\]]*\s*$")


def soften_abbreviations(text: str) -> str:
    """`text` without the full stops of titles before a name, at which sentences would end; the same length."""
    return _TITLE.sub(lambda match: match[1] + " ", text)


def pause_after(text: str, clause: float, sentence: float) -> float:
    """Seconds of silence after `text`: `sentence`, `clause`, or a short join if it was cut between words."""
    if _SENTENCE_END.search(text):
        return sentence
    return clause if _CLAUSE_END.search(text) else 0.02


class Mapper:
    """Assigns the phonemes of a text to its words.

    Where the phonemes fall into as many groups (between spaces) as the text has words, they belong to each other in
    order. Otherwise (numbers take several words, "of the" becomes one) each word is put into phonemes alone and the
    two sequences are aligned by their longest matching blocks; a word without a match takes its share of the gap
    around it.

    Args:
        text: what is spoken. Words are runs of non-blank characters that have a letter or a digit.
        sentences: its phonemes, by sentence, with " " between words.
        phonemes_of: the phonemes of one word alone.
    """

    def __init__(
        self, text: str, sentences: Sequence[Sequence[str]], phonemes_of: Callable[[str], Sequence[str]]
    ) -> None:
        self._words = [m.span() for m in _WORD.finditer(text) if any(char.isalnum() for char in m[0])]
        self._sentences = sentences
        sounds = [(s, i) for s, phonemes in enumerate(sentences) for i, p in enumerate(phonemes) if p not in _SOUNDLESS]
        groups = self._groups()
        if len(groups) == len(self._words):
            owner = {place: word for word, places in enumerate(groups) for place in places}
        else:
            owner = self._align(text, sounds, phonemes_of)
        self._owner = owner

    def words(self, sentence: int, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
        """``(offset, length, start, end)`` of each word of a sentence, given the samples of each of its phonemes."""
        found: dict[int, tuple[int, int]] = {}
        for index, (start, end) in enumerate(spans):
            word = self._owner.get((sentence, index))
            if word is not None:
                first, last = found.get(word, (start, end))
                found[word] = (min(first, start), max(last, end))
        return [
            (self._words[word][0], self._words[word][1] - self._words[word][0], start, end)
            for word, (start, end) in sorted(found.items())
        ]

    def _groups(self) -> list[list[tuple[int, int]]]:
        groups: list[list[tuple[int, int]]] = []
        for s, phonemes in enumerate(self._sentences):
            fresh = True
            for i, phoneme in enumerate(phonemes):
                if phoneme == " ":
                    fresh = True
                elif phoneme not in _SOUNDLESS:
                    if fresh:
                        groups.append([])
                        fresh = False
                    groups[-1].append((s, i))
        return groups

    def _align(
        self, text: str, sounds: list[tuple[int, int]], phonemes_of: Callable[[str], Sequence[str]]
    ) -> dict[tuple[int, int], int]:
        alone: list[str] = []
        word_of: list[int] = []
        for number, (start, end) in enumerate(self._words):
            expected = [p for p in phonemes_of(text[start:end]) if p not in _SOUNDLESS]
            alone += expected
            word_of += [number] * len(expected)
        if not alone or not sounds:
            return {}
        spoken = [self._sentences[s][i] for s, i in sounds]
        # Places in `alone` for each place in `spoken`: exact on matching blocks, proportional in the gaps between them.
        owner: dict[tuple[int, int], int] = {}
        matched_alone = matched_spoken = 0
        blocks = SequenceMatcher(None, alone, spoken, autojunk=False).get_matching_blocks()
        for a, b, size in blocks:
            gap_alone, gap_spoken = a - matched_alone, b - matched_spoken
            for k in range(gap_spoken):
                place = matched_alone + (k * gap_alone // gap_spoken if gap_alone else 0)
                owner[sounds[matched_spoken + k]] = word_of[min(place, len(word_of) - 1)]
            for k in range(size):
                owner[sounds[b + k]] = word_of[a + k]
            matched_alone, matched_spoken = a + size, b + size
        return owner


def finish(audio: NDArray[np.float32], rate: int, gain: float) -> tuple[bytes, int]:
    """PCM16 of float audio without the silence at its ends; and the sample at which it was cut at the front."""
    import numpy as np

    audio = np.atleast_1d(audio)
    frame = rate // 100
    frames = audio[: len(audio) // frame * frame].reshape(-1, frame)
    loud = np.flatnonzero(np.sqrt(np.square(frames).mean(axis=1)) > _SILENCE) if len(frames) else frames
    if not len(loud):
        return b"", 0
    start = max(0, int(loud[0]) * frame - round(_LEAD * rate))
    end = min(len(audio), (int(loud[-1]) + 1) * frame + round(_TAIL * rate))
    piece = audio[start:end] * gain
    peak = float(np.abs(piece).max())
    if peak > _HEADROOM:
        piece *= _HEADROOM / peak
    edge = min(len(piece) // 2, round(0.004 * rate))
    if edge:
        piece[:edge] *= np.linspace(0.0, 1.0, edge, dtype=np.float32)
        piece[-edge:] *= np.linspace(1.0, 0.0, edge, dtype=np.float32)
    return (piece * 32767.0).astype("<i2").tobytes(), start
