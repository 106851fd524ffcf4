"""``duologue talk``: a conversation with an agent, in the browser, at the sound card, over files, or in text."""

from __future__ import annotations

import asyncio
import socket
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..agent import Agent, AgentFactory, resolve
from ..channels.base import Channel
from ..channels.console import Console
from ..channels.file import File
from ..channels.microphone import Microphone
from ..channels.playback import check_writable
from ..errors import ConfigurationError
from ..events import SessionEnded
from ..serve import ServeOptions, serving
from ..session.definition import CallInfo
from .load import load
from .recorder import Journaled
from .terminal import CallFailedError, run, say

_PORT = 8080


def talk(
    app: str,
    /,
    *,
    microphone: bool = False,
    file: Path | None = None,
    out: Path | None = None,
    text: bool = False,
    input_device: str | None = None,
    output_device: str | None = None,
    echo_cancellation: bool | None = None,
    port: int | None = None,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    journal: Path | None = None,
) -> int:
    """Talk to an agent. Without options the talk page opens in the browser.

    Parameters
    ----------
    app
        app.py, app.py:name or package.module:name.
    microphone
        Use the sound card instead of the browser.
    file
        Ask with a recording (WAV, 16-bit PCM).
    out
        Write what the agent says to this WAV file.
    text
        Type and read. From a pipe, each line waits for its answer.
    input_device
        Microphone: number or name (duologue devices).
    output_device
        Loudspeaker: number or name.
    echo_cancellation
        Take the agent's voice out of the microphone (needs the extra aec).
    port
        Port of the talk page; by default 8080 or a free one.
    browser
        Open the browser.
    journal
        Keep the call's journal in this file (JSON lines), for duologue replay.
    """
    ways = [name for name, chosen in (("--microphone", microphone), ("--file", file), ("--text", text)) if chosen]
    if len(ways) > 1:
        raise ConfigurationError(f"{' and '.join(ways)} exclude each other.", hint="Choose one.")
    if out is not None and not ways:
        raise ConfigurationError(
            "--out needs a call here, not in the browser.", hint="Add --file, --microphone or --text."
        )
    if journal is not None:
        check_writable(journal)
    agent = load(app)
    if not ways:
        return run(_in_browser(agent, port, browser, journal))
    channels: list[Channel] = []
    if microphone:
        card = Microphone(input_device=input_device, output_device=output_device, echo_cancellation=echo_cancellation)
        say(f"microphone: {card.input_device.name}; loudspeaker: {card.output_device.name}", "dim")
        if not card.echo_cancelled:
            say('Use headphones, or pip install "duologue[aec]": on loudspeakers the agent hears itself.', "yellow")
        channels.append(card)
    if file is not None or out is not None:
        channels.append(File(input=file, output=out))
    spoken = not text or out is not None
    channels.append(Console(read=file is None, spoken=spoken, essential=text, latency=not text))
    ended = run(
        _here(agent, channels, "microphone" if microphone else "file" if file else "console", journal, not spoken)
    )
    if out is not None:
        say(f"What the agent said is in {out}.")
    return _exit_code(ended)


async def _here(
    factory: Agent | AgentFactory, channels: list[Channel], name: str, journal: Path | None, text_only: bool
) -> SessionEnded:
    """One call over channels of this process."""
    agent = await resolve(factory, CallInfo(channel=name))
    try:
        if not text_only:
            say("loading the speech models …" if sys.stderr.isatty() else "", "dim")
            await agent.model.warm_up()
        async with Journaled(journal) as recorder:
            session = agent.session(*channels, id=recorder.session, committer=recorder.committer, text_only=text_only)
            async with session:
                return await session.wait()
    finally:
        await agent.model.aclose()


async def _in_browser(agent: Agent | AgentFactory, port: int | None, browser: bool, journal: Path | None) -> int:
    """Serve the talk page on loopback until Ctrl+C."""
    options = ServeOptions(port=free_port(_PORT) if port is None else port, journal=str(journal) if journal else "")
    if isinstance(agent, Agent) and agent.model.notice:
        say(agent.model.notice, "yellow")
    async with serving(agent, options) as server:
        opened = browser and await asyncio.to_thread(webbrowser.open, server.url)
        say(f"{'Opened' if opened else 'Open'} {server.url} to talk; Ctrl+C ends it.")
        await asyncio.Event().wait()
    return 0


def free_port(wanted: int) -> int:
    """`wanted` if it is free on loopback, else 0, which takes any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
    return wanted


def _exit_code(ended: SessionEnded) -> int:
    if ended.reason == "error":
        raise CallFailedError(f"The call failed: {ended.detail or 'see above'}.")
    return 0
