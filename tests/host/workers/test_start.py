"""Starting what was deployed: agents, ASGI apps and commands, warm and cold, and what cannot be started."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
import websockets

from duologue.host.types import HostError
from duologue.host.workers import Worker
from duologue.host.workers.messages import SOCKET_WORD
from duologue.store import SQLiteStore
from duologue.wire.hostlink import Accepted, Rejected
from tests.host.workers.parts import (
    AGENT,
    ANYTHING,
    HELLO,
    SDK,
    TENANT,
    begin,
    deploy,
    do,
    fleet,
    gate,
    http,
    sdk_command,
    spec,
)

pytestmark = pytest.mark.anyio


async def test_an_agent_is_served_over_the_link_and_journals_into_its_tenants_file(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", app=AGENT)
    async with fleet(pool=1) as made:
        of = spec(source, "agent", "app.py:agent")
        probe = await made.prepare(of)
        assert (probe.tier_used, probe.reason) == ("process", "")
        journal = made.journals(TENANT) / "calls.sqlite"
        worker = await made.start(of, session="call-1", epoch=3, secrets={}, journal=str(journal))
        async with gate(worker) as link:
            assert isinstance(await link.open("call-1", epoch=3), Accepted)
            link.send(HELLO)
            welcome = await link.until("welcome")
            assert welcome["session"] == "call-1"
            assert await worker.busy()
            link.send('{"type":"bye","code":"hangup"}')
            await link.closed()
        await made.stop(worker)
        assert worker.exit is not None
        assert (worker.exit.reason, worker.exit.code) == ("stopped", 0)
        store = SQLiteStore(journal)
        try:
            assert [entry.key for entry in store.journals(TENANT)] == ["call-1"]
        finally:
            store.close()


WHO = """
from duologue import Agent
from duologue.testing.scripted import Reply, ScriptedModel

def agent(call):
    who = call.metadata.get("who", "stranger")
    return Agent(model=ScriptedModel((), lambda text, context: Reply(text="Yes.")), greeting=f"Hello {who}.")
