"""Operations on sessions: start, list, describe, tail, drain, end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from ..types import AssignRequest, Grant, HostError
from .arn import DEFAULT, check_session_id, conflict, invalid, missing
from .context import Context
from .operations import AFTER, AGENT, LIMIT, Done, Operation, Parameter
from .rows import Runtime, Session
from .tail import tail

_MAX_METADATA = 4096


class SessionRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session to be started.

    Attributes:
        agent: by name or id. `qualifier`: which endpoint.
        channel: ``join``, or how the host reaches the participant. `participant`: who they are, as that channel wants it.
        metadata: what the agent is told of the call; up to 4 KiB as JSON.
        session: its id; made unless given.
    """

    agent: str
    channel: str = "join"
    participant: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    qualifier: str = DEFAULT
    session: str = ""


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """A session. `open`: how many sockets and requests it has.

    Of one that was just started, `url` is where its principal may join it, and `ticket` (channel ``join``) what anybody opens
    that url with, once and within 30 s: ``{url}&ticket=…``.
    """

    session: str
    agent: str
    name: str
    version: int
    epoch: int
    principal: str
    worker: str
    state: str
    reason: str
    channel: str
    open: int
    metadata: dict[str, Any]
    created: float
    updated: float
    url: str = ""
    ticket: str = ""


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions; `next` goes into `after` for those that follow, "" if there are none."""

    sessions: list[SessionView]
    next: str = ""


class Drain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which sessions to drain: all of the tenant's, of an agent, or one."""

    agent: str = ""
    session: str = ""


def _view(context: Context, row: Session, name: str) -> SessionView:
    return SessionView(
        session=row.session,
        agent=row.runtime,
        name=name,
        version=row.version,
        epoch=row.epoch,
        principal=row.principal,
        worker=row.worker,
        state=row.state,
        reason=row.reason,
        channel=row.channel,
        open=context.control.placement.open_handles(row.tenant, row.runtime, row.session),
        metadata=row.metadata,
        created=row.created,
        updated=row.updated,
    )


def _find(context: Context) -> tuple[Runtime | None, Session]:
    """The session in the path. Its id may be in use with several agents; then `agent` must say whose. Blocking."""
    directory, wanted, id = context.control.directory, context.query("agent"), context.path["session"]
    if wanted:
        runtime = directory.runtime(context.tenant, wanted)
        found = directory.session(context.tenant, runtime.id, id)
        if found is None:
            raise missing(f"There is no session {id[:80]!r} of {runtime.name}.")
        return runtime, found[1]
    rows = [row for row in directory.sessions(context.tenant) if row.session == id]
    if not rows:
        raise missing(f"There is no session {id[:80]!r}.")
    if len(rows) > 1:
        raise conflict("Several agents have a session of that id.", "Say whose: ?agent=…")
    return directory.find(context.tenant, rows[0].runtime), rows[0]


async def _mine(context: Context, role: Any, *, or_principal: bool = False) -> tuple[Runtime | None, Session]:
    """The session in the path, if the identity has `role` on its agent, or (`or_principal`) may invoke it and opened it."""
    check_session_id(context.path["session"])
    try:
        runtime, row = await context.aside(_find, context)
    except HostError:
        # Who has the role on some agents only is not told which ids others have.
        context.authorise(role)
        raise
    if not (or_principal and row.principal == context.by and context.visible("invoke", row.runtime)):
        context.authorise(role, row.runtime)
    return runtime, row


def _name(runtime: Runtime | None, row: Session) -> str:
    return runtime.name if runtime is not None else row.runtime


async def _start(context: Context) -> SessionView:
    wanted: SessionRequest = context.body
    runtime = await context.agent("invoke", wanted.agent)
    if len(msgspec.json.encode(wanted.metadata)) > _MAX_METADATA:
        raise invalid(f"The metadata has more than {_MAX_METADATA} bytes.")
    if wanted.session:
        check_session_id(wanted.session)
    control = context.control
    control.channels.check(wanted.channel, wanted.participant)
    assignment = await control.placement.assign(
        AssignRequest(
            tenant=context.tenant,
            runtime=runtime.id,
            qualifier=wanted.qualifier,
            session=wanted.session,
            principal=context.by,
            signed_session=True,
            channel=wanted.channel,
            metadata=wanted.metadata,
        )
    )
    context.record("session.start", assignment.session, wanted.channel)
    try:
        await control.channels.connect(wanted.channel, wanted.participant, assignment)
    except HostError:
        if assignment.new:
            await control.placement.end(context.tenant, runtime.id, assignment.session, reason="unreachable")
        raise
    found = await context.aside(control.directory.session, context.tenant, runtime.id, assignment.session)
    if found is None:
        raise missing("The session has ended.")
    ticket = url = ""
    if control.url:
        url = f"ws{control.url.removeprefix('http')}/runtimes/{runtime.id}/ws"
        url += f"?qualifier={wanted.qualifier}&accountId={context.tenant}"
    if wanted.channel == "join":
        ticket = await control.authority.ticket(
            msgspec.structs.replace(context.identity, grants=(Grant(role="invoke", runtime=runtime.id),)),
            tenant=context.tenant,
            runtime=runtime.id,
            qualifier=wanted.qualifier,
            session=assignment.session,
            origin=wanted.participant.get("origin", ""),
        )
    return msgspec.structs.replace(_view(context, found[1], runtime.name), url=url, ticket=ticket)


