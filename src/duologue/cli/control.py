"""The control API as commands see it: over the Unix socket of a host on this machine, or over TLS with a key."""

from __future__ import annotations

import contextlib
import datetime
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from ..errors import ConfigurationError, DuologueError
from ..host.options import control_socket, default_data

#: columns of a table that no terminal shows
_WIDE = 1000
#: builds and probes take their time; so does a session that is being stopped
_QUIET_S = 1800.0
_CONNECT_S = 10.0


class ControlError(DuologueError):
    """The host refused, or could not do, what a command asked for."""

    code = "control"


class ControlLostError(ControlError):
    """The host cannot be reached, or the connection to it broke: it may answer later."""

    code = "control.lost"


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Which host a command is for."""

    data: Annotated[Path | None, Parameter(env_var="DUOLOGUE_DATA")] = None
    """Data directory of a host on this machine."""
    control: Annotated[str, Parameter(env_var="DUOLOGUE_CONTROL")] = ""
    """Address of a host's control API, such as https://host:8444, in place of --data."""
    key: Annotated[str, Parameter(env_var="DUOLOGUE_KEY")] = ""
    """API key for --control. Better in the environment than on the command line."""
    ca: Annotated[Path | None, Parameter(env_var="SSL_CERT_FILE")] = None
    """Certificate authority to trust with --control."""
    tenant: Annotated[str, Parameter(env_var="DUOLOGUE_TENANT")] = ""
    """Account of another tenant."""


HERE = Where()


class Host:
    """A host's control API. Made by :func:`connected`."""

    def __init__(self, client: httpx.AsyncClient, tenant: str) -> None:
        self._client = client
        self._tenant = tenant

    def _query(self, query: Mapping[str, Any]) -> dict[str, str]:
        found = {name: str(value) for name, value in query.items() if value not in ("", None)}
        return found | ({"tenant": self._tenant} if self._tenant else {})

    async def ask(self, method: str, path: str, *, body: Any = None, **query: Any) -> Any:
        """What an operation answers. Raises ControlError with the host's words."""
        with _explained():
            answer = await self._client.request(method, path, params=self._query(query), json=body)
        return _checked(answer, answer.content).json()

    async def send(self, path: str, content: bytes, media: str) -> Any:
        """Likewise with a body of bytes."""
        with _explained():
            answer = await self._client.put(
                path, params=self._query({}), content=content, headers={"content-type": media}
            )
        return _checked(answer, answer.content).json()

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        quiet_s: float = _QUIET_S,
        **query: Any,
    ) -> AsyncIterator[httpx.Response]:
        """Likewise, its answer as it comes, with at most `quiet_s` between two parts of it."""
        with _explained():
            async with self._client.stream(
                method,
                path,
                params=self._query(query),
                content=content,
                headers=dict(headers or {}),
                timeout=httpx.Timeout(quiet_s, connect=_CONNECT_S),
            ) as answer:
                if answer.status_code >= 400:
                    _checked(answer, await answer.aread())
                yield answer


@contextlib.asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Host]:
    """The host that is meant. Raises ConfigurationError for one that cannot be, ControlError for one that is not there."""
    if where.control:
        if not where.control.startswith("https://"):
            raise ConfigurationError(
                f"{where.control!r} is no address of a control API.", hint="For example https://host:8444"
            )
        if not where.key:
            raise ConfigurationError("A control API that is not on this machine wants a key.", hint="Set DUOLOGUE_KEY.")
        trust = ssl.create_default_context(cafile=str(where.ca) if where.ca else None)
        transport = httpx.AsyncHTTPTransport(verify=trust)
        base, headers = where.control, {"authorization": f"Bearer {where.key}"}
    else:
        path = control_socket((where.data or default_data()).absolute())
        if not path.is_socket():
            raise ControlError(
                f"No host is running at {path}.",
                hint="Start one with `duologue host`, or name its --data or --control.",
            )
        if not os.access(path, os.W_OK):
            raise ControlError(f"{path} belongs to another user.", hint="Run this as the user that runs the host.")
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        base, headers = "http://localhost", {}
    timeout = httpx.Timeout(_QUIET_S, connect=_CONNECT_S)
    async with httpx.AsyncClient(transport=transport, base_url=base, headers=headers, timeout=timeout) as client:
        yield Host(client, where.tenant)


@contextlib.contextmanager
def _explained() -> Any:
    try:
        yield
    except httpx.ConnectError as error:
        raise ControlLostError(f"The host does not answer: {error}.", hint="Is it running?") from error
    except httpx.HTTPError as error:
        raise ControlLostError(
            f"The host did not answer to the end: {type(error).__name__}.", hint="Its log says why."
        ) from error


def _checked(answer: httpx.Response, content: bytes) -> httpx.Response:
    if answer.status_code < 400:
        return answer
    try:
        message = answer.json().get("message") or answer.text
    except ValueError:
        message = content[:300].decode(errors="replace")
    later = answer.status_code in (502, 503, 504)
    raise (ControlLostError if later else ControlError)(str(message) or f"The host answers {answer.status_code}.")


# --------------------------------------------------------------------------- showing


def when(at: float) -> str:
    """A Unix time, for people; "" for never."""
    return datetime.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S") if at else ""


def show_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]], *, empty: str) -> None:
    """Rows on standard output, or on standard error that there are none."""
    if not rows:
        Console(stderr=True, highlight=False).print(empty, style="dim")
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    _print(table)


def show_fields(fields: Mapping[str, Any]) -> None:
    """Names and values on standard output."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in fields.items():
        if value not in ("", None, [], {}, ()):
            table.add_row(name, str(value))
    _print(table)


def _print(table: Table) -> None:
    """To the terminal's width; a pipe gets each row in one line, however long, for ids are there to be copied."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    console.print(table)
