from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ToolError, UnknownOptionError
from duologue.tools import Tool, ToolArgumentsError, ToolContext, current_call, progress, tool


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Address:
    street: str
    number: int = 1


class Person(TypedDict, total=False):
    name: str
    address: Address


class Order(pydantic.BaseModel):
    item: str
    count: int = pydantic.Field(ge=1)


class Tree(msgspec.Struct):
    value: int
    children: list[Tree] = []


class Talk(ToolContext):
    """A conversation that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @property
    def state(self) -> dict[str, Any]:
        return {"caller": "Ann"}

    async def say(self, text: str) -> None:
        self.said.append(text)


def properties(definition: Tool) -> dict[str, Any]:
    found: dict[str, Any] = definition.spec.parameters["properties"]
    return found


def test_a_bare_tool_is_described_by_its_signature_and_docstring() -> None:
    @tool
    def order(item: str, count: int = 2, note: str | None = None) -> str:
        """Order something.

        It comes tomorrow.

        Args:
            item: what to order
            count: how many
        """
        return f"{count} {item} {note}"

    assert order.spec.name == "order"
    assert order.spec.description == "Order something.\n\nIt comes tomorrow."
    assert order.spec.parameters == {
        "type": "object",
        "properties": {
            "item": {"type": "string", "description": "what to order"},
            "count": {"type": "integer", "description": "how many", "default": 2},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["item"],
        "additionalProperties": False,
    }
    assert order.prepare({"item": "milk"})() == "2 milk None"
    assert order.prepare('{"item": "milk", "count": 3, "note": "x"}')() == "3 milk x"
    assert order("milk", note="direct") == "2 milk direct"


def test_types_are_described() -> None:
    @tool
    def many(  # type: ignore[no-untyped-def]
        flag: bool,
        ratio: float,
        size: Literal["small", "medium", "large"],
        colour: Colour,
        level: Level,
        tags: list[str],
        prices: dict[str, float],
        day: datetime.date,
        amount: Decimal,
        pair: tuple[int, str],
        where: Address,
        who: Person,
        order: Order,
        either: int | str,
        text: Annotated[str, "free text"],
        positive: Annotated[int, msgspec.Meta(gt=0)],
        anything: Any,
        guessed=3,
    ) -> None: ...

    found = properties(many)
    assert found["flag"] == {"type": "boolean"}
    assert found["ratio"] == {"type": "number"}
    assert found["size"]["enum"] == ["small", "medium", "large"]
    assert found["colour"]["enum"] == ["red", "blue"]
    assert found["level"]["enum"] == [1, 2]
    assert found["tags"] == {"type": "array", "items": {"type": "string"}}
    assert found["prices"] == {"type": "object", "additionalProperties": {"type": "number"}}
    assert found["day"] == {"type": "string", "format": "date"}
    assert found["where"]["properties"] == {"street": {"type": "string"}, "number": {"type": "integer", "default": 1}}
    assert found["where"]["required"] == ["street"]
    assert found["who"]["properties"]["address"]["properties"]["street"] == {"type": "string"}
    assert found["order"]["properties"]["count"]["minimum"] == 1
    assert found["either"] == {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    assert found["text"] == {"type": "string", "description": "free text"}
    assert found["positive"] == {"type": "integer", "exclusiveMinimum": 0}
    assert found["anything"] == {}
    assert found["guessed"] == {"type": "integer", "default": 3}
    assert "$defs" not in many.spec.parameters
    msgspec.json.encode(many.spec)


def test_a_type_that_refers_to_itself_stays_a_reference() -> None:
    @tool
    def plant(tree: Tree) -> int:
        return len(tree.children)

    assert properties(plant)["tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert "Tree" in plant.spec.parameters["$defs"]
    assert plant.prepare({"tree": {"value": 1, "children": [{"value": 2}]}})() == 1


def test_arguments_are_converted_to_the_types_of_the_function() -> None:
    @tool
    def take(day: datetime.date, colour: Colour, where: Address, order: Order, who: Person | None = None) -> list[Any]:
        return [day, colour, where, order, who]

    arguments = {
        "day": "2026-11-21",
        "colour": "red",
        "where": {"street": "Mill Lane"},
        "order": {"item": "milk", "count": 2},
        "who": {"name": "Ann"},
    }
    assert take.prepare(arguments)() == [
        datetime.date(2026, 11, 21),
        Colour.RED,
        Address("Mill Lane"),
        Order(item="milk", count=2),
        {"name": "Ann"},
    ]


@pytest.mark.parametrize(
    ("arguments", "message", "field"),
    [
        ({}, "parameter 'where' is missing", "where"),
        ({"where": {"street": "x"}, "cuont": 1}, "no parameter 'cuont'. Did you mean 'count'", "cuont"),
        ({"where": {"street": "x"}, "count": "3"}, "parameter 'count': Expected `int`, got `str`", "count"),
        ({"where": {"street": 3}}, "parameter 'where.street': Expected `str`, got `int`", "where.street"),
        ({"where": {}}, "missing required field `street`", "where"),
        ({"where": {"street": "x"}, "size": "huge"}, "parameter 'size': Invalid enum value 'huge'", "size"),
        (
            {"where": {"street": "x"}, "orders": [{"item": "milk", "count": 0}]},
            "greater than or equal to 1",
            "orders[0]",
        ),
        ('{"where"', "not JSON", ""),
        ("[1]", "not a JSON object", ""),
    ],
)
def test_arguments_that_do_not_fit_say_what_to_change(arguments: Any, message: str, field: str) -> None:
    @tool
    def send(
        where: Address, count: int = 1, size: Literal["small"] = "small", orders: list[Order] | None = None
    ) -> None: ...

    with pytest.raises(ToolArgumentsError) as raised:
        send.prepare(arguments)
    assert message in str(raised.value)
    assert raised.value.field == field


@pytest.mark.parametrize("arguments", ["", "  ", "null", "{}", {}])
def test_no_arguments_in_every_way_models_write_them(arguments: Any) -> None:
    @tool
    def ping() -> str:
        return "pong"

    assert ping.prepare(arguments)() == "pong"


@given(st.text(max_size=40) | st.builds(json.dumps, st.dictionaries(st.sampled_from("ab"), st.integers() | st.text())))
def test_any_text_as_arguments_is_a_typed_error_or_a_run(text: str) -> None:
    @tool
    def add(a: int = 0, b: int = 0) -> int:
        return a + b

    with contextlib.suppress(ToolArgumentsError):
        assert isinstance(add.prepare(text)(), int)


def test_the_conversation_is_injected_and_hidden() -> None:
    @tool
    def caller(talk: Talk, word: str) -> str:
        return f"{talk.state['caller']} {word}"

    @tool
    def maybe(context: ToolContext | None = None) -> bool:
        return context is None

    assert list(properties(caller)) == ["word"]
    assert caller.prepare({"word": "x"}, Talk())() == "Ann x"
    assert maybe.prepare({})() is True
    assert maybe.prepare({}, Talk())() is False
    with pytest.raises(ToolError, match="wants a Talk, and this run has none"):
        caller.prepare({"word": "x"})
    with pytest.raises(ToolArgumentsError, match="no parameter 'talk'"):
        caller.prepare({"word": "x", "talk": 1}, Talk())


def test_what_cannot_be_a_tool_is_refused_with_the_reason() -> None:
    def keywords(**options: int) -> None: ...

    def positions(*values: int) -> None: ...

    def only(value: int, /) -> None: ...

    def callback(what: functools.partial[int]) -> None: ...

    def unknown(what: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    def generator() -> Any:
        yield 1

    refused: list[tuple[Callable[..., Any], str]] = [
        (keywords, r"\*\*options cannot be described"),
        (positions, r"\*values cannot be described"),
        (only, "positional-only"),
        (callback, "cannot be built from JSON"),
        (unknown, "cannot be resolved"),
        (generator, "generator"),
        (lambda: None, "name must be"),
    ]
    for function, message in refused:
        with pytest.raises(ToolError, match=message):
            tool(function)
    with pytest.raises(ToolError, match="decorates a function"):
        tool("name")  # type: ignore[call-overload]
    with pytest.raises(ToolError, match="a tool already"):
        tool(tool(test_the_conversation_is_injected_and_hidden))


def test_options_are_strict() -> None:
    with pytest.raises(UnknownOptionError, match="Did you mean 'examples'"):
        tool(exmaples=["x"])  # type: ignore[call-overload]
    refused: list[tuple[dict[str, Any], str]] = [
        ({"examples": "one string"}, "one string"),
        ({"examples": ["mark {delivry}"]}, "no parameter"),
        ({"timeout": 0}, "positive"),
        ({"timeout": float("nan")}, "positive"),
        ({"timeout": True}, "positive"),
        ({"on_takeover": "retry"}, "'unknown' or 'rerun'"),
        ({"name": "no spaces"}, "name must be"),
    ]
    for options, message in refused:
        with pytest.raises(ToolError, match=message):

            @tool(**options)  # type: ignore[call-overload, untyped-decorator, unused-ignore]
            def mark(delivery: str) -> None: ...


def test_policies() -> None:
    @tool(name="other", description="Other.", timeout=3, cancel_on_barge_in=True, side_effects=False, long_running=True)
    async def mark() -> None: ...

    assert (mark.name, mark.description, mark.deadline_s, mark.is_async) == ("other", "Other.", 3.0, True)
    assert mark.cancel_on_barge_in
    assert mark.long_running
    assert not mark.side_effects
    assert tool(long_running=True)(test_policies).deadline_s == 3600
    assert tool(test_policies).deadline_s == 30


def test_methods_partials_and_callable_objects() -> None:
    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        @tool
        def sell(self, item: str) -> str:
            """Sell something."""
            return f"{self.name} sells {item}"

        async def buy(self, item: str) -> str:
            return item

        def __call__(self, item: str) -> str:
            """Call the shop."""
            return f"{self.name} hears {item}"

    class Outer:  # `<locals>` in a qualified name must not hide that this is a class
        @tool
        def late(self) -> str:
            return "late"

    shop = Shop("Ann")
    assert shop.sell.prepare({"item": "milk"})() == "Ann sells milk"
    assert list(properties(shop.sell)) == ["item"]
    assert Outer().late.prepare({})() == "late"
    with pytest.raises(ToolError, match="without its object"):
        Shop.sell.prepare({"item": "milk"})
    assert tool(shop.buy).is_async
    called = tool(name="shop")(shop)
    assert (called.description, called.prepare({"item": "x"})()) == ("Call the shop.", "Ann hears x")
    half = tool(name="half")(functools.partial(shop.buy, item="milk"))
    assert half.is_async
    assert list(properties(half)) == ["item"]
    assert half.prepare({})().close() is None


def test_progress_and_current_call_outside_a_run() -> None:
    progress("nobody listens")
    with pytest.raises(Exception, match="No tool is running"):
        current_call()
