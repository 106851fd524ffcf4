"""Gemini Live as it is served, against messages by hand: paths, keys, order, and what clients send that the SDK does not."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from duologue import Agent
from duologue.channels.link import SocketClosedError
from duologue.engine.conversation import Conversation
from duologue.models import Model
from duologue.models.base import Connection, Context
from duologue.serve import ServeOptions, create_app
from duologue.serve.app import Server
from duologue.serve.gemini_handles import Handles
from duologue.serve.gemini_live import Gemini
from duologue.testing.clock import run_virtual
from duologue.testing.script import Script
from duologue.testing.script_model import ScriptModel
from duologue.testing.scripted import Reply, ScriptedConnection
from duologue.wire.gemini_live import ServerLimits
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo, speech

PATHS = [
    "/ws/google.ai.generativelanguage.v1.GenerativeService.BidiGenerateContent",
    "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
    "/ws/google.ai.generativelanguage.v1alpha.GenerativeService.BidiGenerateContentConstrained",
    "/ws/google.cloud.aiplatform.v1.LlmBidiService/BidiGenerateContent",
]
SETUP = {"setup": {"model": "models/m", "inputAudioTranscription": {}, "outputAudioTranscription": {}}}


def model(answer: Any = echo) -> Scripted:
    return Scripted(UTTERANCES, answer, rate=16_000)


# ---------------------------------------------------------------------- where and who


def client(**options: Any) -> TestClient:
    served = ServeOptions(studio=False, hosts=("testserver",), **options)
    return TestClient(create_app(Agent(model=model()), served))


@pytest.mark.parametrize("path", PATHS)
def test_every_path_of_the_method_is_served(path: str) -> None:
    with client() as app, app.websocket_connect(path) as socket:
        socket.send_text(json.dumps(SETUP))
        first = json.loads(socket.receive_bytes())
        assert first["setupComplete"]["sessionId"]


def _denied(app: TestClient, path: str, **headers: str) -> int:
    with pytest.raises(WebSocketDenialResponse) as denied, app.websocket_connect(path, headers=headers):
        pass
    return denied.value.status_code


def test_other_paths_are_not() -> None:
    with client() as app:
        assert _denied(app, "/ws/google.ai.generativelanguage.v1.GenerativeService.Other") == 404


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"x-goog-api-key": "sesame"}, ""),
        ({}, "?key=sesame"),
        ({"authorization": "Token sesame"}, ""),
        ({"authorization": "Bearer sesame"}, ""),
    ],
)
def test_the_key_comes_in_any_of_the_vendors_ways(headers: dict[str, str], query: str) -> None:
    with client(key="sesame") as app, app.websocket_connect(PATHS[0] + query, headers=headers) as socket:
        socket.send_text(json.dumps(SETUP))
        assert "setupComplete" in json.loads(socket.receive_bytes())


@pytest.mark.parametrize("query", ["", "?key=wrong"])
def test_without_the_key_the_setup_is_refused(query: str) -> None:
    with client(key="sesame") as app, app.websocket_connect(PATHS[0] + query) as socket:
        socket.send_text(json.dumps(SETUP))
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_bytes()
    assert closed.value.code == 1008
    assert closed.value.reason.startswith("API key not valid")


def test_a_page_of_another_site_is_refused() -> None:
    with client() as app:
        assert _denied(app, PATHS[0], origin="https://elsewhere.example") == 403


# ---------------------------------------------------------------------- by hand


class Peer:
    """A client's socket in memory."""

    def __init__(self) -> None:
        self.up: asyncio.Queue[str | None] = asyncio.Queue()
        self.got: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None

    def send(self, message: dict[str, Any] | str) -> None:
        self.up.put_nowait(message if isinstance(message, str) else json.dumps(message))

    def realtime(self, **part: Any) -> None:
        self.send({"realtimeInput": part})

    def says(self, utterance: int, seconds: float, rate: int = 16_000) -> None:
        data = base64.urlsafe_b64encode(speech(utterance, seconds, rate)).decode()
        self.realtime(audio={"mime_type": f"audio/pcm;rate={rate}", "data": data})

    @property
    def kinds(self) -> list[str]:
        """What came, audio and transcripts folded."""
        out: list[str] = []
        for message in self.got:
            for name in message.get("serverContent", message):
                if name != "usageMetadata" and out[-1:] != [name]:
                    out.append(name)
        return out

    def said(self) -> str:
        texts = [message.get("serverContent", {}).get("outputTranscription", {}) for message in self.got]
        return "".join(text.get("text", "") for text in texts)

    # the server's side

    async def receive(self) -> str:
        got = await self.up.get()
        if got is None:
            raise SocketClosedError(1000)
        return got

    async def server_send(self, message: bytes) -> None:
        self.got.append(json.loads(message))

    async def server_close(self, code: int, reason: str = "") -> None:
        if self.closed is None:
            self.closed = code, reason


