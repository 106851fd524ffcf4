"""Corners of the codecs that conversations seldom reach: bounds of what is remembered, links that are over, odd requests.

They are seeds of `benchmarks/fuzz.py` as well, which starts from whatever the tests of this folder do.
"""

from __future__ import annotations

import base64
import json
import struct
import uuid
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest

from duologue.errors import ConfigurationError, LimitExceededError, ProtocolError
from duologue.events import TextInput
from duologue.serve.nova_http import RefusedError, verified
from duologue.wire.duologue import AudioSpec, ClientProtocol, ServerDelivery, ServerOptions, ServerProtocol
from duologue.wire.duologue.frames import encode_agent_audio
from duologue.wire.duologue.messages import Capabilities
from duologue.wire.eventstream import FrameDecoder, Timestamp, decode_frame, encode_frame
from duologue.wire.gemini_live import ClientProtocol as GeminiClient
from duologue.wire.gemini_live import Meanings, faults, from_json_schema, meaning, to_json_schema
from duologue.wire.gemini_live import ServerProtocol as GeminiServer
from duologue.wire.gemini_live import messages as g
from duologue.wire.nova_sonic import ClientProtocol as NovaClient
from duologue.wire.nova_sonic import Meanings as NovaMeanings
from duologue.wire.nova_sonic import StreamException, decode_output, inputs
from duologue.wire.openai_realtime import (
    Answers,
    Item,
    OutputPatch,
    Part,
    ResponseParams,
    ServerLimits,
    SessionConfig,
    events,
)
from duologue.wire.openai_realtime import ClientProtocol as OpenAIClient
from duologue.wire.openai_realtime import ServerProtocol as OpenAIServer
from duologue.wire.openai_realtime.events import ResponseAudioConfig
from duologue.wire.sigv4 import Scope
from tests.wire.duologue_pair import Pair
from tests.wire.nova_events import PROMPT, audio, give, open_audio, opened, text, tool_result

B64 = base64.b64encode(bytes(480)).decode()

# ---------------------------------------------------------------------- openai


def _openai(**limits: Any) -> OpenAIServer:
    server = OpenAIServer(SessionConfig(id="s", model="m"), token="t", limits=ServerLimits(**limits))
    _frames(server)
    return server


def _frames(side: Any) -> list[dict[str, Any]]:
    out = []
    while (frame := side.next_frame()) is not None:
        out.append(json.loads(frame))
    return out


def _say(server: OpenAIServer, type: str, **fields: Any) -> list[dict[str, Any]]:
    server.receive(json.dumps({"type": type, **fields}))
    return _frames(server)


def _item(id: str, role: str = "user", kind: str = "input_text") -> dict[str, Any]:
    return {"id": id, "type": "message", "role": role, "content": [{"type": kind, "text": "x"}]}


def test_items_are_put_where_they_are_wanted_and_the_oldest_are_forgotten() -> None:
    server = _openai(items=3)
    assert _say(server, "conversation.item.create", item=_item("a"))[0]["previous_item_id"] is None
    assert (
        _say(server, "conversation.item.create", item=_item("b"), previous_item_id="root")[0]["previous_item_id"]
        is None
    )
    assert _say(server, "conversation.item.create", item=_item("c"), previous_item_id="a")[0]["previous_item_id"] == "a"
    _say(server, "conversation.item.create", item=_item("d"))
    assert _say(server, "conversation.item.delete", item_id="a")[0]["type"] == "error", "it was forgotten"
    assert _say(server, "conversation.item.delete", item_id="d")[0]["type"] == "conversation.item.deleted"
    assert server.last_item == "c"
    assert _say(server, "conversation.item.delete", item_id="b")[0]["type"] == "conversation.item.deleted"
    assert server.last_item == "c"


