"""The shared inference service: real models, in a process of their own, for workers that hold none."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from duologue.audio import resample
from duologue.compute import Priority, shared
from duologue.errors import ConfigurationError, ModelError
from duologue.host.workers.inference_client import InferenceClient
from duologue.host.workers.inference_host import InferenceHost
from duologue.host.workers.options import FleetOptions
from duologue.speech.base import STT_RATE
from duologue.speech.moonshine import MoonshineSTT
from duologue.speech.piper import PiperTTS, PiperVoice
from duologue.wire.hostlink import Message
from tests.host.workers.parts import HELLO, TENANT, deploy, fleet, gate, read, spec

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def service(tmp_path: Path) -> AsyncIterator[InferenceHost]:
    """A service that runs."""
    host = InferenceHost(tmp_path, FleetOptions())
    try:
        await host.ready()
        yield host
    finally:
        await host.close()


@asynccontextmanager
async def worker(host: InferenceHost) -> AsyncIterator[InferenceClient]:
    """A worker's connection to it."""
    client = InferenceClient(await host.connect(TENANT))
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def say(tts: PiperTTS, text: str) -> bytes:
    """PCM16 at 16 kHz."""
    pcm = b"".join([chunk.pcm async for chunk in tts.synthesize(text)])
    return resample(pcm, tts.rate, STT_RATE)


async def hear(stt: MoonshineSTT, pcm: bytes) -> str:
    """What was said."""
    stream = await stt.open()
    stream.begin(0)
    stream.push(pcm)
    return (await stream.final()).text


async def test_what_is_said_through_the_service_is_heard_through_it(tmp_path: Path) -> None:
    async with service(tmp_path) as host, worker(host) as one, worker(host):
        tts, stt = PiperTTS(), MoonshineSTT()  # which take the compute of the process
        assert shared() is not one.compute  # the second worker's, provided last
        sentences = ["Good morning, how are you today?", "The parcel is in the kitchen."]
        spoken = await asyncio.gather(*(say(tts, sentence) for sentence in sentences))
        heard = await asyncio.gather(*(hear(stt, pcm) for pcm in spoken))
        assert "good morning" in heard[0].lower()
        assert "kitchen" in heard[1].lower()
        words = [chunk.words async for chunk in tts.synthesize("Good morning.")]
        assert words[0] is not None
        assert len(words[0]) == 2


async def test_a_stream_that_is_closed_early_leaves_the_service_free(tmp_path: Path) -> None:
    async with service(tmp_path) as host, worker(host) as client:
        tts = PiperTTS(compute=client.compute)
        stream = tts.synthesize("One. Two. Three. Four. Five. Six.")
        first = await anext(stream)
        assert first.pcm
        await stream.aclose()
        handle = await MoonshineSTT(compute=client.compute)._acquire()
        task = asyncio.ensure_future(
            handle.run(lambda reader: reader.read(bytes(2 * STT_RATE)), priority=Priority.URGENT)
        )
        await asyncio.sleep(0)
        task.cancel()
        assert await say(tts, "Seven.")


async def test_no_file_of_the_host_is_loaded_for_a_tenant(tmp_path: Path) -> None:
    async with service(tmp_path) as host, worker(host) as client:
        model, config = tmp_path / "voice.onnx", tmp_path / "voice.onnx.json"
        model.write_bytes(b"")
        config.write_text('{"audio": {"sample_rate": 22050}}')
        with pytest.raises(ConfigurationError, match="may not load"):
            await say(PiperTTS(PiperVoice(model=str(model)), compute=client.compute), "Hello.")
        with pytest.raises(ConfigurationError, match="may not load"):
            await MoonshineSTT("/etc", compute=client.compute).open()


async def test_garbage_ends_a_connection_and_only_that(tmp_path: Path) -> None:
    async with service(tmp_path) as host, worker(host) as client:
        reader, writer = await asyncio.open_unix_connection(sock=await host.connect(TENANT))
        writer.write(b"\xff" * 64)
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        finally:
            writer.close()
        assert await say(PiperTTS(compute=client.compute), "Hello.")


async def test_the_end_of_the_service_is_a_typed_error_and_it_is_started_again(tmp_path: Path) -> None:
    async with service(tmp_path) as host:
        async with worker(host) as client:
            tts = PiperTTS(compute=client.compute)
            await tts.warm()
            pidfd = os.pidfd_open(host.pid)
            gone = asyncio.Event()
            asyncio.get_running_loop().add_reader(pidfd, gone.set)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await gone.wait()
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
            with pytest.raises(ModelError, match="gone"):
                await say(tts, "Hello.")
        async with worker(host) as client:
            assert await say(PiperTTS(compute=client.compute), "Hello.")


async def test_a_worker_of_the_fleet_speaks_without_a_model_of_its_own(tmp_path: Path) -> None:
    app = """
from duologue import Agent
from duologue.models import Cascade
agent = Agent(model=Cascade.local(llm="phrase"), greeting="Hello there, how are you?")
"""
    source = deploy(tmp_path / "src", app=app)
    async with fleet(inference="shared") as made:
        of = spec(source, "agent", "app.py:agent")
        probe = await made.prepare(of)
        assert probe.reason == ""
        worker = await made.start(of, session="call", epoch=1, secrets={}, journal="")
        async with gate(worker) as link:
            await link.open("call")
            link.send(HELLO)
            await link.until("welcome")
            while (await link.next(Message)).text:
                pass  # until the greeting sounds
        assert "libmoonshine" not in read(worker.pid, "maps")