class Socket:
    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.receive = peer.receive
        self.send = peer.server_send
        self.close = peer.server_close


def held(
    script: Callable[[Peer, Server], Awaitable[None]],
    *,
    setup: dict[str, Any] | None = None,
    answer: Any = echo,
    as_model: bool = True,
    greeting: str = "",
    model_of: Model | None = None,
    **limits: Any,
) -> Peer:
    async def run() -> Peer:
        options = ServeOptions(studio=False, as_model=as_model, gemini=ServerLimits(**limits))
        server = Server(Agent(model=model_of or model(answer), name="g", greeting=greeting), options)
        peer = Peer()
        if setup is not None:
            peer.send({"setup": {**SETUP["setup"], **setup}})
        task = asyncio.ensure_future(Gemini(server).serve(Socket(peer), {}, {}))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        await script(peer, server)
        peer.up.put_nowait(None)
        await task
        await server.sessions.close()
        return peer

    return run_virtual(run())


MANUAL = {"realtimeInputConfig": {"automaticActivityDetection": {"disabled": True}}}


def _history(server: Server) -> list[tuple[str, str]]:
    (call,) = server.sessions._calls.values()
    return [(item.kind, item.text) for item in call.session.history]


def test_an_agents_greeting_comes_after_the_setup() -> None:
    async def script(peer: Peer, server: Server) -> None:
        await asyncio.sleep(3)

    peer = held(script, setup={}, as_model=False, greeting="Welcome.")
    assert peer.kinds[0] == "setupComplete"
    assert peer.kinds[-2:] == ["generationComplete", "turnComplete"]
    assert peer.said() == "Welcome."


def test_audio_at_other_rates_and_in_the_old_field() -> None:
    async def script(peer: Peer, server: Server) -> None:
        peer.says(1, 1.0, 48_000)
        peer.says(0, 1.0, 48_000)
        await asyncio.sleep(4)
        assert any("serverContent" in message for message in peer.got)
        data = base64.b64encode(speech(1, 1.0, 16_000) + bytes(32_000)).decode()
        peer.realtime(mediaChunks=[{"mimeType": "audio/pcm", "data": data}])
        await asyncio.sleep(4)

    peer = held(script, setup={})
    assert peer.said().endswith("You said hello there.")


def test_a_turn_by_hand_holds_until_it_is_ended() -> None:
    async def script(peer: Peer, server: Server) -> None:
        peer.says(4, 1.0)  # outside of any activity: not heard
        peer.realtime(activityStart={})
        peer.says(1, 1.0)
        peer.says(0, 5.0)
        await asyncio.sleep(3)
        assert "outputTranscription" not in peer.kinds, "no silence ends it"
        assert "inputTranscription" in peer.kinds, "and yet it is transcribed"
        peer.realtime(activityEnd={})
        await asyncio.sleep(3)

    peer = held(script, setup=MANUAL)
    assert peer.said() == "You said hello there."


def test_an_activity_without_speech_is_over_at_once() -> None:
    async def script(peer: Peer, server: Server) -> None:
        peer.realtime(activityStart={})
        peer.says(0, 1.0)
        peer.realtime(activityEnd={})
        await asyncio.sleep(1)

    assert held(script, setup=MANUAL).kinds == ["setupComplete", "turnComplete"]


