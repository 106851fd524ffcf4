"""A voice assistant for a delivery driver who has both hands on the wheel.

Talk to it with `duologue talk examples/delivery.py`, or hear it talk with `duologue demo`. Without a language model a
phrase matcher answers, by the `examples` of the tools; for a real model change one line: `Cascade.local(llm="ollama/llama3.2")`.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from duologue import Agent, Session, tool
from duologue.models import Cascade
from duologue.tools import clock, end_call


@dataclass
class Stop:
    """A stop of the round. A parcel that was handed over is complete only when the driver has said so."""

    street: str
    customer: str
    parcels: str
    phone: str
    status: Literal["ahead", "handed over", "complete"] = "ahead"


@dataclass
class Round:
    """The driver's day; each call has its own."""

    stops: list[Stop] = field(
        default_factory=lambda: [
            Stop("Station Road", "pharmacy", "one small box", "five five five, two one nine four", "handed over"),
            Stop("Oxford Street", "school", "one large parcel", "five five five, eight oh two six", "handed over"),
            Stop("Harbour Street", "bakery", "two boxes", "five five five, three seven one oh"),
            Stop("Market Square", "post office", "three letters", "five five five, four four nine one"),
            Stop("Castle Hill", "hotel", "five boxes", "five five five, six oh five two"),
        ]
    )
    notes: list[str] = field(default_factory=list)

    def ahead(self) -> list[Stop]:
        """The stops that are still to be driven to, the next one first."""
        return [stop for stop in self.stops if stop.status == "ahead"]

    def find(self, words: str) -> Stop | None:
        """The stop that the driver means: by its street or customer, as "the next one", "the last one", "the one before"."""
        said = words.lower().replace("harbor", "harbour")
        behind = [stop for stop in self.stops if stop.status != "ahead"]
        if "before" in said or "previous" in said:
            return behind[-2] if len(behind) > 1 else None
        if "last" in said:
            return behind[-1]
        if "next" in said:
            return self.ahead()[0]
        return next((stop for stop in self.stops if stop.street.lower() in said or stop.customer in said), None)


@tool(examples=["what's my next stop", "where do I go next", "where am I going next"], side_effects=False)
def next_stop(session: Session) -> str:
    """The address of the next delivery and what to know about it."""
    stop = session.state.ahead()[0]
    return (
        f"Your next stop is {stop.street}, for the {stop.customer}. You have {stop.parcels} for them, and they need to sign. "
        "You can park behind the building, because the front is a bus lane."
    )


@tool(
    examples=["how do I get there", "tell me how to get there", "how do I get to the next stop", "give me directions"],
    side_effects=False,
)
def directions() -> str:
    """The way from here to the next stop, road by road. It takes a while to say."""
    return (
        "From Oxford Street, drive straight on for half a mile, until you pass the fire station. "
        "At the roundabout, take the second exit, and go over the bridge. "
        "Turn left at the traffic lights, and follow the river for about a mile. "
        "When you see the old lighthouse, slow down, because the turn is easy to miss. "
        "Harbour Street is the third road on the right, and the bakery has a blue door."
    )


@tool(
    examples=["how many stops are left", "how many stops are there", "what are the remaining stops"],
    side_effects=False,
)
def stops_left(session: Session) -> str:
    """How many stops are still ahead, and which."""
    streets = [stop.street for stop in session.state.ahead()]
    return f"There are {len(streets)} stops left: {', '.join(streets[:-1])} and {streets[-1]}."


@tool(
    examples=[
        "who is it for",
        "who is {delivery} for",
        "how many boxes is it",
        "how many boxes are there",
        "what is the phone number of {delivery}",
        "what is the phone number for {delivery}",
        "give me the phone number of {delivery}",
        "give me the phone number for {delivery}",
    ],
    side_effects=False,
)
def customer(session: Session, delivery: str = "the next one") -> str:
    """Who gets a delivery, what they get, and their phone number.

    Args:
        delivery: a street, a customer, or "the next one".
    """
    stop = session.state.find(delivery)
    if stop is None:
        return f"There is no stop called {delivery}."
    return f"{stop.parcels.capitalize()} for the {stop.customer}, in {stop.street}. Their number is {stop.phone}."


@tool(examples=["mark {delivery} as complete", "mark {delivery} complete", "{delivery} is done"], timeout=20)
async def mark_complete(session: Session, delivery: str) -> str:
    """Mark a delivery as complete. Takes some seconds, during which the conversation can go on.

    Args:
        delivery: a street, a customer, "the last one" or "the one before".
    """
    stop = session.state.find(delivery)
    if stop is None:
        return f"There is no stop called {delivery}."
    await asyncio.sleep(3)  # the depot's system is not the fastest
    stop.status = "complete"
    return f"{stop.street} is marked as complete."


@tool(examples=["add a note that {text}", "make a note that {text}", "note that {text}", "add a note"])
def add_note(session: Session, text: str) -> str:
    """Keep a note for whoever drives this round next.

    Args:
        text: the note.
    """
    session.state.notes.append(text)
    return "I have noted that down."


@tool(examples=["call dispatch", "tell dispatch that {message}"], approval=True)
async def call_dispatch(message: str) -> str:
    """Send an urgent message to dispatch. Somebody has to approve it first.

    Args:
        message: what dispatch should know.
    """
    return "Dispatch knows about it."


agent = Agent(
    name="delivery",
    model=Cascade.local(),
    instructions=(
        "You help a delivery driver on the road. You are heard, not read: answer in one or two short sentences, "
        "in plain words. Say what a tool tells you, and nothing that no tool has told you."
    ),
    greeting="Hello, this is your route assistant. What can I do for you?",
    tools=[next_stop, directions, stops_left, customer, mark_complete, add_note, call_dispatch, clock, end_call],
    state=Round,
)
