"""The tools of a delivery driver's agent, and a way to hold a conversation with a matcher in tests."""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from duologue.speech.llm import LLM, Finished, LLMEvent, Message, PhraseLLM, TextDelta, ToolCallRequest
from duologue.tools import ToolSpec, calculator, clock, end_call, tool

MONDAY = datetime.date(2026, 11, 23)


class Size(StrEnum):
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


@tool(examples=["what's my next stop", "where do I go next", "what is the next address", "where to next"])
def next_stop() -> str:
    """The driver's next delivery address."""
    return "12 Harbour Street, Oslo"


@tool(
    examples=[
        "mark {delivery} as complete",
        "mark {delivery} as delivered",
        "{delivery} is delivered",
        "I have delivered {delivery}",
        "complete {delivery}",
    ],
    long_running=True,
)
def mark_complete(delivery: str) -> str:
    """Mark a delivery as complete."""
    return f"{delivery} is marked as complete."


@tool(examples=["add a note {text}", "add a note that says {text}", "make a note {text}", "note that {text}"])
def add_note(text: Annotated[str, "The text of the note."]) -> str:
    """Write a note for the current stop."""
    return "Noted."


@tool(examples=["tell me about the route", "describe the route", "what does my route look like"])
def route() -> str:
    """The whole route of today, stop by stop."""
    return "You start at the depot. Then comes Harbour Street. Then the bakery on Mill Lane."


@tool(examples=["call dispatch", "get me dispatch on the phone", "I need to talk to dispatch"])
def call_dispatch() -> str:
    """Call the dispatcher."""
    return "Calling dispatch."


@tool(examples=["I picked up {count} parcels", "load {count} parcels", "I have {count} parcels"])
def load_parcels(count: int) -> str:
    """Count parcels that were loaded."""
    return f"{count} parcels loaded."


@tool(examples=["order a {size} van for {day}", "I need a {size} van on {day}"])
def order_van(size: Size, day: datetime.date) -> str:
    """Order a van for a day."""
    return f"A {size} van is ordered for {day}."


@tool
def traffic_report(street: str = "") -> str:
    """How busy the roads are right now."""
    return "Traffic is light."


TOOLS = [
    next_stop,
    mark_complete,
    add_note,
    route,
    call_dispatch,
    load_parcels,
    order_van,
    traffic_report,
    calculator,
    clock,
    end_call,
]
SPECS: list[ToolSpec] = [each.spec for each in TOOLS]


def matcher() -> PhraseLLM:
    return PhraseLLM(today=lambda: MONDAY)


async def generate(llm: LLM, messages: list[Message], tools: list[ToolSpec] | None = None) -> list[LLMEvent]:
    return [event async for event in llm.generate(messages, SPECS if tools is None else tools)]


def text_of(events: list[LLMEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def calls_of(events: list[LLMEvent]) -> list[tuple[str, dict[str, Any]]]:
    requests = [event for event in events if isinstance(event, ToolCallRequest)]
    return [(request.name, msgspec.json.decode(request.arguments)) for request in requests]


class Conversation:
    """Says things to a model one after the other, running its tools in between."""

    def __init__(self, llm: LLM, tools: list[ToolSpec] | None = None) -> None:
        self.llm = llm
        self.tools = SPECS if tools is None else tools
        self.messages: list[Message] = []

    async def say(self, text: str) -> list[LLMEvent]:
        self.messages.append(Message(role="user", content=text))
        return await self._answer()

    async def result(self, request: ToolCallRequest, content: str, is_error: bool = False) -> list[LLMEvent]:
        self.messages.append(
            Message(role="tool", content=content, tool_call_id=request.id, name=request.name, is_error=is_error)
        )
        return await self._answer()

    async def _answer(self) -> list[LLMEvent]:
        events = await generate(self.llm, self.messages, self.tools)
        assert isinstance(events[-1], Finished)
        calls = tuple(event for event in events if isinstance(event, ToolCallRequest))
        self.messages.append(Message(role="assistant", content=text_of(events), tool_calls=calls))
        return events
