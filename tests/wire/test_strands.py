"""The Strands dialect, server side: both generations, in and out. The newer one is held to the real package."""

from __future__ import annotations

import base64
import inspect
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ProtocolError
from duologue.events import (
    AudioInput,
    ConnectionRotated,
    ErrorEvent,
    Event,
    ImageInput,
    Interruption,
    ResponseAudio,
    ResponseFinished,
    ResponseStarted,
    ResponseText,
    SessionEnded,
    SessionGoingAway,
    SessionStarted,
    TextInput,
    ToolFinished,
    ToolStarted,
    TurnDiscarded,
    UsageReported,
    UserSpeechStarted,
    UserTranscript,
)
from duologue.wire.duologue import Refused, ServerOptions
from duologue.wire.strands import StrandsServer

PCM = b"\x01\x00\x02\x00"
B64 = base64.b64encode(PCM).decode()

#: a turn with everything in it
DIALOGUE: list[Event] = [
    SessionStarted(session="s", agent="a", model="m"),
    UserSpeechStarted(position=0),
    UserTranscript(turn="t1", text="what is"),
    UserTranscript(turn="t1", text="what is my stop"),
    UserTranscript(turn="t1", text="What's my stop?", final=True),
    ResponseStarted(response="r1", turn="t1"),
    ToolStarted(call="c1", name="next_stop", arguments={"n": 1}, response="r1"),
    ToolFinished(call="c1", name="next_stop", status="ok", output={"stop": "Harbour"}),
    ResponseText(response="r1", text="Your next "),
    ResponseAudio(response="r1", pcm=PCM, rate=24000, offset=0, position=0),
    ResponseText(response="r1", text="stop is."),
    Interruption(response="r1", stage="duck", reason="r"),
    Interruption(response="r1", stage="yield", reason="r"),
    ResponseFinished(response="r1", status="interrupted", text="Your next stop is.", heard="Your next"),
    UsageReported(input_tokens=3, output_tokens=4),
    ConnectionRotated(generation=2, model="m", reason="age"),
    ErrorEvent(code="unsupported_input", message="No."),
    SessionGoingAway(in_s=5, reason="drain"),
    SessionEnded(reason="completed"),
]


def opened(first: str, **options: Any) -> StrandsServer:
    server = StrandsServer(now=0.0, **options)
    server.receive_text(first, 0.0)
    return server


def old(**options: Any) -> StrandsServer:
    return opened('{"type":"bidi_text_input","text":"hi"}', **options)


def new(**options: Any) -> StrandsServer:
    return opened('{"text":"hi"}', **options)


def say(server: StrandsServer, events: list[Event]) -> list[dict[str, Any]]:
    return [json.loads(text) for event in events for text in server.event(event)]


def audio_input(rate: int = 16000, channels: int = 1, form: str = "pcm", data: str = B64) -> str:
    return json.dumps(
        {"type": "bidi_audio_input", "audio": data, "format": form, "sample_rate": rate, "channels": channels}
    )


# -- in ----------------------------------------------------------------------------------------------------------------


def test_the_older_generation_is_understood() -> None:
    server = StrandsServer(now=0.0)
    assert server.receive_text('{"type":"bidi_text_input","text":"hi","role":"user"}', 0.0) == [TextInput(text="hi")]
    assert server.receive_text(audio_input(24000), 0.0) == [AudioInput(pcm=PCM, rate=24000, position=0)]
    assert server.receive_text(audio_input(24000), 0.0) == [AudioInput(pcm=PCM, rate=24000, position=2)]
    image = json.dumps({"type": "bidi_image_input", "image": B64, "mime_type": "image/png"})
    assert server.receive_text(image, 0.0) == [ImageInput(data=PCM, mime="image/png")]
    assert server.generation == "experimental"


