"""How workers end: by themselves, by their limits, by the host; and that nobody else notices."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from duologue.host.types import HostError, Lifecycle
from duologue.host.workers import Worker, WorkerExit
from tests.host.workers.parts import AGENT, ANYTHING, HELLO, TENANT, begin, deploy, do, fleet, gate, http, spec

pytestmark = pytest.mark.anyio


async def ended(worker: Worker) -> WorkerExit:
    """How it ended, once it has."""
    async with asyncio.timeout(30):
        await worker.ended.wait()
    assert worker.exit is not None
    return worker.exit


async def test_a_crash_is_seen_with_its_code_and_last_words_and_neighbours_stay(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet() as made:
        of = spec(source)
        one, two, three = [await begin(made, of, f"s-{n}") for n in range(3)]
        async with http(two) as client:
            before = (await client.post("/run", content="value = os.getpid()")).json()
            await do_and_die(one, "sys.stderr.write('out of paper'); sys.stderr.flush(); os._exit(7)")
            exit = await ended(one)
            assert (exit.reason, exit.code, exit.signal) == ("crashed", 7, None)
            assert "out of paper" in exit.detail
            os.kill(three.pid, signal.SIGKILL)
            exit = await ended(three)
            assert (exit.reason, exit.signal) == ("killed", signal.SIGKILL)
            assert (await client.post("/run", content="value = os.getpid()")).json() == before
        assert set(made.workers) == {two.id}
        assert made.capacity().sessions == 1
        assert not os.access(one.http, os.F_OK)


async def do_and_die(worker: Worker, code: str) -> None:
    """Run code that does not answer."""
    with pytest.raises(Exception, match="disconnected|reset|closed"):
        await do(worker, code)


async def test_a_worker_that_hangs_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = deploy(tmp_path / "src", app=AGENT)
    async with fleet(beat_s=0.1, lease_s=0.5) as made:
        of = spec(source, "agent", "app.py:agent")
        stuck, lively = await begin(made, of, "one"), await begin(made, of, "two")
        os.kill(stuck.pid, signal.SIGSTOP)
        assert (await ended(stuck)).reason == "hung"
        assert not lively.ended.is_set()
        assert f"worker {stuck.id} of {TENANT}/agent-0123456789:1 gives no sign of life" in caplog.text


async def test_an_idle_session_ends_and_one_that_is_used_or_busy_does_not(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet(ping_s=0.1) as made:
        of = spec(source, lifecycle=Lifecycle(idle_s=0.6, lifetime_s=60, grace_s=2))
        used, busy, idle = [await begin(made, of, f"s-{n}") for n in range(3)]
        used.opened()
        await do(busy, "health['status'] = 'HealthyBusy'")
        assert await busy.busy()
        assert (await ended(idle)).reason == "idle"
        assert not used.ended.is_set()
        assert not busy.ended.is_set()
        used.closed()
        await do(busy, "health['status'] = 'Healthy'")
        assert (await ended(used)).reason == "idle"
        assert (await ended(busy)).reason == "idle"


async def test_a_foreign_app_whose_ping_is_not_200_ends(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet(ping_s=0.1) as made:
        of = spec(source, lifecycle=Lifecycle(grace_s=2))
        worker = await begin(made, of)
        await do(worker, "health['code'] = 503")
        assert (await ended(worker)).reason == "unhealthy"
        sick = deploy(tmp_path / "sick", main=f"{ANYTHING}\nhealth['code'] = 500\n")
        with pytest.raises(HostError, match="status 500"):
            await made.prepare(spec(sick, version=2))


async def test_clients_are_told_before_the_lifetime_ends_even_in_mid_call(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", app=AGENT)
    async with fleet(beat_s=0.1) as made:
        of = spec(source, "agent", "app.py:agent", lifecycle=Lifecycle(idle_s=30, lifetime_s=3, grace_s=5))
        worker = await begin(made, of, "call")
        async with gate(worker) as link:
            await link.open("call")
            link.send(HELLO)
            await link.until("welcome")
            notice = await link.until("going_away")
            assert 0 < notice["in_s"] <= 0.3
            await link.closed()
        exit = await ended(worker)
        assert (exit.reason, exit.code) == ("lifetime", 0)


async def test_a_worker_that_does_not_want_to_stop_is_killed_after_its_grace(tmp_path: Path) -> None:
    stubborn = f"{ANYTHING}\napp.router.lifespan_context = None\n"
    source = deploy(
        tmp_path / "src",
        main=stubborn.replace(
            "app.router.lifespan_context = None",
            "async def forever():\n    await asyncio.Event().wait()\napp.router.on_shutdown = []\n"
            "from contextlib import asynccontextmanager\n"
            "@asynccontextmanager\nasync def life(app):\n    yield\n    await forever()\n"
            "app.router.lifespan_context = life",
        ),
    )
    async with fleet() as made:
        worker = await begin(made, spec(source))
        await made.stop(worker, grace_s=0.2)
        exit = await ended(worker)
        assert (exit.reason, exit.signal) == ("stopped", signal.SIGKILL)
        await made.stop(worker, grace_s=0.2)  # again: nothing happens


async def test_an_app_is_told_to_shut_down(tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.mkdir()
    told.chmod(0o777)
    life = (
        "from contextlib import asynccontextmanager\n"
        "@asynccontextmanager\nasync def life(app):\n    yield\n    print('farewell', flush=True)\n"
        "app.router.lifespan_context = life"
    )
    source = deploy(tmp_path / "src", main=f"{ANYTHING}\n{life}\n")
    async with fleet() as made:
        worker = await begin(made, spec(source))
        await made.stop(worker)
        exit = await ended(worker)
        assert "farewell" in exit.detail


async def test_what_a_worker_started_ends_with_it(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet() as made:
        worker = await begin(made, spec(source))
        code = "value = subprocess.Popen(['sleep', '600'], start_new_session=True).pid"
        pidfd = os.pidfd_open(await do(worker, code))
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, gone.set)
        try:
            await made.stop(worker)
            async with asyncio.timeout(20):
                await gone.wait()
        finally:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)


async def test_all_workers_end_with_the_fleet(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet(pool=2) as made:
        of = spec(source)
        workers = [await begin(made, of, f"s-{n}") for n in range(2)]
    assert [worker.exit.reason for worker in workers if worker.exit] == ["shutdown", "shutdown"]
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)


async def test_a_full_shared_worker_refuses_and_ends_with_its_last_sessions_together(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", app=AGENT)
    async with fleet(shared_sessions=2) as made:
        of = spec(source, "agent", "app.py:agent", tier="shared")
        first = await begin(made, of, "one")
        await made.join(first, session="two", epoch=1)
        with pytest.raises(HostError, match="full"):
            await made.join(first, session="three", epoch=1)
        second = await begin(made, of, "three")
        assert (first.sessions, second.sessions) == ({"one", "two"}, {"three"})
        await asyncio.gather(*(made.stop(first, session=session, reason="idle") for session in ("one", "two")))
        assert (await ended(first)).reason == "idle"
        assert set(made.workers) == {second.id}
        assert made.capacity().sessions == 1
