"""Running a host: control, gateways, workers and the inference service, started in order and ended in order.

Control is the parent of all. `single` keeps the gateway in the same process; otherwise there is one gateway process a core,
each with a connection of its own to the store (to look keys up) and a line to control (:mod:`.control.rpc`). They share the
port by ``SO_REUSEPORT``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import ssl
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from ..errors import ConfigurationError, StoreError
from ..serve.certificate import Certificate, development_certificate
from ..store import SQLiteStore
from .auth import Audit, AuthOptions, HostAuthority, HostKeys, Keys, Secrets, Vault, parse_auth
from .control.api import ControlAPI
from .control.builder import builder_user
from .control.channels import Channels, Join, WebSocketOut
from .control.context import Control
from .control.deploy import Deployer
from .control.directory import Aside, Directory
from .control.listen import on_tcp, on_unix
from .control.live import PlacementOptions
from .control.placement import LocalPlacement
from .control.rpc import RpcServer
from .gateway import Gateway, GatewayLimits, GatewayOptions
from .gateways import GatewayJob, Gateways, public_port
from .options import HostOptions, control_socket
from .types import HostError
from .workers import Fleet, FleetOptions, Worker

logger = logging.getLogger("duologue.host")


class RunningHost:
    """A host that serves.

    Attributes:
        url: of its public listener; `ws_url` likewise for WebSockets: append ``/runtimes/{name}/ws``.
        control: path of the control API's Unix socket. `control_port`: of its TCP listener, 0 if there is none.
        ca_file: what clients must trust, if its certificate was made for development.
        stopping: set when it was asked to shut down, by a signal or over the control API.
    """

    def __init__(self, url: str, control: Path, ca_file: Path | None, parts: Control) -> None:
        self.url = url
        self.ws_url = "ws" + url.removeprefix("http")
        self.control = control
        self.control_port = 0
        self.ca_file = ca_file
        self.parts = parts
        self.stopping = asyncio.Event()


@contextlib.asynccontextmanager
async def hosting(options: HostOptions) -> AsyncIterator[RunningHost]:
    """Run a host beside other work: ``async with hosting(options) as host``. Leaving it shuts down, at most `drain_s` long.

    Raises ConfigurationError: what cannot work; another host has the data directory, or the port is taken.
    """
    data = options.directory
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_prepared(data))
        certificate = await asyncio.to_thread(_certificate, options, data)
        store = SQLiteStore(data / "host.db")
        stack.callback(store.close)
        audit, vault = Audit(store), Vault(_host_keys(options, data))
        stack.callback(audit.close)
        secrets = Secrets(store, vault, audit)
        directory, aside = Directory(store), Aside()
        stack.callback(aside.close)
        left = await aside(directory.close_open_sessions, "the host was restarted")
        if left:
            logger.warning("%d sessions of an earlier run are marked as ended", left)

        fleet = await stack.enter_async_context(
            Fleet(_run_directory(options, data), options=_fleet_options(options, data))
        )
        placement: LocalPlacement[Worker] = LocalPlacement(
            directory,
            fleet,
            aside,
            journal=lambda tenant: str(fleet.journals(tenant) / "journal.db"),
            secrets=partial(_secret_values, aside, secrets),
            options=PlacementOptions(
                per_principal=options.per_principal, per_runtime=options.per_agent, strict=options.strict
            ),
        )
        await stack.enter_async_context(placement.running())
        authority = HostAuthority(store, vault, audit, versions=placement.version, options=_auth_options(options))
        stack.push_async_callback(authority.aclose)
        deployer = Deployer(
            data,
            directory,
            fleet,
            aside,
            options.build,
            check_auth=partial(_check_auth, _auth_options(options)),
            absent=secrets.absent,
        )
        channels = Channels({"join": Join(), "websocket": WebSocketOut(placement, dial_to=options.dial_to)})
        stack.push_async_callback(channels.close)

        gateways, port = await _gateways(stack, options, data, certificate, authority, placement)
        host = f"[{options.host}]" if ":" in options.host else options.host
        host = "127.0.0.1" if options.host in ("0.0.0.0", "::") else host
        url = f"http{'s' if certificate else ''}://{host}:{port}"
        stopping: list[RunningHost] = []
        control = Control(
            account=options.account,
            region=options.region,
            directory=directory,
            aside=aside,
            deployer=deployer,
            placement=placement,
            authority=authority,
            audit=audit,
            keys=Keys(store, vault, audit),
            secrets=secrets,
            channels=channels,
            journal=lambda tenant: str(data / "journals" / tenant / "journal.db"),
            status=lambda: _status(fleet, placement, authority, audit, gateways),
            drain=lambda: stopping[0].stopping.set(),
            url=url,
            hosts=("localhost", "127.0.0.1", "[::1]", options.control_host.lower(), *map(str.lower, options.names)),
        )
        running = RunningHost(url, control_socket(data), certificate.ca_file if certificate else None, control)
        stopping.append(running)
        await stack.enter_async_context(on_unix(ControlAPI(control, peers=True), running.control))
        if options.control_host:
            assert certificate is not None
            running.control_port = await stack.enter_async_context(
                on_tcp(
                    ControlAPI(control, peers=False, tls=True),
                    options.control_host,
                    options.control_port,
                    certificate.cert_file,
                    certificate.key_file,
                )
            )
        warming = asyncio.create_task(_warm(directory, aside, fleet))
        stack.callback(warming.cancel)
        try:
            yield running
        finally:
            warming.cancel()
            await placement.shut_down(wait_s=options.drain_s)


async def run(options: HostOptions) -> None:
    """Run a host until SIGTERM, SIGINT, or a drain over its control API. A second signal cuts the draining short."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    async with hosting(options) as host:
        watch(host, task)
        await host.stopping.wait()
        logger.info("shutting down")
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


