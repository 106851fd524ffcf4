"""The demo: serve the example agent, phone it, and keep what there was to hear, to read and to look at."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from ..agent import Agent
from ..audio import write_wav
from ..client import Call, connect
from ..errors import DuologueError, MissingDependencyError
from ..events import AnyEvent
from ..models import Cascade
from ..serve import RunningServer, ServeOptions, serving
from ..session.journal import JournalRecord, decode_record
from ..store import SQLiteStore, export_jsonl, read_jsonl
from .caller import Caller, StepError
from .page import page
from .script import DEFAULT_SEED, Script, script
from .story import Story, tell
from .tape import Run, Tape
from .terminal import Terminal, last_line
from .voice import speak_lines

#: what the terminal announces before each step of the script
_TITLES = {
    "next_stop": "asks for the next stop",
    "backchannel": "says “uh-huh” while the agent speaks",
    "route": "asks for the way",
    "barge_in": "barges in on the answer",
    "complete": "has a delivery marked, which takes three seconds",
    "meanwhile": "asks something else in the meantime",
    "correction": "corrects themselves in mid-sentence",
    "pause": "pauses for a second in mid-sentence",
    "note": "has a note logged",
    "goodbye": "says goodbye",
}


class Recorded(msgspec.Struct, kw_only=True):
    """What a demo call left: the files, and the story told from them. `failure` is the step that did not go as it should."""

    script: Script
    wav: Path
    journal: Path
    page: Path
    story: Story
    runs: list[Run]
    failure: StepError | None = None


def example_path() -> Path:
    """Where `examples/delivery.py` is: in the wheel beside this module, in a checkout among the examples."""
    packaged = Path(__file__).with_name("delivery.py")
    return packaged if packaged.is_file() else Path(__file__).parents[3] / "examples" / "delivery.py"


def load_example() -> Agent:
    """The agent of `examples/delivery.py`, answered for by the phrase matcher: the script is written for its answers."""
    path = example_path()
    spec = importlib.util.spec_from_file_location("duologue_example_delivery", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise MissingDependencyError(f"The example {path} is not there.", hint="Install duologue again.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its annotations are looked up
    spec.loader.exec_module(module)
    definition = module.agent.definition
    options = {name: getattr(definition, name) for name in definition.__struct_fields__}
    return Agent(**(options | {"model": Cascade.local("phrase")}))


@contextlib.asynccontextmanager
async def served(agent: Agent, journal: Path) -> AsyncIterator[RunningServer]:
    """The real server, on a free port of loopback, with its journal in a file."""
    async with serving(agent, ServeOptions(port=0, journal=str(journal), studio=False)) as server:
        yield server


async def record(seed: int, out: Path, console: Console) -> Recorded:
    """Hold the call of `seed` and write `call.wav`, `call.jsonl` and `call.html` into the directory `out`, which exists.

    Raises a DuologueError if the call could not be held at all. A step that failed is in the result: what was recorded
    up to then is written all the same.
    """
    agent = load_example()
    console.print(Text(agent.model.notice, style="bold"), soft_wrap=True)
    part = script(seed)
    with console.status("Loading recogniser and synthesiser, and rehearsing the caller …"):
        lines = await speak_lines(part)
    journal = out / "call.jsonl"
    with tempfile.TemporaryDirectory(prefix="duologue-demo-") as scratch:
        database = Path(scratch) / "journal.sqlite"
        async with served(agent, database) as server:
            console.print(
                Text(f"{part.voice.name} phones {server.ws_url} (seed {seed}). The call takes about 80 seconds.", "dim")
            )
            tape, runs, session, failure = await _phone(server.ws_url, part, lines, console)
        store = SQLiteStore(str(database))
        try:
            export_jsonl(store, "local", session, journal)
        finally:
            store.close()
    pcm = tape.stereo()
    write_wav(out / "call.wav", pcm, tape.rate, channels=2)
    story = tell(read_records(journal), runs, tape.rate, len(pcm) / 4 / tape.rate)
    (out / "call.html").write_text(
        page(story, pcm, tape.rate, title="A call with the delivery assistant"), encoding="utf-8"
    )
    return Recorded(
        script=part,
        wav=out / "call.wav",
        journal=journal,
        page=out / "call.html",
        story=story,
        runs=runs,
        failure=failure,
    )


def read_records(path: Path) -> list[JournalRecord]:
    """The records of an exported journal."""
    return [decode_record(record.data) for record in read_jsonl(path)]


async def _phone(
    url: str, part: Script, lines: dict[str, bytes], console: Console
) -> tuple[Tape, list[Run], str, StepError | None]:
    """Hold the call."""
    loop = asyncio.get_running_loop()
    tape = Tape(loop.time())
    failure: StepError | None = None
    with Terminal(console) as terminal:

        def says(line: str, _: str) -> None:
            terminal.step(f"{part.voice.name} {_TITLES[line]}")
            terminal.caller_speaks(tape.captured / tape.mic_rate)

        async with connect(url, sink=tape.hear, name="duologue-demo", output_rate=tape.rate) as call:
            caller = Caller(call, tape, part, lines, says)

            def take(event: AnyEvent) -> None:
                caller.take(event)
                terminal.take(event, loop.time() - tape.zero)

            failure = await _converse(call, caller, take)
            assert call.playout is not None
            runs = tape.runs(call.playout.log)
    return tape, runs, call.session, failure


async def _converse(call: Call, caller: Caller, take: Callable[[AnyEvent], None]) -> StepError | None:
    """Let the caller speak and listen until they are through with their part; returns the step that failed, if one did."""

    async def listen() -> None:
        async for event in call:
            take(event)

    microphone = asyncio.ensure_future(caller.microphone.run())
    ears = asyncio.ensure_future(listen())
    talking = asyncio.ensure_future(caller.talk())
    try:
        await asyncio.wait({microphone, ears, talking}, return_when=asyncio.FIRST_COMPLETED)
        if not talking.done():
            # The call is over: give the caller the time to notice that it ended as it should.
            await asyncio.wait({talking}, timeout=2.0)
        if not talking.done():
            lost = ears.exception() if ears.done() else None
            raise StepError(caller.step, f"the call was lost: {lost}" if lost else "the call was over too soon.")
        talking.result()
    except StepError as error:
        return error
    finally:
        for task in (microphone, ears, talking):
            task.cancel()
        await asyncio.gather(microphone, ears, talking, return_exceptions=True)
    return None


def main(*, seed: int = DEFAULT_SEED, out: Path = Path("demo")) -> int:
    """`duologue demo`: returns the exit code, 0 if all went as it should."""
    console = Console(highlight=False)
    began = time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
        recorded = asyncio.run(record(seed, out, console))
    except (DuologueError, OSError) as error:
        console.print(Text(f"The demo could not be held: {error}", style="red"), soft_wrap=True)
        return 1
    console.print()
    for path, what in (
        (recorded.wav, "the call; caller left, agent right"),
        (recorded.journal, "the journal"),
        (recorded.page, "the timeline, to look at and to click through"),
    ):
        console.print(Text(f"{path!s:<18}", "bold").append(f" {what}", "dim"), soft_wrap=True)
    if recorded.failure is not None:
        console.print(
            Text(f"The demo failed after {time.monotonic() - began:.0f} s. {recorded.failure}", "red"), soft_wrap=True
        )
        return 1
    console.print(Text(last_line(recorded.story), style="bold green"), soft_wrap=True)
    return 0
