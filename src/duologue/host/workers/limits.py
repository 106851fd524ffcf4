"""Control groups, version 2 or 1: memory, CPU and number of processes of a worker; and a way to end all of them at once.

See cgroups(7), the kernel's admin-guide/cgroup-v2 and admin-guide/cgroup-v1. Where a controller cannot be written it is missing,
and the fleet says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from ..types import Limits

_PERIOD_US = 100_000
#: how often, and how long apart (seconds), the removal of a group is tried in which processes still end
_REMOVALS, _APART_S = 50, 0.02
#: begins the names of fleets' groups; the pid of the host follows
PREFIX = "duologue-"
_CONTROLLERS = ("memory", "cpu", "pids")


class Group:
    """The group of one worker, in one directory (version 2) or one a controller (version 1)."""

    def __init__(self, directories: dict[str, Path], *, unified: bool) -> None:
        self._directories = directories
        self._unified = unified

    def limit(self, limits: Limits) -> None:
        """Set limits. Raises OSError."""
        at = self._directories
        if limits.memory_bytes and (memory := at.get("memory")) is not None:
            if self._unified:
                _write(memory / "memory.max", limits.memory_bytes)
                _try(memory / "memory.swap.max", 0)
                _try(memory / "memory.oom.group", 1)
            else:
                _write(memory / "memory.limit_in_bytes", limits.memory_bytes)
                _try(memory / "memory.memsw.limit_in_bytes", limits.memory_bytes)
        if limits.cpu and (cpu := at.get("cpu")) is not None:
            quota = max(1000, round(limits.cpu * _PERIOD_US))
            if self._unified:
                _write(cpu / "cpu.max", f"{quota} {_PERIOD_US}")
            else:
                _write(cpu / "cpu.cfs_period_us", _PERIOD_US)
                _write(cpu / "cpu.cfs_quota_us", quota)
        if limits.processes and (pids := at.get("pids")) is not None:
            _write(pids / "pids.max", limits.processes)

    def add(self, pid: int) -> None:
        """Put a process into it. Raises OSError."""
        for directory in set(self._directories.values()):
            _write(directory / "cgroup.procs", pid)

    def pids(self) -> list[int]:
        """Processes in it."""
        for directory in self._directories.values():
            with contextlib.suppress(OSError):
                return [int(line) for line in (directory / "cgroup.procs").read_text().split()]
        return []

    def starved(self) -> bool:
        """Whether the kernel has killed a process of it for want of memory."""
        if (memory := self._directories.get("memory")) is None:
            return False
        name = "memory.events" if self._unified else "memory.oom_control"
        with contextlib.suppress(OSError):
            words = (memory / name).read_text().split()
            return "oom_kill" in words and int(words[words.index("oom_kill") + 1]) > 0
        return False

    def kill(self) -> None:
        """SIGKILL every process in it. New ones cannot appear: it may have none from now on."""
        if self._unified and _try(next(iter(self._directories.values())) / "cgroup.kill", 1):
            return
        if (pids := self._directories.get("pids")) is not None:
            _try(pids / "pids.max", 0)
        for directory in self._directories.values():
            _kill(directory / "cgroup.procs")
            return

    def remove(self) -> bool:
        """Remove it; False while processes of it still end."""
        done = True
        for directory in set(self._directories.values()):
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                done = False
        return done


class Cgroups:
    """Where this host may make groups.

    Args:
        name: of the fleet's own group, below the one that the host is in.
        use: False: there are none.

    Attributes:
        missing: controllers that cannot be had.
    """

    def __init__(self, name: str, *, use: bool = True) -> None:
        self.unified = False
        self._roots: dict[str, Path] = {}
        if use:
            self._find(name)
        self.missing = tuple(controller for controller in _CONTROLLERS if controller not in self._roots)

    def create(self, name: str, limits: Limits) -> Group | None:
        """A group with limits, None if there are no controllers. Raises OSError."""
        if not self._roots:
            return None
        directories = {controller: root / name for controller, root in self._roots.items()}
        for directory in set(directories.values()):
            directory.mkdir(exist_ok=True)
        group = Group(directories, unified=self.unified)
        group.limit(limits)
        return group

    async def close(self) -> None:
        """Remove the fleet's own groups, once the kernel has let go of the last process in them."""
        for root in set(self._roots.values()):
            for _ in range(_REMOVALS):
                if _remove(root):
                    break
                await asyncio.sleep(_APART_S)

    def sweep(self) -> None:
        """End and remove what hosts that were killed have left beside: their workers have nobody to serve."""
        for root in set(self._roots.values()):
            for left in root.parent.glob(f"{PREFIX}[0-9]*-*"):
                owner = left.name.removeprefix(PREFIX).partition("-")[0]
                if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                    for procs in left.glob("*/cgroup.procs"):
                        _kill(procs)
                    _remove(left)

    def _find(self, name: str) -> None:
        mounts = [line.split() for line in _read("/proc/self/mounts").splitlines()]
        own = [line.split(":", 2) for line in _read("/proc/self/cgroup").splitlines()]
        for mount in mounts:
            if mount[2] == "cgroup2":
                path = next((path for number, _, path in own if number == "0"), "/")
                self._find_unified(Path(mount[1]) / path.lstrip("/"), name)
        if self._roots:
            self.unified = True
            return
        for mount in mounts:
            if mount[2] != "cgroup":
                continue
            for controller in set(_CONTROLLERS) & set(mount[3].split(",")):
                path = next((path for _, names, path in own if controller in names.split(",")), "/")
                root = Path(mount[1]) / path.lstrip("/") / name
                with contextlib.suppress(OSError):
                    root.mkdir(exist_ok=True)
                    self._roots[controller] = root

    def _find_unified(self, parent: Path, name: str) -> None:
        """Version 2 wants processes in leaves only: groups go beside the host's own, which must be delegated to it."""
        with contextlib.suppress(OSError):
            parent = parent if not (parent / "cgroup.type").exists() else parent.parent
            if not set(_CONTROLLERS) & set((parent / "cgroup.controllers").read_text().split()):
                return
            root = parent / name
            root.mkdir(exist_ok=True)
            for controller in _CONTROLLERS:
                if _try(root / "cgroup.subtree_control", f"+{controller}"):
                    self._roots[controller] = root
            if not self._roots:
                root.rmdir()


def _kill(procs: Path) -> None:
    """SIGKILL the processes that a group's file lists."""
    with contextlib.suppress(OSError):
        for line in procs.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line), signal.SIGKILL)


def _remove(root: Path) -> bool:
    """Remove a fleet's group with those in it; whether it is gone."""
    with contextlib.suppress(OSError):
        for group in root.iterdir():
            if group.is_dir():
                group.rmdir()
        root.rmdir()
    return not root.exists()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _write(path: Path, value: object) -> None:
    path.write_text(str(value))


def _try(path: Path, value: object) -> bool:
    try:
        _write(path, value)
    except OSError:
        return False
    return True
