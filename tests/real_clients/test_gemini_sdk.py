"""The vendor's own SDK, unmodified and over TLS, against a served agent and a served model."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import websockets
from google import genai
from google.genai import errors, types
from websockets.asyncio.server import ServerConnection

from duologue import Agent, tool
from duologue.models import GeminiLive
from duologue.models.base import Setup
from duologue.models.gemini_transport import address
from duologue.serve import RunningServer, ServeOptions, serving
from duologue.tools.base import ToolSpec
from duologue.wire.gemini_live import ClientMessage, ServerLimits
from duologue.wire.gemini_live.form import decode
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo, session_of, speech

pytestmark = pytest.mark.anyio

MODEL = "gemini-2.5-flash-native-audio-preview-12-2025"
RATE = 16_000
CONFIG: dict[str, Any] = {
    "response_modalities": ["AUDIO"],
    "input_audio_transcription": {},
    "output_audio_transcription": {},
    "session_resumption": {},
}
WEATHER = {
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]},
}
TIME = {"name": "get_time", "description": "The time."}


@tool
def get_weather(city: str) -> str:
    """The weather."""
    return f"rain in {city}"


@asynccontextmanager
async def served(directory: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[RunningServer]:
    """An agent (or, with `as_model`, a model) behind TLS that this process trusts."""
    agent = Agent(model=Scripted(UTTERANCES, echo, rate=RATE), tools=[get_weather], name="sdk")
    given = ServeOptions(port=0, studio=False, tls=True, certificate_directory=str(directory), **options)
    async with serving(agent, given) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
        yield server


@asynccontextmanager
async def connected(
    server: RunningServer, *, key: str = "unused", version: str | None = None, **config: Any
) -> AsyncIterator[Any]:
    options = types.HttpOptions(base_url=server.url, api_version=version)
    client = genai.Client(api_key=key, http_options=options)
    async with client.aio.live.connect(model=MODEL, config={**CONFIG, **config}) as session:
        yield session


class Turn:
    """What a client makes of the messages up to the end of a turn."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.heard = self.said = ""
        self.audio = b""
        self.handles: list[str] = []
        self.calls: list[Any] = []
        self.cancelled: list[str] = []
        self.interrupted = False
        self.usage: Any = None

    async def read(self, session: Any, until_call: bool = False) -> Turn:
        async with asyncio.timeout(20):
            async for message in session.receive():
                self.take(message)
                if until_call and self.calls:
                    return self
        return self

    def take(self, message: Any) -> None:
        self.messages.append(message)
        content = message.server_content
        if content is not None:
            self.heard += (content.input_transcription and content.input_transcription.text) or ""
            self.said += (content.output_transcription and content.output_transcription.text) or ""
            self.interrupted = self.interrupted or bool(content.interrupted)
        self.audio += message.data or b""
        if message.session_resumption_update is not None and message.session_resumption_update.new_handle:
            self.handles.append(message.session_resumption_update.new_handle)
        if message.tool_call is not None:
            self.calls.extend(message.tool_call.function_calls)
        if message.tool_call_cancellation is not None:
            self.cancelled.extend(message.tool_call_cancellation.ids)
        self.usage = message.usage_metadata or self.usage


async def speak(session: Any, utterance: int, seconds: float = 1.0, silence: float = 1.2) -> None:
    """Send speech, and the silence after it, faster than real time."""
    pcm = speech(utterance, seconds, RATE) + bytes(int(silence * RATE) * 2)
    for at in range(0, len(pcm), 3200):
        blob = types.Blob(data=pcm[at : at + 3200], mime_type="audio/pcm;rate=16000")
        await session.send_realtime_input(audio=blob)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "tls"


# ---------------------------------------------------------------------- a served agent


