"""Nova Sonic, served: `POST /model/{id}/invoke-with-bidirectional-stream` over TLS and HTTP/2, on a port of its own.

Point any client of the protocol here: ``endpoint_uri="https://localhost:8443"``, and ``SSL_CERT_FILE`` at the development
authority's certificate. See `docs/serving.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..agent import Agent, AgentFactory
from ..errors import ConfigurationError, DuologueError, MissingDependencyError
from ..session.definition import CallInfo, Definition
from ..wire.nova_sonic import ServerProtocol, StreamException, StreamLimits
from ..wire.nova_sonic import sequence as s
from ..wire.nova_sonic.faults import THROTTLED, UNAVAILABLE, invalid
from .certificate import Certificate, development_certificate
from .nova_channel import NovaChannel, Peer, PeerGoneError
from .nova_config import as_agent, as_model, wanted
from .nova_http import HttpPeer, Receive, RefusedError, Send, model_of, refuse, verified
from .openai_tools import RemoteTools
from .options import ServeOptions
from .sessions import Sessions

if TYPE_CHECKING:
    from .http2 import Http2Server

logger = logging.getLogger("duologue.serve.nova")

#: longest wait for calls to end when the server does, seconds
_SHUTDOWN_S = 5.0


class NovaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of serving Nova Sonic.

    Attributes:
        host, port: where to listen; port 0 takes any free one. Any address but loopback wants `keys` or `no_auth`.
        keys: secret access keys by access key id: what requests must be signed with. Empty: any signature will do.
        no_auth: serve everybody who can reach the address.
        models: ids that are served; empty: any.
        as_model: the client brings instructions, tools, voice and turn detection, and runs the tools itself; of the agent only
            its model is used.
        max_sessions: streams at a time; more are refused as throttled.
        limits: how long a stream lives.
        certificate, certificate_key: files of a certificate of your own; "": one for development is made.
        certificate_directory: where that is kept; "": the user's cache.
        names: further names that it is good for.
    """

    host: str = "127.0.0.1"
    port: int = 8443
    keys: Mapping[str, str] = {}
    no_auth: bool = False
    models: tuple[str, ...] = ()
    as_model: bool = False
    max_sessions: int = 64
    limits: StreamLimits = StreamLimits()
    certificate: str = ""
    certificate_key: str = ""
    certificate_directory: str = ""
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.certificate_key):
            raise ConfigurationError("A certificate needs its key, and a key its certificate.", hint="Give both.")
        # The same rule as for every other port of ours, said once.
        ServeOptions(host=self.host, port=self.port, key="keys" if self.keys else "", no_auth=self.no_auth)


