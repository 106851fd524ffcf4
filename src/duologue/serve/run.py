"""Running the server: in the foreground for a command, or beside other work for a program, a demo or a test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvicorn

from ..agent import Agent, AgentFactory
from ..errors import ConfigurationError
from .app import create_app
from .certificate import Certificate, development_certificate
from .options import ServeOptions

#: what uvicorn is told: no access log (it would hold tokens in queries), the WebSocket engine that costs least
_WS_MAX = 22 << 20


class RunningServer:
    """A server that listens. `url` is its HTTP address, `ws_url` that of its WebSocket.

    `ca_file` is what clients must trust where its certificate was made for development.
    """

    def __init__(self, options: ServeOptions, port: int, app: object, certificate: Certificate | None = None) -> None:
        host = options.host if options.host not in ("0.0.0.0", "::") else "127.0.0.1"
        name = f"[{host}]" if ":" in host else host
        secure = "s" if certificate is not None else ""
        self.url = f"http{secure}://{name}:{port}"
        self.ws_url = f"ws{secure}://{name}:{port}/ws"
        self.ca_file = certificate.ca_file if certificate is not None else None
        self.port = port
        self.app = app


def _certificate(options: ServeOptions) -> Certificate | None:
    if options.certificate:
        return Certificate(cert_file=Path(options.certificate), key_file=Path(options.certificate_key))
    if not options.tls:
        return None
    directory = Path(options.certificate_directory) if options.certificate_directory else None
    names = [options.host, *options.hosts] if options.host not in ("0.0.0.0", "::") else list(options.hosts)
    return development_certificate(names, directory)


def _config(app: object, options: ServeOptions, certificate: Certificate | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=options.host,
        port=options.port,
        ssl_certfile=certificate.cert_file if certificate is not None else None,
        ssl_keyfile=certificate.key_file if certificate is not None else None,
        ws="websockets-sansio",
        ws_max_size=_WS_MAX,
        ws_per_message_deflate=False,
        ws_ping_interval=None,  # the protocol has its own heartbeat, which measures
        access_log=False,
        log_level="warning",
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=5,
    )


def _bind(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # The protocol is named: asyncio sets TCP_NODELAY only where it is, and without that small messages wait for the
    # client's acknowledgement, which comes with its next 20 ms of microphone.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"Cannot listen on {options.host}:{options.port}: {error.strerror or error}.",
            hint="Another program may have the port; choose one with --port.",
        ) from None
    return listener


class _Server(uvicorn.Server):
    """Says when it listens, and leaves signals to the program that it is part of."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    def abort(self, client: tuple[str, int]) -> None:
        """Break the connection of a client's address off."""
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None and transport.get_extra_info("peername")[:2] == client[:2]:
                transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(agent: Agent | AgentFactory, options: ServeOptions | None = None) -> AsyncIterator[RunningServer]:
    """Serve `agent` beside other work: ``async with serving(agent) as server``. Port 0 takes any free one."""
    options = options or ServeOptions()
    app = create_app(agent, options)
    certificate = _certificate(options)
    listener = _bind(options)
    server = _Server(_config(app, options, certificate))
    app.state.server.abort = server.abort
    task = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        started = asyncio.ensure_future(server.listening.wait())
        await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if task.done():
            raise ConfigurationError("The server could not start.", hint="See the error above.")
        yield RunningServer(options, listener.getsockname()[1], app, certificate)
    finally:
        server.should_exit = True
        await asyncio.wait({task})
        listener.close()


async def run(agent: Agent | AgentFactory, options: ServeOptions | None = None) -> None:
    """Serve `agent` until a signal ends it."""
    options = options or ServeOptions()
    certificate = _certificate(options)
    listener = _bind(options)
    server = uvicorn.Server(_config(create_app(agent, options), options, certificate))
    await server.serve(sockets=[listener])
