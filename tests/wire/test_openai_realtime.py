"""OpenAI Realtime, both ends: recorded messages of the vendor's SDK, every quirk, and each side against the other."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from duologue.errors import ProtocolError
from duologue.wire.openai_realtime import (
    RATE,
    Answers,
    AudioAppended,
    AudioCommitted,
    CancelWanted,
    ClientProtocol,
    Configured,
    FunctionTool,
    Item,
    ItemMade,
    Malformed,
    Part,
    ResponseParams,
    ResponseWanted,
    SemanticVAD,
    ServerLimits,
    ServerProtocol,
    SessionConfig,
    Truncated,
    UnknownEvent,
    events,
)

RECORDED = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "openai-sdk-3.52.0.jsonl").read_text().splitlines()
]


def _server(**limits: Any) -> ServerProtocol:
    config = SessionConfig(id="sess_1", model="gpt-realtime", expires_at=1)
    server = ServerProtocol(config, token="t", limits=ServerLimits(**limits))
    _sent(server)
    return server


def _sent(server: ServerProtocol) -> list[dict[str, Any]]:
    out = []
    while (frame := server.next_frame()) is not None:
        out.append(json.loads(frame))
    return out


def _say(server: ServerProtocol, type: str, **fields: Any) -> list[Any]:
    return server.receive(json.dumps({**fields, "type": type}))  # type last, as openai-agents puts it


def _error(server: ServerProtocol) -> dict[str, Any]:
    (event,) = _sent(server)
    assert event["type"] == "error"
    return event["error"]


def _client() -> ClientProtocol:
    client = ClientProtocol()
    client.receive('{"type":"session.created","event_id":"e","session":{"id":"s"}}')
    return client


def _requests(client: ClientProtocol) -> list[dict[str, Any]]:
    out = []
    while (frame := client.next_frame()) is not None:
        out.append(json.loads(frame))
    return out


def _event(client: ClientProtocol, type: str, **fields: Any) -> Any:
    return client.receive(json.dumps({"type": type, "event_id": "e", **fields}))


def _created(client: ClientProtocol, id: str, metadata: Any = None) -> None:
    _event(client, "response.created", response={"id": id, "status": "in_progress", "metadata": metadata})


def _done(client: ClientProtocol, id: str) -> None:
    _event(client, "response.done", response={"id": id, "status": "completed"})


def _audio(client: ClientProtocol, response: str, item: str, samples: int) -> Any:
    delta = base64.b64encode(bytes(2 * samples)).decode()
    return _event(client, "response.output_audio.delta", response_id=response, item_id=item, delta=delta)


# ---------------------------------------------------------------------- recorded


def test_the_server_takes_what_the_sdk_sends() -> None:
    server = _server()
    answers = Answers(server)
    wanted: list[Any] = []
    for row in RECORDED:
        if row["dir"] != "client->server":
            continue
        message = dict(row["msg"])
        if message["type"] == "conversation.item.truncate":
            answer = answers.begin()
            answer.text("Hello!")
            answer.audio(bytes(960), 480)
            answer.end()
            message["item_id"] = answer.item_id  # the recorded id was another server's
        wanted += server.receive(json.dumps(message))
        if message["type"] == "response.create":
            answers.begin(wanted[-1].params).end()
    kinds = [type(entry).__name__ for entry in wanted]
    assert kinds == ["Configured", "AudioAppended", "ItemMade", "ResponseWanted", "Truncated", "ItemMade"]
    assert isinstance(server.config.turn_detection, SemanticVAD)
    assert server.config.voice == "marin"
    assert server.config.tools == [
        FunctionTool(
            name="get_weather",
            description="w",
            parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        )
    ]
    errors = [event["error"]["code"] for event in _sent(server) if event["type"] == "error"]
    assert errors == ["response_cancel_not_active"]  # the last recorded message asks for just that


def test_the_client_takes_what_the_sdk_was_sent() -> None:
    client = ClientProtocol()
    types = []
    for row in RECORDED:
        if row["dir"] == "server->client":
            event = client.receive(json.dumps(row["msg"]))
            assert not isinstance(event, Malformed | UnknownEvent | None), row
            types.append(row["msg"]["type"])
    assert client.state == "open"
    assert client.malformed == client.stale == 0
    assert client.received_ms("item_a1") == 10  # 640 characters of base64 are 480 bytes


def test_a_reply_has_the_recorded_order_of_events() -> None:
    server = _server()
    answers = Answers(server)
    _say(server, "conversation.item.create", item=RECORDED[5]["msg"]["item"])
    answer = answers.begin()
    answer.text("Hello!")
    answer.audio(bytes(480), 240)
    answer.end()
    ours = [event["type"] for event in _sent(server)]
    theirs = [row["msg"]["type"] for row in RECORDED if row["dir"] == "server->client"]
    begin, end = theirs.index("conversation.item.added"), theirs.index("rate_limits.updated")
    assert ours == theirs[begin:end]


# ---------------------------------------------------------------------- quirks of the server's side


def test_metadata_comes_back_with_the_response() -> None:  # LiveKit waits for it in vain otherwise
    server = _server()
    (wanted,) = _say(server, "response.create", response={"metadata": {"client_event_id": "x"}})
    Answers(server).begin(wanted.params).end()
    created, done = _sent(server)
    assert created["response"]["metadata"] == done["response"]["metadata"] == {"client_event_id": "x"}


def test_an_error_echoes_the_events_id_and_changes_nothing() -> None:
    server = _server()
    before = server.config
    assert _say(server, "session.update", event_id="ev_9", session={"type": "realtime", "voice": "x"}) == []
    error = _error(server)
    assert error == {
        "type": "invalid_request_error",
        "code": "unknown_parameter",
        "message": "Unknown parameter: 'session.voice'.",
        "param": "session.voice",
        "event_id": "ev_9",
    }
    assert server.config is before
    assert server.close_code is None


def test_an_id_of_any_type_but_text_is_no_id() -> None:
    server = _server()
    _say(server, "response.cancel", event_id=3)
    assert _error(server)["event_id"] is None


def test_both_item_events_are_sent_and_the_previous_id_is_a_real_one() -> None:
    server = _server()
    answers = Answers(server)
    server.committed()
    answers.begin().text("a")
    events_ = _sent(server)
    added = [event for event in events_ if event["type"] == "conversation.item.added"]
    assert [event["type"] for event in events_].count("conversation.item.done") == 1
    assert added[0]["previous_item_id"] is None
    assert added[1]["previous_item_id"] == added[0]["item"]["id"]


def test_part_types_differ_between_events_and_items() -> None:
    server = _server()
    answer = Answers(server).begin()
    answer.text("a")
    answer.audio(bytes(2), 1)
    answer.end()
    events_ = {event["type"]: event for event in _sent(server)}
    assert events_["response.content_part.added"]["part"] == {"type": "audio", "transcript": ""}
    assert events_["response.content_part.done"]["part"] == {"type": "audio", "transcript": "a"}
    assert events_["conversation.item.done"]["item"]["content"] == [{"type": "output_audio", "transcript": "a"}]


def test_an_update_is_partial_and_shows_the_whole_session() -> None:
    server = _server()
    update = {
        "type": "realtime",
        "model": "gpt-realtime-2.1",  # openai-agents always sends one; it cannot be changed
        "instructions": "Be brief.",
        "audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 0.4}, "noise_reduction": None}},
        "tracing": "auto",
    }
    (configured,) = _say(server, "session.update", session=update)
    assert isinstance(configured, Configured)
    (event,) = _sent(server)
    shown = event["session"]
    assert shown["model"] == "gpt-realtime"
    assert shown["instructions"] == "Be brief."
    assert shown["audio"]["output"]["voice"] == "alloy"
    assert shown["audio"]["input"]["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.4,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "idle_timeout_ms": None,
        "create_response": True,
        "interrupt_response": True,
    }
    _say(server, "session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
    _say(server, "session.update", session={"type": "realtime", "instructions": "", "tools": []})
    assert server.config.turn_detection is None
    assert server.config.instructions == ""


def test_a_session_that_is_sent_back_as_it_came_is_taken() -> None:
    server = _server()
    assert _say(server, "session.update", session=server.session())
    assert _sent(server)[0]["type"] == "session.updated"


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ("{", "invalid_json", None),
        ("[]", "invalid_type", None),
        ("{}", "missing_required_parameter", "type"),
        ('{"type":"session.created"}', "invalid_value", "type"),
        ('{"type":"session.update"}', "missing_required_parameter", "session"),
        ('{"type":"session.update","session":{}}', "missing_required_parameter", "session.type"),
        ('{"type":"session.update","session":{"type":"transcription"}}', "invalid_value", "session.type"),
        (
            '{"type":"session.update","session":{"type":"realtime","output_modalities":["audio","text"]}}',
            "invalid_value",
            "session.output_modalities",
        ),
        (
            '{"type":"session.update","session":{"type":"realtime","audio":{"output":{"speed":3}}}}',
            "invalid_value",
            "session.audio.output.speed",
        ),
        (
            '{"type":"session.update","session":{"type":"realtime","audio":{"input":{"format":'
            '{"type":"audio/pcm","rate":16000}}}}}',
            "invalid_value",
            "session.audio.input.format.rate",
        ),
        (
            '{"type":"session.update","session":{"type":"realtime","max_output_tokens":5000}}',
            "invalid_value",
            "session.max_output_tokens",
        ),
        ('{"type":"input_audio_buffer.append","audio":"AAA"}', "invalid_value", "audio"),
        ('{"type":"input_audio_buffer.append","audio":"AA=="}', "invalid_value", "audio"),
        ('{"type":"input_audio_buffer.commit"}', "input_audio_buffer_commit_empty", None),
        ('{"type":"response.cancel"}', "response_cancel_not_active", None),
        (
            '{"type":"conversation.item.truncate","item_id":"x","content_index":0,"audio_end_ms":0}',
            "item_truncate_invalid_item_id",
            "item_id",
        ),
        ('{"type":"conversation.item.delete","item_id":"x"}', "item_delete_invalid_item_id", "item_id"),
        ('{"type":"conversation.item.retrieve","item_id":"x"}', "item_retrieve_invalid_item_id", "item_id"),
        ('{"type":"conversation.item.create","item":{"type":"x"}}', "invalid_value", "item.type"),
        (
            '{"type":"conversation.item.create","item":{"type":"function_call_output","output":"x"}}',
            "missing_required_parameter",
            "item.call_id",
        ),
        (
            '{"type":"conversation.item.create","item":{"type":"message","role":"assistant",'
            '"content":[{"type":"text","text":"beta"}]}}',
            "invalid_value",
            "item.content[0].type",
        ),
        ('{"type":"response.create","response":{"modalities":["audio"]}}', "unknown_parameter", "response.modalities"),
        ('{"type":"response.create","response":{"conversation":"none"}}', "invalid_value", "response.conversation"),
    ],
)
def test_bad_input_gets_the_protocols_own_error(message: str, code: str, param: str | None) -> None:
    server = _server()
    assert server.receive(message) == []
    error = _error(server)
    assert (error["code"], error["param"]) == (code, param)
    assert server.close_code is None
    assert _say(server, "response.create"), "the link goes on"


def test_only_one_response_at_a_time() -> None:
    server = _server()
    answers = Answers(server)
    (wanted,) = _say(server, "response.create")
    assert isinstance(wanted, ResponseWanted)
    assert _say(server, "response.create") == []
    assert _error(server)["code"] == "conversation_already_has_active_response"
    answer = answers.begin(wanted.params)
    assert _say(server, "response.create") == []
    assert _say(server, "response.cancel", response_id="another") == []
    assert _say(server, "response.cancel", response_id=answer.id) == [CancelWanted()]
    answer.end("cancelled", reason="client_cancelled")
    assert _sent(server)[-1]["response"]["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    assert _say(server, "response.create")


def test_truncation_beyond_what_was_sent_is_refused_in_the_vendors_words() -> None:
    server = _server()
    answer = Answers(server).begin()
    answer.text("Hello there")
    answer.audio(bytes(4800), 2400)
    answer.end()
    _sent(server)
    fields = {"item_id": answer.item_id, "content_index": 0}
    assert _say(server, "conversation.item.truncate", audio_end_ms=101, **fields) == []
    assert _error(server)["message"] == "Audio content of 100ms is already shorter than 101ms"
    assert _say(server, "conversation.item.truncate", audio_end_ms=60, **fields) == [
        Truncated(item_id=answer.item_id, audio_end_ms=60)
    ]
    _say(server, "conversation.item.retrieve", item_id=answer.item_id)
    assert _sent(server)[-1]["item"]["content"] == [{"type": "output_audio", "transcript": None}]


def test_only_answers_that_were_spoken_can_be_truncated() -> None:
    server = _server()
    (made,) = _say(server, "conversation.item.create", item={"type": "message", "role": "user", "content": []})
    assert isinstance(made, ItemMade)
    _sent(server)
    _say(server, "conversation.item.truncate", item_id=made.item.id, content_index=0, audio_end_ms=0)
    assert _error(server)["param"] == "item_id"


def test_a_commit_of_less_than_100_ms_is_refused() -> None:
    server = _server()
    assert isinstance(_say(server, "input_audio_buffer.append", audio=_b64(4798))[0], AudioAppended)
    assert _say(server, "input_audio_buffer.commit") == []
    assert _error(server)["code"] == "input_audio_buffer_commit_empty"
    _say(server, "input_audio_buffer.append", audio=_b64(2))
    (committed,) = _say(server, "input_audio_buffer.commit")
    assert isinstance(committed, AudioCommitted)
    kinds = [event["type"] for event in _sent(server)]
    assert kinds == ["input_audio_buffer.committed", "conversation.item.added", "conversation.item.done"]


def test_the_vads_events_and_the_message_share_one_item() -> None:
    server = _server()
    server.speech_started(100)
    server.speech_stopped(900)
    item = server.committed()
    assert {event.get("item_id") or event["item"]["id"] for event in _sent(server)} == {item}
    server.speech_started(2000)
    assert _sent(server)[0]["item_id"] != item


def test_a_transcript_is_sent_only_to_who_asked_for_it_and_may_come_late() -> None:
    server = _server()
    answers = Answers(server)
    first = server.committed()
    server.transcribed(first, "hello")
    assert "conversation.item.input_audio_transcription.completed" not in [event["type"] for event in _sent(server)]
    transcription = {"model": "whisper-1"}
    _say(server, "session.update", session={"type": "realtime", "audio": {"input": {"transcription": transcription}}})
    second = server.committed()
    answers.begin().end()
    _sent(server)
    server.transcribed(second, "there")
    (event,) = _sent(server)
    assert (event["item_id"], event["transcript"]) == (second, "there")


def test_a_function_call_is_an_item_with_its_arguments_whole() -> None:
    server = _server()
    answer = Answers(server).begin()
    answer.text("One moment.")
    answer.call("call_1", "f", '{"a":1}')
    answer.call("call_2", "g", "{}")
    answer.end()
    events_ = _sent(server)
    output = events_[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
    assert output[1]["arguments"] == '{"a":1}'
    assert [event["output_index"] for event in events_ if event["type"] == "response.output_item.added"] == [0, 1, 2]
    done = [event for event in events_ if event["type"] == "response.function_call_arguments.done"]
    assert [(event["call_id"], event["name"]) for event in done] == [("call_1", "f"), ("call_2", "g")]


def test_a_text_answer_has_no_audio_events() -> None:
    server = _server()
    answer = Answers(server).begin(ResponseParams(output_modalities=["text"]))
    answer.text("Hi")
    answer.audio(bytes(2), 1)
    answer.end()
    events_ = _sent(server)
    assert not [event for event in events_ if "audio" in event["type"]]
    assert events_[-1]["response"]["output"][0]["content"] == [{"type": "output_text", "text": "Hi"}]


def test_the_voice_is_fixed_once_it_was_heard() -> None:
    server = _server()
    voice = {"type": "realtime", "audio": {"output": {"voice": "marin"}}}
    assert _say(server, "session.update", session=voice)
    Answers(server).begin().audio(bytes(2), 1)
    _sent(server)
    assert _say(server, "session.update", session=voice), "the same one is none other"
    _sent(server)
    other = {"type": "realtime", "audio": {"output": {"voice": "ash"}}}
    assert _say(server, "session.update", session=other) == []
    assert _error(server)["code"] == "cannot_update_voice"


def test_an_item_may_be_put_first() -> None:
    server = _server()
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}
    (first,) = _say(server, "conversation.item.create", item=message)
    (second,) = _say(server, "conversation.item.create", item={**message, "id": "mine"}, previous_item_id="root")
    assert (first.last, second.last) == (True, False)
    assert _sent(server)[-1]["previous_item_id"] is None
    _say(server, "conversation.item.create", item=message, previous_item_id="nobody")
    assert _error(server)["param"] == "previous_item_id"
    _say(server, "conversation.item.create", item={**message, "id": "mine"})
    assert _error(server)["param"] == "item.id"


def test_an_expired_session_says_so_and_closes_as_the_vendor_does() -> None:
    server = _server()
    server.expire()
    assert _error(server)["code"] == "session_expired"
    assert (server.close_code, server.close_reason) == (
        1001,
        "Your session hit the maximum duration of 60 minutes.",
    )
    assert _say(server, "response.create") == []


def test_a_flood_of_errors_ends_the_link_and_a_few_do_not() -> None:
    server = _server(errors=3)
    for _ in range(3):
        server.receive("{")
    assert server.close_code is None
    assert _say(server, "input_audio_buffer.clear")
    for _ in range(4):
        server.receive("{")
    assert server.close_code == 1008


def test_an_oversized_message_ends_the_link() -> None:
    server = _server(append_bytes=1000)
    server.receive("x" * 100_000)
    assert server.close_code == 1009


# ---------------------------------------------------------------------- quirks of the client's side


def test_nothing_is_sent_before_the_session_exists() -> None:
    client = ClientProtocol()
    with pytest.raises(ProtocolError, match="connecting"):
        client.commit() or client.clear()
    assert isinstance(_event(client, "input_audio_buffer.cleared"), Malformed)


def test_two_responses_are_never_asked_for_at_once() -> None:
    client = _client()
    client.respond("r1", ResponseParams())
    client.respond("r2", ResponseParams())
    assert [request["response"]["metadata"]["duologue"] for request in _requests(client)] == ["r1"]
    _created(client, "resp_1", {"duologue": "r1"})
    assert client.key_of("resp_1") == "r1"
    _done(client, "resp_1")
    assert [request["response"]["metadata"]["duologue"] for request in _requests(client)] == ["r2"]


def test_a_request_waits_for_a_response_that_the_server_began_itself() -> None:
    client = _client()
    _created(client, "resp_1")
    client.respond("r1", ResponseParams())
    assert _requests(client) == []
    assert client.key_of("resp_1") == ""
    _done(client, "resp_1")
    assert len(_requests(client)) == 1


def test_a_request_that_crossed_the_servers_own_response_is_made_again() -> None:
    client = _client()
    client.respond("r1", ResponseParams())
    (request,) = _requests(client)
    _event(client, "input_audio_buffer.committed", item_id="i")
    _created(client, "resp_1")
    error = {"code": "conversation_already_has_active_response", "event_id": request["event_id"]}
    _event(client, "error", error=error)
    assert _requests(client) == []
    _done(client, "resp_1")
    assert [again["response"] for again in _requests(client)] == [request["response"]]


def test_a_server_that_returns_no_metadata_is_matched_by_order() -> None:
    client = _client()
    client.respond("r1", ResponseParams())
    _created(client, "resp_1", None)
    assert client.key_of("resp_1") == "r1"


def test_a_refused_request_is_named_once() -> None:
    client = _client()
    client.respond("r1", ResponseParams())
    (request,) = _requests(client)
    event = _event(client, "error", error={"code": "invalid_value", "event_id": request["event_id"]})
    assert client.take_refused(event) == "r1"
    assert client.take_refused(event) == ""
    assert not client.owed


def test_audio_that_trails_in_after_its_response_is_fenced_off() -> None:
    client = _client()
    _created(client, "resp_1")
    assert isinstance(_audio(client, "resp_1", "item_1", 240), events.AudioDelta)
    _done(client, "resp_1")
    assert _audio(client, "resp_1", "item_1", 240) is None
    assert client.stale == 1
    assert client.received_ms("item_1") == 10


def test_truncation_is_clamped_to_what_was_received() -> None:
    client = _client()
    _created(client, "resp_1")
    _audio(client, "resp_1", "item_1", 2400)
    assert not client.truncate("item_1", 100), "all of it was heard"
    assert not client.truncate("item_2", 1), "never received"
    assert client.truncate("item_1", 40)
    assert not client.truncate("item_1", 40), "it is that short already"
    (request,) = _requests(client)
    assert (request["item_id"], request["audio_end_ms"], request["content_index"]) == ("item_1", 40, 0)


def test_the_providers_times_are_brought_back_to_the_users_track() -> None:
    client = _client()
    client.audio(bytes(2 * RATE), 5 * RATE)
    client.audio(bytes(2 * RATE), 6 * RATE)
    client.audio(bytes(2 * RATE), 10 * RATE)  # a gap of three seconds on the track, none on the link
    assert client.position_of(500) == 5 * RATE + RATE // 2
    assert client.position_of(1500) == 6 * RATE + RATE // 2
    assert client.position_of(2500) == 10 * RATE + RATE // 2


def test_too_little_is_not_committed() -> None:
    client = _client()
    client.audio(bytes(4798), 0)
    assert not client.commit()
    client.audio(bytes(2), 2399)
    assert client.commit()
    assert not client.commit()


def test_what_is_new_or_broken_passes_by() -> None:
    client = _client()
    unknown = _event(client, "response.mcp_call.completed", item_id="x")
    assert isinstance(unknown, UnknownEvent)
    assert unknown.raw["item_id"] == "x"
    for text in ("{", "[]", "3", '{"type":4}', '{"type":"response.created"}', '{"type":"error","error":3}'):
        assert isinstance(client.receive(text), Malformed), text
    _created(client, "resp_1")
    odd = _event(client, "response.output_audio.delta", response_id="resp_1", item_id="i", delta="AA==")
    assert isinstance(odd, Malformed)
    assert client.malformed == 7


def test_an_item_of_an_unknown_kind_is_no_error() -> None:
    client = _client()
    event = _event(client, "conversation.item.added", item={"type": "mcp_list_tools", "tools": []})
    assert isinstance(event, events.ItemAdded)


# ---------------------------------------------------------------------- one against the other


def test_both_sides_agree_on_a_whole_exchange() -> None:
    server = ServerProtocol(SessionConfig(id="s", model="m"), token="t")
    answers = Answers(server)
    client = ClientProtocol()
    seen: list[Any] = []

    def down() -> None:
        while (frame := server.next_frame()) is not None:
            event = client.receive(frame)
            assert not isinstance(event, Malformed | UnknownEvent)
            seen.append(event)

    def up() -> list[Any]:
        wanted = []
        while (request := client.next_frame()) is not None:
            wanted += server.receive(request)
        return wanted

    down()
    client.audio(bytes(9600), 0)
    client.commit()
    image = Part(type="input_image", image_url="data:image/png;base64,AA==")
    client.create(Item(type="message", role="user", content=[image]))
    client.respond("r1", ResponseParams(instructions="x"))
    wanted = up()
    assert [type(entry).__name__ for entry in wanted] == [
        "AudioAppended",
        "AudioCommitted",
        "ItemMade",
        "ResponseWanted",
    ]
    answer = answers.begin(wanted[-1].params)
    answer.text("Hello")
    answer.audio(bytes(4800), 2400)
    answer.call("c", "f", "{}")
    down()
    assert client.key_of(answer.id) == "r1"
    client.truncate(answer.item_id, 50)
    client.cancel(answer.id)
    assert [type(entry).__name__ for entry in up()] == ["Truncated", "CancelWanted"]
    answer.end("cancelled", reason="client_cancelled")
    down()
    assert not client.owed
    assert isinstance(seen[-1], events.ResponseDone)


def _b64(size: int) -> str:
    return base64.b64encode(bytes(size)).decode()
