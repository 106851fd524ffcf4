"""A whole host, in processes of its own, as a user runs it: deploy, key, call, invoke, list, tail, stop, roll back, end."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import httpx
import openai
import pytest
import websockets
from bedrock_agentcore.runtime import AgentCoreRuntimeClient
from botocore.config import Config
from botocore.exceptions import ClientError
from websockets.typing import Subprotocol

from duologue.client import RuntimeClient, Transport, WebSocketTransport, additional_headers, connect, websocket
from duologue.events import AnyEvent, ResponseFinished, SessionStarted, SessionTakenOver, ToolFinished, ToolStarted

#: the only host that the public SDK's helpers make addresses of
VENDOR = "bedrock-agentcore.us-east-1.amazonaws.com"
SESSION = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
AGENT = '''
import asyncio, os
from duologue import Agent, tool
from duologue.testing.scripted import Reply, ScriptedModel

@tool
async def survey(minutes: int) -> str:
    """A long task."""
    await asyncio.sleep(1.5)
    return f"surveyed {minutes}"

def answer(text, context):
    if text is None:
        return Reply(text="Done.")
    if text == "who":
        said = [item.text for item in context.history() if item.kind == "user"]
        return Reply(text=f"Process {os.getpid()}: {', '.join(said)}.")
    if text.startswith("survey"):
        return Reply(text="I begin.", tools=(("survey", {"minutes": 5}),))
    return Reply(text=f"VERSION {text}.")

agent = Agent(model=ScriptedModel((), answer), tools=[survey], greeting="Hi.")
'''


class Host:
    """`duologue host`, and `duologue …` for it."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        self.environment = {**os.environ, "DUOLOGUE_DATA": str(data), "NO_COLOR": "1"}
        command = [sys.executable, "-m", "duologue.cli", "host", "--port", "0", *options]
        self.process = subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = []
        while not any(line.startswith("control:") for line in said):
            line = self.process.stderr.readline()
            assert line, "".join(said)
            said.append(line)
        self.url = next(line.split()[0] for line in said if line.startswith("https://"))
        self.control_port = said[-1].rpartition(" ")[2].strip()
        self.ca = str(data / "tls" / "ca.pem")

    def run(self, *arguments: str, lines: str = "", ok: int = 0, **environment: str) -> str:
        """What a command prints."""
        done = subprocess.run(
            [sys.executable, "-m", "duologue.cli", *arguments],
            input=lines,
            capture_output=True,
            text=True,
            env={**self.environment, **environment},
            timeout=90,
            check=False,
        )
        assert done.returncode == ok, done.stdout + done.stderr
        return done.stdout + (done.stderr if ok else "")

    def control(self, path: str) -> str:
        """What the control API answers over its socket."""
        transport = httpx.HTTPTransport(uds=str(self.data / "control.sock"))
        with httpx.Client(transport=transport, base_url="http://localhost") as client:
            return client.get(path).raise_for_status().text

    def key(self, *arguments: str) -> str:
        return self.run("keys", "create", *arguments).strip()

    def access(self, *arguments: str) -> dict[str, str]:
        """An access key, as boto3 wants it."""
        pairs = dict(line.split("=", 1) for line in self.key("--kind", "access", *arguments).splitlines())
        return {name.lower(): value for name, value in pairs.items()}

    def end(self) -> str:
        """SIGTERM, and what it says until it has ended."""
        self.process.send_signal(signal.SIGTERM)
        try:
            _, said = self.process.communicate(timeout=60)
        finally:
            if self.process.poll() is None:
                self.process.kill()
        return said


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    folder = tmp_path_factory.mktemp("app")

    def write(version: str) -> str:
        (folder / "app.py").write_text(AGENT.replace("VERSION", version))
        return str(folder / "app.py")

    return write


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, source: Callable[[str], str]) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("h"), "--gateways", "2", "--control-host", "localhost", "--control-port", "0",
                "--drain-s", "1", "--name", VENDOR)  # fmt: skip
    try:
        made.run("deploy", source("one"), "--name", "agent1")
        yield made
    finally:
        said = made.end()
    assert made.process.returncode == 0, said
    assert not [line for line in said.splitlines() if "Traceback" in line], said


