"""`duologue host` as a user starts it, in processes of its own, and what its processes cost."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness import pinned
from duologue.cli.control import Where, connected
from duologue.host.control.archive import pack

Role = Literal["control", "gateway", "worker", "template", "inference"]
_TICKS = os.sysconf("SC_CLK_TCK")
_AGENT = Path(__file__).parent / "agent.py"
_START_S, _END_S = 60.0, 60.0


class Host:
    """A running host. `url` is that of its WebSockets, `key` opens it, `trust` is what its certificate wants, if it has one."""

    def __init__(self, process: subprocess.Popen[str], data: Path, url: str) -> None:
        self.pid = process.pid
        self.data = data
        self.url = "ws" + url.removeprefix("http")
        self.key = ""
        self.trust: ssl.SSLContext | None = None
        if url.startswith("https"):
            self.trust = ssl.create_default_context(cafile=str(data / "tls" / "ca.pem"))
        self._process = process
        self._where = Where(data=data)

    async def deploy(
        self,
        name: str,
        *,
        tier: str,
        environment: Mapping[str, str] | None = None,
        source: Path = _AGENT,
        kind: Literal["agent", "asgi"] = "agent",
    ) -> str:
        """Deploy the agent of this folder, or `source`; the URL to call it at."""
        archive = pack(source)
        digest = hashlib.sha256(archive).hexdigest()
        body = {
            "name": name,
            "archive": digest,
            "kind": kind,
            "entry": source.name,
            "tier": tier,
            "environment": dict(environment or {}),
            "limits": {"memory_bytes": (4 << 30) if tier == "shared" else (512 << 20)},
        }
        async with connected(self._where) as host:
            await host.send(f"/archives/{digest}", archive, "application/gzip")
            made = await host.ask("POST", "/deployments", body=body)
            if made["tier_used"] != tier:
                raise RuntimeError(f"{name} runs as {made['tier_used']}: {made['notice']}")
            if not self.key:
                self.key = (await host.ask("POST", "/keys", body={"kind": "api", "roles": ["invoke"]}))["secret"]
        return f"{self.url}/runtimes/{name}/ws"

    async def status(self) -> dict[str, Any]:
        """What the host says of itself."""
        async with connected(self._where) as host:
            answer: dict[str, Any] = await host.ask("GET", "/status")
        return answer

    async def settle(self) -> None:
        """End the sessions whose callers have hung up, and wait until they are gone. Raises TimeoutError."""
        async with connected(self._where) as host, asyncio.timeout(_END_S):
            while (await host.ask("GET", "/status"))["sessions"]:
                await host.ask("POST", "/sessions/drain", body={})
                await asyncio.sleep(0.2)

    def processes(self) -> dict[int, Role]:
        """Its processes, by what they are."""
        parents: dict[int, int] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and (fields := _stat(int(entry))) is not None:
                parents[int(entry)] = int(fields[1])
        found: dict[int, Role] = {self.pid: "control"}
        grown = True
        while grown:
            grown = False
            for pid, parent in parents.items():
                if pid not in found and parent in found and (role := _role(pid, found[parent])) is not None:
                    found[pid] = role
                    grown = True
        return found

    def end(self) -> int:
        """SIGTERM, and wait; what is left then is killed, by its id. Returns the exit code of the host."""
        known = list(self.processes())
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGTERM)  # a second signal does not wait
        for pid in known:
            if pid != self.pid and _stat(pid) is not None and _role(pid, "control") is not None:
                os.kill(pid, signal.SIGKILL)
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait()


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _role(pid: int, parent: Role) -> Role | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if b"duologue.host.gateways" in words:
        return "gateway"
    if b"duologue.host.workers.inference" in words:
        return "inference"
    if b"duologue.host.workers.boot" in words:
        return "worker" if parent in ("template", "worker") else "template"
    return None


def cpu_s(pids: Sequence[int]) -> float:
    """CPU time that these processes have used, their threads included; those that are gone count as nothing."""
    stats = [fields for pid in pids if (fields := _stat(pid)) is not None]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / _TICKS


def cpu_by_role(processes: Mapping[int, Role]) -> dict[str, float]:
    """CPU time of each kind of process."""
    found: dict[str, float] = {}
    for pid, role in processes.items():
        found[role] = found.get(role, 0.0) + cpu_s([pid])
    return found


def private_mb(pids: Sequence[int]) -> float:
    """Memory that is theirs alone."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
    return total / 1024


@asynccontextmanager
async def hosting(cores: Sequence[int], *, tls: bool, gateways: int, sessions: int = 400) -> AsyncIterator[Host]:
    """Run a host on these cores until the block ends; none of its processes outlives it."""
    with tempfile.TemporaryDirectory(prefix="dh") as folder:
        data = Path(folder)
        command = [sys.executable, "-m", "duologue.cli", "host", "--data", folder, "--port", "0", "--drain-s", "1"]
        command += ["--gateways", str(gateways), "--sessions", str(sessions), *([] if tls else ["--no-tls"])]
        environment = {**os.environ, "NO_COLOR": "1"}
        with pinned(cores):  # what is started now and later stays there
            process = subprocess.Popen(  # noqa: ASYNC220 - it takes no time that is measured
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        host: Host | None = None
        try:
            async with asyncio.timeout(_START_S):
                url = await asyncio.to_thread(_address, process)
            host = Host(process, data, url)
            talks = asyncio.create_task(asyncio.to_thread(_drain, process))
            yield host
        finally:
            if host is None:
                process.kill()
                process.wait()
            else:
                await asyncio.shield(asyncio.to_thread(host.end))
                await talks


def _address(process: subprocess.Popen[str]) -> str:
    """What it says when it serves. Raises RuntimeError with what it says instead."""
    assert process.stderr is not None
    said, url = [], ""
    for line in process.stderr:
        said.append(line)
        if line.startswith(("https://", "http://")):
            url = line.split()[0]
        if line.startswith("control:"):
            return url
    raise RuntimeError("".join(said))


def _drain(process: subprocess.Popen[str]) -> None:
    """Pass on what it complains of."""
    assert process.stderr is not None
    for line in process.stderr:
        if not line.startswith(("Shutting down", "Its certificate")):
            sys.stderr.write(line)
