"""What the tests of workers share: deployed code, a fleet, a gateway's end of a link, requests to a worker."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from duologue.host.types import SCHEMA, Lifecycle, Limits, Tier, VersionSpec
from duologue.host.workers import Fleet, FleetOptions, Worker
from duologue.wire.hostlink import Accepted, Closed, Connected, LinkClient, Message, Open, Rejected

TENANT = "111122223333"

#: a Duologue agent that needs no models
AGENT = """
from duologue import Agent
from duologue.testing.scripted import Reply, ScriptedModel, Utterance

agent = Agent(
    model=ScriptedModel([Utterance(text="hello")], lambda text, context: Reply(text=f"You said {text}.")),
    greeting="Hello.",
)
"""

#: an unmodified app of the public SDK
SDK = """
import os
from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()


@app.entrypoint
def invoke(payload):
    return {"echo": payload["prompt"], "pid": os.getpid(), "uid": os.getuid()}


@app.websocket
async def talk(websocket, context):
    await websocket.accept()
    while True:
        await websocket.send_json({"heard": await websocket.receive_json()})


if __name__ == "__main__":
    app.run()
"""

#: an app that does whatever it is asked: the hostile tenant, and the one who looks around
ANYTHING = """
import asyncio, ctypes, os, random, signal, socket, ssl, subprocess, sys, time, uuid
import numpy
from pathlib import Path
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from duologue import secrets

kept = {"list": []}
health = {"code": 200, "status": "Healthy"}
drawn_at_import = random.random()


async def ping(request):
    return JSONResponse({"status": health["status"]}, health["code"])


async def run(request):
    code = (await request.body()).decode()
    scope = dict(globals())
    try:
        exec(code, scope)
        return JSONResponse({"value": scope.get("value")})
    except BaseException as error:
        return JSONResponse({"error": type(error).__name__, "text": str(error)})


app = Starlette(routes=[Route("/ping", ping), Route("/run", run, methods=["POST"])])
"""


def deploy(source: Path, **files: str) -> Path:
    """A directory with Python files, as the host would have unpacked it."""
    source.mkdir(exist_ok=True)
    for name, text in files.items():
        (source / f"{name}.py").write_text(text)
    return source


def spec(
    source: Path,
    kind: str = "asgi",
    entry: str = "main.py:app",
    *,
    version: int = 1,
    tenant: str = TENANT,
    tier: Tier = "process",
    isolation: str = "best-effort",
    limits: Limits | None = None,
    lifecycle: Lifecycle | None = None,
    command: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> VersionSpec:
    """A version of what was deployed."""
    return VersionSpec(
        tenant=tenant,
        runtime="agent-0123456789",
        version=version,
        digest="0" * 64,
        kind=kind,  # type: ignore[arg-type]
        source=str(source),
        entry=entry if kind != "command" else "",
        command=command,
        tier=tier,
        isolation=isolation,  # type: ignore[arg-type]
        limits=limits or Limits(),
        lifecycle=lifecycle or Lifecycle(),
        environment=environment or {},
    )


def sdk_command() -> tuple[str, ...]:
    """The SDK's app, started as its documentation says."""
    return (sys.executable, "main.py")


@asynccontextmanager
async def fleet(**options: Any) -> AsyncIterator[Fleet]:
    """A fleet in a directory with a short path."""
    directory = Path(tempfile.mkdtemp(prefix="fl"))
    try:
        async with Fleet(directory / "r", options=FleetOptions(**{"pool": 0, "inference": "own", **options})) as made:
            yield made
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def begin(made: Fleet, of: VersionSpec, session: str = "s-1", *, storage: str = "", **secrets: str) -> Worker:
    """A worker for a session, journal in memory."""
    return await made.start(of, session=session, epoch=1, secrets=secrets, journal="", storage=storage)


@asynccontextmanager
async def http(worker: Worker) -> AsyncIterator[httpx.AsyncClient]:
    """A client of its HTTP socket."""
    transport = httpx.AsyncHTTPTransport(uds=worker.http)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker", timeout=30) as client:
        yield client


async def do(worker: Worker, code: str) -> Any:
    """Have ANYTHING run code; its `value`, or {"error", "text"}."""
    async with http(worker) as client:
        answer = (await client.post("/run", content=code)).json()
    return answer.get("value") if "error" not in answer else answer


def read(pid: int, name: str) -> str:
    """A file of a process in /proc."""
    return Path(f"/proc/{pid}/{name}").read_text()


class Gate:
    """A gateway's end of one link, with one stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._link = LinkClient(peer="gateway", schema=SCHEMA, now=self._loop.time())
        self._events: list[Any] = []

    async def next(self, *kinds: type) -> Any:
        """The next event of one of these kinds."""
        while True:
            for index, event in enumerate(self._events):
                if isinstance(event, kinds):
                    del self._events[index]
                    if isinstance(event, Message):
                        self._link.consumed(event.stream, event.cost)
                    return event
            self._flush()
            data = await self._reader.read(1 << 16)
            if not data:
                raise ConnectionError("the link is closed")
            self._events += self._link.receive(data, self._loop.time())

    def _flush(self) -> None:
        while data := self._link.data_to_send():
            self._writer.write(data)

    async def open(self, session: str, *, epoch: int = 1, kind: Any = "ws", path: str = "/ws") -> Any:
        """Open a stream: Accepted or Rejected."""
        await self.next(Connected)
        self._link.open(Open(kind=kind, session=session, epoch=epoch, path=path, headers=(("host", "worker"),)))
        return await self.next(Accepted, Rejected)

    def send(self, message: str | bytes) -> None:
        """Send on the first stream."""
        self._link.send(1, message)
        self._flush()

    async def text(self) -> dict[str, Any]:
        """The next JSON message."""
        while True:
            event = await self.next(Message)
            if event.text:
                value: dict[str, Any] = json.loads(event.data)
                return value

    async def until(self, kind: str) -> dict[str, Any]:
        """The next JSON message of a type."""
        while (message := await self.text())["type"] != kind:
            pass
        return message

    async def closed(self) -> Closed:
        """The end of the stream."""
        event: Closed = await self.next(Closed)
        return event


HELLO = '{"type":"hello","versions":[1],"input":{"rate":16000},"output":{"rate":24000}}'


@asynccontextmanager
async def gate(worker: Worker) -> AsyncIterator[Gate]:
    """A link to a worker."""
    reader, writer = await asyncio.open_unix_connection(worker.link)
    try:
        yield Gate(reader, writer)
    finally:
        writer.close()