def watch(host: RunningHost, task: asyncio.Task[Any]) -> None:
    """Let the first signal ask `host` to shut down, and the second cancel `task`."""

    def asked() -> None:
        if host.stopping.is_set():
            task.cancel()
        host.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked)


# --------------------------------------------------------------------------- the directory


@contextlib.contextmanager
def _prepared(data: Path) -> Any:
    """Make the data directory and hold its lock. Raises ConfigurationError if another host does.

    Others may pass through it (workers of tenants with users of their own reach their version's source), not look into it.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        data.chmod(0o711)
        handle = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"{data} cannot be used: {error.strerror}.", hint="Name a directory with --data."
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"A host is running with {data} already.", hint="Stop it, or name another directory with --data."
            ) from None
        yield
    finally:
        os.close(handle)


def _run_directory(options: HostOptions, data: Path) -> Path:
    return Path(options.run) if options.run else data / "run"


def _host_keys(options: HostOptions, data: Path) -> HostKeys:
    given = os.environ.get("DUOLOGUE_HOST_KEY")
    return HostKeys.given(given) if given else HostKeys.load(options.key_file or data / "host.key")


def _certificate(options: HostOptions, data: Path) -> Certificate | None:
    if not options.tls:
        return None
    if options.certificate:
        return Certificate(cert_file=Path(options.certificate), key_file=Path(options.certificate_key))
    names = [name for name in (options.host, options.control_host, *options.names) if name not in ("", "0.0.0.0", "::")]
    return development_certificate(names, data / "tls")


def tls_context(certificate: Certificate) -> ssl.SSLContext:
    """A server's context: TLS 1.2 or later. Raises ConfigurationError for files that are no certificate and its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"The certificate {certificate.cert_file} cannot be used: {error}.") from None
    return context


# --------------------------------------------------------------------------- parts


def _fleet_options(options: HostOptions, data: Path) -> FleetOptions:
    return FleetOptions(
        pool=options.pool,
        sessions=options.sessions,
        shared_sessions=options.shared_sessions,
        inference=cast(Literal["shared", "own"], options.inference),
        journals=str(data / "journals"),
        storages=str(data / "storages"),
    )