class NovaServer:
    """The endpoint, as an ASGI application (HTTP only). `sessions` runs the calls."""

    def __init__(self, sessions: Sessions, options: NovaOptions) -> None:
        self.sessions = sessions
        self.options = options
        #: stands between the server and a client's stream, given what resets that; for tests of what goes wrong there
        self.wrap: Callable[[Peer, Callable[[], None]], Peer] = lambda peer, reset: peer

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            model, peer = self._admit(scope, receive, send)
        except RefusedError as refused:
            await refuse(send, refused)
            return
        reset = scope.get("extensions", {}).get("duologue.reset", lambda: None)
        await self.serve(self.wrap(peer, reset), model)

    def _admit(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> tuple[str, HttpPeer]:
        path = scope["raw_path"].decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        model = model_of(path)
        if model is None:
            raise RefusedError(404, "UnknownOperationException", "There is no such operation here.")
        if scope["method"] != "POST" or scope.get("http_version") != "2":
            raise RefusedError(400, "ValidationException", "Use POST over HTTP/2.")
        verifier = None
        if self.options.keys:
            verifier = verified("POST", path, query, headers, self.options.keys, datetime.now(UTC))
        if self.options.models and model not in self.options.models:
            raise RefusedError(400, "ValidationException", "The provided model identifier is invalid.")
        if self.sessions.draining:
            raise RefusedError(503, "ServiceUnavailableException", UNAVAILABLE)
        if self.sessions.count >= self.options.max_sessions:
            raise RefusedError(429, "ThrottlingException", THROTTLED)
        return model, HttpPeer(receive, send, verifier)

    # ------------------------------------------------------------------ one stream

    async def serve(self, peer: Peer, model: str) -> None:
        """Drive one client, from its first event to the end. `peer` may be any."""
        loop = asyncio.get_running_loop()
        protocol = ServerProtocol(model, now=loop.time(), limits=self.options.limits)
        try:
            first = await self._first(peer, protocol)
        except StreamException as failure:
            await peer.fail(failure)
            return
        except PeerGoneError:
            return
        if not any(isinstance(taken, s.PromptOpened) for taken in first) or protocol.sequence.phase == "over":
            await peer.finish()
            return
        remote = RemoteTools() if self.options.as_model else None
        channel = NovaChannel(peer, protocol, first, remote)

        def define(definition: Definition) -> Definition:
            return as_agent(definition) if remote is None else as_model(definition, wanted(first), remote)

        try:
            session = await self.sessions.open(
                CallInfo(channel="nova-sonic", metadata={"model": model}),
                channel,
                define=define,
                prepare=lambda session: setattr(channel, "session", session),
                tool_runner="thread" if remote is None else "inline",
            )
        except DuologueError as error:
            kind = "throttlingException" if error.retryable else "modelStreamErrorException"
            await peer.fail(StreamException(kind, str(error)))  # type: ignore[arg-type]
            return
        await session.wait()

    async def _first(self, peer: Peer, protocol: ServerProtocol) -> list[s.Taken]:
        """Everything up to the first audio or text of the user: by then it is known what the client wants."""
        loop = asyncio.get_running_loop()
        first: list[s.Taken] = []
        while True:
            try:
                async with asyncio.timeout_at(protocol.next_deadline()):
                    payload = await peer.receive()
            except TimeoutError:
                protocol.wake(loop.time())
                raise invalid() from None
            if payload is None:
                return first
            taken = protocol.receive(payload, loop.time())
            first += taken
            if any(isinstance(entry, s.AudioOpened | s.Typed | s.SessionClosed) for entry in taken):
                return first


class RunningNova:
    """A server that listens. `url` is its address; clients trust it by `ca_file`, where that is one of ours."""

    def __init__(
        self, options: NovaOptions, port: int, certificate: Certificate, server: NovaServer, http: Http2Server
    ) -> None:
        host = options.host if options.host not in ("0.0.0.0", "::") else "127.0.0.1"
        self.url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self.port = port
        self.ca_file = certificate.ca_file
        self.server = server
        self.http = http


@contextlib.asynccontextmanager
async def serving_nova(
    agent: Agent | AgentFactory | Sessions, options: NovaOptions | None = None
) -> AsyncIterator[RunningNova]:
    """Serve `agent` (or the calls of a server's `Sessions`) as Nova Sonic: ``async with serving_nova(agent) as server``.

    Raises MissingDependencyError, ConfigurationError.
    """
    options = options or NovaOptions()
    try:
        from .http2 import Http2Server
    except ImportError as error:
        raise MissingDependencyError(
            "Serving Nova Sonic needs the package h2.", hint="Install it with: pip install 'duologue[wires]'"
        ) from error
    certificate = _certificate(options)
    own = not isinstance(agent, Sessions)
    sessions = agent if isinstance(agent, Sessions) else _sessions(agent, options)
    app = NovaServer(sessions, options)
    listener = _bind(options)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
    except (OSError, ssl.SSLError) as error:
        listener.close()
        raise ConfigurationError(
            f"The certificate {certificate.cert_file} cannot be used: {error}.",
            hint="Give a chain and its key, in PEM.",
        ) from None
    http = Http2Server(app, listener, context)
    if own and isinstance(agent, Agent):
        await agent.model.warm_up()
    await http.start()
    try:
        yield RunningNova(options, listener.getsockname()[1], certificate, app, http)
    finally:
        if own:
            await sessions.close()
        await http.close(_SHUTDOWN_S)
        if own and isinstance(agent, Agent):
            await agent.model.aclose()


async def run_nova(agent: Agent | AgentFactory, options: NovaOptions | None = None) -> None:
    """Serve `agent` as Nova Sonic until the task is cancelled."""
    async with serving_nova(agent, options):
        await asyncio.Event().wait()


def _sessions(agent: Agent | AgentFactory, options: NovaOptions) -> Sessions:
    return Sessions(agent, ServeOptions(max_sessions=options.max_sessions, studio=False), None)


def _certificate(options: NovaOptions) -> Certificate:
    if options.certificate:
        return Certificate(cert_file=Path(options.certificate), key_file=Path(options.certificate_key))
    directory = Path(options.certificate_directory) if options.certificate_directory else None
    names = [options.host, *options.names] if options.host not in ("0.0.0.0", "::") else list(options.names)
    return development_certificate(names, directory)


def _bind(options: NovaOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # With its protocol named, or asyncio leaves Nagle's algorithm on: 40 ms between two small events.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"Cannot listen on {options.host}:{options.port}: {error.strerror or error}.",
            hint="Another program may have the port; choose another.",
        ) from None
    return listener
