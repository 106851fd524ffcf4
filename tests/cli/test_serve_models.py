"""`duologue serve` for models, scripts and the providers' protocols: what it says, and that the vendors' clients find it so."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from google import genai
from google.genai import errors, types

from duologue.cli import main
from duologue.testing.script_model import tone
from tests.cli.agents import SCRIPTED
from tests.serve.h2_client import H2Client
from tests.serve.test_nova_http import BEGIN, PATH, events_of, frames, pcm
from tests.wire.nova_events import text

type Out = pytest.CaptureFixture[str]

SCRIPT = """
turns: [what is the weather]
replies:
  - when: "*weather*"
    call: {get_weather: {city: Oslo}}
  - when: "result:get_weather"
    say: "It is {result}."
  - say: Pardon?
"""
CONFIG: Any = {"response_modalities": ["AUDIO"], "output_audio_transcription": {}}


class Served:
    """`duologue serve` in a process of its own, until the end of the block. `said` is what it says when it is ready."""

    def __init__(self, home: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "duologue.cli", "serve", "--port", "0", "--no-page", *arguments]
        self.said = ""
        environment = {**os.environ, "XDG_CACHE_HOME": str(home), "NO_COLOR": "1"}
        self._process = subprocess.Popen(command, cwd=home, env=environment, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Served:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said += line
            if line.startswith("Served as"):
                return self
        raise AssertionError(f"The server did not start: {self.said}")

    def __exit__(self, *exc: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(30) == 130
        assert self._process.stderr is not None
        self._process.stderr.close()

    def find(self, pattern: str) -> str:
        """What a pattern's group matches in what was said."""
        found = re.search(pattern, self.said)
        assert found is not None, self.said
        return found[1]


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "call.yaml"
    path.write_text(SCRIPT)
    return str(path)


# ---------------------------------------------------------------------- scripts and models, to the vendors' clients


@pytest.mark.anyio
async def test_a_script_is_a_model_of_each_protocol_at_the_addresses_that_are_said(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Served(tmp_path, "--script", script, "--tls", "--nova-port", "0") as server:
        assert "Served as a model" in server.said
        authority = server.find(r"SSL_CERT_FILE=(\S+)")
        monkeypatch.setenv("SSL_CERT_FILE", authority)
        await _openai(server.find(r'AsyncOpenAI\(base_url="([^"]+)"'))
        await _gemini(server.find(r'HttpOptions\(base_url="([^"]+)"'))
        await _nova(server.find(r'endpoint_uri="([^"]+)"'), Path(authority))


async def _openai(url: str) -> None:
    """A spoken turn, a call that the client answers, and what is said then."""
    client = openai.AsyncOpenAI(api_key="any", base_url=url)
    said = ""
    async with client.realtime.connect(model="any") as connection:
        weather: Any = {"type": "function", "name": "get_weather", "description": "d", "parameters": {"type": "object"}}
        await connection.session.update(session={"type": "realtime", "tools": [weather]})
        spoken = tone(1.0) + bytes(96_000)
        for at in range(0, len(spoken), 9600):
            await connection.input_audio_buffer.append(audio=base64.b64encode(spoken[at : at + 9600]).decode())
        async for event in connection:
            if event.type == "response.function_call_arguments.done":
                assert json.loads(event.arguments) == {"city": "Oslo"}
                output: Any = {"type": "function_call_output", "call_id": event.call_id, "output": "rain"}
                await connection.conversation.item.create(item=output)
                await connection.response.create()
            elif event.type == "response.output_audio_transcript.done":
                said = event.transcript
                break
    await client.close()
    assert said == "It is rain."


async def _gemini(url: str) -> None:
    client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=url))
    async with client.aio.live.connect(model="any", config=CONFIG) as session:
        await session.send_realtime_input(text="hm")
        said = [
            message.server_content.output_transcription.text
            async for message in session.receive()
            if message.server_content and message.server_content.output_transcription
        ]
    assert "".join(filter(None, said)) == "Pardon?"


