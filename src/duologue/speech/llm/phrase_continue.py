"""Whether somebody has finished: how much what was said so far looks like the beginning of an example."""

from __future__ import annotations

import re

from duologue.speech.llm.phrase_align import Slot, align
from duologue.speech.llm.phrase_catalogue import Catalogue
from duologue.speech.llm.phrase_text import core, tokenize, vocabulary, without_fillers
from duologue.tools.numbers import TENS

#: nobody ends a sentence with these
_HANGING = vocabulary(
    "a an the my your our his her their and or but because if to of for from with at in on is are was as "
    "than that which whose i we they the's no wait sorry actually um uh er like about into by so "
    "can could would times plus minus divided over"
)
_BEFORE_VERBS = vocabulary("i you we they and or but then so")
#: who says only these has said all of it
_STOPS = vocabulary("stop wait please quiet enough now")
NEUTRAL = 0.15
#: nothing that the matcher could answer has been said so far
UNANSWERED = 0.4
COMPLETE = 0.05
FITS = 0.62


def could_continue(text: str, catalogue: Catalogue) -> float:
    """Probability, 0 to 1, that `text` will go on, judged by its last word and by the examples of the tools.

    About 0.9 if a word or a slot of the matching example is still to come, 0.05 if the example is complete, 0.15 if it
    ends in a thing that was named or nothing is known, 0.2 if it ends in a clause ("note that ..."): whether a name or a
    clause goes on is for the detector of ends of turns to say, which reads the words themselves.
    """
    said = tokenize(text)
    if not said:
        return NEUTRAL
    last, before = said[-1].text, said[-2].text if len(said) > 1 else ""
    if said[0].text == "stop" and all(word.text in _STOPS for word in said):
        return COMPLETE
    # "Could you please" waits for its verb; "Mark it, please." asks for nothing more.
    hanging = bool(before) and (last in _HANGING or (last == "please" and before in _BEFORE_VERBS))
    trailing_comma = bool(re.search(r"(?:,|…|\.\.\.|-)\s*$", text))
    words = core(said)
    judged = _by_examples(catalogue, text)
    if hanging and judged == COMPLETE and not trailing_comma and _ends_an_example(catalogue, said[-1].text):
        return judged  # "who is it for"
    if hanging or trailing_comma or without_fillers(said)[-1:] != said[-1:]:
        return max(judged, 0.85)
    if words and words[-1].text in TENS and judged < 0.4:
        return 0.4  # "twenty" may become "twenty one"
    return judged


def _by_examples(catalogue: Catalogue, text: str) -> float:
    words = core(tokenize(text))
    best_score, judged = 0.0, NEUTRAL
    for entry in catalogue.entries:
        found = align(entry.pattern, words, prefix=True)
        if found.literal < 0.5 or found.score < FITS:
            continue
        rest = entry.pattern.parts[found.end :]
        last_slot = entry.pattern.parts[found.end - 1] if found.end else None
        if any(isinstance(part, str) for part in rest) or rest:
            verdict = 0.9
        elif isinstance(last_slot, Slot) and last_slot.name not in found.slots:
            verdict = 0.85
        elif isinstance(last_slot, Slot):
            schema = entry.tool.parameters.get("properties", {}).get(last_slot.name, {})
            free = schema.get("type") == "string" and not {"enum", "format"} & set(schema)
            clause = found.end > 1 and entry.pattern.parts[found.end - 2] == "that"
            verdict = (0.2 if clause else 0.15) if free else 0.12
        else:
            verdict = COMPLETE
        if found.score > best_score + 1e-9 or (found.score > best_score - 0.05 and verdict < judged):
            best_score, judged = max(found.score, best_score), verdict
    return judged


def _ends_an_example(catalogue: Catalogue, word: str) -> bool:
    return any(entry.pattern.parts[-1:] == (word,) for entry in catalogue.entries)
