"""End of turn from words: right on most of what people say, and right on what matters most."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.speech.base import EndOfTurn
from duologue.speech.endpoint import TextEndOfTurn
from tests.speech.turn_phrases import COMPLETE, INCOMPLETE

DETECTOR = TextEndOfTurn()


def accuracy(phrases: list[tuple[str, str | None]], complete: bool) -> float:
    return sum((DETECTOR.judge(*phrase) > 0.5) == complete for phrase in phrases) / len(phrases)


def test_the_phrases_are_enough_and_different() -> None:
    assert len({text for text, _ in COMPLETE}) >= 150
    assert len({text for text, _ in INCOMPLETE}) >= 150
    assert not set(COMPLETE) & set(INCOMPLETE)


@pytest.mark.parametrize(("half", "reach"), [(0, 0.93), (1, 0.89)], ids=["tuned", "held-out"])
def test_most_phrases_are_judged_right(half: int, reach: float) -> None:
    assert accuracy(COMPLETE[half::2], True) >= reach
    assert accuracy(INCOMPLETE[half::2], False) >= reach


@pytest.mark.parametrize(
    ("text", "question", "least", "most"),
    [
        ("Yes.", "Shall I?", 0.85, 1.0),
        ("What's my next stop?", None, 0.85, 1.0),
        ("Mark the", None, 0.0, 0.1),
        ("Mark the.", None, 0.0, 0.1),
        ("I would like to...", None, 0.0, 0.1),
        ("Four five one", "What is your phone number?", 0.0, 0.4),
        ("Four five one seven three nine two", "What is your phone number?", 0.6, 1.0),
        ("The last one. No,", None, 0.0, 0.4),
        ("um", None, 0.0, 0.1),
        ("Stop, stop, please.", None, 0.85, 1.0),
        ("Please stop.", None, 0.85, 1.0),
        ("Could you please", None, 0.0, 0.5),
        ("", None, 0.5, 0.5),
        ("...", None, 0.0, 0.5),
        ("I can't", None, 0.0, 0.5),
        ("I can't", "Can you come on Friday?", 0.7, 1.0),
    ],
)
def test_what_matters_most(text: str, question: str | None, least: float, most: float) -> None:
    assert least <= DETECTOR.judge(text, question) <= most


@pytest.mark.parametrize(
    ("text", "probability"),
    [
        ("Hvor er jeg?", 0.8),
        ("Jeg vil gjerne ha,", 0.2),
        ("Det er bra.", 0.65),
        ("今日は晴れです。", 0.65),
        ("og", 0.5),
    ],
)
def test_other_languages_are_judged_by_their_punctuation(text: str, probability: float) -> None:
    assert TextEndOfTurn("no").judge(text) == probability


@given(st.text(max_size=80), st.none() | st.text(max_size=40))
def test_it_is_a_probability_for_any_text(text: str, question: str | None) -> None:
    for language in ("en", "ja"):
        probability = TextEndOfTurn(language).judge(text, question)
        assert 0.0 <= probability <= 1.0
        assert math.isfinite(probability)


def test_silence_and_sound_do_not_count() -> None:
    detector: EndOfTurn = DETECTOR

    async def ask(silence: float, audio: bytes | None) -> float:
        return await detector.probability("Mark the last one", silence=silence, audio=audio)

    assert asyncio.run(ask(0.1, None)) == asyncio.run(ask(3.0, bytes(32_000))) == DETECTOR.judge("Mark the last one")
