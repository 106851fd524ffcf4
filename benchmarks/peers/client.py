"""A caller's side of a peer's pipeline: what `benchmarks.rig.Caller` needs of a call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from benchmarks.harness import pin
from benchmarks.rig import Ear
from duologue.audio.playback import PlaybackDevice
from duologue.events import TurnCommitted

_START_S = 90.0


class PeerCall:
    """A call over a socket of bare PCM. What arrives is played at once; each turn that the peer answers is an event."""

    def __init__(self, socket: ClientConnection, rate: int, ear: Ear) -> None:
        loop = asyncio.get_running_loop()
        self._socket = socket
        self._device = PlaybackDevice(rate, now=loop.time(), sink=ear)
        self._position = 0
        self._turns = 0
        self._events: asyncio.Queue[TurnCommitted] = asyncio.Queue()
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._play())]

    async def send_audio(self, pcm: bytes) -> None:
        """Send a frame of the microphone."""
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send(pcm)

    async def interrupt(self) -> None:
        """There is no such message: the caller hears the answer out."""

    async def __aiter__(self) -> AsyncIterator[TurnCommitted]:
        while True:
            yield await self._events.get()

    async def close(self) -> None:
        """End the call."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionClosed):
            async for message in self._socket:
                now = loop.time()
                if isinstance(message, bytes):
                    self._device.write(message, position=self._position, response="", offset=self._position, now=now)
                    self._position += len(message) // 2
                    continue
                notice = json.loads(message)
                if notice["type"] == "interrupted":
                    self._device.clear(self._position, response="", now=now)
                else:
                    self._turns += 1
                    self._events.put_nowait(TurnCommitted(turn=f"t{self._turns}", text=notice["text"], reason="peer"))

    async def _play(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._device.run(loop.time())
            await asyncio.sleep(0.01)


@asynccontextmanager
async def peer(python: str, *arguments: str, cores: Sequence[int]) -> AsyncIterator[tuple[str, int]]:
    """Run the Pipecat pipeline with the interpreter of its environment; yields its address and its rate in Hz."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("pipecat_server.py")
    process = await asyncio.create_subprocess_exec(
        python,
        str(script),
        "--port",
        str(port),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    pin(cores, process.pid)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_S):
            while line := (await process.stdout.readline()).decode():
                if line.startswith("ready "):
                    break
            else:
                raise RuntimeError(f"the peer's pipeline ended with {await process.wait()}; run {script.name} by hand")
        yield f"ws://127.0.0.1:{port}", int(line.split()[2])
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()


@asynccontextmanager
async def call(url: str, rate: int, ear: Ear) -> AsyncIterator[PeerCall]:
    """One call with the pipeline."""
    async with connect(url, max_size=None) as websocket:
        peer_call = PeerCall(websocket, rate, ear)
        try:
            yield peer_call
        finally:
            await peer_call.close()
