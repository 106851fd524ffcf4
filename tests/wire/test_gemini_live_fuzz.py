"""Mutated traffic of Gemini Live: each side takes it, or ends the link with the protocol's own code."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ProtocolError
from duologue.wire.gemini_live import ClientProtocol, Malformed, Meanings, ServerProtocol, Setup, faults, meaning
from duologue.wire.gemini_live import messages as g
from duologue.wire.gemini_live import server as s

_ROWS = [json.loads(line) for line in (Path(__file__).parent / "data" / "gemini-sdk-3.4.0.jsonl").open()]
_UP = [row["msg"] for row in _ROWS if row["dir"] == "client->server"]
_DOWN = [row["msg"] for row in _ROWS if row["dir"] == "server->client"]
_MANUAL = {"setup": {"model": "m", "realtimeInputConfig": {"automaticActivityDetection": {"disabled": True}}}}
_VALUES: list[Any] = [None, True, -1, 0, 2**64, 1.5, "", "x", "fc-1", "AAAA", "5s", [], {}, [[]], "\ud800", {"type": 1}]
_NAMES = ["x", "setup", "turnComplete", "turn_complete", "interrupted", "toolCall", "data", "activityStart"]


def _mutated(message: Any, dice: random.Random) -> str | bytes:
    """The message with a field changed, lost, added or nested, or its text cut, doubled or scrambled."""
    message = copy.deepcopy(message)
    for _ in range(dice.randrange(3)):
        target = message
        while isinstance(target, dict) and target:
            key = dice.choice(list(target))
            if isinstance(target[key], dict) and dice.random() < 0.7:
                target = target[key]
                continue
            what = dice.randrange(3)
            if what == 0:
                del target[key]
            elif what == 1:
                target[key] = copy.deepcopy(dice.choice(_VALUES))
            else:
                target[dice.choice(_NAMES)] = copy.deepcopy(dice.choice(_VALUES))
            break
    text = json.dumps(message)
    what = dice.randrange(10)
    if what == 0:
        return text[: dice.randrange(len(text) + 1)]
    if what == 1:
        return text + text
    if what == 2:
        data = bytearray(text.encode())
        data[dice.randrange(len(data))] = dice.randrange(256)
        return bytes(data)
    return text if dice.random() < 0.5 else text.encode()


def _order(frames: list[dict[str, Any]]) -> None:
    """What every client of the protocol relies on."""
    cut = False
    for number, frame in enumerate(frames):
        assert ("setupComplete" in frame) == (number == 0)
        content = frame.get("serverContent", {})
        if cut:
            assert "modelTurn" not in content, "an interrupted turn is over before another begins"
            assert "generationComplete" not in content
            assert "interrupted" not in content
        cut = (cut or "interrupted" in content) and "turnComplete" not in content


@given(st.integers(0, 2**64))
def test_the_server_survives_whatever_a_client_sends(seed: int) -> None:
    dice = random.Random(seed)
    server = ServerProtocol()
    frames: list[dict[str, Any]] = []
    for n in range(40):
        was_closed = server.close_code
        first = dice.choice([_MANUAL, _UP[0]])
        wanted = server.receive(_mutated(first if n == 0 else dice.choice(_UP[1:]), dice))
        assert not (wanted and server.close_code is not None), "what is refused has no effect"
        if was_closed is not None:
            assert server.close_code == was_closed
        if server.close_code is not None:
            assert server.close_code in (faults.INVALID, faults.TOO_BIG)
            assert len(server.close_reason.encode()) <= 123
        for request in wanted:
            if isinstance(request, s.SetUp):
                server.accept("s")
            elif isinstance(request, s.Heard):
                assert len(request.pcm) % 2 == 0
        act = dice.randrange(8)
        if act == 0:
            server.audio(bytes(2))
        elif act == 1:
            server.call([g.FunctionCall(id=f"fc-{dice.randrange(3)}", name="get_weather")])
        elif act == 2:
            server.interrupted()
        elif act == 3:
            server.turn_complete()
        elif act == 4:
            server.generated()
        while (frame := server.next_frame()) is not None:
            frames.append(json.loads(frame))
    _order(frames)


@given(st.integers(0, 2**64))
def test_the_client_survives_whatever_a_server_sends(seed: int) -> None:
    dice = random.Random(seed)
    client, meanings = ClientProtocol(Setup(model="m")), Meanings()
    client.begin()
    cut = False
    for n in range(60):
        message = client.receive(_mutated(_DOWN[0] if n == 0 and dice.random() < 0.9 else dice.choice(_DOWN), dice))
        assert message is not None
        if isinstance(message, Malformed):
            assert message.why
            continue
        for entry in meanings.take(message):
            if isinstance(entry, meaning.TurnOver):
                cut = False
            if isinstance(entry, meaning.Interrupted):
                cut = True
            assert not (cut and isinstance(entry, meaning.ModelAudio | meaning.ModelWords | meaning.Called))
            if isinstance(entry, meaning.ModelAudio):
                assert entry.pcm
                assert len(entry.pcm) % 2 == 0
                assert entry.rate > 0
        try:
            client.audio(bytes(480), n * 240)
            client.answer([g.FunctionResponse(id="fc-1", name="get_weather", response={})])
        except ProtocolError as error:
            assert error.code == "not_open"  # noqa: PT017
    server = ServerProtocol()
    while (frame := client.next_frame()) is not None:
        if '"toolResponse"' in frame:
            server.calls["fc-1"] = "get_weather"
        if server.setup is None or '"setup"' not in frame:
            server.receive(frame)
            server.accept()
    assert server.close_code is None, "a client never sends what a server must refuse"
