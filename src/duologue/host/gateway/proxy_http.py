"""What uvicorn's HTTP protocol is given: invocations, stop, tickets, metadata. One request has one :class:`Visit`."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from ..headers import metadata
from ..types import HostError, Identity, NeedsBody, RequestHead, Route
from . import answers, client_secrets, passing
from .admission import Admission, Pass, Reservation, cors, preflight
from .answers import Headers
from .bodies import Body, ClientGone
from .budget import Spool
from .counters import Counters
from .limits import GatewayLimits
from .upstream import Upstream

logger = logging.getLogger("duologue.host")
Send = Callable[[Any], Awaitable[None]]
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
#: of the agent's answer; nothing else reaches the client
_PASSED = frozenset(
    {
        "content-type", "content-length", "cache-control", "content-disposition", "content-language", "mcp-session-id",
        "mcp-protocol-version", "traceparent", "tracestate", "baggage", "x-amzn-trace-id",
    }
)  # fmt: skip
#: how long a ticket is good, seconds; its slot is kept as long
TICKET_S = 30.0


class Visit(msgspec.Struct, kw_only=True):
    """A request that the listener lets in. `identity` is None if its signature needs the body's hash, or it needs none."""

    head: RequestHead
    route: Route
    identity: Identity | None
    request: str
    cors: Headers = ()


class Spawn(Protocol):
    """Runs what outlives a request; `of`: the session that it is for, tenant first."""

    def __call__(self, work: Coroutine[Any, Any, None], *, of: str) -> object: ...


