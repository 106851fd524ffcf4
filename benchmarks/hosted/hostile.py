"""An app that harms whom it can: deployed beside agents that are in calls. It does as the invocation tells it."""

import asyncio
import os
import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

_BLOCK = 1 << 20


def spin(seconds: float) -> None:
    """Four processes that compute."""
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pass
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def fork(seconds: float) -> None:
    """As many processes as it gets, each of which does the same."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.fork()
        except OSError:
            time.sleep(0.001)


def eat(seconds: float) -> None:
    """All the memory it gets."""
    held, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            held.append(os.urandom(_BLOCK) * 8)
        except MemoryError:
            time.sleep(0.01)


async def ping(request: Request) -> JSONResponse:
    """The contract."""
    return JSONResponse({"status": "Healthy"})


async def invoke(request: Request) -> JSONResponse:
    """Harm."""
    order = await request.json()
    child = os.fork()
    if not child:
        {"spin": spin, "fork": fork, "eat": eat}[order["do"]](order["seconds"])
        os._exit(0)
    await asyncio.to_thread(os.waitpid, child, 0)
    return JSONResponse({"done": order["do"]})


app = Starlette(routes=[Route("/ping", ping), Route("/invocations", invoke, methods=["POST"])])
