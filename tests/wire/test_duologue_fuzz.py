"""Mutated traffic: whatever arrives, each side takes it, refuses it with a typed error, or ends the link with a reason."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ProtocolError
from duologue.events import TextInput, TurnCommitted, encode
from duologue.wire.duologue import ClientProtocol, ServerProtocol
from tests.wire.duologue_pair import DOWN, UP, Pair

_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**53,
    2**64,
    1.5,
    1e308,
    "",
    "x",
    "r",
    "hello",
    "input.text",
    [],
    [1],
    [1, 2],
    [1, 2, 3],
    [2, 0],
    {},
    {"type": "x"},
]


def _traffic() -> tuple[list[str | bytes], list[str | bytes]]:
    """Everything that a real exchange with cuts, clears and goodbyes puts on the wire, upstream and downstream."""
    up: list[str | bytes] = []
    down: list[str | bytes] = []
    pair = Pair(connect=False)

    def settle() -> None:
        for _ in range(50):
            pair.flush()
            up.extend(pair.up)
            down.extend(pair.down)
            if not pair.deliver():
                return

    pair.open()
    settle()
    for k in range(3):
        pair.side.send_event(encode(TurnCommitted(turn="t", text=str(k), reason="r")))
        pair.side.send_audio(bytes(96), response="r", offset=48 * k)
        pair.client.send_audio(bytes(64))
        settle()
    pair.client.send_input(TextInput(text="x"))
    pair.client.played(48, 1.0)
    clear = pair.side.clear()
    pair.side.duck(-10)
    settle()
    pair.client.cleared(clear.c, 48, 1.0)
    pair.client.refresh("t")
    pair.link.going_away(3, "drain")
    pair.link.auth_refreshed(1.0)
    pair.link.error("x", "y")
    settle()
    pair.now = 1.2
    pair.client.tick(pair.now)
    pair.link.tick(pair.now)
    settle()
    pair.flush()
    pair.cut()
    pair.side.send_event(encode(TurnCommitted(turn="t", text="away", reason="r")))
    pair.client.send_audio(bytes(64))
    pair.open()
    settle()
    up.append('{"type":"gap","from":[1,9],"to":[1,12],"events":1,"samples":3,"ms":0,"position":0,"why":"overflow"}')
    down.append('{"type":"gap","from":[1,9],"to":[1,12],"events":1,"samples":3,"ms":0,"position":0,"why":"unknown"}')
    pair.client.hang_up()
    settle()
    down.append('{"type":"bye","code":"completed","message":""}')
    return up, down


UPSTREAM, DOWNSTREAM = _traffic()


def _mutate(message: str | bytes, dice: random.Random) -> str | bytes:
    """One change that mostly keeps the framing valid, so that what lies behind it is reached."""
    if isinstance(message, bytes):
        data = bytearray(message)
        kind = dice.randrange(5)
        if kind == 0 and data:
            data[dice.randrange(len(data))] = dice.randrange(256)
        elif kind == 1:
            at = dice.choice([1, 2, 4, 8, 16, 24, 28])
            data[at : at + 1] = bytes([dice.choice([0, 1, 2, 3, 24, 32, 255])])
        elif kind == 2:
            del data[dice.randrange(len(data) + 1) :]
        elif kind == 3:
            data += dice.randbytes(dice.randrange(1, 9))
        return bytes(data)
    if dice.random() < 0.1:
        at = dice.randrange(len(message) + 1)
        return message[:at] + dice.choice(["", "{", '"', "\ud800", "]", "\x00"]) + message[at + dice.randrange(2) :]
    try:
        value = json.loads(message)
    except ValueError:
        return message
    target = value
    while isinstance(target, dict) and target:
        key = dice.choice(list(target))
        if isinstance(target[key], dict) and target[key] and dice.random() < 0.5:
            target = target[key]
            continue
        kind = dice.randrange(3)
        if kind == 0:
            del target[key]
        elif kind == 1:
            target[key] = dice.choice(_VALUES)
        else:
            target[dice.choice(["type", "e", "n", "epoch", "last", "zzz"])] = dice.choice(_VALUES)
        break
    return json.dumps(value)


def _feed(side: ServerProtocol | ClientProtocol, message: str | bytes, now: float) -> list[Any]:
    if isinstance(message, str):
        return list(side.receive_text(message, now))
    return list(side.receive_bytes(message, now))


@given(seed=st.integers(0, 2**32), rate=st.sampled_from([0.05, 0.3, 1.0]))
def test_a_server_survives_mutated_clients(seed: int, rate: float) -> None:
    dice = random.Random(seed)
    pair = Pair(connect=False)
    pair.open()
    for original in UPSTREAM:
        message = _mutate(original, dice) if dice.random() < rate else original
        try:
            for item in _feed(pair.link, message, 0.0):
                if type(item).__name__ == "Hello":
                    pair._welcome(item)
            pair.link.tick(0.0)
        except ProtocolError:
            assert pair.link.close_code is not None
        while (frame := pair.link.next_frame(0.0)) is not None:
            assert isinstance(frame, bytes) or json.loads(frame)["type"]
        if pair.link.close_code is not None:  # the call goes on over a new link
            if pair.delivery is not None:
                pair.delivery.detach(pair.link, 0.0)
            pair.server = ServerProtocol(now=0.0)
    if pair.delivery is not None:
        pair.delivery.send_event(b"{}")


@given(seed=st.integers(0, 2**32), rate=st.sampled_from([0.05, 0.3, 1.0]))
def test_a_client_survives_mutated_servers(seed: int, rate: float) -> None:
    dice = random.Random(seed)
    client = ClientProtocol(input=UP, output=DOWN)
    client.connect(0.0)
    for original in DOWNSTREAM:
        message = _mutate(original, dice) if dice.random() < rate else original
        try:
            _feed(client, message, 0.0)
            client.send_audio(bytes(64))
            client.tick(0.0)
        except ProtocolError:
            assert client.close_code is not None
        while (frame := client.next_frame(0.0)) is not None:
            assert isinstance(frame, bytes) or json.loads(frame)["type"]
        if client.close_code is not None:
            client.disconnected(0.0)
            if client.over:
                return
            client.connect(0.0)


@given(st.lists(st.binary(max_size=64) | st.text(max_size=64), max_size=30))
def test_noise_is_refused(noise: list[str | bytes]) -> None:
    for pair_side in ("client", "link"):
        pair = Pair()
        for message in noise:
            side: Any = getattr(pair, pair_side)
            try:
                _feed(side, message, 0.0)
            except ProtocolError:
                break
