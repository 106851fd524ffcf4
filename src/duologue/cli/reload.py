"""Starting a command anew when the user's files change: a small watcher of modification times."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .terminal import say

#: how often files are looked at, seconds
_EVERY_S = 0.5
#: most files that are watched; a larger tree is not one app
_MOST = 2000
_GRACE_S = 10.0


def supervise(source: Path, arguments: list[str]) -> int:
    """Run ``duologue`` with `arguments` in a process of its own, and again whenever a file beside `source` changes.

    A process that ends by itself, because of a syntax error say, is started again at the next change. Returns at Ctrl+C.
    """
    root = source if source.is_dir() else source.parent
    command = [sys.executable, "-m", "duologue.cli", *arguments]
    seen = snapshot(root)
    process = subprocess.Popen(command)
    told = False
    try:
        while True:
            time.sleep(_EVERY_S)
            now = snapshot(root)
            if now != seen:
                changed = sorted({path.name for path, _ in set(now.items()) ^ set(seen.items())})
                say(f"{', '.join(changed[:3])} changed: starting anew", "dim")
                seen, told = now, False
                end(process)
                process = subprocess.Popen(command)
            elif process.poll() is not None and not told:
                told = True
                say("It has ended; it starts again when a file changes.", "dim")
    finally:
        end(process)


def snapshot(root: Path) -> dict[Path, int]:
    """The Python and .env files under `root` with their modification times, in nanoseconds."""
    found = {}
    for path in _files(root):
        try:
            found[path] = path.stat().st_mtime_ns
        except OSError:
            continue  # gone between listing and looking
    return found


def _files(root: Path) -> Iterator[Path]:
    count = 0
    for directory, below, names in os.walk(root):
        here = Path(directory)
        # environments, caches and packages are not the user's own files
        below[:] = [
            name
            for name in below
            if not name.startswith((".", "__")) and name != "node_modules" and not (here / name / "pyvenv.cfg").exists()
        ]
        for name in names:
            if name.endswith(".py") or name == ".env":
                yield here / name
                count += 1
                if count >= _MOST:
                    return


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process: politely first."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
