"""Hours of conversation: an hour in `make test`, a day in `make soak` (DUOLOGUE_SOAK_HOURS)."""

from __future__ import annotations

import json
import os

import pytest

from benchmarks.providers import WIRES, Wire
from tests.soak.daylong import FACT, LIFE_S, converse

HOURS = float(os.environ.get("DUOLOGUE_SOAK_HOURS", "0.5"))


def given(wire: Wire, sent: list[str]) -> int:
    """Bytes of text in the history that a connection began with, as its vendor would count them."""
    size = 0
    for message in map(json.loads, sent):
        if wire == "openai":
            if message["type"] not in ("session.update", "conversation.item.create"):
                break
            item = message.get("item", {})
            texts = [part.get("text", "") for part in item.get("content", ())]
            size += sum(len(text.encode()) for text in (*texts, item.get("arguments", ""), item.get("output", "")))
        elif wire == "gemini":
            if not message.keys() & {"setup", "clientContent"}:
                break
            parts = (part for turn in message.get("clientContent", {}).get("turns", ()) for part in turn["parts"])
            size += sum(len(part.get("text", "").encode()) for part in parts)
        else:
            if message.get("contentStart", {}).get("type") == "AUDIO":
                break
            size += sum(len(message.get(kind, {}).get("content", "").encode()) for kind in ("textInput", "toolResult"))
    return size


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("wire", WIRES)
def test_nothing_is_lost_and_nothing_is_forgotten(wire: Wire) -> None:
    outcome = converse(wire, HOURS)
    assert outcome.hours >= HOURS, outcome.errors
    assert not outcome.wrong
    assert (outcome.account.lost, outcome.account.doubled) == (0, 0)
    assert outcome.account.turns > 60 * HOURS
    assert outcome.tools > 8 * HOURS
    assert outcome.rotations >= HOURS * 3600 / LIFE_S - 1, (
        "a connection that was lost is followed by one with a whole life"
    )
    assert outcome.rotations > outcome.drops
    assert not outcome.errors
    history = "\n".join(outcome.sent)
    assert FACT in history, "the last connection was given what was told at the beginning"
    if outcome.limit is not None:
        assert 0 < given(wire, outcome.sent) <= outcome.limit, "what the connection was given to begin with"
    if HOURS >= 6:  # the history is full by then
        middle = len(outcome.rss_mb) // 2
        assert outcome.rss_mb[-1] < outcome.rss_mb[middle] + 30, outcome.rss_mb
