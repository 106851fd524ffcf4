"""A session's tail, over as many connections as it takes: no event twice, none left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from .control import ControlError, ControlLostError, Host
from .terminal import say

#: waits before the tries after a connection was lost, seconds; after the last one it is given up
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
#: a tail that says nothing for so long is lost: its host comments every 15 s
_QUIET_S = 45.0


async def events(
    host: Host,
    session: str,
    *,
    agent: str = "",
    follow: bool = True,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> AsyncGenerator[str, None]:
    """The events of a session as JSON, until it ends (or all that there are). Lost connections are told on standard error.

    Raises:
        ControlError: the host refuses, its journal cannot be read, or it does not come back.
    """
    last, tries, begun = "", 0, False
    while True:
        try:
            async with host.stream(
                "GET",
                f"/sessions/{session}/tail",
                headers={"last-event-id": last} if last else None,
                quiet_s=_QUIET_S,
                agent=agent,
                follow="true" if follow else "false",
            ) as answer:
                if tries:
                    say("The host answers again.", "dim")
                begun = True
                async for id, data in _parsed(answer.aiter_lines()):
                    tries, last = 0, id or last
                    if data:
                        yield data
            return
        except ControlLostError as error:
            if not begun:
                raise
            if tries == len(PAUSES):
                raise ControlError(
                    f"The host did not come back: {error.message}",
                    hint="The session may go on: ask for its tail again when the host answers.",
                ) from error
            say(f"The connection to the host is lost; trying again in {PAUSES[tries]:g} s.", "yellow")
            await sleep(PAUSES[tries])
            tries += 1


async def _parsed(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, str]]:
    """(id, data) of each event that is whole; ("", "") for a comment. Raises ControlError for the host's own.

    Source: HTML standard, "Server-sent events", as far as the host writes them: a line of data an event.
    """
    fields: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if fields.get("event") == "error":
            raise ControlError(f"The journal of the session cannot be read: {fields.get('data', '')}")
        yield fields.get("id", ""), fields.get("data", "")
        fields = {}