async def _nova(url: str, authority: Path) -> None:
    client = await H2Client.connect(url, authority)
    stream = client.request(PATH)
    client.data(stream, frames(*BEGIN, pcm(bytes(6400)), *text("t", "USER", "hm", interactive=True)))
    while not any(body.get("stopReason") == "END_TURN" for _, body in events_of(stream.body)):
        stream.changed.clear()
        await stream.changed.wait()
    said = {body["content"] for name, body in events_of(stream.body) if name == "textOutput"}
    await client.close()
    assert "Pardon?" in said


@pytest.mark.anyio
async def test_faults_and_limits_reach_the_client(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = ("--fault", "go-away*1=0.2@0.1", "--fault", "exception*2=invalid@0.1", "--limit", "1.5")
    with Served(tmp_path, "--script", script, "--tls", "--no-nova", *faults) as server:
        assert "not served (--no-nova)" in server.said
        monkeypatch.setenv("SSL_CERT_FILE", server.find(r"SSL_CERT_FILE=(\S+)"))
        url = server.find(r'HttpOptions\(base_url="([^"]+)"')
        for code in ("1007", "1007", "1011"):  # the exception strikes two links, the limit all of them
            client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=url))
            async with client.aio.live.connect(model="any", config=CONFIG) as session:
                with pytest.raises(errors.APIError, match=code):
                    async for _ in session.receive():
                        pass


@pytest.mark.anyio
async def test_an_agent_is_served_to_the_vendors_clients_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SCRIPTED)
    with Served(tmp_path, "app.py", "--key", "sesame") as server:
        assert "Served as an agent" in server.said
        assert "add --tls" in server.said, "google-genai connects in no other way"
        assert "access key: duologue" in server.said
        url = server.find(r'AsyncOpenAI\(base_url="([^"]+)"')
        with pytest.raises(openai.AuthenticationError):
            await openai.AsyncOpenAI(api_key="wrong", base_url=url).post("/realtime/client_secrets", cast_to=object)
        client = openai.AsyncOpenAI(api_key="sesame", base_url=url)
        async with client.realtime.connect(model="any") as connection:
            assert (await connection.recv()).type == "session.created"
        nova = server.find(r'endpoint_uri="([^"]+)"')
        h2 = await H2Client.connect(nova, Path(server.find(r"SSL_CERT_FILE=(\S+)")))
        stream = h2.request(PATH, end=True)
        await stream.ended.wait()
        assert (stream.status, stream.headers["x-amzn-errortype"]) == (403, "MissingAuthenticationTokenException")
        await h2.close()


def test_the_local_model_is_served_alone(tmp_path: Path) -> None:
    with Served(tmp_path, "--model", "local") as server:
        assert "Served as a model" in server.said
        context = ssl.create_default_context(cafile=server.find(r"SSL_CERT_FILE=(\S+)"))
        assert context.get_ca_certs()


# ---------------------------------------------------------------------- what cannot work


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "One thing is served"),
        (["app.py", "--model", "local"], "One thing is served"),
        (["--model", "nova"], "nova-sonic"),
        (["--model", "parrot"], "local, nova-sonic, openai-realtime, gemini-live"),
        (["--script", "nothing.yaml"], "nothing.yaml cannot be read"),
        (["--model", "local", "--fault", "explode"], "'explode' is no fault"),
        (["--model", "local", "--nova-key", "half"], "ID=SECRET"),
        (["--model", "local", "--reload"], "--reload watches an app"),
        (["--model", "local", "--certificate", "cert.pem"], "A certificate needs its key"),
    ],
)
def test_what_cannot_work_is_said_and_exits_with_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *arguments]) == 2
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
    assert "Traceback" not in shown.out + shown.err


def test_a_script_without_its_package_says_how_to_get_it(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["serve", "--script", script]) == 2
    assert "duologue[script]" in capsys.readouterr().err
