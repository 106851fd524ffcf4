"""Faults on order between Nova Sonic's server and a client: each in the form that the protocol has for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from duologue.serve.nova_sonic import NovaOptions, serving_nova
from duologue.testing.faults import Faults
from duologue.testing.script import Script, script_agent
from duologue.wire.nova_sonic import OutputReader, StreamException
from tests.serve.h2_client import H2Client
from tests.serve.test_nova_http import BEGIN, PATH, events_of, frames, pcm
from tests.wire.nova_events import text

pytestmark = pytest.mark.anyio
TURN = (*BEGIN, pcm(bytes(6400)), *text("t", "USER", "hm", interactive=True))


@asynccontextmanager
async def served(home: Path, *faults: str) -> AsyncIterator[H2Client]:
    options = NovaOptions(port=0, as_model=True, certificate_directory=str(home))
    agent = script_agent(Script.parse("replies: [{say: Pardon?}]"))
    async with serving_nova(agent, options) as server, asyncio.timeout(20):
        Faults(faults).install(nova=server)
        client = await H2Client.connect(server.url, server.ca_file)
        yield client
        await client.close()


@pytest.mark.parametrize(
    ("fault", "type"),
    [
        ("exception=throttled", "throttlingException"),
        ("exception=model@#3", "modelStreamErrorException"),
        ("exception=invalid@0.05", "validationException"),
        ("throttle", "throttlingException"),
        ("go-away=0.1@0.05", "modelTimeoutException"),
    ],
)
async def test_failures_are_exceptions_of_the_protocol(tmp_path: Path, fault: str, type: str) -> None:
    async with served(tmp_path, fault) as client:
        stream = client.request(PATH)
        client.data(stream, frames(*TURN))
        await stream.ended.wait()
        with pytest.raises(StreamException) as raised:
            list(OutputReader().feed(stream.body))
        assert raised.value.type == type


async def test_a_reset_is_of_the_stream_and_a_drop_its_end(tmp_path: Path) -> None:
    async with served(tmp_path, "reset*1@#4", "drop@#4") as client:
        reset = client.request(PATH)
        client.data(reset, frames(*TURN))
        await reset.ended.wait()
        assert reset.reset is not None
        dropped = client.request(PATH)
        client.data(dropped, frames(*TURN))
        await dropped.ended.wait()
        assert dropped.reset is None
        assert 0 < len(events_of(dropped.body)) <= 4


async def test_the_first_links_alone_are_struck_and_a_stall_ends_nothing(tmp_path: Path) -> None:
    async with served(tmp_path, "stall*1") as client:
        stalled, good = client.request(PATH), client.request(PATH)
        client.data(stalled, frames(*TURN))
        while not stalled.status:
            stalled.changed.clear()
            await stalled.changed.wait()
        client.data(good, frames(*TURN))
        while not any(body.get("stopReason") == "END_TURN" for _, body in events_of(good.body)):
            good.changed.clear()
            await good.changed.wait()
        assert not stalled.body
        assert not stalled.ended.is_set()
