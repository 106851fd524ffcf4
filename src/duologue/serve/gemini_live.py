"""Gemini Live, served: every path that ends in `GenerativeService.BidiGenerateContent`, whatever the API version.

Point any client of the protocol here; google-genai wants TLS:
``genai.Client(api_key=…, http_options=HttpOptions(base_url="https://localhost:8443"))``. See `docs/serving.md`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from ..channels.link import Socket, SocketClosedError
from ..errors import DuologueError, ProtocolError
from ..session.definition import CallInfo, Definition
from ..wire.gemini_live import ServerProtocol, faults
from .gemini_channel import GeminiChannel
from .gemini_config import as_agent, as_model
from .gemini_handles import Handles
from .openai_tools import RemoteTools

if TYPE_CHECKING:
    from .app import Server

#: how paths of the endpoint end: of the Gemini API (with a key, with an ephemeral token), and of Vertex AI
_METHODS = (
    "GenerativeService.BidiGenerateContent",
    "GenerativeService.BidiGenerateContentConstrained",
    "LlmBidiService/BidiGenerateContent",
)


class Gemini:
    """The endpoint of one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._handles = Handles(server.options.gemini.handle_s)

    async def websocket(self, websocket: WebSocket) -> None:
        """One socket is one connection; a session that is resumed goes on in another."""
        headers = dict(websocket.headers)
        if not websocket.url.path.endswith(_METHODS):
            await websocket.send_denial_response(Response("Not Found", 404))
            return
        refusal = self._server.guard.refusal(headers)
        if refusal is not None:
            await websocket.send_denial_response(Response(refusal[1], refusal[0]))
            return
        await websocket.accept()
        await self.serve(self._server.link(websocket, GeminiChannel.name), headers, dict(websocket.query_params))

    async def serve(self, socket: Socket, headers: Mapping[str, str], query: Mapping[str, str]) -> None:
        """Drive one client, from its setup to the end. `socket` may be any."""
        protocol = ServerProtocol(limits=self._server.options.gemini)
        key = _key(headers, query)
        try:
            await self._serve(socket, protocol, key, headers, query)
        except SocketClosedError:
            return
        if protocol.close_code is not None:
            await socket.close(protocol.close_code, protocol.close_reason)

    async def _serve(
        self,
        socket: Socket,
        protocol: ServerProtocol,
        key: str,
        headers: Mapping[str, str],
        query: Mapping[str, str],
    ) -> None:
        try:
            async with asyncio.timeout(protocol.limits.setup_s):
                protocol.receive(await socket.receive())
        except TimeoutError:
            protocol.close(faults.POLICY, faults.NOT_SETUP)
        setup = protocol.setup
        if setup is None or protocol.close_code is not None:
            return
        server = self._server
        try:
            server.guard.check_token({"authorization": f"Bearer {key}"}, key)
        except ProtocolError:
            # As the service does: the setup is answered with a close, whose reason the vendor's SDK shows.
            protocol.close(faults.POLICY, faults.BAD_KEY)
            return
        resumed: bytes | None = None
        if setup.session_resumption is not None and setup.session_resumption.handle:
            now = asyncio.get_running_loop().time()
            resumed = self._handles.take(setup.session_resumption.handle, key, now)
            if resumed is None:
                protocol.close(faults.INVALID, faults.BAD_HANDLE)
                return
        remote = RemoteTools() if server.options.as_model else None
        channel = GeminiChannel(socket, protocol, remote, self._handles, principal=key, resumed=resumed)

        def define(definition: Definition) -> Definition:
            return as_agent(definition, setup) if remote is None else as_model(definition, setup, remote)

        info = CallInfo(
            channel="gemini-live", headers=dict(headers), query=dict(query), metadata={"model": setup.model}
        )
        try:
            session = await server.sessions.open(
                info,
                channel,
                text_only=not setup.speaks,
                greet=resumed is None,
                define=define,
                prepare=lambda session: setattr(channel, "session", session),
                tool_runner="thread" if remote is None else "inline",
            )
        except DuologueError as error:
            protocol.close(faults.INTERNAL if error.retryable else faults.INVALID, str(error))
            return
        await session.wait()


def _key(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """The key that a client comes with: in a header of its own, in the URL, or as a bearer or token."""
    if key := headers.get("x-goog-api-key") or query.get("key") or query.get("access_token"):
        return key
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    return credential.strip() if scheme.lower() in ("bearer", "token") else ""


def routes(server: Server) -> list[WebSocketRoute]:
    """The endpoint of Gemini Live for this server."""
    return [WebSocketRoute("/ws/{method:path}", Gemini(server).websocket)]