@pytest.mark.parametrize(
    ("type", "fields", "param"),
    [
        ("session.update", {"session": {"type": "realtime", "max_output_tokens": 5000}}, "session.max_output_tokens"),
        (
            "session.update",
            {"session": {"type": "realtime", "tools": [{"type": "mcp", "server_label": "x"}]}},
            "session.tools[0].type",
        ),
        ("input_audio_buffer.append", {"audio": base64.b64encode(bytes(960)).decode()}, "audio"),
        ("input_audio_buffer.append", {"audio": "AAAA"}, "audio"),
        ("response.create", {"response": {"output_modalities": ["audio", "text"]}}, "response.output_modalities"),
        ("response.create", {"response": {"conversation": "none"}}, "response.conversation"),
        ("conversation.item.create", {"item": {"type": "function_call", "call_id": "c"}}, "item.name"),
        ("conversation.item.create", {"item": _item("x", "nobody")}, "item.role"),
        ("conversation.item.create", {"item": _item("x", "assistant", "input_text")}, "item.content[0].type"),
    ],
)
def test_what_is_refused_names_the_parameter(type: str, fields: dict[str, Any], param: str) -> None:
    server = _openai(append_bytes=500)
    (event,) = _say(server, type, **fields)
    assert event["type"] == "error"
    assert event["error"]["param"] == param


def test_push_to_talk_audio_beyond_the_buffer_is_not_counted_for_ever() -> None:
    server = _openai(buffer_s=1.0)
    _say(
        server,
        "session.update",
        session={"type": "realtime", "audio": {"input": {"turn_detection": None, "format": None}}},
    )
    for _ in range(10):
        _say(server, "input_audio_buffer.append", audio=base64.b64encode(bytes(9600)).decode())
    assert _say(server, "input_audio_buffer.commit")[0]["type"] == "input_audio_buffer.committed"


def test_a_session_ends_once_and_for_one_reason() -> None:
    server = _openai()
    server.expire()
    server.close(1000, "again")
    assert server.close_reason != "again"
    assert server.receive('{"type":"input_audio_buffer.clear"}') == []


def test_a_failed_transcription_is_told_to_who_asked_for_one() -> None:
    server = _openai()
    server.transcription_failed("item_1", "no words")
    assert _frames(server) == []
    _say(server, "session.update", session={"type": "realtime", "audio": {"input": {"transcription": {"model": "m"}}}})
    server.transcription_failed("item_1", "no words")
    (event,) = _frames(server)
    assert event["error"]["message"] == "no words"


def test_answers_are_remembered_for_truncation_up_to_a_bound() -> None:
    server = _openai()
    answers = Answers(server)
    first = ""
    for _ in range(258):
        answer = answers.begin(ResponseParams(audio=ResponseAudioConfig(output=OutputPatch(voice="cedar"))))
        answer.text("a")
        answer.audio(bytes(4), 2)
        first = first or answer.item_id
        answer.end("completed")
        _frames(server)
    (event,) = _say(server, "conversation.item.truncate", item_id=first, content_index=0, audio_end_ms=0)
    assert event["type"] == "error"
    assert answers.message(first) is None


def test_an_answers_item_that_was_deleted_meanwhile_stays_deleted() -> None:
    server = _openai()
    server.replace_item(
        Item(id="gone", type="message", role="assistant", content=[Part(type="output_text", text="x")]), None
    )
    assert _frames(server)[0]["type"] == "conversation.item.done"
    assert _say(server, "conversation.item.retrieve", item_id="gone")[0]["type"] == "error"


def _client() -> OpenAIClient:
    client = OpenAIClient()
    client.receive('{"type":"session.created","event_id":"e","session":{"id":"s"}}')
    return client


def test_a_client_remembers_no_more_than_it_must() -> None:
    client = _client()
    for n in range(300):
        client.receive(json.dumps({"type": "response.created", "event_id": "e", "response": {"id": f"r{n}"}}))
        client.receive(
            json.dumps(
                {
                    "type": "response.output_audio.delta",
                    "event_id": "e",
                    "response_id": f"r{n}",
                    "item_id": f"i{n}",
                    "delta": B64,
                }
            )
        )
    assert client.received_ms("i299") == 10
    assert client.received_ms("i0") == 0
    assert client.key_of("r0") == ""


def test_errors_of_a_request_are_told_from_others() -> None:
    client = _client()
    client.respond("ours", ResponseParams())
    sent = _frames(client)
    error = {"type": "error", "event_id": "e", "error": {"type": "invalid_request_error", "code": "x", "message": "m"}}
    other = client.receive(json.dumps({**error, "error": {**error["error"], "event_id": "ev_other"}}))  # type: ignore[dict-item]
    assert client.take_refused(other) == ""  # type: ignore[arg-type]
    mine = client.receive(json.dumps({**error, "error": {**error["error"], "event_id": sent[-1]["event_id"]}}))  # type: ignore[dict-item]
    assert client.take_refused(mine) == "ours"  # type: ignore[arg-type]


