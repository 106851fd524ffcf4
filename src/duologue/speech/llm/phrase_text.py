"""What recognisers write, made comparable: tokens, fillers, polite beginnings, how alike two words sound.

English. Punctuation is not relied on, but where it is there it marks pauses.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple


def vocabulary(text: str) -> frozenset[str]:
    """The words of a list written as one text."""
    return frozenset(text.split())


#: words that carry little; a content word weighs 1
_LIGHT = vocabulary(
    "a an the my me your our his her their its to is are was be am it of for i do does did you can could "
    "would will should as that this these those in on at and or with by from so there have has had we us "
    "he she they not"
)
_QUESTION = vocabulary("what where when who how why which tell give show get")
LIGHT_WEIGHT = 0.3
QUESTION_WEIGHT = 0.5

FILLERS = vocabulary("um uh uhm erm er ah hm hmm mm mhm uhhuh mmhmm eh huh oh")
BACKCHANNELS = FILLERS | vocabulary("okay ok yeah yes yep right sure aha great good fine cool gotcha alright")

_CONTRACTIONS = {
    "what's": "what is", "whats": "what is", "where's": "where is", "wheres": "where is", "who's": "who is",
    "when's": "when is", "how's": "how is", "that's": "that is", "thats": "that is", "it's": "it is",
    "there's": "there is", "here's": "here is", "let's": "let us", "lets": "let us", "i'm": "i am", "im": "i am",
    "i'd": "i would", "i'll": "i will", "i've": "i have", "you're": "you are", "we're": "we are", "they're": "they are",
    "don't": "do not", "dont": "do not", "can't": "can not", "cannot": "can not", "won't": "will not",
    "isn't": "is not", "didn't": "did not", "doesn't": "does not", "gonna": "going to", "wanna": "want to",
    "gimme": "give me", "lemme": "let me", "ok": "okay", "o.k": "okay", "bye-bye": "bye bye", "good-bye": "goodbye",
}  # fmt: skip

_LEADS = [
    words.split()
    for words in (
        "can you", "could you", "would you", "will you", "can i", "could i", "may i", "i want you to", "i want to",
        "i would like you to", "i would like to", "i need you to", "i need to", "i have to", "go ahead and", "let us",
        "please", "just", "hey", "hi there", "okay", "so", "well", "right", "alright", "all right", "now", "then",
        "and", "but", "yeah", "yes", "also", "actually", "listen", "um", "do me a favor and", "kindly",
    )
]  # fmt: skip
_TAILS = [
    words.split()
    for words in (
        "please", "thanks", "thank you", "for me", "right now", "now", "okay", "will you", "if you can", "would you",
        "then", "again", "real quick", "quickly", "you know",
    )
]  # fmt: skip

_HOMOPHONES = [
    vocabulary(words)
    for words in (
        "route root rout", "stop stopp shop", "to two too", "for four fore", "right write rite", "no know",
        "by buy bye",
        "where wear ware", "their there", "here hear", "next necks", "our hour are", "one won", "ate eight",
        "mail male", "wait weight", "way weigh", "note notes", "mark marc marked", "week weak", "brake break",
        "son sun", "whole hole", "four floor", "add ad at", "call coal", "dispatch despatch", "is his", "log lock",
        "deliver delivery", "new knew", "read red", "see sea", "be bee", "meet meat", "road rode", "mine mind",
        "address a dress", "order border", "package packet", "its it", "as is us", "stop stops", "in an and",
    )
]  # fmt: skip


_TITLES = vocabulary("mr. mrs. ms. dr. st. prof.")


_HOMOPHONE_GROUPS: dict[str, frozenset[int]] = {
    word: frozenset(index for index, group in enumerate(_HOMOPHONES) if word in group)
    for word in frozenset().union(*_HOMOPHONES)
}
_NONE: frozenset[int] = frozenset()


class Token(NamedTuple):
    """A word: as compared (`text`, lower case), as written (`surface`), and whether a pause is written after it."""

    text: str
    surface: str
    pause: bool = False


def tokenize(text: str) -> list[Token]:
    """Words of `text`, contractions taken apart, fillers kept. A contraction's surface stays with its first word."""
    tokens: list[Token] = []
    text = re.sub(r"\b(?:uh|mm|mhm|hm)[- ](?:huh|hmm|hm|mm)\b", "uhhuh", text.replace("’", "'"), flags=re.I)
    for written in re.findall(r"\S+", re.sub(r"\s[-–—]+\s|—|…|\.\.\.", ", ", text)):
        surface = written.strip("\"'“”‘<>*_")
        title = surface.lower() in _TITLES
        pause = not title and bool(re.search(r"[,.;:!?]+$", surface))
        surface = surface if title else surface.rstrip(",.;:!?").lstrip(",.;:!?¿¡\"'")
        if not surface:
            if tokens and pause:
                tokens[-1] = tokens[-1]._replace(pause=True)
            continue
        plain = surface.lower()
        if not re.search(r"\d", plain):
            plain = plain.strip("()[]{}")
        expanded = _CONTRACTIONS.get(plain) or _CONTRACTIONS.get(plain.replace("'", ""))
        if expanded is None and plain.endswith("'s"):
            parts = [(plain[:-2], surface)]  # a possessive, or "is", which weighs little
        elif expanded is not None:
            words = expanded.split()
            parts = [(words[0], surface), *((word, "") for word in words[1:])]
        elif "-" in plain and not re.search(r"\d", plain):
            pieces = [piece for piece in surface.split("-") if piece]
            parts = [(piece.lower(), piece) for piece in pieces]
        else:
            parts = [(plain, surface)]
        for index, (word, shown) in enumerate(parts):
            word = re.sub(r"[^\w.,'/+*%^()=-]", "", word)
            if word:
                tokens.append(Token(word, shown, pause and index == len(parts) - 1))
    return tokens


