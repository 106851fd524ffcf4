"""Word error rate, held to another implementation of the distance."""

from __future__ import annotations

import jiwer
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from duologue.testing.words import WordErrors, normalise, number_words, wer, word_errors


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What's my next stop?", "whats my next stop"),
        ("12 Harbour Street, Oslo", "twelve harbor street oslo"),
        ("It’s twenty-one.", "its twenty one"),
        ("1,234 and 105", "one thousand two hundred thirty four and one hundred five"),
        ("one hundred and five", "one hundred five"),
        ("salt and pepper, a hundred and more", "salt and pepper a hundred and more"),
        ("the 3rd, 20th, 21st and 12th", "the third twentieth twenty first and twelfth"),
        ("3.14", "three point one four"),
        ("at 10:30, 9:05 and 7:00", "at ten thirty nine oh five and seven oclock"),
        ("$5 or $1.50", "five dollars or one dollar fifty cents"),
        ("90%", "ninety percent"),
        ("007", "zero zero seven"),
        ("OK, Mr. Smith", "okay mister smith"),
        ("Uh-huh", "uh huh"),
        ("Grünerløkka", "grünerløkka"),
        ("the centre of the harbour", "the center of the harbor"),
        ("", ""),
        ("— … !", ""),
    ],
)
def test_what_sounds_alike_is_alike(text: str, words: str) -> None:
    assert normalise(text) == words.split()


def test_word_errors_by_kind() -> None:
    assert word_errors("mark the last one complete", "mark a last one is complete") == WordErrors(1, 0, 1, 5)
    assert word_errors("a b c", "") == WordErrors(0, 3, 0, 3)
    assert wer("a b c d", "a x c") == 0.5
    assert wer("Twelve!", "12") == 0.0
    assert wer("", "") == 0.0
    assert wer("", "made up") == 2.0


WORDS = st.lists(st.sampled_from(["alpha", "bravo", "charlie", "delta"]), max_size=12)


@given(WORDS.filter(bool), WORDS)
def test_the_rate_is_what_jiwer_says(said: list[str], recognised: list[str]) -> None:
    theirs = jiwer.process_words(" ".join(said), " ".join(recognised))
    ours = word_errors(" ".join(said), " ".join(recognised))
    assert ours.rate == pytest.approx(theirs.wer)
    assert ours.words == len(said)
    assert ours.deletions - ours.insertions == len(said) - len(recognised)


@given(st.text())
@example("$\x1f0")  # what separates is any white space
def test_any_text_can_be_normalised_and_twice_is_once(text: str) -> None:
    words = normalise(text)
    assert normalise(" ".join(words)) == words
    assert wer(text, text) == 0.0


@given(st.integers(0, 10**16), st.integers(0, 10**16))
def test_different_numbers_are_different_words(one: int, other: int) -> None:
    assert (number_words(one) == number_words(other)) == (one == other)


def test_numbers() -> None:
    assert number_words(0) == "zero"
    assert number_words(40) == "forty"
    assert number_words(2_000_017) == "two million seventeen"
    assert number_words(10**12 + 100) == "one trillion one hundred"
