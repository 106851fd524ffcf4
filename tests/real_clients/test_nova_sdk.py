"""The AWS SDK, unmodified, as a client of our server; and NovaSonic through the SDK, over real TLS and HTTP/2."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from duologue import Agent, tool
from duologue.channels.program import Program
from duologue.engine.limits import LimitOptions
from duologue.errors import (
    CredentialsError,
    DuologueError,
    ModelConnectionError,
    ModelThrottledError,
)
from duologue.events import (
    AudioInput,
    ConnectionLost,
    ConnectionRotated,
    Event,
    ResponseAudio,
    ResponseFinished,
    ToolFinished,
    TurnCommitted,
)
from duologue.models import NovaSonic
from duologue.models.refusals import MissingCredentialsError, RegionError, UnknownModelError
from duologue.models.transport import TransportClosedError
from duologue.wire.nova_sonic import StreamLimits, inputs
from tests.real_clients.nova_server import KEY, RATE, SECRET, nova, use_credentials
from tests.real_clients.scripted_server import speech
from tests.wire.nova_events import PROMPT, PROMPT_START, START, end, open_audio, text, tool_result

pytestmark = pytest.mark.anyio
#: longest that anything here may take, seconds
PATIENCE = 20


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


# ---------------------------------------------------------------------- the vendor's client


class SdkClient:
    """A conversation in the SDK's own words, as its users write it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._output: Any = None

    @classmethod
    async def connect(cls, url: str, model: str = "amazon.nova-2-sonic-v1:0", secret: str = SECRET) -> SdkClient:
        from aws_sdk_bedrock_runtime.client import AsyncBedrockRuntimeClient
        from aws_sdk_bedrock_runtime.config import AsyncBedrockRuntimeConfig
        from aws_sdk_bedrock_runtime.models import InvokeModelWithBidirectionalStreamOperationInput
        from smithy_http.aio.crt import AWSCRTHTTPClient

        config = await AsyncBedrockRuntimeConfig.resolve(
            endpoint_uri=url,
            region="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=secret,
            transport=AWSCRTHTTPClient(),
        )
        client = AsyncBedrockRuntimeClient(config=config)
        stream = await client.invoke_model_with_bidirectional_stream(
            InvokeModelWithBidirectionalStreamOperationInput(model_id=model)
        )
        return cls(stream)

    async def send(self, *events: dict[str, Any]) -> None:
        from aws_sdk_bedrock_runtime.models import (
            BidirectionalInputPayloadPart,
            InvokeModelWithBidirectionalStreamInputChunk,
        )

        for event in events:
            part = BidirectionalInputPayloadPart(bytes_=json.dumps({"event": event}).encode())
            await self.stream.input_stream.send(InvokeModelWithBidirectionalStreamInputChunk(value=part))

    async def say(self, pcm: bytes) -> None:
        import base64

        for at in range(0, len(pcm), 1024):
            content = base64.b64encode(pcm[at : at + 1024]).decode()
            await self.send({"audioInput": {"promptName": PROMPT, "contentName": "a1", "content": content}})

    async def receive(self) -> tuple[str, dict[str, Any]] | None:
        async with asyncio.timeout(PATIENCE):
            if self._output is None:
                self._output = (await self.stream.await_output())[1]
            event = await self._output.receive()
        if event is None:
            return None
        name, body = next(iter(json.loads(event.value.bytes_)["event"].items()))
        self.events.append((name, body))
        return name, body

    async def until(self, name: str, **fields: Any) -> dict[str, Any]:
        while (got := await self.receive()) is not None:
            if got[0] == name and all(got[1].get(key) == value for key, value in fields.items()):
                return got[1]
        raise AssertionError(f"no {name} came, only {[entry[0] for entry in self.events]}")

    async def close(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.stream.close()


TOOLS = {
    "toolUseOutputConfiguration": {"mediaType": "application/json"},
    "toolConfiguration": {
        "tools": [
            {
                "toolSpec": {
                    "name": "get_weather",
                    "description": "d",
                    "inputSchema": {"json": json.dumps({"type": "object", "properties": {"city": {"type": "string"}}})},
                }
            }
        ]
    },
}
BEGIN = (
    START,
    {"promptStart": {**PROMPT_START["promptStart"], **TOOLS}},
    *text("s1", "SYSTEM", "Be brief."),
    *text("h1", "USER", "My name is Ada."),
    *text("h2", "ASSISTANT", "Hello Ada."),
    open_audio(),
)


async def test_a_conversation_with_the_sdk(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with nova(patch, tmp_path) as server:
        client = await SdkClient.connect(server.url)
        await client.send(*BEGIN)
        await client.say(speech(1, 1.0, RATE) + speech(0, 1.0, RATE))
        said = await client.until("textOutput", role="USER")
        assert said["content"] == "hello there"
        await client.until("contentEnd", type="AUDIO", stopReason="END_TURN")
        names = [name for name, _ in client.events]
        assert names.index("userSpeechStart") < names.index("userSpeechEnd") < names.index("audioOutput")
        plan = next(body for name, body in client.events if name == "textOutput" and body["role"] == "ASSISTANT")
        assert plan["content"] == "You said hello there."
        # The whole answer was sent at once; what was said is told only when it has been heard.
        record = await client.until("contentStart", type="TEXT", role="ASSISTANT")
        assert "FINAL" in record["additionalModelFields"]
        (call,) = server.server.sessions._calls.values()
        history = [item.text for item in call.session.history]
        assert history[:2] == ["My name is Ada.", "Hello Ada."]
        await client.send(end("a1"), {"promptEnd": {"promptName": PROMPT}}, {"sessionEnd": {}})
        await client.until("completionEnd")
        assert await client.receive() is None
        await client.close()


async def test_tools_go_back_to_the_client(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with nova(patch, tmp_path) as server:
        client = await SdkClient.connect(server.url)
        await client.send(*BEGIN)
        await client.say(speech(3, 1.0, RATE) + speech(0, 1.0, RATE))
        use = await client.until("toolUse")
        assert (use["toolName"], json.loads(use["content"])) == ("get_weather", {"city": "Oslo"})
        await client.until("contentEnd", type="TOOL", stopReason="TOOL_USE")
        await client.send(*tool_result(use["toolUseId"], json.dumps("rain")))
        plan = await client.until("textOutput", role="ASSISTANT")
        assert "rain" in plan["content"]
        await client.close()


async def test_text_beside_the_audio(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with nova(patch, tmp_path) as server:
        client = await SdkClient.connect(server.url)
        await client.send(*BEGIN)
        await client.say(speech(0, 0.2, RATE))
        await client.send(*text("t1", "USER", "typed words", interactive=True))
        assert (await client.until("textOutput", role="ASSISTANT"))["content"] == "You said typed words."
        await client.close()


async def test_barge_in_is_told_to_the_sdk(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with nova(patch, tmp_path) as server:
        client = await SdkClient.connect(server.url)
        await client.send(*BEGIN)
        await client.say(speech(2, 1.0, RATE) + speech(0, 1.0, RATE))
        await client.until("contentEnd", type="AUDIO", stopReason="END_TURN")
        await client.say(speech(4, 1.0, RATE) + speech(0, 1.0, RATE))
        mark = await client.until("textOutput", content='{ "interrupted" : true }')
        assert mark["role"] == "ASSISTANT"
        await client.until("contentEnd", stopReason="INTERRUPTED")
        assert (await client.until("textOutput", role="USER"))["content"] == "stop please"
        await client.close()


async def test_an_agent_is_served_with_its_own_tools_and_greeting(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo

    @tool
    async def get_weather(city: str) -> str:
        """The weather."""
        return "snow"

    agent = Agent(model=Scripted(UTTERANCES, echo, rate=RATE), tools=[get_weather], greeting="Welcome.")
    async with nova(patch, tmp_path, as_model=False, agent=agent) as server:
        client = await SdkClient.connect(server.url)
        await client.send(*BEGIN)
        assert (await client.until("textOutput", role="ASSISTANT"))["content"] == "Welcome."
        await client.until("contentEnd", type="AUDIO", stopReason="END_TURN")
        await client.say(speech(3, 1.0, RATE) + speech(0, 1.0, RATE))
        await client.until("textOutput", role="USER")
        assert "snow" in (await client.until("textOutput", role="ASSISTANT"))["content"]
        assert not any(name == "toolUse" for name, _ in client.events)
        await client.close()


async def test_exceptions_are_the_sdks_own(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from aws_sdk_bedrock_runtime.models import ModelTimeoutException, ValidationException

    async with nova(patch, tmp_path, limits=StreamLimits(connection_s=2.0, audio_gap_s=0.5)) as server:
        client = await SdkClient.connect(server.url)
        await client.send(*BEGIN)
        with pytest.raises(ValidationException, match="InternalErrorCode=532") as refused:
            await client.until("nothing")
        assert str(refused.value).startswith("RequestId="), "LiveKit parses that"
        client = await SdkClient.connect(server.url)
        await client.send(START, *BEGIN)
        with pytest.raises(ValidationException, match="Invalid input request"):
            await client.until("nothing")
        client = await SdkClient.connect(server.url)
        await client.send(*BEGIN)
        feeding = asyncio.ensure_future(_feed(client))
        with pytest.raises(ModelTimeoutException, match="timed out in processing"):
            await client.until("nothing")
        feeding.cancel()


async def _feed(client: SdkClient) -> None:
    while True:
        await client.say(speech(0, 0.1, RATE))
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "connect", "name"),
    [
        ({}, {"secret": "WRONG"}, "InvalidSignatureException"),
        ({"keys": {"OTHER": "x"}}, {}, "UnrecognizedClientException"),
        ({"models": ("amazon.nova-2-5-sonic",)}, {}, "ValidationException"),
        ({"max_sessions": 0}, {}, "ThrottlingException"),
    ],
)
async def test_refusals_before_the_stream(
    patch: pytest.MonkeyPatch, tmp_path: Path, options: Any, connect: Any, name: str
) -> None:
    async with nova(patch, tmp_path, **options) as server:
        client = await SdkClient.connect(server.url, **connect)
        await client.send(START)
        refused = await asyncio.gather(client.receive(), return_exceptions=True)
        assert name in f"{type(refused[0]).__name__} {refused[0]}"


# ---------------------------------------------------------------------- our adapter, through the SDK


class Conversation:
    """A session over NovaSonic, spoken to by the test, in real time."""

    def __init__(self, model: NovaSonic, **agent: Any) -> None:
        self.program = Program(input_rate=RATE)
        given = {"apology": "", "idle_prompt": "", "farewell": "", "limits": LimitOptions(idle_s=0.0), **agent}
        self.session = Agent(model=model, **given).session(self.program, tool_runner="inline")
        self.events: list[Event] = []
        self._microphone: list[bytes] = []

    async def __aenter__(self) -> Conversation:
        await self.session.__aenter__()
        self._reader = self.session.receive()
        self._mic = asyncio.ensure_future(self._speak())
        return self

    async def __aexit__(self, *exc: Any) -> None:
        self._mic.cancel()
        await self.session.__aexit__(*exc)

    async def _speak(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            frame = self._microphone.pop(0) if self._microphone else bytes(640)
            await self.session.send(AudioInput(pcm=frame))
            due += 0.02
            await asyncio.sleep(due - loop.time())

    def say(self, utterance: int, seconds: float = 0.8) -> None:
        pcm = speech(utterance, seconds, RATE)
        self._microphone += [pcm[at : at + 640] for at in range(0, len(pcm), 640)]

    async def until[E: Event](self, kind: type[E], **fields: Any) -> E:
        async with asyncio.timeout(PATIENCE):
            async for event in self._reader:
                self.events.append(event)
                if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items()):
                    return event
        raise AssertionError(f"no {kind.__name__} came")

    def of[E: Event](self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


async def test_a_call_through_the_sdk(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @tool
    async def get_weather(city: str) -> str:
        """The weather."""
        return f"rain in {city}"

    async with (
        nova(patch, tmp_path) as server,
        Conversation(NovaSonic(endpoint_url=server.url), tools=[get_weather]) as call,
    ):
        call.say(1)
        assert (await call.until(TurnCommitted)).text == "hello there"
        assert (await call.until(ResponseFinished)).heard.strip() == "You said hello there."
        assert call.of(ResponseAudio)
        call.say(3)
        assert (await call.until(ToolFinished)).output == "rain in Oslo"
        assert (
            "rain in Oslo" in (await call.until(ResponseFinished, origin=None) if False else await _spoken(call)).heard
        )
        await call.session.send("and typed")
        assert (await _spoken(call)).heard.strip() == "You said and typed."
        assert not call.of(ConnectionLost)


async def _spoken(call: Conversation) -> ResponseFinished:
    while not (finished := await call.until(ResponseFinished)).heard:
        pass
    return finished


async def test_rotation_through_the_sdk(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits = StreamLimits(connection_s=5.0)
    async with (
        nova(patch, tmp_path, limits=limits) as server,
        Conversation(NovaSonic(endpoint_url=server.url, limits=limits)) as call,
    ):
        call.say(1)
        await call.until(ResponseFinished, status="completed")
        await call.until(ConnectionRotated)
        await call.until(ConnectionRotated)
        call.say(4)
        assert (await call.until(ResponseFinished, status="completed")).heard.strip() == "You said stop please."
        assert not call.of(ConnectionLost)


async def test_a_reset_and_exceptions_are_recovered_from(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with (
        nova(patch, tmp_path) as server,
        Conversation(NovaSonic(endpoint_url=server.url)) as call,
    ):
        call.say(1)
        await call.until(ResponseFinished, status="completed")
        for connection in list(server.http.connections):
            connection.reset_all()
        await call.until(ConnectionLost)
        await call.until(ConnectionRotated)
        call.say(1)
        await call.until(ResponseFinished, status="completed")
        for entry in list(server.server.sessions._calls.values()):
            entry.session.end("error", "something broke")
        assert "something broke" in (await call.until(ConnectionLost)).reason
        await call.until(ConnectionRotated)
        call.say(4)
        assert (await call.until(ResponseFinished, status="completed")).heard.strip() == "You said stop please."


async def _refusal(model: NovaSonic) -> DuologueError:
    """What opening a call says. In time, or not at all."""
    async with asyncio.timeout(12):
        with pytest.raises(DuologueError) as refused:
            async with Agent(model=model).session(text_only=True):
                pass
    return refused.value


async def test_missing_credentials_are_told_with_all_that_was_tried(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_credentials(patch, tmp_path, "", "")
    error = await _refusal(NovaSonic(region="us-east-1"))
    assert isinstance(error, MissingCredentialsError)
    for way in ("AWS_ACCESS_KEY_ID", "SSO", "~/.aws/credentials", "container", "instance"):
        assert way in str(error)
    with pytest.raises(MissingCredentialsError):
        await NovaSonic(region="us-east-1").warm_up()
    error = await _refusal(NovaSonic(profile="nobody"))
    assert isinstance(error, MissingCredentialsError)
    assert "nobody" in str(error)


async def test_a_region_that_is_none_is_told_with_the_nearest(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_credentials(patch, tmp_path)
    error = await _refusal(NovaSonic(region="us-esat-1"))
    assert isinstance(error, RegionError)
    assert "us-east-1" in str(error)


async def test_a_profile_and_its_region_are_found(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_credentials(patch, tmp_path, "", "")
    (tmp_path / "credentials").write_text(f"[voice]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    (tmp_path / "config").write_text("[profile voice]\nregion = eu-north-1\n")
    from duologue.models.nova_credentials import find_identity

    found = await find_identity(region=None, profile="voice", known_region=True)
    assert (found.access_key, found.secret_key, found.region) == (KEY, SECRET, "eu-north-1")
    patch.setenv("AWS_PROFILE", "voice")
    patch.setenv("AWS_REGION", "us-west-2")
    assert (await find_identity(region=None, profile=None, known_region=True)).region == "us-west-2"


@pytest.mark.parametrize(
    ("options", "type"),
    [
        ({"keys": {KEY: "ANOTHER"}}, CredentialsError),
        ({"keys": {"OTHER": "x"}}, CredentialsError),
        ({"models": ("amazon.nova-2-5-sonic",)}, UnknownModelError),
        ({"max_sessions": 0}, ModelThrottledError),
    ],
)
async def test_refusals_are_typed(patch: pytest.MonkeyPatch, tmp_path: Path, options: Any, type: Any) -> None:
    async with nova(patch, tmp_path, **options) as server:
        model = NovaSonic(endpoint_url=server.url)
        with pytest.raises(type):
            await _read_all(model)


async def _read_all(model: NovaSonic) -> None:
    async with asyncio.timeout(PATIENCE), model.connect() as stream:
        await stream.send(inputs.SessionStart())
        async for _ in stream:
            pass


async def test_a_server_that_is_not_there_or_not_trusted_is_told_in_time(
    patch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        use_credentials(patch, tmp_path)
        model = NovaSonic(endpoint_url=f"https://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ModelConnectionError, match="Nova Sonic"):
            await _open_alone(model)
    async with nova(patch, tmp_path) as server:
        patch.delenv("SSL_CERT_FILE")
        with pytest.raises(ModelConnectionError, match="Nova Sonic"):
            await _open_alone(NovaSonic(endpoint_url=server.url))


async def test_giving_up_leaves_nothing_behind_for_the_sdk_to_complain_of(
    patch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A future of the CRT's that was cancelled with our wait would be set all the same, later, in a thread of its own."""
    from smithy_http.aio.crt import AIOHttpClientConnectionUnified as Connection

    futures: list[concurrent.futures.Future[Any]] = []
    make = Connection._generic_new

    def watched(*args: Any, **options: Any) -> concurrent.futures.Future[Any]:
        futures.append(make(*args, **options))
        return futures[-1]

    patch.setattr(Connection, "_generic_new", watched)
    use_credentials(patch, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never shakes hands
        async with NovaSonic(endpoint_url=f"https://127.0.0.1:{silent.getsockname()[1]}").connect() as stream:
            await stream.send(inputs.SessionStart())
            waiting = asyncio.ensure_future(stream.transport.answered())
            peer, _ = await asyncio.to_thread(silent.accept)
        with pytest.raises(TransportClosedError):
            await waiting
        (future,) = futures
        assert not future.done()
        peer.close()
    await asyncio.to_thread(concurrent.futures.wait, futures, PATIENCE)
    assert not future.cancelled()
    assert future.exception() is not None


async def _open_alone(model: NovaSonic) -> None:
    """Open one connection: what the supervisor does once."""
    from tests.models.test_nova_sonic import _context

    async with asyncio.timeout(5):
        connection = await model.open(_context(None))  # type: ignore[arg-type]
    await connection.close()


async def test_new_credentials_reach_the_next_stream(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with nova(patch, tmp_path, keys={KEY: SECRET, "NEXT": "OTHERSECRET"}) as server:
        model = NovaSonic(endpoint_url=server.url)
        async with model.connect() as first:
            use_credentials(patch, tmp_path, "NEXT", "OTHERSECRET")
            patch.setenv("SSL_CERT_FILE", str(server.ca_file))
            # A stream keeps the credentials that it was opened with, and its chain of signatures holds.
            await first.send(inputs.SessionStart())
            await first.send_payloads([first.protocol.send(inputs.PromptStart(prompt_name="p"))])
            async with model.connect() as second:
                await second.send(inputs.SessionStart())
                async with asyncio.timeout(PATIENCE):
                    await asyncio.gather(first.transport.answered(), second.transport.answered())