def test_the_newer_generation_is_understood() -> None:
    server = StrandsServer(now=0.0, input_rate=24000)
    media = {"format": "pcm", "source": {"bytes": B64}}
    assert server.receive_text(json.dumps({"audio_delta": media}), 0.0) == [AudioInput(pcm=PCM, rate=24000, position=0)]
    assert server.receive_text('{"text":"hi"}', 0.0) == [TextInput(text="hi")]
    assert server.receive_text('"hi"', 0.0) == [TextInput(text="hi")]
    turn = json.dumps([{"text": "Look."}, {"image": {"format": "jpeg", "source": {"bytes": B64}}}, "What is it?"])
    assert server.receive_text(turn, 0.0) == [
        ImageInput(data=PCM, mime="image/jpeg"),
        TextInput(text="Look.\nWhat is it?"),
    ]
    assert server.generation == "stable"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "malformed"),
        ('{"type":"bidi_telepathy"}', "malformed"),
        ('{"type":"bidi_text_input"}', "malformed"),
        ('{"type":"bidi_text_input","text":"I am the agent","role":"assistant"}', "unsupported_input"),
        (audio_input(channels=2), "audio_format"),
        (audio_input(form="opus"), "audio_format"),
        (audio_input(rate=96000), "audio_format"),
        (audio_input(rate=8000), "audio_format"),  # not the rate that the first audio had
        (audio_input(data=base64.b64encode(b"odd").decode()), "audio_format"),
        (audio_input(data="***"), "malformed"),
        (audio_input(data=""), "audio_format"),
        ("[" * 50_000, "malformed"),
    ],
)
def test_what_cannot_be_taken_is_answered_and_the_call_goes_on(text: str, code: str) -> None:
    server = old()
    server.receive_text(audio_input(), 0.0)
    (refusal,) = server.receive_text(text, 0.0)
    assert isinstance(refusal, Refused)
    assert refusal.error.code == code
    answer = server.next_frame()
    assert answer is not None
    assert json.loads(answer)["type"] == "bidi_error"
    assert json.loads(answer)["code"] == code
    assert server.next_frame() is None
    assert server.receive_text(audio_input(), 0.0) == [AudioInput(pcm=PCM, rate=16000, position=2)]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "7",
        '{"text":"a","image":{"format":"png","source":{"bytes":""}}}',
        '{"video":1}',
        '[{"audio_delta":{"format":"pcm","source":{"bytes":"AAA="}}}]',
        '{"audio_delta":{"format":"pcm","source":{"s3Location":"x"}}}',
    ],
)
def test_blocks_that_are_none_are_answered(text: str) -> None:
    (refusal,) = new().receive_text(text, 0.0)
    assert isinstance(refusal, Refused)
    assert refusal.error.code == "malformed"


def test_binary_has_no_place_here() -> None:
    (refusal,) = old().receive_bytes(b"\x11", 0.0)
    assert isinstance(refusal, Refused)


@pytest.mark.parametrize(
    ("options", "messages", "close"),
    [
        (ServerOptions(text_bytes=100), ["x" * 101], 1009),
        (ServerOptions(burst=5, messages_per_s=1), ['{"type":"bidi_text_input","text":"x"}'] * 6, 4008),
        (ServerOptions(), ["{"] * 17, 4002),
    ],
)
def test_floods_end_the_link(options: ServerOptions, messages: list[str], close: int) -> None:
    server = StrandsServer(now=0.0, options=options)
    caught: ProtocolError | None = None
    try:
        for text in messages:
            server.receive_text(text, 0.0)
    except ProtocolError as error:
        caught = error
    assert caught is not None
    assert caught.close_code == server.close_code == close
    assert server.receive_text('{"type":"bidi_text_input","text":"x"}', 0.0) == []
    assert server.receive_bytes(b"", 0.0) == []


@given(st.one_of(st.text(), st.recursive(st.none() | st.booleans() | st.text() | st.floats() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "text", "audio", "format", "sample_rate", "channels", "image", "audio_delta", "source", "bytes"]), inner)).map(json.dumps)))  # fmt: skip  # noqa: E501
def test_any_text_is_taken_or_refused(text: str) -> None:
    for server in (old(), new()):
        for item in server.receive_text(text, 0.0):
            assert isinstance(item, AudioInput | TextInput | ImageInput | Refused)


# -- out ---------------------------------------------------------------------------------------------------------------


def test_the_older_generation_hears_a_whole_dialogue() -> None:
    said = say(old(), DIALOGUE)
    assert [(m["type"], m.get("text")) for m in said] == [
        ("bidi_connection_start", None),
        ("bidi_transcript_stream", "what is"),
        ("bidi_transcript_stream", " my stop"),
        ("bidi_transcript_stream", "What's my stop?"),
        ("bidi_response_start", None),
        ("tool_use_stream", None),
        ("tool_result", None),
        ("bidi_transcript_stream", "Your next "),
        ("bidi_audio_stream", None),
        ("bidi_transcript_stream", "stop is."),
        ("bidi_interruption", None),
        ("bidi_transcript_stream", "Your next"),
        ("bidi_response_complete", None),
        ("bidi_usage", None),
        ("bidi_connection_restart", None),
        ("bidi_error", None),
        ("bidi_connection_close", None),
    ]
    transcripts = [m for m in said if m["type"] == "bidi_transcript_stream"]
    assert [m["current_transcript"] for m in transcripts] == [
        "what is",
        "what is my stop",
        "What's my stop?",
        "Your next ",
        "Your next stop is.",
        "Your next",
    ]
    assert [m["is_final"] for m in transcripts] == [False, False, True, False, False, True]
    assert all(m["delta"] == {"text": m["text"]} for m in transcripts)
    by_type = {m["type"]: m for m in said}
    assert by_type["bidi_audio_stream"] == {
        "type": "bidi_audio_stream",
        "audio": B64,
        "format": "pcm",
        "sample_rate": 24000,
        "channels": 1,
    }
    assert by_type["bidi_response_complete"]["stop_reason"] == "interrupted"
    assert by_type["tool_use_stream"]["current_tool_use"] == {"toolUseId": "c1", "name": "next_stop", "input": {"n": 1}}
    assert by_type["tool_result"]["tool_result"]["content"] == [{"json": {"stop": "Harbour"}}]
    assert by_type["bidi_connection_close"] == {
        "type": "bidi_connection_close",
        "connection_id": "s",
        "reason": "complete",
    }


