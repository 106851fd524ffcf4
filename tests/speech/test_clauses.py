"""Clauses: what is cut, what is not, and that nothing depends on how the text arrived."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ConfigurationError
from duologue.speech.clauses import ClauseChunker


def chunks(text: str, **options: int) -> list[str]:
    chunker = ClauseChunker(**options)
    return chunker.feed(text) + chunker.flush()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hi, ready when you are.", ["Hi, ready when you are."]),
        ("Yes. It is done.", ["Yes.", "It is done."]),
        (
            "Your next stop is 12 Harbour Street in Oslo, and the gate code is 3.5.",
            ["Your next stop is 12 Harbour Street in", "Oslo, and the gate code is 3.5."],
        ),
        ("Call Dr. Smith at 4:30 p.m. please. Thanks!", ["Call Dr. Smith at 4:30 p.m. please.", "Thanks!"]),
        ("J. S. Bach wrote it. So did I. Really?", ["J. S. Bach wrote it.", "So did I.", "Really?"]),
        ("See www.example.com for 1,250 more. Ok.", ["See www.example.com for 1,250 more.", "Ok."]),
        ('She said "stop." Then left.', ['She said "stop."', "Then left."]),
        ("First line\nSecond line", ["First line", "Second line"]),
        ("今日は晴れです。明日は雨でしょう。", ["今日は晴れです。", "明日は雨でしょう。"]),
        ("Wait... what? No!", ["Wait...", "what?", "No!"]),
        ("One moment please - then – after a dash", ["One moment please - then –", "after a dash"]),
        ("", []),
        ("  \n ", []),
        ("x" * 90, ["x" * 90]),
    ],
)
def test_cuts(text: str, expected: list[str]) -> None:
    assert chunks(text) == expected


def test_later_clauses_are_whole_sentences_unless_they_are_long() -> None:
    text = (
        "Sure. The parcel for Anna, who lives on the third floor, is the one that weighs four kilograms, I think. Bye."
    )
    assert chunks(text) == [
        "Sure.",
        "The parcel for Anna, who lives on the third floor, is the one that weighs four kilograms,",
        "I think.",
        "Bye.",
    ]
    long = "Sure. " + "word " * 100
    assert all(len(clause) <= 200 for clause in chunks(long))


def test_a_clause_comes_as_soon_as_it_is_certain() -> None:
    chunker = ClauseChunker()
    assert chunker.feed("That is 3.") == []  # of 3.5, perhaps
    assert chunker.feed("5 km. ") == ["That is 3.5 km."]
    assert chunker.feed("Turn left") == []
    assert chunker.flush() == ["Turn left"]
    assert chunker.feed("A new answer, ") == ["A new answer,"]  # flush began anew: short first clause


def test_the_first_clause_is_short() -> None:
    text = "The quick brown fox jumps over the lazy dog and then it runs away from the hounds that follow it"
    first = chunks(text)[0]
    assert first == "The quick brown fox jumps over the lazy"
    assert len(first) <= 40


TEXTS = st.text(st.sampled_from("ab I.,!?…。、 \n3–\"'xyzé:;-今"), max_size=160)


@given(TEXTS, st.integers(1, 60), st.integers(1, 80))
def test_nothing_is_lost_and_arrival_does_not_matter(text: str, first_max: int, comfortable: int) -> None:
    options = {"first_max": first_max, "first_min": 5, "comfortable": comfortable, "maximum": 100}
    whole = chunks(text, **options)
    assert "".join("".join(whole).split()) == "".join(text.split())
    assert all(clause == clause.strip() != "" for clause in whole)
    chunker = ClauseChunker(**options)
    pieces = [clause for char in text for clause in chunker.feed(char)]
    assert pieces + chunker.flush() == whole


@given(TEXTS, st.integers(1, 60))
def test_limits_hold_wherever_there_is_a_place_to_cut(text: str, first_max: int) -> None:
    for n, clause in enumerate(chunks(text, first_max=first_max, maximum=100)):
        limit = first_max if n == 0 else 100
        assert len(clause) <= limit or not any(c.isspace() or c == "今" for c in clause[1:limit])


def test_options_are_checked() -> None:
    for options in ({"first_max": 0}, {"first_max": 50, "maximum": 40}, {"comfortable": 0}):
        with pytest.raises(ConfigurationError):
            ClauseChunker(**options)
