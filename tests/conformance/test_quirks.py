"""Quirks of the vendors that no other test fails without, and the honesty of the table of them (QUIRKS.md)."""

from __future__ import annotations

import ast
import asyncio
import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.server import ServerConnection

from duologue.events import ConnectionLost, ErrorEvent, ResponseFinished, ResponseStarted, UserTranscript
from duologue.models import GeminiLive, OpenAIRealtime
from duologue.wire.openai_realtime import events
from tests.conformance.caller import Call
from tests.conformance.rigs import GeminiRig, NovaRig, OpenAIRig, Rig

pytestmark = pytest.mark.scripted
_ROOT = Path(__file__).parents[2]


def test_every_quirk_has_a_test_that_is_there() -> None:
    table = (Path(__file__).parent / "QUIRKS.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith(("| quirk", "|-"))]
    assert len(rows) > 50
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, f"no test is named: {row}"
        for path, name in named:
            tree = ast.parse((_ROOT / path).read_text(encoding="utf-8"))
            functions = {
                node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert name in functions, f"{path} has no {name}"


# ---------------------------------------------------------------------- Nova Sonic


def _nova(**event: Any) -> bytes:
    return json.dumps({"event": event}).encode()


def test_a_record_that_trails_into_the_next_turn_is_no_part_of_it() -> None:
    """FINAL text came 2.6 s and 6.3 s late at the service, after the next input had begun."""
    rig = NovaRig()

    async def case(call: Call) -> None:
        (wire,) = rig.wires
        send = wire.server.send
        finals: list[bytes] = []
        late: set[str] = set()

        async def keep(event: bytes) -> None:
            name, body = next(iter(json.loads(event)["event"].items()))
            if name == "contentStart" and "FINAL" in body.get("additionalModelFields", "") and body["role"] != "USER":
                late.add(body["contentId"])
            if body.get("contentId") in late:
                finals.append(event)
            else:
                await send(event)

        wire.server.send = keep
        await call.speak("hello")
        await call.hear("hello there")
        call.begin("stop")
        await call.wait(1.2)
        assert finals, "the server sends a record of what was spoken"
        for event in finals:
            await send(event)
        await call.hear("three")

    call = rig.hold(case)
    assert [item.text.strip() for item in call.session.history] == [
        "hello there",
        "You said hello there.",
        "stop please and count to three",
        "One, two, three.",
    ]
    assert call.heard == ["You said hello there.", "One, two, three."]
    assert len(call.caller.of(ResponseStarted)) == 2


def test_a_barge_in_that_only_speech_start_tells_of() -> None:
    """One report saw no other mark: neither the text ``{ "interrupted" : true }`` nor a stop reason."""
    rig = NovaRig()

    async def case(call: Call) -> None:
        (wire,) = rig.wires
        send = wire.server.send

        async def unmarked(event: bytes) -> None:
            name, body = next(iter(json.loads(event)["event"].items()))
            if name == "textOutput" and "interrupted" in body["content"]:
                return
            await send(event.replace(b"INTERRUPTED", b"PARTIAL_TURN"))

        wire.server.send = unmarked
        await call.speak("story")
        await call.until(lambda: call.played() > 2.0, "nothing was played")
        await call.speak("stop")
        await call.hear("three")

    call = rig.hold(case)
    assert call.caller.of(ResponseFinished)[0].status == "interrupted"


def test_an_event_of_an_unknown_type_has_no_value_in_the_sdk() -> None:
    """It arrives as `…OutputUnknown(tag=…)`; most frameworks fall over it."""
    from duologue.models.nova_credentials import AwsIdentity
    from duologue.models.nova_transport import SdkStream
    from duologue.models.transport import TransportClosedError

    class Event:
        def __init__(self, data: bytes | None) -> None:
            if data is not None:
                self.value = type("Part", (), {"bytes_": data})()

    class Receiver:
        def __init__(self) -> None:
            self.events = [Event(None), Event(b"{}"), None]

        async def receive(self) -> Event | None:
            return self.events.pop(0)

    class Stream:
        async def await_output(self) -> tuple[None, Receiver]:
            return None, Receiver()

    async def run() -> None:
        identity = AwsIdentity(access_key="a", secret_key="s", region="us-east-1")
        stream = SdkStream(Stream(), None, identity, "m")
        assert await stream.receive() == b"{}"
        with pytest.raises(TransportClosedError):  # None is how the SDK tells of every end, a reset included
            await stream.receive()

    asyncio.run(run())


def test_text_is_asked_for_only_after_audio_was_sent() -> None:
    """Without 68 ms of audio the service generates nothing: a greeting would be lost."""
    rig = NovaRig()
    before: list[int] = []

    async def case(call: Call) -> None:
        (wire,) = rig.wires
        send = wire.client.send

        async def watched(message: str) -> None:
            if '"textInput"' in message and "Say exactly" in message:
                before.append(len(wire.audio))
            await send(message)

        wire.client.send = watched
        await call.session.say("Welcome aboard.")
        await call.hear("aboard")

    rig.hold(case)
    assert before[0] >= 0.068 * 16_000 * 2


# ---------------------------------------------------------------------- OpenAI Realtime


def test_a_transcript_that_comes_after_the_answer_is_still_history() -> None:
    """Transcription runs beside the conversation, and may land when the reply is over."""
    rig = OpenAIRig()

    async def case(call: Call) -> None:
        (wire,) = rig.wires
        put, held = wire.down.put_nowait, []

        def later(message: Any) -> None:
            if isinstance(message, str) and "input_audio_transcription" in message:
                held.append(message)
            else:
                put(message)

        wire.down.put_nowait = later
        await call.speak("hello")
        await call.answer()
        assert not [event for event in call.caller.of(UserTranscript) if event.final]
        assert held
        for message in held:
            put(message)
        await call.until(lambda: [e for e in call.caller.of(UserTranscript) if e.final], "no transcript")

    call = rig.hold(case)
    assert [(item.kind, item.text) for item in call.session.history] == [
        ("user", "hello there"),
        ("assistant", "You said hello there."),
    ]


@pytest.mark.parametrize(
    "code",
    ["conversation_already_has_active_response", "response_cancel_not_active", "input_audio_buffer_commit_empty"],
)
def test_errors_that_mean_nothing_are_told_to_nobody(code: str) -> None:
    """They cross what the provider does by itself, and end nothing."""
    rig = OpenAIRig()

    async def case(call: Call) -> None:
        error = {"type": "invalid_request_error", "code": code, "message": "x", "param": None, "event_id": "ev_none"}
        rig.wires[0].down.put_nowait(json.dumps({"type": "error", "event_id": "e", "error": error}))
        await call.speak("hello")
        await call.answer()

    call = rig.hold(case)
    assert not call.caller.of(ErrorEvent)
    assert not call.caller.of(ConnectionLost)


def test_an_error_event_does_not_end_the_session() -> None:
    rig = OpenAIRig()

    async def case(call: Call) -> None:
        error = {"type": "invalid_request_error", "code": "invalid_value", "message": "no such thing"}
        rig.wires[0].down.put_nowait(json.dumps({"type": "error", "event_id": "e", "error": error}))
        await call.speak("hello")
        await call.answer()

    call = rig.hold(case)
    assert ["no such thing" in event.message for event in call.caller.of(ErrorEvent)] == [True]
    assert not call.caller.of(ConnectionLost)


def test_a_response_that_fails_says_why_and_the_call_goes_on() -> None:
    rig = OpenAIRig()

    async def case(call: Call) -> None:
        (wire,) = rig.wires
        put, spoiled = wire.down.put_nowait, []

        def spoil(message: Any) -> None:
            if isinstance(message, str) and not spoiled and '"response.done"' in message:
                spoiled.append(message)
                event = json.loads(message)
                error = {"type": "server_error", "code": None, "message": "The server had an error"}
                event["response"] |= {
                    "status": "failed",
                    "status_details": {"type": "failed", "error": error},
                    "output": [],
                }
                message = json.dumps(event)
            elif isinstance(message, str) and not spoiled and '"response.' in message and "created" not in message:
                return  # nothing of it is made
            put(message)

        wire.down.put_nowait = spoil
        await call.speak("hello")
        await call.until(lambda: call.caller.of(ErrorEvent), "no error")
        await call.speak("stop")
        await call.hear("three")

    call = rig.hold(case)
    assert any("The server had an error" in event.message for event in call.caller.of(ErrorEvent))


# ---------------------------------------------------------------------- messages of more than a mebibyte


async def _large(connection: ServerConnection) -> None:
    """Sends two seconds and more of audio in one message, as servers do."""
    pcm = base64.b64encode(bytes(2 << 20)).decode()
    if "Bidi" in (connection.request.path if connection.request is not None else ""):
        await connection.recv()
        await connection.send(b'{"setupComplete":{}}')
        part = {"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": pcm}}
        await connection.send(json.dumps({"serverContent": {"modelTurn": {"parts": [part]}}}).encode())
    else:
        await connection.send('{"type":"session.created","event_id":"e","session":{"id":"s"}}')
        response = {"id": "r", "object": "realtime.response", "status": "in_progress", "output": []}
        await connection.send(json.dumps({"type": "response.created", "event_id": "e", "response": response}))
        where = {"response_id": "r", "item_id": "i", "output_index": 0, "content_index": 0}
        await connection.send(
            json.dumps({"type": "response.output_audio.delta", "event_id": "e", "delta": pcm, **where})
        )
    await connection.wait_closed()


@pytest.mark.anyio
async def test_messages_may_be_larger_than_a_sockets_usual_limit() -> None:
    async with websockets.serve(_large, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with asyncio.timeout(10):
            async with OpenAIRealtime(api_key="x", base_url=f"{url}/v1").connect() as openai:
                async for event in openai:
                    if isinstance(event, events.AudioDelta):
                        assert len(event.delta) == 2 << 20
                        break
            frames: list[str] = []
            async with GeminiLive(api_key="x", base_url=url).connect(
                on_wire=lambda direction, frame: frames.append(direction)
            ) as gemini:
                async for message in gemini:
                    content = getattr(message, "server_content", None)
                    if content is not None:
                        assert len(content.model_turn.parts[0].inline_data.data) == 2 << 20
                        break
            assert frames == ["sent", "received", "received"]


# ---------------------------------------------------------------------- Gemini Live


def test_interactions_that_the_provider_marks_idle_and_more_in_one_message() -> None:
    """3.x bundles fields; an end that comes with the last audio must not cut it."""
    rig = GeminiRig()

    async def case(call: Call) -> None:
        (wire,) = rig.wires
        put, kept = wire.down.put_nowait, []

        def bundle(message: Any) -> None:
            content = json.loads(message).get("serverContent", {}) if isinstance(message, str | bytes) else {}
            if "modelTurn" in content or content.get("generationComplete") or "outputTranscription" in content:
                kept.append(content)
                return
            if content.get("turnComplete") and kept:
                parts = [part for one in kept for part in one.get("modelTurn", {}).get("parts", [])]
                text = "".join(one.get("outputTranscription", {}).get("text", "") for one in kept)
                kept.clear()
                whole = {**content, "modelTurn": {"parts": parts}, "outputTranscription": {"text": text}}
                message = json.dumps({"serverContent": {**whole, "generationComplete": True}}).encode()
            put(message)

        wire.down.put_nowait = bundle
        await call.speak("hello")
        await call.answer()

    call = rig.hold(case)
    assert call.heard == ["You said hello there."]
    (answer,) = call.caller.of(ResponseFinished)
    assert answer.status == "completed"
    assert answer.heard_ms == pytest.approx(len("You said hello there.") / 15 * 1000, abs=40)


@pytest.mark.parametrize("kind", [OpenAIRig, NovaRig, GeminiRig])
def test_what_a_newer_service_sends_and_nobody_knows_is_passed_over(kind: type[Rig]) -> None:
    rig = kind()
    unknown: dict[type[Rig], Any] = {
        OpenAIRig: '{"type":"response.mood","event_id":"e","mood":"fine"}',
        NovaRig: _nova(moodOutput={"content": "fine"}),
        GeminiRig: '{"moodUpdate":{"mood":"fine"},"serverContent":{"mood":1}}',
    }

    async def case(call: Call) -> None:
        rig.wires[0].down.put_nowait(unknown[kind])
        await call.speak("hello")
        await call.answer()

    call = rig.hold(case)
    assert call.heard == ["You said hello there."]
    assert not call.caller.of(ConnectionLost)
    assert len(call.caller.of(ResponseStarted)) == 1