async def test_speech_is_heard_answered_and_transcribed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(directory, monkeypatch) as server, connected(server) as session:
        assert session.session_id
        await speak(session, 1)
        turn = await Turn().read(session)
        assert (turn.heard, turn.said) == ("hello there", "You said hello there.")
        assert len(turn.audio) == 2 * int(len("You said hello there.") / 15 * 24_000)
        last = turn.messages[-1].server_content
        assert last.turn_complete
        assert any(message.server_content and message.server_content.generation_complete for message in turn.messages)
        await session.send_realtime_input(text="typed")
        turn = await Turn().read(session)
        assert turn.said == "You said typed."
        assert turn.heard == "", "what was typed is not transcribed"


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
async def test_each_version_of_the_path(directory: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    async with served(directory, monkeypatch) as server, connected(server, version=version) as session:
        await session.send_client_content(turns=types.Content(role="user", parts=[types.Part(text="hi")]))
        assert (await Turn().read(session)).said == "You said hi."


async def test_a_barge_in_interrupts_and_ends_the_turn(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(directory, monkeypatch) as server, connected(server) as session:
        await session.send_realtime_input(text="a story")
        turn = Turn()
        async with asyncio.timeout(20):
            while "number 8" not in turn.said:  # all of it has been made, and next to nothing played
                turn.take(await session._receive())
        await speak(session, 4)
        await turn.read(session)
        assert turn.interrupted
        assert (await Turn().read(session)).said == "You said stop please."
        told = [item.text for item in session_of(server).history]
        assert not any("number 3" in text for text in told), "what nobody heard was not said"


async def test_the_agent_runs_its_own_tools(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(directory, monkeypatch) as server, connected(server) as session:
        await session.send_realtime_input(text="the weather")
        turn = await Turn().read(session)
        assert turn.said == "It is rain in Oslo."
        assert not turn.calls


async def test_a_picture_that_the_model_cannot_take_costs_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(directory, monkeypatch) as server, connected(server) as session:
        await session.send_realtime_input(video=types.Blob(data=b"\xff\xd8\xff\xe0", mime_type="image/jpeg"))
        await session.send_realtime_input(text="typed")
        assert (await Turn().read(session)).said == "You said typed."


# ---------------------------------------------------------------------- a served model


async def test_tool_calls_go_to_the_client(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = [{"function_declarations": [WEATHER, TIME]}]
    async with (
        served(directory, monkeypatch, as_model=True) as server,
        connected(server, tools=tools, system_instruction="Be brief.") as session,
    ):
        await session.send_realtime_input(text="both")
        turn = await Turn().read(session, until_call=True)
        assert [(call.name, call.args) for call in turn.calls] == [("get_weather", {"city": "Oslo"}), ("get_time", {})]
        assert sum(message.tool_call is not None for message in turn.messages) == 1, "parallel calls come together"
        responses = [
            types.FunctionResponse(id=call.id, name=call.name, response={"output": f"{call.name} done"})
            for call in turn.calls
        ]
        await session.send_tool_response(function_responses=responses)
        assert (await Turn().read(session)).said == "It is get_time done."
        live = session_of(server)
        assert live.setup().instructions == "Be brief."
        (weather, _) = live.setup().tools
        assert weather.parameters["properties"] == {"city": {"type": "string"}}


async def test_a_call_is_withdrawn_when_the_user_takes_the_floor(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manual = {"automatic_activity_detection": {"disabled": True}}
    async with (
        served(directory, monkeypatch, as_model=True) as server,
        connected(server, tools=[{"function_declarations": [WEATHER]}], realtime_input_config=manual) as session,
    ):
        await session.send_realtime_input(text="weather")
        turn = await Turn().read(session, until_call=True)
        await session.send_realtime_input(activity_start={})
        await turn.read(session)
        assert turn.interrupted
        assert turn.cancelled == [call.id for call in turn.calls]
        await speak(session, 1, silence=0.2)
        await session.send_realtime_input(activity_end={})
        answer = await Turn().read(session)
        assert answer.said.startswith("You said")
        late = types.FunctionResponse(id=turn.calls[0].id, name="get_weather", response={"output": "late"})
        await session.send_tool_response(function_responses=[late])
        await session.send_realtime_input(text="after")
        assert (await Turn().read(session)).said == "You said after."


async def test_a_session_is_resumed_by_its_handle(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = ServerLimits(connection_s=3.0, notice_s=2.0)
    async with served(directory, monkeypatch, as_model=True, gemini=limits) as server:
        async with connected(server) as session:
            await session.send_realtime_input(text="first")
            turn = await Turn().read(session)
            with pytest.raises(errors.APIError, match="1011"):
                await turn.read(session)
            warned = [message.go_away.time_left for message in turn.messages if message.go_away is not None]
            assert warned == ["2s"]
        handle = turn.handles[-1]
        async with connected(server, session_resumption={"handle": handle}) as session:
            await session.send_realtime_input(text="second")
            assert (await Turn().read(session)).said == "You said second."
            texts = [item.text for item in session_of(server).history]
            assert texts == ["first", "You said first.", "second", "You said second."]


async def test_the_context_may_be_changed_in_mid_session(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(directory, monkeypatch, as_model=True) as server, connected(server) as session:
        await session.send_context_update(system_instruction="New.", tools=[{"function_declarations": [TIME]}])
        await session.send_realtime_input(text="typed")
        await Turn().read(session)
        setup = session_of(server).setup()
        assert setup.instructions == "New."
        assert [spec.name for spec in setup.tools] == ["get_time"]


async def test_text_answers(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        served(directory, monkeypatch, as_model=True) as server,
        connected(server, response_modalities=["TEXT"]) as session,
    ):
        turns = [
            types.Content(role="user", parts=[types.Part(text="before")]),
            types.Content(role="model", parts=[types.Part(text="indeed")]),
            types.Content(role="user", parts=[types.Part(text="now")]),
        ]
        await session.send_client_content(turns=turns)
        turn = await Turn().read(session)
        assert "".join(message.text or "" for message in turn.messages) == "You said now."
        assert [item.text for item in session_of(server).history] == ["before", "indeed", "now", "You said now."]


# ---------------------------------------------------------------------- refusals


async def test_a_wrong_key_is_refused_as_the_service_does(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(directory, monkeypatch, key="sesame") as server:
        with pytest.raises(errors.APIError, match="API key not valid"):
            async with connected(server, key="wrong"):
                pass
        async with connected(server, key="sesame") as session:
            assert session.session_id


async def test_a_setup_that_cannot_be_is_refused_with_the_reason(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(directory, monkeypatch) as server:
        with pytest.raises(errors.APIError, match="1007"):
            async with connected(server, temperature=9.0):
                pass
        with pytest.raises(errors.APIError, match="handle"):
            async with connected(server, session_resumption={"handle": "never given"}):
                pass


async def test_a_message_that_cannot_be_closes_only_its_own_link(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(directory, monkeypatch) as server, connected(server) as other:
        async with connected(server) as session:
            await session.send_realtime_input(activity_start={})
            with pytest.raises(errors.APIError, match="Explicit activity control"):
                await Turn().read(session)
        await other.send_realtime_input(text="still here")
        assert (await Turn().read(other)).said == "You said still here."


# ---------------------------------------------------------------------- our own socket, held to the SDK


async def test_our_socket_and_setup_are_the_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK keeps its socket to itself. What it sends to open one, and as setup, ours sends too."""
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    async def record(connection: ServerConnection) -> None:
        assert connection.request is not None
        headers = {name.lower(): value for name, value in connection.request.headers.raw_items()}
        first = json.loads(await connection.recv())
        seen.append((connection.request.path, headers, first))
        await connection.send(b'{"setupComplete":{}}')
        await connection.wait_closed()

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    declaration = types.FunctionDeclaration(
        name="get_weather",
        description="The weather.",
        parameters=types.Schema.model_validate(WEATHER["parameters"]),
        behavior=types.Behavior.NON_BLOCKING,
    )
    with authority.cert_pem.tempfile() as ca:
        monkeypatch.setenv("SSL_CERT_FILE", ca)
        async with websockets.serve(record, "localhost", 0, ssl=context) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            base = f"https://localhost:{port}"
            client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=base, api_version="v1beta"))
            config = types.LiveConnectConfig(
                response_modalities=[types.Modality.AUDIO],
                temperature=0.5,
                top_p=0.9,
                top_k=40,
                max_output_tokens=512,
                seed=7,
                media_resolution=types.MediaResolution.MEDIA_RESOLUTION_LOW,
                thinking_config=types.ThinkingConfig(thinking_budget=0),
                speech_config=types.SpeechConfig(
                    voice_config=types.VoiceConfig(prebuilt_voice_config=types.PrebuiltVoiceConfig(voice_name="Kore")),
                    language_code="en-US",
                ),
                system_instruction="Be brief.",
                tools=[types.Tool(function_declarations=[declaration])],
                session_resumption=types.SessionResumptionConfig(handle="h-1"),
                context_window_compression=types.ContextWindowCompressionConfig(
                    trigger_tokens=20000, sliding_window=types.SlidingWindow(target_tokens=9000)
                ),
                input_audio_transcription=types.AudioTranscriptionConfig(),
                output_audio_transcription=types.AudioTranscriptionConfig(),
                realtime_input_config=types.RealtimeInputConfig(
                    automatic_activity_detection=types.AutomaticActivityDetection(
                        disabled=False, silence_duration_ms=300
                    ),
                    activity_handling=types.ActivityHandling.NO_INTERRUPTION,
                    turn_coverage=types.TurnCoverage.TURN_INCLUDES_ALL_INPUT,
                ),
                proactivity=types.ProactivityConfig(proactive_audio=True),
                enable_affective_dialog=True,
            )
            async with client.aio.live.connect(model=MODEL, config=config):
                pass
            ours = GeminiLive(
                model=MODEL,
                api_key="k",
                base_url=base,
                voice="Kore",
                language_code="en-US",
                temperature=0.5,
                top_p=0.9,
                top_k=40,
                max_output_tokens=512,
                seed=7,
                media_resolution="MEDIA_RESOLUTION_LOW",
                thinking={"thinking_budget": 0},
                automatic_activity_detection={"silence_duration_ms": 300},
                activity_handling="NO_INTERRUPTION",
                turn_coverage="TURN_INCLUDES_ALL_INPUT",
                context_window_compression={"trigger_tokens": 20000, "sliding_window": {"targetTokens": 9000}},
                proactive_audio=True,
                enable_affective_dialog=True,
            )
            spec = ToolSpec(name="get_weather", description="The weather.", parameters=parameters)
            transport = await ours.transport()
            setup = ours.setup(Setup(instructions="Be brief.", tools=(spec,)), "h-1")
            from duologue.wire.gemini_live.messages import encode

            await transport.send(encode(ClientMessage(setup=setup)).decode())
            assert json.loads(await transport.receive()) == {"setupComplete": {}}
            await transport.close()
    (path, headers, theirs), (our_path, our_headers, our_first) = seen
    assert our_path == path
    assert our_headers["x-goog-api-key"] == headers["x-goog-api-key"] == "k"
    assert "google-genai" in headers["user-agent"], "the first one was the SDK"
    assert decode(json.dumps(our_first), ClientMessage) == decode(json.dumps(theirs), ClientMessage)


async def test_the_sdk_and_we_look_for_the_key_in_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "second")
    monkeypatch.setenv("GOOGLE_API_KEY", "first")
    assert genai.Client()._api_client.api_key == "first"
    seen: list[str] = []

    async def record(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request.headers["x-goog-api-key"])

    async with websockets.serve(record, "127.0.0.1", 0) as server:
        base = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        for _ in range(2):
            await (await GeminiLive(base_url=base).transport()).close()
            monkeypatch.delenv("GOOGLE_API_KEY")
            monkeypatch.setenv("GOOGLE_API_KEY", "")
    assert seen == ["first", "second"]
    assert address(None, "v1", "k")[0].startswith("wss://generativelanguage.googleapis.com/ws/")
