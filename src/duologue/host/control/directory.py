"""The directory: runtimes, versions, endpoints and sessions, as rows of the store written by compare-and-set.

Keys, under the tenant: ``runtime/{id}``, ``name/{name}``, ``version/{id}/{number}``, ``endpoint/{id}/{name}``,
``session/{id}/{session}``. The tenants that have rows are kept under the host's own name, so that a host finds them when
it starts. Methods are synchronous and may block on the disk; :class:`Aside` runs them away from the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from duologue.errors import StoreError
from duologue.store import Store

from ..types import SCHEMA, VersionSpec
from .arn import DEFAULT, check_endpoint_name, check_runtime_name, conflict, is_id, missing, new_id
from .rows import Endpoint, Runtime, Session, Version, VersionState

#: the tenant of rows that belong to the host itself; no account looks like it
HOST = "_host"
#: endpoints of a runtime, versions of a runtime, and versions that an endpoint remembers
MAX_ENDPOINTS = 10
MAX_VERSIONS = 1000
_PAST = 32
#: attempts of a compare-and-set before it is given up; each loss means that somebody else won
_TRIES = 16


class Directory:
    """See the module.

    Args:
        store: where the rows are.
        now: Unix time.
    """

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now
        self._known: set[str] = set()

    # -- tenants -------------------------------------------------------------------------------------------------------

    def tenants(self) -> list[str]:
        """Every tenant that has, or had, a runtime."""
        return [row.key.partition("/")[2] for row in self._store.rows(HOST, "tenant/")]

    def _know(self, tenant: str) -> None:
        if tenant not in self._known:
            self._store.cas(HOST, f"tenant/{tenant}", 0, {"schema": SCHEMA, "created": self._now()})
            self._known.add(tenant)

    # -- runtimes ------------------------------------------------------------------------------------------------------

    def create(self, tenant: str, name: str, description: str = "") -> Runtime:
        """The runtime called `name`, made if there is none. Raises HostError 400."""
        check_runtime_name(name)
        self._know(tenant)
        for _ in range(_TRIES):
            found = self.find(tenant, name)
            if found is not None:
                return found
            now = self._now()
            row = Runtime(tenant=tenant, id=new_id(name), name=name, description=description, created=now, updated=now)
            # The row first: a name must never lead nowhere. A loser's row is taken back.
            self._store.put(tenant, f"runtime/{row.id}", _plain(row))
            if self._store.cas(tenant, f"name/{name}", 0, {"id": row.id, "schema": SCHEMA}) is not None:
                return row
            self._store.remove(tenant, f"runtime/{row.id}")
        raise conflict(f"Runtime {name!r} is being made and removed at the same time.", retry=True)

    def find(self, tenant: str, runtime: str) -> Runtime | None:
        """A runtime by its id or its name."""
        if not is_id(runtime):
            named = self._get(tenant, f"name/{runtime}")
            if named is None:
                return None
            runtime = named[1]["id"]
        found = self._get(tenant, f"runtime/{runtime}")
        return None if found is None else _read(found[1], Runtime)

    def runtime(self, tenant: str, runtime: str) -> Runtime:
        """Likewise. Raises HostError 404."""
        found = self.find(tenant, runtime)
        if found is None:
            raise missing(f"There is no runtime {runtime[:80]!r}.", "`duologue versions` lists what is deployed.")
        return found

    def runtimes(self, tenant: str) -> list[Runtime]:
        """All runtimes of a tenant, by id."""
        return [_read(value, Runtime) for value in self._all(tenant, "runtime/")]

    def delete(self, tenant: str, runtime: str) -> None:
        """Remove a runtime with its versions and endpoints. Raises HostError 404. The rows of its sessions stay."""
        row = self.runtime(tenant, runtime)
        self._store.remove(tenant, f"name/{row.name}")
        for prefix in (f"endpoint/{row.id}/", f"version/{row.id}/"):
            for found in self._store.rows(tenant, prefix):
                self._store.remove(tenant, found.key)
        self._store.remove(tenant, f"runtime/{row.id}")

    # -- versions ------------------------------------------------------------------------------------------------------

    def add_version(
        self, runtime: Runtime, make: Callable[[int], VersionSpec], *, by: str, packages: tuple[str, ...] = ()
    ) -> Version:
        """Give `runtime` its next version, in state ``preparing``; `make` is told its number. Raises HostError."""
        key = f"runtime/{runtime.id}"
        for _ in range(_TRIES):
            found = self._get(runtime.tenant, key)
            if found is None:
                raise missing(f"There is no runtime {runtime.id!r} any more.")
            current = _read(found[1], Runtime)
            if current.latest >= MAX_VERSIONS:
                raise conflict(f"{current.name} has {MAX_VERSIONS} versions.", "Delete the runtime, or use a new name.")
            now = self._now()
            bumped = msgspec.structs.replace(current, latest=current.latest + 1, updated=now)
            if self._store.cas(runtime.tenant, key, found[0], _plain(bumped)) is None:
                continue
            row = Version(spec=make(bumped.latest), state="preparing", created=now, by=by, packages=packages)
            self._store.put(runtime.tenant, _version_key(runtime.id, bumped.latest), _plain(row))
            return row
        raise conflict(f"{runtime.name} is being deployed by others.", retry=True)

    def set_version(self, version: Version, state: VersionState, **changes: Any) -> Version:
        """Note how a version fared. What it is made of never changes."""
        row = msgspec.structs.replace(version, state=state, **changes)
        self._store.put(version.tenant, _version_key(version.spec.runtime, version.spec.version), _plain(row))
        return row

    def version(self, tenant: str, runtime: str, number: int) -> Version:
        """A version. Raises HostError 404."""
        row = self.runtime(tenant, runtime)
        found = self._get(tenant, _version_key(row.id, number))
        if found is None:
            raise missing(f"{row.name} has no version {number}.", f"`duologue versions {row.name}` lists them.")
        return _read(found[1], Version)

    def versions(self, tenant: str, runtime: str) -> list[Version]:
        """All versions of a runtime, the first one first. Raises HostError 404."""
        row = self.runtime(tenant, runtime)
        return [_read(value, Version) for value in self._all(tenant, f"version/{row.id}/")]

    # -- endpoints -----------------------------------------------------------------------------------------------------

    def endpoint(self, tenant: str, runtime: str, name: str = DEFAULT) -> Endpoint:
        """An endpoint. Raises HostError 404."""
        row = self.runtime(tenant, runtime)
        found = self._get(tenant, f"endpoint/{row.id}/{name}")
        if found is None:
            what = "no version that works yet" if name == DEFAULT else f"no endpoint {name[:60]!r}"
            raise missing(f"{row.name} has {what}.")
        return _read(found[1], Endpoint)

    def endpoints(self, tenant: str, runtime: str) -> list[Endpoint]:
        """All endpoints of a runtime, by name. Raises HostError 404."""
        row = self.runtime(tenant, runtime)
        return [_read(value, Endpoint) for value in self._all(tenant, f"endpoint/{row.id}/")]

    def point(self, tenant: str, runtime: str, name: str, version: int, *, only_newer: bool = False) -> Endpoint:
        """Let an endpoint mean `version`, which must be ready; made if it is not there.

        With `only_newer` it never goes back, so that of two deploys the one that was begun last wins, whichever
        was probed first. Raises HostError 400, 404, 409.
        """
        check_endpoint_name(name)
        target = self.version(tenant, runtime, version)
        if target.state != "ready":
            raise conflict(
                f"Version {version} is {target.state}.", target.reason or "Only a version that works is used."
            )
        key = f"endpoint/{target.spec.runtime}/{name}"
        for _ in range(_TRIES):
            found = self._get(tenant, key)
            now = self._now()
            if found is None:
                if len(self.endpoints(tenant, runtime)) >= MAX_ENDPOINTS:
                    raise conflict(f"A runtime has at most {MAX_ENDPOINTS} endpoints.", "Remove one.")
                row = Endpoint(
                    tenant=tenant,
                    runtime=target.spec.runtime,
                    name=name,
                    live=version,
                    target=version,
                    created=now,
                    updated=now,
                )
            else:
                old = _read(found[1], Endpoint)
                if old.live == version or (only_newer and old.live > version):
                    return old
                past = (*old.past, old.live)[-_PAST:]
                row = msgspec.structs.replace(old, live=version, target=version, past=past, updated=now)
            if self._store.cas(tenant, key, found[0] if found else 0, _plain(row)) is not None:
                return row
        raise conflict(f"Endpoint {name} is being moved by others.", retry=True)

    def remove_endpoint(self, tenant: str, runtime: str, name: str) -> None:
        """Remove a named endpoint. Raises HostError 404, 409 (``DEFAULT`` stays)."""
        if name == DEFAULT:
            raise conflict("DEFAULT stays as long as its runtime does.")
        row = self.endpoint(tenant, runtime, name)
        self._store.remove(tenant, f"endpoint/{row.runtime}/{name}")

    def resolve(self, tenant: str, runtime: str, qualifier: str = DEFAULT) -> Version:
        """What a qualifier means now. Raises HostError 404."""
        return self.version(tenant, runtime, self.endpoint(tenant, runtime, qualifier).live)

    # -- sessions ------------------------------------------------------------------------------------------------------

    def session(self, tenant: str, runtime: str, session: str) -> tuple[int, Session] | None:
        """A session's row and its version for compare-and-set."""
        found = self._get(tenant, f"session/{runtime}/{session}")
        return None if found is None else (found[0], _read(found[1], Session))

    def put_session(self, expected: int, row: Session) -> int | None:
        """Write a session's row by compare-and-set (0: there is none); its new version, None if somebody else was first."""
        key = f"session/{row.runtime}/{row.session}"
        try:
            return self._store.cas(row.tenant, key, expected, _plain(msgspec.structs.replace(row, updated=self._now())))
        except StoreError as error:
            raise conflict(f"The session cannot be kept: {error.message}", error.hint) from error

    def sessions(self, tenant: str, runtime: str = "") -> list[Session]:
        """The sessions of a tenant, or of one of its runtimes, ended ones included."""
        return [_read(value, Session) for value in self._all(tenant, f"session/{runtime}/" if runtime else "session/")]

    def close_open_sessions(self, reason: str) -> int:
        """Mark what an earlier host left open as ended; returns how many. For a host that starts."""
        count = 0
        for tenant in self.tenants():
            for row in self._store.rows(tenant, "session/"):
                session = _read(row.value, Session)
                if session.state != "ended":
                    ended = msgspec.structs.replace(session, state="ended", reason=reason, updated=self._now())
                    count += self._store.cas(tenant, row.key, row.version, _plain(ended)) is not None
        return count

    def storages(self) -> set[tuple[str, str, str]]:
        """Storages of sessions whose runtime is there: tenant, runtime, name."""
        found = set()
        for tenant in self.tenants():
            runtimes = {row.id for row in self.runtimes(tenant)}
            for row in self.sessions(tenant):
                if row.storage and (row.runtime in runtimes or row.state != "ended"):
                    found.add((tenant, row.runtime, row.storage))
        return found

    def forget_sessions(self, before: float) -> int:
        """Remove rows of sessions that ended before `before` (Unix time); returns how many."""
        count = 0
        for tenant in self.tenants():
            for row in self._store.rows(tenant, "session/"):
                session = _read(row.value, Session)
                if session.state == "ended" and session.updated < before:
                    count += self._store.remove(tenant, row.key, row.version)
        return count

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _get(self, tenant: str, key: str) -> tuple[int, Any] | None:
        found = self._store.get(tenant, key)
        return None if found is None else (found.version, found.value)

    def _all(self, tenant: str, prefix: str) -> Iterator[Any]:
        return (row.value for row in self._store.rows(tenant, prefix))


class Aside:
    """Runs blocking calls in one thread, in the order in which they were asked for."""

    def __init__(self, name: str = "duologue-directory") -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def __call__[**P, T](self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: call(*args, **kwargs))

    def close(self) -> None:
        """Wait for what was asked for, and end the thread."""
        self._pool.shutdown(wait=True)


def _version_key(runtime: str, number: int) -> str:
    return f"version/{runtime}/{number:05d}"


def _plain(row: msgspec.Struct) -> Any:
    return msgspec.to_builtins(row)


def _read[T](value: Any, type: type[T]) -> T:
    """A row. One of a newer schema is refused: what it means is not known here. Raises StoreError."""
    schema = value.get("schema", 0) if isinstance(value, dict) else 0
    if schema != SCHEMA:
        raise StoreError(f"A row has schema {schema}, this host reads {SCHEMA}.", hint="Run the version that wrote it.")
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        raise StoreError(
            f"A row of the directory is damaged: {error}.", hint="Restore the store from a copy."
        ) from error
