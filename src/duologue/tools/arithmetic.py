"""Arithmetic on a text, without `eval`: a small recursive-descent parser over decimal numbers.

Grammar, loosest first (`^` is `**`; words are accepted where people say them: "three times four point five")::

    sum      = product (("+" | "-") product)*          -- a percentage after + or - is of what stands before it
    product  = unary (("*" | "/" | "//" | "%" | "of") unary)*
    unary    = ("+" | "-") unary | power
    power    = postfix ("**" unary)?
    postfix  = primary ("%" | "!" | "squared" | "cubed")*
    primary  = number | constant | function "(" sum ("," sum)* ")" | "(" sum ")"

Every number has at most 34 digits and an exponent within ±9999, and the text at most 400 characters, so the work is
bounded.
"""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Callable
from decimal import Decimal

from duologue.tools.numbers import SCALES, TENS, UNITS, leading_number

MAX_CHARS = 400
MAX_DEPTH = 40
MAX_FACTORIAL = 1000

_CONTEXT = decimal.Context(
    prec=34,
    Emax=9999,
    Emin=-9999,
    traps=[decimal.Overflow, decimal.InvalidOperation, decimal.DivisionByZero],
)

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:e[+-]?\d+)?|\.\d+)|(?P<word>[a-z]+)|(?P<sign>\*\*|//|[-+*/%^!(),×÷−·√π]))",
    re.I,
)
_PHRASES = [
    (re.compile(pattern, re.I), sign)
    for pattern, sign in [
        (r"\b(?:multiplied by|times)\b", " * "),
        (r"(?<=[\d)\s])x(?=[\d(\s])", " * "),
        (r"\bdivided by\b|\bover\b", " / "),
        (r"\bplus\b|\badded to\b", " + "),
        (r"\bminus\b|\bnegative\b", " - "),
        (r"\b(?:raised )?to the power(?: of)?\b", " ** "),
        (r"\bmodulo?\b|\bremainder of\b", " mod "),
        (r"\b(?:per ?cent|percentage)\b", " percent "),
        (r"\b(?:the )?square root(?: of)?\b|√", " sqrt "),
        (r"^\s*(?:(?:what is|what's|whats|how much is|calculate|compute|work out)\b|=)", " "),
        (r"[=?.]\s*$", " "),
    ]
]
_SAME = {"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**"}
_CONSTANTS = {
    "pi": Decimal("3.141592653589793238462643383279503"),
    "π": Decimal("3.141592653589793238462643383279503"),
    "e": Decimal("2.718281828459045235360287471352662"),
    "tau": Decimal("6.283185307179586476925286766559006"),
}


class ArithmeticFailure(ValueError):
    """The text is no arithmetic, or its result does not exist or is too large. The message can be told to a caller."""


def _through_float(function: Callable[[float], float]) -> Callable[[Decimal], Decimal]:
    def apply(value: Decimal) -> Decimal:
        return _CONTEXT.create_decimal(repr(round(function(float(value)), 15)))

    return apply


def _round(value: Decimal) -> Decimal:
    return value.to_integral_value(decimal.ROUND_HALF_UP, context=_CONTEXT)


_FUNCTIONS: dict[str, Callable[[Decimal], Decimal]] = {
    "sqrt": lambda value: value.sqrt(_CONTEXT),
    "abs": lambda value: abs(value),
    "round": _round,
    "floor": lambda value: value.to_integral_value(decimal.ROUND_FLOOR, context=_CONTEXT),
    "ceil": lambda value: value.to_integral_value(decimal.ROUND_CEILING, context=_CONTEXT),
    "exp": lambda value: value.exp(_CONTEXT),
    "ln": lambda value: value.ln(_CONTEXT),
    "log": lambda value: value.log10(_CONTEXT),
    "sin": _through_float(math.sin),
    "cos": _through_float(math.cos),
    "tan": _through_float(math.tan),
    "asin": _through_float(math.asin),
    "acos": _through_float(math.acos),
    "atan": _through_float(math.atan),
}
_GATHERING: dict[str, Callable[[list[Decimal]], Decimal]] = {"min": min, "max": max}


def calculate(text: str) -> Decimal:
    """The value of an arithmetic expression, exact to 34 digits. Angles are in radians, `log` is to base 10.

    Raises:
        ArithmeticFailure: it cannot be read, or has no finite result within the bounds.
    """
    if len(text) > MAX_CHARS:
        raise ArithmeticFailure(f"The expression is longer than {MAX_CHARS} characters.")
    with decimal.localcontext(_CONTEXT):
        try:
            parser = _Parser(_tokens(text))
            value = parser.expression()
            parser.expect_end()
        except decimal.DivisionByZero:
            raise ArithmeticFailure("That divides by zero.") from None
        except decimal.Overflow:
            raise ArithmeticFailure("The result is too large.") from None
        except (decimal.InvalidOperation, ValueError, OverflowError) as error:
            if isinstance(error, ArithmeticFailure):
                raise
            raise ArithmeticFailure("That has no real result.") from None
    if not value.is_finite():  # ln(0) is minus infinity without any signal
        raise ArithmeticFailure("The result is too large.")
    return value


