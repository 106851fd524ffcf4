from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import pathlib
import uuid
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec
import numpy
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.tools import ToolResultError
from duologue.tools.results import cap_json, to_json


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Stop:
    street: str
    when: datetime.time


class Order(pydantic.BaseModel):
    item: str
    price: Decimal


class Point(msgspec.Struct):
    x: float


@pytest.mark.parametrize(
    ("value", "converted"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (2**60, str(2**60)),
        (1.5, 1.5),
        ("é", "é"),
        ("\ud800", "?"),
        (Colour.RED, "red"),
        (datetime.datetime(2026, 11, 21, 3, 4, tzinfo=datetime.UTC), "2026-11-21T03:04:00+00:00"),
        (datetime.date(2026, 11, 21), "2026-11-21"),
        (datetime.timedelta(minutes=2), 120.0),
        (Decimal("1.10"), 1.1),
        (Decimal("0.1000000000000000000000000001"), "0.1000000000000000000000000001"),
        (b"\x00\xff", "AP8="),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        ({3, 1, 2}, [1, 2, 3]),
        ((1, "x"), [1, "x"]),
        ({1: "a", Colour.RED: "b", None: "c"}, {"1": "a", "red": "b", "null": "c"}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (Stop("Mill Lane", datetime.time(9, 30)), {"street": "Mill Lane", "when": "09:30:00"}),
        (Order(item="milk", price=Decimal("2.5")), {"item": "milk", "price": 2.5}),
        (Point(0.5), {"x": 0.5}),
        (numpy.float32(0.5), 0.5),
        (numpy.arange(3), [0, 1, 2]),
        ([{"a": [Order(item="x", price=Decimal(1))]}], [{"a": [{"item": "x", "price": 1.0}]}]),
    ],
)
def test_values_become_json(value: Any, converted: Any) -> None:
    assert to_json("t", value) == converted
    json.dumps(converted, allow_nan=False)


LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: list[Any] = []
for _ in range(200):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        (object(), "$", "a object cannot"),
        ({"a": [1, {"b": lambda: None}]}, "$.a[1].b", "a function cannot"),
        (math.nan, "$", "nan is no JSON number"),
        ([math.inf], "$[0]", "inf is no JSON number"),
        (Decimal("NaN"), "$", "NaN is no JSON number"),
        ({(1, 2): 3}, "$", "a tuple cannot be a JSON key"),
        (LOOP, "$[0]", "contains itself"),
        (DEEP, "$" + "[0]" * 64, "nested too deeply"),
        (iter([1]), "$", "list_iterator cannot"),
        (Colour, "$", "cannot be carried"),
    ],
)
def test_what_json_cannot_carry_is_named(value: Any, path: str, reason: str) -> None:
    with pytest.raises(ToolResultError) as raised:
        to_json("t", value)
    assert raised.value.path == path
    assert reason in str(raised.value)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text()
        | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    )
)
def test_everything_made_of_plain_parts_becomes_json(value: Any) -> None:
    converted = to_json("t", value)
    assert json.loads(json.dumps(converted, allow_nan=False)) == converted


@given(st.text(max_size=300), st.integers(16, 300))
def test_texts_are_cut_at_the_cap(text: str, limit: int) -> None:
    value, truncated = cap_json(text, limit)
    assert isinstance(value, str)
    if truncated:
        assert len(msgspec.json.encode(text)) > limit
        assert value.endswith("characters left out]")
    else:
        assert value == text


def test_large_objects_are_cut_to_their_json_text() -> None:
    value, truncated = cap_json({"a": "x" * 100}, 20)
    assert truncated
    assert value == '{"a":"xxxxxxxxxxxxxx [cut here: 88 of 108 characters left out]'
    assert cap_json({"a": 1}, 20) == ({"a": 1}, False)
