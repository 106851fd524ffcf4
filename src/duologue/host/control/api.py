"""The control API: the application that serves the table of operations.

It listens on a Unix socket, whose peers are known by their credentials, and on TCP only with TLS, where a key or a signature
is wanted. It takes JSON, and bytes where archives are sent; it sets and reads no cookie, refuses whatever a browser sends
across sites (an ``Origin``), and answers only to its own names, so that no page can make it do anything.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from duologue.errors import ConfigurationError, DuologueError, OverloadedError, StoreError

from ..types import ROLES, Grant, HostError, Identity, NeedsBody, Principal, RequestHead, Route
from . import admin, agents, sessions, vendor
from .arn import check_account, invalid, missing
from .context import MAX_BODY, Context, Control, spooled
from .listen import peer_user
from .operations import Operation, describe, matcher

logger = logging.getLogger("duologue.host.control")


async def _openapi(context: Context) -> Response:
    return JSONResponse(DESCRIPTION)


OPERATIONS: tuple[Operation, ...] = (
    Operation(id="openapi", method="GET", path="/openapi.json", role="", about="This description.", handler=_openapi),
    *agents.OPERATIONS,
    *sessions.OPERATIONS,
    *admin.OPERATIONS,
    *vendor.OPERATIONS,
)
DESCRIPTION = describe(OPERATIONS, version=version("duologue"))


class ControlAPI:
    """The ASGI application.

    Args:
        peers: whether connections come over the Unix socket, where the peer's user is its credential.
        tls: whether they came over TLS.
    """

    def __init__(
        self, control: Control, *, peers: bool, tls: bool = False, operations: Sequence[Operation] = OPERATIONS
    ) -> None:
        self.control = control
        self._peers = peers
        self._tls = tls
        self._routes = [(matcher(op.path), op) for op in operations]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        request.state.tenant = "unknown"  # for the log
        try:
            response = await self._answer(request)
        except HostError as error:
            response = problem(error)
        except ClientDisconnect:
            return
        except (ConfigurationError, OverloadedError) as error:
            response = problem(HostError(400, "ValidationException", error.message, hint=error.hint))
        except StoreError as error:
            logger.error("control API, for tenant %s: %s", request.state.tenant, error)
            response = problem(HostError(503, "ServiceUnavailableException", "The host's store fails."))
        except DuologueError as error:
            response = problem(HostError(400, "ValidationException", error.message, hint=error.hint))
        except Exception:
            said = request.method, request.url.path, request.state.tenant
            logger.exception("control API: %s %s failed, for tenant %s", *said)
            response = problem(HostError(500, "InternalServerException", "The host failed; its log says how."))
        response.headers["cache-control"] = "no-store"
        response.headers["x-content-type-options"] = "nosniff"
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        self._check_where_from(request)
        operation, path = self._find(request)
        peer = request.client.host if request.client is not None else ""
        if not operation.role:
            return await self._run(operation, Context(self.control, request, path, _NOBODY, "", peer))
        identity, tenant, body = await self._let_in(request, operation)
        request.state.tenant = tenant
        for parameter in operation.query:
            parameter.check(request.query_params.getlist(parameter.name))
        context = Context(self.control, request, path, identity, tenant, peer)
        if operation.scope == "agent":
            await context.resolve_path(operation.role)
        elif operation.scope == "tenant":
            context.authorise(operation.role)
        else:
            # What it is about stands in the body or in a row; whoever has the role on nothing at all is refused here.
            roles = (operation.role, operation.own_role)
            mine = next((grant for grant in identity.grants if grant.role in roles), Grant(role=operation.role))
            context.authorise(mine.role, mine.runtime)
        if operation.body is not None:
            context.body = _decode(request, body if body is not None else await self._body(request), operation)
        return await self._run(operation, context)

    async def _run(self, operation: Operation, context: Context) -> Response:
        answer = await operation.handler(context)
        if isinstance(answer, Response):
            return answer
        return Response(msgspec.json.encode(answer), operation.status, media_type="application/json")

    def _check_where_from(self, request: Request) -> None:
        headers = request.headers
        host = headers.get("host", "").lower()
        name = host[: host.find("]") + 1] if host.startswith("[") else host.rsplit(":", 1)[0]
        if len(headers.getlist("host")) != 1 or name not in self.control.hosts:
            raise HostError(421, "MisdirectedRequestException", f"This listener is not called {name[:80]!r}.")
        if "origin" in headers:
            raise HostError(403, "AccessDeniedException", "The control API is not for pages.")

    def _find(self, request: Request) -> tuple[Operation, dict[str, str]]:
        path, allowed = request.scope["path"], set()
        for pattern, operation in self._routes:
            found = pattern.match(path)
            if found is not None:
                if operation.method == request.method:
                    return operation, found.groupdict()
                allowed.add(operation.method)
        if allowed:
            raise HostError(
                405,
                "ValidationException",
                "There is no such method here.",
                headers=(("allow", ", ".join(sorted(allowed))),),
            )
        raise missing(f"There is nothing at {path[:80]!r}.", "GET /openapi.json lists what there is.")

    # -- who -----------------------------------------------------------------------------------------------------------

    async def _let_in(self, request: Request, operation: Operation) -> tuple[Identity, str, bytes | None]:
        """The identity, the tenant it acts on, and the body if a signature needed it."""
        wanted = request.query_params.getlist("tenant")
        if len(wanted) > 1:
            raise invalid("tenant is given more than once.")
        if wanted:
            check_account(wanted[0], self.control.region)
        if self._peers:
            user = peer_user(request.scope)
            tenant = wanted[0] if wanted else self.control.account
            if user not in (0, os.geteuid()):
                self.control.audit.record(
                    self.control.account, "peer", outcome="denied", reason="another user", peer=f"uid:{user}"
                )
                raise HostError(403, "AccessDeniedException", "Only the host's own user may use this socket.")
            principal = Principal(tenant=tenant, issuer="peer", subject=f"uid:{user}")
            grants = tuple(Grant(role=role) for role in ROLES)
            return Identity(principal=principal, grants=grants, credential=f"uid:{user}", mode="peer"), tenant, None
        head = _head(request, self._tls)
        route = Route(kind="metadata", runtime="", tenant=wanted[0] if wanted else "", region=self.control.region)
        authority = self.control.authority
        body: bytes | None = None
        try:
            identity = await authority.authenticate(head, route)
        except NeedsBody:
            if operation.upload:
                raise invalid("Send an archive with x-amz-content-sha256, or with an API key.") from None
            body = await self._body(request)
            identity = await authority.authenticate(head, route, body_sha256=hashlib.sha256(body).hexdigest())
        return identity, wanted[0] if wanted else identity.principal.tenant, body

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        await spooled(request, MAX_BODY, body.extend, within_s=30.0)
        return bytes(body)


def _head(request: Request, tls: bool) -> RequestHead:
    scope = request.scope
    target = scope["raw_path"].decode("latin-1")
    if scope["query_string"]:
        target += "?" + scope["query_string"].decode("latin-1")
    headers = tuple(
        (name.decode("latin-1").lower(), value.decode("latin-1").strip()) for name, value in scope["headers"]
    )
    peer = request.client.host if request.client is not None else ""
    return RequestHead(method=request.method, target=target, headers=headers, peer=peer, tls=tls)


def _decode(request: Request, body: bytes, operation: Operation) -> Any:
    if not body and operation.body_optional:
        return operation.body()
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise HostError(415, "ValidationException", "The body must be application/json.")
    try:
        return msgspec.json.decode(body, type=operation.body)
    except msgspec.ValidationError as error:
        raise invalid(f"{error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(f"The body is no JSON: {error}.") from None
    except RecursionError:
        raise invalid("The body is nested too deeply.") from None


def problem(error: HostError) -> Response:
    """The answer that tells an error, in the shape of the managed service's."""
    body = error.body if error.body is not None else {"message": str(error), "type": error.type}
    response = Response(msgspec.json.encode(body), error.status, media_type="application/json")
    for name, value in error.headers:
        response.headers[name] = value
    response.headers["x-amzn-errortype"] = error.type
    return response


_NOBODY = Identity(principal=Principal(tenant="", issuer="", subject=""), grants=(), credential="", mode="peer")

__all__ = ["DESCRIPTION", "OPERATIONS", "ControlAPI", "problem"]