def test_a_request_that_met_another_response_is_made_again() -> None:
    client = _client()
    client.respond("ours", ResponseParams())
    _frames(client)
    unknown = {"code": "conversation_already_has_active_response", "message": "m", "event_id": "ev_none", "type": "x"}
    client.receive(json.dumps({"type": "error", "event_id": "e", "error": unknown}))
    assert _frames(client) == [], "that was somebody else's"
    client.receive(json.dumps({"type": "error", "event_id": "e", "error": {**unknown, "event_id": None}}))
    assert [frame["type"] for frame in _frames(client)] == ["response.create"]


def test_a_closed_client_takes_and_sends_nothing() -> None:
    client = _client()
    client.send(events.InputAudioClear(event_id="mine"))
    assert _frames(client)[-1]["event_id"] == "mine"
    client.closed()
    assert client.receive('{"type":"response.created","event_id":"e","response":{"id":"r"}}') is None
    with pytest.raises(ProtocolError):
        client.send(events.InputAudioClear())


# ---------------------------------------------------------------------- gemini


def _gemini(*, automatic: bool = True) -> GeminiClient:
    detection = g.AutomaticActivityDetection(disabled=not automatic)
    client = GeminiClient(
        g.Setup(model="m", realtime_input_config=g.RealtimeInputConfig(automatic_activity_detection=detection))
    )
    client.begin()
    client.receive('{"setupComplete":{}}')
    _frames(client)
    return client


def test_any_message_may_be_sent_by_hand_if_it_has_one_part_and_comes_in_order() -> None:
    client = _gemini(automatic=False)
    for bad in (g.ClientMessage(), g.ClientMessage(setup=g.Setup(model="m"))):
        with pytest.raises(ProtocolError):
            client.send(bad)
    start, end = g.RealtimeInput(activity_start=g.Empty()), g.RealtimeInput(activity_end=g.Empty())
    client.send(g.ClientMessage(realtime_input=start))
    assert client.activity
    with pytest.raises(ProtocolError):
        client.send(g.ClientMessage(realtime_input=start))
    client.send(g.ClientMessage(realtime_input=end))
    assert not client.activity
    client.send(g.ClientMessage(realtime_input=g.RealtimeInput(text="hello")))
    client.receive('{"toolCall":{"functionCalls":[{"id":"a","name":"f"},{"id":"b","name":"f"}]}}')
    more = [
        g.FunctionResponse(id="a", name="f", response={}, will_continue=True),
        g.FunctionResponse(id="b", name="f", response={}),
    ]
    client.send(g.ClientMessage(tool_response=g.ToolResponse(function_responses=more)))
    assert list(client.calls) == ["a"]
    assert [next(iter(frame)) for frame in _frames(client)] == ["realtimeInput"] * 3 + ["toolResponse"]


def test_half_a_sample_is_no_audio_and_a_closed_link_takes_nothing() -> None:
    client = _gemini()
    with pytest.raises(ProtocolError):
        client.audio(b"\0", 0)
    client.closed()
    assert client.receive('{"serverContent":{"turnComplete":true}}') is None
    with pytest.raises(ProtocolError):
        client.text("hello")


def test_calls_are_remembered_up_to_a_bound() -> None:
    client = _gemini()
    for n in range(400):
        client.receive(json.dumps({"toolCall": {"functionCalls": [{"id": f"c{n}", "name": "f"}]}}))
    assert "c399" in client.calls
    assert "c0" not in client.calls


