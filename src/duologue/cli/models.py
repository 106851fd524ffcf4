"""``duologue models``: weights that can be pulled by name."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table

from ..speech import weights
from .terminal import run, say

app = App(
    name="models",
    help="Weights of speech models: which there are, and getting them, verified.",
    help_format="plaintext",
)


@app.command(name="list")
def list_models() -> int:
    """List the weights that can be pulled, and which of them are here."""
    table = Table("name", "", "what", "licence", box=None, pad_edge=False)
    for name, known in weights.KNOWN.items():
        here = all(weights.find(name, file.name) is not None for file in known.files)
        table.add_row(name, "here" if here else "", known.about, known.licence)
    Console().print(table)
    say(f"They are kept in {weights.cache_dir()}.", "dim")
    return 0


@app.command
def pull(name: str, /, *, mirror: str | None = None, source: Path | None = None) -> int:
    """Get weights by name. What arrives is checked against the SHA-256 that is known here.

    Parameters
    ----------
    name
        As `duologue models list` names it.
    mirror
        Address that takes the place of the host (default: $DUOLOGUE_WEIGHTS_MIRROR).
    source
        Directory that holds the files already; nothing is fetched.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def show(file: str, done: int, size: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file, total=size)
            progress.update(tasks[file], completed=done)

        directory = run(weights.pull(name, mirror=mirror, source=source, progress=show))
    say(f"{name} is in {directory}.")
    return 0
