"""What a session can see and take: of its neighbours', of the host's, of the machine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from duologue.host.types import Limits
from tests.host.workers.parts import ANYTHING, TENANT, begin, deploy, do, fleet, read, spec

pytestmark = pytest.mark.anyio


async def test_sessions_share_no_memory_no_chance_and_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_SECRET", "of the host")
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet(pool=2) as made:
        of = spec(source, environment={"COLOUR": "blue"})
        one = await begin(made, of, "s-1", token="hush")
        two = await begin(made, of, "s-2")
        assert await do(one, "value = drawn_at_import") == await do(two, "value = drawn_at_import")
        for draw in (
            "random.random()",
            "float(numpy.random.random())",
            "ssl.RAND_bytes(16).hex()",
            "str(uuid.uuid4())",
            "str(uuid.uuid1())",
        ):
            assert await do(one, f"value = {draw}") != await do(two, f"value = {draw}"), draw
        await do(one, "kept['list'].append('mine')")
        assert await do(two, "value = kept['list']") == []
        assert await do(one, "value = os.environ.get('COLOUR')") == "blue"
        assert await do(one, "value = os.environ.get('HOST_SECRET')") is None
        assert await do(one, "value = secrets.get('token')") == "hush"
        assert await do(one, "value = 'hush' in str(dict(os.environ)) + Path('/proc/self/environ').read_text()") in (
            False,
            {"error": "PermissionError", "text": "[Errno 13] Permission denied: '/proc/self/environ'"},
        )
        assert (await do(two, "secrets.get('token')"))["error"] == "CredentialsError"
        assert await do(one, "value = os.environ['HOME']") != await do(two, "value = os.environ['HOME']")


async def test_a_hostile_tenant_sees_neither_the_hosts_files_nor_other_tenants(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    store = tmp_path / "host.sqlite"
    store.write_text("keys")
    async with fleet() as made:
        victim = await begin(made, spec(source, tenant="444455556666"), token="hush")
        await do(victim, "Path(os.environ['HOME'], 'diary').write_text('dear diary')")
        journal = made.journals("444455556666") / "calls.sqlite"
        journal.write_text("calls")
        thief = await begin(made, spec(source))
        uids = [await do(worker, "value = os.getuid()") for worker in (victim, thief)]
        assert 0 not in uids
        assert uids[0] != uids[1]
        home = await do(victim, "value = os.environ['HOME']")
        for path in (
            f"/proc/{victim.pid}/environ",
            f"/proc/{victim.pid}/mem",
            f"/proc/{victim.pid}/cmdline",
            f"/proc/{os.getpid()}/environ",
            f"/proc/{os.getpid()}/root{store}",
            f"{home}/diary",
            str(journal),
            str(store),
            victim.http,
            "/etc/shadow",
        ):
            found = await do(thief, f"value = len(open({path!r}, 'rb').read())")
            assert found["error"] in ("PermissionError", "FileNotFoundError"), path
        for attempt in (
            f"os.kill({victim.pid}, 9)",
            f"os.kill({os.getpid()}, 0)",
            "os.setuid(0)",
            f"socket.socket(socket.AF_UNIX).connect({victim.http!r})",
            f"open({str(source / 'main.py')!r}, 'w')",
            "Path('/etc/passwd').write_text('')",
            f"open('/sys/fs/cgroup/pids/cgroup.procs', 'w').write(str({thief.pid}))",
            "os.mkdir('/sys/fs/cgroup/mine')",
            "subprocess.run(['mount', '-t', 'tmpfs', 'none', '/tmp'], check=True)",
        ):
            answer = await do(thief, attempt)
            assert isinstance(answer, dict), attempt
            assert answer["error"] in (
                "PermissionError",
                "FileNotFoundError",
                "ProcessLookupError",
                "CalledProcessError",
                "OSError",
            ), attempt
        assert await do(victim, "value = 'alive'") == "alive"


async def test_sessions_of_one_tenant_cannot_read_each_others_memory(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet() as made:
        of = spec(source)
        one, two = await begin(made, of, "s-1", token="hush"), await begin(made, of, "s-2")
        for name in ("mem", "environ", "maps"):
            found = await do(two, f"value = len(open('/proc/{one.pid}/{name}', 'rb').read())")
            assert found["error"] in ("PermissionError", "FileNotFoundError"), name


async def test_a_fork_bomb_stays_in_its_session(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet() as made:
        of = spec(source, limits=Limits(processes=12))
        if any("processes" in sentence for sentence in (await made.prepare(of)).degraded):
            pytest.fail("this machine has no control group for processes")
        bomb, neighbour = await begin(made, of, "s-1"), await begin(made, of, "s-2")
        code = "value = []\nfor n in range(100):\n    value.append(subprocess.Popen(['sleep', '60']).pid)"
        assert (await do(bomb, code))["error"] in ("BlockingIOError", "OSError")
        assert await do(neighbour, "value = subprocess.run(['true']).returncode") == 0
        await made.stop(bomb)
        assert await do(neighbour, "value = 1") == 1


async def test_a_session_that_eats_memory_dies_alone_and_says_of_what(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet() as made:
        of = spec(source, limits=Limits(memory_bytes=96 << 20))
        if any("memory" in sentence for sentence in (await made.prepare(of)).degraded):
            pytest.fail("this machine has no control group for memory")
        eater, neighbour = await begin(made, of, "s-1"), await begin(made, of, "s-2")
        with pytest.raises(Exception, match="disconnected|reset|closed"):
            await do(eater, "kept['all'] = [bytearray(os.urandom(1 << 20)) * 4 for _ in range(200)]")
        async with asyncio.timeout(20):
            await eater.ended.wait()
        assert eater.exit is not None
        assert eater.exit.reason == "memory"
        assert await do(neighbour, "value = 1") == 1


async def test_limits_of_processor_time_are_set(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet() as made:
        worker = await begin(made, spec(source, limits=Limits(cpu=0.5)))
        assert f"/{worker.id}\n" in read(worker.pid, "cgroup")


async def test_a_tenants_user_id_outlives_the_host(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    journals = tmp_path / "journals"
    found = []
    for order in ((TENANT, "444455556666"), ("444455556666", TENANT)):
        async with fleet(journals=str(journals)) as made:
            ids = {}
            for tenant in order:
                worker = await begin(made, spec(source, tenant=tenant))
                ids[tenant] = await do(worker, "value = os.getuid()")
            found.append(ids)
    assert found[0] == found[1]


async def test_an_app_that_uses_the_template_to_lie_is_held_to_its_own_pid(tmp_path: Path) -> None:
    """The kernel names the sender on the control socket: code that runs in the template cannot have init killed, say."""
    lie = "\nos.fork, real = (lambda: 1 if os.getpid() else 0), os.fork\n"
    source = deploy(tmp_path / "src", main=ANYTHING + lie)
    async with fleet(first_ping_s=3.0) as made:
        probe = await made.prepare(spec(source))
        assert probe.tier_used == "cold"
        assert "did not serve" in probe.reason
        os.kill(1, 0)
