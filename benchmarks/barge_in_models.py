"""Interruptions of agents on the realtime models, whose providers are on this machine: our own servers of the three wires.

Behind each wire is the local cascade as a model (real voice activity detection, recognition and synthesis), which answers at
length. Where the provider detects turns, it says when the user speaks, and the agent falls silent at that; where the engine
does, our own detector says so. The provider has a process of its own, beside that of the agent and that of the caller.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any, Literal

import msgspec

from benchmarks.harness import pin
from benchmarks.providers import Wire, client, serving_wire, use_local_credentials
from duologue.agent import Agent, AgentFactory
from duologue.models import Cascade
from duologue.session.definition import CallInfo
from duologue.speech.endpoint import TextEndOfTurn
from duologue.speech.llm.base import DEFAULT_OPTIONS, GenerateOptions, LLMEvent, Message, TextDelta
from duologue.speech.llm.scripted import ScriptedLLM
from duologue.speech.moonshine import MoonshineSTT
from duologue.speech.piper import PiperTTS
from duologue.speech.vad import SileroVAD
from duologue.tools.base import ToolSpec

type Kind = Literal[
    "OpenAIRealtime, server VAD",
    "OpenAIRealtime, our floor",
    "OpenAIRealtime, our floor, provider stuck",
    "NovaSonic",
    "GeminiLive",
]
KINDS: tuple[Kind, ...] = (
    "OpenAIRealtime, server VAD",
    "OpenAIRealtime, our floor",
    "OpenAIRealtime, our floor, provider stuck",
    "NovaSonic",
    "GeminiLive",
)
_LINGER_S, _START_S = 2.0, 120.0


async def stuck() -> None:
    """Never come back; and, when cancelled, not at once."""
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(_LINGER_S)


class StuckLLM(ScriptedLLM):
    """Stops in mid-answer."""

    async def generate(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, options: GenerateOptions = DEFAULT_OPTIONS
    ) -> AsyncGenerator[LLMEvent, None]:
        """See LLM."""
        words = 0
        async with aclosing(super().generate(messages, tools, options=options)) as events:
            async for event in events:
                yield event
                words += 1
                if words == 40:
                    await stuck()


class Ports(msgspec.Struct, frozen=True):
    """Where the providers listen, and the file of Nova's certificate."""

    openai: int
    stuck: int
    nova: int
    gemini: int
    ca_file: str
    directory: str


@asynccontextmanager
async def providers(answer: str, cores: Sequence[int]) -> AsyncIterator[Ports]:
    """Providers in a process of their own, until the block ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as directory:
        process = context.Process(target=_main, args=(theirs, answer, list(cores), directory), daemon=True)
        process.start()
        theirs.close()
        try:
            if not await asyncio.to_thread(ours.poll, _START_S):
                raise TimeoutError("the providers did not start")
            yield ours.recv()
        finally:
            ours.close()
            await asyncio.to_thread(process.join, 15.0)
            if process.is_alive():
                process.kill()


def _main(control: Connection, answer: str, cores: list[int], directory: str) -> None:
    pin(cores)
    asyncio.run(_provide(control, answer, directory))


async def _provide(control: Connection, answer: str, directory: str) -> None:
    use_local_credentials(directory)
    stt, tts = MoonshineSTT(), PiperTTS()

    def agent(make: type[ScriptedLLM]) -> Agent:
        llm = make(lambda messages: [TextDelta(text=answer)], first_token_s=0.1)
        return Agent(model=Cascade(stt=stt, llm=llm, tts=tts, vad=SileroVAD, end_of_turn=TextEndOfTurn()))

    answering, sticking = agent(ScriptedLLM), agent(StuckLLM)
    async with AsyncExitStack() as stack:
        web = await stack.enter_async_context(serving_wire("openai", answering, directory))
        broken = await stack.enter_async_context(serving_wire("openai", sticking, directory))
        nova = await stack.enter_async_context(serving_wire("nova", answering, directory))
        ca_file = os.environ["SSL_CERT_FILE"]
        control.send(Ports(web, broken, nova, web, ca_file, directory))
        await asyncio.to_thread(control.poll, None)  # until the other end is closed


def factory(ports: Ports, answer: str) -> AgentFactory:
    """Makes the agent on the model that the caller asks for."""
    use_local_credentials(ports.directory)
    os.environ["SSL_CERT_FILE"] = ports.ca_file

    def ask(wire: Wire, port: int, **options: Any) -> Callable[[], Agent]:
        return lambda: Agent(
            model=client(wire, port, **options), instructions="Tell the way.", greeting=answer, idle_prompt=""
        )

    makers: dict[Kind, Callable[[], Agent]] = {
        "OpenAIRealtime, server VAD": ask("openai", ports.openai),
        "OpenAIRealtime, our floor": ask("openai", ports.openai, turn_detection=None),
        "OpenAIRealtime, our floor, provider stuck": ask("openai", ports.stuck, turn_detection=None),
        "NovaSonic": ask("nova", ports.nova),
        "GeminiLive": ask("gemini", ports.gemini),
    }

    async def choose(call: CallInfo) -> Agent:
        return makers[call.query["fault"]]()  # type: ignore[index]

    return choose
