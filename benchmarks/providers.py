"""Providers on this machine, over real sockets: our own servers of the three wires, and doors to them that can be shut.

Behind each wire is a model that keeps account: what it received on which connection (see :mod:`benchmarks.marks`), and what it
answered. It takes a drawn time to speak; the door before it takes a drawn time to connect.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

from benchmarks.marks import Answer, Reader, Received, Runs, extend
from duologue.agent import Agent
from duologue.events import ResponseOrigin
from duologue.models import GeminiLive, NovaSonic, OpenAIRealtime
from duologue.models.base import (
    Began,
    Capabilities,
    Connection,
    Context,
    Ended,
    Model,
    Recognised,
    Said,
    SpeechWindow,
    Spoke,
    TurnProbability,
)
from duologue.serve import ServeOptions, serving
from duologue.serve.nova_sonic import NovaOptions, serving_nova
from duologue.wire.gemini_live import ServerLimits as GeminiLimits
from duologue.wire.nova_sonic import StreamLimits
from duologue.wire.openai_realtime import ServerLimits as OpenAILimits

type Wire = Literal["openai", "nova", "gemini"]
WIRES: tuple[Wire, ...] = ("openai", "nova", "gemini")
#: rate of the caller's audio on each wire, Hz; answers are at 24 kHz on all
RATES: dict[Wire, int] = {"openai": 24_000, "nova": 16_000, "gemini": 16_000}
OUTPUT_RATE = 24_000
CONNECT_S = (0.15, 0.8)
THINK_S = (0.3, 0.7)
#: length of an answer
ANSWER_S = (0.8, 2.2)
#: how far a provider's audio runs ahead of its being played
LEAD_S = 0.2
_CHUNK_S = 0.1
#: window in which a provider judges whether somebody speaks, at most, ms
_WINDOW_MS = 32
#: answers that their sound tells apart
_SOUNDS = 32_000
_KEY, _SECRET = "AKIDEXAMPLE", "SECRETEXAMPLEKEY"
_WORDS = re.compile(r"samples (\d+) to (\d+)")


def number_sound(number: int) -> int:
    """The sample of which an answer consists: its sound tells its number, until its text comes."""
    return number % _SOUNDS + 1


class Stand:
    """All providers of a run: their connections and answers."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.received: list[Received] = []
        self.answers: dict[int, Answer] = {}
        self.connect_s = CONNECT_S
        self.think_s = THINK_S
        self.answer_s = ANSWER_S
        self.keeps_history = True

    def sounding(self, pcm: bytes) -> list[int]:
        """Numbers of the answers that a piece of audio belongs to: the newest ones that sound so."""
        found = []
        for sound in sorted({pcm[:2], pcm[-2:]}):
            number = struct.unpack("<h", sound)[0] - 1
            number += (len(self.answers) - number) // _SOUNDS * _SOUNDS
            if number in self.answers:
                found.append(number)
        return found

    def of(self, call: str) -> list[Received]:
        """What the connections of a call received. Calls are told apart by their agent's instructions."""
        return [one for one in self.received if one.call == call]