def invoke(host: Host, key: str, prompt: str, *, session: str = "", runtime: str = "agent1") -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} | ({SESSION: session} if session else {})
    trust = ssl.create_default_context(cafile=host.ca)
    with httpx.Client(verify=trust, timeout=60, trust_env=False) as client:
        url = f"{host.url}/runtimes/{runtime}/invocations"
        return client.post(url, json={"prompt": prompt}, headers=headers)


def test_the_command_line_deploys_calls_lists_tails_and_stops(host: Host) -> None:
    key = host.key("--role", "invoke")
    url = f"wss{host.url.removeprefix('https')}/runtimes/agent1/ws"
    assert "one hello." in host.run("call", url, lines="hello\n", SSL_CERT_FILE=host.ca, DUOLOGUE_KEY=key)
    answer = json.loads(host.run("invoke", "agent1", '{"prompt": "typed"}'))
    assert answer["response"] == "one typed."
    session = answer["session"]
    assert session in host.run("sessions", "list", "--agent", "agent1")
    assert "peer/uid" in host.run("sessions", "show", session)
    events = [json.loads(line) for line in host.run("sessions", "tail", "--no-follow", session).splitlines()]
    assert "one typed." in json.dumps(events)
    host.run("sessions", "stop", session)
    assert session not in host.run("sessions", "list")
    assert "stopped" in host.run("sessions", "list", "--ended")
    listed = host.run("keys", "list")
    assert "invoke" in listed
    assert key not in listed