"""


async def test_an_agent_is_told_what_was_said_of_the_call_when_it_was_started(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", app=WHO)

    async def greeted(worker: Worker, session: str, **said: str) -> str:
        async with gate(worker) as link:
            assert isinstance(await link.open(session), Accepted)
            link.send(json.dumps({"type": "hello", "versions": [1], "metadata": said}))
            while (event := (await link.until("event"))["event"])["type"] != "response.finished":
                pass
            return str(event["text"])

    async with fleet() as made:
        of = spec(source, "agent", "app.py:agent", tier="shared")
        worker = await made.start(of, session="one", epoch=1, secrets={}, journal="", metadata={"who": "Ada"})
        await made.join(worker, session="two", epoch=1, metadata={"who": "Bob"})
        await made.join(worker, session="three", epoch=1)
        assert await greeted(worker, "one", who="Eve") == "Hello Ada."  # whoever started the call knows better
        assert await greeted(worker, "two") == "Hello Bob."
        assert await greeted(worker, "three", who="Eve") == "Hello Eve."


async def test_a_stream_of_another_session_or_epoch_is_refused(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", app=AGENT)
    async with fleet() as made:
        worker = await begin(made, spec(source, "agent", "app.py:agent"), "mine")
        for session, epoch in (("other", 1), ("mine", 2)):
            async with gate(worker) as link:
                answer = await link.open(session, epoch=epoch)
                assert isinstance(answer, Rejected)
                assert answer.reject.status == 409


async def test_a_providers_protocol_is_served_over_the_link(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", app=AGENT)
    async with fleet() as made:
        worker = await begin(made, spec(source, "agent", "app.py:agent"), "mine")
        async with gate(worker) as link:
            assert isinstance(await link.open("mine", kind="openai", path="/v1/realtime"), Accepted)
            assert (await link.text())["type"] == "session.created"
        async with gate(worker) as link:
            answer = await link.open("mine", kind="openai", path="/nowhere")
            assert isinstance(answer, Rejected)
            assert answer.reject.status == 403


async def test_an_unmodified_sdk_app_is_served_from_a_warm_template(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=SDK)
    async with fleet() as made:
        of = spec(source)
        assert (await made.prepare(of)).tier_used == "process"
        worker = await begin(made, of)
        async with http(worker) as client:
            assert (await client.get("/ping")).json()["status"] == "Healthy"
            answer = (await client.post("/invocations", json={"prompt": "hi"})).json()
        assert (answer["echo"], answer["pid"]) == ("hi", worker.pid)
        async with websockets.unix_connect(worker.http, "ws://worker/ws") as socket:
            await socket.send('{"n": 1}')
            assert await socket.recv() == '{"heard":{"n":1}}'


async def test_an_unmodified_sdk_app_runs_as_a_command_that_nobody_else_can_reach(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=SDK)
    async with fleet() as made:
        worker = await begin(made, spec(source, "command", command=sdk_command()))
        async with http(worker) as client:
            assert (await client.post("/invocations", json={"prompt": "hi"})).json()["echo"] == "hi"
        async with websockets.unix_connect(worker.http, "ws://worker/ws") as socket:
            await socket.send('{"n": 1}')
            assert await socket.recv() == '{"heard":{"n":1}}'
        assert os.readlink(f"/proc/{worker.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        await made.stop(worker)
        assert worker.exit is not None
        assert worker.exit.reason == "stopped"


async def test_a_command_may_listen_on_the_socket_that_it_is_given(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    command = (sdk_command()[0], "-m", "uvicorn", "main:app", "--uds", SOCKET_WORD, "--log-level", "warning")
    async with fleet() as made:
        worker = await begin(made, spec(source, "command", command=command), token="hush")
        assert await do(worker, "value = secrets.get('token')") == "hush"
        assert await do(worker, "value = 'hush' in str(os.environ)") is False


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "starts threads"),
        ("import socket; kept['s'] = socket.socket()", "opens a socket"),
        ("kept['f'] = open(__file__)", "opens /"),
        ("kept['p'] = subprocess.Popen(['sleep', '60'])", "starts a process"),
    ],
)
async def test_code_that_must_not_be_forked_starts_cold(tmp_path: Path, line: str, reason: str) -> None:
    source = deploy(tmp_path / "src", main=f"{ANYTHING}\n{line}\n")
    async with fleet() as made:
        of = spec(source)
        probe = await made.prepare(of)
        assert probe.tier_used == "cold"
        assert reason in probe.reason
        worker = await begin(made, of)
        assert await do(worker, "value = 6 * 7") == 42


async def test_code_that_cannot_be_loaded_says_where(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main="x = 1\ny = 1 / 0\n")
    async with fleet() as made:
        with pytest.raises(HostError, match=r"main\.py:2: ZeroDivisionError") as caught:
            await made.prepare(spec(source))
        assert caught.value.status == 424
        with pytest.raises(HostError, match="no 'app'"):
            await made.prepare(spec(deploy(tmp_path / "src", main="x = 1\n"), version=2))


async def test_callers_are_not_told_what_an_agent_wrote_before_it_ended(tmp_path: Path) -> None:
    """Its owner is: what it wrote may be anything."""
    ends = "import os\nif os.path.exists(__file__ + '.gone'):\n    print('private words', flush=True); os._exit(3)\n"
    source = deploy(tmp_path / "src", main=ends + ANYTHING)
    command = (sdk_command()[0], "-m", "uvicorn", "main:app", "--uds", SOCKET_WORD, "--log-level", "warning")
    async with fleet(first_ping_s=30.0) as made:
        of = [spec(source, tier="cold"), spec(source, "command", command=command, version=2)]
        for each in of:
            await made.prepare(each)
        (source / "main.py.gone").touch()
        for each in of:
            with pytest.raises(HostError, match=r"ended before it") as caught:
                await begin(made, each)
            assert "private" not in str(caught.value)
            assert "private words" in caught.value.detail
        with pytest.raises(HostError, match="private words"):  # whoever deploys
            await made.prepare(msgspec.structs.replace(of[0], version=3))


async def test_a_command_that_ends_at_once_shows_its_last_words(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main="import sys; sys.exit('no licence')")
    async with fleet(first_ping_s=20.0) as made:
        with pytest.raises(HostError, match="no licence"):
            await made.prepare(spec(source, "command", command=sdk_command()))


async def test_a_command_may_find_its_socket_in_the_environment(tmp_path: Path) -> None:
    """It says nothing of the socket among its words: it has a network namespace of its own, unless it asks for the host's."""
    serve = "import os, uvicorn, main; uvicorn.run(main.app, uds=os.environ['DUOLOGUE_SOCKET'], log_level='warning')"
    source = deploy(tmp_path / "src", main=ANYTHING, serve=serve)
    namespace = "value = os.readlink('/proc/self/ns/net')"
    async with fleet(first_ping_s=30.0) as made:
        for version, (network, same) in enumerate((("auto", False), ("own", False), ("host", True)), 1):
            of = spec(source, "command", command=(sdk_command()[0], "serve.py"), version=version)
            worker = await begin(made, msgspec.structs.replace(of, network=network))
            assert (await do(worker, namespace) == os.readlink("/proc/self/ns/net")) is same


