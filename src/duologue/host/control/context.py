"""What an operation of the control API is given: the parts of the host, and the request after it was let in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request

from ..auth import Audit, Keys, Secrets
from ..types import Authority, HostError, Identity, Role
from .arn import Arn, invalid, missing
from .channels import Channels
from .deploy import Deployer
from .directory import Aside, Directory
from .placement import LocalPlacement
from .rows import Runtime

#: longest JSON body, bytes
MAX_BODY = 1 << 20


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """The control plane's parts, put together by `duologue.host.run`.

    Attributes:
        account, region: of the host's own tenant, and of every ARN.
        url: where clients reach the public listener; "" if there is none.
        hosts: names that this listener answers to.
        journal: the file with a tenant's journals; it may not exist yet.
        status: more for ``/status``: a gateway's counters and the like, by part.
        drain: begin to shut the host down.
    """

    account: str
    region: str
    directory: Directory
    aside: Aside
    deployer: Deployer
    placement: LocalPlacement[Any]
    authority: Authority
    audit: Audit
    keys: Keys
    secrets: Secrets
    channels: Channels
    journal: Callable[[str], str]
    status: Callable[[], dict[str, Any]]
    drain: Callable[[], None]
    url: str = ""
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")

    def arn(self, runtime: Runtime, endpoint: str = "") -> str:
        """The ARN of a runtime, or of one of its endpoints."""
        return str(Arn(region=self.region, account=runtime.tenant, runtime=runtime.id, endpoint=endpoint))


class Context:
    """One request. `runtime` is the one that `agent` in the path names, for operations of that scope."""

    def __init__(
        self, control: Control, request: Request, path: dict[str, str], identity: Identity, tenant: str, peer: str
    ) -> None:
        self.control = control
        self.request = request
        self.path = path
        self.identity = identity
        self.tenant = tenant
        self.peer = peer
        self.body: Any = None
        self._runtime: Runtime | None = None

    @property
    def runtime(self) -> Runtime:
        """The agent in the path, which the identity was found to have the role for."""
        assert self._runtime is not None
        return self._runtime

    @property
    def by(self) -> str:
        """Who asks, for rows and the audit log."""
        return self.identity.principal.id

    async def aside[**P, T](self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call of the directory, the keys or the secrets away from the loop."""
        return await self.control.aside(call, *args, **kwargs)

    async def agent(self, role: Role, name: str) -> Runtime:
        """The runtime called `name`, if the identity has `role` on it. Raises HostError 403, then 404.

        Without the role it makes no difference whether there is one.
        """
        found = await self.aside(self.control.directory.find, self.tenant, name)
        self.authorise(role, found.id if found is not None else name)
        if found is None:
            raise missing(f"There is no agent {name[:80]!r}.")
        return found

    async def resolve_path(self, role: Role) -> None:
        """Find the agent in the path."""
        self._runtime = await self.agent(role, self.path.get("agent") or self.path["agentRuntimeId"])

    def authorise(self, role: Role, runtime: str = "*") -> None:
        """Raise HostError 403 unless the identity has `role`; audited by the authority."""
        self.control.authority.authorise(self.identity, role, self.tenant, runtime)

    def visible(self, role: Role, runtime: str) -> bool:
        """Whether the identity has `role` on one of many; no refusal, and so no record."""
        return self.identity.may(role, runtime)

    def record(self, action: str, subject: str = "", reason: str = "") -> None:
        """Write to the tenant's audit log that this was done."""
        self.control.audit.record(
            self.tenant,
            action,
            actor=self.by,
            credential=self.identity.credential,
            subject=subject,
            reason=reason,
            peer=self.peer,
        )

    def query(self, name: str, default: str = "") -> str:
        """A query parameter. Raises HostError 400 if it is there twice."""
        given = self.request.query_params.getlist(name)
        if len(given) > 1:
            raise invalid(f"{name} is given {len(given)} times.")
        return given[0] if given else default

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number among the query parameters. Raises HostError 400."""
        return whole(self.query(name), name, default, least, most)


def whole(text: str, name: str, default: int, least: int, most: int) -> int:
    """A whole number between `least` and `most` from its text; `default` for "". Raises HostError 400."""
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise invalid(f"{name} is a whole number from {least} to {most}.")
    return int(text)


async def spooled(request: Request, most: int, write: Callable[[bytes], None], *, within_s: float = 600.0) -> None:
    """Write a request's body. Raises HostError 413 beyond `most` bytes, 408 when it takes too long."""
    size = 0
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise HostError(413, "ValidationException", f"The body has more than {most} bytes.")
                await asyncio.to_thread(write, chunk) if len(chunk) > 1 << 16 else write(chunk)
    except TimeoutError:
        raise HostError(408, "ValidationException", "The body took too long to arrive.") from None
