"""Which tool some words mean: every example of every tool aligned, the best one taken, its slots filled.

Tools without examples are reached through patterns made of their names, and all tools through the words of their names,
descriptions and parameters.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from duologue.speech.llm.phrase_align import Alignment, Pattern, align, pattern
from duologue.speech.llm.phrase_render import words_of
from duologue.speech.llm.phrase_text import Token, core, likeness, tokenize, weight
from duologue.speech.llm.phrase_values import MISSING, corrected, fill, find_correction
from duologue.tools.base import ToolSpec

#: how much less a pattern counts that was made of a tool's name than one that somebody wrote
NAME_FACTOR = 0.95
VERB_FACTOR = 0.85


class Match(NamedTuple):
    """Some words taken to mean a tool. `missing` are required parameters without a value, in the tool's order."""

    tool: ToolSpec
    score: float
    arguments: dict[str, Any]
    missing: tuple[str, ...]
    example: str
    literal: float = 0.0
    #: filled from words, and not usable as what the parameter wants
    unusable: tuple[str, ...] = ()


class _Entry(NamedTuple):
    tool: ToolSpec
    pattern: Pattern
    factor: float


class _Found(NamedTuple):
    entry: _Entry
    alignment: Alignment
    words: Sequence[Token]
    score: float


class Catalogue:
    """The patterns of a set of tools, ready to be matched. Pure: the same words give the same match."""

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        self.tools = tuple(tools)
        self.entries = [_Entry(tool, pattern(example), 1.0) for tool in tools for example in tool.examples]
        for tool in tools:
            if not tool.examples:
                self.entries.extend(_from_name(tool))
        self._vocabularies = [(tool, _vocabulary(tool)) for tool in tools]

    def match(self, words: Sequence[Token], today: datetime.date) -> Match | None:
        """The best match of `words`, self-corrections applied; None if nothing fits at all."""
        found = self._best(words)
        correction = find_correction(words)
        replaced: Sequence[Token] | None = None
        if correction is not None:
            before, after = self._best(words[: correction[0]]), self._best(words[correction[1] :])
            if after is not None and after.alignment.literal >= 1 and (found is None or after.score > found.score):
                found = after  # said anew: "add a note, no, mark the last one as complete"
            elif before is not None and before.alignment.slots and (found is None or before.score > found.score):
                found, replaced = before, words[correction[1] :]  # "mark the last one, no, the one before"
        if found is None:
            return None
        return _filled(found, replaced, words, today)

    def by_words(self, words: Sequence[Token], today: datetime.date) -> Match | None:
        """A match by the words of names, descriptions and parameters, whatever their order; None if none stands out."""
        content = [word.text for word in words if weight(word.text) >= 1]
        if not content:
            return None
        scored: list[tuple[float, int]] = []
        for index, (_, vocabulary) in enumerate(self._vocabularies):
            total = 0.0
            for word in content:
                total += max((value * likeness(word, known) for known, value in vocabulary.items()
                              if likeness(word, known) >= 0.75), default=0.0)  # fmt: skip
            scored.append((total / len(content), -index))
        scored.sort(reverse=True)
        if not scored or scored[0][0] < 0.45 or (len(scored) > 1 and scored[0][0] - scored[1][0] < 0.15):
            return None
        tool = self._vocabularies[-scored[0][1]][0]
        shown = tool.examples[0] if tool.examples else words_of(tool.name)
        entry = _Entry(tool, pattern(shown), 1.0)
        return _filled(_Found(entry, Alignment(0, 0, {}, 0), words, scored[0][0]), None, words, today)

    def _best(self, words: Sequence[Token]) -> _Found | None:
        best: _Found | None = None
        for entry in self.entries:
            if not _may_match(entry.pattern, words):
                continue
            alignment = align(entry.pattern, words)
            score = alignment.score * entry.factor
            if best is None or (score, alignment.literal) > (best.score, best.alignment.literal):
                if not _plausible(entry, alignment, words):
                    continue
                best = _Found(entry, alignment, words, score)
        return best if best is not None and best.score > 0 else None


