"""The ASGI application that serves one agent.

``/ws``
    protocol v1 or the Strands dialect, by the client's first message.
``/ping``, ``/invocations``
    the runtime contract.
``/``
    the talk page.

It mounts in any Starlette or FastAPI application: ``main.mount("/voice", create_app(agent))``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib import resources

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..agent import Agent, AgentFactory
from ..channels.link import Socket, SocketClosedError, run_link
from ..channels.strands import StrandsChannel
from ..channels.websocket import WebSocketChannel
from ..errors import ConfigurationError, DuologueError, OverloadedError, ProtocolError
from ..events import ErrorEvent, Event, encode, json_schema
from ..session.definition import CallInfo
from ..store import Committer, GroupCommitter, MemoryStore, SQLiteStore
from ..wire.dialect import detect
from ..wire.duologue import ServerProtocol
from ..wire.strands import StrandsServer
from . import gemini_live, openai_realtime
from .guard import Guard
from .options import ServeOptions
from .sessions import SESSION_HEADER, Answer, Sessions, session_id

logger = logging.getLogger("duologue.serve")

#: verifies a newer token: seconds until it expires (None: never), or a typed error
Refresh = Callable[[str], Awaitable[float | None]]

#: longest body of an invocation, bytes
_MAX_BODY = 1 << 20


class Server:
    """What the routes share."""

    def __init__(self, agent: Agent | AgentFactory, options: ServeOptions) -> None:
        self.options = options
        self.guard = Guard(options)
        self.agent = agent
        self.sessions = Sessions(agent, options, None)
        #: stands between a provider's protocol (by its channel's name) and its client; for tests of what goes wrong there
        self.wrap: Callable[[Socket, Callable[[], None], str], Socket] = lambda socket, abort, wire: socket
        #: breaks the link of a client's address off; whoever runs the server knows how
        self.abort: Callable[[tuple[str, int]], None] = lambda client: None
        self._status = "Healthy"
        self._status_since = int(time.time())

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Open the journal store, load the model; close the sessions at the end."""
        store = SQLiteStore(self.options.journal) if self.options.journal else MemoryStore()
        committer: Committer = GroupCommitter(store)
        self.sessions = Sessions(self.agent, self.options, committer)
        if isinstance(store, MemoryStore):  # nobody could read it later: kept, it would grow with every call
            self.sessions.ended = lambda session: store.delete(session.tenant, session.id)
        if isinstance(self.agent, Agent):
            await self.agent.model.warm_up()
        try:
            yield
        finally:
            await self.sessions.close()
            await committer.close()
            store.close()
            if isinstance(self.agent, Agent):
                await self.agent.model.aclose()

    def link(self, websocket: WebSocket, wire: str) -> Socket:
        """A provider's protocol's socket, with what stands between."""
        client = (websocket.client.host, websocket.client.port) if websocket.client is not None else ("", 0)
        return self.wrap(StarletteSocket(websocket), lambda: self.abort(client), wire)

    # ------------------------------------------------------------------ HTTP

    async def ping(self, request: Request) -> Response:
        """Health. `time_of_last_update` moves only when the status does."""
        status = "HealthyBusy" if self.sessions.busy else "Healthy"
        if status != self._status:
            self._status, self._status_since = status, int(time.time())
        return JSONResponse({"status": self._status, "time_of_last_update": self._status_since})

    async def invocations(self, request: Request) -> Response:
        """One text turn: ``{"prompt": …}`` in, JSON or server-sent events out, as `Accept` asks."""
        if (refused := self._refused(request.headers)) is not None:
            return refused
        try:
            id = session_id(request.headers, request.query_params) or f"s-{uuid.uuid4().hex}"
            prompt = _prompt(await _body(request))
        except msgspec.DecodeError as error:
            return JSONResponse({"error": "Invalid JSON", "details": str(error)}, 400)
        except ClientDisconnect:
            return Response(status_code=400)
        except DuologueError as error:
            return _error(error)
        headers = {SESSION_HEADER: id}
        if "text/event-stream" in request.headers.get("accept", ""):
            return StreamingResponse(
                self._stream(id, prompt, request.headers), media_type="text/event-stream", headers=headers
            )
        answer = Answer(session=id)

        async def deliver(event: Event) -> None:
            answer.take(event)

        try:
            await self.sessions.turn(id, prompt, deliver=deliver, headers=request.headers)
        except DuologueError as error:
            return _error(error)
        answer.response = answer.response.strip()
        return JSONResponse(msgspec.to_builtins(answer), headers=headers)

    async def _stream(self, id: str, prompt: str, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The events of a turn as server-sent events; an error in mid-stream is the last of them."""
        import anyio

        send, receive = anyio.create_memory_object_stream[bytes](64)

        async def run() -> None:
            async def deliver(event: Event) -> None:
                await send.send(b"data: " + encode(event) + b"\n\n")

            async with send:
                try:
                    await self.sessions.turn(id, prompt, deliver=deliver, headers=headers)
                except DuologueError as error:
                    body = {
                        "error": str(error),
                        "error_type": type(error).__name__,
                        "message": "An error occurred during streaming",
                    }
                    await send.send(b"data: " + msgspec.json.encode(body) + b"\n\n")

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            async with receive:
                async for chunk in receive:
                    yield chunk

    async def schema(self, request: Request) -> Response:
        """JSON Schema of events and inputs."""
        return JSONResponse(json_schema())

    def _refused(self, headers: Mapping[str, str]) -> Response | None:
        refusal = self.guard.refusal(dict(headers))
        if refusal is not None:
            return JSONResponse({"message": refusal[1]}, refusal[0])
        if not self.guard.authorised(dict(headers)):
            return JSONResponse({"message": "This server wants a key."}, 401, {"WWW-Authenticate": "Bearer"})
        return None

    # ------------------------------------------------------------------ WebSocket

    async def websocket(self, websocket: WebSocket) -> None:
        """One socket: its first message selects the dialect."""
        headers = dict(websocket.headers)
        refusal = self.guard.refusal(headers)
        if refusal is not None:
            await websocket.send_denial_response(JSONResponse({"message": refusal[1]}, refusal[0]))
            return
        await websocket.accept()
        await self.take(StarletteSocket(websocket), headers, dict(websocket.query_params))

    async def take(
        self, socket: Socket, headers: dict[str, str], query: dict[str, str], refresh: Refresh | None = None
    ) -> None:
        """See `serve_socket`."""
        guard, sessions = self.guard, self.sessions

        class Opener:
            async def open(self, link: ServerProtocol) -> WebSocketChannel:
                assert link.hello is not None
                if link.hello.resume is None:
                    guard.check_token(headers, link.hello.token)
                channel = await sessions.open_link(link, headers, query)
                if refresh is not None:
                    channel.refresh_by(refresh)
                return channel

        def notice(channel: WebSocketChannel) -> str:
            call = sessions.find(channel.delivery.session)
            return call.session.definition.model.notice if call is not None else ""

        try:
            async with asyncio.timeout(self.options.wire.handshake_s):
                first = await socket.receive()
        except (TimeoutError, SocketClosedError):
            await socket.close(4006, "no hello in time")
            return
        try:
            dialect = detect(first)
        except ProtocolError as error:
            await socket.send(msgspec.json.encode(ErrorEvent(code=error.code, message=str(error), fatal=True)).decode())
            await socket.close(error.close_code or 4000, error.code)
            return
        if dialect == "duologue":
            await run_link(socket, first, Opener(), options=self.options.wire, notice=notice)
        else:
            await self._strands(socket, first, headers, query)

    async def _strands(
        self, socket: Socket, first: str | bytes, headers: dict[str, str], query: dict[str, str]
    ) -> None:
        """A client of the Strands dialect: one socket is one call."""
        now = asyncio.get_running_loop().time()
        protocol = StrandsServer(now=now, options=self.options.wire)
        try:
            self.guard.check_token(headers, query.get("token", ""))
            items = protocol.receive_text(first, now) if isinstance(first, str) else []
            channel = StrandsChannel(socket, protocol, items)
            info = CallInfo(session=session_id(headers, query), channel="strands", headers=headers, query=query)
            session = await self.sessions.enter(info, channel)
        except DuologueError as error:
            for text in protocol.error(error.code, str(error)):
                await socket.send(text)
            code = error.close_code if isinstance(error, ProtocolError) else None
            await socket.close(code or (4013 if error.retryable else 4000), error.code)
            return
        over = {asyncio.ensure_future(session.wait()), asyncio.ensure_future(channel.wait())}
        try:
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in over:
                task.cancel()


async def serve_socket(
    server: Server,
    socket: Socket,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    *,
    refresh: Refresh | None = None,
) -> None:
    """What `/ws` does with a socket that was accepted, whoever carries it. Returns when it is over.

    `headers` have lower-case names. `refresh` verifies a newer token of the client in mid-call, see WebSocketChannel.
    """
    await server.take(socket, dict(headers), dict(query), refresh)


class StarletteSocket:
    """A Starlette WebSocket as the channels' socket."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> str | bytes:
        """See Socket."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise SocketClosedError(message.get("code") or 1006)
        data: bytes | None = message.get("bytes")
        text: str = message.get("text") or ""
        return data if data is not None else text

    async def send(self, message: str | bytes) -> None:
        """See Socket."""
        try:
            if isinstance(message, str):
                await self._websocket.send({"type": "websocket.send", "text": message})
            else:
                await self._websocket.send({"type": "websocket.send", "bytes": message})
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            raise SocketClosedError from error

    async def close(self, code: int, reason: str = "") -> None:
        """See Socket."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
            await self._websocket.close(code, reason)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise ConfigurationError(f"The body is longer than {_MAX_BODY} bytes.")
    return bytes(body)


def _prompt(body: bytes) -> str:
    payload = msgspec.json.decode(body)
    prompt = payload.get("prompt") if isinstance(payload, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigurationError("The body has no prompt.", hint='Send {"prompt": "…"}.')
    return prompt


def _error(error: DuologueError) -> JSONResponse:
    status = 400 if isinstance(error, ConfigurationError) else 503 if isinstance(error, OverloadedError) else 500
    return JSONResponse({"error": str(error), "code": error.code}, status)


def create_app(agent: Agent | AgentFactory, options: ServeOptions | None = None) -> Starlette:
    """The application that serves `agent` (or what a factory makes for each call).

    Raises ConfigurationError for options that cannot work.
    """
    server = Server(agent, options or ServeOptions())
    routes: list[Route | WebSocketRoute | Mount] = [
        Route("/ping", server.ping),
        Route("/invocations", server.invocations, methods=["POST"]),
        Route("/schema.json", server.schema),
        WebSocketRoute("/ws", server.websocket),
        *openai_realtime.routes(server),
        *gemini_live.routes(server),
    ]
    if server.options.studio:
        pages = str(resources.files("duologue") / "studio")
        routes.append(Mount("/", _Pages(server.guard, StaticFiles(directory=pages, html=True, check_dir=False))))
    app = Starlette(routes=routes, lifespan=server.lifespan)
    app.state.server = server
    return app


class _Pages:
    """The talk page's files, with the headers that let it keep to itself."""

    _HEADERS = (
        (
            b"content-security-policy",
            b"default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; "
            b"worker-src 'self' blob:; frame-ancestors 'none'",
        ),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-cache"),
    )

    def __init__(self, guard: Guard, files: StaticFiles) -> None:
        self._guard = guard
        self._files = files

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        if scope["type"] != "http":
            await Response(status_code=404)(scope, receive, send)
            return
        request = Request(scope)
        refusal = self._guard.refusal(dict(request.headers))
        if refusal is not None:
            await JSONResponse({"message": refusal[1]}, refusal[0])(scope, receive, send)
            return

        async def guarded(message):  # type: ignore[no-untyped-def]
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._HEADERS]
            await send(message)

        await self._files(scope, receive, guarded)
