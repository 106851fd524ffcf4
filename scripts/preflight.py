"""Says in words what this machine lacks for Duologue, before anything is installed.

Usage: preflight.py core|local|all|dev. Exit code 1 if the installation would fail or the demo could not run.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

#: MB of disk space, while installing included
SPACE = {"core": 600, "local": 1200, "all": 2500, "dev": 3000}
MIN_GLIBC = (2, 34)


def speech_problem() -> str | None:
    """Why the local speech packages have no build for this machine, or None."""
    machine = platform.machine().lower()
    if sys.platform == "linux":
        libc, version = platform.libc_ver()
        if libc != "glibc":
            return f"the speech recogniser is built for glibc, and this system uses {libc or 'another C library'}"
        if tuple(int(part) for part in version.split(".")[:2]) < MIN_GLIBC:
            return f"the speech recogniser needs glibc 2.34 (Debian 12, Ubuntu 22.04, Fedora 35), and this is {version}"
        if machine not in ("x86_64", "aarch64"):
            return f"there are no speech packages for {machine} processors, only x86_64 and aarch64"
    elif sys.platform == "darwin":
        release = platform.mac_ver()[0]
        if machine != "arm64" or int(release.split(".")[0] or 0) < 15:
            return f"the speech packages need macOS 15 on Apple silicon, and this is macOS {release} on {machine}"
    elif sys.platform == "win32" and machine != "amd64":
        return f"there are no speech packages for Windows on {machine}, only on amd64"
    return None


def main() -> int:
    level = sys.argv[1] if len(sys.argv) > 1 else "local"
    problems: list[str] = []
    here = Path(__file__).resolve().parent.parent

    if level != "core" and (why := speech_problem()):
        problems.append(
            f"local speech will not run here: {why}. The library itself will (make setup LEVEL=core), "
            "with hosted models or on another machine."
        )
    free = shutil.disk_usage(here).free // 1_000_000
    if free < SPACE[level]:
        problems.append(f"{SPACE[level]} MB of free disk space are needed, and {here} has {free} MB.")
    if not os.access(here, os.W_OK):
        problems.append(f"{here} cannot be written to, and .venv goes there.")

    python = ".".join(map(str, sys.version_info[:3]))
    print(f"setup: Python {python}, {platform.system()} {platform.machine()}, {free // 1000} GB free")
    if sys.version_info >= (3, 14):
        print("setup: tested on 3.12 and 3.13; a newer Python may lack prebuilt packages.")
    for problem in problems:
        print(f"setup: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
