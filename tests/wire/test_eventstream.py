"""Event-stream frames and signatures against an independent encoder's, and against anything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ProtocolError
from duologue.wire.eventstream import Frame, FrameDecoder, Timestamp, decode_frame, encode_frame, encode_headers
from duologue.wire.sigv4 import Scope, canonical_query, chunk_signature, signing_key

GOLDEN = json.loads((Path(__file__).parent / "data" / "eventstream-golden.json").read_text("utf-8"))
PAYLOAD = GOLDEN["payload_utf8"].encode()


def test_the_inner_frame_of_a_client_is_byte_exact() -> None:
    headers = {":message-type": "event", ":event-type": "chunk", ":content-type": "application/json"}
    assert encode_frame(headers, PAYLOAD).hex() == GOLDEN["client_inner_frame_hex"]


def test_a_servers_frames_are_byte_exact() -> None:
    chunk = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    assert encode_frame(chunk, PAYLOAD).hex() == GOLDEN["server_chunk_frame_hex"]
    refusal = decode_frame(bytes.fromhex(GOLDEN["server_exception_frame_hex"]))
    assert refusal.text(":exception-type") == "validationException"
    assert encode_frame(refusal.headers, refusal.payload).hex() == GOLDEN["server_exception_frame_hex"]


@pytest.mark.parametrize(
    ("payload", "signature", "frame"),
    [
        (bytes.fromhex(GOLDEN["client_inner_frame_hex"]), "chunk_signature_hex", "client_outer_signed_frame_hex"),
        (b"", "end_signature_hex", "end_of_stream_signed_empty_frame_hex"),
    ],
)
def test_a_signed_chunk_is_byte_exact(payload: bytes, signature: str, frame: str) -> None:
    signing = GOLDEN["signing"]
    scope = Scope.parse(signing["scope"])
    assert scope is not None
    date = bytes.fromhex(signing["date_header_bytes_hex"])
    # The second golden frame follows the first or the request; its prior is told by what verifies.
    priors = [signing["prior_signature_hex"], GOLDEN["chunk_signature_hex"]]
    key = signing_key(signing["secret"], scope)
    made = [chunk_signature(key, signing["date"], scope, prior, date, payload) for prior in priors]
    assert GOLDEN[signature] in made
    outer = decode_frame(bytes.fromhex(GOLDEN[frame]))
    assert outer.payload == payload
    assert outer.headers[":chunk-signature"] == bytes.fromhex(GOLDEN[signature])
    when = outer.headers[":date"]
    assert isinstance(when, Timestamp)
    assert encode_headers({":date": when}) == date
    assert encode_frame(outer.headers, outer.payload).hex() == GOLDEN[frame]


names = st.text(st.characters(codec="ascii", exclude_characters="\x00"), min_size=1, max_size=40)
values = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.binary(max_size=100),
    st.text(max_size=30),
    st.builds(Timestamp, st.integers(-(1 << 63), (1 << 63) - 1)),
    st.uuids(),
)


@given(st.dictionaries(names, values, max_size=6), st.binary(max_size=500))
def test_frames_round_trip(headers: dict[str, object], payload: bytes) -> None:
    frame = decode_frame(encode_frame(headers, payload))  # type: ignore[arg-type]
    assert frame == Frame(headers, payload)  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=60), max_size=5), st.lists(st.integers(1, 37), min_size=1))
def test_frames_are_found_however_the_stream_is_cut(payloads: list[bytes], cuts: list[int]) -> None:
    data = b"".join(encode_frame({":event-type": "chunk"}, payload) for payload in payloads)
    decoder, found, at, turn = FrameDecoder(), [], 0, 0
    while at < len(data):
        step = cuts[turn % len(cuts)]
        found += decoder.feed(data[at : at + step])
        at, turn = at + step, turn + 1
    assert [frame.payload for frame in found] == payloads
    assert decoder.pending == 0


@given(st.binary(min_size=1, max_size=80), st.data())
def test_a_changed_byte_is_noticed(payload: bytes, data: st.DataObject) -> None:
    frame = bytearray(encode_frame({":event-type": "chunk", "n": 7}, payload))
    index = data.draw(st.integers(0, len(frame) - 1))
    frame[index] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolError):
        decode_frame(bytes(frame))


@given(st.binary(max_size=200))
def test_noise_is_a_typed_error_or_unfinished(noise: bytes) -> None:
    decoder = FrameDecoder()
    codes: set[str] = set()
    try:
        decoder.feed(noise)
    except ProtocolError as error:
        codes.add(error.code)
    assert codes <= {"eventstream"}


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        ("", ""),
        ("b=2&a=1", "a=1&b=2"),
        ("a=x+y", "a=x%2By"),
        ("a=x%20y&a=~", "a=x%20y&a=~"),
        ("k", "k="),
    ],
)
def test_queries_are_made_canonical(raw: str, canonical: str) -> None:
    assert canonical_query(raw) == canonical