async def _list(context: Context) -> Sessions:
    directory = context.control.directory
    agent, state, after = context.query("agent"), context.query("state"), context.query("after")
    limit = context.number("limit", 100, 1, 1000)
    only = (await context.agent("observe", agent)).id if agent else ""

    def read() -> tuple[list[Session], dict[str, str]]:
        names = {row.id: row.name for row in directory.runtimes(context.tenant)}
        return directory.sessions(context.tenant, only), names

    rows, names = await context.aside(read)
    found = [
        row
        for row in rows
        if _key(row) > after
        and (state == "" or row.state == state or (state == "open" and row.state != "ended"))
        and context.visible("observe", row.runtime)
    ]
    page = found[:limit]
    views = [_view(context, row, names.get(row.runtime, row.runtime)) for row in page]
    return Sessions(sessions=views, next=_key(page[-1]) if len(found) > limit else "")


def _key(row: Session) -> str:
    return f"{row.runtime}/{row.session}"


async def _show(context: Context) -> SessionView:
    runtime, row = await _mine(context, "observe", or_principal=True)
    return _view(context, row, _name(runtime, row))


async def _end(context: Context) -> Done:
    _, row = await _mine(context, "admin", or_principal=True)
    ended = await context.control.placement.end(context.tenant, row.runtime, row.session, reason="stopped")
    context.record("session.stop", row.session)
    return Done(count=int(ended))


async def _erase(context: Context) -> Done:
    _, row = await _mine(context, "admin", or_principal=True)
    erased = await context.control.placement.erase(context.tenant, row.runtime, row.session)
    context.record("session.erase", row.session)
    return Done(count=int(erased))


async def _tail(context: Context) -> Response:
    _, row = await _mine(context, "observe")
    control, request = context.control, context.request
    follow = context.query("follow", "true")
    last = request.headers.get("last-event-id", "")
    start = int(last) + 1 if last.isascii() and last.isdigit() and len(last) < 16 else 0
    context.record("session.tail", row.session, f"from {start}")
    events = tail(
        Path(control.journal(context.tenant)),
        context.tenant,
        row.session,
        start=start,
        follow=follow == "true",
        ended=lambda: not control.placement.is_open(context.tenant, row.runtime, row.session),
    )
    return StreamingResponse(events, media_type="text/event-stream")


async def _drain(context: Context) -> Done:
    wanted: Drain = context.body
    runtime = (await context.agent("admin", wanted.agent)).id if wanted.agent else ""
    if not runtime:
        context.authorise("admin")
    if wanted.session:
        check_session_id(wanted.session)
    count = context.control.placement.drain(context.tenant, runtime, wanted.session)
    context.record("session.drain", wanted.session or runtime or "*", str(count))
    return Done(count=count)


_STATES = ("starting", "live", "draining", "stopping", "ended")
_STATE = Parameter(
    name="state",
    about="Only those in this state; `open`: all but the ended.",
    schema={"type": "string", "enum": ["open", *_STATES]},
)
_FOLLOW = Parameter(
    name="follow",
    about="Whether to wait for more; true unless given.",
    schema={"type": "string", "enum": ["true", "false"]},
)


def _op(id: str, method: Any, path: str, role: Any, about: str, handler: Any, **more: Any) -> Operation:
    return Operation(id=id, method=method, path=path, role=role, about=about, handler=handler, scope="later", **more)


OPERATIONS: tuple[Operation, ...] = (
    _op(
        "startSession",
        "POST",
        "/sessions",
        "invoke",
        "Start a session that a participant joins, or that dials out.",
        _start,
        body=SessionRequest,
        answer=SessionView,
        status=201,
        errors=(409, 424, 429),
    ),
    _op(
        "listSessions",
        "GET",
        "/sessions",
        "observe",
        "The sessions of a tenant.",
        _list,
        answer=Sessions,
        query=(AGENT, _STATE, LIMIT, AFTER),
    ),
    _op(
        "drainSessions",
        "POST",
        "/sessions/drain",
        "admin",
        "Take nothing new on sessions, and end each when nothing of it is open or busy; how many.",
        _drain,
        body=Drain,
        body_optional=True,
        answer=Done,
    ),
    _op(
        "showSession",
        "GET",
        "/sessions/{session}",
        "observe",
        "One session.",
        _show,
        answer=SessionView,
        query=(AGENT,),
        errors=(409,),
        own_role="invoke",
    ),
    _op(
        "stopSession",
        "DELETE",
        "/sessions/{session}",
        "admin",
        "End a session: its own principal's, or with the role admin any; `count` is 0 if it had ended.",
        _end,
        answer=Done,
        query=(AGENT,),
        errors=(409,),
        own_role="invoke",
    ),
    _op(
        "eraseSession",
        "DELETE",
        "/sessions/{session}/storage",
        "admin",
        "Remove the files of a session that has ended: its own principal's, or with the role admin any; "
        "`count` is 0 if it has none.",
        _erase,
        answer=Done,
        query=(AGENT,),
        errors=(409,),
        own_role="invoke",
    ),
    _op(
        "tailSession",
        "GET",
        "/sessions/{session}/tail",
        "observe",
        "The events of a session as server-sent events.",
        _tail,
        stream=("text/event-stream",),
        query=(AGENT, _FOLLOW),
        errors=(409,),
    ),
)
