"""End-of-turn detectors: is the speaker done, or thinking?

A detector gives the probability from what was said. How long to wait for which probability is not its business but
that of the endpointing policy, so silence counts for nothing in :class:`TextEndOfTurn`.
"""

from __future__ import annotations

import math
import re

from duologue.speech.end_words import (
    ANSWERS,
    CLOSED_AFTER_PRONOUN,
    COMMANDS,
    CORRECTIONS,
    DETERMINERS,
    FAREWELLS,
    FILLER_PHRASES,
    FILLERS,
    FRAGMENT_STARTS,
    FREQUENCIES,
    GIVING,
    HANDING,
    INVERTING,
    MODIFIERS,
    NEEDS_OBJECT,
    NUMBER_OPENERS,
    NUMBER_WORDS,
    OBJECTS,
    OPEN_ENDS,
    PARTICLE_VERBS,
    PARTICLES,
    POSSESSIVES,
    QUESTION_WORDS,
    STRANDED,
    SUBJECTS,
    SUBORDINATORS,
    TELLING,
    VERB_OPENERS,
    WH_ENDS,
)

_WORD = re.compile(r"[^\W_]+(?:['’.\-:,][^\W_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?…。！？])\s+")
_COMMA = re.compile(r"[,;:]\s+")
_DIGIT_QUESTION = re.compile(r"\b(number|code|pin|digits|phone|postcode|zip|reference|id)\b", re.IGNORECASE)
_DIGITS_OF_A_NUMBER = 6


class TextEndOfTurn:
    """Judges by the words alone: what ends in a conjunction, a preposition, an article or "um" is not done.

    For English it looks at the last words, at the form of the last sentence and at what was asked; for other
    languages at the punctuation only. It costs some microseconds and runs inline.

    Args:
        language: BCP 47 tag of what the user speaks.
    """

    def __init__(self, language: str = "en") -> None:
        self._english = language.split("-")[0].lower() == "en"

    async def probability(
        self, text: str, *, silence: float, question: str | None = None, audio: bytes | None = None
    ) -> float:
        """See :meth:`duologue.speech.base.EndOfTurn.probability`; `silence` and `audio` are not used."""
        return self.judge(text, question)

    def judge(self, text: str, question: str | None = None) -> float:
        """The probability that a turn with this `text` is over, after the agent asked `question` (or nothing)."""
        text = text.strip()
        if not text:
            return 0.5
        if not self._english:
            return _by_punctuation(text)
        return 1.0 / (1.0 + math.exp(-_english(text, question)))


def _by_punctuation(text: str) -> float:
    if text.endswith(("...", "…", ",", "、", "，", "-", "–", "—", ":", ";")):
        return 0.2
    return 0.8 if text.endswith(("?", "？")) else 0.65 if text.endswith((".", "!", "。", "！")) else 0.5


def _words_of(text: str) -> list[str]:
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def _english(text: str, question: str | None) -> float:
    """Log odds that the turn is over."""
    sentence = _SENTENCE.split(text)[-1]
    words = _words_of(sentence)
    if not words:
        return 0.0
    odds = _ending(words, text, question is not None)
    if odds is None:
        odds = _form(words, text, question)
    if text.endswith(("...", "…", "-", "–", "—")):
        odds -= 2.0
    elif text.endswith((",", ":", ";")):
        # Recognisers put a comma where the voice stays up.
        odds -= 1.6
    elif text.endswith("?") and odds > 0:
        odds += 0.5
    return odds


