"""How every worker process begins and leaves: what it gives up before it runs anybody's code, its home, its loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from typing import NoReturn

from . import kernel
from . import messages as m

_new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with contextlib.suppress(ImportError):
    import uvloop

    _new_loop = uvloop.new_event_loop


def isolate(boot: m.Boot) -> tuple[str, ...]:
    """Give up what `boot` says. Returns what did not work out. Raises OSError."""
    degraded: list[str] = []
    if boot.network:
        kernel.own_network()
    if boot.reach:
        degraded += kernel.own_mounts(boot.reach)
    kernel.restrict(memory=boot.memory, processes=boot.processes, file_bytes=boot.file_bytes)
    kernel.drop(boot.uid)
    kernel.outlive_nobody()
    settle(boot.home)
    os.chdir(boot.spec.source or boot.home)
    return tuple(degraded)


def leave(code: int) -> NoReturn:
    """End without the interpreter's own farewell, which waits for threads that an agent may have left hanging."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where there is one."""
    return _new_loop()


def settle(home: str, output: int | None = None) -> None:
    """Give the process a home, and its output somewhere to go."""
    os.environ.update(HOME=home, TMPDIR=home)
    tempfile.tempdir = None
    if output is not None:
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(fd, target)
        os.close(null)
        os.close(output)
