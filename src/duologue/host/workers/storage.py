"""Storages: directories of sessions that outlive their processes, on the host's disk, and how much they hold.

``{tenant}/{runtime}/{name}``, the names made by who keeps the rows of sessions. A storage belongs to its tenant's user; what lies
above it is the host's and shows nobody what is in it. What tenants write is hostile: it is walked by descriptors that follow no
link, in bounded depth and number, and removed by a program that no depth of directories stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Collection
from pathlib import Path

from ..types import HostError

#: deeper than this nothing is measured: it counts as too much
_DEPTH = 100
#: a file or directory takes this much of its storage's limit at least, bytes; so many of them are allowed
_LEAST = 4096
#: the disk is read this often, seconds, and no larger a share of the time
_EVERY_S, _SHARE = 1.0, 0.02


class Storages:
    """The storages of one host.

    Args:
        root: its directory, made if need be.
        reserve: bytes of its disk that stay free: with less no session that has a storage starts.
    """

    def __init__(self, root: Path, *, reserve: int) -> None:
        self._root = root
        self._reserve = reserve

    def place(self, tenant: str, runtime: str, name: str, uid: int) -> Path:
        """The directory of a storage, made if need be, its owner's alone. Raises HostError 429 for want of disk. Blocking."""
        folder = self._root / tenant / runtime
        for above in (self._root, folder.parent, folder):
            above.mkdir(mode=0o711, exist_ok=True)
        disk = os.statvfs(folder)
        if (free := disk.f_bavail * disk.f_frsize) < self._reserve:
            reason = f"This host has {free >> 20} MB of disk left, of which it keeps {self._reserve >> 20} MB."
            raise HostError(429, "ThrottlingException", reason, headers=(("retry-after", "60"),))
        place = folder / name
        place.mkdir(mode=0o700, exist_ok=True)
        if uid:
            os.chown(place, uid, uid, follow_symlinks=False)
        return place

    def erase(self, tenant: str, runtime: str, name: str) -> None:
        """Remove a storage and what is in it. Nothing happens if it is not there. Blocking."""
        remove_tree(self._root / tenant / runtime / name)

    def sweep(self, kept: Collection[tuple[str, str, str]]) -> int:
        """Remove every storage but those (tenant, runtime, name); how many were. Blocking."""
        count = 0
        for place in self._root.glob("*/*/*"):
            if place.relative_to(self._root).parts not in kept:
                remove_tree(place)
                count += 1
        return count


class Meter:
    """Watches how much one directory holds.

    Args:
        most: bytes that it may hold.
    """

    def __init__(self, place: Path, most: int) -> None:
        self._place = place
        self._most = most
        self._due = 0.0

    async def exceeded(self) -> bool:
        """Whether it holds too much, if it is time to look again; else False."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if began < self._due:
            return False
        used = await asyncio.to_thread(measure, self._place, most=self._most)
        self._due = began + max(_EVERY_S, (loop.time() - began) / _SHARE)
        return used > self._most


def measure(place: Path, *, most: int) -> int:
    """Bytes that what is below `place` takes on the disk, 4 KiB each at least; more than `most` if it lies too deep to be seen.

    It stops where it sees that it is more. Links are not followed; what vanishes meanwhile is not counted. Blocking.
    """
    used = 0
    levels: list[tuple[int, list[str]]] = []  # descriptor of a directory, and those in it still to be looked into
    try:
        used = _enter(levels, place, None, most)
        while levels:
            fd, left = levels[-1]
            if left:
                used += _enter(levels, left.pop(), fd, most - used)
            else:
                os.close(fd)
                levels.pop()
            if used > most or len(levels) > _DEPTH:
                return max(used, most + 1)
    finally:
        for fd, _ in levels:
            os.close(fd)
    return used


def _enter(levels: list[tuple[int, list[str]]], name: str | Path, at: int | None, most: int) -> int:
    """Go into a directory; bytes that what is in it takes, or more than `most`."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
    except (FileNotFoundError, NotADirectoryError):  # it was removed, or replaced, since it was listed
        return 0
    except PermissionError:  # of a host that is not root, closed by the one who uses it
        return most + 1
    inside: list[str] = []
    levels.append((fd, inside))
    used = 0
    with os.scandir(fd) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                used += max(_LEAST, entry.stat(follow_symlinks=False).st_blocks * 512)
                if entry.is_dir(follow_symlinks=False):
                    inside.append(entry.name)
            if used > most:
                break
    return used


def remove_tree(place: Path) -> None:
    """Remove a directory that somebody else has filled, however deep. Raises OSError if it cannot be. Blocking."""
    done = subprocess.run(
        ["rm", "-rf", "--one-file-system", "--", str(place)], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise OSError(f"{place.name} cannot be removed: {done.stderr.decode(errors='replace').strip()[-300:]}")
