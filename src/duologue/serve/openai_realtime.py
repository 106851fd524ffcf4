"""OpenAI Realtime, served: `/v1/realtime` over WebSocket, `POST /v1/realtime/client_secrets`.

Point any client of the protocol here: ``AsyncOpenAI(base_url="http://127.0.0.1:8080/v1", api_key=…)``. See `docs/serving.md`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from ..channels.link import Socket, SocketClosedError
from ..errors import DuologueError, ProtocolError
from ..session.definition import CallInfo, Definition
from ..wire.openai_realtime import Request, ServerProtocol, SessionConfig, SessionPatch, faults
from ..wire.openai_realtime.config import applied
from .openai_channel import RealtimeChannel
from .openai_config import as_agent, as_model
from .openai_tools import RemoteTools

if TYPE_CHECKING:
    from .app import Server

#: how long a client may take to configure the session before it begins as it is, seconds
_PATIENCE_S = 0.4
#: client secrets that are valid at a time; the oldest goes
_MOST_SECRETS = 10_000
_KEY_PROTOCOL = "openai-insecure-api-key."
#: extension of an ASGI scope: the session's configuration, as JSON, that a gateway has from a client secret of its own
PRESET = "duologue.realtime_session"


class _Expiry(msgspec.Struct):
    seconds: int = 600
    anchor: str = "created_at"


class _SecretRequest(msgspec.Struct):
    expires_after: _Expiry = msgspec.field(default_factory=_Expiry)
    session: SessionPatch | None = None


class _Secret(msgspec.Struct):
    expires_at: float
    session: SessionPatch | None


class Realtime:
    """The endpoint of one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._secrets: dict[str, _Secret] = {}

    # ------------------------------------------------------------------ client secrets

    async def client_secrets(self, request: HttpRequest) -> Response:
        """``{"expires_after"?, "session"?}`` in, ``{"value": "ek_…", "expires_at", "session"}`` out."""
        headers = dict(request.headers)
        if (refusal := self._server.guard.refusal(headers)) is not None:
            return _error(refusal[0], "forbidden", refusal[1])
        if not self._server.guard.authorised(headers):
            return _error(401, faults.INVALID_KEY, "Incorrect API key provided.")
        try:
            wanted = msgspec.json.decode(await request.body() or b"{}", type=_SecretRequest)
        except msgspec.MsgspecError as error:
            return _error(400, faults.INVALID_VALUE, str(error))
        seconds = wanted.expires_after.seconds
        if not 10 <= seconds <= 7200:
            return _error(400, faults.INVALID_VALUE, "expires_after.seconds is 10 to 7200.")
        now = time.time()
        self._secrets = {value: entry for value, entry in self._secrets.items() if entry.expires_at > now}
        if len(self._secrets) >= _MOST_SECRETS:
            del self._secrets[next(iter(self._secrets))]
        value = f"ek_{secrets.token_hex(16)}"
        self._secrets[value] = _Secret(now + seconds, wanted.session)
        config = self._config("")
        if wanted.session is not None:
            config = applied(config, wanted.session)
        return JSONResponse({"value": value, "expires_at": int(now + seconds), "session": msgspec.to_builtins(config)})

    def _config(self, model: str) -> SessionConfig:
        session_s = self._server.options.openai.session_s
        token = secrets.token_hex(8)
        return SessionConfig(id=f"sess_{token}", model=model or "duologue", expires_at=int(time.time() + session_s))

    # ------------------------------------------------------------------ the socket

    async def websocket(self, websocket: WebSocket) -> None:
        """One socket is one session."""
        headers = dict(websocket.headers)
        refusal = self._server.guard.refusal(headers)
        if refusal is not None:
            await websocket.send_denial_response(_error(refusal[0], "forbidden", refusal[1]))
            return
        # the scope's, not the header's: behind a host's gateway there is no such header
        offered: list[str] = websocket.scope.get("subprotocols") or []
        allowed, preset = self._allowed(headers, offered)
        if not allowed:
            await websocket.send_denial_response(_error(401, faults.INVALID_KEY, "Incorrect API key provided."))
            return
        await websocket.accept(subprotocol="realtime" if "realtime" in offered else None)
        query = dict(websocket.query_params)
        config = self._config(query.get("model", ""))
        if (given := websocket.scope.get("extensions", {}).get(PRESET)) is not None:
            preset = msgspec.json.decode(given, type=SessionPatch)
        if preset is not None:
            config = applied(config, preset)
        await self.serve(self._server.link(websocket, RealtimeChannel.name), config, headers, query)

    def _allowed(self, headers: dict[str, str], offered: list[str]) -> tuple[bool, SessionPatch | None]:
        """Whether a client may come in, and how its secret configures the session."""
        key = next((name.removeprefix(_KEY_PROTOCOL) for name in offered if name.startswith(_KEY_PROTOCOL)), "")
        _, _, bearer = headers.get("authorization", "").partition(" ")
        for value in (key, bearer.strip()):
            secret = self._secrets.get(value)
            if secret is not None and secret.expires_at > time.time():
                return True, secret.session
        try:
            self._server.guard.check_token(headers, key)
        except ProtocolError:
            return False, None
        return True, None

    async def serve(
        self, socket: Socket, config: SessionConfig, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> None:
        """Drive one client, from `session.created` to the end. `socket` may be any."""
        server = self._server
        protocol = ServerProtocol(config, token=config.id.removeprefix("sess_"), limits=server.options.openai)
        try:
            first = await self._first(socket, protocol)
        except SocketClosedError:
            return
        remote = RemoteTools() if server.options.as_model else None

        def define(definition: Definition) -> Definition:
            if remote is None:
                channel.turn_taking = definition.turn_taking
                return as_agent(definition, protocol.config)
            return as_model(definition, protocol.config, remote, protocol.limits.session_s)

        channel = RealtimeChannel(socket, protocol, first, remote)
        info = CallInfo(channel="openai-realtime", headers=dict(headers), query=dict(query))
        try:
            session = await server.sessions.open(
                info,
                channel,
                text_only=protocol.config.output_modalities == ["text"],
                define=define,
                prepare=lambda session: setattr(channel, "session", session),
                tool_runner="thread" if remote is None else "inline",
            )
        except DuologueError as error:
            protocol.failed(str(error), code=error.code)
            await _flush(socket, protocol)
            await socket.close(1013 if error.retryable else 1011, error.code)
            return
        await session.wait()

    async def _first(self, socket: Socket, protocol: ServerProtocol) -> list[Request]:
        """The client's first message configures the session, as a rule. Who sends none gets it as it is."""
        await _flush(socket, protocol)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                message = await socket.receive()
        except TimeoutError:
            return []
        wanted = protocol.receive(message)
        await _flush(socket, protocol)
        return wanted


async def _flush(socket: Socket, protocol: ServerProtocol) -> None:
    while (frame := protocol.next_frame()) is not None:
        await socket.send(frame.decode())


def _error(status: int, code: str, message: str) -> JSONResponse:
    detail: dict[str, Any] = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": detail}, status)


def routes(server: Server) -> list[Route | WebSocketRoute]:
    """The endpoints of OpenAI Realtime for this server."""
    realtime = Realtime(server)
    return [
        WebSocketRoute("/v1/realtime", realtime.websocket),
        Route("/v1/realtime/client_secrets", realtime.client_secrets, methods=["POST"]),
    ]
