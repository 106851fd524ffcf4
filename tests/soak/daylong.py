"""A conversation of many hours under the virtual clock: our codecs on both sides, in memory, and an account of every sample.

Connections end every eight minutes by declared limit and at random besides; every few turns a tool is out for seconds.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.callers import MarkedCaller
from benchmarks.marks import Account, Runs, settle
from benchmarks.providers import RATES, Ear, Provider, Stand, Wire
from benchmarks.soak import memory_mb
from duologue import Agent, tool
from duologue.engine.limits import LimitOptions
from duologue.events import ConnectionRotated, ErrorEvent, Event, ResponseFinished, ResponseStarted, ToolFinished
from duologue.models import GeminiLive, NovaSonic, OpenAIRealtime
from duologue.models.base import Began, Connection, Context, Ended, Model, ToolRequested
from duologue.serve.app import Server
from duologue.serve.gemini_live import Gemini
from duologue.serve.nova_sonic import NovaOptions, NovaServer
from duologue.serve.openai_realtime import Realtime
from duologue.serve.options import ServeOptions
from duologue.serve.sessions import Sessions
from duologue.session.session import Session
from duologue.session.toolbench import FillerOptions
from duologue.testing.clock import run_virtual
from duologue.tools.base import ToolCall
from duologue.wire.nova_sonic import StreamLimits
from tests.models import gemini_pair, nova_pair, realtime_pair

LIFE_S = 480.0
#: from one drop to the next, seconds
_DROP_S = (600.0, 2400.0)
#: one turn of so many calls a tool, which is out for so long
_TOOL_EVERY, _TOOL_S = 6, (2.0, 9.0)
_TOLD_AT_S = 300.0
FACT = "The user's dog is called Quixote the Fourth."


class SoakEar(Ear):
    """A provider that sometimes calls a tool before it answers."""

    def __init__(self, stand: Stand, context: Context, rate: int) -> None:
        super().__init__(stand, context, rate)
        self._turns = 0
        self._called: tuple[Runs, Runs] | None = None

    def _answer(self, response: str, turn: str, origin: Any, runs: Runs, words: Runs) -> None:
        self._turns += bool(turn)
        if turn and self._turns % _TOOL_EVERY == 0:
            self._called = runs, words
            call = ToolCall(id=f"call-{self.account.link}-{self._turns}", name="look_up", arguments={"n": self._turns})
            self._context.report(Began(response=response, turn=turn))
            self._context.report(ToolRequested(response=response, call=call))
            self._context.report(Ended(response=response))
            return
        if not turn and self._called is not None:
            (runs, words), self._called = self._called, None
        super()._answer(response, turn, origin, runs, words)


class SoakProvider(Provider):
    """See SoakEar."""

    async def open(self, context: Context) -> Connection:
        """See Model."""
        return SoakEar(self._stand, context, self._rate)


class _Sent(list[Any]):
    """What a client sent on a link, as bytes of text, audio left out."""

    def append(self, message: Any) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        if '"input_audio_buffer.append"' not in text and '"realtimeInput"' not in text and '"audioInput"' not in text:
            super().append(text)


def _openai(stand: Stand) -> tuple[Any, Model]:
    provider = realtime_pair.Provider(session_s=LIFE_S * 2)
    provider.server = Server(Agent(model=SoakProvider(stand, RATES["openai"])), provider.server.options)
    provider.realtime = Realtime(provider.server)
    return provider, OpenAIRealtime(api_key="x", connector=_kept(provider), session_s=LIFE_S)


def _gemini(stand: Stand) -> tuple[Any, Model]:
    provider = gemini_pair.Provider(connection_s=LIFE_S * 2)
    provider.server = Server(Agent(model=SoakProvider(stand, RATES["gemini"])), provider.server.options)
    provider.gemini = Gemini(provider.server)
    # Without resumption, so that the whole history travels with each connection.
    return provider, GeminiLive(api_key="x", connector=_kept(provider), session_s=LIFE_S, session_resumption=False)


def _nova(stand: Stand) -> tuple[Any, Model]:
    limits = StreamLimits(connection_s=LIFE_S)
    provider = nova_pair.Provider(limits=limits)
    sessions = Sessions(Agent(model=SoakProvider(stand, RATES["nova"])), ServeOptions(studio=False), None)
    provider.nova = NovaServer(sessions, NovaOptions(as_model=True, limits=limits))
    return provider, NovaSonic(connector=_kept(provider), limits=limits)


def _kept(provider: Any) -> Callable[[Any], Any]:
    """The provider's connector; of its links only the last is kept, and of that what is not audio."""

    async def connect(model: Any) -> Any:
        client = await provider.connect(model)
        wire = provider.wires[-1]
        wire.sent = _Sent()
        if isinstance(wire, nova_pair.Wire):
            wire.audio, wire.received = _Deaf(), _Deaf()  # type: ignore[assignment]
        for old in provider.wires[:-3]:
            old.sent = _Sent()
        return client

    return connect