def test_keys_open_what_they_are_for_and_nothing_once_revoked(host: Host) -> None:
    key = host.key("--role", "invoke", "--agent", "agent1", "--subject", "desk")
    assert invoke(host, key, "a").json()["response"] == "one a."
    assert invoke(host, key[:-1], "a").status_code == 401
    observer = host.key("--role", "observe")
    assert invoke(host, observer, "a").status_code == 403
    session = "k" * 40
    assert invoke(host, key, "a", session=session).status_code == 200
    other = invoke(host, host.key("--role", "invoke"), "a", session=session)
    assert (other.status_code, other.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    id = next(line.split()[0] for line in host.run("keys", "list").splitlines() if " desk " in line)
    host.run("keys", "revoke", id)
    assert invoke(host, key, "a").status_code == 401


def test_unmodified_boto3_invokes_stops_gets_and_lists(host: Host) -> None:
    def client(service: str, url: str, **keys: str) -> Any:
        config = Config(retries={"total_max_attempts": 1}, proxies={})
        return boto3.client(service, endpoint_url=url, region_name="us-east-1", verify=host.ca, config=config, **keys)

    runtime = json.loads(host.control("/agents/agent1"))
    keys = host.access("--role", "invoke", "--role", "observe")
    data = client("bedrock-agentcore", host.url, **keys)
    session = "boto3-session-" + "x" * 30
    answer = data.invoke_agent_runtime(
        agentRuntimeArn=runtime["arn"], runtimeSessionId=session, payload=b'{"prompt": "from boto3"}'
    )
    assert answer["runtimeSessionId"] == session
    assert json.loads(answer["response"].read())["response"] == "one from boto3."
    assert data.stop_runtime_session(agentRuntimeArn=runtime["arn"], runtimeSessionId=session)["statusCode"] == 200
    with pytest.raises(ClientError) as caught:
        data.invoke_agent_runtime(
            agentRuntimeArn=runtime["arn"].replace("agent1", "agent9"), runtimeSessionId=session, payload=b"{}"
        )
    assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"
    control = client("bedrock-agentcore-control", f"https://localhost:{host.control_port}", **keys)
    assert control.get_agent_runtime(agentRuntimeId=runtime["id"])["agentRuntimeArn"] == runtime["arn"]
    assert "agent1" in [row["agentRuntimeName"] for row in control.list_agent_runtimes()["agentRuntimes"]]


STORAGE_APP = """
import os
from pathlib import Path
from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()

@app.entrypoint
def invoke(payload):
    notes = Path(os.environ["DUOLOGUE_STORAGE"], "notes")
    with notes.open("a") as file:
        file.write(payload["prompt"])
    return {"notes": notes.read_text(), "pid": os.getpid()}
"""


def test_what_a_session_keeps_is_there_after_it_was_stopped(host: Host, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(STORAGE_APP)
    told = host.run("deploy", str(tmp_path), "--name", "keeper", "--asgi", "app.py:app", "--storage", "/mnt/work")
    assert "Sessions with a storage start cold." in told
    runtime = json.loads(host.control("/agents/keeper"))
    keys = host.access("--role", "invoke", "--role", "observe")
    config = Config(retries={"total_max_attempts": 1}, proxies={})
    data = boto3.client(
        "bedrock-agentcore", endpoint_url=host.url, region_name="us-east-1", verify=host.ca, config=config, **keys
    )
    session = "keeper-session-" + "x" * 30
    aim = {"agentRuntimeArn": runtime["arn"], "runtimeSessionId": session}

    def note(text: str) -> dict[str, Any]:
        answer = data.invoke_agent_runtime(**aim, payload=json.dumps({"prompt": text}).encode())
        found: dict[str, Any] = json.loads(answer["response"].read())
        return found

    first = note("one,")
    assert "uses its storage" in host.run("sessions", "erase", session, ok=2)
    for _ in range(2):  # it is as good as the first time
        assert data.stop_runtime_session(**aim)["statusCode"] == 200
    second = note("two,")
    assert (first["notes"], second["notes"]) == ("one,", "one,two,")
    assert second["pid"] != first["pid"]
    data.stop_runtime_session(**aim)
    host.run("sessions", "erase", session)
    assert note("three")["notes"] == "three"
    control = boto3.client(
        "bedrock-agentcore-control",
        endpoint_url=f"https://localhost:{host.control_port}",
        region_name="us-east-1",
        verify=host.ca,
        config=config,
        **keys,
    )
    got = control.get_agent_runtime(agentRuntimeId=runtime["id"])
    assert got["filesystemConfigurations"] == [{"sessionStorage": {"mountPath": "/mnt/work"}}]


SOCKET_APP = """
from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()

@app.websocket
async def talk(websocket, context):
    await websocket.accept()
    await websocket.send_text(f"{context.session_id} {await websocket.receive_text()}")
    await websocket.close()
"""


@pytest.mark.anyio
async def test_the_unmodified_sdks_helpers_open_websockets(host: Host, tmp_path: Path) -> None:
    """They make the vendor's addresses alone, and `websockets` is given what they make, as the SDK itself does it.

    The host has a certificate of that name; what is not the vendor's is only where the name leads.
    """
    (tmp_path / "echo.py").write_text(SOCKET_APP)
    await asyncio.to_thread(host.run, "deploy", str(tmp_path / "echo.py"), "--asgi", "echo.py:app")
    arn = json.loads(host.control("/agents/echo"))["arn"]
    keys = await asyncio.to_thread(host.access, "--role", "invoke")
    token = await asyncio.to_thread(host.key, "--role", "invoke")
    session = boto3.Session(keys["aws_access_key_id"], keys["aws_secret_access_key"], region_name="us-east-1")
    client = AgentCoreRuntimeClient("us-east-1", session=session)
    trust = ssl.create_default_context(cafile=host.ca)

    async def heard(url: str, headers: dict[str, str] | None = None) -> str | bytes:
        assert url.startswith(f"wss://{VENDOR}/")
        port = int(host.url.rpartition(":")[2])
        async with websockets.connect(
            url, additional_headers=headers, ssl=trust, host="127.0.0.1", port=port, proxy=None
        ) as socket:
            await socket.send("hello")
            return await socket.recv()

    ids = [f"{way}-{'x' * 33}" for way in ("signed", "presigned", "bearer")]
    assert await heard(*client.generate_ws_connection(arn, session_id=ids[0])) == f"{ids[0]} hello"
    assert await heard(client.generate_presigned_url(arn, session_id=ids[1])) == f"{ids[1]} hello"
    assert await heard(*client.generate_ws_connection_oauth(arn, token, session_id=ids[2])) == f"{ids[2]} hello"


@pytest.mark.anyio
async def test_a_long_task_goes_on_without_a_socket_and_delivers_to_the_next(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", host.ca)
    keys = await asyncio.to_thread(host.access, "--role", "invoke")
    client = RuntimeClient(host.url, access_key=keys["aws_access_key_id"], secret_key=keys["aws_secret_access_key"])
    url, headers = client.generate_ws_connection("agent1", "long-task-" + "x" * 30)
    links: list[WebSocketTransport] = []

    async def connector(url: str, headers: Mapping[str, str]) -> Transport:
        link = await websocket(url, headers)
        assert isinstance(link, WebSocketTransport)
        links.append(link)
        return link

    more = additional_headers(headers)
    async with connect(url, headers=more, input_rate=None, output_rate=None, connector=connector) as call:
        await call.send_text("survey please")
        seen: list[AnyEvent] = []
        async for event in call:
            seen.append(event)
            if isinstance(event, ToolStarted):
                links[0]._socket.transport.abort()
            if isinstance(event, ToolFinished):
                break
    assert (len(links), call.resumes) == (2, 1)
    assert "surveyed 5" in str(seen[-1])
    assert len([event for event in seen if isinstance(event, SessionStarted)]) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("tier", ["process", "shared", "cold"])
async def test_a_call_whose_worker_is_killed_goes_on_in_another(
    host: Host, source: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", host.ca)
    await asyncio.to_thread(host.run, "deploy", source("one"), "--name", f"tough_{tier}", "--tier", tier)
    keys = await asyncio.to_thread(host.access, "--role", "invoke")
    client = RuntimeClient(host.url, access_key=keys["aws_access_key_id"], secret_key=keys["aws_secret_access_key"])
    url, headers = client.generate_ws_connection(f"tough_{tier}", f"tough-{tier}-" + "x" * 30)
    async with connect(url, headers=additional_headers(headers), input_rate=16_000, output_rate=24_000) as call:

        async def asked(text: str) -> tuple[int, str]:
            """The process that answers, and what it knows."""
            await call.send_text(text)
            async for event in call:
                if isinstance(event, ResponseFinished) and event.text.startswith("Process"):
                    who, _, known = event.text.removeprefix("Process ").partition(": ")
                    return int(who), known
            raise AssertionError("the call is over")

        first, known = await asked("who")
        assert known == "who."
        os.kill(first, signal.SIGKILL)
        async for event in call:
            if isinstance(event, SessionTakenOver):
                break
        second, known = await asked("who")
        assert known == "who, who."
        assert second != first


@pytest.mark.anyio
async def test_the_unmodified_openai_sdk_talks_with_a_client_secret(host: Host) -> None:
    trust = ssl.create_default_context(cafile=host.ca)
    url = f"{host.url}/runtimes/agent1/v1"
    key = await asyncio.to_thread(host.key, "--role", "invoke")
    async with openai.AsyncOpenAI(
        api_key=key, base_url=url, http_client=openai.DefaultAsyncHttpxClient(verify=trust, trust_env=False)
    ) as client:
        made = await client.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 60},
            session={"type": "realtime", "instructions": "Be brief.", "output_modalities": ["text"]},
        )
        assert made.value.startswith("ek_")
        assert made.session.instructions == "Be brief."  # type: ignore[union-attr]
        with pytest.raises(openai.BadRequestError):
            await client.realtime.client_secrets.create(expires_after={"anchor": "created_at", "seconds": 5})
    secret = made.value
    page = openai.AsyncOpenAI(api_key=secret, base_url=url)
    async with page.realtime.connect(model="any", websocket_connection_options={"ssl": trust, "proxy": None}) as call:
        created = await call.recv()
        assert created.type == "session.created"
        assert (created.session.instructions, created.session.output_modalities) == ("Be brief.", ["text"])  # type: ignore[union-attr]
        await call.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
        )
        await call.response.create()
        async for event in call:
            assert event.type != "error", event
            if event.type == "response.output_text.done" and event.text == "one hello.":  # after the greeting
                break
    await page.close()
    # as a page shows it
    offered = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{secret}")]
    address = f"wss{url.removeprefix('https')}/realtime?model=any"
    async with websockets.connect(address, ssl=trust, subprotocols=offered, proxy=None) as socket:
        assert socket.subprotocol == "realtime"
        assert json.loads(await socket.recv())["session"]["instructions"] == "Be brief."
    # the secret is good for nothing else
    answer = await asyncio.to_thread(invoke, host, secret, "x")
    assert answer.status_code in (401, 403)


def test_a_version_that_does_not_work_moves_nothing_and_a_rollback_goes_back(
    host: Host, source: Callable[[str], str]
) -> None:
    def said(session: str = "") -> str:
        answer: str = invoke(host, key, "it", session=session, runtime="agent2").json()["response"]
        return answer

    host.run("deploy", source("first"), "--name", "agent2")
    key = host.key("--role", "invoke", "--subject", "roller")
    live = "stays-on-its-version-" + "x" * 20
    assert said(live) == "first it."
    host.run("deploy", source("second"), "--name", "agent2")
    broken = Path(source("third"))
    broken.write_text("import nothing_like_it\n")
    assert "nothing_like_it" in host.run("deploy", str(broken), "--name", "agent2", ok=2)
    assert (said(), said(live)) == ("second it.", "first it.")
    host.run("rollback", "agent2")
    assert (said(), said(live)) == ("first it.", "first it.")
    assert "failed" in host.run("versions", "agent2")


def test_one_host_has_a_data_directory(host: Host) -> None:
    said = host.run("host", "--port", "0", "--single", ok=2)
    assert "running with" in said


def test_what_a_user_gets_wrong_is_said_in_a_sentence(host: Host, tmp_path: Path) -> None:
    """Exit code 2 (1: the call failed), no traceback, and what to do."""
    url = f"wss{host.url.removeprefix('https')}/runtimes/agent1/ws"
    trust = {"SSL_CERT_FILE": host.ca, "COLUMNS": "200"}
    observer, good = host.key("--role", "observe"), host.key("--role", "invoke")
    (tmp_path / "syntax.py").write_text("def (\n")
    for words, ok, environment, said in (
        (("sessions", "show", "nosuch"), 2, {}, "There is no session 'nosuch'. `duologue sessions list`"),
        (("sessions", "stop", "n" * 33), 2, {}, "There is no session"),
        (("sessions", "tail", "../agents"), 2, {}, "There is no session"),
        (("keys", "secret", "empty"), 2, {}, "would be empty"),
        (("keys", "revoke", "nosuch"), 2, {}, "There is no key 'nosuch'"),
        (("rollback", "agent9"), 2, {}, "There is no agent 'agent9'"),
        (("invoke", "agent1", "{}", "--session", "short"), 2, {}, "greater than or equal to 33"),
        (("deploy", str(tmp_path / "none.py")), 2, {}, "There is no file or folder"),
        (("deploy", str(tmp_path / "syntax.py"), "--name", "bad name"), 2, {}, "no name for a runtime"),
        (("deploy", str(tmp_path / "syntax.py"), "--command", "a 'b"), 2, {}, "--command cannot be read"),
        (("deploy", str(tmp_path / "syntax.py")), 2, {}, "Importing syntax.py fails"),
        (("call", url), 1, {**trust, "DUOLOGUE_KEY": "wrong"}, "answered 40"),
        (("call", url), 1, {**trust, "DUOLOGUE_KEY": observer}, "answered 403: "),
        (("call", url.replace("agent1", "agent9")), 1, {**trust, "DUOLOGUE_KEY": good}, "answered 404: "),
        (("call", url), 1, {"DUOLOGUE_KEY": good}, "is not trusted: "),
    ):
        told = host.run(*words, ok=ok, **environment)
        assert said in told, (words, told)
        assert "Traceback" not in told
        assert str(host.data / "versions") not in told


@pytest.mark.anyio
async def test_who_joins_with_a_ticket_meets_an_agent_that_was_told_of_them(host: Host, tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(
        "from duologue import Agent\nfrom duologue.testing.scripted import Reply, ScriptedModel\n"
        "def agent(call):\n"
        "    model = ScriptedModel((), lambda text, context: Reply(text='Yes.'))\n"
        "    return Agent(model=model, greeting=f\"Hello {call.metadata['who']}.\")\n"
    )
    await asyncio.to_thread(host.run, "deploy", str(tmp_path / "told.py"), "--entry", "told.py:agent")
    transport = httpx.AsyncHTTPTransport(uds=str(host.data / "control.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as control:
        body = {"agent": "told", "metadata": {"who": "Ada"}}
        started = (await control.post("/sessions", json=body)).raise_for_status().json()
    url = f"{started['url']}&ticket={started['ticket']}"
    said = await asyncio.to_thread(host.run, "call", url, lines="hello\n", SSL_CERT_FILE=host.ca)
    assert "Hello Ada." in said
    assert "answered 403: " in await asyncio.to_thread(host.run, "call", url, ok=1, SSL_CERT_FILE=host.ca)


TOLD_APP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

def told(connection):
    return connection.headers.getlist("x-duologue-session-metadata")

async def ping(request):
    return JSONResponse({"status": "Healthy"})

async def invocations(request):
    return JSONResponse(told(request))

async def ws(socket):
    await socket.accept()
    await socket.send_json(told(socket))
    await socket.close()

app = Starlette(
    routes=[Route("/ping", ping), Route("/invocations", invocations, methods=["POST"]), WebSocketRoute("/ws", ws)]
)
"""


@pytest.mark.anyio
async def test_a_foreign_app_is_told_of_its_session_by_the_host_alone(host: Host, tmp_path: Path) -> None:
    (tmp_path / "informed.py").write_text(TOLD_APP)
    deploy = ("deploy", str(tmp_path / "informed.py"), "--asgi", "informed.py:app")
    for name in ("X-Duologue-Session-Metadata", "X_Duologue_Session_Metadata"):
        assert "cannot be listed" in await asyncio.to_thread(host.run, *deploy, "--header", name, ok=2)
    await asyncio.to_thread(host.run, *deploy)
    key = {"authorization": f"Bearer {await asyncio.to_thread(host.key, '--role', 'invoke')}"}
    metadata = {"who": "Zoë", "plan": [1, None]}
    compact = json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()
    told = [base64.urlsafe_b64encode(compact).decode().rstrip("=")]
    trust = ssl.create_default_context(cafile=host.ca)
    control = f"https://localhost:{host.control_port}"
    async with httpx.AsyncClient(verify=trust, trust_env=False, timeout=60) as client:
        body = {"agent": "informed", "metadata": metadata}
        started = (await client.post(f"{control}/sessions", json=body, headers=key)).raise_for_status().json()
        for session, expected in ((started["session"], told), ("n" * 40, [])):
            headers = {**key, SESSION: session, "X-Duologue-Session-Metadata": "Zm9yZ2Vk"}
            for url in (f"{host.url}/runtimes/informed/invocations", f"{control}/agents/informed/invocations"):
                assert (await client.post(url, json={}, headers=headers)).raise_for_status().json() == expected
            url = f"wss{host.url.removeprefix('https')}/runtimes/informed/ws"
            async with websockets.connect(url, additional_headers=headers, ssl=trust, proxy=None) as socket:
                assert json.loads(await socket.recv()) == expected


def test_secrets_reach_the_agent_and_nothing_else(host: Host, tmp_path: Path) -> None:
    (tmp_path / "reads.py").write_text(
        AGENT.replace(
            'Reply(text=f"VERSION {text}.")', 'Reply(text="known" if get("crm") == "hush" else "unknown")'
        ).replace("import asyncio", "import asyncio\nfrom duologue.secrets import get", 1)
    )
    host.run("keys", "secret", "crm", lines="hush\n")
    host.run("deploy", str(tmp_path / "reads.py"), "--name", "agent3", "--secret", "crm")
    assert json.loads(host.run("invoke", "agent3", '{"prompt": "x"}'))["response"] == "known"
    assert "hush" not in host.control("/agents/agent3/versions") + host.control("/audit") + host.control("/secrets")


def test_in_one_process_a_host_serves_and_ends_too(
    tmp_path_factory: pytest.TempPathFactory, source: Callable[[str], str]
) -> None:
    made = Host(tmp_path_factory.mktemp("s"), "--single", "--drain-s", "1")
    try:
        made.run("deploy", source("single"), "--name", "alone")
        assert invoke(made, made.key(), "x", runtime="alone").json()["response"] == "single x."
    finally:
        said = made.end()
    assert made.process.returncode == 0, said