def _from_name(tool: ToolSpec) -> list[_Entry]:
    """Patterns of a tool without examples: "play music {song}", "play music", "play {song}"."""
    name = words_of(tool.name)
    slots = " ".join(f"{{{required}}}" for required in tool.parameters.get("required", ()))
    entries = [_Entry(tool, pattern(name), NAME_FACTOR)]
    if slots:
        entries.append(_Entry(tool, pattern(f"{name} {slots}"), NAME_FACTOR))
        if " " in name:
            entries.append(_Entry(tool, pattern(f"{name.split()[0]} {slots}"), VERB_FACTOR))
    return entries


def _vocabulary(tool: ToolSpec) -> dict[str, float]:
    vocabulary: dict[str, float] = {}

    def learn(text: str, value: float) -> None:
        for token in core(tokenize(text)):
            if weight(token.text) >= 1:
                vocabulary[token.text] = max(vocabulary.get(token.text, 0.0), value)

    learn(words_of(tool.name), 1.0)
    for example in tool.examples:
        learn(" ".join(pattern(example).words), 0.8)
    learn(tool.description, 0.6)
    for name, schema in tool.parameters.get("properties", {}).items():
        learn(words_of(name), 0.6)
        learn(str(schema.get("description", "")), 0.4)
        for option in schema.get("enum", ()):
            learn(words_of(str(option)), 0.8)
    return vocabulary


def _may_match(wanted: Pattern, words: Sequence[Token]) -> bool:
    """A cheap look before the alignment: does any weighty word of the pattern sound like one that was said?"""
    heavy = [word for word in wanted.words if weight(word) >= 1] or list(wanted.words)
    if not heavy:
        return True
    texts = [word.text for word in words]
    joined = [one + other for one, other in itertools.pairwise(texts)]
    fused = [one + other for one, other in itertools.pairwise(wanted.words)]
    return any(likeness(word, text) >= 0.6 for word in heavy for text in (*texts, *joined)) or any(
        likeness(word, text) >= 0.84 for word in fused for text in texts if len(text) > 3
    )


def _plausible(entry: _Entry, alignment: Alignment, words: Sequence[Token]) -> bool:
    """Refuse a pattern of light words only ("what is {expression}") whose slot got something that it cannot take."""
    if alignment.literal >= 1:
        return True
    properties = entry.tool.parameters.get("properties", {})
    return all(
        fill(properties.get(name, {}), words[start:end], datetime.date(2000, 1, 1)) is not MISSING
        for name, (start, end) in alignment.slots.items()
    )


def _filled(found: _Found, replaced: Sequence[Token] | None, words: Sequence[Token], today: datetime.date) -> Match:
    tool = found.entry.tool
    properties: dict[str, Any] = tool.parameters.get("properties", {})
    arguments: dict[str, Any] = {}
    unusable: list[str] = []
    last = max(found.alignment.slots, key=lambda name: found.alignment.slots[name][0], default=None)
    for name, (start, end) in found.alignment.slots.items():
        said = found.words[start:end]
        if replaced is not None and name == last:
            said = corrected([*said[:-1], said[-1]._replace(pause=True), Token("no", "no", True), *replaced])
        value = fill(properties.get(name, {}), said, today)
        if value is MISSING:
            unusable.append(name)
        else:
            arguments[name] = value
    for name, schema in properties.items():  # a number or a choice may stand where no example foresaw it
        if name in arguments or name in found.alignment.slots or not _is_narrow(schema):
            continue
        value = fill(schema, corrected(words), today)
        if value is not MISSING:
            arguments[name] = value
    missing = tuple(name for name in tool.parameters.get("required", ()) if name not in arguments)
    return Match(
        tool, found.score, arguments, missing, found.entry.pattern.text, found.alignment.literal, tuple(unusable)
    )


def _is_narrow(schema: dict[str, Any]) -> bool:
    """Whether few words can be a value of this, so that finding one is no accident."""
    branches = schema.get("anyOf") or [schema]
    return all(
        branch.get("type") in ("integer", "number", "null") or "enum" in branch or branch.get("format") == "date"
        for branch in branches
    )