class _Deaf:
    """Keeps nothing."""

    def append(self, item: Any) -> None: ...

    def __iadd__(self, items: Any) -> _Deaf:
        return self


_MAKERS: dict[Wire, Callable[[Stand], tuple[Any, Model]]] = {"openai": _openai, "gemini": _gemini, "nova": _nova}


class SoakCaller(MarkedCaller):
    """A caller who keeps no more than the account needs."""

    def __init__(self, stand: Stand, rate: int, seed: int, until_s: float) -> None:
        super().__init__(stand, rate, seed, turn_s=(0.8, 5.0), pause_s=(4.0, 24.0), barge_in=0.1, frames=5)
        self._length_s = until_s
        self.heard_numbers: list[int] = []
        self.rotations = self.tools = 0

    def _frame(self, position: int, now: float) -> bytes:
        self.stop = self.stop or now - self.begin >= self._length_s
        self._forget()
        return super()._frame(position, now)

    def _forget(self) -> None:
        del self.rendered[:]
        self._seen = 0
        for response in list(self.sounded):
            self.heard_numbers += self.numbers.pop(response, [])
            if response != self._newest:
                del self.sounded[response]

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""
        match event:
            case ResponseStarted():
                self._newest = event.response
            case ResponseFinished() if event.response in self.numbers and not event.heard_ms:
                del self.numbers[event.response]
            case ConnectionRotated():
                self.rotations += 1
            case ToolFinished():
                self.tools += 1
            case ErrorEvent():
                self.errors.append(event)
        super().event(event, encoded)
        self.events.clear()
        self.changes.clear()

    _newest = ""


@dataclass
class Outcome:
    """What a conversation came to. `rss_mb`: resident memory at each tenth of it."""

    account: Account
    wrong: list[str]
    rotations: int
    tools: int
    drops: int
    sent: list[str]
    limit: int | None
    errors: list[str]
    hours: float = 0.0
    rss_mb: list[float] = field(default_factory=list)


def converse(wire: Wire, hours: float, seed: int = 1) -> Outcome:
    """Hold the conversation."""

    @tool
    async def look_up(n: int) -> str:
        """Look something up."""
        await asyncio.sleep(chance.uniform(*_TOOL_S))
        return f"entry {n}"

    chance, stand = random.Random(seed), Stand(seed)
    stand.keeps_history = False

    async def hold() -> Outcome:
        provider, model = _MAKERS[wire](stand)
        caller = SoakCaller(stand, RATES[wire], seed, hours * 3600)
        agent = Agent(
            model=model,
            instructions="soak",
            tools=[look_up],
            idle_prompt="",
            apology="",
            farewell="",
            filler=FillerOptions(after_s=0),
            limits=LimitOptions(max_call_s=hours * 3600 + 300),
        )
        drops = 0
        rss: list[float] = []

        async def disturb(session: Session) -> None:
            nonlocal drops
            await asyncio.sleep(min(_TOLD_AT_S, hours * 600))
            session.conductor.conversation.pin("dog", FACT)
            while True:
                await asyncio.sleep(chance.uniform(*_DROP_S))
                provider.wires[-1].break_()
                drops += 1

        async def measure() -> None:
            while True:
                await asyncio.sleep(hours * 360)
                rss.append(memory_mb())

        try:
            async with agent.session(caller, tool_runner="inline", id="soak") as session:
                tasks = [asyncio.ensure_future(work) for work in (disturb(session), measure())]
                try:
                    await session.wait()
                finally:
                    for task in tasks:
                        task.cancel()
        finally:
            sent = list(provider.wires[-1].sent)
            await provider.close()
        turns = [(turn.start, turn.end) for turn in caller.turns if turn.ended is not None]
        account = Account()
        heard = [stand.answers[number] for number in dict.fromkeys(caller.heard_numbers + caller.heard())]
        wrong = settle(turns, heard, stand.received, account)
        return Outcome(
            account,
            wrong,
            caller.rotations,
            caller.tools,
            drops,
            sent,
            model.capabilities.history_bytes,
            [str(error) for error in caller.errors],
            (asyncio.get_running_loop().time() - caller.begin) / 3600,
            rss,
        )

    return run_virtual(hold(), limit=hours * 3600 + 600)