def surface(tokens: Sequence[Token]) -> str:
    """The words as they were written, with the commas between them."""
    parts = [token.surface + ("," if token.pause and token is not tokens[-1] else "") for token in tokens]
    return " ".join(part for part in parts if part).strip(" ,")


def without_fillers(tokens: Sequence[Token]) -> list[Token]:
    """The words without "um" and the like; a pause written after one moves to the word before it."""
    kept: list[Token] = []
    for token in tokens:
        if token.text in FILLERS:
            if kept:
                kept[-1] = kept[-1]._replace(pause=True)
        else:
            kept.append(token)
    return kept


def core(tokens: Sequence[Token]) -> list[Token]:
    """The words without fillers, without polite beginnings and endings, and without stutters; never nothing of
    something.
    """
    rest = _without_stutter(without_fillers(tokens))
    changed = True
    while changed:
        changed = False
        for lead in _LEADS:
            if len(rest) > len(lead) and [token.text for token in rest[: len(lead)]] == lead:
                rest, changed = rest[len(lead) :], True
        for tail in _TAILS:
            if len(rest) > len(tail) and [token.text for token in rest[-len(tail) :]] == tail:
                rest, changed = rest[: -len(tail)], True
    return rest


def _without_stutter(tokens: list[Token]) -> list[Token]:
    """Drop words said twice in a row ("the the"), but not digits."""
    kept: list[Token] = []
    for token in tokens:
        if kept and kept[-1].text == token.text and token.text in _LIGHT:
            continue
        kept.append(token)
    return kept


def weight(word: str) -> float:
    """How much a word counts: 1 for content, less for the words that any sentence has."""
    if word in _LIGHT:
        return LIGHT_WEIGHT
    return QUESTION_WEIGHT if word in _QUESTION else 1.0


@functools.lru_cache(maxsize=65536)
def likeness(one: str, other: str) -> float:
    """How alike two words are in writing or sound, 0 to 1; below 0.6 they are not taken for each other."""
    if one == other:
        return 1.0
    if _HOMOPHONE_GROUPS.get(one, _NONE) & _HOMOPHONE_GROUPS.get(other, _NONE):
        return 0.9
    if _stem(one) == _stem(other):
        return 0.95
    shorter, longer = sorted((len(one), len(other)))
    if shorter < 3 or one.isdecimal() or other.isdecimal():
        return 0.0
    key = _sound(one)
    alike = 0.8 if len(key) >= 2 and key == _sound(other) else 0.0
    if shorter < longer * 0.6:  # more than 0.4 of the longer one is missing already
        return alike
    written = 1 - _distance(one, other) / longer
    if alike:
        return max(alike, written)
    return written if one[0] == other[0] or longer > 5 else written * 0.85


@functools.lru_cache(maxsize=8192)
def _stem(word: str) -> str:
    for ending, replacement in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return (word[: -len(ending)] + replacement).removesuffix("e")
    return word.removesuffix("e") if len(word) > 3 else word


def _distance(one: str, other: str) -> int:
    """Edits (insert, delete, replace, swap neighbours) between two words."""
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    before: list[int] = []
    previous = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        row = [i]
        for j, b in enumerate(other, start=1):
            best = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        before, previous = previous, row
    return previous[-1]


_SOUNDS = [
    (re.compile(pattern), key)
    for pattern, key in (
        (r"^kn|^gn", "n"), (r"^wr", "r"), (r"^wh", "w"), (r"ph", "f"), (r"gh(?=t|$)", ""), (r"tch", "x"),
        (r"[sc]h", "x"), (r"c(?=[eiy])", "s"), (r"ck|[cq]", "k"), (r"x", "x"), (r"z", "s"), (r"v", "f"),
        (r"d(?=$)", "t"),
        (r"g(?=[eiy])", "j"), (r"(?<=.)[aeiouyhw]+", ""), (r"(.)\1+", r"\1"),
    )
]  # fmt: skip


@functools.lru_cache(maxsize=8192)
def _sound(word: str) -> str:
    """A rough key of how an English word sounds: its first letter and its consonants."""
    for pattern, key in _SOUNDS:
        word = pattern.sub(key, word)
    return word
