"""Mutated traffic of a link: each end takes it or fails with a typed error, and holds no more than its bounds."""

from __future__ import annotations

import contextlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.wire.hostlink import LinkClient, LinkError, LinkOptions, LinkServer, Message, Open, Opened, Type
from duologue.wire.hostlink.frames import MORE, frame

OPTIONS = LinkOptions(window=4096, chunk=500, max_message=10_000, max_streams=8)
_PAYLOADS = [
    b"",
    b"\0",
    b"{}",
    b'{"version":1,"schema":1,"peer":"x"}',
    b'{"session":"s","epoch":1}',
    b'{"subprotocol":"a"}',
    b'{"status":404}',
    b'{"token":"t"}',
    b'{"error":"e"}',
    b"\x03\xe8bye",
    b"\0\0\x10\0",
    bytes(16),
    b"\xff" * 16,
    b"x" * 600,
]


def traffic(dice: random.Random) -> bytes:
    """A hello, then frames of which most pass the framing."""
    out = [frame(Type.HELLO, 0, b'{"version":1,"schema":1,"peer":"x"}')] if dice.random() < 0.95 else []
    for _ in range(dice.randrange(30)):
        type = dice.randrange(1, 14) if dice.random() < 0.97 else dice.randrange(256)
        if type in (Type.TEXT, Type.BINARY) and dice.random() < 0.3:
            type |= MORE
        stream = 0 if type in (1, 9, 10, 11) else dice.randrange(1, 6)
        payload = dice.choice(_PAYLOADS)
        if type in (2, 3, 4, 12, 13) and dice.random() < 0.7:
            payload = _PAYLOADS[{2: 4, 3: 5, 4: 6, 12: 7, 13: 8}[type]]
        out.append(frame(type, stream, payload))
    data = bytearray(b"".join(out))
    while data and dice.random() < 0.2:
        data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_arrives_is_taken_or_refused(seed: int) -> None:
    dice = random.Random(seed)
    server = LinkServer(peer="w", schema=1, now=0, options=OPTIONS)
    client = LinkClient(peer="g", schema=1, now=0, options=OPTIONS)
    for end in (server, client):
        data = traffic(dice)
        if end is client:
            client.receive(frame(Type.HELLO, 0, b'{"version":1,"schema":1,"peer":"w"}'), 0)
            data = data[44:]
            for _ in range(4):
                client.open(Open(session="s", epoch=1))
        at = 0
        with contextlib.suppress(LinkError):
            while at < len(data):
                size = dice.randrange(1, 400)
                for event in end.receive(data[at : at + size], 0):
                    if isinstance(event, Opened) and dice.random() < 0.8:
                        server.accept(event.stream)
                    elif isinstance(event, Message):
                        assert event.cost <= OPTIONS.window
                        assert len(event.data) <= OPTIONS.max_message
                        if dice.random() < 0.7:
                            end.consumed(event.stream, event.cost)
                at += size
        assert len(end.streams) <= OPTIONS.max_streams
        assert (end.error is None) or end.data_to_send()
        while end.data_to_send():
            pass
        if end.error is not None:
            assert end.receive(data, 0) == []
