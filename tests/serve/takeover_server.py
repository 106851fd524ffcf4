"""A server for the tests of takeover, killed without warning: ``python takeover_server.py PORT JOURNAL``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from duologue import Agent, Session, tool
from duologue.models.base import Context
from duologue.serve import ServeOptions, serving
from duologue.testing.scripted import Reply, ScriptedModel, Utterance


def note(name: str) -> int:
    """Write a line beside the journal; how many there are."""
    path = Path(f"{sys.argv[2]}.{name}")
    with path.open("a") as file:
        file.write(f"{name}\n")
    return len(path.read_text().splitlines())


@tool
async def slow(session: Session) -> str:
    """Never answers."""
    session.state["begun"] = session.state.get("begun", 0) + 1
    note("runs")
    await asyncio.sleep(3600)
    return "done"


@tool(side_effects=False)
async def look(session: Session) -> str:
    """The state of the session."""
    return f"begun {session.state.get('begun', 0)} times"


@tool(on_takeover="rerun")
async def again() -> str:
    """Answers when it is run for the second time."""
    if note("again") < 2:
        await asyncio.sleep(3600)
    return "the second time"


def answer(text: str | None, context: Context) -> Reply:
    """Says what it knows."""
    said = [item.text for item in context.history() if item.kind == "user"]
    results = [item.text for item in context.history() if item.kind == "result"]
    if text == "state":
        return Reply(text="I look.", tools=(("look", {}),))
    if text is None:
        return Reply(text=f"On: {'; '.join([*said, *results])}.")
    if text in ("slow", "again"):
        return Reply(text="I begin.", tools=((text, {}),))
    if text == "count":
        return Reply(text=" ".join(f"word{n}" for n in range(200)) + ".")
    if text == "think":
        return Reply(text="Thought.", delay_s=0.05 if Path(f"{sys.argv[2]}.killed").exists() else 3600.0)
    if said[-1:] != [text]:
        said.append(text)  # the turn may not be over yet
    return Reply(text=f"Known: {'; '.join(said)}.")


async def main() -> None:
    """Serve until killed."""
    utterances = [Utterance(text="where is my parcel"), Utterance(text="thank you")]
    agent = Agent(model=ScriptedModel(utterances, answer), tools=[slow, again, look], greeting="Hello.")
    options = ServeOptions(port=int(sys.argv[1]), journal=sys.argv[2])
    async with serving(agent, options):
        print("listens", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