def plain(value: Decimal, digits: int = 12) -> str:
    """A number as text: no exponent where the digits fit, no trailing zeros, at most `digits` significant ones."""
    rounded = decimal.Context(prec=digits).create_decimal(value)
    exponent = rounded.adjusted()
    if rounded and not -7 < exponent < 21:
        return f"{rounded.normalize():E}".replace("E+", " times 10 to the ").replace("E-", " times 10 to the minus ")
    text = f"{rounded:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def _tokens(text: str) -> list[Decimal | str]:
    for pattern, sign in _PHRASES:
        text = pattern.sub(sign, text)
    tokens: list[Decimal | str] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ArithmeticFailure(f"{text[position:].strip()[:20]!r} is no arithmetic.")
        position = match.end()
        if match["number"]:
            tokens.append(_CONTEXT.create_decimal(match["number"].replace(",", "")))
        elif match["word"]:
            tokens.append(match["word"].lower())
        else:
            tokens.append(_SAME.get(match["sign"], match["sign"]))
    return _spoken_numbers(tokens)


def _spoken_numbers(tokens: list[Decimal | str]) -> list[Decimal | str]:
    """Put numbers in place of number words."""
    result: list[Decimal | str] = []
    index = 0
    while index < len(tokens):
        words: list[str] = []
        for token in tokens[index:]:
            if not isinstance(token, str) or not token.isalpha():
                break
            words.append(token)
        spoken = leading_number(words) if words and words[0] in {**UNITS, **TENS} else None
        if spoken is not None:
            result.append(spoken.value)
            index += spoken.words
            continue
        token = tokens[index]
        if isinstance(token, str) and token in SCALES and result and isinstance(result[-1], Decimal):
            result[-1] = _CONTEXT.multiply(result[-1], Decimal(SCALES[token]))
        else:
            result.append(token)
        index += 1
    return result


class _Parser:
    def __init__(self, tokens: list[Decimal | str]) -> None:
        self._tokens = tokens
        self._index = 0
        self._depth = 0

    def _peek(self) -> Decimal | str | None:
        return self._tokens[self._index] if self._index < len(self._tokens) else None

    def _take(self, *wanted: str) -> str | None:
        token = self._peek()
        if isinstance(token, str) and token in wanted:
            self._index += 1
            return token
        return None

    def _expect(self, wanted: str) -> None:
        if self._take(wanted) is None:
            raise ArithmeticFailure(f"A {wanted!r} is missing.")

    def expect_end(self) -> None:
        token = self._peek()
        if token is not None:
            raise ArithmeticFailure(f"{str(token)!r} is not expected there.")

    def expression(self) -> Decimal:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ArithmeticFailure("The expression is nested too deeply.")
        value, _ = self._product()
        while sign := self._take("+", "-"):
            other, percentage = self._product()
            if percentage:
                other = value * other
            value = value + other if sign == "+" else value - other
        self._depth -= 1
        return value

    def _product(self) -> tuple[Decimal, bool]:
        """A product, and whether it is nothing but a percentage."""
        value, percentage = self._unary()
        while sign := self._take("*", "/", "//", "%", "mod", "of"):
            other, _ = self._unary()
            percentage = False
            if sign in ("*", "of"):
                value = value * other
            elif sign == "/":
                value = value / other
            elif sign == "//":
                value = (value / other).to_integral_value(decimal.ROUND_FLOOR)
            else:
                value = value - other * (value / other).to_integral_value(decimal.ROUND_FLOOR)
        return value, percentage

    def _unary(self) -> tuple[Decimal, bool]:
        sign = self._take("+", "-")
        if sign is None:
            return self._power()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ArithmeticFailure("The expression is nested too deeply.")
        value, percentage = self._unary()
        self._depth -= 1
        return (-value if sign == "-" else value), percentage

    def _power(self) -> tuple[Decimal, bool]:
        value, percentage = self._postfix()
        if self._take("**") is None:
            return value, percentage
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ArithmeticFailure("The expression is nested too deeply.")
        exponent, _ = self._unary()
        self._depth -= 1
        return value**exponent, False

    def _postfix(self) -> tuple[Decimal, bool]:
        value = self._primary()
        percentage = False
        while True:
            if self._take("percent") or (self._percent_sign() and self._take("%")):
                value, percentage = value / 100, True
            elif self._take("!"):
                value, percentage = _factorial(value), False
            elif self._take("squared"):
                value, percentage = value * value, False
            elif self._take("cubed"):
                value, percentage = value * value * value, False
            else:
                return value, percentage

    def _percent_sign(self) -> bool:
        """Whether a `%` here means per cent: it is a remainder only if an operand follows it."""
        following = self._tokens[self._index + 1] if self._index + 1 < len(self._tokens) else None
        if isinstance(following, Decimal):
            return False
        return following not in ("(", *_FUNCTIONS, *_GATHERING, *_CONSTANTS)

    def _primary(self) -> Decimal:
        token = self._peek()
        self._index += 1
        if isinstance(token, Decimal):
            return token
        if token == "(":
            value = self.expression()
            self._expect(")")
            return value
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token in _FUNCTIONS:
            if self._take("("):
                value = self.expression()
                self._expect(")")
            else:
                value = self._bare_argument()
            return _FUNCTIONS[token](value)
        if token in _GATHERING:
            self._expect("(")
            values = [self.expression()]
            while self._take(","):
                values.append(self.expression())
            self._expect(")")
            return _GATHERING[token](values)
        if token is None:
            raise ArithmeticFailure("The expression ends too early.")
        raise ArithmeticFailure(f"{token!r} is no number.")

    def _bare_argument(self) -> Decimal:
        """The argument of a function that was said without parentheses: "square root of nine"."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ArithmeticFailure("The expression is nested too deeply.")
        value, _ = self._power()
        self._depth -= 1
        return value


def _factorial(value: Decimal) -> Decimal:
    if value != value.to_integral_value() or not 0 <= value <= MAX_FACTORIAL:
        raise ArithmeticFailure(f"A factorial needs a whole number from 0 to {MAX_FACTORIAL}.")
    return _CONTEXT.create_decimal(math.factorial(int(value)))
