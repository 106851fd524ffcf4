"""Control and its gateways talk over a Unix socket: calls of `Placement`, and what gateways report.

Frames are a length (4 bytes, big endian) and that much JSON. The first frame each way is a :class:`Hello` with the schema
version; anything but the same version ends the connection, because a gateway and its control start together. Then the
gateway sends :class:`Call` and control answers :class:`Answer` in any order. Only the host's own user (or root) may connect:
control looks at the peer's credentials, the socket's file is 0600 besides.

A gateway that dies takes its sockets with it, so what it had opened is closed when its connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from duologue.errors import DuologueError

from ..types import SCHEMA, Assignment, AssignRequest, HostError, Kind, Placement, VersionSpec

logger = logging.getLogger("duologue.host.control")

_LENGTH = struct.Struct(">I")
#: longest frame; a version's specification is the largest thing that travels
MAX_FRAME = 1 << 20
#: calls of one gateway that are worked on at the same time
MAX_CALLS = 4096

Method = Literal["version", "assign", "opened", "closed", "stop", "report"]


class Hello(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first frame each way."""

    gateway: str
    schema: int = SCHEMA


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call; `arguments` are those of the method, by name."""

    id: int
    method: Method
    arguments: dict[str, Any] = {}


class Refusal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A HostError on its way."""

    status: int
    type: str
    message: str
    hint: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: dict[str, Any] | None = None

    @classmethod
    def of(cls, error: DuologueError) -> Refusal:
        """What travels of an error."""
        if not isinstance(error, HostError):
            return cls(status=500, type="InternalServerException", message="The host failed.")
        return cls(
            status=error.status,
            type=error.type,
            message=error.message,
            hint=error.hint,
            headers=error.headers,
            body=error.body,
        )

    def error(self) -> HostError:
        """The error again."""
        return HostError(self.status, self.type, self.message, headers=self.headers, body=self.body, hint=self.hint)


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer to the call with the same id."""

    id: int
    value: msgspec.Raw = msgspec.Raw(b"null")
    refusal: Refusal | None = None


_encode = msgspec.json.encode


class RpcError(DuologueError):
    """The connection between control and a gateway broke its rules, or is gone."""

    code = "rpc"


class _Frames:
    """Frames over a stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def receive[T](self, type: type[T]) -> T | None:
        """The next frame; None at the end of the stream. Raises RpcError for what is no frame."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(4))
            if length > MAX_FRAME:
                raise RpcError(f"A frame of {length} bytes is too long.")
            data = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        try:
            return msgspec.json.decode(data, type=type)
        except msgspec.DecodeError as error:
            raise RpcError(f"A frame cannot be read: {error}.") from error

    def send(self, message: msgspec.Struct) -> None:
        """Write a frame. Raises RpcError if it is too long."""
        data = _encode(message)
        if len(data) > MAX_FRAME:
            raise RpcError(f"A frame of {len(data)} bytes is too long.")
        if not self._writer.is_closing():
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def drain(self) -> None:
        """Wait while much is unsent."""
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def close(self) -> None:
        """End the stream."""
        self._writer.close()
        with contextlib.suppress(ConnectionError, OSError):
            await self._writer.wait_closed()


def peer_of(connected: Any) -> tuple[int, int]:
    """User id and process id at the other end of a Unix socket (SO_PEERCRED)."""
    pid, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid, pid


# --------------------------------------------------------------------------- control's side


class RpcServer:
    """Serves a placement to gateways in other processes. An asynchronous context manager.

    Args:
        path: of the Unix socket.
        placement: what is served.
        report: takes what a gateway reports of itself: its name, and counters.
    """

    def __init__(
        self,
        path: Path,
        placement: Placement,
        *,
        report: Callable[[str, dict[str, Any]], None] = lambda name, counts: None,
    ) -> None:
        self.path = path
        self._placement = placement
        self._report = report
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._accept, self.path)
        finally:
            os.umask(before)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._links):
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            uid, pid = peer_of(writer.get_extra_info("socket"))
            if uid not in (0, os.geteuid()):
                logger.warning("rpc: user %d (process %d) was refused", uid, pid)
                writer.transport.abort()
                return
            await _Link(_Frames(reader, writer), self._placement, self._report).run()
        except asyncio.CancelledError:
            pass  # the host ends
        except RpcError as error:
            logger.warning("rpc: %s", error)
        finally:
            self._links.discard(task)
            writer.close()


class _Link:
    """One gateway."""

    def __init__(self, frames: _Frames, placement: Placement, report: Callable[[str, dict[str, Any]], None]) -> None:
        self._frames = frames
        self._placement = placement
        self._report = report
        self._name = ""
        self._handles: dict[str, str] = {}  # and their tenants

    async def run(self) -> None:
        hello = await self._frames.receive(Hello)
        if hello is None:
            return
        self._frames.send(Hello(gateway="control"))
        if hello.schema != SCHEMA:
            raise RpcError(f"Gateway {hello.gateway} has schema {hello.schema}, control {SCHEMA}.")
        self._name = hello.gateway
        tasks: set[asyncio.Task[None]] = set()
        try:
            while (call := await self._frames.receive(Call)) is not None:
                if len(tasks) >= MAX_CALLS:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                task = asyncio.create_task(self._answer(call))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for handle in list(self._handles):
                await self._placement.closed(handle)

    async def _answer(self, call: Call) -> None:
        tenant = self._tenant(call)
        try:
            value = await self._call(call)
            answer = Answer(id=call.id, value=msgspec.Raw(_encode(value)))
        except HostError as error:
            answer = Answer(id=call.id, refusal=Refusal.of(error))
        except (TypeError, msgspec.ValidationError) as error:
            answer = Answer(
                id=call.id, refusal=Refusal(status=500, type="InternalServerException", message=f"rpc: {error}")
            )
        except Exception as error:
            logger.exception("rpc: %s failed, for tenant %s", call.method, tenant)
            wrapped = error if isinstance(error, DuologueError) else DuologueError(type(error).__name__)
            answer = Answer(id=call.id, refusal=Refusal.of(wrapped))
        self._frames.send(answer)
        await self._frames.drain()

    async def _call(self, call: Call) -> Any:
        given, placement = call.arguments, self._placement
        match call.method:
            case "version":
                return await placement.version(**given)
            case "assign":
                return await placement.assign(msgspec.convert(given["request"], AssignRequest))
            case "opened":
                assignment = msgspec.convert(given["assignment"], Assignment)
                handle = await placement.opened(assignment, given["kind"])
                self._handles[handle] = assignment.tenant
                return handle
            case "closed":
                self._handles.pop(given["handle"], None)
                return await placement.closed(given["handle"])
            case "stop":
                return await placement.stop(**given)
            case "report":
                return self._report(self._name, given["counts"])

    def _tenant(self, call: Call) -> str:
        """Whom a call is about."""
        given = call.arguments
        about = given.get("request") or given.get("assignment") or given
        named = about.get("tenant") if isinstance(about, dict) else None
        return str(named or self._handles.get(str(given.get("handle")), "none"))


# --------------------------------------------------------------------------- the gateway's side


class RpcPlacement:
    """`Placement` in a gateway process. Made by :func:`rpc_placement`.

    Every method raises HostError 503 when control is gone.
    """

    def __init__(self, frames: _Frames) -> None:
        self._frames = frames
        self._waiting: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._last = 0
        #: set when control is gone: a gateway without it ends
        self.lost = asyncio.Event()

    async def version(self, tenant: str, runtime: str, qualifier: str) -> VersionSpec:
        """See Placement."""
        return await self._ask("version", VersionSpec, tenant=tenant, runtime=runtime, qualifier=qualifier)

    async def assign(self, request: AssignRequest) -> Assignment:
        """See Placement."""
        return await self._ask("assign", Assignment, request=request)

    async def opened(self, assignment: Assignment, kind: Kind) -> str:
        """See Placement."""
        return await self._ask("opened", str, assignment=assignment, kind=kind)

    async def closed(self, handle: str) -> None:
        """See Placement."""
        with contextlib.suppress(HostError):  # with control gone nothing is open any more
            await self._ask("closed", None, handle=handle)

    async def stop(self, tenant: str, runtime: str, session: str, principal: str, *, reason: str = "stopped") -> bool:
        """See Placement."""
        return await self._ask(
            "stop", bool, tenant=tenant, runtime=runtime, session=session, principal=principal, reason=reason
        )

    async def report(self, counts: dict[str, Any]) -> None:
        """Tell control what this gateway counted."""
        await self._ask("report", None, counts=counts)

    async def _ask[T](self, method: Method, type: type[T] | None, **arguments: Any) -> T:
        if self.lost.is_set():
            raise _gone()
        self._last += 1
        id = self._last
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._waiting[id] = future
        try:
            self._frames.send(Call(id=id, method=method, arguments=arguments))
            return msgspec.json.decode(await future, type=type)
        finally:
            self._waiting.pop(id, None)

    async def _receive(self) -> None:
        try:
            while (answer := await self._frames.receive(Answer)) is not None:
                future = self._waiting.get(answer.id)
                if future is None or future.done():
                    continue  # who asked has gone
                if answer.refusal is not None:
                    future.set_exception(answer.refusal.error())
                else:
                    future.set_result(answer.value)
        finally:
            self.lost.set()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(_gone())


@contextlib.asynccontextmanager
async def rpc_placement(path: Path, name: str) -> AsyncIterator[RpcPlacement]:
    """Connect the gateway called `name` to control. Raises RpcError if there is none, or of another schema."""
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError as error:
        raise RpcError(f"Control cannot be reached: {error.strerror or error}.", hint="Is the host running?") from error
    frames = _Frames(reader, writer)
    try:
        frames.send(Hello(gateway=name))
        hello = await frames.receive(Hello)
        if hello is None or hello.schema != SCHEMA:
            what = f"has schema {hello.schema}, this gateway {SCHEMA}" if hello is not None else "hung up"
            raise RpcError(f"Control {what}.", hint="Gateways and control start together, from one installation.")
        placement = RpcPlacement(frames)
        receiving = asyncio.create_task(placement._receive())
        try:
            yield placement
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
    finally:
        await frames.close()


def _gone() -> HostError:
    return HostError(
        503, "ServiceUnavailableException", "The host's control plane is gone.", headers=(("Retry-After", "1"),)
    )
