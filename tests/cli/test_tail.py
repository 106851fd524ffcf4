"""``duologue sessions tail`` over connections that break: each event once, in order, or a clear end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from duologue.cli.control import ControlError, ControlLostError, Where, connected
from duologue.cli.tailing import PAUSES, events

pytestmark = pytest.mark.anyio

_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(text: str) -> str:
    return f"{len(text):x}\r\n{text}\r\n"


def event(n: int) -> str:
    return chunk(f'id: {n}\ndata: {{"n":{n}}}\n\n')


_END = chunk("")
_REFUSAL = '{"message": "There is no such session."}'


class Server:
    """Answers each connection with the next of `answers` and closes it; "": it closes without a word."""

    def __init__(self, answers: Sequence[str]) -> None:
        self._answers = iter(answers)
        #: what each request gave as Last-Event-ID
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        self.asked.append(head.partition("last-event-id: ")[2].partition("\r\n")[0])
        writer.write(next(self._answers, "").encode())
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def host(data: Path, *answers: str) -> AsyncIterator[Server]:
    """A host's control socket in `data`."""
    server = Server(answers)
    async with await asyncio.start_unix_server(server.serve, str(data / "control.sock")):
        yield server


async def tail(data: Path, slept: list[float]) -> list[str]:
    """What is printed."""

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with connected(Where(data=data)) as to, aclosing(events(to, "s" * 33, sleep=sleep)) as told:
        return [data async for data in told]


async def test_a_tail_goes_on_where_it_was_without_doubles_or_gaps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = chunk('id: 3\ndata: {"n":3}\n')  # an event that is not whole: it comes again
    slept: list[float] = []
    async with host(
        tmp_path,
        _HEAD + event(0) + event(2) + cut,
        "",
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
        _HEAD + event(3) + chunk(": still here\n\n"),
        _HEAD + event(5) + _END,
    ) as server:
        assert await tail(tmp_path, slept) == [f'{{"n":{n}}}' for n in (0, 2, 3, 5)]
    assert server.asked == ["", "2", "2", "2", "3"]
    assert slept == [*PAUSES[:3], PAUSES[0]]
    assert "connection to the host is lost" in capsys.readouterr().err


async def test_a_host_that_does_not_come_back_is_given_up(tmp_path: Path) -> None:
    slept: list[float] = []
    async with host(tmp_path, _HEAD + event(0)) as server:
        with pytest.raises(ControlError, match="did not come back"):
            await tail(tmp_path, slept)
    assert slept == list(PAUSES)
    assert len(server.asked) == 1 + len(PAUSES)


async def test_a_host_that_was_never_there_is_said_at_once(tmp_path: Path) -> None:
    slept: list[float] = []
    async with host(tmp_path, ""):
        with pytest.raises(ControlLostError):
            await tail(tmp_path, slept)
    assert slept == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (f"HTTP/1.1 404 Not Found\r\ncontent-length: {len(_REFUSAL)}\r\n\r\n{_REFUSAL}", "no such session"),
        (_HEAD + chunk("event: error\ndata: It is damaged.\n\n") + _END, "It is damaged"),
    ],
)
async def test_what_trying_again_does_not_help_ends_it(tmp_path: Path, answer: str, said: str) -> None:
    slept: list[float] = []
    async with host(tmp_path, _HEAD + event(0), answer):
        with pytest.raises(ControlError, match=said):
            await tail(tmp_path, slept)
    assert len(slept) == 1
