"""Nova Sonic's codec against valid sequences that were damaged: a typed error each, no crash, no memory that grows."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ProtocolError
from duologue.wire.nova_sonic import (
    ChunkSigner,
    ChunkVerifier,
    ClientProtocol,
    InputReader,
    Meanings,
    OutputReader,
    StreamException,
    encode_chunk,
)
from duologue.wire.sigv4 import Scope
from tests.wire.nova_events import (
    PROMPT,
    PROMPT_START,
    START,
    audio,
    end,
    open_audio,
    opened,
    sent,
    server,
    text,
    tool_result,
)

SCOPE = Scope("20260101", "us-east-1", "bedrock")
SESSION: list[dict[str, Any]] = [
    START,
    PROMPT_START,
    *text("s1", "SYSTEM", "Be brief."),
    *text("h1", "USER", "Hello"),
    *text("h2", "ASSISTANT", "Hi"),
    open_audio(),
    audio(),
    *text("t1", "USER", "typed", interactive=True),
    *tool_result("u1", '{"a":1}', "r1"),
    audio(),
    end("a1"),
    {"promptEnd": {"promptName": PROMPT}},
    {"sessionEnd": {}},
]

junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    st.sampled_from(["p1", "a1", "s1", "u1", "TEXT", "AUDIO", "TOOL", "SYSTEM", "USER", 16000, True, ""]),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key in value:
            found += _places(value[key], (*path, key))
    return found


def _damage(draw: Any, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    events = copy.deepcopy(events)
    for _ in range(draw(st.integers(0, 4))):
        if not events:
            break
        at = draw(st.integers(0, len(events) - 1))
        match draw(st.sampled_from(["drop", "double", "swap", "change", "remove", "rename"])):
            case "drop":
                del events[at]
            case "double":
                events.insert(draw(st.integers(0, len(events))), copy.deepcopy(events[at]))
            case "swap":
                other = draw(st.integers(0, len(events) - 1))
                events[at], events[other] = events[other], events[at]
            case "rename":
                events[at] = {draw(st.text(max_size=12)): next(iter(events[at].values()), {})}
            case kind:
                places = _places(events[at])
                if not places:
                    continue
                *path, last = draw(st.sampled_from(places))
                target: Any = events[at]
                for key in path:
                    target = target[key]
                if kind == "change":
                    target[last] = draw(junk)
                else:
                    del target[last]
    return events


@st.composite
def damaged_sessions(draw: Any) -> list[dict[str, Any]]:
    return _damage(draw, SESSION)


@given(damaged_sessions(), st.booleans())
def test_a_server_refuses_a_damaged_session_and_nothing_worse(events: list[dict[str, Any]], strict: bool) -> None:
    made = server(strict=strict)
    made.sequence.tool_asked("u1")
    refused: StreamException | None = None
    for event in events:
        try:
            made.receive(json.dumps({"event": event}), 0.0)
        except StreamException as exception:
            refused = exception
            break
    assert refused is None or (refused.type == "validationException" and refused.text)
    made.complete()
    made.next_deadline()


@given(damaged_sessions(), st.lists(st.integers(1, 400), max_size=12), st.data())
def test_frames_read_the_same_however_they_are_cut(events: list[Any], cuts: list[int], data: Any) -> None:
    signer = ChunkSigner("secret", SCOPE, "00" * 32)
    texts = [json.dumps({"event": event}).encode() for event in events]
    stream = b"".join(signer.chunk(text, 1767225600000) for text in texts) + signer.end(1767225600000)
    reader = InputReader(ChunkVerifier("secret", SCOPE, "00" * 32))
    got: list[bytes] = []
    for cut in cuts:
        got += reader.feed(stream[:cut])
        stream = stream[cut:]
    got += reader.feed(stream)
    assert got == texts
    assert reader.ended


@given(st.data())
def test_damaged_bytes_are_a_protocol_error(data: Any) -> None:
    signer = ChunkSigner("secret", SCOPE, "00" * 32)
    stream = bytearray(b"".join(signer.chunk(json.dumps({"event": event}).encode(), 0) for event in SESSION[:4]))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    verifier = ChunkVerifier("secret", SCOPE, "00" * 32) if data.draw(st.booleans()) else None
    reader = InputReader(verifier)
    good = [json.dumps({"event": event}).encode() for event in SESSION[:4]]
    try:
        got = list(reader.feed(bytes(stream)))
    except ProtocolError:
        return
    assert got == good[: len(got)], "what does not verify is not read"


def _outputs() -> list[dict[str, Any]]:
    made = opened()
    made.user_started(100.0, 0.0)
    made.user_stopped(900.0, 2400.0)
    made.user_said("what is the weather")
    made.tool_use("u1", "get_weather", '{"city":"Oslo"}')
    made.plan("It rains.")
    made.audio(bytes(6000))
    made.interrupted()
    made.spoken("It")
    made.usage(10, 20)
    made.complete()
    return [{name: body} for name, body in sent(made)]


@st.composite
def damaged_answers(draw: Any) -> list[dict[str, Any]]:
    return _damage(draw, _outputs())


@given(damaged_answers())
def test_a_client_makes_sense_of_a_damaged_answer_or_says_that_it_cannot(events: list[dict[str, Any]]) -> None:
    client, meanings, reader = ClientProtocol("amazon.nova-2-sonic-v1:0"), Meanings(), OutputReader()
    codes = set()
    for event in events:
        try:
            for payload in reader.feed(encode_chunk(json.dumps({"event": event}).encode())):
                meanings.read(client.receive(payload))
        except ProtocolError as error:
            codes.add(error.code)
    assert codes <= {"nova_event"}


@given(st.binary(max_size=300))
def test_noise_is_a_protocol_error(data: bytes) -> None:
    for reader in (InputReader(), OutputReader()):
        try:
            list(reader.feed(data))
        except ProtocolError:
            continue
