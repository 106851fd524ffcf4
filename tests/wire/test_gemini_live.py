"""Gemini Live's codec: recorded traffic, each quirk of the protocol, and the order of messages on both sides."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from duologue.errors import ProtocolError
from duologue.wire.gemini_live import (
    ClientProtocol,
    Malformed,
    Meanings,
    ServerLimits,
    ServerProtocol,
    decode_bytes,
    faults,
    from_json_schema,
    meaning,
    to_json_schema,
)
from duologue.wire.gemini_live import messages as g
from duologue.wire.gemini_live import server as s
from duologue.wire.gemini_live.form import FormError, as_duration, decode, duration, normalised

_ROWS = [json.loads(line) for line in (Path(__file__).parent / "data" / "gemini-sdk-3.4.0.jsonl").open()]
_SETUP = _ROWS[0]["msg"]


def served(**setup: Any) -> ServerProtocol:
    """A server whose client has set up."""
    server = ServerProtocol()
    server.receive(json.dumps({"setup": {"model": "models/m", **setup}}))
    assert server.close_code is None, server.close_reason
    server.accept("s-1")
    server.next_frame()
    return server


MANUAL = {"realtimeInputConfig": {"automaticActivityDetection": {"disabled": True}}}


def opened(*, automatic: bool = True, **setup: Any) -> ClientProtocol:
    """A client whose session is set up."""
    if not automatic:
        setup["realtime_input_config"] = g.RealtimeInputConfig(
            automatic_activity_detection=g.AutomaticActivityDetection(disabled=True)
        )
    client = ClientProtocol(g.Setup(model="models/m", **setup))
    client.begin()
    client.next_frame()
    client.receive(b'{"setupComplete":{"sessionId":"s-1"}}')
    return client


def frames(side: ServerProtocol | ClientProtocol) -> list[dict[str, Any]]:
    out = []
    while (frame := side.next_frame()) is not None:
        out.append(json.loads(frame))
    return out


def realtime(**part: Any) -> str:
    return json.dumps({"realtimeInput": part})


# ---------------------------------------------------------------------- recorded


def test_what_the_sdk_sends_passes() -> None:
    server = ServerProtocol()
    taken: list[s.Request] = []
    for row in _ROWS:
        if row["dir"] != "client->server" or (server.setup is not None and "setup" in row["msg"]):
            continue
        message = row["msg"]
        if "tool_response" in message:
            server.call([g.FunctionCall(id="fc-1", name="get_weather")])
        if "activityStart" in message.get("realtime_input", {}) or "activityEnd" in message.get("realtime_input", {}):
            continue  # recorded against a server that did not check: the setup left detection on
        taken += server.receive(json.dumps(message))
        assert server.close_code is None, (message, server.close_reason)
        server.accept()
    kinds = [type(request).__name__ for request in taken]
    assert kinds == ["SetUp", "Asked", "Heard", "Seen", "Heard", "Typed", "Answered", "StreamEnded", "Updated"]
    setup = taken[0].setup  # type: ignore[attr-defined]
    assert setup.generation_config.speech_config.voice_config.prebuilt_voice_config.voice_name == "Puck"
    assert setup.realtime_input_config.automatic_activity_detection.prefix_padding_ms == 20
    assert setup.context_window_compression.sliding_window.target_tokens == 12800
    assert setup.tools[0].function_declarations[0].parameters["properties"] == {"city": {"type": "STRING"}}
    answered = taken[6]
    assert answered.responses[0].scheduling == "WHEN_IDLE"  # type: ignore[attr-defined]
    seen = taken[3]
    assert seen.data == b"\xff\xd8jpeg"  # type: ignore[attr-defined]


def test_what_a_server_sends_passes() -> None:
    client = ClientProtocol(g.Setup(model="models/m"))
    client.begin()
    meanings = Meanings()
    out: list[meaning.Meaning] = []
    for row in _ROWS:
        if row["dir"] == "server->client":
            message = client.receive(json.dumps(row["msg"]).encode())
            assert isinstance(message, g.ServerMessage), message
            out += meanings.take(message)
    kinds = {type(entry).__name__ for entry in out}
    assert kinds >= {"Ready", "Resumable", "ModelAudio", "ModelWords", "Generated", "TurnOver", "Used", "Called"}
    assert kinds >= {"UserWords", "Interrupted", "Withdrawn", "GoingAway"}


# ---------------------------------------------------------------------- form


def test_names_are_taken_in_both_cases_at_every_depth() -> None:
    snake = {"setup": {"model": "m", "generation_config": {"speech_config": {"voice_config": {"voice": "Puck"}}}}}
    mixed = {"setup": {"model": "m", "generationConfig": {"speech_config": {"voiceConfig": {"voice": "Puck"}}}}}
    assert decode(json.dumps(snake), g.ClientMessage) == decode(json.dumps(mixed), g.ClientMessage)


@pytest.mark.parametrize("field", ["args", "response", "parameters", "parameters_json_schema", "labels"])
def test_names_below_what_is_the_applications_are_left_alone(field: str) -> None:
    inner = {"first_name": {"nested_name": 1, "data": "!no base64!"}, "nothing": None}
    (value,) = normalised({field: inner}).values()
    assert value == inner


def test_a_field_given_in_both_cases_is_refused() -> None:
    with pytest.raises(FormError, match="twice"):
        decode('{"clientContent":{},"client_content":{}}', g.ClientMessage)


@pytest.mark.parametrize("data", [b"\xff\xd8jpeg", b"\xfb\xff\xfe", b"a", b"ab", b""])
def test_both_alphabets_of_base64_are_taken_padded_or_not(data: bytes) -> None:
    for encoded in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
        assert decode_bytes(encoded) == data
        assert decode_bytes(encoded.rstrip("=")) == data


@pytest.mark.parametrize("text", ["A", "****", "AA=A", "A A=", "ÄÄÄÄ"])
def test_what_is_no_base64_is_refused_rather_than_dropped(text: str) -> None:
    with pytest.raises(FormError):
        decode_bytes(text)


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "null", "1", '"setup"', "{", "\ud800", "[" * 200_000, '{"a":' * 80 + "1" + "}" * 80]
)
def test_what_is_no_message_closes_as_invalid(text: str) -> None:
    server = ServerProtocol()
    assert server.receive(text.encode(errors="surrogatepass")) == []
    assert server.close_code == faults.INVALID
    assert 0 < len(server.close_reason.encode()) <= 123


@pytest.mark.parametrize(("text", "seconds"), [("50s", 50.0), ("1.25s", 1.25), ("-3s", -3.0), ("9", None), ("s", None)])
def test_durations(text: str, seconds: float | None) -> None:
    assert duration(text) == seconds


def test_durations_come_back() -> None:
    for seconds in (0.0, 50.0, 0.25, 59.999999999):
        assert duration(as_duration(seconds)) == pytest.approx(seconds)


# ---------------------------------------------------------------------- the client's side


def test_the_setup_is_first_and_setup_complete_opens() -> None:
    client = ClientProtocol(g.Setup(model="models/m"))
    with pytest.raises(ProtocolError):
        client.text("too early")
    client.begin()
    assert json.loads(client.next_frame() or "") == {"setup": {"model": "models/m"}}
    early = client.receive('{"serverContent":{"turnComplete":true}}')
    assert isinstance(early, Malformed)
    assert client.state == "setup"
    assert isinstance(client.receive('{"setupComplete":{}}'), g.ServerMessage)
    assert client.state == "open"
    assert isinstance(client.receive('{"setupComplete":{}}'), Malformed)


def test_frames_may_be_binary_or_text() -> None:
    client = opened()
    for frame in (b'{"goAway":{"timeLeft":"1s"}}', '{"goAway":{"timeLeft":"1s"}}'):
        assert isinstance(client.receive(frame), g.ServerMessage)


def test_activity_is_only_signalled_where_detection_is_disabled() -> None:
    client = opened()
    with pytest.raises(ProtocolError):
        client.activity_start()
    client.audio_stream_end()
    manual = opened(automatic=False)
    with pytest.raises(ProtocolError):
        manual.audio_stream_end()
    with pytest.raises(ProtocolError):
        manual.activity_end()
    manual.activity_start()
    with pytest.raises(ProtocolError):
        manual.activity_start()
    manual.activity_end()
    assert frames(manual) == [{"realtimeInput": {"activityStart": {}}}, {"realtimeInput": {"activityEnd": {}}}]


def test_calls_are_answered_once_and_only_while_open() -> None:
    client = opened()
    client.receive('{"toolCall":{"functionCalls":[{"id":"a","name":"f"},{"id":"b","name":"g"},{"id":"c","name":"h"}]}}')
    client.receive('{"toolCallCancellation":{"ids":["b"]}}')
    assert not client.answer([g.FunctionResponse(id="b", name="g", response={})])
    assert client.answer([g.FunctionResponse(id=id, name="f", response={"output": 1}) for id in "ab"])
    assert not client.answer([g.FunctionResponse(id="a", name="f", response={})])
    assert client.answer([g.FunctionResponse(id="c", name="h", response={}, will_continue=True)])
    assert client.answer([g.FunctionResponse(id="c", name="h", response={})])
    sent = [frame["toolResponse"]["functionResponses"] for frame in frames(client)]
    assert [[response["id"] for response in responses] for responses in sent] == [["a"], ["c"], ["c"]]


def test_offsets_of_the_service_are_brought_to_the_users_track() -> None:
    client = opened()
    client.audio(bytes(3200), 16_000)
    client.audio(bytes(3200), 17_600)
    client.audio(bytes(3200), 80_000)  # a gap of the track: nothing was sent for it
    assert client.position_of(0.05) == 16_800
    assert client.position_of(0.25) == 80_800


def test_an_unknown_field_of_a_server_is_no_error() -> None:
    client = opened()
    assert isinstance(
        client.receive('{"serverContent":{"novelty":{"a":1},"turnComplete":true},"more":2}'), g.ServerMessage
    )


@pytest.mark.parametrize("data", ["AA==", "A", "*"])
def test_audio_that_is_none_is_malformed(data: str) -> None:
    client = opened()
    part = {"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": data}}
    message = client.receive(json.dumps({"serverContent": {"modelTurn": {"parts": [part]}}}))
    assert isinstance(message, Malformed)
    assert client.malformed == 1


# ---------------------------------------------------------------------- meanings


def taken(*messages: dict[str, Any]) -> list[str]:
    client, meanings = opened(), Meanings()
    out: list[meaning.Meaning] = []
    for message in messages:
        received = client.receive(json.dumps(message))
        assert isinstance(received, g.ServerMessage), received
        out += meanings.take(received)
    return [type(entry).__name__ for entry in out]


AUDIO = {"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": "AAA="}}


def test_several_fields_of_one_message_all_count() -> None:
    message = {
        "serverContent": {
            "modelTurn": {"parts": [{"text": "thinking", "thought": True}, AUDIO]},
            "inputTranscription": {"text": "hi"},
            "outputTranscription": {"text": "hello"},
            "generationComplete": True,
            "turnComplete": True,
        },
        "toolCall": {"functionCalls": [{"id": "a", "name": "f"}]},
        "sessionResumptionUpdate": {"newHandle": "h", "resumable": True},
        "goAway": {"timeLeft": "5s"},
        "usageMetadata": {"totalTokenCount": 3},
    }
    wanted = ["UserWords", "ModelWords", "ModelAudio", "Called", "Generated", "TurnOver", "Resumable", "GoingAway"]
    assert taken(message) == [*wanted, "Used"]


def test_what_comes_with_an_interruption_is_stale_until_the_turn_is_over() -> None:
    audio = {"serverContent": {"modelTurn": {"parts": [AUDIO]}}}
    cut = {"serverContent": {"modelTurn": {"parts": [AUDIO]}, "interrupted": True}, "usageMetadata": {}}
    over = {"serverContent": {"turnComplete": True}}
    assert taken(audio, cut, audio, over, audio) == ["ModelAudio", "Interrupted", "Used", "TurnOver", "ModelAudio"]


def test_a_handle_counts_only_where_the_session_can_be_resumed() -> None:
    for update in ({"newHandle": "", "resumable": False}, {"newHandle": "h"}, {"resumable": True}):
        assert taken({"sessionResumptionUpdate": update}) == []


# ---------------------------------------------------------------------- the server's side


def test_setup_complete_is_first_and_in_binary() -> None:
    server = ServerProtocol()
    server.receive(json.dumps(_SETUP))
    server.heard("too early")
    server.audio(bytes(2))
    assert server.next_frame() is None
    server.accept("s-1")
    frame = server.next_frame()
    assert isinstance(frame, bytes)
    assert json.loads(frame) == {"setupComplete": {"sessionId": "s-1"}}


@pytest.mark.parametrize(
    "first",
    ['{"realtimeInput":{"text":"x"}}', '{"setup":{}}', '{"setup":{"model":"m","novelty":1}}', "{}"],
)
def test_what_may_not_be_first_closes(first: str) -> None:
    server = ServerProtocol()
    assert server.receive(first) == []
    assert server.close_code == faults.INVALID


def test_a_second_setup_closes() -> None:
    server = served()
    server.receive('{"setup":{"model":"m"}}')
    assert (server.close_code, server.close_reason) == (faults.INVALID, faults.NOT_SETUP)


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        ({}, realtime(activityStart={})),
        ({}, realtime(activityEnd={})),
        (MANUAL, realtime(audioStreamEnd=True)),
        (MANUAL, realtime(activityEnd={})),
        ({}, realtime(audio={"mimeType": "audio/pcm;rate=16000", "data": "AA=="})),
        ({}, realtime(audio={"mimeType": "audio/ogg", "data": "AAA="})),
        ({}, realtime(audio={"mimeType": "audio/pcm;rate=x", "data": "AAA="})),
        ({}, realtime(audio={"mimeType": "audio/pcm;rate=1", "data": "AAA="})),
        ({}, realtime(video={"mimeType": "video/mp4", "data": "AAA="})),
        ({}, realtime(video={"mimeType": "image/png", "data": ""})),
        ({}, realtime(novelty=1)),
        ({}, '{"toolResponse":{"functionResponses":[{"name":"f","response":{}}]}}'),
        ({}, '{"toolResponse":{"functionResponses":[{"id":"never","response":{}}]}}'),
        ({}, '{"clientContent":{"turns":[{"role":"system","parts":[]}]}}'),
        ({}, '{"clientContent":{},"realtimeInput":{}}'),
        ({}, "{}"),
    ],
)
def test_what_cannot_be_taken_closes_as_invalid(setup: dict[str, Any], message: str) -> None:
    server = served(**setup)
    assert server.receive(message) == []
    assert server.close_code == faults.INVALID
    assert server.receive(realtime(text="after")) == []


@pytest.mark.parametrize(
    "setup",
    [
        {"sessionResumption": {"transparent": True}},
        {"explicitVadSignal": True},
        {"generationConfig": {"temperature": 3}},
        {"generationConfig": {"responseModalities": ["AUDIO", "TEXT"]}},
        {"realtimeInputConfig": {"activityHandling": "SOMETIMES"}},
    ],
)
def test_a_setup_that_cannot_be_closes_as_invalid(setup: dict[str, Any]) -> None:
    server = ServerProtocol()
    assert server.receive(json.dumps({"setup": {"model": "m", **setup}})) == []
    assert server.close_code == faults.INVALID


def test_an_oversized_message_closes_as_too_big() -> None:
    server = ServerProtocol(limits=ServerLimits(message_bytes=1000))
    server.receive(b" " * 1001)
    assert server.close_code == faults.TOO_BIG


def test_several_parts_of_realtime_input_are_taken_in_order() -> None:
    server = served(**MANUAL)
    audio = {"mimeType": "audio/pcm", "data": "AAA="}
    requests = server.receive(realtime(activityEnd={}, text="x", audio=audio, activityStart={}, mediaChunks=[audio]))
    kinds = [type(request).__name__ for request in requests]
    assert kinds == ["ActivityStarted", "Heard", "Heard", "Typed", "ActivityEnded"]
    assert requests[1].rate == 16_000  # type: ignore[attr-defined]


def test_an_interruption_is_followed_by_turn_complete_and_never_by_generation_complete() -> None:
    server = served()
    assert not server.interrupted(), "there is nothing to interrupt"
    server.audio(bytes(2))
    server.call([g.FunctionCall(id="a", name="f")])
    assert server.interrupted()
    server.generated()
    assert not server.interrupted()
    server.audio(bytes(2))  # the next answer: the one before must have ended
    kinds = [next(iter(frame.get("serverContent", frame))) for frame in frames(server)]
    assert kinds == ["modelTurn", "toolCall", "interrupted", "toolCallCancellation", "turnComplete", "modelTurn"]
    assert server.receive('{"toolResponse":{"functionResponses":[{"id":"a","response":{}}]}}') == []
    assert server.close_code is None, "the client had not heard of the cancellation yet"


def test_generation_complete_comes_before_turn_complete() -> None:
    server = served(outputAudioTranscription={})
    server.audio(bytes(2))
    server.generated()
    server.said("trailing")
    server.turn_complete(usage=g.UsageMetadata(total_token_count=4))
    *_, transcript, last = frames(server)
    assert transcript == {"serverContent": {"outputTranscription": {"text": "trailing"}}}
    assert last == {"serverContent": {"turnComplete": True}, "usageMetadata": {"totalTokenCount": 4}}


def test_only_what_the_setup_asked_for_is_sent() -> None:
    server = served()
    server.heard("a")
    server.said("b")
    server.resumption("h")
    assert frames(server) == []
    text = served(generationConfig={"responseModalities": ["TEXT"]})
    text.audio(bytes(2))
    text.said("b")
    assert frames(text) == [{"serverContent": {"modelTurn": {"role": "model", "parts": [{"text": "b"}]}}}]


def test_initial_history_is_not_answered() -> None:
    server = served(historyConfig={"initialHistoryInClientContent": True})
    turns = [{"role": "user", "parts": [{"text": "a"}]}]
    assert isinstance(server.receive(json.dumps({"clientContent": {"turns": turns}}))[0], s.Remembered)
    assert isinstance(
        server.receive(json.dumps({"clientContent": {"turns": turns, "turnComplete": True}}))[0], s.Remembered
    )
    assert isinstance(server.receive(json.dumps({"clientContent": {"turns": turns, "turnComplete": True}}))[0], s.Asked)


def test_the_two_sides_understand_each_other() -> None:
    client = ClientProtocol(
        g.Setup(
            model="models/m",
            session_resumption=g.SessionResumption(),
            input_audio_transcription={},
            output_audio_transcription={},
        )
    )
    server, meanings = ServerProtocol(), Meanings()
    client.begin()

    def up() -> list[s.Request]:
        out: list[s.Request] = []
        while (frame := client.next_frame()) is not None:
            out += server.receive(frame)
        return out

    def down() -> list[meaning.Meaning]:
        out: list[meaning.Meaning] = []
        while (frame := server.next_frame()) is not None:
            message = client.receive(frame)
            assert isinstance(message, g.ServerMessage)
            out += meanings.take(message)
        return out

    assert isinstance(up()[0], s.SetUp)
    server.accept("s")
    server.resumption("h-1")
    assert down() == [meaning.Ready(session_id="s"), meaning.Resumable(handle="h-1")]
    client.audio(b"\x01\x02" * 160, 0)
    client.video(b"\xff\xd8", "image/jpeg")
    assert up() == [s.Heard(pcm=b"\x01\x02" * 160, rate=16_000), s.Seen(data=b"\xff\xd8", mime="image/jpeg")]
    server.heard("weather?", finished=True)
    server.call([g.FunctionCall(id="a", name="f", args={"city_name": "Oslo"})])
    words, called = down()
    assert words == meaning.UserWords(text="weather?", finished=True)
    assert called.calls[0].args == {"city_name": "Oslo"}  # type: ignore[attr-defined]
    client.answer([g.FunctionResponse(id="a", name="f", response={"wind_speed": 3})])
    (answered,) = up()
    assert answered.responses[0].response == {"wind_speed": 3}  # type: ignore[attr-defined]
    server.said("Windy.")
    server.audio(bytes(480))
    server.go_away(12.5)
    server.turn_complete()
    kinds = [type(entry).__name__ for entry in down()]
    assert kinds == ["ModelWords", "ModelAudio", "GoingAway", "Generated", "TurnOver"]


# ---------------------------------------------------------------------- schemas


def test_a_json_schema_becomes_the_vendors_and_comes_back() -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "where", "minLength": 1},
            "unit": {"enum": ["c", "f"], "type": "string"},
            "days": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None},
            "at": {"$ref": "#/$defs/Point"},
            "tags": {"type": "array", "items": {"type": ["string", "null"]}},
        },
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
    }
    vendor = from_json_schema(schema)
    assert vendor == {
        "type": "OBJECT",
        "required": ["city"],
        "properties": {
            "city": {"type": "STRING", "description": "where", "minLength": 1},
            "unit": {"type": "STRING", "enum": ["c", "f"]},
            "days": {"type": "INTEGER", "minimum": 1, "nullable": True, "default": None},
            "at": {"type": "OBJECT", "properties": {"x": {"type": "NUMBER"}}, "required": ["x"]},
            "tags": {"type": "ARRAY", "items": {"type": "STRING", "nullable": True}},
        },
    }
    back = to_json_schema(vendor)
    assert back["properties"]["days"]["type"] == ["integer", "null"]
    assert back["properties"]["at"] == schema["$defs"]["Point"]
    assert back["properties"]["city"] == schema["properties"]["city"]


def test_a_schema_that_contains_itself_ends() -> None:
    loop = {
        "$ref": "#/$defs/Node",
        "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}},
    }
    assert from_json_schema(loop)["type"] == "OBJECT"