def test_activity_and_interim_words_of_a_server_mean_what_they_say() -> None:
    client, meanings = _gemini(), Meanings()

    def take(message: dict[str, Any]) -> list[meaning.Meaning]:
        received = client.receive(json.dumps(message))
        assert isinstance(received, g.ServerMessage)
        return meanings.take(received)

    (began,) = take({"voiceActivity": {"voiceActivityType": "ACTIVITY_START", "audioOffset": "1.5s"}})
    assert began == meaning.Activity(started=True, offset_s=1.5)
    (words,) = take({"serverContent": {"interimInputTranscription": {"text": "hel"}}})
    assert words == meaning.UserWords(text="hel", interim=True)
    assert (
        take(
            {
                "serverContent": {
                    "modelTurn": {
                        "parts": [
                            {"text": "thinking", "thought": True},
                            {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
                        ]
                    }
                }
            }
        )
        == []
    )
    part = {"inlineData": {"mimeType": 'audio/pcm; codec=x; rate="16000"', "data": "AAA="}}
    (heard,) = take({"serverContent": {"modelTurn": {"parts": [part]}}})
    assert isinstance(heard, meaning.ModelAudio)
    assert heard.rate == 16_000


def _gemini_server(**setup: Any) -> GeminiServer:
    server = GeminiServer()
    server.receive(json.dumps({"setup": {"model": "models/m", **setup}}))
    server.accept("s")
    _frames(server)
    return server


def test_a_server_closes_once() -> None:
    server = _gemini_server()
    server.close(faults.INVALID, "first")
    server.close(faults.POLICY, "second")
    assert server.close_reason == "first"


def test_who_promised_a_history_may_begin_without_one() -> None:
    server = _gemini_server(historyConfig={"initialHistoryInClientContent": True})
    wanted = server.receive('{"realtimeInput":{"text":"hello"}}')
    assert [type(want).__name__ for want in wanted] == ["Typed"]


def test_a_function_that_goes_on_answers_more_than_once() -> None:
    server = _gemini_server(tools=[{"functionDeclarations": [{"name": "f", "behavior": "NON_BLOCKING"}]}])
    server.call([g.FunctionCall(id="a", name="f")])
    more = {"id": "a", "name": "f", "response": {}, "willContinue": True}
    assert server.receive(json.dumps({"toolResponse": {"functionResponses": [more]}}))
    assert server.receive(json.dumps({"toolResponse": {"functionResponses": [{**more, "willContinue": False}]}}))
    assert not server.calls
    assert server.receive(json.dumps({"toolResponse": {"functionResponses": [more]}})) == []
    assert server.close_code is not None


def test_tools_may_change_in_mid_session() -> None:
    server = _gemini_server()
    update = {"tools": {"tools": [{"functionDeclarations": [{"name": "f", "behavior": "NON_BLOCKING"}]}]}}
    (wanted,) = server.receive(json.dumps({"contextUpdate": update}))
    assert type(wanted).__name__ == "Updated"
    assert server.receive(json.dumps({"contextUpdate": {"systemInstruction": {"parts": [{"text": "x"}]}}}))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": 3.0, "properties": "m"},
        {"$defs": "x", "properties": {"p": {"$ref": "#/$defs/P"}}},
        {"$defs": {"P": True}, "properties": {"p": {"$ref": "#/$defs/P"}}},
        {"type": [{"a": 1}], "anyOf": "xy", "enum": 5},
        {"type": "string", "minLength": "", "maxLength": "many"},
        {"type": "array", "items": 7},
    ],
)
def test_a_schema_that_is_none_is_read_as_far_as_it_can_be(schema: dict[str, Any]) -> None:
    assert isinstance(from_json_schema(schema).get("type", from_json_schema(schema).get("anyOf")), str | list)
    assert isinstance(to_json_schema(schema), dict)


