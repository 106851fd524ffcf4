"""The script of a response: which text is spoken at which of its samples.

A synthesiser that gives word times makes this exact. Without them a piece of text is spread over the samples of its audio in
proportion to its characters, which for one clause at a time is right to about a word.
"""

from __future__ import annotations

import re

import msgspec

_WORD = re.compile(r"\s*\S+\s*")
#: characters that take time without being spoken: a comma or full stop is heard as a pause
_PAUSES = {",": 2.0, ";": 2.5, ":": 2.5, ".": 3.5, "!": 3.5, "?": 3.5}
#: speaking rate assumed for text whose audio length is not known yet, characters a second
_CHARACTERS_PER_S = 14.0


class Word(msgspec.Struct, frozen=True, array_like=True):
    """A word with the samples it is spoken at, relative to its piece."""

    text: str
    start: int
    end: int


class Piece(msgspec.Struct):
    """A run of text spoken from sample `start` of the response on; `end` is None while its audio is being made."""

    text: str
    start: int
    end: int | None = None
    words: tuple[Word, ...] = ()
    timed: list[Word] | None = None  # its words with their times, once they are final


class Script:
    """Text of one response against its samples at `rate`."""

    __slots__ = ("pieces", "rate", "samples")

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.pieces: list[Piece] = []
        self.samples = 0

    @property
    def text(self) -> str:
        """Everything that the response says."""
        return "".join(piece.text for piece in self.pieces)

    def say(self, text: str) -> None:
        """The audio that follows speaks `text`."""
        if not text:
            return
        self._close()
        self.pieces.append(Piece(text, self.samples))

    def audio(self, samples: int, words: tuple[Word, ...] = ()) -> int:
        """`samples` more of audio. `words` are positioned relative to their first sample. Returns the offset of that."""
        offset = self.samples
        self.samples += samples
        if self.pieces and words:
            piece = self.pieces[-1]
            shift = offset - piece.start
            piece.words += tuple(Word(w.text, w.start + shift, w.end + shift) for w in words)
        return offset

    def finish(self) -> None:
        """No more audio will come."""
        self._close()

    def _close(self) -> None:
        if self.pieces and self.pieces[-1].end is None:
            self.pieces[-1].end = self.samples

    def heard(self, samples: int) -> str:
        """The text that has been heard once `samples` of the response have been played; whole words."""
        parts: list[str] = []
        for piece in self.pieces:
            if piece.start >= samples:
                break
            if piece.end is not None and samples >= piece.end:
                parts.append(piece.text)
                continue
            spoken = samples - piece.start
            timed = self._timed(piece)
            # A word counts as heard when more than half of it was.
            parts.extend(word.text for word in timed if (word.start + word.end) / 2 <= spoken)
        return "".join(parts)

    def word_start(self, samples: int) -> int:
        """The sample at which the word begins that is being spoken at `samples`: where to go on after a false barge-in."""
        for piece in reversed(self.pieces):
            if piece.start <= samples:
                if piece.end is not None and samples >= piece.end:
                    return samples  # between pieces, or at the very end: no word is being spoken
                spoken = samples - piece.start
                start = 0
                for word in self._timed(piece):
                    if word.start > spoken:
                        break
                    start = word.start
                return piece.start + start
        return 0

    def _timed(self, piece: Piece) -> list[Word]:
        """The words of a piece, with their whitespace, at given or estimated times."""
        if piece.timed is not None:
            return piece.timed
        timed = self._times(piece)
        if piece.end is not None:
            piece.timed = timed
        return timed

    def _times(self, piece: Piece) -> list[Word]:
        texts = _WORD.findall(piece.text)
        if piece.words and len(piece.words) == len(texts):
            return [Word(text, w.start, w.end) for text, w in zip(texts, piece.words, strict=True)]
        weights = [len(text) + sum(_PAUSES.get(character, 0.0) for character in text) for text in texts]
        total = sum(weights) or 1.0
        length = float(piece.end - piece.start) if piece.end is not None else 0.0
        if piece.end is None:
            length = max(total / _CHARACTERS_PER_S * self.rate, float(self.samples - piece.start))
        timed: list[Word] = []
        at = 0.0
        for text, weight in zip(texts, weights, strict=True):
            end = at + length * weight / total
            timed.append(Word(text, round(at), round(end)))
            at = end
        return timed
