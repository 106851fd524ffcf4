"""The read side of ``bedrock-agentcore-control`` (2023-06-05): get and list runtimes, versions and endpoints.

Paths, methods and field names are the vendor's, so that its SDKs work against this listener with ``endpoint_url``. What has
no meaning here is the least that their models require: `roleArn` names no role, the network is public.
"""

from __future__ import annotations

import base64
import datetime
import sys
from typing import Any

import msgspec

from .arn import DEFAULT, invalid
from .context import Context, whole
from .operations import Operation, Parameter
from .rows import Endpoint, Runtime, Version


class RuntimeSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """AgentRuntime of the vendor's model."""

    agent_runtime_arn: str
    agent_runtime_id: str
    agent_runtime_version: str
    agent_runtime_name: str
    description: str
    last_updated_at: str
    status: str


class RuntimeList(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """ListAgentRuntimes, ListAgentRuntimeVersions."""

    agent_runtimes: list[RuntimeSummary]
    next_token: str = ""


class RuntimeDetail(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """GetAgentRuntime."""

    agent_runtime_arn: str
    agent_runtime_name: str
    agent_runtime_id: str
    agent_runtime_version: str
    created_at: str
    last_updated_at: str
    role_arn: str
    network_configuration: dict[str, Any]
    status: str
    lifecycle_configuration: dict[str, int]
    agent_runtime_artifact: dict[str, Any]
    protocol_configuration: dict[str, Any]
    workload_identity_details: dict[str, str]
    failure_reason: str = ""
    description: str = ""
    authorizer_configuration: dict[str, Any] = {}
    request_header_configuration: dict[str, Any] = {}
    filesystem_configurations: list[dict[str, Any]] = []


class EndpointDetail(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """GetAgentRuntimeEndpoint, and a row of ListAgentRuntimeEndpoints."""

    live_version: str
    target_version: str
    agent_runtime_endpoint_arn: str
    agent_runtime_arn: str
    status: str
    created_at: str
    last_updated_at: str
    name: str
    id: str


class EndpointList(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """ListAgentRuntimeEndpoints."""

    runtime_endpoints: list[EndpointDetail]
    next_token: str = ""


_STATUS = {"preparing": "CREATING", "ready": "READY", "failed": "CREATE_FAILED", "deleted": "DELETING"}


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _page[T](context: Context, rows: list[tuple[str, T]]) -> tuple[list[T], str]:
    """A page of rows that are sorted by their keys, and the token for the next one."""
    limit, token = context.number("maxResults", 100, 1, 100), context.query("nextToken")
    try:
        after = base64.urlsafe_b64decode(token.encode("ascii") + b"==").decode() if token else ""
    except ValueError:
        raise invalid("nextToken was not given out here.") from None
    found = [(key, row) for key, row in rows if key > after]
    page = found[:limit]
    more = base64.urlsafe_b64encode(page[-1][0].encode()).decode().rstrip("=") if len(found) > limit else ""
    return [row for _, row in page], more


def _summary(context: Context, runtime: Runtime, row: Version | None) -> RuntimeSummary:
    return RuntimeSummary(
        agent_runtime_arn=context.control.arn(runtime),
        agent_runtime_id=runtime.id,
        agent_runtime_version=str(row.spec.version if row is not None else max(runtime.latest, 1)),
        agent_runtime_name=runtime.name,
        description=runtime.description or runtime.name,
        last_updated_at=_time(row.created if row is not None else runtime.updated),
        status=_STATUS[row.state] if row is not None else "CREATING",
    )


async def _list(context: Context) -> RuntimeList:
    directory = context.control.directory

    def read() -> list[tuple[str, RuntimeSummary]]:
        found = []
        for runtime in directory.runtimes(context.tenant):
            if context.visible("observe", runtime.id):
                rows = directory.versions(context.tenant, runtime.id)
                found.append((runtime.id, _summary(context, runtime, rows[-1] if rows else None)))
        return found

    page, token = _page(context, await context.aside(read))
    return RuntimeList(agent_runtimes=page, next_token=token)


async def _versions(context: Context) -> RuntimeList:
    rows = await context.aside(context.control.directory.versions, context.tenant, context.runtime.id)
    keyed = [(f"{row.spec.version:05d}", _summary(context, context.runtime, row)) for row in rows]
    page, token = _page(context, keyed)
    return RuntimeList(agent_runtimes=page, next_token=token)


async def _get(context: Context) -> RuntimeDetail:
    directory, runtime = context.control.directory, context.runtime
    number = whole(context.query("version"), "version", runtime.latest, 1, 99_999)
    row = await context.aside(directory.version, context.tenant, runtime.id, number)
    spec, arn = row.spec, context.control.arn(runtime)
    python = f"PYTHON_{sys.version_info.major}_{sys.version_info.minor}"
    code = {
        "code": {"s3": {"bucket": "duologue-host", "prefix": spec.digest}},
        "runtime": python,
        "entryPoint": [(spec.entry or " ".join(spec.command))[:128] or "main"],
    }
    return RuntimeDetail(
        agent_runtime_arn=arn,
        agent_runtime_name=runtime.name,
        agent_runtime_id=runtime.id,
        agent_runtime_version=str(spec.version),
        created_at=_time(runtime.created),
        last_updated_at=_time(row.created),
        role_arn=f"arn:aws:iam::{runtime.tenant}:role/none",
        network_configuration={"networkMode": "PUBLIC"},
        status=_STATUS[row.state],
        lifecycle_configuration={
            "idleRuntimeSessionTimeout": round(spec.lifecycle.idle_s),
            "maxLifetime": round(spec.lifecycle.lifetime_s),
        },
        agent_runtime_artifact={"codeConfiguration": code},
        protocol_configuration={"serverProtocol": "HTTP"},
        workload_identity_details={"workloadIdentityArn": arn},
        failure_reason=row.reason,
        description=runtime.description,
        authorizer_configuration=_authorizer(spec.auth),
        request_header_configuration={"requestHeaderAllowlist": list(spec.headers)} if spec.headers else {},
        filesystem_configurations=[{"sessionStorage": {"mountPath": spec.storage.path}}] if spec.storage.path else [],
    )


def _authorizer(auth: dict[str, Any]) -> dict[str, Any]:
    return auth if not auth or "customJWTAuthorizer" in auth else {"customJWTAuthorizer": auth}


def _endpoint(context: Context, row: Endpoint) -> EndpointDetail:
    runtime = context.runtime
    return EndpointDetail(
        live_version=str(row.live),
        target_version=str(row.target),
        agent_runtime_endpoint_arn=context.control.arn(runtime, row.name),
        agent_runtime_arn=context.control.arn(runtime),
        status="READY",
        created_at=_time(row.created),
        last_updated_at=_time(row.updated),
        name=row.name,
        id=row.name,
    )


async def _endpoints(context: Context) -> EndpointList:
    rows = await context.aside(context.control.directory.endpoints, context.tenant, context.runtime.id)
    page, token = _page(context, [(row.name, _endpoint(context, row)) for row in rows])
    return EndpointList(runtime_endpoints=page, next_token=token)


async def _get_endpoint(context: Context) -> EndpointDetail:
    name = context.path.get("endpointName", DEFAULT)
    row = await context.aside(context.control.directory.endpoint, context.tenant, context.runtime.id, name)
    return _endpoint(context, row)


_MAX = Parameter(name="maxResults", about="Rows at most.", schema={"type": "integer", "minimum": 1, "maximum": 100})
_NEXT = Parameter(name="nextToken", about="From the answer before.", schema={"type": "string", "maxLength": 2048})
_VERSION = Parameter(
    name="version", about="The latest unless given.", schema={"type": "integer", "minimum": 1, "maximum": 99999}
)


def _op(id: str, method: Any, path: str, about: str, handler: Any, answer: Any, **more: Any) -> Operation:
    more = {"scope": "agent", **more}
    return Operation(
        id=id, method=method, path=path, role="observe", about=about, handler=handler, answer=answer, **more
    )


OPERATIONS: tuple[Operation, ...] = (
    _op(
        "ListAgentRuntimes",
        "POST",
        "/runtimes/",
        "The vendor's ListAgentRuntimes.",
        _list,
        RuntimeList,
        scope="later",
        query=(_MAX, _NEXT),
    ),
    _op(
        "GetAgentRuntime",
        "GET",
        "/runtimes/{agentRuntimeId}/",
        "The vendor's GetAgentRuntime.",
        _get,
        RuntimeDetail,
        query=(_VERSION,),
    ),
    _op(
        "ListAgentRuntimeVersions",
        "POST",
        "/runtimes/{agentRuntimeId}/versions/",
        "The vendor's ListAgentRuntimeVersions.",
        _versions,
        RuntimeList,
        query=(_MAX, _NEXT),
    ),
    _op(
        "ListAgentRuntimeEndpoints",
        "POST",
        "/runtimes/{agentRuntimeId}/runtime-endpoints/",
        "The vendor's ListAgentRuntimeEndpoints.",
        _endpoints,
        EndpointList,
        query=(_MAX, _NEXT),
    ),
    _op(
        "GetAgentRuntimeEndpoint",
        "GET",
        "/runtimes/{agentRuntimeId}/runtime-endpoints/{endpointName}/",
        "The vendor's GetAgentRuntimeEndpoint.",
        _get_endpoint,
        EndpointDetail,
    ),
)
