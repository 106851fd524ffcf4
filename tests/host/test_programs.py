"""The programs that the host starts with ``python -m``."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "duologue.host.gateways",
        "duologue.host.control.builder",
        "duologue.host.workers.boot",
        "duologue.host.workers.command",
        "duologue.host.workers.inference",
    ],
)
def test_a_program_is_not_imported_by_its_own_package(module: str) -> None:
    # Else Python runs it twice, under two names, and warns in the log of each process.
    package = module.rpartition(".")[0]
    code = f"import sys, {package}; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