def test_text_within_an_activity_is_answered_with_it() -> None:
    async def script(peer: Peer, server: Server) -> None:
        peer.realtime(activityStart={})
        peer.realtime(text="one")
        peer.realtime(text="two")
        await asyncio.sleep(1)
        assert peer.kinds == ["setupComplete"]
        peer.realtime(activityEnd={})
        await asyncio.sleep(3)

    assert held(script, setup=MANUAL).said() == "You said one two."


def test_no_interruption_means_none() -> None:
    async def script(peer: Peer, server: Server) -> None:
        peer.realtime(text="a story")
        await asyncio.sleep(4)
        peer.says(4, 1.0)
        peer.says(0, 1.0)
        await asyncio.sleep(30)

    peer = held(script, setup={"realtimeInputConfig": {"activityHandling": "NO_INTERRUPTION"}})
    assert "interrupted" not in peer.kinds


def test_a_conversation_may_be_given_with_everything_in_it() -> None:
    call = {"functionCall": {"id": "c", "name": "f", "args": {"snake_case": 1}}}
    answered = {"functionResponse": {"id": "c", "name": "f", "response": {"output": "rain"}}}
    picture = {"inlineData": {"mimeType": "image/jpeg", "data": "_9g="}}
    turns = [
        {"role": "user", "parts": [{"text": "hello"}, picture]},
        {"role": "model", "parts": [{"text": "hi"}, {"text": "hm", "thought": True}, call]},
        {"role": "user", "parts": [answered]},
    ]
    seen: list[list[tuple[str, str]]] = []

    async def script(peer: Peer, server: Server) -> None:
        peer.send({"clientContent": {"turns": turns}})
        await asyncio.sleep(1)
        assert peer.kinds == ["setupComplete"], "it was not to be answered"
        peer.send({"clientContent": {"turns": [], "turnComplete": True}})
        await asyncio.sleep(3)
        seen.append(_history(server))

    peer = held(script, setup={})
    entries = seen[0]
    assert entries[:5] == [("user", "hello"), ("user", ""), ("assistant", "hi"), ("call", ""), ("result", "rain")]
    assert peer.said() == "It is rain."


def test_an_answer_with_nothing_in_it_still_ends() -> None:
    async def script(peer: Peer, server: Server) -> None:
        peer.realtime(text="hello")
        await asyncio.sleep(2)

    peer = held(script, setup={}, answer=lambda text, context: Reply())
    assert peer.kinds == ["setupComplete", "turnComplete"]


def test_initial_history_is_waited_for() -> None:
    async def script(peer: Peer, server: Server) -> None:
        turns = [{"role": "user", "parts": [{"text": "before"}]}]
        peer.send({"clientContent": {"turns": turns, "turnComplete": True}})
        await asyncio.sleep(2)
        assert peer.kinds == ["setupComplete"]
        peer.realtime(text="now")
        await asyncio.sleep(3)

    peer = held(script, setup={"historyConfig": {"initialHistoryInClientContent": True}})
    assert peer.said() == "You said now."


def test_handles_come_with_turns_and_not_in_the_middle_of_a_call() -> None:
    declared = {"functionDeclarations": [{"name": "get_weather"}]}

    async def script(peer: Peer, server: Server) -> None:
        peer.realtime(text="weather")
        await asyncio.sleep(2)
        (called,) = [message["toolCall"] for message in peer.got if "toolCall" in message]
        updates = [message for message in peer.got if "sessionResumptionUpdate" in message]
        assert updates[-1]["sessionResumptionUpdate"] == {}, "not resumable at this point"
        response = {"id": called["functionCalls"][0]["id"], "name": "get_weather", "response": {"result": "rain"}}
        peer.send({"toolResponse": {"functionResponses": [response]}})
        await asyncio.sleep(3)

    peer = held(script, setup={"sessionResumption": {}, "tools": [declared]})
    assert peer.said() == "It is rain."
    assert peer.got[-1]["sessionResumptionUpdate"]["resumable"] is True


