"""From the words in a slot to a value of the parameter's JSON Schema type; and self-corrections inside those words."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from duologue.speech.llm.phrase_text import Token, core, likeness, surface, tokenize, vocabulary, without_fillers
from duologue.tools.numbers import ORDINALS, TENS, UNITS, leading_number

#: what recognisers write for number words that stand alone
_MISHEARD_NUMBERS = {
    "won": 1, "to": 2, "too": 2, "tree": 3, "free": 3, "for": 4, "fore": 4, "fife": 5, "sex": 6, "sics": 6, "ate": 8,
    "nein": 9, "mine": 9, "tin": 10, "couple": 2, "pair": 2, "dozen": 12, "a": 1, "an": 1, "single": 1,
}  # fmt: skip
_TRUE = vocabulary("yes yeah yep true on sure okay correct right affirmative")
_FALSE = vocabulary("no nope false off not negative")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_DETERMINERS = vocabulary("the a an my that this")
_LEADING = [
    phrase.split()
    for phrase in (
        "it is", "that is", "it would be", "i would say", "i think", "number", "is", "make it", "to be", "say",
    )
]  # fmt: skip

#: always a correction when words stand on both sides
_STRONG = [
    phrase.split()
    for phrase in (
        "scratch that", "no wait", "no sorry", "no i mean", "i mean", "correction", "make that", "wait no",
        "no actually", "or rather", "no no", "sorry no", "oh no", "actually no",
    )
]  # fmt: skip
#: a correction if a pause is written beside it, or if what follows starts like a value
_WEAK = [["no"], ["sorry"], ["wait"], ["actually"], ["rather"]]
_NEGATED = vocabulary("is are was were has have had with there says said got be say")

FREE_TEXT_WORDS = 7

MISSING = object()


def corrected(words: Sequence[Token]) -> list[Token]:
    """What is meant after a self-correction: "the last one, no, the one before" gives "the one before".

    Where both sides end in the same kind of word (number, weekday, month), only that word is replaced.
    """
    result = list(without_fillers(words))
    while True:
        found = find_correction(result)
        if found is None:
            return result
        before, after = result[: found[0]], result[found[1] :]
        result = _spliced(before, after)


def find_correction(words: Sequence[Token]) -> tuple[int, int] | None:
    """Where the first correction marker begins and ends, with words on both sides of it; None if there is none."""
    texts = [word.text for word in words]
    for index in range(1, len(words) - 1):
        for marker in _STRONG:
            end = index + len(marker)
            if texts[index:end] == marker and end < len(words):
                return index, end
        for marker in _WEAK:
            end = index + 1
            if texts[index:end] != marker:
                continue
            if words[index - 1].pause:
                return index, end
            follows = texts[end] in _DETERMINERS or _kind(texts[end]) is not None
            if follows and texts[index - 1] not in _NEGATED and len(words) < FREE_TEXT_WORDS + 4:
                return index, end
    return None


def _spliced(before: list[Token], after: list[Token]) -> list[Token]:
    after = list(after)
    kinds = {_kind(word.text) for word in after}
    if len(after) <= 3 and len(kinds) == 1 and None not in kinds:
        end = len(before)
        start = end
        while start > 0 and _kind(before[start - 1].text) in kinds:
            start -= 1
        if start < end:
            return [*before[:start], *after]
    return after


def _kind(word: str) -> str | None:
    if word in UNITS or word in TENS or re.fullmatch(r"\d[\d.,:]*(?:st|nd|rd|th)?", word):
        return "number"
    if word in ORDINALS:
        return "ordinal"
    if word in _DAYS or word in ("today", "tomorrow"):
        return "day"
    return "month" if word in _MONTHS else None


def fill(schema: Mapping[str, Any], words: Sequence[Token], today: datetime.date) -> Any:
    """The value that `words` say for a parameter of `schema`, or :data:`MISSING` if they say none.

    Types: integer, number, boolean, enum, const, string (also of format date, time, date-time, or with a pattern),
    arrays of these, and unions.
    """
    said = _plain(corrected(words))
    return _fill(schema, said, today) if said else MISSING


def _plain(words: list[Token]) -> list[Token]:
    words = core(words)
    changed = True
    while changed:
        changed = False
        for lead in _LEADING:
            if len(words) > len(lead) and [word.text for word in words[: len(lead)]] == lead:
                words, changed = words[len(lead) :], True
    return words


def _fill(schema: Mapping[str, Any], words: list[Token], today: datetime.date) -> Any:
    for branches in (schema.get("anyOf"), schema.get("oneOf")):
        if branches:
            for branch in branches:
                value = _fill(branch, words, today) if branch.get("type") != "null" else MISSING
                if value is not MISSING:
                    return value
            return MISSING
    if "const" in schema:
        return _choose([schema["const"]], words)
    if "enum" in schema:
        return _choose(schema["enum"], words)
    kind = schema.get("type")
    if isinstance(kind, list):
        return _fill({"anyOf": [{**schema, "type": each} for each in kind]}, words, today)
    if kind in ("integer", "number"):
        return _number(schema, words)
    if kind == "boolean":
        return _boolean(words)
    if kind == "array":
        return _array(schema, words, today)
    if kind in ("string", None):
        return _string(schema, words, today)
    return MISSING


def _number(schema: Mapping[str, Any], words: list[Token]) -> Any:
    texts = [word.text for word in words]
    value: Decimal | None = None
    for index in range(len(texts)):
        found = leading_number(texts[index:])
        if found is not None:
            value = -found.value if index and texts[index - 1] in ("minus", "negative") else found.value
            break
    if value is None:
        known = [_MISHEARD_NUMBERS[text] for text in reversed(texts) if text in _MISHEARD_NUMBERS]
        if not known or len(texts) > 3:
            return MISSING
        value = Decimal(known[0])
    if schema.get("type") == "integer" and value != int(value):
        return MISSING
    low, high = schema.get("minimum"), schema.get("maximum")
    if (low is not None and value < low) or (high is not None and value > high):
        return MISSING
    return int(value) if schema.get("type") == "integer" else float(value)


def _boolean(words: list[Token]) -> Any:
    for word in words:
        if word.text in _TRUE:
            return True
        if word.text in _FALSE:
            return False
    return MISSING


def _choose(options: Sequence[Any], words: list[Token]) -> Any:
    """The option that is most like the words, if one is like them at all."""
    texts = [word.text for word in words]
    best, chosen = 0.0, MISSING
    for option in options:
        wanted = [token.text for token in tokenize(re.sub(r"[_-]+", " ", str(option)))]
        if not wanted:
            continue
        score = sum(max((likeness(word, text) for text in texts), default=0.0) for word in wanted) / len(wanted)
        number = leading_number(texts)
        if isinstance(option, int) and not isinstance(option, bool) and number is not None and number.value == option:
            score = 1.0
        if score > best:
            best, chosen = score, option
    return chosen if best >= 0.7 else MISSING


def _array(schema: Mapping[str, Any], words: list[Token], today: datetime.date) -> Any:
    items: list[list[Token]] = [[]]
    for word in words:
        if word.text == "and":
            items.append([])
            continue
        items[-1].append(word._replace(pause=False))
        if word.pause:
            items.append([])
    values = [_fill(schema.get("items") or {}, item, today) for item in items if item]
    return MISSING if not values or any(value is MISSING for value in values) else values


def _string(schema: Mapping[str, Any], words: list[Token], today: datetime.date) -> Any:
    form = schema.get("format")
    if form == "date":
        day = _date(words, today)
        return MISSING if day is None else day.isoformat()
    if form == "time":
        moment = _time(words)
        return MISSING if moment is None else moment.isoformat()
    if form == "date-time":
        moment = _time(words)
        day = _date(words, today) or (today if moment else None)
        return MISSING if day is None else datetime.datetime.combine(day, moment or datetime.time(9)).isoformat()
    if len(words) <= 3 and len(words) > 1 and words[0].text in _DETERMINERS:
        words = words[1:]
    text = surface(words)
    if not text or ("pattern" in schema and not re.search(schema["pattern"], text)):
        return MISSING
    return text


def _date(words: list[Token], today: datetime.date) -> datetime.date | None:
    texts = [word.text for word in words]
    for name, ahead in (("today", 0), ("tonight", 0), ("tomorrow", 1), ("yesterday", -1)):
        if name in texts:
            after = "after" in texts and name == "tomorrow"
            return today + datetime.timedelta(days=ahead + after)
    for index, day in enumerate(_DAYS):
        if any(likeness(day, text) >= 0.8 for text in texts):
            ahead = (index - today.weekday()) % 7
            return today + datetime.timedelta(days=ahead or 7)
    for text in texts:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            return _day(*map(int, text.split("-")))
    for month, name in enumerate(_MONTHS, start=1):
        if name in texts:
            at = texts.index(name)
            number = leading_number(texts[at + 1 :]) or next(
                (found for start in range(at) if (found := leading_number(texts[start:at])) is not None), None
            )
            if number is None:
                return None
            date = _day(today.year, month, int(number.value))
            return _day(today.year + 1, month, int(number.value)) if date is not None and date < today else date
    return None


def _day(year: int, month: int, day: int) -> datetime.date | None:
    try:
        return datetime.date(year, month, day)
    except ValueError:
        return None


def _time(words: list[Token]) -> datetime.time | None:
    texts = [word.text.replace(".", "") for word in words]
    joined = " ".join(texts)
    if "noon" in texts or "midday" in texts:
        return datetime.time(12)
    if "midnight" in texts:
        return datetime.time(0)
    afternoon = bool(re.search(r"(?:\b|\d)pm\b|afternoon|evening|tonight", joined))
    morning = bool(re.search(r"(?:\b|\d)am\b|morning", joined))
    texts = [re.sub(r"(?<=\d)[ap]m$", "", text) for text in texts]
    clock = next((match for text in texts if (match := re.fullmatch(r"(\d{1,2}):(\d\d)", text))), None)
    if clock:
        hour, minute = int(clock[1]), int(clock[2])
    else:
        half = re.search(r"\b(half past|quarter past|quarter to)\b", joined)
        start = next((index for index in range(len(texts)) if _kind(texts[index]) == "number"), None)
        if start is None:
            return None
        found = leading_number(texts[start : start + 1])
        assert found is not None  # _kind said so
        hour = int(found.value)
        rest = leading_number(texts[start + 1 :])
        minute = int(rest.value) if rest is not None and not rest.ordinal else 0
        if half:
            minute = {"half past": 30, "quarter past": 15, "quarter to": 45}[half[1]]
            hour -= half[1] == "quarter to"
    if afternoon and hour < 12:
        hour += 12
    elif morning and hour == 12:
        hour = 0
    return datetime.time(hour, minute) if 0 <= hour < 24 and 0 <= minute < 60 else None
