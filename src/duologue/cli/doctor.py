"""``duologue doctor``: what this machine lacks, and how to get it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.text import Text

from ..channels import echo
from ..channels.soundcard import SoundCard, permission_hint
from ..errors import DuologueError
from ..speech import weights

State = Literal["ok", "note", "missing"]

_MARKS = {"ok": ("✓", "green"), "note": ("·", "yellow"), "missing": ("✗", "red")}
_PYTHON = (3, 12)
#: the speech recogniser is built for these
_GLIBC, _MACOS = (2, 34), 15
_PORT = 8080
_LISTEN_S = 0.4
#: extras that are not for people who run agents, or contain others
_GROUPS = ("all",)
_FOR = {
    "local": "speech recognition and synthesis on this machine",
    "gguf": "language models in this process, from GGUF files",
    "mic": "microphone and loudspeaker (talk --microphone)",
    "aec": "echo cancellation beside loudspeakers",
    "nova-sonic": "Amazon Nova Sonic",
    "openai": "OpenAI Realtime",
    "gemini": "Gemini Live",
    "mcp": "tools of MCP servers",
    "host": "hosting many agents",
    "telemetry": "OpenTelemetry and Prometheus",
}


class Finding(NamedTuple):
    """One thing looked at. `missing` keeps `duologue talk` from working as it comes, `note` does not."""

    state: State
    what: str
    fix: str = ""


def doctor(*, listen: bool = True) -> int:
    """Say what is missing and how to get it. Exit code 1 if `duologue talk` would not work as it comes.

    Parameters
    ----------
    listen
        Open the microphone for a moment, to see whether it may be used.
    """
    console = Console(highlight=False, soft_wrap=True)
    worst = 0
    sections: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("This machine", machine),
        ("Packages", extras),
        ("Local speech", speech),
        ("Language models", language_models),
        ("Sound", lambda: sound(listen)),
        ("Network", ports),
    )
    for title, check in sections:
        console.print(Text(title, "bold"))
        for finding in check():
            mark, style = _MARKS[finding.state]
            console.print(Text.assemble("  ", (mark, style), f" {finding.what}"))
            if finding.fix:
                console.print(Text(f"      {finding.fix}", "dim"))
            worst = max(worst, finding.state == "missing")
    return worst


def machine() -> Iterator[Finding]:
    """Python, system, processor, C library."""
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= _PYTHON
    yield Finding("ok" if good else "missing", f"Python {version}", "" if good else "Duologue needs 3.12 or newer.")
    yield Finding("ok", f"{platform.system()} {platform.release()} on {platform.machine()}, {os.cpu_count()} cores")
    why = speech_problem()
    if why:
        yield Finding("missing", f"local speech does not run here: {why}", "Use a hosted model, or another machine.")


def speech_problem() -> str | None:
    """Why there is no local speech recogniser for this machine, or None."""
    processor, system = platform.machine().lower(), platform.system()
    if system == "Linux":
        libc, version = platform.libc_ver()
        if libc != "glibc":
            return f"it is built for glibc, and this system uses {libc or 'another C library'}"
        if tuple(int(part) for part in version.split(".")[:2]) < _GLIBC:
            return f"it needs glibc 2.34 (Debian 12, Ubuntu 22.04, Fedora 35), and this is {version}"
        return None if processor in ("x86_64", "aarch64") else f"there is none for {processor}"
    if system == "Darwin":
        release = platform.mac_ver()[0]
        if processor != "arm64" or int(release.split(".")[0] or 0) < _MACOS:
            return f"it needs macOS {_MACOS} on Apple silicon, and this is macOS {release} on {processor}"
    return None


def extras() -> Iterator[Finding]:
    """Which extras are installed whole."""
    for extra, packages in _extras().items():
        missing = [name for name in packages if not _installed(name)]
        purpose = _FOR.get(extra, "")
        if not missing:
            yield Finding("ok", f"{extra}: {purpose}")
            continue
        # Without the extra `local` the agent of the README has no speech.
        state: State = "missing" if extra == "local" else "note"
        yield Finding(state, f"{extra}: {purpose}; without {', '.join(missing)}", f'pip install "duologue[{extra}]"')


def _extras() -> dict[str, list[str]]:
    """The packages of each extra, as this installation states them."""
    found: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("duologue") or []:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if extra is not None and name is not None and extra[1] not in _GROUPS:
            found.setdefault(extra[1], []).append(name[0])
    return found


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def speech() -> Iterator[Finding]:
    """Whether the local cascade can be made, and which weights are here."""
    from ..models import Cascade

    try:
        model = Cascade.local(llm="phrase")
    except DuologueError as error:
        yield Finding("missing", f"Cascade.local(): {error.message}", error.hint)
    else:
        rates = model.capabilities
        yield Finding("ok", f"Cascade.local(): hears at {rates.input_rate} Hz, speaks at {rates.output_rate} Hz")
    for name, known in weights.KNOWN.items():
        here = all(weights.find(name, file.name) is not None for file in known.files)
        fix = "" if here else f"If you want it: duologue models pull {name}"
        yield Finding("ok" if here else "note", f"{name}: {known.about}{'' if here else ', not pulled'}", fix)


def language_models() -> Iterator[Finding]:
    """Which language model would answer."""
    from ..speech.llm.discover import find_local

    found = asyncio.run(find_local(timeout_s=1.0))
    if found is not None:
        yield Finding("ok", f"{found.kind} runs here (port {found.port}); {found.model} would answer")
        return
    yield Finding(
        "note",
        "none runs on this machine (Ollama, llama.cpp, vLLM, LM Studio): a phrase matcher answers",
        'For a real one: install Ollama and `ollama pull llama3.2`, or Cascade.local(llm="path/to/model.gguf").',
    )


def sound(listen: bool) -> Iterator[Finding]:
    """Devices, permission, echo cancellation. None of it is needed in the browser."""
    try:
        card = SoundCard()
        microphone, loudspeaker = card.find("input"), card.find("output")
    except DuologueError as error:
        yield Finding("note", error.message, error.hint)
        if platform.system() == "Linux" and (why := _linux_sound()):
            yield Finding("note", *why)
        return
    yield Finding("ok", f"microphone: {microphone.name}")
    yield Finding("ok", f"loudspeaker: {loudspeaker.name}")
    if listen:
        yield hear(card)
    if not echo.available():
        yield Finding(
            "note", "no echo cancellation", 'pip install "duologue[aec]", use headphones, or talk in the browser.'
        )


def hear(card: SoundCard) -> Finding:
    """Open the microphone for a moment. Systems that forbid it refuse, or deliver perfect silence."""
    heard = bytearray()
    done = threading.Event()

    def take(data: Any, frames: int, time: Any, status: Any) -> None:
        heard.extend(bytes(data))
        if len(heard) >= rate * _LISTEN_S * 2:
            done.set()

    try:
        device = card.find("input")
        rate = card.rate("input", device, 16_000)
        stream = card.open("input", device, rate=rate, frames=0, callback=take, finished=done.set)
        try:
            stream.start()
            done.wait(3.0)
        finally:
            stream.close()
    except (DuologueError, card.api.PortAudioError) as error:
        return Finding("note", f"the microphone cannot be used: {error}", permission_hint("input"))
    if not heard:
        return Finding("note", "the microphone delivers nothing", permission_hint("input"))
    if not any(heard):
        return Finding(
            "note", "the microphone delivers perfect silence: muted, or not permitted", permission_hint("input")
        )
    return Finding("ok", "the microphone may be used, and hears")


def _linux_sound() -> tuple[str, str] | None:
    """What keeps a Linux machine from showing sound cards: what, and what to do."""
    if not Path("/dev/snd").is_dir():
        return (
            "the kernel shows no sound card (/dev/snd)",
            "In a container: --device /dev/snd. Under WSL: use the talk page.",
        )
    nodes = [node for node in Path("/dev/snd").iterdir() if node.name.startswith("pcm")]
    if nodes and not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        return "this user may not use the sound card", "sudo usermod -aG audio $USER, then log in again."
    return None


def ports() -> Iterator[Finding]:
    """Whether the usual port is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _PORT))
        except OSError:
            fix = "`duologue talk` takes a free one by itself; `duologue serve` takes --port."
            yield Finding("note", f"port {_PORT} is taken", fix)
        else:
            yield Finding("ok", f"port {_PORT} is free")
