"""What the pairs of both ends of a provider's protocol have in common: links in memory, and a call of ours over them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from duologue import Agent
from duologue.channels.base import Channel
from duologue.serve.sessions import Sessions
from duologue.session.session import Session


class Provider:
    """A provider of a protocol in memory.

    Attributes:
        model: what it serves.
        wires: the links that were opened to it, oldest first.
        refuse: what it raises instead of opening the next link, if anything.
    """

    def __init__(self, model: Any, connect_s: float) -> None:
        self.model = model
        self.wires: list[Any] = []
        self.refuse: Callable[[], BaseException | None] = lambda: None
        self._connect_s = connect_s
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def served(self) -> Sessions:
        """Its sessions."""
        raise NotImplementedError

    def link(self, model: Any) -> tuple[Any, Coroutine[Any, Any, None]]:
        """A link for a model of ours, and what serves it."""
        raise NotImplementedError

    async def connect(self, model: Any) -> Any:
        """Opens a link: a model's `connector`."""
        await asyncio.sleep(self._connect_s)
        if (error := self.refuse()) is not None:
            raise error
        wire, serving = self.link(model)
        self.wires.append(wire)
        self._tasks.add(asyncio.get_running_loop().create_task(serving))
        return wire.client

    async def close(self) -> None:
        """End what is served."""
        await self.served.close()
        for wire in self.wires:
            wire.up.put_nowait(None)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def sessions(self) -> list[Session]:
        """The provider's sessions that are open."""
        return [call.session for call in self.served._calls.values()]


class Call[P: Provider, C: Channel]:
    """One call of ours, through the provider."""

    def __init__(self, caller: C, provider: P, model: Any, **agent: Any) -> None:
        self.caller = caller
        self.provider = provider
        self.model = model
        given = {"apology": "", "idle_prompt": "", "farewell": "", **agent}
        self.session = Agent(model=model, **given).session(caller, tool_runner="inline", id="call")

    async def run(self) -> Session:
        """Hold the call to its end."""
        try:
            async with self.session as session:
                await session.wait()
        finally:
            await self.provider.close()
        return self.session
