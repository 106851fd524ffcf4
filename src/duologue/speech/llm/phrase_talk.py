"""Small talk that the phrase matcher knows: what people say around the tools."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

from duologue.speech.llm.phrase_align import LIKE, align, pattern
from duologue.speech.llm.phrase_text import Token, likeness, weight

type Talk = Literal[
    "hello", "how_are_you", "thanks", "goodbye", "abilities", "repeat", "never_mind", "wait", "who", "presence",
    "yes", "no", "sorry",
]  # fmt: skip

_PHRASES: dict[Talk, list[str]] = {
    "hello": ["hello", "hi", "hey there", "hi there", "good morning", "good afternoon", "good evening", "hello there"],
    "how_are_you": ["how are you", "how are you doing", "how is it going", "how do you do", "are you well"],
    "thanks": ["thanks", "thank you", "thank you very much", "thanks a lot", "great thanks", "cheers",
               "perfect thank you", "thanks that is great"],
    "goodbye": ["goodbye", "bye", "bye bye", "see you", "see you later", "talk to you later", "have a nice day",
                "that is all", "that is it", "that will be all", "hang up", "end the call", "no that is all",
                "thank you goodbye", "thanks bye"],
    "abilities": ["what can you do", "what can i say", "what can i ask you", "help", "help me", "what do you do",
                  "what are you able to do", "how can you help me", "what are my options"],
    "repeat": ["repeat that", "say that again", "can you repeat that", "what did you say", "pardon", "come again",
               "i did not hear that", "i did not catch that", "one more time", "again", "sorry what", "say again"],
    "never_mind": ["never mind", "cancel", "cancel that", "forget it", "forget that", "stop", "leave it", "stop it",
                   "do not bother"],
    "wait": ["wait", "hold on", "one moment", "just a second", "one second", "hang on", "give me a second",
             "wait a minute"],
    "who": ["who are you", "what are you", "are you a robot", "are you a human", "are you real", "what is your name",
            "are you an a i", "are you a language model"],
    "presence": ["are you there", "are you still there", "can you hear me", "do you hear me", "is anybody there"],
    "yes": ["yes", "yeah", "yes please", "sure", "correct", "that is right", "right", "okay", "yep", "exactly", "do it",
            "that is correct", "go ahead"],
    "no": ["no", "nope", "no thanks", "no thank you", "not now", "no do not", "nothing", "nothing else", "not that"],
    "sorry": ["sorry", "my bad", "excuse me", "my mistake"],
}  # fmt: skip
_PATTERNS = [
    (talk, wanted, [word for word in wanted.words if weight(word) >= 1])
    for talk, phrases in _PHRASES.items()
    for wanted in map(pattern, phrases)
]

ANSWERS: dict[Talk, str] = {
    "hello": "Hello! What can I do for you?",
    "how_are_you": "I'm doing well, thank you. What can I do for you?",
    "thanks": "You're welcome.",
    "goodbye": "Goodbye.",
    "never_mind": "All right.",
    "wait": "Take your time.",
    "presence": "Yes, I can hear you.",
    "yes": "Okay.",
    "no": "All right.",
    "sorry": "No problem.",
}


class Chat(NamedTuple):
    """What kind of small talk some words are, and how well they fit it."""

    talk: Talk
    score: float


def small_talk(words: Sequence[Token], threshold: float) -> Chat | None:
    """The small talk that `words` are; None below `threshold`."""
    best: Chat | None = None
    texts = [word.text for word in words]
    heard = [*texts, *(one + other for one, other in itertools.pairwise(texts))]
    for talk, wanted, content in _PATTERNS:
        if abs(len(words) - len(wanted.parts)) > 3:
            continue
        if not all(any(likeness(word, text) >= LIKE for text in heard) for word in content):
            continue
        score = align(wanted, words).score
        if score >= threshold and (best is None or score > best.score):
            best = Chat(talk, score)
    return best