def test_the_newer_generation_hears_a_whole_dialogue_with_every_start_stopped() -> None:
    said = say(new(), DIALOGUE)
    open_streams: set[tuple[str, str]] = set()
    for message in said:
        name = message["type"].removeprefix("bidi_")
        if "content_id" not in message:
            continue
        kind, step = name.rsplit("_", 1)
        key = (kind, message["content_id"])
        if step == "start":
            assert key not in open_streams
            open_streams.add(key)
        elif step == "delta":
            assert key in open_streams
        elif step == "stop":
            open_streams.remove(key)
    assert not open_streams
    blocks = [(m["role"], m["transcript"]) for m in said if m["type"] == "bidi_transcript_block"]
    assert blocks == [("user", "What's my stop?"), ("assistant", "Your next")]
    assert [m["type"] for m in said].count("bidi_barge_in") == 1


def test_the_newer_generation_is_that_of_the_real_package() -> None:
    events = pytest.importorskip("strands.bidi.types.events")
    known = {}
    for cls in vars(events).values():
        if inspect.isclass(cls) and cls.__module__ == events.__name__ and cls.__name__.endswith("Event"):
            parameters = inspect.signature(cls).parameters
            sample = cls(**{name: _example(name) for name, p in parameters.items() if p.default is p.empty})
            optional = {name for name, p in parameters.items() if p.default is not p.empty}
            known[sample["type"]] = (set(sample) - optional, set(sample) | optional)
    for message in say(new(), DIALOGUE):
        if message["type"] == "bidi_error":  # the package raises; a wire has to say
            continue
        required, allowed = known[message["type"]]
        assert required <= set(message) <= allowed, message


def _example(name: str) -> Any:
    return {"sample_rate": 16000, "channels": 1, "tool_uses": [], "time_left_s": 1.0}.get(name, "user")


@pytest.mark.parametrize("make", [old, new])
def test_a_clear_is_the_barge_in_and_is_told_once(make: Any) -> None:
    server = make()
    server.audio("r1", PCM)
    (first,) = server.clear("r1")
    assert json.loads(first)["type"] in ("bidi_interruption", "bidi_barge_in")
    assert server.event(Interruption(response="r1", stage="yield", reason="r")) == []
    server.audio("r1", PCM)  # it was a false one, and went on
    assert len(server.event(Interruption(response="r1", stage="yield", reason="r"))) == 1


def test_transcripts_that_take_words_back_are_sent_when_they_are_final() -> None:
    revised: list[Event] = [
        UserTranscript(turn="t", text="for tea"),
        UserTranscript(turn="t", text="forty"),
        UserTranscript(turn="t", text="forty two", final=True),
    ]
    assert [m["text"] for m in say(old(), revised)] == ["for tea", "forty two"]
    said = say(new(), revised)
    assert [m["type"].removeprefix("bidi_transcript_") for m in said] == ["start", "delta", "stop", "block"]
    assert said[-1]["transcript"] == "forty two"


def test_a_discarded_turn_leaves_nothing_open() -> None:
    noise: list[Event] = [UserTranscript(turn="t", text="uh"), TurnDiscarded(turn="t", reason="backchannel", text="uh")]
    assert [m["type"].removeprefix("bidi_transcript_") for m in say(new(), noise)] == [
        "start",
        "delta",
        "stop",
        "block",
    ]
    assert len(say(old(), noise)) == 1


def test_a_failed_tool_and_a_silent_response() -> None:
    said = say(
        old(),
        [
            ToolFinished(call="c", name="n", status="timeout"),
            ResponseStarted(response="r"),
            ResponseFinished(response="r", status="failed"),
        ],
    )
    assert said[0]["tool_result"] == {"toolUseId": "c", "status": "error", "content": [{"text": "timeout"}]}
    assert [m["type"] for m in said[1:]] == ["bidi_response_start", "bidi_response_complete"]
    assert said[-1]["stop_reason"] == "error"


def test_before_the_first_message_errors_can_be_told() -> None:
    assert json.loads(StrandsServer(now=0.0).error("limit_exceeded", "Full.")[0])["code"] == "limit_exceeded"
