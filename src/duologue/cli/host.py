"""``duologue host``: many agents, with authentication, isolation and limits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..host.options import HostOptions
from .terminal import run, say

_Names = Annotated[tuple[str, ...], Parameter(negative=())]
_Flag = Annotated[bool, Parameter(negative=())]


def host(
    *,
    data: Annotated[Path | None, Parameter(env_var="DUOLOGUE_DATA")] = None,
    run_directory: str = "",
    key_file: str = "",
    host: str = "127.0.0.1",
    port: int = 8443,
    certificate: str = "",
    certificate_key: str = "",
    tls: Annotated[bool, Parameter(negative="--no-tls")] = True,
    name: _Names = (),
    trusted_proxy: _Names = (),
    control_host: str = "",
    control_port: int = 8444,
    account: str = "000000000000",
    region: str = "us-east-1",
    gateways: int = 0,
    single: _Flag = False,
    strict: _Flag = False,
    require_signed_session: _Flag = False,
    sessions: int = 400,
    per_principal: int = 0,
    per_agent: int = 0,
    shared_sessions: int = 100,
    pool: int = 2,
    dial_to: _Names = (),
    drain_s: float = 30.0,
) -> int:
    """Host agents: deploy them with `duologue deploy`, give out keys with `duologue keys create`.

    Parameters
    ----------
    data
        Directory for everything it keeps (default: /var/lib/duologue for root, else in your data home).
    run_directory
        Directory for its workers' sockets; its path must be short.
    key_file
        File of the host key, which opens secrets in the store; keep its copies apart from the data's.
    host
        Address of the public listener.
    port
        Its port; 0 takes a free one.
    certificate
        Certificate chain (PEM). Without one, one for development is made.
    certificate_key
        Its key (PEM).
    tls
        Encrypt. Without it the listener stays on loopback, or behind --trusted-proxy.
    name
        Name that the host is reached by; may be repeated.
    trusted_proxy
        Address or network whose forwarded headers are believed; may be repeated.
    control_host
        Address of the control API over TLS; without it there is only its Unix socket.
    control_port
        Its port.
    account
        The host's own tenant, twelve digits.
    region
        Stands in the ARNs of its agents.
    gateways
        Processes of the public listener (default: one a core).
    single
        Gateway and control in one process.
    strict
        The managed service's limits and manners.
    require_signed_session
        Refuse signatures that do not cover the session id.
    sessions
        Sessions at a time.
    per_principal
        Of one principal; 0: no limit.
    per_agent
        Of one agent; 0: no limit.
    shared_sessions
        In one process of an agent that is deployed with --tier shared.
    pool
        Processes kept ready for each version.
    dial_to
        Name that sessions may dial out to, with * for any part; may be repeated.
    drain_s
        Seconds that sessions have to end by themselves when it shuts down.
    """
    options = HostOptions(
        data=str(data) if data is not None else "",
        run=run_directory,
        key_file=key_file,
        host=host,
        port=port,
        certificate=certificate,
        certificate_key=certificate_key,
        tls=tls,
        names=name,
        trusted_proxies=trusted_proxy,
        control_host=control_host,
        control_port=control_port,
        account=account,
        region=region,
        gateways=gateways,
        single=single,
        strict=strict,
        require_signed_session=require_signed_session,
        sessions=sessions,
        per_principal=per_principal,
        per_agent=per_agent,
        shared_sessions=shared_sessions,
        pool=pool,
        dial_to=dial_to,
        drain_s=drain_s,
    )
    return run(_host(options))


async def _host(options: HostOptions) -> int:
    from ..host.run import hosting, watch

    task = asyncio.current_task()
    assert task is not None
    async with hosting(options) as running:
        watch(running, task)
        say(f"{running.url}  (clients: {running.ws_url}/runtimes/NAME/ws)")
        say(f"control: {running.control}" + (f", port {running.control_port}" if running.control_port else ""), "dim")
        if running.ca_file is not None:
            say(
                f"Its certificate is one for development; clients trust it with SSL_CERT_FILE={running.ca_file}",
                "yellow",
            )
        await running.stopping.wait()
        say(f"Shutting down: sessions have {options.drain_s:.0f} s to end. Once more ends them at once.", "yellow")
    return 0
