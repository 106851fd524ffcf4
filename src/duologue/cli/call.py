"""``duologue call``: phone a served agent."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

from cyclopts import Parameter

from ..channels.console import Console
from ..channels.playback import TimelineWriter, beside, check_writable
from ..channels.recording import RecordedCaller, Recording
from ..channels.settling import Settling
from ..client import Call, connect
from ..client.runtime import SESSION_HEADER
from ..errors import ConfigurationError, DuologueError
from ..events import ActivityInput, Input, SessionEnded
from .terminal import CallFailedError, run

_RATE = 24_000


def call(
    url: str,
    /,
    *,
    file: Path | None = None,
    out: Path | None = None,
    key: Annotated[str, Parameter(env_var="DUOLOGUE_KEY")] = "",
) -> int:
    """Call a served agent: with a recording, or else with typed lines.

    Parameters
    ----------
    url
        ws://host:port/ws, or wss://host:port/runtimes/name/ws of a host.
    file
        Ask with this recording (WAV, 16-bit PCM).
    out
        Write what the agent says to this WAV file.
    key
        The server's key, or an API key of the host.
    """
    if not url.startswith(("ws://", "wss://")):
        raise ConfigurationError(f"{url!r} is no WebSocket address.", hint="For example ws://localhost:8080/ws")
    recording = Recording(file) if file is not None else None
    target = check_writable(out) if out is not None else None
    return run(_call(url, recording, target, key))


async def _call(url: str, recording: Recording | None, out: Path | None, key: str) -> int:
    loop = asyncio.get_running_loop()
    spoken = recording is not None or out is not None
    writer = TimelineWriter(out, _RATE, loop.time()) if out is not None else None
    hosted = "/runtimes/" in url
    phone = connect(
        url,
        input_rate=recording.rate if recording is not None else None,
        output_rate=_RATE if spoken else None,
        token=key if key and not hosted else None,
        headers=_hosted_headers(url, key) if hosted else None,
        name="duologue-call",
        sink=writer.sink if writer is not None else None,
    )
    console = Console(read=recording is None, spoken=spoken)
    try:
        async with phone:
            line = _Line(phone)
            await console.start(line)
            calling = console.run() if recording is None else _speak(phone, recording, line.settling)
            ended = await line.carry(calling, console)
    except DuologueError as error:
        raise CallFailedError(str(error)) from error
    finally:
        if writer is not None:
            writer.close(loop.time())
    if ended is not None and ended.reason == "error":
        raise CallFailedError(f"The call failed: {ended.detail or 'see above'}.")
    return 0


def _hosted_headers(url: str, key: str) -> dict[str, str]:
    """What a host wants: the key in a header alone, for `hello` goes to the agent; an id, to find the session again.

    A ticket or a signature in the address is the credential, and may name the session.
    """
    given = {name.lower() for name, _ in parse_qsl(urlsplit(url).query)}
    headers = {} if given & {"ticket", SESSION_HEADER.lower()} else {SESSION_HEADER: str(uuid.uuid4())}
    return headers | ({"Authorization": f"Bearer {key}"} if key and not given & {"ticket", "x-amz-signature"} else {})


async def _speak(phone: Call, recording: Recording, settling: Settling) -> None:
    async def send(pcm: bytes, position: int) -> None:
        await phone.send_audio(pcm, position=position)

    async def ended() -> None:
        await phone.send(ActivityInput(kind="ended"))

    await RecordedCaller(recording, settling, send, ended).run()


class _Line:
    """The call as a console sees it: a session's port at the other end of a wire. See `duologue.channels.base.Port`."""

    def __init__(self, phone: Call) -> None:
        self._phone = phone
        self._inputs: asyncio.Queue[Input] = asyncio.Queue()
        self.settling = Settling(asyncio.get_running_loop().time())

    def input(self, message: Input) -> None:
        """Typed turns and approvals, in order."""
        self._inputs.put_nowait(message)

    def refused(self, error: DuologueError) -> None:
        """The server tells of what it refuses by itself."""

    def ended(self, reason: str = "client_left") -> None:
        """The console is through: `carry` returns."""

    def audio(self, pcm: bytes, position: int | None = None) -> None:
        """A console brings no audio."""

    def played(self, position: int, at: float | None = None) -> None:
        """The client acknowledges playout by itself."""

    def cleared(self, position: int) -> None:
        """So it does here."""

    def away(self) -> None:
        """The client resumes by itself."""

    def back(self, *, gap_events: int = 0, gap_ms: int = 0) -> None:
        """And tells what was lost."""

    def took(self, epoch: int, n: int) -> None:
        """See Port. The call is the server's to keep."""

    async def keep(self, state: bytes, told: int) -> None:
        """See Port. The call is the server's to keep."""

    async def carry(self, calling: Coroutine[Any, Any, None], console: Console) -> SessionEnded | None:
        """Show the call until `calling` or the agent ends it; returns how the agent did."""
        last: SessionEnded | None = None

        async def follow() -> None:
            nonlocal last
            async for event in self._phone:
                self.settling.take(event, asyncio.get_running_loop().time())
                console.event(event, b"")
                if isinstance(event, SessionEnded):
                    last = event

        async def send() -> None:
            while True:
                await self._phone.send(await self._inputs.get())

        await beside(calling, beside(follow(), send()))
        return last
