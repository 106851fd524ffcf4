"""Tools and hooks in their threads, in real time: what they may do with the session from there."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from duologue.channels.program import Program
from duologue.events import ErrorEvent, ResponseFinished, ToolFinished
from duologue.models.base import Context
from duologue.session.definition import Definition
from duologue.session.hooks import Hooks
from duologue.session.session import Session
from duologue.testing.scripted import Reply, ScriptedModel
from duologue.tools import tool

pytestmark = pytest.mark.anyio


def made(answer: Any, **definition: Any) -> Session:
    model = ScriptedModel((), answer)
    return Session(Definition(name="test", model=model, **definition), [Program(pacing="burst")])


async def until(session: Session, kind: type, count: int) -> list[Any]:
    found: list[Any] = []
    async for event in session.receive():
        if isinstance(event, kind):
            found.append(event)
            if len(found) == count:
                break
    return found


async def test_tools_use_the_session_from_their_threads() -> None:
    media = threading.get_ident()
    seen: set[int] = set()

    @tool
    async def helper(session: Session) -> str:
        """Help."""
        seen.add(threading.get_ident())
        await session.say("From a thread.")
        await session.update(instructions="changed")
        return "ok"

    @tool
    def blocking(session: Session) -> str:
        """Help."""
        seen.add(threading.get_ident())
        return f"{len(session.history)} entries"

    def answer(text: str | None, context: Context) -> Reply:
        return Reply(text="Done.") if text is None else Reply(tools=(("helper", {}), ("blocking", {})))

    async with made(answer, tools=(helper, blocking)) as session:
        await session.send("go")
        finished = await until(session, ToolFinished, 2)
        assert {event.status for event in finished} == {"ok"}
        assert session.setup().instructions == "changed"
        heard = [event.heard for event in await until(session, ResponseFinished, 2)]
    assert media not in seen
    assert "From a thread." in heard


async def test_a_tool_stops_the_session_from_its_thread() -> None:
    @tool
    async def stops(session: Session) -> str:
        """Stop."""
        await session.stop("completed", "by a tool")
        return "never told"

    async with made(lambda text, context: Reply(tools=(("stops", {}),)), tools=(stops,)) as session:
        await session.send("go")
        ended = await session.wait()
    assert (ended.reason, ended.detail) == ("completed", "by a tool")


async def test_blocking_tools_and_hooks_do_not_stall_the_media_loop() -> None:
    gate = threading.Event()

    @tool(timeout=0.2)
    def blocks() -> str:
        """Block."""
        gate.wait(60)
        return "late"

    class Blocking(Hooks):
        budget_s = 0.2

        def on_turn(self, session: Any, turn: str, text: str) -> None:  # type: ignore[override]
            gate.wait(60)

    def answer(text: str | None, context: Context) -> Reply:
        return Reply(tools=(("blocks", {}),)) if text == "go" else Reply(text="Here I am.")

    try:
        async with made(answer, tools=(blocks,), hooks=(Blocking(),)) as session:
            events = session.receive()
            await session.send("go")
            statuses, failed, heard = [], [], []
            async for event in events:
                if isinstance(event, ToolFinished):
                    statuses.append(event.status)
                    await session.send("are you there")
                elif isinstance(event, ErrorEvent):
                    failed.append(event.message)
                elif isinstance(event, ResponseFinished) and event.heard:
                    heard.append(event.heard)
                if statuses and failed and heard:
                    break
            assert not gate.is_set()
    finally:
        gate.set()
    assert statuses == ["timeout"]
    assert heard == ["Here I am."]
    assert "took too long" in failed[0]