def _auth_options(options: HostOptions) -> AuthOptions:
    return AuthOptions(
        region=options.region,
        default_tenant=options.account,
        require_signed_session=options.require_signed_session,
        exclusive_modes=options.strict,
    )


def _check_auth(options: AuthOptions, auth: dict[str, Any]) -> None:
    parse_auth(auth, require_audience=options.require_audience, exclusive=options.exclusive_modes)


async def _secret_values(aside: Aside, secrets: Secrets, tenant: str, names: tuple[str, ...]) -> Mapping[str, str]:
    """The values, for a worker that was assigned a session. Raises HostError 424 for one that is not there."""
    try:
        found = await aside(secrets.resolve, tenant, names)
    except (ConfigurationError, StoreError) as error:
        raise HostError(
            424, "RuntimeClientError", error.message, hint="Write it with `duologue keys secret`."
        ) from error
    return {name: secret.reveal() for name, secret in found.items()}


async def _warm(directory: Directory, aside: Aside, fleet: Fleet) -> None:
    """Prepare what endpoints mean, one after the other, so that the first callers after a start do not wait for it."""

    def meant() -> list[Any]:
        found = {}
        for tenant in directory.tenants():
            for runtime in directory.runtimes(tenant):
                for endpoint in directory.endpoints(tenant, runtime.id):
                    version = directory.version(tenant, runtime.id, endpoint.live)
                    found[version.spec.id] = version.spec
        return list(found.values())

    for spec in await aside(meant):
        try:
            await fleet.prepare(spec)
        except HostError as error:
            logger.warning("%s cannot run: %s", spec.id, error)


def _status(
    fleet: Fleet,
    placement: LocalPlacement[Worker],
    authority: HostAuthority,
    audit: Audit,
    gateways: Gateways | Gateway,
) -> dict[str, Any]:
    told = gateways.told if isinstance(gateways, Gateways) else {gateways.id: gateways.counters.snapshot()}
    user = builder_user()
    return {
        "gateways": told,
        "placement": dict(placement.counts),
        "capacity": msgspec.to_builtins(fleet.capacity()),
        "workers": len(fleet.workers),
        "refused": dict(authority.refused),
        "audit": {"lost": audit.lost},
        "builder": "the host's own user" if user is None else f"user {user}",
    }


async def _gateways(
    stack: contextlib.AsyncExitStack,
    options: HostOptions,
    data: Path,
    certificate: Certificate | None,
    authority: HostAuthority,
    placement: LocalPlacement[Worker],
) -> tuple[Gateways | Gateway, int]:
    limits = GatewayLimits.strict() if options.strict else GatewayLimits()
    context = tls_context(certificate) if certificate is not None else None
    if options.single:
        listen = GatewayOptions(
            host=options.host, port=options.port, trusted_proxies=options.trusted_proxies, drain_s=2.0
        )
        gateway = Gateway(authority, placement, options=listen, limits=limits, tls=context)
        await stack.enter_async_context(gateway)
        return gateway, gateway.port
    reserved, port = public_port(options.host, options.port)
    stack.callback(reserved.close)
    path = data / "rpc.sock"
    job = GatewayJob(
        rpc=str(path),
        store=str(data / "host.db"),
        host_key="" if os.environ.get("DUOLOGUE_HOST_KEY") else str(options.key_file or data / "host.key"),
        listen=GatewayOptions(
            host=options.host, port=port, reuse_port=True, trusted_proxies=options.trusted_proxies, drain_s=2.0
        ),
        limits=limits,
        auth=_auth_options(options),
        certificate=str(certificate.cert_file) if certificate else "",
        certificate_key=str(certificate.key_file) if certificate else "",
    )
    count = options.gateways or len(os.sched_getaffinity(0))
    gateways = Gateways(job, count)
    await stack.enter_async_context(RpcServer(path, placement, report=gateways.report))
    await stack.enter_async_context(gateways)
    return gateways, port
