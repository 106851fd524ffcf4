"""What a host is told when it starts."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import msgspec

from ..errors import ConfigurationError
from .control.arn import check_account
from .control.builder import BuildOptions
from .types import HostError
from .workers.options import FleetOptions


def default_data() -> Path:
    """Where a host keeps its data: ``$DUOLOGUE_DATA``; root's is ``/var/lib/duologue``, others' in their own data home."""
    if named := os.environ.get("DUOLOGUE_DATA"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/duologue")
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "duologue"


class HostOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a host.

    Attributes:
        data: its directory: the store, journals, versions, the host key, the control socket. "": see :func:`default_data`.
        run: for the sockets of workers, with a short path; "": ``run`` in `data`.
        key_file: the host key, which should live elsewhere than the data's copies do; "": ``host.key`` in `data`.
        host, port: of the public listener; port 0 takes a free one.
        certificate, certificate_key: of TLS; "" with `tls`: one for development is made in `data`.
        tls: whether the public listener encrypts. Any address but loopback wants it, or `trusted_proxies`.
        names: what else the certificate for development and the control API answer to.
        trusted_proxies: whose forwarded headers are believed.
        control_host, control_port: of the control API over TCP; "": Unix socket only.
        account, region: of its own tenant, twelve digits; in its ARNs.
        gateways: processes of the public listener; 0: one a core. `single`: all in one process.
        strict: the managed service's limits and manners.
        require_signed_session: whether signatures must cover the session id.
        sessions: at the same time; `per_principal`, `per_agent` of them; 0: no limit but the first.
        shared_sessions: of them in one process of tier "shared", at most.
        pool: children kept ready for each version.
        inference: "shared" among workers, or each its "own".
        dial_to: names that sessions may dial out to.
        drain_s: how long sessions have to end by themselves when the host shuts down.
        build: of the builder.
    """

    data: str = ""
    run: str = ""
    key_file: str = ""
    host: str = "127.0.0.1"
    port: int = 8443
    certificate: str = ""
    certificate_key: str = ""
    tls: bool = True
    names: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    control_host: str = ""
    control_port: int = 8444
    account: str = "000000000000"
    region: str = "us-east-1"
    gateways: int = 0
    single: bool = False
    strict: bool = False
    require_signed_session: bool = False
    sessions: int = 400
    per_principal: int = 0
    per_agent: int = 0
    shared_sessions: int = FleetOptions().shared_sessions
    pool: int = 2
    inference: str = "shared"
    dial_to: tuple[str, ...] = ()
    drain_s: float = 30.0
    build: BuildOptions = BuildOptions()

    def __post_init__(self) -> None:
        for port in (self.port, self.control_port):
            if not 0 <= port <= 65535:
                raise ConfigurationError(f"There is no port {port}.", hint="Use 1 to 65535, or 0 for any free one.")
        if bool(self.certificate) != bool(self.certificate_key):
            raise ConfigurationError("A certificate needs its key, and a key its certificate.", hint="Give both.")
        if not (self.tls or _is_loopback(self.host) or self.trusted_proxies):
            raise ConfigurationError(
                f"Listening on {self.host} without TLS sends keys and speech in the clear.",
                hint="Leave out --no-tls, or name the proxies in front that encrypt (--trusted-proxy).",
            )
        if self.control_host and not self.tls:
            raise ConfigurationError(
                "The control API listens on TCP only with TLS.", hint="Leave out --no-tls, or use its Unix socket."
            )
        if self.inference not in ("shared", "own"):
            raise ConfigurationError(f"There is no inference {self.inference!r}.", hint="Use 'shared' or 'own'.")
        if self.gateways < 0 or self.drain_s < 0:
            raise ConfigurationError("gateways and drain_s are 0 or more.")
        try:
            check_account(self.account, self.region)
        except HostError as error:
            raise ConfigurationError(error.message, hint=error.hint) from None

    @property
    def directory(self) -> Path:
        """The data directory."""
        return (Path(self.data) if self.data else default_data()).absolute()


def control_socket(data: Path) -> Path:
    """Where a host with this data directory listens for its control API."""
    return data / "control.sock"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