class HttpProxy:
    """An ASGI application; the scope's state has the `visit`, and `cut`, which breaks the connection off."""

    def __init__(
        self,
        admission: Admission,
        limits: GatewayLimits,
        spool: Spool,
        counters: Counters,
        spawn: Spawn,
    ) -> None:
        self._admission = admission
        self._limits = limits
        self._spool = spool
        self._counters = counters
        self._spawn = spawn

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Serve one request."""
        visit: Visit = scope["state"]["visit"]
        spooled = 0
        started = False

        async def respond(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            body = Body(receive, visit.head, self._limits, declared=_declared(visit))
            whole: bytes | None = None
            if visit.identity is None and visit.head.method == "POST":
                whole, digest = await body.spooled(self._spool, visit.head.peer)
                spooled = len(whole)
                visit.identity, visit.route = await self._verified(visit, digest)
            await self._serve(visit, body, whole, receive, respond)
        except ClientGone:
            self._counters.add("dropped.client-gone")
        except HostError as error:
            await self._fail(visit, error, started, receive, respond, scope["state"]["cut"])
        except Exception:
            logger.exception("request %s of %s/%s", visit.request, visit.route.tenant, visit.route.runtime)
            await self._fail(visit, answers.failed(), started, receive, respond, scope["state"]["cut"])
        finally:
            if spooled:
                self._spool.give(visit.head.peer, spooled)

    async def _verified(self, visit: Visit, digest: str) -> tuple[Identity, Route]:
        try:
            return await self._admission.identify(visit.head, visit.route, body_sha256=digest)
        except NeedsBody:
            raise HostError(403, "AccessDeniedException", "The request's signature cannot be verified.") from None

    async def _serve(self, visit: Visit, body: Body, whole: bytes | None, receive: Any, send: Send) -> None:
        kind = visit.route.kind
        if visit.head.method == "OPTIONS":
            await _answer(send, (204, preflight(visit.head.header("origin")) if visit.cors else (), b""))
        elif kind == "metadata":
            await self._metadata(visit, send)
        elif kind == "invocations":
            await self._invoke(visit, body, whole, receive, send)
        elif kind == "stop":
            await self._stop(visit, body, whole, send)
        elif kind == "connect":
            await self._connect(visit, body, whole, send)
        elif kind == "client_secrets":
            await self._client_secret(visit, body, whole, send)
        else:
            raise HostError(
                426, "ValidationException", "Open a WebSocket at this path.", headers=(("Upgrade", "websocket"),)
            )

    async def _fail(
        self, visit: Visit, error: HostError, started: bool, receive: Any, send: Send, cut: Callable[[], None]
    ) -> None:
        if error.status == 424:
            self._counters.add("failed.424")
        else:
            self._counters.add(f"refused.{error.status}.{error.type}")
        if started:
            # The head is out: what remains is to break the answer off, so that it is not taken for a whole one.
            logger.debug("request %s of %s/%s: %s", visit.request, visit.route.tenant, visit.route.runtime, error)
            cut()
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await _answer(send, answers.error(error, id=visit.request, extra=visit.cors))

    # ------------------------------------------------------------------ invocations

    async def _invoke(self, visit: Visit, body: Body, whole: bytes | None, receive: Any, send: Send) -> None:
        assert visit.identity is not None
        entry = await self._enter(visit, visit.identity)
        try:
            await self._pass_on(visit, visit.identity, entry, body, whole, receive, send)
        finally:
            await asyncio.shield(self._admission.leave(entry))

    async def _pass_on(
        self, visit: Visit, identity: Identity, entry: Pass, body: Body, whole: bytes | None, receive: Any, send: Send
    ) -> None:
        headers = passing.headers(
            visit.head,
            entry.assignment.headers,
            identity,
            session=entry.assignment.session,
            request=visit.request,
        )
        headers += metadata(entry.assignment.metadata)
        length = len(whole) if whole is not None else body.length
        headers.append(("content-length", str(length)) if length is not None else ("transfer-encoding", "chunked"))
        upstream = Upstream(entry.assignment.http, idle_s=self._limits.invoke_s)
        upstream.open()
        try:
            async with asyncio.timeout(self._limits.stream_s):
                await self._exchange(visit, entry, upstream, headers, body, whole, receive, send)
        except TimeoutError:
            raise HostError(424, "RuntimeClientError", "The agent's answer took too long.") from None
        except HostError as error:
            # A client that tried again would have the agent do it twice.
            if upstream.reached and error.status != 424:
                raise HostError(424, "RuntimeClientError", str(error)) from None
            raise
        finally:
            upstream.close()

    async def _exchange(
        self,
        visit: Visit,
        entry: Pass,
        upstream: Upstream,
        headers: list[tuple[str, str]],
        body: Body,
        whole: bytes | None,
        receive: Any,
        send: Send,
    ) -> None:
        """Both ways at once: an agent may answer before it has read everything."""

        async def pieces() -> AsyncIterator[bytes]:
            if whole is None:
                async for piece in body.chunks():
                    yield piece
            else:
                for at in range(0, len(whole), 64 << 10):
                    yield whole[at : at + (64 << 10)]

        async def up() -> None:
            await upstream.send("POST", "/invocations", headers, pieces())
            while (await receive())["type"] != "http.disconnect":
                pass
            raise ClientGone

        # Not a task group: its errors come in groups, and one of the two always ends by being cancelled.
        sending = asyncio.ensure_future(up())
        answering = asyncio.ensure_future(self._relay(visit, entry, upstream, send))
        try:
            done, _ = await asyncio.wait((sending, answering), return_when=asyncio.FIRST_COMPLETED)
            for task in (answering, sending):
                if task in done:
                    task.result()
                    return
        finally:
            for task in (sending, answering):
                task.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)

    async def _relay(self, visit: Visit, entry: Pass, upstream: Upstream, send: Send) -> None:
        head = await upstream.head()
        if head.status_code >= 400:
            raise await self._agent_error(visit, upstream, head.status_code)
        headers: list[tuple[str, str]] = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in head.headers
            if name.decode("latin-1") in _PASSED
        ]
        headers += [
            (passing.SESSION, entry.assignment.session),
            ("x-amzn-RequestId", visit.request),
            *visit.cors,
        ]
        await send(
            {
                "type": "http.response.start",
                "status": head.status_code,
                "headers": answers.asgi_headers(tuple(headers)),
            }
        )
        async for chunk in upstream.body():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _agent_error(self, visit: Visit, upstream: Upstream, status: int) -> HostError:
        """424; with the agent's own words for who may observe it or deploys it."""
        message = f"Received error ({status}) from runtime."
        body: dict[str, Any] = {"message": message}
        identity, runtime = visit.identity, visit.route.runtime
        if identity is not None and any(identity.may(role, runtime) for role in ("observe", "deploy", "admin")):
            body["cause"] = {"status": status, "body": await upstream.excerpt()}
        return HostError(424, "RuntimeClientError", message, body=body)

    async def _enter(self, visit: Visit, identity: Identity) -> Pass:
        try:
            async with asyncio.timeout(self._limits.admission_s):
                entry = await self._admission.enter(visit.head, visit.route, identity, request=visit.request)
        except TimeoutError:
            raise HostError(
                503, "ServiceUnavailableException", "No worker in time.", headers=(("Retry-After", "1"),)
            ) from None
        if (origin := visit.head.header("origin")) and not visit.cors:
            visit.cors = cors(origin)  # admitted: the version lists it
        return entry

    # ------------------------------------------------------------------ the rest

    async def _stop(self, visit: Visit, body: Body, whole: bytes | None, send: Send) -> None:
        await _discard(body, whole)
        assert visit.identity is not None
        session = passing.session_id(visit.head, visit.identity)
        if not session:
            raise HostError(400, "ValidationException", "runtimeSessionId is required.")
        route = visit.route
        found = await self._admission.placement.stop(
            route.tenant, route.runtime, session, visit.identity.principal.id, reason="stopped"
        )
        if not found:
            raise HostError(404, "ResourceNotFoundException", "There is no such session.")
        extra = ((passing.SESSION, session), *visit.cors)
        await _answer(send, answers.json({}, id=visit.request, extra=extra))

    async def _connect(self, visit: Visit, body: Body, whole: bytes | None, send: Send) -> None:
        """Admit a socket to come: ``{"ticket", "session", "expires_in", "url"}``. Its slot is kept for the ticket's life."""
        await _discard(body, whole)
        assert visit.identity is not None
        route, identity = visit.route, visit.identity
        entry = await self._enter(visit, identity)
        try:
            ticket = await self._admission.authority.ticket(
                identity,
                tenant=route.tenant,
                runtime=route.runtime,
                qualifier=route.qualifier,
                session=entry.assignment.session,
                origin=visit.head.header("origin"),
            )
        except BaseException:
            await asyncio.shield(self._admission.leave(entry))
            raise
        key = (route.tenant, route.runtime, entry.assignment.session)
        previous = self._admission.reserved.get(key)
        reservation = Reservation(self._admission, entry)
        self._admission.reserved[key] = reservation
        if previous is not None:
            await previous.end()
        self._spawn(_expire(reservation), of=entry.of)
        scheme = "wss" if visit.head.tls else "ws"
        path = visit.head.path.removesuffix("/connect") + "/ws"
        answer = {
            "ticket": ticket,
            "session": entry.assignment.session,
            "expires_in": int(TICKET_S),
            "url": f"{scheme}://{visit.head.header('host')}{path}?qualifier={route.qualifier}&accountId={route.tenant}"
            f"&ticket={ticket}",
        }
        extra = ((passing.SESSION, entry.assignment.session), ("Cache-Control", "no-store"), *visit.cors)
        await _answer(send, answers.json(answer, id=visit.request, extra=extra))

    async def _client_secret(self, visit: Visit, body: Body, whole: bytes | None, send: Send) -> None:
        """A secret for a page, in OpenAI's shape. No session is begun, and no slot kept."""
        posted = await _collected(body, whole, client_secrets.MOST_BYTES)
        assert visit.identity is not None
        answer = await client_secrets.make(self._admission.authority, visit.identity, visit.route, posted)
        extra = (("Cache-Control", "no-store"), *visit.cors)
        await _answer(send, answers.json(answer, id=visit.request, extra=extra))

    async def _metadata(self, visit: Visit, send: Send) -> None:
        """RFC 9728: whose tokens a runtime takes."""
        route = visit.route
        missing = HostError(404, "ResourceNotFoundException", "This runtime takes no tokens, or does not exist.")
        if not route.tenant:
            raise missing
        spec = await self._admission.placement.version(route.tenant, route.runtime, route.qualifier)
        config = spec.auth.get("customJWTAuthorizer", spec.auth)
        discovery = config.get("discoveryUrl", "") if isinstance(config, dict) else ""
        if not discovery:
            raise missing
        scheme = "https" if visit.head.tls else "http"
        path = visit.head.path.removesuffix("/.well-known/oauth-protected-resource")
        query = f"?{visit.head.query}" if visit.head.query else ""
        document = {
            "authorization_servers": [str(discovery).partition("/.well-known/")[0]],
            "resource": f"{scheme}://{visit.head.header('host')}{path}{query}",
        }
        await _answer(send, answers.json(document, id=visit.request, extra=(("Access-Control-Allow-Origin", "*"),)))


