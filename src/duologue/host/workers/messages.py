"""The control socket between the host and a worker process: what is said on it, and how.

A socket pair of type SEQPACKET, inherited by the process: each packet is one JSON message, descriptors ride along towards the
worker only. The kernel names the sender of a packet (SCM_CREDENTIALS), so that a process cannot pass for another. What a worker
says is not trusted: it is decoded strictly and bounded by the packet.
"""

from __future__ import annotations

import array
import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from ..types import VersionSpec

#: longest packet, bytes; secrets of a version must fit
LONGEST = 128 << 10
_FDS = 8
#: among a command's words, stands for the path of the Unix socket that it listens on
SOCKET_WORD = "$DUOLOGUE_SOCKET"
_CREDENTIALS = struct.Struct("3i")


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    pass


# --------------------------------------------------------------------------- host → process


def own_network(spec: VersionSpec) -> bool:
    """Whether a version runs in a network namespace of its own, see VersionSpec."""
    if spec.kind != "command" or spec.network == "host":
        return False
    return spec.network == "own" or SOCKET_WORD not in " ".join(spec.command)


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """A directory that the process needs although its user could not get there. `at`: where it finds it, "": at `path`."""

    path: str
    writable: bool = False
    at: str = ""


class Boot(_Message, frozen=True, kw_only=True, tag="boot"):
    """First message to every process: what it is to become, and what it loses before it runs anybody's code.

    Attributes:
        uid: user and group to become; 0: stay who it is.
        reach: directories to be bound where they are, in a mount namespace of its own; empty: it stays in the machine's.
        home: working directory, HOME and TMPDIR; of a template: that of the probe.
        network: whether it gets a network namespace of its own.
        memory, processes: rlimits where there are no control groups; 0: none.
        file_bytes: rlimit of one file; 0: none.
        fork: a template; else the code is run in the process itself.
    """

    spec: VersionSpec
    uid: int = 0
    reach: tuple[Reach, ...] = ()
    home: str
    network: bool = False
    memory: int = 0
    processes: int = 0
    file_bytes: int = 0
    fork: bool = False
    beat_s: float = 1.0
    max_sessions: int = 8


class Fork(_Message, frozen=True, kw_only=True, tag="fork"):
    """To a template: a child, with its control socket and output (two descriptors)."""

    worker: str
    home: str


class Rest(_Message, frozen=True, kw_only=True, tag="rest"):
    """To a template: fork no more; it ends after its last child, whose parent it is."""


class Assign(_Message, frozen=True, kw_only=True, tag="assign"):
    """The process gets its first session; with it come its sockets: http, link (agents), inference (if shared)."""

    worker: str
    session: str
    epoch: int
    secrets: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    journal: str = ""
    storage: str = ""  # where the session's files are; $DUOLOGUE_STORAGE
    link: bool = False
    inference: bool = False
    warm: bool = False  # have the agent's model warm up before it is ready

    def __repr__(self) -> str:
        return f"Assign(worker={self.worker!r}, session={self.session!r})"


class Join(_Message, frozen=True, kw_only=True, tag="join"):
    """Another session of the same version."""

    session: str
    epoch: int
    metadata: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Join(session={self.session!r}, epoch={self.epoch})"


class Stopping(_Message, frozen=True, kw_only=True, tag="stopping"):
    """End a session (or, None, all and the process), telling clients and app `notice_s` before."""

    session: str | None = None
    reason: str = "stopped"
    notice_s: float = 0.0


class Ask(_Message, frozen=True, kw_only=True, tag="ask"):
    """Whether a session ("": any, or the process itself) is busy right now; `State` with the same number answers."""

    n: int
    session: str = ""


ToProcess = Boot | Fork | Rest | Assign | Join | Stopping | Ask

# --------------------------------------------------------------------------- process → host


class Loaded(_Message, frozen=True, kw_only=True, tag="loaded"):
    """The code is loaded. `unfit`: why it must not be forked, "" if it may be. `degraded`: isolation that did not work out."""

    ms: float
    unfit: str = ""
    degraded: tuple[str, ...] = ()


class Failed(_Message, frozen=True, kw_only=True, tag="failed"):
    """It cannot go on; the process ends."""

    message: str


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
    """A child is there, unassigned."""


class Ready(_Message, frozen=True, kw_only=True, tag="ready"):
    """The assigned worker serves."""


class Joined(_Message, frozen=True, kw_only=True, tag="joined"):
    """Answers `Join`."""

    session: str


class Gone(_Message, frozen=True, kw_only=True, tag="gone"):
    """Answers `Stopping` of one session."""

    session: str


class Beat(_Message, frozen=True, kw_only=True, tag="beat"):
    """A sign of life of the worker's loop, with whether it is busy."""

    busy: bool = False


class State(_Message, frozen=True, kw_only=True, tag="state"):
    """Answers `Ask`."""

    n: int
    busy: bool


class Exited(_Message, frozen=True, kw_only=True, tag="exited"):
    """From a template: a child of it ended. `status` as of waitpid."""

    pid: int
    status: int


FromProcess = Loaded | Failed | Hello | Ready | Joined | Gone | Beat | State | Exited

_encoder = msgspec.json.Encoder()
_to_process: msgspec.json.Decoder[ToProcess] = msgspec.json.Decoder(ToProcess)
_from_process: msgspec.json.Decoder[FromProcess] = msgspec.json.Decoder(FromProcess)


def pair() -> tuple[socket.socket, socket.socket]:
    """(the host's end, the process's end)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ours.setblocking(False)
    return ours, theirs


def send(to: socket.socket, message: ToProcess | FromProcess, fds: Sequence[int] = ()) -> None:
    """Send a message. Raises OSError (BlockingIOError where the peer does not read), ValueError if it is too long."""
    data = _encoder.encode(message)
    if len(data) > LONGEST:
        raise ValueError(f"a message of {len(data)} bytes is too long")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    to.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def receive_in_process(socket_: socket.socket) -> tuple[ToProcess, list[int]] | None:
    """(message, descriptors) from the host; None at the end. Raises OSError, msgspec.DecodeError."""
    data, fds, _, _ = socket.recv_fds(socket_, LONGEST + 1, _FDS)
    if not data:
        return None
    return _to_process.decode(data), list(fds)


def receive_in_host(socket_: socket.socket) -> tuple[FromProcess, int] | None:
    """(message, pid of its sender as the kernel says) from a process; None at the end.

    Raises OSError (BlockingIOError where there is nothing), msgspec.DecodeError.
    """
    # Room for credentials only: descriptors that a worker might send along are closed by the kernel.
    room = socket.CMSG_SPACE(_CREDENTIALS.size)
    data, ancillary, _, _ = socket_.recvmsg(LONGEST + 1, room)
    pid = 0
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(value) >= _CREDENTIALS.size:
            pid = _CREDENTIALS.unpack(value[: _CREDENTIALS.size])[0]
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array.array("i")
            received.frombytes(value[: len(value) - len(value) % received.itemsize])
            for fd in received:
                with contextlib.suppress(OSError):
                    socket.close(fd)
    if not data:
        return None
    return _from_process.decode(data), pid
