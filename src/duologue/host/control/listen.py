"""Listeners of the control API: uvicorn on a Unix socket that tells who connects, and on TCP with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from duologue.errors import ConfigurationError

from .rpc import peer_of

_PEER = "uid:"


class _PeerProtocol(H11Protocol):
    """HTTP over a Unix socket; in place of an address stands the peer's user, as the kernel tells it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        uid, pid = peer_of(transport.get_extra_info("socket"))
        self.client = (f"{_PEER}{uid}", pid)


def peer_user(scope: Any) -> int:
    """The user id at the other end of a Unix socket; -1 if it is not known, which is nobody's."""
    client = scope.get("client") or ("", 0)
    text = str(client[0])
    return int(text.removeprefix(_PEER)) if text.startswith(_PEER) and text[len(_PEER) :].isdigit() else -1


class _Server(uvicorn.Server):
    """Leaves signals to the host."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: Any, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        log_level="warning",
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=16_384,
        limit_concurrency=256,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        **options,
    )


@contextlib.asynccontextmanager
async def on_unix(app: Any, path: Path, *, websockets: bool = False) -> AsyncIterator[None]:
    """Serve `app` on a Unix socket of mode 0600. Raises ConfigurationError if another host has it."""
    await asyncio.to_thread(_free, path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"Cannot listen on {path}: {error.strerror or error}.", hint="Its path may be too long."
        ) from None
    finally:
        os.umask(before)
    try:
        async with _serving(
            _config(app, http=_PeerProtocol, ws="websockets-sansio" if websockets else "none"), listener
        ):
            yield
    finally:
        await asyncio.to_thread(path.unlink, True)


def _free(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise ConfigurationError(f"A host is running: it listens on {path}.", hint="Stop it, or use another --data.")


@contextlib.asynccontextmanager
async def on_tcp(app: Any, host: str, port: int, certificate: Path, key: Path) -> AsyncIterator[int]:
    """Serve `app` with TLS; yields the port. Raises ConfigurationError."""
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"The certificate {certificate} cannot be used: {error}.") from None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from None
    config = _config(app, http="h11", ws="none", ssl_certfile=certificate, ssl_keyfile=key)
    async with _serving(config, listener):
        yield listener.getsockname()[1]


@contextlib.asynccontextmanager
async def _serving(config: uvicorn.Config, listener: socket.socket) -> AsyncIterator[None]:
    server = _Server(config)
    task = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                raise ConfigurationError("The control API could not start.", hint="See the error above.")
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await asyncio.wait({task})
        listener.close()