def test_schemas_of_several_types_and_of_endless_depth() -> None:
    several = from_json_schema({"type": ["string", "integer", "null"]})
    assert several == {"nullable": True, "anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]}
    deep: dict[str, Any] = {"type": "OBJECT"}
    for _ in range(20):
        deep = {"type": "OBJECT", "properties": {"x": deep}}
    assert json.dumps(to_json_schema(deep)).count("properties") < 20
    assert to_json_schema({"anyOf": [{"type": "STRING"}], "nullable": True})["anyOf"][-1] == {"type": "null"}
    assert "nullable" not in to_json_schema({"nullable": True})


# ---------------------------------------------------------------------- nova


def _nova() -> NovaClient:
    client = NovaClient("amazon.nova-2-sonic-v1:0")
    client.begin(inference=inputs.InferenceConfiguration(), voice=inputs.VoiceFormat(voice_id="matthew"))
    return client


def test_a_client_without_instructions_whose_server_says_more_than_it_asks() -> None:
    client = _nova()
    assert len(client.remember("USER", "é" * 600)) == 4, "split between characters"
    client.open_audio(16_000)
    ids = {"sessionId": "s", "promptName": client.prompt, "completionId": "c", "contentId": "x"}
    started = {**ids, "type": "TEXT", "role": "ASSISTANT", "textOutputConfiguration": {"mediaType": "text/plain"}}
    client.receive(json.dumps({"event": {"contentStart": started}}))
    assert not client.tool_uses
    assert len(client.end()) == 4, "an empty block gets a little silence, and is closed"


def test_an_event_of_no_kind_cannot_be_sent() -> None:
    client = _nova()
    with pytest.raises((ProtocolError, StreamException)):
        client.send(inputs.Input())


def test_blocks_that_are_never_closed_are_forgotten_in_the_end() -> None:
    meanings = NovaMeanings()
    ids = {"sessionId": "s", "promptName": "p", "completionId": "c"}
    for n in range(200):
        start = {
            **ids,
            "contentId": f"b{n}",
            "type": "TEXT",
            "role": "ASSISTANT",
            "additionalModelFields": '{"generationStage":"FINAL"}',
        }
        meanings.read(decode_output(json.dumps({"event": {"contentStart": start}})))
    said = {**ids, "contentId": "b0", "role": "ASSISTANT", "content": "x"}
    assert meanings.read(decode_output(json.dumps({"event": {"textOutput": said}}))) is not None
    unknown = {**ids, "contentId": "never", "role": "ASSISTANT", "content": '{ "interrupted" : true }'}
    first = meanings.read(decode_output(json.dumps({"event": {"textOutput": unknown}})))
    assert [type(entry).__name__ for entry in first] == ["Interrupted"]
    assert meanings.read(decode_output(json.dumps({"event": {"textOutput": unknown}}))) == []


def test_empty_audio_says_nothing_and_a_wrong_block_is_refused() -> None:
    made = opened()
    assert give(made, audio("")) == []
    with pytest.raises(StreamException):
        give(made, {"textInput": {"promptName": PROMPT, "contentName": "a1", "content": "x"}})
    with pytest.raises(StreamException):
        give(opened(), audio("AAAA"))  # half a sample


def test_a_tool_is_answered_once_though_two_blocks_are_open() -> None:
    made = opened()
    made.sequence.tool_asked("u1")
    first, second = tool_result("u1", "{}", "t1"), tool_result("u1", "{}", "t2")
    give(made, first[0], second[0], first[1])
    with pytest.raises(StreamException):
        give(made, second[1])


def test_a_stream_that_is_over_waits_for_nothing_but_its_end() -> None:
    made = opened()
    end = [
        {"contentEnd": {"promptName": PROMPT, "contentName": "a1"}},
        {"promptEnd": {"promptName": PROMPT}},
        {"sessionEnd": {}},
    ]
    give(made, audio(), *end)
    assert made.next_deadline() > 100
    made.wake(400.0)
    with pytest.raises(StreamException):
        made.wake(1e6)


def test_words_that_are_none_are_not_told() -> None:
    made = opened()
    made.user_said("")
    made.spoken("")
    assert made.take() == []
    made.audio(bytes(4))
    made.audio(bytes(4))
    names = [next(iter(json.loads(event)["event"])) for event in made.take()]
    assert names == ["completionStart", "contentStart", "audioOutput", "audioOutput"]


def test_a_tool_without_a_schema_takes_nothing() -> None:
    assert inputs.ToolSpec(name="f", description="d").schema() == {"type": "object", "properties": {}}


def test_a_second_container_and_a_typed_text_before_the_first() -> None:
    with pytest.raises(StreamException):
        give(opened(), open_audio("a2"))
    with pytest.raises(StreamException):
        _nova().text("hello")
    (typed,) = give(opened(), audio(), *text("t1", "USER", "hello", interactive=True))[1:]
    assert type(typed).__name__ == "Typed"


def test_a_signature_of_strange_letters_is_refused_and_no_crash() -> None:
    scope = Scope("20260101", "us-east-1", "bedrock")
    headers = {
        "host": "h",
        "x-amz-date": "20260101T000000Z",
        "authorization": f"AWS4-HMAC-SHA256 Credential=K/{scope}, SignedHeaders=host;x-amz-date, Signature=\xff\xfe",
    }
    with pytest.raises(RefusedError):
        verified("POST", "/model/m/x", "", headers, {"K": "secret"}, datetime(2026, 1, 1, tzinfo=UTC))


# ---------------------------------------------------------------------- event streams


def test_ids_and_times_are_headers_too_and_frames_come_in_pieces() -> None:
    headers = {"id": uuid.UUID(int=7), "at": Timestamp(5), "long": 2**40, "no": False}
    data = encode_frame(headers, b"x")
    assert decode_frame(data).headers == headers
    decoder = FrameDecoder()
    assert decoder.feed(data[:20]) == []
    assert decoder.pending == 20
    assert [frame.payload for frame in decoder.feed(data[20:])] == [b"x"]


def test_a_checksum_of_the_whole_and_headers_that_run_out() -> None:
    data = bytearray(encode_frame({"a": b"bc"}, b"x"))
    data[-1] ^= 1
    with pytest.raises(ProtocolError):
        decode_frame(bytes(data))
    for block in (b"\x01a\x06\x00\x09b", b"\x01a\x0c", b"\x01a\x09ab", b"\x02\xff\xfe\x00"):
        prelude = struct.pack(">II", 16 + len(block), len(block))
        body = prelude + struct.pack(">I", zlib.crc32(prelude)) + block
        with pytest.raises(ProtocolError):
            decode_frame(body + struct.pack(">I", zlib.crc32(body)))


# ---------------------------------------------------------------------- protocol v1


def test_options_that_cannot_work() -> None:
    with pytest.raises(ConfigurationError):
        ServerOptions(heartbeat_s=0)
    with pytest.raises(ConfigurationError):
        ServerOptions(heartbeat_s=5, miss_s=4)


def test_a_link_that_is_not_open_has_no_deadline_but_its_welcome() -> None:
    client = ClientProtocol(input=AudioSpec(rate=16_000), output=None)
    assert client.next_deadline() is None
    client.connect(0.0)
    assert client.next_deadline() is not None
    server = ServerProtocol(now=0.0)
    assert server.next_deadline() < float("inf")
    server.lost(1001)
    server.lost(1006)
    assert server.close_code == 1001
    server.replay_again()


def test_audio_where_none_was_agreed_and_half_samples_are_refused() -> None:
    for output, payload in ((None, bytes(4)), (AudioSpec(rate=24_000), b"\0")):
        pair = Pair()
        pair.client.output = output
        frame = encode_agent_audio(epoch=1, n=1, position=0, number=1, offset=0, pcm=payload)
        try:
            taken = pair.client.receive_bytes(frame, 0.0)
        except ProtocolError as error:
            assert error.code in ("audio_format", "sequence")  # noqa: PT017
        else:
            assert not [item for item in taken if type(item).__name__ == "AgentAudio"]


def test_a_message_that_is_too_long_in_bytes_is_too_long() -> None:
    pair = Pair(ServerOptions(text_bytes=400))
    with pytest.raises(ProtocolError):
        pair.link.receive_text(json.dumps({"type": "input.text", "text": "é" * 300}, ensure_ascii=False), 0.0)


def test_what_waits_for_a_link_is_bounded() -> None:
    client = ClientProtocol(input=AudioSpec(rate=16_000), output=None, keep_s=0.1)
    client.connect(0.0)
    client.send_audio(b"")
    dropped = 0
    for n in range(100):
        client.send_audio(bytes(640), position=320 * n)
        dropped = client.dropped_samples
    assert dropped > 0

    def flood() -> None:
        for n in range(100_000):
            client.send_input(TextInput(text=str(n)))

    with pytest.raises(LimitExceededError):
        flood()


def test_numbers_of_responses_and_clears_are_remembered_up_to_a_bound() -> None:
    delivery = ServerDelivery(
        session="s",
        token="t",
        input=AudioSpec(rate=16_000),
        output=AudioSpec(rate=24_000),
        capabilities=Capabilities(acks=True),
        options=ServerOptions(),
    )
    for n in range(300):
        delivery.number(f"r{n}")
        delivery.clear()
    assert len(delivery.clears) < 300
    assert delivery.number("r299") == 300
    assert delivery.number("r0") != 1