def _ending(words: list[str], text: str, asked: bool) -> float | None:
    """Log odds from the last words where they decide; None where they do not."""
    last = words[-1]
    before = words[-2] if len(words) > 1 else ""
    whole = " ".join(words)
    before_it = len(words) > 1 or _SENTENCE.search(text) is not None
    if last in CORRECTIONS and before_it and text.endswith(","):
        return -1.4
    # "No, the one before." says what its last part says.
    part = " ".join(_words_of(_COMMA.split(text.rstrip(",;: "))[-1]))
    if last == "please" and before in SUBJECTS | {"you"}:
        return -1.9
    # Said politely, or more than once, a command is no less one: "Stop, stop, please."
    plain = " ".join(dict.fromkeys(word for word in words if word != "please"))
    for said in (whole, part, plain):
        if said in ANSWERS:
            # "I can't" answers a question; unasked it is a beginning.
            return 2.6 if asked or words[0] not in SUBJECTS else -0.8
        if said in FAREWELLS or said in COMMANDS:
            return 2.6
    if any(whole == phrase or whole.endswith(" " + phrase) for phrase in FILLER_PHRASES) or last in FILLERS:
        return -2.6
    if last in CORRECTIONS and (len(words) > 2 or _SENTENCE.search(text)):
        return -1.4
    if any(whole.endswith(" " + farewell) for farewell in FAREWELLS):
        return 2.4
    if last in PARTICLES:
        # "turn it on" is done, "put it on" may be; "I'm waiting on", "the box in" are not.
        return 0.9 if any(word in PARTICLE_VERBS for word in words[-4:-1]) else -1.7
    if last in WH_ENDS:
        # A question of one word, or at the end of "tell me why".
        return 1.6 if len(words) == 1 or before in {"me", "know", "that", "for", "to", "say"} else -1.5
    if last in CLOSED_AFTER_PRONOUN and len(words) >= 2 and before in SUBJECTS | {"you", "there", "that", "this", "it"}:
        # "yes I do", "I think it is" against "the next one is", "I have" of "I have a parcel".
        if words[0] in QUESTION_WORDS and len(words) > 3:
            return 1.9
        return 1.3 if words[0] in {"yes", "yeah", "no", "nope", "sure", "of", "i", "as"} and len(words) > 2 else -1.2
    if words[0] in {"who", "who's", "whose"} and last in STRANDED and len(words) > 2:
        return 0.9  # "who is it for"
    if last in OPEN_ENDS:
        return -2.8
    if last in SUBJECTS:
        return -2.2
    if last in POSSESSIVES:
        return -2.5
    if last in NEEDS_OBJECT:
        asked = words[0] in QUESTION_WORDS
        return 0.9 if asked and len(words) > 3 else -1.9
    if last in MODIFIERS and before in DETERMINERS | POSSESSIVES:
        return -2.0
    if last in OBJECTS and (before in HANDING or (len(words) <= 2 and before in GIVING)):
        return -1.2
    if last in NUMBER_OPENERS and before not in DETERMINERS | POSSESSIVES and words[0] not in QUESTION_WORDS:
        # "in room" waits for its number; "in my room" and "what's your room number" do not.
        return -2.0
    return None


def _form(words: list[str], text: str, question: str | None) -> float:
    """Log odds from the form of the sentence, where its end is open to nothing."""
    first, count = words[0], len(words)
    digits = sum(len(word) if word.isdigit() else word in NUMBER_WORDS for word in words)
    if question and _DIGIT_QUESTION.search(question) and 0 < digits < _DIGITS_OF_A_NUMBER and count <= digits + 2:
        # Numbers are read out in groups with pauses between them.
        return -0.8 if digits > 1 else -1.2
    if first in INVERTING and count <= 3 and words[1:2] and words[1] in DETERMINERS | POSSESSIVES:
        return -0.9
    if first in QUESTION_WORDS and count > 2 and words[1] in INVERTING:
        # "How do you" waits for its verb; "how are you" does not.
        return -1.5 if count == 3 and words[1] in VERB_OPENERS and words[2] in OBJECTS else 1.9
    if first in SUBORDINATORS and "," not in text and count < 9:
        # "if I get there late" announces a main clause, unless it answers a question.
        return 0.2 if question else -1.3
    if words == ["how", "many"]:
        return -0.3  # it may be all, but more often what is counted follows
    if first in QUESTION_WORDS or (first in INVERTING and count > 2):
        return 1.9 if count > 2 else 0.3
    if first in FRAGMENT_STARTS and count < 3:
        return -0.6
    if question:
        return 1.9
    if first in DETERMINERS | POSSESSIVES and count < 5 and not any(_finite(word) for word in words):
        # "The washing machine" has no verb yet.
        return -0.6
    if count == 1 or (first in FREQUENCIES and count < 4):
        return 0.1  # "Ever tried." has no subject, and so does what follows it
    if first in TELLING:
        # A statement asks for nothing: whoever tells or reads something aloud has more of them.
        return 0.9
    return 1.5 if count > 2 else 0.4


def _finite(word: str) -> bool:
    """Whether a word may be the verb of a sentence about something: "is", "needs", "closed", "it's"."""
    return word in INVERTING or "'" in word or word.endswith(("ed", "s"))