@pytest.mark.parametrize("behavior", ["NON_BLOCKING", "BLOCKING"])
def test_the_conversation_goes_on_beside_functions_that_are_declared_so(behavior: str) -> None:
    called: list[str] = []

    async def script(peer: Peer, server: Server) -> None:
        peer.realtime(text="weather")
        await asyncio.sleep(1)
        (call,) = [entry for message in peer.got for entry in message.get("toolCall", {}).get("functionCalls", ())]
        called.append(call["id"])
        peer.realtime(activityStart={})
        peer.says(1, 1.0)
        peer.says(0, 2.0)
        peer.realtime(activityEnd={})
        await asyncio.sleep(8)
        result = {"id": call["id"], "name": call["name"], "response": {"output": "rain"}}
        peer.send({"toolResponse": {"functionResponses": [result]}})
        await asyncio.sleep(4)

    functions = [{"name": "get_weather", "behavior": behavior}]
    tools = [{"functionDeclarations": functions}]
    peer = held(script, setup={"tools": tools, "sessionResumption": {}, **MANUAL})
    withdrawn = [message["toolCallCancellation"]["ids"] for message in peer.got if "toolCallCancellation" in message]
    at = next(n for n, message in enumerate(peer.got) if "toolCall" in message)
    after = [name for message in peer.got[at + 1 :] for name in message.get("serverContent", message)]
    handles = [message.get("sessionResumptionUpdate", {}) for message in peer.got[at + 1 :]]
    if behavior == "NON_BLOCKING":
        assert peer.said() == "You said hello there.It is rain."
        assert not withdrawn
        assert "interrupted" not in after, "the model's turn was over"
        assert next(name for name in after if name not in ("sessionResumptionUpdate", "usageMetadata")) == (
            "generationComplete"
        )
        assert [bool(handle["newHandle"]) for handle in handles if "newHandle" in handle] == [True]
    else:
        assert peer.said() == "You said hello there."
        assert withdrawn == [called]


def test_a_result_may_interrupt() -> None:
    before: list[int] = []

    async def script(peer: Peer, server: Server) -> None:
        peer.realtime(text="weather")
        await asyncio.sleep(1)
        (call,) = [entry for message in peer.got for entry in message.get("toolCall", {}).get("functionCalls", ())]
        peer.realtime(text="story")
        await asyncio.sleep(3)
        before.append(len(peer.got))
        result = {"id": call["id"], "name": call["name"], "response": {"output": "rain"}, "scheduling": "INTERRUPT"}
        peer.send({"toolResponse": {"functionResponses": [result]}})
        await asyncio.sleep(4)

    functions = [{"name": "get_weather", "behavior": "NON_BLOCKING"}]
    peer = held(script, setup={"tools": [{"functionDeclarations": functions}]})
    after = [name for message in peer.got[before[0] :] for name in message.get("serverContent", ())]
    assert after[0] == "interrupted", "the story"
    assert peer.said().endswith("It is rain.")


def test_a_client_that_sends_no_setup_is_closed() -> None:
    async def script(peer: Peer, server: Server) -> None:
        await asyncio.sleep(3)

    peer = held(script, setup=None, setup_s=2.0)
    assert peer.closed is not None
    assert peer.closed[0] == 1008


def test_a_connection_ends_when_it_said_it_would() -> None:
    async def script(peer: Peer, server: Server) -> None:
        await asyncio.sleep(9)

    peer = held(script, setup={}, connection_s=8.0, notice_s=3.0)
    assert {"goAway": {"timeLeft": "3s"}} in peer.got
    assert peer.closed == (1011, "Deadline expired before operation could complete.")


def test_functions_that_cannot_be_tools_are_refused() -> None:
    async def script(peer: Peer, server: Server) -> None: ...

    peer = held(script, setup={"tools": [{"functionDeclarations": [{"name": "no name"}]}]})
    assert peer.closed is not None
    assert peer.closed[0] == 1007


@pytest.mark.parametrize(
    ("detection", "longest"),
    [
        ({"silenceDurationMs": 300}, 300.0),
        ({"endOfSpeechSensitivity": "END_SENSITIVITY_HIGH"}, 900.0),
        ({"endOfSpeechSensitivity": "END_SENSITIVITY_LOW"}, 2200.0),
        ({}, 1800.0),
    ],
)
def test_detection_is_the_clients_where_the_model_is_served(detection: dict[str, Any], longest: float) -> None:
    seen: list[float] = []

    async def script(peer: Peer, server: Server) -> None:
        (call,) = server.sessions._calls.values()
        seen.append(call.session.conductor.floor.options.endpointing.longest_ms)

    held(script, setup={"realtimeInputConfig": {"automaticActivityDetection": detection}})
    assert seen == [longest]


