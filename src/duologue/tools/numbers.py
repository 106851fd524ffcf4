"""Numbers as people say them: "twenty one", "two hundred and five", "minus three point five", "the third"."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

UNITS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fourteenth": 14, "fifteenth": 15, "sixteenth": 16,
    "seventeenth": 17, "eighteenth": 18, "nineteenth": 19, "twentieth": 20, "thirtieth": 30, "fortieth": 40,
    "fiftieth": 50, "sixtieth": 60, "seventieth": 70, "eightieth": 80, "ninetieth": 90,
}  # fmt: skip


class Spoken(NamedTuple):
    """A number found at the beginning of some words: its value, how many words it took, whether it is ordinal."""

    value: Decimal
    words: int
    ordinal: bool = False


def leading_number(words: Sequence[str]) -> Spoken | None:
    """Read a number at the beginning of lower-case `words`, as long as possible; None if there is none.

    Knows digits ("42", "1,250", "3.5", "3rd"), cardinals with "and" and "point", and ordinals. A sign is not part of
    it.
    """
    if not words:
        return None
    digits = _digits(words[0])
    if digits is not None:
        value, ordinal = digits
        if len(words) > 1 and words[1] in SCALES and not ordinal:
            return Spoken(value * SCALES[words[1]], 2)
        return Spoken(value, 1, ordinal)
    total = current = taken = 0
    last = ""  # what kind of word came last: unit, tens, scale
    index = 0
    while index < len(words):
        word = words[index]
        if word == "and" and last == "scale" and index + 1 < len(words) and words[index + 1] in {**UNITS, **TENS}:
            index += 1
            continue
        if word in ORDINALS and last in ("", "tens", "scale") and not (last == "tens" and ORDINALS[word] > 9):
            return Spoken(Decimal(total + current + ORDINALS[word]), index + 1, True)
        if (word in UNITS and last in ("", "scale")) or (word in UNITS and last == "tens" and 0 < UNITS[word] < 10):
            current += UNITS[word]
            last = "unit"
        elif word in TENS and last in ("", "scale"):
            current += TENS[word]
            last = "tens"
        elif word == "hundred" and 0 < current < 100 and last != "scale":
            current *= 100
            last = "scale"
        elif word in SCALES and word != "hundred" and current:
            total += current * SCALES[word]
            current = 0
            last = "scale"
        else:
            break
        index += 1
        taken = index
    if not taken:
        return None
    fraction = _fraction(words[taken:])
    if fraction:
        return Spoken(Decimal(f"{total + current}.{fraction}"), taken + 1 + len(fraction))
    return Spoken(Decimal(total + current), taken)


def whole_number(words: Sequence[str]) -> Decimal | None:
    """The number that `words` say, if they say nothing else; "minus" and "negative" before it count."""
    negative = bool(words) and words[0] in ("minus", "negative")
    found = leading_number(words[1:] if negative else words)
    if found is None or found.words + negative != len(words):
        return None
    return -found.value if negative else found.value


def _digits(word: str) -> tuple[Decimal, bool] | None:
    ordinal = word[-2:] in ("st", "nd", "rd", "th") and word[:-2].isdecimal()
    text = word[:-2] if ordinal else word.replace(",", "")
    if not text.isascii() or not text.replace(".", "", 1).isdecimal() or len(text) > 30:
        return None
    return Decimal(text), ordinal


def _fraction(words: Sequence[str]) -> str:
    """The digits after a spoken "point": "point two five" gives "25"."""
    if not words or words[0] != "point":
        return ""
    digits = ""
    for word in words[1:]:
        value = UNITS.get(word)
        if value is None or value > 9:
            break
        digits += str(value)
    return digits
