from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.tools.arithmetic import ArithmeticFailure, calculate, plain
from duologue.tools.numbers import leading_number, whole_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("2 ** 3 ** 2", "512"),
        ("-2 ** 2", "-4"),
        ("2 ** -1", "0.5"),
        ("10 / 4", "2.5"),
        ("10 // 4", "2"),
        ("-7 // 2", "-4"),
        ("10 % 3", "1"),
        ("-7 % 3", "2"),
        ("0.1 + 0.2", "0.3"),
        ("1,250.50 * 2", "2501"),
        ("1e3", "1000"),
        (".5 + .5", "1"),
        ("20% of 50", "10"),
        ("20 percent of fifty", "10"),
        ("50 + 10%", "55"),
        ("50 - 10 %", "45"),
        ("200 * 5%", "10"),
        ("3!", "6"),
        ("sqrt(16) + abs(-3)", "7"),
        ("square root of nine", "3"),
        ("max(1, 2, 3) - min(4, 5)", "-1"),
        ("round(2.5)", "3"),
        ("floor(2.7) + ceil(2.1)", "5"),
        ("sin(0) + cos(0)", "1"),
        ("sin(pi)", "0"),
        ("ln(e)", "1"),
        ("log(1000)", "3"),
        ("what is 12 times 7?", "84"),
        ("How much is twelve x 7", "84"),
        ("3 × 4 ÷ 2 − 1", "5"),
        ("two hundred and five plus three point five", "208.5"),
        ("five squared minus two cubed", "17"),
        ("two to the power of ten", "1024"),
        ("ten divided by four", "2.5"),
        ("seven modulo three", "1"),
        ("2 million / 4", "500000"),
        ("minus three plus five", "2"),
        ("10 / 3", "3.33333333333"),
        ("2 ** 100", "1.26765060023E times 10 to the 30"),
    ],
)
def test_results(text: str, value: str) -> None:
    assert plain(calculate(text)) == value.replace("E times", " times")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends too early"),
        ("1 +", "ends too early"),
        ("(1 + 2", "is missing"),
        ("1 2", "not expected"),
        ("import os", "no number"),
        ("__import__('os')", "no arithmetic"),
        ("x + 1", "no number"),
        ("1 / 0", "divides by zero"),
        ("5 % 0", "divides by zero|no real"),
        ("sqrt(-1)", "no real result"),
        ("ln(0)", "too large|no real"),
        ("asin(2)", "no real result"),
        ("(-8) ** 0.5", "no real result"),
        ("9 ** 9 ** 9 ** 9", "too large"),
        ("9999 ** 99999999999", "too large"),
        ("1e99999", "too large"),
        ("5000!", "factorial"),
        ("2.5!", "factorial"),
        ("(" * 60 + "1" + ")" * 60, "nested too deeply"),
        ("-" * 300 + "1", "nested too deeply"),
        ("2**" * 100 + "1", "nested too deeply"),
        ("sqrt " * 70 + "1", "nested too deeply"),
        ("1" * 401, "longer than"),
    ],
)
def test_what_cannot_be_worked_out_says_why(text: str, message: str) -> None:
    with pytest.raises(ArithmeticFailure, match=message):
        calculate(text)


_PARTS = st.sampled_from(
    "0 1 9 99 . , + - * / ** // % ( ) ! e pi sqrt log max of times two hundred percent x 1e9 tan".split()  # noqa: SIM905
)


@given(st.lists(_PARTS, max_size=30).map(" ".join) | st.text(max_size=60))
def test_any_text_gives_a_number_or_a_failure(text: str) -> None:
    try:
        value = calculate(text)
    except ArithmeticFailure:
        return
    assert value.is_finite()
    assert plain(value)


@given(st.integers(-(10**9), 10**9), st.sampled_from("+-*"), st.integers(-(10**9), 10**9))
def test_whole_numbers_agree_with_python(one: int, sign: str, other: int) -> None:
    expected = {"+": one + other, "-": one - other, "*": one * other}[sign]
    assert calculate(f"({one}) {sign} ({other})") == expected


@given(st.floats(0.001, 1000), st.floats(0.001, 1000))
def test_quotients_agree_with_python(one: float, other: float) -> None:
    assert math.isclose(float(calculate(f"{one:.9f} / {other:.9f}")), round(one, 9) / round(other, 9), rel_tol=1e-12)


@pytest.mark.parametrize(
    ("said", "value", "words", "ordinal"),
    [
        ("three", 3, 1, False),
        ("twenty one", 21, 2, False),
        ("twenty twenty", 20, 1, False),
        ("one hundred and five parcels", 105, 4, False),
        ("two thousand three hundred", 2300, 4, False),
        ("a hundred", None, 0, False),
        ("three point one four", Decimal("3.14"), 4, False),
        ("twenty first", 21, 2, True),
        ("third", 3, 1, True),
        ("3rd", 3, 1, True),
        ("1,250", 1250, 1, False),
        ("4.5 million", 4500000, 2, False),
        ("four four two one", 4, 1, False),
        ("zero", 0, 1, False),
        ("parcels", None, 0, False),
        ("", None, 0, False),
    ],
)
def test_spoken_numbers(said: str, value: Decimal | int | None, words: int, ordinal: bool) -> None:
    found = leading_number(said.split())
    assert (None if found is None else (found.value, found.words, found.ordinal)) == (
        None if value is None else (value, words, ordinal)
    )


def test_whole_numbers_with_a_sign() -> None:
    assert whole_number(["minus", "three"]) == -3
    assert whole_number(["three", "parcels"]) is None
