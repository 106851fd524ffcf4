"""Cuts streamed text into clauses for a synthesiser: a short first one, so that speech starts early, then longer."""

from __future__ import annotations

import re

from duologue.errors import ConfigurationError

# Ends of sentences and of clauses. The CJK forms need no space after them.
_SENTENCE = ".!?…"
_SENTENCE_CJK = "。！？"
_CLAUSE = ",;:"
_CLAUSE_CJK = "、，；："
_DASHES = "–—"
_CLOSING = "\"'”’)]}»」』）】"

# Words whose full stop ends no sentence. Those that may also end one ("a.m.", "etc.") are not followed by a cut either:
# a clause that goes on too long costs less than a pause inside a name or a time.
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        """
        mr mrs ms dr prof st sr jr rev hon gen col sgt capt lt cmdr gov sen rep mt ft no nos vs etc inc ltd co corp dept
        est approx tel fig vol pp ed al e.g i.e a.m p.m u.s u.k ph.d b.a m.a n.b c.f cf ca viz resp jan feb mar apr jun
        jul aug sep sept oct nov dec mon tue tues wed thu thurs fri sat sun ave blvd rd apt bldg hwy sq bzw z.b usw d.h
        nr str evtl ggf u.a
        """,
    )
)
_LAST_WORD = re.compile(r"([^\W\d_](?:[^\W_]|\.(?=\w))*)\.$")


class ClauseChunker:
    """Takes text as it streams in, gives clauses as soon as they are certain.

    The first clause is at most `first_max` characters: cut at the first punctuation that ends a sentence or a clause,
    else (once the text is longer) at the last space before the limit; a comma or the like within its first
    `first_min` characters does not end it ("Well, ..."). Later clauses end with a sentence, or with a clause of at
    least `comfortable` characters, and never exceed `maximum`, but where a single word does. Numbers ("3.5",
    "12,000", "4:30"), abbreviations ("Dr.", "a.m."), initials ("J. S. Bach") and single letters are not cut. A
    punctuation mark at the very end of what has arrived waits for the next character, which may show that it is part
    of a number.

    The clauses, joined, are the input text up to white space.

    Args:
        first_max: most characters of the first clause.
        first_min: characters from which a comma or the like ends the first clause.
        comfortable: characters from which a comma or the like ends a later clause.
        maximum: most characters of a later clause.
    """

    def __init__(self, *, first_max: int = 40, first_min: int = 12, comfortable: int = 60, maximum: int = 200) -> None:
        if not 1 <= first_max <= maximum or comfortable < 1:
            raise ConfigurationError("ClauseChunker: 1 <= first_max <= maximum and comfortable >= 1 must hold.")
        self._first_max = first_max
        self._first_min = first_min
        self._comfortable = comfortable
        self._maximum = maximum
        self._buffer = ""
        self._first = True

    def feed(self, delta: str) -> list[str]:
        """Take more text; return the clauses that are now complete, stripped of white space at both ends."""
        self._buffer = (self._buffer + delta).lstrip() if not self._buffer else self._buffer + delta
        out: list[str] = []
        while (cut := self._cut(ended=False)) is not None:
            self._take(cut, out)
        return out

    def flush(self) -> list[str]:
        """The text has ended: return what is left, and begin anew with the next :meth:`feed`."""
        out: list[str] = []
        while (cut := self._cut(ended=True)) is not None:
            self._take(cut, out)
        self._take(len(self._buffer), out)
        self._buffer = ""
        self._first = True
        return out

    def _take(self, cut: int, out: list[str]) -> None:
        clause = self._buffer[:cut].strip()
        self._buffer = self._buffer[cut:].lstrip()
        if clause:
            out.append(clause)
            self._first = False

    def _cut(self, *, ended: bool) -> int | None:
        """Where the next clause ends, or None if that is not known yet. Depends only on the text up to there."""
        text = self._buffer
        limit = self._first_max if self._first else self._maximum
        fallback = 0
        for index, char in enumerate(text):
            if char.isspace() or _is_cjk(char):
                if index <= limit or not fallback:
                    fallback = index
                if char == "\n":
                    return index
            if index >= limit and fallback:
                return fallback
            end = self._end_at(index)
            if end is None:
                continue
            if end >= len(text) and not ended:
                return None
            if end <= limit or not fallback:
                return end
        return None

    def _end_at(self, index: int) -> int | None:
        """The end of the clause if one ends with the character at `index` (closing quotes and brackets included)."""
        text, char = self._buffer, self._buffer[index]
        enough = index + 1 >= (self._first_min if self._first else self._comfortable)
        if char in _SENTENCE_CJK or (char in _CLAUSE_CJK and enough):
            return self._closed(index + 1)
        if char in _SENTENCE or (char in _CLAUSE and enough):
            if char == "." and self._is_abbreviation(index):
                return None
            end = self._closed(index + 1)
            # Punctuation inside a number, a time, an address or a run of dots has no space after it.
            return end if end >= len(text) or text[end].isspace() else None
        if char in _DASHES and enough and text[index - 1].isspace():
            return index + 1 if index + 1 >= len(text) or text[index + 1].isspace() else None
        return None

    def _closed(self, end: int) -> int:
        while end < len(self._buffer) and self._buffer[end] in _CLOSING:
            end += 1
        return end

    def _is_abbreviation(self, index: int) -> bool:
        match = _LAST_WORD.search(self._buffer, max(0, index - 12), index + 1)
        if match is None:
            return False
        word = match[1]
        # "I." and "a." end sentences no more often than initials stand before a name; "I" and "O" are words, though.
        return word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word not in "IO")


def _is_cjk(char: str) -> bool:
    """Scripts written without spaces, which may be cut between any two characters where no punctuation helps."""
    return "\u3040" <= char <= "\u30ff" or "\u3400" <= char <= "\u9fff"
