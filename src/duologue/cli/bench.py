"""``duologue bench``: the benchmarks of the source tree."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import MissingDependencyError


def bench(*names: str, quick: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Run the benchmarks, in a checkout of the source.

    Parameters
    ----------
    names
        Which; all of them if left out.
    quick
        Few repetitions.
    """
    root = next((path for path in (Path.cwd(), *_checkout()) if (path / "benchmarks" / "__main__.py").is_file()), None)
    if root is None:
        raise MissingDependencyError(
            "The benchmarks are not part of the package.", hint="Clone the source, and there: make bench."
        )
    command = [sys.executable, "-m", "benchmarks", *(["--quick"] if quick else []), *names]
    return subprocess.call(command, cwd=root)


def _checkout() -> list[Path]:
    """Where the package was installed from, if that is a source tree."""
    spec = importlib.util.find_spec("duologue")
    return list(Path(spec.origin).resolve().parents[2:3]) if spec is not None and spec.origin else []
