"""Files of users, for tests: a scripted agent needs no speech models."""

SCRIPTED = """
from duologue import Agent
from duologue.testing.scripted import Reply, ScriptedModel

agent = Agent(
    model=ScriptedModel((), lambda text, context: Reply(text=f"You said {text}.")),
    greeting="Hi.",
)
"""

FACTORY = """
from duologue import Agent
from duologue.testing.scripted import Reply, ScriptedModel

async def agent(call):
    return Agent(model=ScriptedModel((), lambda text, context: Reply(text=f"{call.channel}: {text}")))
"""
