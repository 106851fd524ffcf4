from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import (
    CredentialsError,
    ModelConnectionError,
    ModelError,
    ModelRequestError,
    ModelThrottledError,
)
from duologue.speech.llm import Finished, GenerateOptions, LLMEvent, Message, TextDelta, ToolCallRequest, Usage
from duologue.speech.llm.chat_stream import ChatStream, error_from_body, request_body
from duologue.speech.llm.sse import MAX_EVENT_BYTES, ServerEvent, SSEParser
from duologue.tools import ToolSpec


def parse(text: bytes, *cuts: int) -> list[ServerEvent]:
    parser = SSEParser()
    edges = [0, *sorted(cuts), len(text)]
    return [event for start, end in itertools.pairwise(edges) for event in parser.feed(text[start:end])]


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"data: a\n\n", [ServerEvent("a")]),
        (b"data: a\r\n\r\ndata: b\r\r", [ServerEvent("a"), ServerEvent("b")]),
        (b"data: a\ndata: b\n\n", [ServerEvent("a\nb")]),
        (b"event: x\ndata:a\n\ndata: b\n\n", [ServerEvent("a", "x"), ServerEvent("b")]),
        (b": comment\n\ndata:  two spaces\n\n", [ServerEvent(" two spaces")]),
        (b"id: 1\nretry: 5\ndata\n\n", [ServerEvent("")]),
        (b"\xef\xbb\xbfdata: bom\n\n", [ServerEvent("bom")]),
        (b"data: cut off", []),
        ("data: æ\n\n".encode(), [ServerEvent("æ")]),
        (b"data: \xff\n\n", [ServerEvent("\ufffd")]),
    ],
)
def test_server_events(text: bytes, events: list[ServerEvent]) -> None:
    assert parse(text) == events


@given(
    st.lists(st.sampled_from([b"data: a", b"data: \xc3\xa6", b"event: x", b"\r", b"\n", b"\r\n", b": c"]), max_size=14),
    st.data(),
)
def test_events_do_not_depend_on_how_the_bytes_are_cut(pieces: list[bytes], data: st.DataObject) -> None:
    text = b"".join(pieces)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert parse(text, *cuts) == parse(text)


@given(st.binary(max_size=400), st.integers(0, 400))
def test_any_bytes_are_parsed_without_error(text: bytes, cut: int) -> None:
    assert parse(text, min(cut, len(text))) == parse(text)