async def _expire(reservation: Reservation) -> None:
    try:
        await asyncio.sleep(TICKET_S)
    finally:
        await reservation.end()


async def _discard(body: Body, whole: bytes | None) -> None:
    """Read a body that says nothing of use."""
    if whole is None:
        async for _ in body.chunks():
            pass


async def _collected(body: Body, whole: bytes | None, most: int) -> bytes:
    """The whole body. Raises HostError 413 beyond `most` bytes."""
    data = bytearray(whole or b"")
    if whole is None:
        async for piece in body.chunks():
            data += piece
            if len(data) > most:
                break
    if len(data) > most:
        raise HostError(413, "ValidationException", f"The body is longer than {most} bytes.")
    return bytes(data)


async def _answer(send: Send, answer: tuple[int, Headers, bytes]) -> None:
    status, headers, body = answer
    length = () if status == 204 else (("content-length", str(len(body))),)
    await send({"type": "http.response.start", "status": status, "headers": answers.asgi_headers((*headers, *length))})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _declared(visit: Visit) -> str:
    """The hash of the body that a verified signature covers, "" if none is declared."""
    value = visit.head.header("x-amz-content-sha256").lower()
    signed = visit.identity is not None and visit.identity.mode in ("sigv4", "presigned")
    return value if signed and _SHA256.match(value) else ""
