"""Mutated traffic of OpenAI Realtime: each side takes it, answers with the protocol's own error, or ends the link."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ProtocolError
from duologue.wire.openai_realtime import (
    Answers,
    CancelWanted,
    ClientProtocol,
    ResponseParams,
    ResponseWanted,
    ServerLimits,
    ServerProtocol,
    SessionConfig,
)

_RECORDED = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "openai-sdk-3.52.0.jsonl").read_text().splitlines()
]
_UP = [row["msg"] for row in _RECORDED if row["dir"] == "client->server"] + [
    {"type": "input_audio_buffer.commit", "event_id": "e"},
    {"type": "input_audio_buffer.clear"},
    {"type": "response.create", "response": {"metadata": {"a": "b"}, "instructions": "x"}},
    {"type": "conversation.item.delete", "item_id": "item_a1"},
]
_DOWN = [row["msg"] for row in _RECORDED if row["dir"] == "server->client"]
_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**64,
    1.5,
    "",
    "x",
    "item_a1",
    "resp_1",
    "error",
    [],
    {},
    [[]],
    "\ud800",
    {"type": 1},
]


def _mutated(message: Any, dice: random.Random) -> str | bytes:
    """The message with a field changed, lost, added or nested, or its text cut, doubled or scrambled."""
    message = json.loads(json.dumps(message))
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
                target[dice.choice(["x", "type", "event_id", "item", "session"])] = copy.deepcopy(dice.choice(_VALUES))
            break
    text = json.dumps(message)
    what = dice.randrange(8)
    if what == 0:
        return text[: dice.randrange(len(text) + 1)]
    if what == 1:
        return text + text
    if what == 2:
        data = bytearray(text.encode())
        data[dice.randrange(len(data))] = dice.randrange(256)
        return bytes(data)
    return text


@given(st.integers(0, 2**64))
def test_the_server_survives_whatever_a_client_sends(seed: int) -> None:
    dice = random.Random(seed)
    server = ServerProtocol(SessionConfig(id="s", model="m"), token="t", limits=ServerLimits(errors=20))
    answers = Answers(server)
    answer = None
    for _ in range(40):
        closed = server.close_code is not None
        wanted = server.receive(_mutated(dice.choice(_UP), dice))
        frames = []
        while (frame := server.next_frame()) is not None:
            frames.append(json.loads(frame))
        assert all(frame["event_id"] for frame in frames)
        if closed:
            assert not wanted
            assert not frames
        refused = [frame for frame in frames if frame["type"] == "error"]
        assert len(refused) <= 1
        assert not (refused and wanted), "what is refused has no effect"
        for error in refused:
            assert error["error"]["code"]
            assert error["error"]["message"]
        for want in wanted:
            if isinstance(want, ResponseWanted):
                answer = answers.begin(want.params)
                answer.text("a")
                answer.audio(bytes(2), 1)
            elif isinstance(want, CancelWanted) and answer is not None:
                answer.end("cancelled")


@given(st.integers(0, 2**64))
def test_the_client_survives_whatever_a_server_sends(seed: int) -> None:
    dice = random.Random(seed)
    client = ClientProtocol()
    asked = 0
    for n in range(60):
        client.receive(_mutated(_DOWN[0] if n == 0 and dice.random() < 0.9 else dice.choice(_DOWN), dice))
        try:
            if dice.random() < 0.3:
                client.respond(f"r{n}", ResponseParams())
            client.audio(bytes(480), n * 240)
            client.truncate("item_a1", dice.randrange(20))
        except ProtocolError as error:
            assert error.code == "not_open"  # noqa: PT017
        while (frame := client.next_frame()) is not None:
            asked += json.loads(frame)["type"] == "response.create"
        assert client.busy or not asked or not client._waiting, "what waits is asked for as soon as it may be"