# ---------------------------------------------------------------------- handles


def test_a_handle_is_good_for_its_owner_and_for_its_time() -> None:
    handles = Handles(60.0)
    conversation = Conversation().dump()
    handle = handles.give(conversation, "alice", 0.0)
    assert handles.take(handle, "alice", 59.0) == conversation
    assert handles.take(handle, "alice", 59.0) == conversation, "a connection may be tried twice"
    assert handles.take(handle, "bob", 1.0) is None
    assert handles.take(handle, "alice", 61.0) is None
    assert handles.take("never", "alice", 1.0) is None
    handles.drop(handle)
    assert handles.take(handle, "alice", 1.0) is None


def test_handles_take_a_bounded_amount_of_memory() -> None:
    handles = Handles(60.0)
    large = bytes(20 << 20)
    given = [handles.give(large, "a", 0.0) for _ in range(5)]
    assert [handles.take(handle, "a", 1.0) is not None for handle in given] == [False, False, True, True, True]
    assert handles.give(bytes(65 << 20), "a", 0.0) == ""


def test_two_things_said_one_after_the_other_are_two_turns() -> None:
    """The second may go out while the first is still being played; a client reads up to the end of a turn."""

    async def script(peer: Peer, server: Server) -> None:
        (call,) = server.sessions._calls.values()
        await call.session.say("This is the first of two.")
        await call.session.say("This is the second.")
        await asyncio.sleep(6)

    kinds = held(script, setup={}, as_model=False).kinds
    assert kinds.count("turnComplete") == kinds.count("generationComplete") == 2
    first = kinds.index("turnComplete")
    assert "outputTranscription" in kinds[first:], "the second comes after the end of the first"


def test_an_answer_that_is_interrupted_before_it_sounds_is_told_as_interrupted() -> None:
    class Slow(ScriptModel):
        async def sound(self, text: str) -> bytes:
            await asyncio.sleep(5 if "story" in text else 2)
            return await super().sound(text)

    async def script(peer: Peer, server: Server) -> None:
        peer.realtime(text="a story")
        await asyncio.sleep(1)
        assert "outputTranscription" in peer.kinds, "its words are out"
        peer.realtime(text="stop")
        await asyncio.sleep(1)
        (call,) = server.sessions._calls.values()
        call.session._connection.cancel("r1")
        await asyncio.sleep(4)

    replies = Script.parse("replies: [{when: '*story', say: This is a story.}, {say: Well.}]")
    peer = held(script, setup={}, model_of=Slow(replies))
    ends = [kind for kind in peer.kinds if kind != "modelTurn"]
    assert ends[1:4] == ["outputTranscription", "interrupted", "turnComplete"]
    assert ends[4:] == ["outputTranscription", "generationComplete", "turnComplete"]


class VoiceAlone(Scripted):
    """Recognises of a turn what was spoken in it, without what was typed."""

    async def open(self, context: Context) -> Connection:
        return VoiceAloneConnection(self, context)


class VoiceAloneConnection(ScriptedConnection):
    def prepare(self, turn: str, *, reply: bool) -> None:
        typed, self._typed = self._typed, ""
        super().prepare(turn, reply=reply)
        self._typed = typed


@pytest.mark.parametrize("kind", [Scripted, VoiceAlone])
def test_what_is_said_after_a_text_before_its_answer_sounds_is_transcribed_and_the_text_is_not(
    kind: type[Scripted],
) -> None:
    async def script(peer: Peer, server: Server) -> None:
        peer.realtime(text="and now")
        peer.says(1, 1.0)
        peer.says(0, 1.0)
        await asyncio.sleep(4)

    answering = kind(UTTERANCES, lambda text, context: Reply(text=f"You said {text}.", delay_s=1.0), rate=16_000)
    peer = held(script, setup={}, model_of=answering)
    texts = [message.get("serverContent", {}).get("inputTranscription", {}) for message in peer.got]
    assert "".join(text.get("text", "") for text in texts).strip() == "hello there"
    assert "hello there" in peer.said()