def test_an_event_without_end_is_refused() -> None:
    with pytest.raises(ModelRequestError, match="more than 4 MB"):
        parse(b"x" * (MAX_EVENT_BYTES + 10), 10)
    with pytest.raises(ModelRequestError, match="more than 4 MB"):
        parse((b"data: " + b"x" * (MAX_EVENT_BYTES // 4) + b"\n") * 5)


def run(*chunks: dict[str, Any] | str) -> list[LLMEvent]:
    stream = ChatStream("call_x")
    events: list[LLMEvent] = []
    for chunk in chunks:
        events.extend(stream.feed(chunk if isinstance(chunk, str) else json.dumps(chunk)))
    return [*events, *stream.finish()]


def delta(reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


def call(
    index: int | None, arguments: str | None = None, name: str | None = None, id: str | None = None
) -> dict[str, Any]:
    piece: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    if index is not None:
        piece["index"] = index
    if id is not None:
        piece["id"] = id
    return piece


def test_text_and_usage() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    events = run(
        delta(role="assistant", content=""),
        delta(content="Hel"),
        delta(content="lo."),
        delta("stop"),
        {"choices": [], "usage": usage},
        "[DONE]",
    )
    assert events == [
        TextDelta(text="Hel"),
        TextDelta(text="lo."),
        Usage(input_tokens=10, output_tokens=2, cached_tokens=4),
        Finished(reason="stop"),
    ]


def test_parallel_calls_come_in_interleaved_pieces() -> None:
    events = run(
        delta(tool_calls=[call(0, "", "one", "a")]),
        delta(tool_calls=[call(1, "", "two", "b")]),
        delta(tool_calls=[call(0, '{"x":'), call(1, '{"y"')]),
        delta(tool_calls=[call(1, ": 2}"), call(0, " 1}")]),
        delta("tool_calls"),
    )
    assert events == [
        ToolCallRequest(id="a", name="one", arguments='{"x": 1}'),
        ToolCallRequest(id="b", name="two", arguments='{"y": 2}'),
        Finished(reason="tool_calls"),
    ]


@pytest.mark.parametrize(
    "pieces",
    [
        [call(None, '{"x": 1}', "one", "a"), call(None, "{}", "two", "b")],  # no index
        [call(0, '{"x": 1}', "one", "a"), call(0, "{}", "two", "b")],  # every index 0
        [call(0, '{"x": 1}', "one", "a"), call(1, "", "two", "b")],  # no arguments
    ],
)
def test_servers_that_number_calls_badly(pieces: list[dict[str, Any]]) -> None:
    for chunks in ([delta(tool_calls=pieces)], [delta(tool_calls=[piece]) for piece in pieces]):
        assert run(*chunks, delta("stop")) == [
            ToolCallRequest(id="a", name="one", arguments='{"x": 1}'),
            ToolCallRequest(id="b", name="two", arguments="{}"),
            Finished(reason="tool_calls"),
        ]


def test_calls_without_id_get_one_and_objects_as_arguments_become_text() -> None:
    events = run(delta(tool_calls=[{"index": 0, "function": {"name": "one", "arguments": {"x": 1}}}]), "[DONE]")
    assert events == [
        ToolCallRequest(id="call_x_0", name="one", arguments='{"x":1}'),
        Finished(reason="tool_calls"),
    ]


def test_an_answer_that_is_cut_off_is_a_connection_error() -> None:
    with pytest.raises(ModelConnectionError, match="mid-answer"):
        run(delta(content="Hel"))


def test_an_error_in_the_stream() -> None:
    with pytest.raises(ModelThrottledError, match="slow down"):
        run({"error": {"message": "slow down", "code": "rate_limit_exceeded"}})


def test_arguments_have_a_bound() -> None:
    with pytest.raises(ModelRequestError, match="1 MB"):
        run(*(delta(tool_calls=[call(0, "x" * 300_000, "one", "a")]) for _ in range(5)))
    with pytest.raises(ModelRequestError, match="64 tool calls"):
        run(*(delta(tool_calls=[call(index, "", "one", f"a{index}")]) for index in range(70)))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "content", "tool_calls", "index", "function", "name", "arguments", "usage"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.lists(_JSON.map(json.dumps) | st.text(max_size=20), max_size=5))
def test_any_chunks_give_events_or_a_typed_error(chunks: list[str]) -> None:
    with contextlib.suppress(ModelError):
        assert isinstance(run(*chunks, "[DONE]")[-1], Finished)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"error": {"message": "bad key"}}, CredentialsError),
        (403, "no", CredentialsError),
        (400, {"error": {"message": "x", "code": "invalid_api_key"}}, CredentialsError),
        (429, {}, ModelThrottledError),
        (500, "oops", ModelConnectionError),
        (503, {"error": "loading model"}, ModelConnectionError),
        (404, {"error": {"message": "model not found"}}, ModelRequestError),
        (400, {"error": {"message": "bad"}}, ModelRequestError),
        (422, None, ModelRequestError),
    ],
)
def test_errors_are_typed(status: int, body: Any, kind: type[ModelError]) -> None:
    assert type(error_from_body(status, body)) is kind


def test_a_request() -> None:
    messages = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="Hi"),
        Message(role="assistant", tool_calls=(ToolCallRequest(id="a", name="one", arguments=""),)),
        Message(role="tool", content="broken", tool_call_id="a", name="one", is_error=True),
    ]
    tool = ToolSpec(name="one", description="First.", examples=("do one", "two", "three", "four"))
    body = request_body("m", messages, [tool], GenerateOptions(temperature=0.5, tool_choice="required", stop=("x",)))
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "one", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "Error: broken", "tool_call_id": "a"},
    ]
    assert body["tools"][0]["function"]["description"] == 'First.\nA person may say: "do one"; "two"; "three"'
    assert (body["temperature"], body["stop"], body["tool_choice"]) == (0.5, ["x"], "required")
    assert "max_tokens" not in body
    assert "tools" not in request_body("m", messages, [], GenerateOptions())
