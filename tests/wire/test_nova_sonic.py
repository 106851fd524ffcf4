"""Nova Sonic's codec: recorded frames of the vendor's SDK, every client's way of sending, refusals, and meanings."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from duologue.errors import ProtocolError
from duologue.wire.eventstream import Timestamp, encode_frame, encode_headers
from duologue.wire.nova_sonic import (
    DOCUMENTED,
    EXCEPTION_TYPES,
    NOVA_1,
    ChunkSigner,
    ChunkVerifier,
    ClientProtocol,
    InputReader,
    Meanings,
    OutputReader,
    SequenceLimits,
    StreamException,
    StreamLimits,
    UnmodelledError,
    decode_input,
    decode_output,
    encode_chunk,
    encode_error,
    encode_event,
    encode_exception,
    faults,
    inputs,
    voice_for,
)
from duologue.wire.nova_sonic import meaning as m
from duologue.wire.nova_sonic import sequence as s
from duologue.wire.sigv4 import Scope, canonical_request, request_signature, signing_key
from tests.wire.nova_events import (
    PROMPT,
    PROMPT_START,
    START,
    audio,
    end,
    give,
    open_audio,
    opened,
    sent,
    server,
    text,
    tool_result,
)

DATA = Path(__file__).parent / "data"
RECORDED = [json.loads(line) for line in (DATA / "nova-sdk-0.12.0.jsonl").read_text().splitlines()]
SECRET = "SECRETEXAMPLEKEY"
IDS = {"sessionId": "s", "promptName": PROMPT, "completionId": "c"}


# ---------------------------------------------------------------------- frames


def _run(name: str) -> tuple[dict[str, str], list[dict[str, Any]]]:
    rows = [row for row in RECORDED if row["run"] == name]
    return dict(rows[0]["headers"]), [row for row in rows if row["kind"] == "frame"]


def _frame(row: dict[str, Any]) -> bytes:
    """The bytes that the SDK sent, from their parts: its transcript is cut apart, its signatures tell whether this is right."""
    inner = b""
    if "event" in row:
        event = base64.b64encode(json.dumps(row["event"]).encode()).decode()
        payload = json.dumps({"bytes": event}, separators=(",", ":")).encode()
        inner = encode_frame(row["inner_headers"], payload)
    outer = row["outer_headers"]
    return encode_frame(
        {":date": Timestamp(outer[":date"]), ":chunk-signature": bytes.fromhex(outer[":chunk-signature"])}, inner
    )


@pytest.mark.parametrize("run", ["ok", "validation-exception"])
def test_recorded_frames_of_the_sdk_verify_and_read(run: str) -> None:
    headers, rows = _run(run)
    scope = Scope("20261121", "us-east-1", "bedrock")
    path = headers[":path"].rstrip("?")
    signed = ["content-type", "host", "x-amz-content-sha256", "x-amz-date"]
    canonical = canonical_request(
        "POST", path, "", {**headers, "host": headers[":authority"]}, signed, headers["x-amz-content-sha256"]
    )
    signature = request_signature(signing_key(SECRET, scope), headers["x-amz-date"], scope, canonical)
    assert signature == headers["authorization"].rpartition("Signature=")[2]
    reader = InputReader(ChunkVerifier(SECRET, scope, signature))
    stream = b"".join(_frame(row) for row in rows)
    assert [len(_frame(row)) for row in rows] == [row["len"] for row in rows]
    events = [json.loads(event) for at in range(0, len(stream), 37) for event in reader.feed(stream[at : at + 37])]
    assert events == [row["event"] for row in rows if "event" in row]
    assert reader.ended, "the signed empty frame ends the input"
    protocol = server()
    for event in events:
        protocol.receive(json.dumps(event), 0.0)


def test_our_signer_makes_the_frames_of_the_sdk() -> None:
    headers, rows = _run("ok")
    signer = ChunkSigner(
        SECRET, Scope("20261121", "us-east-1", "bedrock"), headers["authorization"].rpartition("Signature=")[2]
    )
    for row in rows:
        date = row["outer_headers"][":date"]
        made = signer.chunk(json.dumps(row["event"]).encode(), date) if "event" in row else signer.end(date)
        assert made == _frame(row)


def test_a_frame_out_of_the_chain_is_refused() -> None:
    headers, rows = _run("ok")
    signature = headers["authorization"].rpartition("Signature=")[2]
    reader = InputReader(ChunkVerifier(SECRET, Scope("20261121", "us-east-1", "bedrock"), signature))
    assert len(list(reader.feed(_frame(rows[0])))) == 1
    with pytest.raises(ProtocolError, match="chain") as error:
        list(reader.feed(_frame(rows[2])))
    assert error.value.code == "signature"


def test_input_may_end_without_the_empty_frame_and_not_go_on_after_it() -> None:
    signer = ChunkSigner("x", Scope("20260101", "r", "bedrock"), "00" * 32)
    reader = InputReader()
    assert [json.loads(event) for event in reader.feed(signer.chunk(b'{"event":{"sessionEnd":{}}}', 0))]
    assert not reader.ended
    list(reader.feed(signer.end(0)))
    assert reader.ended
    with pytest.raises(ProtocolError, match="follows the end"):
        list(reader.feed(signer.end(0)))


def test_frames_dated_beyond_the_calendar_are_refused() -> None:
    frame = encode_frame({":date": Timestamp(1 << 62), ":chunk-signature": bytes(32)}, b"")
    with pytest.raises(ProtocolError, match="no time"):
        list(InputReader(ChunkVerifier("x", Scope("d", "r", "s"), "00")).feed(frame))


def test_server_frames_are_single_and_may_be_padded() -> None:
    reader = OutputReader()
    event = b'{"event":{"completionStart":{}}}'
    assert list(reader.feed(encode_chunk(event))) == [event]
    padded = json.dumps({"bytes": base64.b64encode(event).decode(), "p": "abcdefgh"}).encode()
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    assert list(reader.feed(encode_frame(headers, padded))) == [event]
    assert reader.whole
    list(reader.feed(encode_chunk(event)[:9]))
    assert not reader.whole


@pytest.mark.parametrize("type", EXCEPTION_TYPES)
def test_each_exception_travels(type: Any) -> None:
    frames = encode_chunk(b"{}") + encode_exception(type, "too much")
    got = OutputReader().feed(frames)
    assert next(got) == b"{}", "what came before it is not lost"
    with pytest.raises(StreamException, match="too much") as error:
        next(got)
    assert (error.value.type, error.value.text) == (type, "too much")


def test_no_other_exception_can_be_made_and_unmodelled_errors_are_read() -> None:
    with pytest.raises(ProtocolError, match="the protocol has no|The protocol has no"):
        encode_exception("modelErrorException", "x")  # type: ignore[arg-type]
    with pytest.raises(UnmodelledError, match="boom") as error:
        list(OutputReader().feed(encode_error("InternalFailure", "boom")))
    assert error.value.error == "InternalFailure"
    other = encode_frame(
        {":message-type": "exception", ":exception-type": "modelErrorException"}, b'{"message":"what"}'
    )
    with pytest.raises(UnmodelledError, match="what"):
        list(OutputReader().feed(other))


def test_golden_headers_of_the_date() -> None:
    golden = json.loads((DATA / "eventstream-golden.json").read_text())["signing"]
    assert encode_headers({":date": Timestamp(1767323045000)}).hex() == golden["date_header_bytes_hex"]


# ---------------------------------------------------------------------- what clients send


def test_a_whole_session() -> None:
    taken = give(
        server(),
        START,
        PROMPT_START,
        *text("s1", "SYSTEM", "Be brief."),
        *text("h1", "USER", "Hello"),
        *text("h2", "ASSISTANT", "Hi"),
        open_audio(),
        audio(),
        *text("t1", "USER", "typed", interactive=True),
        end("a1"),
        {"promptEnd": {"promptName": PROMPT}},
        {"sessionEnd": {}},
    )
    assert [type(entry).__name__ for entry in taken] == [
        "SessionOpened",
        "PromptOpened",
        "Instructed",
        "Remembered",
        "Remembered",
        "AudioOpened",
        "Heard",
        "Typed",
        "AudioClosed",
        "PromptClosed",
        "SessionClosed",
    ]
    heard = next(entry for entry in taken if isinstance(entry, s.Heard))
    assert heard.pcm == bytes(4)


def test_strands_opens_audio_late_and_ends_with_an_event_of_its_own() -> None:
    made = server()
    start = {"sessionStart": {"inferenceConfiguration": {"temperature": 0.5}}}  # partial
    give(made, start, PROMPT_START, *text("s1", "SYSTEM", "x"), *text("t1", "USER", "first typed", interactive=True))
    taken = give(made, open_audio(), audio(), end("a1"), {"promptEnd": {"promptName": PROMPT}}, {"connectionEnd": {}})
    assert isinstance(taken[-1], s.SessionClosed)


def test_strands_sends_empty_instructions() -> None:
    made = server()
    assert give(made, START, PROMPT_START, *text("s1", "SYSTEM", ""))[-1] == s.Instructed(text="")


def test_pipecat_pretty_prints_and_leaves_the_audio_open() -> None:
    made = server()
    give(made, START, PROMPT_START, open_audio(), audio(), indent=2)
    taken = give(made, {"promptEnd": {"promptName": PROMPT}}, {"sessionEnd": {}}, indent=2)
    assert [type(entry).__name__ for entry in taken] == ["AudioClosed", "PromptClosed", "SessionClosed"]


def test_livekit_configures_no_tools_at_length() -> None:
    prompt = {
        **PROMPT_START["promptStart"],
        "toolUseOutputConfiguration": {"mediaType": "application/json"},
        "toolConfiguration": {"tools": []},
    }
    (taken,) = give(_started(), {"promptStart": prompt})
    assert taken.prompt.tool_configuration.tools == ()


def _started(**options: Any) -> Any:
    made = server(**options)
    give(made, START)
    return made


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize("schema", [json.dumps(SCHEMA), SCHEMA])
def test_a_schema_may_be_text_or_an_object(schema: Any) -> None:
    tool = {"toolSpec": {"name": "w", "description": "d", "inputSchema": {"json": schema}}}
    prompt = {**PROMPT_START["promptStart"], "toolConfiguration": {"tools": [tool], "toolChoice": {"auto": {}}}}
    (taken,) = give(_started(), {"promptStart": prompt})
    assert taken.prompt.tool_configuration.tools[0].tool_spec.schema() == SCHEMA


@pytest.mark.parametrize("schema", ["{", "[]", 3])
def test_a_schema_that_is_none_is_refused(schema: Any) -> None:
    tool = {"toolSpec": {"name": "w", "inputSchema": {"json": schema}}}
    prompt = {**PROMPT_START["promptStart"], "toolConfiguration": {"tools": [tool]}}
    with pytest.raises(StreamException, match="schema"):
        give(_started(), {"promptStart": prompt})


def test_text_and_tool_blocks_come_and_go_while_audio_is_open() -> None:
    made = opened()
    made.tool_use("u1", "w", "{}")
    blocks = [*text("t1", "USER", "typed", interactive=True)[:2], *tool_result("u1", '{"a":1}', "t2")]
    taken = give(made, audio(), blocks[0], audio(), blocks[1], audio(), *blocks[2:], audio(), end("t1"), audio())
    assert [type(entry).__name__ for entry in taken if not isinstance(entry, s.Heard)] == ["Answered", "Typed"]


def test_unknown_events_and_fields_are_ignored() -> None:
    made = opened()
    assert give(made, {"somethingNew": {"x": [1]}}) == []
    heard = give(made, {"audioInput": {**audio()["audioInput"], "extra": 1}})
    assert heard[0].pcm == bytes(4)


def test_text_is_split_within_one_block() -> None:
    pieces = text("h1", "USER", "one ")
    pieces.insert(2, {"textInput": {"promptName": PROMPT, "contentName": "h1", "content": "two"}})
    made = server()
    give(made, START, PROMPT_START)
    assert give(made, *pieces) == [s.Remembered(role="USER", text="one two")]


def test_text_is_not_answered_before_68_ms_of_audio() -> None:
    made = opened()
    short, enough = base64.b64encode(bytes(2 * 1000)).decode(), base64.b64encode(bytes(2 * 88)).decode()
    typed = give(made, audio(short), *text("t1", "USER", "a", interactive=True))[-1]
    assert not typed.answered
    assert made.sequence.heard_ms == 62
    typed = give(made, audio(enough), *text("t2", "USER", "b", interactive=True))[-1]
    assert typed.answered


# ---------------------------------------------------------------------- what the service refuses


@pytest.mark.parametrize(
    ("events", "match"),
    [
        ([PROMPT_START], faults.INVALID),
        ([START, START], faults.INVALID),
        ([START, PROMPT_START, PROMPT_START], faults.INVALID),
        ([START, open_audio()], faults.INVALID),
        ([START, PROMPT_START, audio()], faults.NO_CONTENT.format(name="a1")),
        ([START, PROMPT_START, end("zz")], faults.NO_CONTENT.format(name="zz")),
        ([START, PROMPT_START, open_audio(), end("a1")], "Cannot end content"),
        ([START, PROMPT_START, text("s1", "SYSTEM", "")[0], end("s1")], "no content data"),
        ([START, PROMPT_START, *text("s1", "SYSTEM", "x"), *text("s2", "SYSTEM", "y")], faults.SECOND_SYSTEM),
        ([START, PROMPT_START, *text("t", "USER", "x")[:2], {"promptEnd": {"promptName": PROMPT}}], "must be closed"),
        ([START, PROMPT_START, open_audio(), open_audio("a2")], faults.INVALID),
        ([START, PROMPT_START, *text("h", "ASSISTANT", "hi")], faults.INVALID),
        ([START, PROMPT_START, *tool_result("unknown", "{}")], faults.INVALID),
        ([START, PROMPT_START, open_audio(rate=44100)], faults.INVALID),
        ([START, PROMPT_START, open_audio(), audio("AA==")], faults.INVALID),
        ([START, PROMPT_START, *text("h", "USER", "a"), *text("h", "USER", "b")], faults.INVALID),
        ([START, PROMPT_START, *text("h", "USER", "x" * 51_201)], faults.HISTORY),
        ([START, {"promptStart": {**PROMPT_START["promptStart"], "promptName": ""}}], faults.INVALID),
        ([START, PROMPT_START, open_audio(), *text("t", "ASSISTANT", "x", interactive=True)], faults.INVALID),
        ([{"sessionStart": {"inferenceConfiguration": {"maxTokens": 10_001}}}], faults.INVALID),
        ([START, PROMPT_START, {"sessionEnd": {}}, {"sessionEnd": {}}], faults.INVALID),
    ],
)
def test_what_is_out_of_order_is_refused_in_the_services_words(events: list[Any], match: str) -> None:
    with pytest.raises(StreamException) as error:
        give(server(), *events)
    assert error.value.type == "validationException"
    assert match in error.value.text


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"event":{}}',
        '{"event":{"a":{},"b":{}}}',
        '{"event":{"audioInput":{}}}',
        b"\xff",
        "[" * 9999,
    ],
)
def test_what_is_no_event_is_refused(payload: Any) -> None:
    with pytest.raises(StreamException, match="fix your input"):
        opened().receive(payload, 0.0)
    with pytest.raises(ProtocolError):
        decode_input(payload)


def test_an_event_may_not_be_endless() -> None:
    with pytest.raises(ProtocolError, match="too long"):
        decode_output(b" " * ((1 << 20) + 1))


def test_flat_sensitivity_is_of_the_first_generation_only() -> None:
    flat = {"sessionStart": {"endpointingSensitivity": "HIGH"}}
    with pytest.raises(StreamException, match="Invalid input request"):
        give(server(), flat)
    assert give(server(model=NOVA_1), flat)
    nested = {"sessionStart": {"turnDetectionConfiguration": {"endpointingSensitivity": "LOW"}}}
    (taken,) = give(server(), nested)
    assert taken.start.turn_detection_configuration.endpointing_sensitivity == "LOW"


def test_exactly_one_result_for_each_tool_use_and_in_json() -> None:
    made = opened()
    made.tool_use("u1", "w", "{}")
    assert give(made, *tool_result("u1", '{"ok":true}')) == [s.Answered(tool_use_id="u1", content='{"ok":true}')]
    with pytest.raises(StreamException):
        give(made, *tool_result("u1", "{}", "t2"))
    made = opened()
    made.tool_use("u1", "w", "{}")
    with pytest.raises(StreamException, match=faults.TOOL_RESPONSE):
        give(made, *tool_result("u1", "sunny, 20 degrees"))


def test_history_has_a_limit_in_all() -> None:
    made = server(history=SequenceLimits(text_bytes=100, history_bytes=150))
    give(made, START, PROMPT_START, *text("h1", "USER", "x" * 100))
    with pytest.raises(StreamException, match="Trim chat history"):
        give(made, *text("h2", "ASSISTANT", "y" * 51))


def test_a_gap_in_audio_silence_and_age_end_a_stream() -> None:
    limits = StreamLimits(connection_s=480, audio_gap_s=55, interactive_gap_s=295)
    made = opened(limits=limits)
    assert made.next_deadline() == 55
    made.wake(54.9)
    with pytest.raises(StreamException, match="less than 55 seconds") as error:
        made.wake(55.0)
    assert error.value.type == "validationException"
    assert "InternalErrorCode=532" in error.value.text
    for now in range(0, 300, 50):
        give(made, audio(), now=float(now))
    with pytest.raises(StreamException, match="295 seconds"):
        made.wake(295.0)
    made.user_started(0.0, 290.0)  # speech counts, silence does not
    give(made, audio(), now=300.0)
    made.wake(300.0)
    for now in range(300, 480, 50):
        give(made, audio(), *text(f"t{now}", "USER", "x", interactive=True), now=float(now))
    with pytest.raises(StreamException, match="timed out in processing") as error:
        made.wake(480.0)
    assert error.value.type == "modelTimeoutException"


# ---------------------------------------------------------------------- what the server sends


def test_a_turn_is_sent_in_the_order_of_the_service() -> None:
    made = opened()
    made.user_started(100.4, 0.0)
    made.user_stopped(900.0, 2400.0)
    made.user_said("what is the weather")
    made.tool_use("u1", "get_weather", '{"city":"Oslo"}')
    made.plan("It rains.")
    made.audio(bytes(2 * 3000))
    made.plan("Take a coat.")
    made.audio(bytes(2))
    made.audio_end("END_TURN")
    made.spoken("It rains. Take a coat.")
    made.usage(10, 20)
    made.complete()
    made.complete()
    events = sent(made)
    assert [name for name, _ in events] == [
        "userSpeechStart",
        "userSpeechEnd",
        "completionStart",
        *("contentStart", "textOutput", "contentEnd"),
        *("contentStart", "toolUse", "contentEnd"),
        *("contentStart", "textOutput", "contentEnd"),
        *("contentStart", "audioOutput", "audioOutput", "contentEnd"),
        *("contentStart", "textOutput", "contentEnd"),
        *("contentStart", "audioOutput", "contentEnd"),
        *("contentStart", "textOutput", "contentEnd"),
        "usageEvent",
        "completionEnd",
    ]
    bodies = [body for _, body in events]
    assert bodies[0]["inputAudioOffsetMs"] == 100
    assert "completionId" not in bodies[0]
    assert json.loads(bodies[3]["additionalModelFields"]) == {"generationStage": "FINAL"}
    assert isinstance(bodies[3]["additionalModelFields"], str), "JSON as text, not an object"
    assert json.loads(bodies[7]["content"]) == {"city": "Oslo"}
    stops = [body.get("stopReason") for name, body in events if name == "contentEnd"]
    assert stops == ["PARTIAL_TURN", "TOOL_USE", "PARTIAL_TURN", "PARTIAL_TURN", "PARTIAL_TURN", "END_TURN", "END_TURN"]
    stages = [
        json.loads(body["additionalModelFields"])["generationStage"]
        for body in bodies
        if "additionalModelFields" in body
    ]
    assert stages == ["FINAL", "SPECULATIVE", "SPECULATIVE", "FINAL"]
    assert len({body["completionId"] for body in bodies if "completionId" in body}) == 1, "one spans the session"


def test_an_interruption_carries_both_marks() -> None:
    made = opened()
    made.plan("It rains.")
    made.audio(bytes(2))
    sent(made)
    made.interrupted()
    events = sent(made)
    assert [name for name, _ in events] == ["contentEnd", "contentStart", "textOutput", "contentEnd"]
    assert (events[0][1]["type"], events[0][1]["stopReason"]) == ("AUDIO", "END_TURN")
    assert events[2][1]["content"] == '{ "interrupted" : true }', "LiveKit compares the string, spaces included"
    assert events[3][1]["stopReason"] == "INTERRUPTED"


# ---------------------------------------------------------------------- what the server's events mean


def _read(*events: dict[str, Any]) -> list[m.Meaning]:
    meanings = Meanings()
    return [entry for event in events for entry in meanings.read(decode_output(json.dumps({"event": event})))]


def _block(kind: str, role: str, content: str, stop: str, stage: str | None = "FINAL") -> list[dict[str, Any]]:
    start = {**IDS, "contentId": content, "type": kind, "role": role}
    if stage is not None:
        start["additionalModelFields"] = json.dumps({"generationStage": stage})
    name = "textOutput" if kind == "TEXT" else "audioOutput"
    return [
        {"contentStart": start},
        {name: {**IDS, "contentId": content, "role": role, "content": content}},
        {"contentEnd": {**IDS, "contentId": content, "type": kind, "stopReason": stop}},
    ]


def test_speculative_is_a_plan_and_final_is_a_record() -> None:
    plan = _block("TEXT", "ASSISTANT", "It rains.", "PARTIAL_TURN", "SPECULATIVE")
    record = _block("TEXT", "ASSISTANT", "It rains.", "END_TURN", "FINAL")
    assert _read(*plan, *record) == [m.Planned(text="It rains."), m.Spoken(text="It rains.")]


def test_what_the_user_said_is_final() -> None:
    assert _read(*_block("TEXT", "USER", "hello", "PARTIAL_TURN")) == [m.UserSaid(text="hello")]


@pytest.mark.parametrize("fields", [None, "", "not json", "[]", '{"generationStage":"NEW"}'])
def test_text_without_a_stage_is_not_lost(fields: str | None) -> None:
    events = _block("TEXT", "ASSISTANT", "It rains.", "PARTIAL_TURN", None)
    if fields is not None:
        events[0]["contentStart"]["additionalModelFields"] = fields
    assert _read(*events) == [m.Planned(text="It rains.")]


def test_the_turn_ends_with_the_audio_not_with_the_completion() -> None:
    assert _read(*_block("AUDIO", "ASSISTANT", "AAAA", "PARTIAL_TURN", None)) == [
        m.AudioBegan(),
        m.Chunk(pcm=bytes(2)),
    ]
    assert _read(*_block("AUDIO", "ASSISTANT", "AAAA", "END_TURN", None))[-1] == m.TurnOver()
    assert _read(*_block("TEXT", "ASSISTANT", "x", "END_TURN"))[-1] == m.Spoken(text="x")
    assert _read({"completionEnd": {**IDS, "stopReason": "END_TURN"}}) == [m.Closed()]


@pytest.mark.parametrize("mark", ['{ "interrupted" : true }', '{"interrupted":true}'])
@pytest.mark.parametrize("stop", ["INTERRUPTED", "PARTIAL_TURN"])
def test_each_mark_of_an_interruption_counts_once_and_is_no_text(mark: str, stop: str) -> None:
    assert _read(*_block("TEXT", "ASSISTANT", mark, stop)) == [m.Interrupted()]


@pytest.mark.parametrize("kind", ["TEXT", "AUDIO"])
def test_a_stop_reason_alone_is_an_interruption(kind: str) -> None:
    events = _block(kind, "ASSISTANT", "AAAA", "INTERRUPTED", None)
    assert _read(*events).count(m.Interrupted()) == 1


def test_words_about_interruptions_are_words() -> None:
    for words in ("I was interrupted", '{"interrupted": "often"}', '{"interrupted'):
        assert _read(*_block("TEXT", "ASSISTANT", words, "END_TURN")) == [m.Spoken(text=words)]


def test_a_tool_use_has_its_arguments_as_text() -> None:
    start = {**IDS, "contentId": "c", "type": "TOOL", "role": "TOOL"}
    use = {**IDS, "contentId": "c", "toolName": "w", "toolUseId": "u", "content": '{"a":1}', "role": "TOOL"}
    stop = {**IDS, "contentId": "c", "type": "TOOL", "stopReason": "TOOL_USE"}
    assert _read({"contentStart": start}, {"toolUse": use}, {"contentEnd": stop}) == [
        m.ToolWanted(id="u", name="w", arguments='{"a":1}'),
        m.ToolsAsked(),
    ]


def test_usage_is_what_came_since_the_last_time() -> None:
    events = [
        {"usageEvent": {**IDS, "totalInputTokens": i, "totalOutputTokens": o, "totalTokens": i + o}}
        for i, o in ((10, 0), (10, 0), (15, 7))
    ]
    assert [(e.input_tokens, e.output_tokens) for e in _read(*events) if isinstance(e, m.Used)] == [(10, 0), (5, 7)]


def test_speech_marks_have_offsets_and_nothing_else() -> None:
    started = {"userSpeechStart": {"sessionId": "s", "promptName": "p", "inputAudioOffsetMs": 11760}}
    stopped = {"userSpeechEnd": {"sessionId": "s", "inputAudioOffsetMs": 12000.5, "inputAudioDetectionOffsetMs": 13500}}
    assert _read(started, stopped) == [m.UserStarted(ms=11760), m.UserStopped(ms=12000.5)]


def test_samples_cut_between_events_are_whole_again() -> None:
    start = {"contentStart": {**IDS, "contentId": "c", "type": "AUDIO", "role": "ASSISTANT"}}
    chunks = [
        {"audioOutput": {**IDS, "contentId": "c", "content": base64.b64encode(data).decode()}}
        for data in (b"\x01\x02\x03", b"\x04")
    ]
    assert _read(start, *chunks)[1:] == [m.Chunk(pcm=b"\x01\x02"), m.Chunk(pcm=b"\x03\x04")]


def test_events_that_nobody_knows_mean_nothing() -> None:
    assert _read({"somethingNew": {"x": 1}}, {"completionStart": IDS}) == []


# ---------------------------------------------------------------------- the client


def _client() -> ClientProtocol:
    made = ClientProtocol("amazon.nova-2-sonic-v1:0")
    made.begin(inference=inputs.InferenceConfiguration(temperature=0.7), voice=inputs.VoiceFormat(), instructions="x")
    return made


def _names(payloads: list[bytes]) -> list[str]:
    return [next(iter(json.loads(payload)["event"])) for payload in payloads]


def test_what_our_client_sends_a_strict_server_takes() -> None:
    tool = inputs.Tool(tool_spec=inputs.ToolSpec(name="w", description="d", input_schema=inputs.InputSchema(json="{}")))
    client, made = ClientProtocol("amazon.nova-2-5-sonic"), server(strict=True, history=DOCUMENTED)
    out = client.begin(
        inference=inputs.InferenceConfiguration(max_tokens=100),
        voice=inputs.VoiceFormat(voice_id="amy"),
        endpointing="LOW",
        tools=[tool],
        tool_choice=inputs.ToolChoice(any={}),
        instructions="Be brief.",
    )
    out += client.remember("USER", "é" * 1500)
    out += client.remember("ASSISTANT", "Hi")
    out.append(client.open_audio(16000))
    out.append(client.audio(bytes(3200)))
    made.tool_use("u1", "w", "{}")
    client.receive(next(payload for payload in made.take() if b'toolUse"' in payload))
    out += client.text("typed")
    assert client.tool_uses == {"u1"}
    out += client.tool_result("u1", "{}")
    assert not client.tool_uses
    out += client.end()
    assert client.end() == []
    made.receive(out[0], 0.0)
    taken = [entry for payload in out[1:] for entry in made.receive(payload, 0.0)]
    assert next(entry for entry in taken if isinstance(entry, s.Remembered)).text == "é" * 1500
    assert [type(entry).__name__ for entry in taken][-3:] == ["AudioClosed", "PromptClosed", "SessionClosed"]
    start = json.loads(out[1])["event"]["promptStart"]
    assert start["toolUseOutputConfiguration"] == {"mediaType": "application/json"}
    assert start["toolConfiguration"]["toolChoice"] == {"any": {}}
    assert isinstance(start["toolConfiguration"]["tools"][0]["toolSpec"]["inputSchema"]["json"], str)


def test_pieces_of_history_keep_to_a_kilobyte() -> None:
    client = _client()
    pieces = [json.loads(payload)["event"] for payload in client.remember("USER", "é" * 1500)]
    texts = [event["textInput"]["content"] for event in pieces if "textInput" in event]
    assert [len(piece.encode()) for piece in texts] == [1024, 1024, 952]


def test_an_audio_block_that_was_never_fed_is_closed_properly() -> None:
    client = _client()
    client.open_audio(16000)
    assert _names(client.end()) == ["audioInput", "contentEnd", "promptEnd", "sessionEnd"]
    assert _names(_client().end()) == ["promptEnd", "sessionEnd"]
    assert ClientProtocol("m").end() == []


@pytest.mark.parametrize(
    "misuse",
    [
        lambda c: c.open_audio(16000) and c.open_audio(16000),
        lambda c: c.text("x"),
        lambda c: c.audio(bytes(2)),
        lambda c: c.tool_result("u1", "{}"),
        lambda c: c.remember("ASSISTANT", "x"),
        lambda c: (c.remember("USER", "x"), c.remember("USER", "y")),
        lambda c: (c.open_audio(16000), c.remember("USER", "x")),
        lambda c: c.remember("USER", "x" * 41_000),
        lambda c: c.send(inputs.SessionEnd()),
    ],
)
def test_what_would_be_refused_is_refused_before_it_is_sent(misuse: Any) -> None:
    with pytest.raises(StreamException):
        misuse(_client())


def test_what_no_vendor_has_cannot_be_sent() -> None:
    with pytest.raises(ProtocolError, match="cannot be sent"):
        encode_event(inputs.UnknownInput(name="x"))


@pytest.mark.parametrize(
    ("language", "voice", "chosen"),
    [
        (None, None, "matthew"),
        ("de-DE", None, "tina"),
        ("hi-IN", None, "kiara"),
        ("es-MX", None, "lupe"),
        ("xx", None, "matthew"),
        ("de-DE", "amy", "amy"),
    ],
)
def test_a_voice_of_the_language(language: str | None, voice: str | None, chosen: str) -> None:
    assert voice_for(language, voice) == chosen
