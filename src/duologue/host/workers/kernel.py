"""What a process asks of the Linux kernel for its isolation: namespaces, identity, limits on itself.

Run in the worker's process, before it runs anybody's code. The calls that Python lacks go through the C library, see
unshare(2), mount(2), prctl(2), netdevice(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from .messages import Reach

_NEWNS = 0x00020000
_NEWNET = 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
#: directories that all users of a machine can write: a worker gets its own, this large at most
_SHARED = ("/tmp", "/var/tmp", "/dev/shm")
_SHARED_SIZE = 64 << 20
#: where a worker finds what lies elsewhere on the machine
_MNT = Path("/mnt")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    encoded = kind.encode() if kind is not None else None
    _check(
        _libc.mount(source.encode(), target.encode(), encoded, ctypes.c_ulong(flags), data.encode()), f"mount {target}"
    )


def outlive_nobody() -> None:
    """Die when the parent does. To be set again after every change of identity."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def own_network() -> None:
    """Enter a network namespace that has a loopback interface and nothing else. Raises OSError."""
    _check(_libc.unshare(_NEWNET), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def closed_at(path: Path) -> Path | None:
    """The topmost directory above `path` that another user cannot pass; None if there is none."""
    for above in reversed(path.parents):
        if not above.stat().st_mode & 0o001:
            return above
    return None


def own_mounts(reach: Sequence[Reach]) -> list[str]:
    """Enter a mount namespace in which `reach` can be reached, and what lies beside it in closed directories cannot.

    Over each closed directory on the way comes an empty one, into which what is needed is bound, read-only unless writable;
    the machine's shared temporary directories are replaced by private ones, and `/mnt` if something is to be found there;
    `/proc` shows own processes only. Needs root.
    Returns what did not work out and matters for isolation. Raises OSError where the process could not run.
    """
    _check(_libc.unshare(_NEWNS), "unshare")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    in_place = sorted({Path(entry.path).resolve(): entry.writable for entry in reach if not entry.at}.items())
    elsewhere = [entry for entry in reach if entry.at]
    covers = {Path(name) for name in _SHARED if Path(name).is_dir()}
    covers |= {found for path, _ in in_place if (found := closed_at(path)) is not None}
    covers |= {_MNT} if elsewhere else set()
    covers = {cover for cover in covers if not any(other in cover.parents for other in covers)}
    held = [(path, writable, os.open(path, os.O_PATH)) for path, writable in in_place]
    brought = [(entry, os.open(entry.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)) for entry in elsewhere]
    for cover in sorted(covers):
        shared = str(cover) in _SHARED
        mode, size = ("1777", _SHARED_SIZE) if shared else ("755", 1 << 20)
        _mount("tmpfs", str(cover), "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode={mode},size={size}")
    for path, writable, fd in held:
        covered = any(cover in path.parents for cover in covers)
        if covered:
            path.mkdir(parents=True, exist_ok=True)
            _mount(f"/proc/self/fd/{fd}", str(path), None, _MS_BIND | _MS_REC)
            if not writable:
                _mount("none", str(path), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
        os.close(fd)
    for entry, fd in brought:
        Path(entry.at).mkdir(parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{fd}", entry.at, None, _MS_BIND)
        readonly = 0 if entry.writable else _MS_RDONLY
        _mount("none", entry.at, None, _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV | readonly)
        os.close(fd)
    degraded = []
    try:
        _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "hidepid=2")
    except OSError as error:
        degraded.append(f"It sees which processes the machine runs ({error.strerror}).")
    return degraded


def drop(uid: int) -> None:
    """Become `uid`, without groups, for good; no program that it runs gains anything back. 0: stay, but gain nothing either."""
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    conceal()


def conceal() -> None:
    """Keep other processes of the same user out of this one's memory and `/proc` entries."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def keep_freed(most: int) -> None:
    """Have the C library keep up to `most` bytes of freed memory for itself, see mallopt(3), where it can be told to.

    Clauses of speech of 100 KB come and go in many calls at once: handed back each time, their pages are cleared each time,
    which is a twentieth of a process's time.
    """
    if (mallopt := getattr(_libc, "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        mallopt(_M_TRIM_THRESHOLD, most)


def restrict(*, memory: int, processes: int, file_bytes: int) -> None:
    """Limits that a process can set on itself. 0: none."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 4096 if most == resource.RLIM_INFINITY else min(4096, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if processes:
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
