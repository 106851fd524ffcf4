"""Operations on agents: archives, deployments, versions, endpoints, invocations."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.responses import Response, StreamingResponse

from ..auth import SESSION_HEADER
from ..headers import metadata
from ..types import AssignRequest, HostError
from .agent_views import (
    Agents,
    AgentView,
    Archive,
    Endpoints,
    EndpointView,
    Pointing,
    Rollback,
    Versions,
    VersionView,
    agent_view,
    endpoint_view,
    version_view,
)
from .arn import DEFAULT, invalid
from .context import Context, spooled, whole
from .deploy import Deployment
from .operations import Done, Operation, Parameter
from .rows import Endpoint, Runtime, Version

#: longest body of an invocation over this listener, bytes; the public one has its own limit
_MAX_INVOCATION = 1 << 20


# --------------------------------------------------------------------------- handlers


async def _list(context: Context) -> Agents:
    directory = context.control.directory

    def read() -> list[tuple[Runtime, list[Endpoint]]]:
        mine = [row for row in directory.runtimes(context.tenant) if context.visible("observe", row.id)]
        return [(row, directory.endpoints(context.tenant, row.id)) for row in mine]

    return Agents(agents=[agent_view(context, runtime, endpoints) for runtime, endpoints in await context.aside(read)])


async def _show(context: Context) -> AgentView:
    endpoints = await context.aside(context.control.directory.endpoints, context.tenant, context.runtime.id)
    return agent_view(context, context.runtime, endpoints)


async def _delete(context: Context) -> Done:
    control, runtime = context.control, context.runtime
    versions = await context.aside(control.directory.versions, context.tenant, runtime.id)
    await context.aside(control.directory.delete, context.tenant, runtime.id)
    context.record("agent.delete", runtime.id)
    count = control.placement.drain(context.tenant, runtime.id)
    for row in versions:
        if row.state == "ready":
            await control.deployer.forget(row.spec)
    return Done(count=count)


async def _upload(context: Context) -> Archive:
    deployer, wanted = context.control.deployer, context.path["sha256"]
    media = context.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in UPLOADS:
        raise HostError(415, "ValidationException", f"The body must be one of {', '.join(UPLOADS)}.")
    declared = context.request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > deployer.archive_limit:
        raise HostError(413, "ValidationException", f"Archives have at most {deployer.archive_limit} bytes.")
    path, digest = deployer.spool(context.tenant), hashlib.sha256()
    try:
        with await asyncio.to_thread(path.open, "xb") as file:

            def write(chunk: bytes) -> None:
                file.write(chunk)
                digest.update(chunk)

            await spooled(context.request, deployer.archive_limit, write)
            size = file.tell()
        if digest.hexdigest() != wanted:
            raise invalid("The body does not have that SHA-256.", "It may have been cut short; send it again.")
        await asyncio.to_thread(deployer.keep, context.tenant, path, wanted)
    finally:
        await asyncio.to_thread(path.unlink, True)
    return Archive(sha256=wanted, bytes=size)


async def _deploy(context: Context) -> VersionView:
    wanted: Deployment = context.body
    found = await context.aside(context.control.directory.find, context.tenant, wanted.name)
    # A name that is new needs the role on all runtimes: its id is not known yet.
    context.authorise("deploy", found.id if found is not None else "*")
    context.record("deploy", wanted.name, wanted.archive)
    version = await context.control.deployer.deploy(context.tenant, wanted, by=context.by)
    return await _version_view(context, version)


async def _version_view(context: Context, version: Version) -> VersionView:
    directory, runtime = context.control.directory, version.spec.runtime

    def read() -> VersionView:
        return version_view(
            directory.runtime(context.tenant, runtime), version, directory.endpoints(context.tenant, runtime)
        )

    return await context.aside(read)


async def _versions(context: Context) -> Versions:
    directory, runtime = context.control.directory, context.runtime

    def read() -> list[VersionView]:
        endpoints = directory.endpoints(context.tenant, runtime.id)
        return [version_view(runtime, row, endpoints) for row in directory.versions(context.tenant, runtime.id)]

    return Versions(versions=await context.aside(read))


async def _version(context: Context) -> VersionView:
    number = whole(context.path["version"], "version", 0, 1, 99_999)
    row = await context.aside(context.control.directory.version, context.tenant, context.runtime.id, number)
    return await _version_view(context, row)


async def _rollback(context: Context) -> VersionView:
    wanted: Rollback = context.body
    if not 0 <= wanted.to <= 99_999:
        raise invalid("`to` is a version, or 0 for the one before.")
    context.record("rollback", context.runtime.id, f"{wanted.endpoint} to {wanted.to or 'the one before'}")
    version = await context.control.deployer.rollback(context.tenant, context.runtime.id, wanted.endpoint, wanted.to)
    return await _version_view(context, version)


async def _endpoints(context: Context) -> Endpoints:
    rows = await context.aside(context.control.directory.endpoints, context.tenant, context.runtime.id)
    return Endpoints(endpoints=[endpoint_view(context, context.runtime, row) for row in rows])


async def _point(context: Context) -> EndpointView:
    wanted: Pointing = context.body
    if not 1 <= wanted.version <= 99_999:
        raise invalid("A version is a number from 1 on.")
    name, runtime = context.path["endpoint"], context.runtime
    context.record("endpoint.move", runtime.id, f"{name} to {wanted.version}")
    await context.control.deployer.move(context.tenant, runtime.id, name, wanted.version)
    row = await context.aside(context.control.directory.endpoint, context.tenant, runtime.id, name)
    return endpoint_view(context, runtime, row)


async def _unpoint(context: Context) -> Done:
    name, runtime = context.path["endpoint"], context.runtime
    await context.aside(context.control.directory.remove_endpoint, context.tenant, runtime.id, name)
    context.record("endpoint.delete", runtime.id, name)
    await context.control.deployer.retire_unused(context.tenant, runtime.id)
    return Done()


async def _invoke(context: Context) -> Response:
    """One invocation, over the worker's own socket: for the command line, which needs no key on this machine."""
    placement, request = context.control.placement, context.request
    body = bytearray()
    await spooled(request, _MAX_INVOCATION, body.extend, within_s=60.0)
    assignment = await placement.assign(
        AssignRequest(
            tenant=context.tenant,
            runtime=context.runtime.id,
            qualifier=context.query("qualifier", DEFAULT),
            session=request.headers.get(SESSION_HEADER, ""),
            principal=context.by,
            channel="invocation",
        )
    )
    handle = await placement.opened(assignment, "invocations")
    headers = {SESSION_HEADER: assignment.session, "content-type": "application/json", "host": "localhost"}
    headers["accept"] = request.headers.get("accept", "application/json")
    headers |= metadata(assignment.metadata)
    closing = contextlib.AsyncExitStack()
    closing.push_async_callback(placement.closed, handle)
    try:
        client = await closing.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=assignment.http), timeout=httpx.Timeout(900.0, connect=10.0)
            )
        )
        answer = await closing.enter_async_context(
            client.stream("POST", "http://localhost/invocations", content=bytes(body), headers=headers)
        )
        if answer.status_code >= 400:
            said = (await answer.aread())[:500].decode(errors="replace")
            raise HostError(424, "RuntimeClientError", f"The agent answered {answer.status_code}: {said}")
    except BaseException as error:
        await closing.aclose()
        if isinstance(error, httpx.HTTPError):
            raise HostError(424, "RuntimeClientError", f"The agent did not answer: {type(error).__name__}.") from error
        raise

    async def stream() -> AsyncIterator[bytes]:
        async with closing:
            async for chunk in answer.aiter_bytes():
                yield chunk

    media = answer.headers.get("content-type", "application/octet-stream")
    return StreamingResponse(stream(), media_type=media, headers={SESSION_HEADER: assignment.session})


