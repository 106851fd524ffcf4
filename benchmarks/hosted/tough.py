"""The agent whose worker is killed under its calls: it remembers what was said, and has a tool that never answers.

Deployed as a single file, so it imports nothing of the benchmarks.
"""

from __future__ import annotations

import asyncio

from duologue import Agent, tool
from duologue.models.base import Context
from duologue.testing.scripted import Reply, ScriptedModel, Utterance


@tool
async def errand() -> str:
    """Runs until its process is gone."""
    await asyncio.sleep(3600)
    return "done"


def answer(text: str | None, context: Context) -> Reply:
    """Says all that it knows of the call."""
    items = context.history()
    if text == "run":
        return Reply(text="I run.", tools=(("errand", {}),))
    if text == "recall":
        said = [item.text for item in items if item.kind == "user"]
        unknown = sum("nobody knows" in item.text for item in items if item.kind == "result")
        return Reply(text=f"Known: {said[0]}, {unknown} unknown.", characters_per_s=100.0)
    return Reply(text="Yes. " * 40)


agent = Agent(model=ScriptedModel([Utterance(text="and so on")], answer), tools=[errand], idle_prompt="", farewell="")
