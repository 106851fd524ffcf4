"""Placement: who gets a worker, who shares it, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from duologue.host.control.live import PlacementOptions
from duologue.host.types import Assignment, AssignRequest, HostError, Storage

from .parts import OTHER, SESSION, TENANT, Plane, life, plane

pytestmark = pytest.mark.anyio
ALICE, BOB = f"{TENANT}/keys/alice", f"{TENANT}/keys/bob"


def request(session: str = SESSION, principal: str = ALICE, runtime: str = "delivery", **more: Any) -> AssignRequest:
    given: dict[str, Any] = {"tenant": TENANT, "qualifier": "DEFAULT", **more}
    return AssignRequest(session=session, principal=principal, runtime=runtime, **given)


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks go on until `condition` holds; pytest's timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.001)


async def refused(work: Awaitable[Any], status: int, type: str) -> HostError:
    with pytest.raises(HostError) as caught:
        await work
    assert (caught.value.status, caught.value.type) == (status, type)
    return caught.value


async def test_concurrent_first_uses_join_one_start(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        made.fleet.gate.clear()
        waiting = [asyncio.create_task(made.placement.assign(request())) for _ in range(20)]
        await until(lambda: bool(made.fleet.starts))
        made.fleet.gate.set()
        assigned = await asyncio.gather(*waiting)
        assert made.fleet.starts == [(SESSION, 1)]
        assert {entry.worker for entry in assigned} == {"w0"}
        assert sum(entry.new for entry in assigned) == 1


async def test_who_came_first_may_hang_up_and_the_others_still_get_the_session(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        made.fleet.gate.clear()
        first = asyncio.create_task(made.placement.assign(request()))
        await until(lambda: bool(made.fleet.starts))
        second = asyncio.create_task(made.placement.assign(request()))
        first.cancel()
        await asyncio.wait({first})
        made.fleet.gate.set()
        assert (await second).worker == "w0"
        assert len(made.fleet.starts) == 1


async def test_strictly_a_second_first_use_is_told_to_retry(tmp_path: Path) -> None:
    async with plane(tmp_path, options=PlacementOptions(strict=True)) as made:
        made.deployed()
        made.fleet.gate.clear()
        first = asyncio.create_task(made.placement.assign(request()))
        await until(lambda: bool(made.fleet.starts))
        error = await refused(made.placement.assign(request()), 409, "RetryableConflictException")
        assert dict(error.headers)["Retry-After"] == "1"
        made.fleet.gate.set()
        await first


async def test_a_session_belongs_to_the_principal_that_opened_it_also_after_it_ended(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        placement = made.placement
        await placement.assign(request())
        await refused(placement.assign(request(principal=BOB)), 403, "AccessDeniedException")
        await refused(placement.stop(TENANT, "delivery", SESSION, BOB), 403, "AccessDeniedException")
        assert await placement.stop(TENANT, "delivery", SESSION, ALICE)
        await refused(placement.assign(request(principal=BOB)), 403, "AccessDeniedException")
        await refused(placement.stop(TENANT, "delivery", SESSION, BOB), 403, "AccessDeniedException")
        again = await placement.assign(request())
        assert (again.epoch, again.new) == (2, True)


async def test_another_tenant_has_other_sessions(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        made.deployed(tenant=OTHER)
        mine = await made.placement.assign(request())
        theirs = await made.placement.assign(request(tenant=OTHER, principal=f"{OTHER}/keys/alice"))
        assert (mine.worker, mine.tenant) != (theirs.worker, theirs.tenant)
        assert not await made.placement.stop(OTHER, "delivery", "x" * 33, f"{OTHER}/keys/alice")
        await refused(made.placement.assign(request(tenant="999999999999")), 404, "ResourceNotFoundException")


@pytest.mark.parametrize("session", ["s" * 32, "s" * 257, "-" + "s" * 40, "s" * 33 + "/", "s" * 33 + "\n", "é" * 40])
async def test_session_ids_that_cannot_be(tmp_path: Path, session: str) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        await refused(made.placement.assign(request(session)), 400, "ValidationException")


async def test_a_session_id_is_made_if_none_is_given(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        one, two = [await made.placement.assign(request("")) for _ in range(2)]
        assert one.session != two.session
        assert len(one.session) >= 33


async def test_what_cannot_start_is_told_to_all_and_can_be_tried_again(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        made.fleet.fail = True
        made.fleet.gate.clear()
        waiting = [asyncio.create_task(made.placement.assign(request())) for _ in range(3)]
        await until(lambda: bool(made.fleet.starts))
        made.fleet.gate.set()
        for task in waiting:
            await refused(task, 424, "RuntimeClientError")
        made.fleet.fail = False
        assert (await made.placement.assign(request())).epoch == 2


async def test_a_start_that_fails_unexpectedly_is_logged_with_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("inside")

    async with plane(tmp_path) as made:
        spec = made.deployed().spec
        monkeypatch.setattr(made.fleet, "start", broken)
        with pytest.raises(RuntimeError, match="inside"):
            await made.placement.assign(request())
    said = [record.getMessage() for record in caplog.records if record.exc_info]
    assert said == [f"session {TENANT}/{spec.runtime}/{SESSION}: RuntimeError"]


async def test_admission_refuses_early_and_says_why(tmp_path: Path) -> None:
    async with plane(tmp_path, options=PlacementOptions(per_principal=1, per_runtime=2)) as made:
        made.deployed()
        await made.placement.assign(request("a" * 33))
        await refused(made.placement.assign(request("b" * 33)), 429, "ThrottlingException")
        await made.placement.assign(request("b" * 33, principal=BOB))
        error = await refused(made.placement.assign(request("c" * 33, principal="x")), 429, "ThrottlingException")
        assert "runtime" in error.message
        made.placement.options = PlacementOptions()
        made.fleet.refuse = "The host's loop is 400 ms late."
        error = await refused(made.placement.assign(request("c" * 33)), 429, "ThrottlingException")
        assert (error.message, dict(error.headers)["Retry-After"]) == (made.fleet.refuse, "1")
        assert (await made.placement.assign(request("a" * 33))).worker == "w0"  # what runs is not refused
        assert made.placement.counts["refused.capacity"] == 1


async def test_stop_waits_for_the_end_joins_others_and_refuses_new_uses_meanwhile(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        await made.placement.assign(request())
        made.fleet.stop_gate.clear()
        stops = [asyncio.create_task(made.placement.stop(TENANT, "delivery", SESSION, ALICE)) for _ in range(3)]
        await until(lambda: bool(made.fleet.stops))
        error = await refused(made.placement.assign(request()), 409, "RetryableConflictException")
        assert dict(error.headers)["Retry-After"] == "1"
        made.fleet.stop_gate.set()
        assert await asyncio.gather(*stops) == [True, True, True]
        assert made.fleet.stops == [("w0", SESSION, "stopped")]
        assert await made.placement.stop(TENANT, "delivery", SESSION, ALICE) is True  # as it has ended
        assert await made.placement.stop(TENANT, "delivery", "n" * 33, ALICE) is False
        assert len(made.fleet.stops) == 1
        assert (await made.placement.assign(request())).epoch == 2


async def opened(made: Plane, assignment: Assignment) -> str:
    return await made.placement.opened(assignment, "ws")


async def ticked(made: Plane, seconds: float) -> None:
    made.clock.now += seconds
    await made.placement.tick()
    await asyncio.sleep(0)


async def test_an_idle_session_ends_and_one_in_use_does_not(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed(**life(idle_s=60.0, lifetime_s=1000.0))
        assignment = await made.placement.assign(request())
        handle = await opened(made, assignment)
        for _ in range(5):
            await ticked(made, 59.0)
        assert made.placement.count == 1
        await made.placement.closed(handle)
        await made.placement.closed(handle)  # twice is once
        await ticked(made, 59.0)
        assert made.placement.count == 1
        await ticked(made, 3.0)
        await until(lambda: made.placement.count == 0)
        assert made.fleet.stops == [("w0", SESSION, "idle")]
        assert made.fleet.workers[0].in_use == 0


async def test_a_long_task_keeps_its_session_and_the_next_socket_finds_it(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed(**life(idle_s=60.0, lifetime_s=100_000.0))
        first = await made.placement.assign(request())
        made.fleet.workers[0].working.add(SESSION)
        await made.placement.closed(await opened(made, first))
        for _ in range(20):
            await ticked(made, 61.0)
        second = await made.placement.assign(request())
        assert (second.worker, second.epoch, second.new) == (first.worker, first.epoch, False)
        made.fleet.workers[0].working.clear()
        await ticked(made, 59.0)
        assert made.placement.count == 1  # idle counts from when it was last seen busy
        await ticked(made, 3.0)
        await until(lambda: made.placement.count == 0)


async def test_no_session_outlives_its_lifetime_in_use_or_not(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed(**life(idle_s=60.0, lifetime_s=100.0))
        assignment = await made.placement.assign(request())
        await opened(made, assignment)
        assert assignment.lifetime_left_s == 100.0
        await ticked(made, 99.0)
        assert (await made.placement.assign(request())).lifetime_left_s == 1.0
        await ticked(made, 1.0)
        await until(lambda: made.placement.count == 0)
        assert made.fleet.stops == [("w0", SESSION, "lifetime")]


async def test_a_dead_worker_takes_its_sessions_and_the_next_use_starts_anew(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        assignment = await made.placement.assign(request())
        handle = await opened(made, assignment)
        made.fleet.workers[0].exit = SimpleNamespace(reason="killed")
        made.fleet.workers[0].ended.set()
        await until(lambda: made.placement.count == 0)
        await refused(opened(made, assignment), 409, "RetryableConflictException")
        await made.placement.closed(handle)
        found = made.directory.session(TENANT, assignment.runtime, SESSION)
        assert found is not None
        assert (found[1].state, found[1].reason, found[1].epoch) == ("ended", "killed", 1)
        assert (await made.placement.assign(request())).epoch == 2


async def test_a_session_that_lost_its_worker_comes_back_on_its_version(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        first = made.deployed().spec.version
        for session in (SESSION, "x" * 33):
            await made.placement.assign(request(session, channel="join", metadata={"name": "Ada"}))
        second = made.deployed().spec.version
        for worker, reason in zip(made.fleet.workers, ("killed", "idle"), strict=True):
            worker.exit = SimpleNamespace(reason=reason)  # type: ignore[attr-defined]
            worker.ended.set()
        # It waits for the end of the one before to be written, instead of being told to come again.
        lost = await made.placement.assign(request())
        ended = await made.placement.assign(request("x" * 33))
        assert (lost.version, lost.epoch, ended.version, ended.epoch) == (first, 2, second, 2)
        assert made.fleet.metadata[-2:] == [{"name": "Ada"}, {}]


async def test_sessions_of_tier_shared_join_a_process_up_to_its_limit(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.fleet.shared_sessions = 2
        made.deployed(tier="shared")
        workers = [(await made.placement.assign(request(letter * 33))).worker for letter in "abc"]
        assert workers == ["w0", "w0", "w1"]
        assert [worker.sessions for worker in made.fleet.workers] == [{"a" * 33, "b" * 33}, {"c" * 33}]
        await made.placement.stop(TENANT, "delivery", "a" * 33, ALICE)
        assert made.placement.count == 2
        assert not made.fleet.workers[0].ended.is_set()
        assert (await made.placement.assign(request("d" * 33))).worker == "w0"  # there is room again


async def test_sessions_that_come_together_share_processes_as_those_that_come_one_by_one(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.fleet.shared_sessions = 2
        made.deployed(tier="shared")
        made.fleet.gate.clear()
        coming = [asyncio.create_task(made.placement.assign(request(letter * 33))) for letter in "abcde"]
        await until(lambda: bool(made.fleet.starts))
        made.fleet.gate.set()
        await asyncio.gather(*coming)
        assert [len(worker.sessions) for worker in made.fleet.workers] == [2, 2, 1]


async def test_a_shared_process_that_is_emptied_ends_and_the_others_stay(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.fleet.shared_sessions = 2
        made.deployed(tier="shared", **life(idle_s=60.0, lifetime_s=1000.0))
        first, _, third = [await made.placement.assign(request(letter * 33)) for letter in "abc"]
        await opened(made, first)
        made.fleet.workers[0].working.add("b" * 33)
        await ticked(made, 61.0)
        await until(lambda: made.placement.count == 2)
        assert made.fleet.stops == [("w1", third.session, "idle")]
        assert [worker.ended.is_set() for worker in made.fleet.workers] == [False, True]
        assert (await made.placement.assign(request("d" * 33))).worker == "w2"


async def test_what_is_said_of_a_call_goes_to_its_worker(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed(tier="shared")
        for letter in "ab":
            assignment = await made.placement.assign(request(letter * 33, metadata={"desk": letter}))
            assert assignment.metadata == {}  # the worker was told
        assert made.fleet.metadata == [{"desk": "a"}, {"desk": "b"}]
        assert len(made.fleet.workers) == 1


async def test_a_process_that_takes_no_more_is_asked_once_and_another_is_started(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed(tier="shared")
        asked: list[str] = []

        async def join(worker: Any, *, session: str, epoch: int, metadata: Any) -> None:
            asked.append(session[0])
            if len(asked) > 2:
                raise HostError(429, "ThrottlingException", "This worker is full.")
            worker.sessions.add(session)

        made.fleet.join = join  # type: ignore[method-assign]
        workers = [(await made.placement.assign(request(letter * 33))).worker for letter in "abcd"]
        assert workers == ["w0", "w0", "w0", "w1"]
        assert asked == ["b", "c", "d"]


async def test_in_a_shared_process_a_session_is_idle_or_busy_by_itself(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed(tier="shared", **life(idle_s=60.0, lifetime_s=1000.0))
        busy, idle, used = [await made.placement.assign(request(letter * 33)) for letter in "abc"]
        worker = made.fleet.workers[0]
        worker.working.add(busy.session)
        await opened(made, used)
        for _ in range(2):
            await ticked(made, 61.0)
        await until(lambda: made.placement.count == 2)
        assert made.fleet.stops == [("w0", idle.session, "idle")]
        assert worker.sessions == {busy.session, used.session}
        assert not worker.ended.is_set()


async def test_live_sessions_stay_on_their_version(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        assert (await made.placement.assign(request())).version == 1
        made.deployed()
        assert (await made.placement.assign(request())).version == 1
        assert (await made.placement.assign(request("n" * 33))).version == 2
        made.deployed(endpoint="pinned")
        assert (await made.placement.assign(request("p" * 33, qualifier="pinned"))).version == 3
        await refused(made.placement.assign(request("q" * 33, qualifier="none")), 404, "ResourceNotFoundException")


async def test_secrets_go_to_the_worker_and_nowhere_else(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.secrets.put(TENANT, "crm", "hush-hush-hush")
        made.deployed(secrets=("crm",))
        await made.placement.assign(request())
        assert made.fleet.secrets == [{"crm": "hush-hush-hush"}]
        made.store.close()
    kept = await asyncio.to_thread(lambda: b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file()))
    assert b"hush-hush-hush" not in kept


async def test_drained_sessions_take_nothing_new_and_end_when_unused(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        used, unused = [await made.placement.assign(request(letter * 33)) for letter in "ab"]
        handle = await opened(made, used)
        assert made.placement.drain(TENANT) == 2
        await until(lambda: made.placement.count == 1)
        await refused(made.placement.assign(request("a" * 33)), 409, "RetryableConflictException")
        await refused(opened(made, used), 409, "RetryableConflictException")
        await made.placement.closed(handle)
        await until(lambda: made.placement.count == 0)
        assert {reason for _, _, reason in made.fleet.stops} == {"drained"}
        assert (await made.placement.assign(request(unused.session))).epoch == 2


async def test_shutting_down_refuses_the_new_lets_the_old_end_and_ends_the_rest(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        made.deployed()
        assignment = await made.placement.assign(request())
        await opened(made, assignment)
        await made.placement.assign(request("b" * 33))
        await made.placement.shut_down(wait_s=0.05)
        assert made.placement.count == 0
        assert len(made.fleet.stops) == 2
        error = await refused(made.placement.assign(request("c" * 33)), 503, "ServiceUnavailableException")
        assert dict(error.headers)["Retry-After"] == "1"


async def test_a_host_that_starts_marks_what_another_left_open(tmp_path: Path) -> None:
    async with plane(tmp_path) as made:
        runtime = made.deployed().spec.runtime
        await made.placement.assign(request())
        assert made.directory.close_open_sessions("restarted") == 1
        found = made.directory.session(TENANT, runtime, SESSION)
        assert found is not None
        assert (found[1].state, found[1].reason) == ("ended", "restarted")
        assert made.directory.close_open_sessions("restarted") == 0


async def test_a_session_keeps_its_storage_until_it_is_forgotten_or_erased(tmp_path: Path) -> None:
    async with plane(tmp_path, options=PlacementOptions(keep_ended_s=0.0)) as made:
        runtime = made.deployed(storage=Storage(path="/mnt/work")).spec.runtime
        for session in (SESSION, "x" * 33, SESSION):
            await made.placement.assign(request(session))
            await made.placement.stop(TENANT, "delivery", session, ALICE)
        first, other, again = made.fleet.storages
        assert first == again != other
        assert first
        # Also those of versions that have none keep what was there.
        made.deployed()
        await made.placement.assign(request())
        assert made.fleet.storages[-1] == first
        error = await refused(made.placement.erase(TENANT, runtime, SESSION), 409, "ConflictException")
        assert error.hint == "End it first."
        await made.placement.stop(TENANT, "delivery", SESSION, ALICE)
        assert await made.placement.erase(TENANT, runtime, SESSION)
        assert made.fleet.erased == [first]
        assert not await made.placement.erase(TENANT, runtime, SESSION)
        made.deployed(storage=Storage(path="/mnt/work"), **life(idle_s=7200.0))
        await made.placement.assign(request())
        assert made.fleet.storages[-1] not in ("", first, other)
        await refused(made.placement.erase(TENANT, runtime, "y" * 33), 404, "ResourceNotFoundException")
        made.clock.now += 3600.0
        await made.placement.tick()
        # The one that ended is forgotten, and what is left of it swept.
        assert made.fleet.kept == {(TENANT, runtime, made.fleet.storages[-1])}
        made.directory.delete(TENANT, runtime)
        assert made.directory.storages() == made.fleet.kept  # as long as it is open
        await made.placement.end(TENANT, runtime, SESSION, reason="stopped")
        assert made.directory.storages() == set()


async def test_a_session_that_another_host_has_is_not_taken(tmp_path: Path) -> None:
    async with plane(tmp_path) as one, plane(tmp_path) as two:
        one.deployed()
        await one.placement.assign(request())
        await refused(two.placement.assign(request()), 409, "RetryableConflictException")
        assert await one.placement.stop(TENANT, "delivery", SESSION, ALICE)
        assert (await two.placement.assign(request())).epoch == 2