class Ear(Connection):
    """One connection's provider: hears marked audio, answers each turn with ``Answer N. ...``."""

    def __init__(self, stand: Stand, context: Context, rate: int) -> None:
        self._window = rate * _WINDOW_MS // 1000
        self._stand = stand
        self._context = context
        self._reader = Reader()
        self._turn: Runs = []  # speech of the open turn
        self._words: Runs = []
        self._typed = False
        self._before: tuple[Runs, Runs] = ([], [])  # of the turn before, for a turn that goes on
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._of_turn: dict[str, str] = {}
        self._waiting: set[str] = set()
        call = context.setup().instructions.split("\n")[0]
        now = asyncio.get_running_loop().time()
        self.account = Received(link=len(stand.received) + 1, call=call, opened=now)
        stand.received.append(self.account)

    def audio(self, pcm: bytes, position: int) -> None:
        """See Connection. However long the pieces are that it comes in, speech is judged window by window."""
        for at in range(0, len(pcm), 2 * self._window):
            self._hear(pcm[at : at + 2 * self._window], position + at // 2)

    def _hear(self, pcm: bytes, position: int) -> None:
        runs, speaking = self._reader.read(pcm)
        extend(self.account.runs, runs)
        extend(self._turn, runs)
        self.account.torn = self._reader.torn
        end = position + len(pcm) // 2
        self._context.report(SpeechWindow(start=position, end=end, probability=0.95 if speaking else 0.02))

    def text(self, turn: str, text: str) -> None:
        """See Connection."""
        self._typed = True
        self._words += [(int(start), int(end)) for start, end in _WORDS.findall(text)]

    def prepare(self, turn: str, *, reply: bool) -> None:
        """See Connection."""
        text = " and ".join(f"samples {start} to {end}" for start, end in self._turn + self._words)
        self._context.report(TurnProbability(probability=0.97))
        self._context.report(Recognised(text=text, final=True, turn=turn))

    def commit(self, turn: str) -> None:
        """See Connection."""
        # A typed turn is that alone: what is being said meanwhile belongs to the next one.
        self._before = ([], self._words or self._unanswered()) if self._typed else (self._turn, self._words)
        self._turn, self._words = (self._turn if self._typed else []), []
        self._typed = False
        self._answer(self._context.next_response(), turn, "turn", *self._before)

    def reopen(self, turn: str) -> None:
        """See Connection."""
        if (response := self._of_turn.pop(turn, None)) is not None:
            self.cancel(response)
        self._turn, self._words = self._before[0] + self._turn, self._before[1] + self._words

    def discard(self, turn: str) -> None:
        """See Connection."""
        self._turn, self._words = [], []

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection. After tools it answers the last turn, which another connection may have heard."""
        self._answer(response, "", origin, [], self._unanswered())

    def _unanswered(self) -> Runs:
        """The last turn of the history, by its words, if no answer follows it."""
        for item in reversed(self._context.history()):
            if item.kind == "assistant" and item.text:
                break
            if item.kind == "user" and (words := _WORDS.findall(item.text)):
                return [(int(start), int(end)) for start, end in words]
        return []

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        self._answer(response, "", origin, [], [])

    def cancel(self, response: str) -> None:
        """See Connection."""
        self._waiting.discard(response)
        if (task := self._tasks.pop(response, None)) is not None:
            task.cancel()
        self._context.report(Ended(response=response, status="cancelled"))

    def _answer(self, response: str, turn: str, origin: ResponseOrigin, runs: Runs, words: Runs) -> None:
        stand, context = self._stand, self._context
        answer = Answer(
            number=len(stand.answers) + 1,
            link=self.account.link,
            runs=runs,
            words=words,
            think_s=stand.chance.uniform(*stand.think_s),
        )
        stand.answers[answer.number] = answer
        seconds = stand.chance.uniform(*stand.answer_s)
        if turn:
            self._of_turn = {turn: response}
        self._waiting.add(response)
        context.report(Began(response=response, turn=turn, origin=origin))

        async def speak() -> None:
            if response not in self._waiting:
                return
            task = asyncio.current_task()
            assert task is not None
            self._tasks[response] = task
            await asyncio.sleep(answer.think_s)
            if stand.keeps_history:
                answer.history = [item.text for item in context.history()]
            context.report(Said(response=response, text=f"Answer {answer.number}. "))
            loop = asyncio.get_running_loop()
            answer.began = loop.time()
            for step in range(round(seconds / _CHUNK_S)):
                await asyncio.sleep(answer.began + step * _CHUNK_S - LEAD_S - loop.time())
                sound = struct.pack("<h", number_sound(answer.number))
                context.report(Spoke(response=response, pcm=sound * int(OUTPUT_RATE * _CHUNK_S)))
            self._tasks.pop(response, None)
            context.report(Ended(response=response))

        context.spawn(speak, f"answer {answer.number}")

    async def close(self) -> None:
        """See Connection."""
        for task in self._tasks.values():
            task.cancel()


class Provider(Model):
    """The model behind a wire. See Ear."""

    name = "provider"

    def __init__(self, stand: Stand, rate: int) -> None:
        self._stand = stand
        self._rate = rate

    @property
    def capabilities(self) -> Capabilities:
        """See Model."""
        return Capabilities(authority="engine", input_rate=self._rate, output_rate=OUTPUT_RATE, can_truncate=True)

    async def open(self, context: Context) -> Connection:
        """See Model."""
        return Ear(self._stand, context, self._rate)


class Door:
    """A TCP proxy on loopback before a provider, for one caller. It takes its time to open, and can be shut in several ways.

    Attributes:
        state: `open`; `down`: connections are refused by a reset; `dead`: they are taken, and nothing comes of them.
    """

    def __init__(self, port: int, stand: Stand) -> None:
        self._to = port
        self._stand = stand
        self._server: asyncio.Server | None = None
        self._links: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaf: set[asyncio.StreamWriter] = set()
        self.state: Literal["open", "down", "dead"] = "open"
        self.port = 0
        #: when each connection came
        self.came: list[float] = []

    async def start(self) -> int:
        """Listen; returns the port."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    @property
    def links(self) -> int:
        """How many connections are open."""
        return len(self._links)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wait = self._stand.chance.uniform(*self._stand.connect_s)
        self.came.append(asyncio.get_running_loop().time())
        await asyncio.sleep(wait)
        if self.state == "down":
            _reset(writer)
            return
        if self.state == "dead":
            self._deaf.add(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, far_writer)
        self._links.append(pair)
        pumps = [
            asyncio.create_task(self._pump(source, sink))
            for source, sink in ((reader, far_writer), (far_reader, writer))
        ]
        self._tasks.update(pumps)
        await asyncio.wait(pumps)
        self._tasks.difference_update(pumps)
        if pair in self._links:
            self._links.remove(pair)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                if sink not in self._deaf and not sink.is_closing():
                    sink.write(data)
                    await sink.drain()
            if sink not in self._deaf:
                sink.close()
        except OSError:
            if sink not in self._deaf:
                sink.transport.abort()

    def reset(self) -> int:
        """Break off every connection; returns how many there were."""
        links, self._links = self._links, []
        for pair in links:
            for writer in pair:
                _reset(writer)
        return len(links)

    def stall(self) -> None:
        """Let nothing through any more, either way; the connections stay."""
        for pair in self._links:
            self._deaf.update(pair)

    async def close(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        for writer in self._deaf:
            writer.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    if raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def provider(wire: Wire, stand: Stand, directory: str, *, limit_s: float = 3600.0) -> AsyncIterator[int]:
    """Serve a provider on a wire; gives its port. Connections live for `limit_s`. Certificates are kept in `directory`."""
    async with serving_wire(
        wire, Agent(model=Provider(stand, RATES[wire]), name="provider"), directory, limit_s
    ) as port:
        yield port


@asynccontextmanager
async def serving_wire(wire: Wire, agent: Agent, directory: str, limit_s: float = 3600.0) -> AsyncIterator[int]:
    """Serve an agent's model on a wire; gives its port. Where it is Nova's, this process trusts the certificate from then on."""
    if wire == "nova":
        options = NovaOptions(
            port=0,
            keys={_KEY: _SECRET},
            certificate_directory=directory,
            as_model=True,
            max_sessions=1000,
            limits=StreamLimits(connection_s=limit_s),
        )
        async with serving_nova(agent, options) as nova:
            os.environ["SSL_CERT_FILE"] = str(nova.ca_file)
            yield nova.port
        return
    web = ServeOptions(
        port=0,
        studio=False,
        as_model=True,
        max_sessions=1000,
        openai=OpenAILimits(session_s=limit_s),
        gemini=GeminiLimits(connection_s=limit_s, notice_s=min(60.0, limit_s / 3)),
    )
    async with serving(agent, web) as server:
        yield server.port


def client(wire: Wire, port: int, *, life_s: float = 3600.0, **options: Any) -> Model:
    """A model of ours for the provider at `port`, which is told that connections live for `life_s`."""
    makers: dict[Wire, Callable[[], Model]] = {
        "openai": lambda: OpenAIRealtime(
            api_key="x", base_url=f"http://127.0.0.1:{port}/v1", session_s=life_s, **options
        ),
        "nova": lambda: NovaSonic(
            endpoint_url=f"https://127.0.0.1:{port}",
            region="us-east-1",
            limits=StreamLimits(connection_s=life_s),
            **options,
        ),
        "gemini": lambda: GeminiLive(api_key="x", base_url=f"http://127.0.0.1:{port}", session_s=life_s, **options),
    }
    return makers[wire]()


def use_local_credentials(directory: str) -> None:
    """Have the AWS SDK find the key of :func:`provider`, and no other, in this process."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME"):
        os.environ.pop(name, None)
    os.environ.update(
        AWS_ACCESS_KEY_ID=_KEY,
        AWS_SECRET_ACCESS_KEY=_SECRET,
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=f"{directory}/config",
        AWS_SHARED_CREDENTIALS_FILE=f"{directory}/credentials",
    )
