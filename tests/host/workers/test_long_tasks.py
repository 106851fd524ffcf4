"""A long task in a hosted worker: it keeps an idle worker, and is told to the next link of the session."""

from __future__ import annotations

from pathlib import Path

import pytest

from duologue.host.types import Lifecycle
from tests.host.workers.parts import HELLO, begin, deploy, fleet, gate, http, spec
from tests.host.workers.test_lifecycle import ended

pytestmark = pytest.mark.anyio

AGENT = """
from duologue import Agent, tool
from duologue.testing.scripted import Reply, ScriptedModel, Utterance


@tool(long_running=True, approval=True)
async def report() -> str:
    \"\"\"Write a report, once it is approved.\"\"\"
    return "ten pages"


def answer(text, context):
    return Reply(text="It is written.", characters_per_s=200) if text is None else Reply(tools=(("report", {}),))


agent = Agent(model=ScriptedModel([Utterance(text="hello")], answer), tools=[report])
"""


async def test_it_keeps_the_worker_and_is_told_to_the_next_link(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", app=AGENT)
    async with fleet(beat_s=0.1) as made:
        of = spec(source, "agent", "app.py:agent", lifecycle=Lifecycle(idle_s=0.6, lifetime_s=60, grace_s=2))
        busy, idle = await begin(made, of, "busy"), await begin(made, of, "idle")
        async with gate(busy) as link:
            await link.open("busy")
            link.send(HELLO)
            await link.until("welcome")
            link.send('{"type":"input","e":1,"n":1,"input":{"type":"input.text","text":"write it"}}')
            while (await link.until("event"))["event"]["type"] != "tool.started":
                pass
            link.send('{"type":"bye","code":"hangup"}')
            await link.closed()
        assert await busy.busy()
        assert (await ended(idle)).reason == "idle"
        assert not busy.ended.is_set()
        async with http(busy) as client:
            assert (await client.get("/ping")).json()["status"] == "HealthyBusy"
        busy.opened()
        async with gate(busy) as link:
            await link.open("busy")
            link.send(HELLO)
            welcome = await link.until("welcome")
            assert (welcome["session"], welcome["resumed"]) == ("busy", False)
            assert (await link.until("event"))["event"]["type"] == "session.started"
            started = (await link.until("event"))["event"]
            approval = f'{{"type":"input.approval","call":"{started["call"]}","approved":true}}'
            link.send(f'{{"type":"input","e":1,"n":1,"input":{approval}}}')
            told, seen = "", [started["type"]]
            while told != "It is written.":
                event = (await link.until("event"))["event"]
                seen.append(event["type"])
                told = event.get("text", "") if event["type"] == "response.text" else ""
            assert seen[:3] == ["tool.started", "tool.approval_needed", "listener.joined"]
            assert "tool.finished" in seen
            link.send('{"type":"bye","code":"hangup"}')
            await link.closed()
        busy.closed()
        assert (await ended(busy)).reason == "idle"


async def test_in_a_shared_worker_it_keeps_its_own_session_and_no_other(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", app=AGENT)
    async with fleet() as made:
        worker = await begin(made, spec(source, "agent", "app.py:agent", tier="shared"), "busy")
        await made.join(worker, session="idle", epoch=1)
        async with gate(worker) as link:
            await link.open("busy")
            link.send(HELLO)
            await link.until("welcome")
            assert [await worker.busy(session) for session in ("busy", "idle")] == [True, False]
            link.send('{"type":"input","e":1,"n":1,"input":{"type":"input.text","text":"write it"}}')
            while (await link.until("event"))["event"]["type"] != "tool.started":
                pass
            link.send('{"type":"bye","code":"hangup"}')
            await link.closed()
        assert [await worker.busy(session) for session in ("busy", "idle", "")] == [True, False, True]
        await made.stop(worker, session="idle")
        assert worker.sessions == {"busy"}
        assert await worker.busy("busy")