async def test_a_command_that_names_its_socket_may_do_without_a_network(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    command = (sdk_command()[0], "-m", "uvicorn", "main:app", "--uds", SOCKET_WORD, "--log-level", "warning")
    async with fleet(first_ping_s=30.0) as made:
        worker = await begin(made, msgspec.structs.replace(spec(source, "command", command=command), network="own"))
        assert await do(worker, "value = os.readlink('/proc/self/ns/net')") != os.readlink("/proc/self/ns/net")


async def test_a_command_on_a_port_of_the_host_is_not_taken_for_it(tmp_path: Path) -> None:
    """In the host's network anybody may listen on 8080: the command is asked on its socket alone."""
    source = deploy(tmp_path / "src", main=SDK)
    of = msgspec.structs.replace(spec(source, "command", command=sdk_command()), network="host")
    async with fleet(first_ping_s=3.0) as made:
        with pytest.raises(HostError, match=r"no /ping on \$DUOLOGUE_SOCKET within 3 s"):
            await made.prepare(of)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ("no-such-program", "x"),
            r"The command 'no-such-program' cannot be run: No such file or directory\. It is looked for in /",
        ),
        (("./main.py",), r"'\./main\.py' cannot be run: Permission denied\.$"),
        (("false",), r"ended before it answered /ping: exit code 1\.$"),
    ],
)
async def test_a_command_that_cannot_be_run_is_told_in_a_sentence(
    tmp_path: Path, command: tuple[str, ...], said: str
) -> None:
    source = deploy(tmp_path / "src", main=SDK)
    async with fleet(first_ping_s=20.0) as made:
        with pytest.raises(HostError, match=said) as caught:
            await made.prepare(spec(source, "command", command=command))
        assert "Traceback" not in caught.value.message


async def test_a_host_that_is_full_refuses_early_and_says_why(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet(sessions=1) as made:
        of = spec(source)
        worker = await begin(made, of)
        assert made.capacity().tokens == 0
        with pytest.raises(HostError, match="All 1 sessions") as caught:
            await begin(made, of, "s-2")
        assert caught.value.status == 429
        assert ("retry-after", "1") in caught.value.headers
        await made.stop(worker)
        assert made.capacity().reason == ""
        await begin(made, of, "s-3")


async def test_strict_isolation_is_given_or_refused(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet(cgroups="off") as made:
        probe = await made.prepare(spec(source))
        assert any("memory" in sentence for sentence in probe.degraded)
        with pytest.raises(HostError, match="control group") as caught:
            await made.prepare(spec(source, version=2, isolation="strict"))
        assert caught.value.status == 424


async def test_sessions_share_a_process_only_if_they_are_told_to(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", app=AGENT)
    async with fleet() as made:
        of = spec(source, "agent", "app.py:agent", tier="shared")
        worker = await begin(made, of, "one")
        await made.join(worker, session="two", epoch=4)
        async with gate(worker) as first, gate(worker) as second:
            assert isinstance(await first.open("one"), Accepted)
            assert isinstance(await second.open("two", epoch=4), Accepted)
            for link in (first, second):
                link.send(HELLO)
                await link.until("welcome")
            await made.stop(worker, session="two", grace_s=2.0)
            assert worker.sessions == {"one"}
            await second.closed()
            assert await worker.busy()
            assert not worker.ended.is_set()
        alone = await begin(made, spec(source, "agent", "app.py:agent", version=2), "three")
        with pytest.raises(HostError, match="no other sessions"):
            await made.join(alone, session="four", epoch=1)


@pytest.mark.parametrize(
    ("kind", "path", "greeting"),
    [
        ("openai", "/v1/realtime", "session.created"),
        ("gemini", "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent", ""),
    ],
)
async def test_a_shared_session_that_ends_closes_its_streams_of_providers_wires(
    tmp_path: Path, kind: str, path: str, greeting: str
) -> None:
    source = deploy(tmp_path / "src", app=AGENT)
    async with fleet() as made:
        worker = await begin(made, spec(source, "agent", "app.py:agent", tier="shared"), "one")
        await made.join(worker, session="two", epoch=1)
        async with gate(worker) as first, gate(worker) as second:
            assert isinstance(await first.open("one", kind=kind, path=path), Accepted)
            assert isinstance(await second.open("two", kind=kind, path=path), Accepted)
            if greeting:
                assert (await second.text())["type"] == greeting
            await made.stop(worker, session="two", grace_s=2.0)
            assert (await second.closed()).code == 1001
            assert [await worker.busy(session) for session in ("one", "two")] == [True, False]


async def test_a_retired_version_keeps_its_sessions_and_takes_no_new_ones(tmp_path: Path) -> None:
    source = deploy(tmp_path / "src", main=ANYTHING)
    async with fleet(pool=2) as made:
        of = spec(source)
        worker = await begin(made, of)
        await made.retire(of)
        assert await do(worker, "value = 1") == 1
        await made.stop(worker)
        assert worker.exit is not None
        assert worker.exit.code == 0  # its template stayed to learn how it ended
