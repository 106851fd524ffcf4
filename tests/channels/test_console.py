"""The terminal as a participant."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from duologue import Agent, tool
from duologue.channels.console import Console, LineReader
from duologue.errors import UnknownOptionError
from duologue.events import SessionEnded
from duologue.models.base import Context
from duologue.testing.scripted import Reply, ScriptedModel


async def typed(*lines: str) -> AsyncIterator[str]:
    for line in lines:
        yield line


def answer(text: str | None, context: Context) -> Reply:
    if text is None:
        return Reply(text="Done.")
    return Reply(tools=(("pay", {}),)) if "pay" in text else Reply(text=f"You said {text}.", delay_s=2.0)


async def talk(agent: Agent, *lines: str) -> tuple[list[str], SessionEnded]:
    out = io.StringIO()
    console = Console(lines=typed(*lines), out=out, spoken=False, latency=False)
    async with agent.session(console, text_only=True, tool_runner="inline") as session:
        ended = await session.wait()
    return [line.strip() for line in out.getvalue().splitlines()], ended


@pytest.mark.virtual
async def test_lines_of_a_pipe_take_turns_with_the_agent() -> None:
    agent = Agent(model=ScriptedModel((), answer), greeting="Hi.")
    lines, ended = await talk(agent, "one", "", "two")
    assert lines == [
        "· agent on scripted",
        "agent  Hi.",
        "you  one",
        "agent  You said one.",
        "you  two",
        "agent  You said two.",
        lines[-1],
    ]
    assert ended.reason == "hangup"


@pytest.mark.virtual
@pytest.mark.parametrize(("reply", "status"), [("yes", 'pay → "paid"'), ("no", "pay: denied")])
async def test_approvals_are_answered_by_the_next_line(reply: str, status: str) -> None:
    @tool(approval=True)
    async def pay() -> str:
        """Pay."""
        return "paid"

    lines, _ = await talk(Agent(model=ScriptedModel((), answer), tools=[pay]), "pay", reply)
    assert any("wants your approval" in line for line in lines)
    assert any(status in line for line in lines)
    assert f"you  {reply}" not in lines


@pytest.mark.virtual
async def test_a_console_beside_another_channel_does_not_end_the_call() -> None:
    agent = Agent(model=ScriptedModel((), answer))
    console = Console(lines=typed(), out=io.StringIO(), essential=False)
    async with agent.session(console, text_only=True) as session:
        await asyncio.sleep(5)
        assert session.ended is None


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(UnknownOptionError, match="'latency'"):
        Console(latensy=True)


@pytest.mark.anyio
async def test_lines_come_from_a_pipe_in_pieces() -> None:
    read, write = os.pipe()
    reader = LineReader(read)
    os.write(write, b"one\ntw")
    assert await anext(reader) == "one"
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    assert not waiting.done()
    os.write(write, "o\n\xe9\n".encode("latin-1") + b"last")
    os.close(write)
    assert [await waiting, *[line async for line in reader]] == ["two", "\ufffd", "last"]
    reader.close()
    os.close(read)


@pytest.mark.anyio
async def test_lines_come_from_a_file_which_the_loop_cannot_watch(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(map(str, range(500))))
    with path.open() as file:
        reader = LineReader(file.fileno())
        assert [line async for line in reader] == [str(number) for number in range(500)]
        reader.close()


@pytest.mark.anyio
async def test_a_flood_of_lines_is_held_up_and_none_is_lost() -> None:
    read, write = os.pipe()
    reader = LineReader(read)
    loop = asyncio.get_running_loop()
    data = b"".join(b"%d\n" % number for number in range(20_000))

    def flood() -> None:
        sent = 0
        while sent < len(data):
            sent += os.write(write, data[sent : sent + 4096])
        os.close(write)

    flooding = loop.run_in_executor(None, flood)
    first = await anext(reader)
    await asyncio.sleep(0)
    assert len(reader._lines) < 4096  # one read beyond the bound at most
    assert [first, *[line async for line in reader]] == [str(number) for number in range(20_000)]
    await flooding
    reader.close()
    os.close(read)


@pytest.mark.anyio
async def test_reading_a_terminal_can_be_cancelled_and_leaves_it_as_it_was() -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs), os.get_blocking(theirs)
    reader = LineReader(theirs)
    os.write(ours, b"hello\n")
    assert await anext(reader) == "hello"
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    reader.close()
    assert (termios.tcgetattr(theirs), os.get_blocking(theirs)) == before
    os.close(ours)
    os.close(theirs)


@pytest.mark.anyio
async def test_ctrl_d_ends_the_lines() -> None:
    ours, theirs = pty.openpty()
    reader = LineReader(theirs)
    os.write(ours, b"\x04")
    assert [line async for line in reader] == []
    reader.close()
    os.close(ours)
    os.close(theirs)
