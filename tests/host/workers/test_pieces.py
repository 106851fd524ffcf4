"""The pieces that need no worker: control groups, user ids, `/ping` answers, the control socket, secrets."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue import secrets
from duologue.errors import ConfigurationError, CredentialsError, OverloadedError
from duologue.host.types import SCHEMA, Limits, VersionSpec
from duologue.host.workers import FleetOptions
from duologue.host.workers import inference_messages as im
from duologue.host.workers import messages as m
from duologue.host.workers.limits import PREFIX, Cgroups, Group
from duologue.host.workers.link import LinkListener, Refusal
from duologue.host.workers.ping import ping
from duologue.host.workers.uids import Uids
from duologue.wire.hostlink import LinkClient, Open

pytestmark = pytest.mark.anyio


def test_limits_of_version_2_are_written_as_the_kernel_wants_them(tmp_path: Path) -> None:
    group = Group(dict.fromkeys(("memory", "cpu", "pids"), tmp_path), unified=True)
    group.limit(Limits(memory_bytes=1 << 20, cpu=1.5, processes=7))
    assert (tmp_path / "memory.max").read_text() == str(1 << 20)
    assert (tmp_path / "memory.swap.max").read_text() == "0"
    assert (tmp_path / "cpu.max").read_text() == "150000 100000"
    assert (tmp_path / "pids.max").read_text() == "7"
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n")
    assert group.starved()
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 0\n")
    assert not group.starved()


async def test_a_group_of_this_machine_holds_a_process_kills_it_and_goes() -> None:
    groups = Cgroups(f"duologue-test-{os.getpid()}")
    try:
        group = groups.create("w1", Limits(memory_bytes=64 << 20, cpu=1.0, processes=5))
        assert group is not None
        sleeper = await asyncio.create_subprocess_exec("sleep", "600")
        group.add(sleeper.pid)
        assert group.pids() == [sleeper.pid]
        assert not group.remove()
        group.kill()
        assert await sleeper.wait() == -9
    finally:
        await groups.close()
    assert group.remove()


async def test_what_a_killed_host_left_is_ended_when_the_next_one_starts() -> None:
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    orphaned = Cgroups(f"{PREFIX}{ended.pid}-1")
    group = orphaned.create("w1", Limits(processes=5))
    assert group is not None
    sleeper = await asyncio.create_subprocess_exec("sleep", "600")
    group.add(sleeper.pid)
    mine = Cgroups(f"{PREFIX}{os.getpid()}-test")
    try:
        mine.sweep()
        assert await sleeper.wait() == -9
    finally:
        await orphaned.close()
        await mine.close()
    assert group.remove()


def test_without_control_groups_all_controllers_are_missing() -> None:
    groups = Cgroups("none", use=False)
    assert groups.missing == ("memory", "cpu", "pids")
    assert groups.create("w1", Limits()) is None


def test_user_ids_are_remembered_never_shared_and_run_out(tmp_path: Path) -> None:
    path = tmp_path / "uids.json"
    uids = Uids(path, 5000, 2)
    assert [uids.of(tenant) for tenant in ("a", "b", "a")] == [5000, 5001, 5000]
    assert path.stat().st_mode & 0o777 == 0o600
    again = Uids(path, 5000, 2)
    assert again.of("b") == 5001
    with pytest.raises(OverloadedError):
        again.of("c")
    path.write_text("{")
    with pytest.raises(ConfigurationError, match="damaged"):
        Uids(path, 5000, 2)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'HTTP/1.1 200 OK\r\n\r\n{"status":"Healthy"}', (200, False)),
        (b'HTTP/1.1 200 OK\r\n\r\n{"status":"HealthyBusy","time_of_last_update":1}', (200, True)),
        (
            b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n18\r\n{"status":"HealthyBusy"}\r\n0\r\n\r\n',
            (200, True),
        ),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", (503, False)),
        (b"HTTP/1.1 200 OK\r\n\r\n[1, 2", (200, False)),
        (b"SSH-2.0-OpenSSH\r\n", None),
        (b"HTTP/1.1 abc\r\n\r\n", None),
        (b"", None),
    ],
)
async def test_what_ping_may_answer(tmp_path: Path, answer: bytes, expected: tuple[int, bool] | None) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    path = str(tmp_path / "s")
    async with await asyncio.start_unix_server(serve, path):
        found = await ping(path, 10)
    assert (found and (found.status, found.busy)) == expected
    assert await ping(str(tmp_path / "nobody"), 10) is None


async def test_a_gateway_that_never_reads_loses_its_link_and_is_counted(tmp_path: Path) -> None:
    def refuse(request: Open) -> None:
        raise Refusal(503, "full" * 10_000)

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "link"))
    listening.listen()
    # a stream that is refused needs neither server nor app
    listener = LinkListener("w1", cast(Any, None), None, refuse, of="t/agent:1")
    listener.start(listening)
    client = LinkClient(peer="g1", schema=SCHEMA, now=0.0)
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "link"))

    async def flood() -> None:
        while True:
            client.open(Open(session="s", epoch=1))
            writer.write(client.data_to_send())
            await writer.drain()

    try:
        writer.write(client.data_to_send())
        while client.hello is None:
            client.receive(await reader.read(1 << 16), 0.0)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionError):
            await flood()
        assert listener.failed == {"link.unread": 1}
    finally:
        writer.close()
        await listener.stop(0.0)


async def test_a_gateway_that_breaks_the_rules_and_reads_nothing_is_left(tmp_path: Path) -> None:
    """What was written last waits in the transport: a peer that never takes it does not hold the connection open."""

    def refuse(request: Open) -> None:
        raise Refusal(503, "full" * 5000)

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "link"))
    listening.listen()
    listener = LinkListener("w1", cast(Any, None), None, refuse, of="t/agent:1")
    listener.start(listening)
    client = LinkClient(peer="g1", schema=SCHEMA, now=0.0)
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "link"))
    try:
        writer.write(client.data_to_send())
        while client.hello is None:
            client.receive(await reader.read(1 << 16), 0.0)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        (link,) = listener._links
        transport = cast(asyncio.Transport, link._transport)
        while not transport.get_write_buffer_size():
            client.open(Open(session="s", epoch=1))
            writer.write(client.data_to_send())
            await asyncio.sleep(0)
        assert link._writable
        writer.write(b"\xff" * 64)
        while listener._links:  # noqa: ASYNC110 - pytest's timeout bounds it
            await asyncio.sleep(0.01)
        assert sum(listener.failed.values()) == 1
        assert "link.unread" not in listener.failed
    finally:
        writer.close()
        await listener.stop(0.0)


KEEPING = """
import ctypes
from duologue.host.workers import kernel

