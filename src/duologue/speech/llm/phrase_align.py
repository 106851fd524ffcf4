"""Aligns what was said with an example such as "mark {delivery} as complete", tolerating recognition errors.

A path through the grid of example words against spoken words gains for likeness and pays for what is missing or too
much; a slot takes one or more words cheaply. The best path is found by dynamic programming. Its score is gain / (gain +
cost), 1 for a verbatim match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from duologue.speech.llm.phrase_text import Token, core, likeness, tokenize, weight

LIKE = 0.6
#: spoken words that the example does not have cost this part of their weight
EXTRA = 0.7
SLOT_GAIN = 0.5
SLOT_START = 0.1
SLOT_WORD = 0.02
SLOT_MISSING = 0.5
#: two words heard as one, or one as two, must be this alike
JOINED = 0.84

MAX_WORDS = 80


class Slot(NamedTuple):
    """A place in an example that takes the value of a parameter."""

    name: str


class Pattern(NamedTuple):
    """An example made comparable; `text` is how it was written."""

    text: str
    parts: tuple[str | Slot, ...]

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts if isinstance(part, Slot))

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if isinstance(part, str))


class Alignment(NamedTuple):
    """The best fit of some words to a pattern.

    `slots` maps a parameter to the range of words it took; `literal` is the weight of example words that were found;
    `end` is how many parts of the pattern were used when `prefix` was asked for, else all.
    """

    score: float
    literal: float
    slots: dict[str, tuple[int, int]]
    end: int


class _Cell(NamedTuple):
    value: float
    gain: float
    cost: float
    literal: float
    slots: tuple[tuple[str, int, int], ...]


_START = _Cell(0.0, 0.0, 0.0, 0.0, ())


def pattern(example: str) -> Pattern:
    """Take an example apart into words and slots."""
    marked: list[str | Slot] = []
    for index, piece in enumerate(re.split(r"\{([^{}]*)\}", example)):
        if index % 2:
            marked.append(Slot(piece))
        else:
            marked.extend(token.text for token in tokenize(piece))
    if all(isinstance(part, str) for part in marked):
        return Pattern(example, tuple(token.text for token in core(tokenize(example))))
    if marked and isinstance(marked[0], str):
        first = next(index for index, part in enumerate(marked) if isinstance(part, Slot))
        words = [part for part in marked[:first] if isinstance(part, str)]
        lead = [token.text for token in core([Token(word, word) for word in words])]
        marked = [*lead, *marked[first:]]
    return Pattern(example, tuple(marked))


def align(wanted: Pattern, spoken: Sequence[Token], *, prefix: bool = False) -> Alignment:
    """The best alignment of `spoken` with the pattern, or with whichever beginning of it fits best (`prefix`)."""
    parts = wanted.parts
    words = [token.text for token in spoken[:MAX_WORDS]]
    columns = len(words) + 1
    row: list[_Cell | None] = [None] * columns
    joined: list[_Cell | None] = [None] * columns  # the row after next, reached by two example words heard as one
    row[0] = _START
    _spread(row, words)
    best, best_end = row[-1], 0
    for index, part in enumerate(parts):
        following: list[_Cell | None] = joined
        joined = [None] * columns
        if isinstance(part, Slot):
            _through_slot(part, row, following)
        else:
            after = parts[index + 1] if index + 1 < len(parts) else None
            _through_word(part, after if isinstance(after, str) else None, words, row, following, joined)
        _spread(following, words)
        row = following
        if prefix and row[-1] is not None and (best is None or row[-1].value > best.value):
            best, best_end = row[-1], index + 1
    final = best if prefix else row[-1]
    assert final is not None  # every cell can be reached by leaving everything out
    total = final.gain + final.cost
    slots = {name: (start, end) for name, start, end in final.slots}
    score = final.gain / total if total > 0 else 0.0
    return Alignment(score, final.literal, slots, best_end if prefix else len(parts))


def _better(row: list[_Cell | None], column: int, cell: _Cell) -> None:
    old = row[column]
    if old is None or cell.value > old.value:
        row[column] = cell


def _step(cell: _Cell, gain: float, cost: float, literal: float = 0.0) -> _Cell:
    return _Cell(cell.value + gain - cost, cell.gain + gain, cell.cost + cost, cell.literal + literal, cell.slots)


def _spread(row: list[_Cell | None], words: list[str]) -> None:
    """Let spoken words go by that the example does not have."""
    for column, word in enumerate(words):
        cell = row[column]
        if cell is not None:
            _better(row, column + 1, _step(cell, 0.0, EXTRA * weight(word)))


def _through_word(
    part: str,
    after: str | None,
    words: list[str],
    row: list[_Cell | None],
    following: list[_Cell | None],
    joined: list[_Cell | None],
) -> None:
    heavy = weight(part)
    for column, cell in enumerate(row):
        if cell is None:
            continue
        _better(following, column, _step(cell, 0.0, heavy))
        if column >= len(words):
            continue
        like = likeness(part, words[column])
        if like >= LIKE:
            _better(following, column + 1, _step(cell, heavy * like, heavy * (1 - like), heavy))
        if column + 1 < len(words):
            like = likeness(part, words[column] + words[column + 1])
            if like >= JOINED and len(part) > 3:
                _better(following, column + 2, _step(cell, heavy * like, heavy * (1 - like), heavy))
        if after is not None:
            like = likeness(part + after, words[column])
            if like >= JOINED and len(words[column]) > 3:
                both = heavy + weight(after)
                _better(joined, column + 1, _step(cell, both * like, both * (1 - like), both))


def _through_slot(part: Slot, row: list[_Cell | None], following: list[_Cell | None]) -> None:
    inside: tuple[_Cell, int] | None = None  # the best way to be in the slot, and where it began
    for column, cell in enumerate(row):
        if inside is not None:
            grown, start = inside
            inside = (_step(grown, 0.0, SLOT_WORD), start)
            closed = inside[0]
            _better(following, column, closed._replace(slots=(*closed.slots, (part.name, start, column))))
        if cell is None:
            continue
        _better(following, column, _step(cell, 0.0, SLOT_MISSING))
        entered = _step(cell, SLOT_GAIN, SLOT_START)
        if inside is None or entered.value > inside[0].value:
            inside = (entered, column)