UPLOADS = ("application/gzip", "application/zip", "application/x-tar", "application/octet-stream")
_QUALIFIER = Parameter(
    name="qualifier",
    about="The endpoint; DEFAULT unless given.",
    schema={"type": "string", "pattern": "^[a-zA-Z][a-zA-Z0-9_]{0,47}$"},
)


def _op(id: str, method: Any, path: str, role: Any, about: str, handler: Any, **more: Any) -> Operation:
    return Operation(id=id, method=method, path=path, role=role, about=about, handler=handler, **more)


OPERATIONS: tuple[Operation, ...] = (
    _op("listAgents", "GET", "/agents", "observe", "The agents of a tenant.", _list, scope="later", answer=Agents),
    _op("showAgent", "GET", "/agents/{agent}", "observe", "One agent.", _show, scope="agent", answer=AgentView),
    _op(
        "deleteAgent",
        "DELETE",
        "/agents/{agent}",
        "admin",
        "Remove an agent; its sessions are drained, and how many is told.",
        _delete,
        scope="agent",
        answer=Done,
    ),
    _op(
        "sendArchive",
        "PUT",
        "/archives/{sha256}",
        "deploy",
        "Send an archive to deploy: zip, tar or tar.gz.",
        _upload,
        scope="later",
        upload=UPLOADS,
        answer=Archive,
        status=201,
        errors=(408,),
    ),
    _op(
        "deploy",
        "POST",
        "/deployments",
        "deploy",
        "Make a version of an archive, probe it, and move an endpoint to it.",
        _deploy,
        scope="later",
        body=Deployment,
        answer=VersionView,
        status=201,
        errors=(409, 413, 424),
    ),
    _op(
        "listVersions",
        "GET",
        "/agents/{agent}/versions",
        "observe",
        "The versions of an agent.",
        _versions,
        scope="agent",
        answer=Versions,
    ),
    _op(
        "showVersion",
        "GET",
        "/agents/{agent}/versions/{version}",
        "observe",
        "One version.",
        _version,
        scope="agent",
        answer=VersionView,
    ),
    _op(
        "rollback",
        "POST",
        "/agents/{agent}/rollback",
        "deploy",
        "Move an endpoint back to an earlier version.",
        _rollback,
        scope="agent",
        body=Rollback,
        body_optional=True,
        answer=VersionView,
        errors=(409, 424),
    ),
    _op(
        "listEndpoints",
        "GET",
        "/agents/{agent}/endpoints",
        "observe",
        "The endpoints of an agent.",
        _endpoints,
        scope="agent",
        answer=Endpoints,
    ),
    _op(
        "moveEndpoint",
        "PUT",
        "/agents/{agent}/endpoints/{endpoint}",
        "deploy",
        "Let an endpoint mean a version; it is made if it is not there.",
        _point,
        scope="agent",
        body=Pointing,
        answer=EndpointView,
        errors=(409,),
    ),
    _op(
        "deleteEndpoint",
        "DELETE",
        "/agents/{agent}/endpoints/{endpoint}",
        "deploy",
        "Remove a named endpoint.",
        _unpoint,
        scope="agent",
        answer=Done,
        errors=(409,),
    ),
    _op(
        "invoke",
        "POST",
        "/agents/{agent}/invocations",
        "invoke",
        "Invoke an agent; its answer is passed on.",
        _invoke,
        scope="agent",
        upload=("application/json",),
        stream=("application/json", "text/event-stream"),
        query=(_QUALIFIER,),
        errors=(409, 424, 429),
    ),
)
