"""Word error rate: how far what was recognised is from what was said.

Recognisers and scripts spell alike what sounds alike: "12" and "twelve", "What's" and "what's". Both sides are brought
to one form first: lower case, no punctuation, numbers in English words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_SYMBOLS = {
    "%": " percent ",
    "&": " and ",
    "+": " plus ",
    "=": " equals ",
    "°": " degrees ",
    "€": " euros ",
    "£": " pounds ",
}
_SAME = {
    **{"ok": "okay", "mr": "mister", "mrs": "missus", "alright": "all right", "uhhuh": "uh huh"},
    # British and American spelling of what is said in calls
    **{word: word.replace("our", "or") for word in ("harbour", "colour", "favour", "favourite", "neighbour", "honour")},
    **{"centre": "center", "theatre": "theater", "metre": "meter", "litre": "liter", "grey": "gray", "cheque": "check"},
    **{"cancelled": "canceled", "travelling": "traveling", "programme": "program", "kerb": "curb"},
}
_NUMBERS = frozenset(_ONES) | frozenset(_TENS[2:]) | {name for _, name in _SCALES}
_TOKEN = re.compile(
    r"(?P<money>\$\s?\d[\d,]*(?:\.\d+)?)"
    r"|(?P<clock>\b\d{1,2}:\d{2}\b)"
    r"|(?P<ordinal>\b\d[\d,]*(?:st|nd|rd|th)\b)"
    r"|(?P<decimal>\d[\d,]*\.\d+)"
    r"|(?P<number>\d{1,3}(?:,\d{3})+|\d+)"
)


class WordErrors(NamedTuple):
    """The fewest edits that turn what was recognised into what was said; `words` were said."""

    substitutions: int
    deletions: int
    insertions: int
    words: int

    @property
    def rate(self) -> float:
        """Errors a word said; with nothing said, the number of words made up."""
        return (self.substitutions + self.deletions + self.insertions) / max(self.words, 1)


def wer(said: str, recognised: str) -> float:
    """Word error rate, from 0.0 (the same words) up; above 1.0 if more was made up than was said."""
    return word_errors(said, recognised).rate


def word_errors(said: str, recognised: str) -> WordErrors:
    """The word errors by kind, after :func:`normalise`."""
    return _edits(normalise(said), normalise(recognised))


def normalise(text: str) -> list[str]:
    """The words of `text` in the one form in which they are compared."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = _TOKEN.sub(_spell, text)
    for symbol, name in _SYMBOLS.items():
        text = text.replace(symbol, name)
    # an apostrophe joins ("what's" is "whats"), any other punctuation parts
    text = "".join(char if char.isalnum() else "" if char == "'" else " " for char in text)
    words = " ".join(_SAME.get(word, word) for word in text.split()).split()
    # "a hundred and five" is "hundred five": after hundred or thousand, before a number, "and" is a matter of taste
    return [
        word
        for index, word in enumerate(words)
        if not (
            word == "and"
            and 0 < index < len(words) - 1
            and words[index - 1] in ("hundred", "thousand")
            and words[index + 1] in _NUMBERS
        )
    ]


def number_words(number: int) -> str:
    """A number from 0 up to 10^15 in English words; larger ones digit by digit."""
    if number >= 10**15:
        return " ".join(_ONES[int(digit)] for digit in str(number))
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f" {_ONES[ones]}" if ones else "")
    for scale, name in _SCALES:
        if number >= scale:
            many, rest = divmod(number, scale)
            return f"{number_words(many)} {name}" + (f" {number_words(rest)}" if rest else "")
    raise AssertionError("unreachable: 100 is the smallest scale")


def _spell(found: re.Match[str]) -> str:
    text = found.group().replace(",", "")
    if found.lastgroup == "money":
        whole, _, cents = text.lstrip("$").lstrip().partition(".")
        spelt = f"{number_words(int(whole))} {'dollar' if int(whole) == 1 else 'dollars'}"
        text = spelt + (f" {number_words(int(cents))} cents" if cents.strip("0") else "")
    elif found.lastgroup == "clock":
        hours, minutes = (int(part) for part in text.split(":"))
        oh = "oh " if 0 < minutes < 10 else ""
        text = number_words(hours) + (f" {oh}{number_words(minutes)}" if minutes else " o'clock")
    elif found.lastgroup == "ordinal":
        *before, last = number_words(int(text[:-2])).split()
        regular = last[:-1] + "ieth" if last.endswith("y") else last + ("h" if last.endswith("t") else "th")
        text = " ".join([*before, _ORDINALS.get(last, regular)])
    elif found.lastgroup == "decimal":
        whole, _, digits = text.partition(".")
        text = f"{number_words(int(whole))} point " + " ".join(_ONES[int(digit)] for digit in digits)
    elif len(text) > 1 and text.startswith("0"):
        text = " ".join(_ONES[int(digit)] for digit in text)
    else:
        text = number_words(int(text))
    return f" {text} "


def _edits(said: Sequence[str], recognised: Sequence[str]) -> WordErrors:
    """Levenshtein's distance with its kinds counted (Wagner and Fischer, 1974), one row at a time."""
    # entries are (edits, substitutions, deletions, insertions); the smallest tuple is one of the best
    row = [(n, 0, 0, n) for n in range(len(recognised) + 1)]
    for count, word in enumerate(said, 1):
        above, row = row, [(count, 0, count, 0)]
        for index, heard in enumerate(recognised):
            edits, substituted, deleted, inserted = above[index]
            if word == heard:
                row.append((edits, substituted, deleted, inserted))
                continue
            down, left = above[index + 1], row[index]
            row.append(
                min(
                    (edits + 1, substituted + 1, deleted, inserted),
                    (down[0] + 1, down[1], down[2] + 1, down[3]),
                    (left[0] + 1, left[1], left[2], left[3] + 1),
                )
            )
    _, substituted, deleted, inserted = row[-1]
    return WordErrors(substituted, deleted, inserted, len(said))
