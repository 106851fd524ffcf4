"""The script of a response: text against samples, to the word."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from duologue.engine.script import Script, Word

RATE = 8000
words = st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=9), max_size=8)


@st.composite
def scripts(draw: st.DrawFn, *, finished: bool = False) -> Script:
    """Pieces with audio in chunks, some with word times, the last perhaps unfinished, some text without audio."""
    script = Script(RATE)
    for _ in range(draw(st.integers(0, 4))):
        texts = draw(words)
        script.say(" ".join(texts) + draw(st.sampled_from(["", " ", ". "])))
        timed = draw(st.booleans())
        for _ in range(draw(st.integers(0, 3))):
            samples = draw(st.sampled_from([0, 1, 7, 500, 5000, 20_000]))
            spoken: tuple[Word, ...] = ()
            if timed and texts and samples >= len(texts):
                step = samples // len(texts)
                spoken = tuple(Word(text, index * step, (index + 1) * step) for index, text in enumerate(texts))
                timed = False
            script.audio(samples, spoken)
    if finished or draw(st.booleans()):
        script.finish()
    return script


def boundaries(text: str) -> set[str]:
    """Every beginning of a text that ends where a word (with the space after it) does."""
    out, at = {""}, 0
    while at < len(text):
        while at < len(text) and not text[at].isspace():
            at += 1
        while at < len(text) and text[at].isspace():
            at += 1
        out.add(text[:at])
    return out


@given(scripts(), st.data())
def test_what_is_heard_is_whole_words_from_the_beginning_and_only_grows(script: Script, data: st.DataObject) -> None:
    samples = sorted(data.draw(st.lists(st.integers(0, script.samples + 100), min_size=1, max_size=20)))
    before = ""
    pieces = boundaries(script.text)
    for at in samples:
        heard = script.heard(at)
        assert script.text.startswith(heard)
        assert heard.startswith(before)
        before = heard
        # a boundary of the text, or of a piece: pieces may end in mid-word, as a model cuts them
        assert heard in pieces or any(heard.endswith(piece.text) for piece in script.pieces if piece.text)


@given(scripts(finished=True))
def test_nothing_played_is_nothing_heard_and_all_played_is_all_that_has_audio(script: Script) -> None:
    assert script.heard(0) == ""
    with_audio = script.text
    for piece in reversed(script.pieces):
        if piece.start < script.samples:
            break
        with_audio = with_audio.removesuffix(piece.text)
    assert script.heard(script.samples) == with_audio


@given(scripts(), st.data())
def test_going_on_begins_at_a_word_and_loses_none(script: Script, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, script.samples))
    start = script.word_start(at)
    assert 0 <= start <= at
    assert script.word_start(start) == start
    assume(all(piece.end is None or piece.end - piece.start > 20 * len(piece.text) for piece in script.pieces))
    # what was heard of the word that is said again is no more than that word
    assert len(script.heard(at)) - len(script.heard(start)) <= max(map(len, script.text.split(" ")), default=0) + 2


def test_word_times_are_taken_where_there_are_any() -> None:
    script = Script(RATE)
    script.say("next stop Oslo")
    script.audio(8000, (Word("next", 0, 1000), Word("stop", 6000, 7000), Word("Oslo", 7000, 8000)))
    assert script.heard(5000) == "next "
    assert script.heard(6501) == "next stop "
    assert script.word_start(6900) == 6000
    assert script.word_start(5999) == 0


def test_word_times_count_from_the_chunk_that_carries_them() -> None:
    script = Script(RATE)
    script.say("one ")
    script.audio(1000)
    script.say("two three")
    script.audio(1000, (Word("two", 0, 800),))
    script.audio(1000, (Word("three", 100, 900),))
    assert script.heard(1500) == "one two "
    assert script.word_start(2500) == 2100


def test_without_word_times_a_clause_is_spread_over_its_audio() -> None:
    script = Script(RATE)
    script.say("aaaa bbbb cccc dddd")
    script.audio(19_000)
    script.finish()
    assert [script.heard(at) for at in (1000, 3000, 8000, 13_000, 19_000)] == [
        "",
        "aaaa ",
        "aaaa bbbb ",
        "aaaa bbbb cccc ",
        "aaaa bbbb cccc dddd",
    ]


def test_at_the_end_there_is_nothing_to_say_again() -> None:
    script = Script(RATE)
    script.say("all of it")
    script.audio(4000)
    script.finish()
    assert script.word_start(4000) == 4000
    assert script.word_start(3999) < 3999


@pytest.mark.parametrize("at", [0, 1, 2000])
def test_text_without_audio_is_not_spoken(at: int) -> None:
    script = Script(RATE)
    script.say("first")
    script.audio(2000)
    script.say("never made")
    script.finish()
    assert script.heard(at) == ("" if at < 1000 else "first")