class Info(ctypes.Structure):  # struct mallinfo2 of <malloc.h>
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def freed(count):
    blocks = (ctypes.c_void_p * count)()
    for n in range(count):
        blocks[n] = libc.malloc(600_000)
    for n in reversed(range(count)):
        libc.free(blocks[n])
    return libc.mallinfo2().fordblks

kernel.keep_freed(16 << 20)
print(freed(20), freed(60))
"""


def test_freed_memory_is_kept_up_to_a_bound() -> None:
    done = subprocess.run([sys.executable, "-c", KEEPING], capture_output=True, text=True, timeout=60, check=True)
    twelve, thirty_six = map(int, done.stdout.split())
    assert twelve >= 12_000_000
    assert thirty_six <= (16 << 20) + 1_000_000


def test_the_control_socket_names_the_sender_and_takes_no_descriptors() -> None:
    ours, theirs = m.pair()
    with ours, theirs:
        read, write = os.pipe()
        m.send(theirs, m.Beat(busy=True), [write])
        os.close(write)
        assert m.receive_in_host(ours) == (m.Beat(busy=True), os.getpid())
        assert os.read(read, 1) == b""  # nobody holds the other end
        os.close(read)
        m.send(ours, m.Join(session="s", epoch=2))
        received = m.receive_in_process(theirs)
        assert received == (m.Join(session="s", epoch=2), [])
        theirs.send(b'{"type":"boot"}')
        with pytest.raises(msgspec.DecodeError):
            m.receive_in_host(ours)
        with pytest.raises(ValueError, match="too long"):
            m.send(ours, m.Assign(worker="w", session="s", epoch=1, secrets={"k": "v" * m.LONGEST}))


@given(st.binary(max_size=400))
def test_nothing_that_a_process_sends_breaks_the_host(data: bytes) -> None:
    ours, theirs = m.pair()
    with ours, theirs:
        theirs.send(data)
        try:
            received = m.receive_in_host(ours)
        except msgspec.DecodeError:
            return
        assert received is None or isinstance(received[0], m.FromProcess)


@given(st.lists(st.binary(max_size=3000), max_size=5), st.data())
def test_frames_are_cut_wherever_they_are_torn(pieces: list[bytes], data: st.DataObject) -> None:
    sent = [im.Read(n=n, model=None, architecture="tiny", pcm=pcm) for n, pcm in enumerate(pieces)]
    stream = b"".join(im.frame(message) for message in sent)
    frames: im.Frames[im.ToService] = im.Frames(msgspec.msgpack.Decoder(im.ToService))
    found: list[im.ToService] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += frames.feed(stream[:size])
        stream = stream[size:]
    assert found == sent


def test_a_secret_of_an_assignment_is_not_shown_and_one_that_is_missing_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "hush" not in repr(m.Assign(worker="w", session="s", epoch=1, secrets={"token": "hush"}))
    with pytest.raises(CredentialsError, match="no secret 'my-token'"):
        secrets.get("my-token")
    monkeypatch.setenv("MY_TOKEN", "from the environment")
    assert secrets.get("my-token") == "from the environment"


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="beats"):
        FleetOptions(beat_s=5.0, lease_s=6.0)
    with pytest.raises(ConfigurationError, match="pool"):
        FleetOptions(pool=-1)


def test_a_spec_goes_through_the_control_socket_unchanged() -> None:
    of = VersionSpec(tenant="t", runtime="r", version=1, digest="d", kind="agent", source="/x", entry="a.py:b")
    ours, theirs = m.pair()
    with ours, theirs:
        m.send(ours, m.Boot(spec=of, home="/h", reach=(m.Reach(path="/a"), m.Reach(path="/b", writable=True))))
        received = m.receive_in_process(theirs)
        assert received is not None
        assert isinstance(received[0], m.Boot)
        assert received[0].spec == of


def test_the_listening_socket_of_a_worker_is_for_the_host_alone(tmp_path: Path) -> None:
    from duologue.host.workers.fleet import _listen

    with _listen(str(tmp_path / "w.http")) as listener:
        assert listener.family == socket.AF_UNIX
        assert (tmp_path / "w.http").stat().st_mode & 0o777 == 0o600
